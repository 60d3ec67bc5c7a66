"""Files of arrays: HDF5, NumPy, NetCDF and Zarr.

No file makes another one open: HDF5 links, external and virtual values are refused. How many numbers a file says that
it holds is looked at first; what they unpack to is bounded by the process that reads, :mod:`sdpipe.correlators.apart`.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sdpipe.correlators.labelled import read_labelled
from sdpipe.correlators.record import Record, Snapshot, assemble, check_numbers, first_line, pick, said
from sdpipe.errors import UserError

if TYPE_CHECKING:
    import h5py
    import xarray as xr

INSIDE = "the numbers must be in the file itself"


def _open_hdf5(snapshot: Snapshot, kind: str) -> h5py.File:
    import h5py

    try:
        return h5py.File(io.BytesIO(snapshot.content), "r")
    except OSError as error:
        raise UserError(f"{snapshot.path}: not a readable {kind} file ({first_line(error)})") from None


def _hdf5_nodes(file: h5py.File) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """Return the datasets of a file by name, and the names that are links to elsewhere; each group is entered once."""
    import h5py

    datasets, links, groups, entered = {}, [], [("", file["/"])], set()
    while groups:
        prefix, group = groups.pop()
        entered.add(h5py.h5o.get_info(group.id).addr)
        for key in group:
            name = prefix + key
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                links.append(name)
            elif isinstance(node := group[key], h5py.Dataset):
                datasets[name] = node
            elif isinstance(node, h5py.Group) and h5py.h5o.get_info(node.id).addr not in entered:
                groups.append((f"{name}/", node))
    return datasets, sorted(links)


def _check_inside(node: h5py.Dataset, where: str) -> None:
    if node.external or node.is_virtual:
        raise UserError(f"{where}: its values are in other files; {INSIDE}")


def read_hdf5(snapshot: Snapshot, dataset: str | None) -> Record:
    """Dataset (n, T), or ``mean`` (T,) and ``cov`` (T, T) in a group or in the file itself (``/``)."""
    path = snapshot.path
    with _open_hdf5(snapshot, "HDF5") as file:
        nodes, links = _hdf5_nodes(file)
        if dataset is not None:
            dataset = dataset.strip("/") or "/"
            if any(f"{dataset}/".startswith(f"{link}/") for link in links):
                raise UserError(f"{path}: {dataset}: a link; {INSIDE}", key="dataset")
        if links and not nodes:
            raise UserError(f"{path}: {links[0]}: a link; {INSIDE}")
        name, parts = pick(dataset, nodes, path)
        for part in parts:
            _check_inside(nodes[part], f"{path}: {part}")
            check_numbers(nodes[part].dtype, nodes[part].shape, f"{path}: {part}")
        return assemble(path, name, parts, nodes, said=said(file.attrs, file[name or "/"].attrs))


def read_numpy(snapshot: Snapshot, dataset: str | None) -> Record:
    """Array (n, T); in .npz several of them by name, or one pair ``mean`` (T,) and ``cov`` (T, T)."""
    path, content = snapshot.path, io.BytesIO(snapshot.content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what makes NumPy warn makes it fail right after
            streams: dict[str, Any] = {"": content}
            if snapshot.content.startswith(b"PK"):
                archive = zipfile.ZipFile(content)
                streams = {name.removesuffix(".npy"): archive.open(name) for name in archive.namelist()}
            name, parts = pick(dataset, streams, path)
            arrays = {part: _array(streams[part], f"{path}: {part}" if part else str(path)) for part in parts}
    except UserError:
        raise
    except Exception:  # NumPy and zipfile raise whatever the bytes lead them to
        raise UserError(f"{path}: not a readable NumPy file of numbers; pickled objects are not read") from None
    return assemble(path, name, parts, arrays)


def _array(stream: Any, where: str) -> NDArray[Any]:
    """Read one array in NumPy's format, after a look at its header."""
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
    shape, _, dtype = header(stream)
    if not dtype.hasobject:
        check_numbers(dtype, shape, where)
    stream.seek(0)
    return npy.read_array(stream, allow_pickle=False)


def read_netcdf(snapshot: Snapshot, dataset: str | None) -> Record:
    """Variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2)."""
    path, engine = snapshot.path, "scipy"
    if snapshot.content.startswith(b"\x89HDF"):
        engine = "h5netcdf"
        with _open_hdf5(snapshot, "NetCDF") as file:
            nodes, links = _hdf5_nodes(file)
            if links:
                raise UserError(f"{path}: {links[0]}: a link; {INSIDE}")
            for name, node in nodes.items():
                _check_inside(node, f"{path}: {name}")
    elif not snapshot.content.startswith(b"CDF"):
        raise UserError(f"{path}: not a readable NetCDF file")
    with _opened(path, "NetCDF file", io.BytesIO(snapshot.content), engine=engine) as data:
        return read_labelled(data, dataset, path)


def read_zarr(snapshot: Snapshot, dataset: str | None) -> Record:
    """Variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2)."""
    import zarr
    from zarr.core.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    if not {"zarr.json", ".zgroup"} & snapshot.files.keys():
        raise UserError(f"{snapshot.path}: not a readable Zarr store (neither zarr.json nor .zgroup in it)")
    store = MemoryStore({name: Buffer.from_bytes(content) for name, content in snapshot.files.items()}, read_only=True)

    def check(name: str) -> None:
        """Raise UserError for a chunk, or shard, that is lost: it would read as zeros."""
        array = zarr.open_array(store, path=name, mode="r")
        steps = array.shards or array.chunks
        for chunk in np.ndindex(*(-(-n // step) for n, step in zip(array.shape, steps, strict=True))):
            file = f"{name}/{array.metadata.encode_chunk_key(chunk)}"
            if file not in snapshot.files:
                raise UserError(f"{snapshot.path}/{file}: lost; every chunk must be there: copy the store again")

    one_thread = {"async.concurrency": 1, "threading.max_workers": 1}  # each would have memory of its own
    with (
        zarr.config.set(one_thread),
        _opened(snapshot.path, "Zarr store", store, engine="zarr", consolidated=False) as data,
    ):
        return read_labelled(data, dataset, snapshot.path, check)


def _opened(path: Path, kind: str, source: Any, **how: Any) -> xr.Dataset:
    """Return what xarray opens, of which nothing is read yet."""
    import xarray as xr

    try:
        return xr.open_dataset(source, decode_times=False, create_default_indexes=False, **how)
    except Exception as error:
        raise UserError(f"{path}: not a readable {kind} ({first_line(error)})") from None
