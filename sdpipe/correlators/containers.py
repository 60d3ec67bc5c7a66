"""Correlators in files that hold arrays: HDF5, NumPy, NetCDF and Zarr.

Nothing here runs code, or opens another file, because the file it reads says so: pickles, object arrays and
HDF5 links are refused.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.lib.npyio import NpzFile

from sdpipe.correlators.records import Array, Record, choose, first_line, pair, real, said
from sdpipe.errors import UserError

SAMPLE_DIMS = {
    "cfg": "configurations",
    "boot": "bootstrap",
    "jack": "jackknife",
}
"""Dimension names by which an xarray variable says what its samples are."""


def hdf5(path: Path, dataset: str | None) -> Record:
    """Dataset (n, T), or ``mean`` (T,) and ``cov`` (T, T) in a group or in the file itself (``/``)."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path}: not a readable HDF5 file ({first_line(error)})") from None
    with file:
        links: dict[str, Any] = {}
        file.visititems_links(lambda name, link: links.update({name: link}))
        own = {n for n, link in links.items() if isinstance(link, h5py.HardLink)}
        if dataset is not None:
            dataset = dataset.strip("/")
            parts = dataset.split("/")
            if any("/".join(parts[: i + 1]) in links.keys() - own for i in range(len(parts))):
                raise UserError(f"{path}: {dataset}: a link; the numbers must be in the file itself", key="dataset")
        if not dataset and (both := pair(n for n in own if "/" not in n)):
            mean, cov = (_hdf5_array(file[part], f"{path}: {part}") for part in both)
            return Record(str(path), mean=mean, covariance=cov, said=said(file.attrs), stored=file[both[1]].dtype)
        groups = {n for n in own if file.get(n, getclass=True) is h5py.Group}
        pairs = {g: both for g in groups if (both := pair(n[len(g) + 1 :] for n in own if n.startswith(g + "/")))}
        single = own - groups - {f"{g}/{part}" for g, both in pairs.items() for part in both}
        if not (single or pairs) and (elsewhere := sorted(links.keys() - own)):
            raise UserError(f"{path}: {elsewhere[0]}: a link; the numbers must be in the file itself")
        name = choose(dataset, [*single, *pairs], path)
        where, says = f"{path}: {name}", said({**file.attrs, **file[name].attrs})
        if name in pairs:
            mean, cov = (_hdf5_array(file[f"{name}/{part}"], f"{where}/{part}") for part in pairs[name])
            stored = file[f"{name}/{pairs[name][1]}"].dtype
            return Record(where, mean=mean, covariance=cov, said=says, stored=stored)
        return Record(where, samples=_hdf5_array(file[name], where), said=says, stored=file[name].dtype)


def _hdf5_array(node: h5py.Dataset, where: str) -> Array:
    if node.external or node.is_virtual:
        raise UserError(f"{where}: its values are in other files; the numbers must be in the file itself")
    if node.dtype.kind not in "fiu":
        raise UserError(f"{where}: values must be real numbers, not {node.dtype}")
    try:
        return real(node[()], where)
    except OSError as error:
        raise UserError(f"{where}: damaged ({first_line(error)})") from None


def npy(path: Path, _dataset: None) -> Record:
    """Array (n, T)."""
    with path.open("rb") as stream:
        array = np.asarray(_load(stream, path))
    return Record(str(path), samples=real(array, str(path)), stored=array.dtype)


def npz(path: Path, dataset: str | None) -> Record:
    """Arrays (n, T), or one pair ``mean`` (T,) and ``cov`` (T, T)."""
    with path.open("rb") as stream:
        arrays = _load(stream, path)
    both = pair(arrays)
    if both and dataset is None:
        mean, cov = (real(arrays[n], f"{path}: {n}") for n in both)
        return Record(str(path), mean=mean, covariance=cov, stored=arrays[both[1]].dtype)
    where = f"{path}: {(name := choose(dataset, arrays, path))}"
    return Record(where, samples=real(arrays[name], where), stored=arrays[name].dtype)


def _load(stream: BinaryIO, path: Path) -> Any:
    """Return the array of a .npy stream, or the arrays by name of an .npz one; NumPy leaves it open where it fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what makes NumPy warn makes it fail right after
            content = np.load(stream, allow_pickle=False)
            return {n: content[n] for n in content.files} if isinstance(content, NpzFile) else content
    except Exception:  # NumPy and zipfile raise whatever the bytes lead them to
        raise UserError(f"{path}: not a readable NumPy file of numbers; pickled objects are not read") from None


def netcdf(path: Path, dataset: str | None) -> Record:
    """Variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2)."""
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic == b"\x89HDF":
        _refuse_links(path)
    elif magic[:3] != b"CDF":
        raise UserError(f"{path}: not a readable NetCDF file")
    return _labelled(path, dataset, "NetCDF file", engine="h5netcdf" if magic == b"\x89HDF" else "scipy")


def _refuse_links(path: Path) -> None:
    """Raise UserError where a NetCDF file leads to other places: links, external and virtual datasets."""
    elsewhere: list[str] = []

    def link(name: str, kind: Any) -> None:
        if not isinstance(kind, h5py.HardLink):
            elsewhere.append(f"{name}: a link")

    def node(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            elsewhere.append(f"{name}: its values are in other files")

    try:
        with h5py.File(path, "r") as file:
            file.visititems_links(link)
            file.visititems(node)
    except OSError as error:
        raise UserError(f"{path}: not a readable NetCDF file ({first_line(error)})") from None
    if elsewhere:
        raise UserError(f"{path}: {elsewhere[0]}; the numbers must be in the file itself")


def zarr_store(path: Path, dataset: str | None) -> Record:
    """Variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2)."""
    return _labelled(path, dataset, "Zarr store", engine="zarr", consolidated=False)


def _labelled(path: Path, dataset: str | None, kind: str, **how: Any) -> Record:
    import xarray as xr

    try:
        with xr.open_dataset(path, decode_times=False, **how) as file:
            data = file.load()
    except Exception as error:
        raise UserError(f"{path}: not a readable {kind} ({first_line(error)})") from None
    times = real(data["t"].values, f"{path}: t") if "t" in data.coords else None
    names = [str(n) for n, v in data.data_vars.items() if v.ndim == 2]
    if dataset is None and "samples" not in data and (both := pair(map(str, data.data_vars))):
        mean, cov = (real(data[n].values, f"{path}: {n}") for n in both)
        stored = data[both[1]].dtype
        return Record(str(path), mean=mean, covariance=cov, times=times, said=said(data.attrs), stored=stored)
    name = choose("samples" if dataset is None and "samples" in names else dataset, names, path)
    variable = data[name]
    if "t" in variable.dims:
        variable = variable.transpose(..., "t")
    says = said({**data.attrs, **variable.attrs})
    if variable.dims[0] in SAMPLE_DIMS:
        says["resampling"] = SAMPLE_DIMS[str(variable.dims[0])]
    where = f"{path}: {name}"
    return Record(where, samples=real(variable.values, where), times=times, said=says, stored=variable.dtype)
