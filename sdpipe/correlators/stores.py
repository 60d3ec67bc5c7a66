"""Files of arrays: HDF5, NumPy, NetCDF and Zarr.

No file makes another one open: HDF5 links, external and virtual values are refused. No more is unpacked than a
correlator can be: how many numbers a file says that it holds is looked at first.
"""

from __future__ import annotations

import gzip
import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sdpipe.correlators.record import Record, Snapshot, check_numbers, first_line, pick, picked, real, said
from sdpipe.errors import UserError

if TYPE_CHECKING:
    import h5py

Array = NDArray[np.float64]

SAMPLE_DIMS = {"cfg": "configurations", "boot": "bootstrap", "jack": "jackknife"}
"""Dimension names by which an xarray variable says what its samples are."""


PACKERS = ("blosc", "gzip", "zlib", "zstd")
"""Codecs of Zarr whose result has a bound that is known before."""


HDF5_PACKERS = {1: "zlib", 32000: "lzf"}
"""Filters of HDF5 whose result has a bound that is known before; the first is called gzip."""


HDF5_SHUFFLE, HDF5_FLETCHER, HDF5_CHECKSUM = 2, 3, 4
"""Filters of HDF5 that order the bytes of a chunk and that add a checksum, and the bytes of that."""


MOST_HEADER = 10_012
"""Bytes of the header of an array in NumPy's format: those that NumPy takes, and what comes before them."""


ZSTD_MAGIC, CRC32C = b"\x28\xb5\x2f\xfd", 4
"""How a frame of zstd begins, and the bytes of Zarr's checksum of a chunk."""


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


def _check_chunks(node: h5py.Dataset, where: str) -> None:
    """Raise UserError where a chunk of a dataset is larger than a correlator, or unpacks to more than it says."""
    if not node.chunks:
        return
    check_numbers(node.dtype, node.chunks, f"{where}: a chunk of it")
    plist = node.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    at = next((i for i, number in enumerate(filters) if number in HDF5_PACKERS), len(filters))
    if {*filters[:at]} - {HDF5_SHUFFLE, HDF5_FLETCHER} or {*filters[at + 1 :]} - {HDF5_FLETCHER}:
        allowed = "shuffle, then gzip or lzf, then fletcher32, each or none"
        raise UserError(f"{where}: packed in a way that cannot be bounded; allowed: {allowed}")
    if not filters[at:]:
        return
    most, packer = math.prod(node.chunks) * node.dtype.itemsize + HDF5_CHECKSUM, HDF5_PACKERS[filters[at]]
    sums = HDF5_CHECKSUM * len(filters[at + 1 :])

    def check(chunk: h5py.h5d.StoreInfo) -> None:
        if not chunk.filter_mask >> at & 1:
            data = node.id.read_direct_chunk(chunk.chunk_offset)[1]
            _check_packed(packer, data[: len(data) - sums], most, where)

    node.id.chunk_iter(check)


def _check_packed(packer: str, data: bytes, most: int, where: str) -> None:
    """Raise UserError where the bytes of a chunk unpack to more than ``most``."""
    if packer == "blosc":
        size = int.from_bytes(data[4:8], "little")
    elif packer == "zstd":
        size = _zstd_size(data, most)
    elif packer == "lzf":
        size = _lzf_size(data, most)
    elif packer == "gzip":  # of several members, maybe
        with gzip.open(io.BytesIO(data)) as packed:
            size = len(packed.read(most + 1))
    else:
        size = len(zlib.decompressobj().decompress(data, most + 1))
    if size > most:
        raise UserError(f"{where}: a chunk of it unpacks to more than its {most} bytes")


def _zstd_size(data: bytes, most: int) -> int:
    """Return what one frame says that it unpacks to; more than ``most`` where it does not say or others follow it.

    RFC 8878, section 3.1.1.
    """
    flags = data[4]
    at = 5 + (not flags & 32) + (0, 1, 2, 4)[flags & 3]
    width = (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
    size, last = int.from_bytes(data[at : at + width], "little") + 256 * (width == 2), False
    at += width
    while not last:
        block = int.from_bytes(data[at : at + 3], "little")
        last, kind = at >= len(data) or bool(block & 1), block >> 1 & 3
        at += 3 + (1 if kind == 1 else block >> 3)
    return size if data.startswith(ZSTD_MAGIC) and width and at + (flags & 4) >= len(data) else most + 1


def _lzf_size(data: bytes, most: int) -> int:
    """Return what the runs and repetitions of LZF unpack to, or a number above ``most``."""
    size = at = 0
    while at < len(data) and size <= most:
        if data[at] < 32:
            length, step = data[at] + 1, data[at] + 2
        elif data[at] < 224:
            length, step = (data[at] >> 5) + 2, 2
        else:
            length, step = data[at + 1] + 9, 3
        size, at = size + length, at + step
    return size


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
            _check_chunks(nodes[part], f"{path}: {part}")
        return picked(path, name, parts, nodes, said=said(file.attrs, file[name or "/"].attrs))


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
    return picked(path, name, parts, arrays)


def _array(stream: Any, where: str) -> NDArray[Any]:
    """Read one array in NumPy's format, after a look at its header."""
    head = io.BytesIO(stream.read(MOST_HEADER))
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(head)]
    shape, _, dtype = header(head)
    if not dtype.hasobject:
        check_numbers(dtype, shape, where)
    stream.seek(0)
    return npy.read_array(stream, allow_pickle=False)


def read_netcdf(snapshot: Snapshot, dataset: str | None) -> Record:
    """Variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2)."""
    path, of_hdf5 = snapshot.path, snapshot.content.startswith(b"\x89HDF")
    if not (of_hdf5 or snapshot.content.startswith(b"CDF")):
        raise UserError(f"{path}: not a readable NetCDF file")
    if not of_hdf5:
        return _xarray(path, dataset, "NetCDF file", io.BytesIO(snapshot.content), lambda _: None, engine="scipy")
    with _open_hdf5(snapshot, "NetCDF") as file:
        nodes, links = _hdf5_nodes(file)
        if links:
            raise UserError(f"{path}: {links[0]}: a link; {INSIDE}")
        for name, node in nodes.items():
            _check_inside(node, f"{path}: {name}")

        def check(name: str) -> None:
            _check_chunks(nodes[name], f"{path}: {name}")

        return _xarray(path, dataset, "NetCDF file", io.BytesIO(snapshot.content), check, engine="h5netcdf")


def read_zarr(snapshot: Snapshot, dataset: str | None) -> Record:
    """Variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2)."""
    import zarr
    from zarr.core.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    if not {"zarr.json", ".zgroup"} & snapshot.files.keys():
        raise UserError(f"{snapshot.path}: not a readable Zarr store (neither zarr.json nor .zgroup in it)")
    store = MemoryStore({name: Buffer.from_bytes(content) for name, content in snapshot.files.items()}, read_only=True)

    def check(name: str) -> None:
        array, where = zarr.open_array(store, path=name, mode="r"), f"{snapshot.path}: {name}"
        check_numbers(array.dtype, array.chunks, f"{where}: a chunk of it")
        codecs = [_name(codec) for codec in array.compressors]
        packers = [name for name in codecs if name != "crc32c"]
        sums = CRC32C * len(codecs[codecs.index(packers[0]) + 1 :]) if packers else 0
        filters = array.filters if array.metadata.zarr_format == 2 else ()
        if array.shards or filters or len(packers) > 1 or not set(packers) <= set(PACKERS):
            allowed = f"no shards, and no codec or one of {', '.join(PACKERS)}"
            raise UserError(f"{where}: shards, or codecs that cannot be bounded; allowed: {allowed}")
        most = math.prod(array.chunks) * array.dtype.itemsize
        for chunk in np.ndindex(*(-(-n // step) for n, step in zip(array.shape, array.chunks, strict=True))):
            file = f"{name}/{array.metadata.encode_chunk_key(chunk)}"
            if file not in snapshot.files:
                raise UserError(f"{snapshot.path}/{file}: lost; every chunk must be there: copy the store again")
            for packer in packers:
                data = snapshot.files[file]
                _check_packed(packer, data[: len(data) - sums], most, where)

    return _xarray(snapshot.path, dataset, "Zarr store", store, check, engine="zarr", consolidated=False)


def _name(codec: Any) -> str:
    """Return the name of a codec of Zarr, of version 2 or 3 of its format."""
    return codec.codec_id if hasattr(codec, "codec_id") else codec.to_dict()["name"]


def _xarray(
    path: Path, dataset: str | None, kind: str, source: Any, check: Callable[[str], None], **how: Any
) -> Record:
    """Read what xarray opens; ``check`` raises UserError for a variable that must not be read."""
    import xarray as xr

    try:
        opened = xr.open_dataset(source, decode_times=False, create_default_indexes=False, **how)
    except Exception as error:
        raise UserError(f"{path}: not a readable {kind} ({first_line(error)})") from None
    with opened as data:
        arrays = {str(name): variable for name, variable in data.data_vars.items()}
        names = {name for name, variable in arrays.items() if variable.ndim == 2}
        if dataset is None and "samples" in names and "sha256" in data.attrs:  # what read_correlator returned
            dataset = "samples"
        means = {"mean"} & arrays.keys() if names & {"cov", "covariance"} else set()
        name, parts = pick(dataset, names | means, path)
        for part in [*parts, *(["t"] if "t" in data.coords else [])]:
            check_numbers(data[part].dtype, data[part].shape, f"{path}: {part}")
            check(part)
        says = said(data.attrs, arrays[name].attrs if name else {})
        if name:
            arrays[name] = arrays[name].transpose(..., "t", missing_dims="ignore")
            if (dim := arrays[name].dims[0]) in SAMPLE_DIMS:
                says["resampling"] = SAMPLE_DIMS[str(dim)]
        times = real(data["t"], f"{path}: t") if "t" in data.coords else None
        return picked(path, name, parts, arrays, times=times, said=says)
