"""Sound correlators, and how they are written in every format."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from sdpipe import read_correlator
from sdpipe.correlators.correlator import Source, load
from sdpipe.correlators.statistics import covariance_of_mean
from sdpipe.errors import UserError

PERIOD, COUNT = 16, 40


def samples(count: int = COUNT) -> np.ndarray:
    """Return configurations (cfg, t) with 1 % noise, symmetric in t and T - t but for it, correlated in t."""
    t, rng = np.arange(PERIOD), np.random.default_rng(7)
    noise = 0.01 * rng.standard_normal((count, 1)) + 0.003 * rng.standard_normal((count, PERIOD))
    return (np.exp(-0.5 * t) + np.exp(-0.5 * (PERIOD - t))) * (1 + noise)


def ar1(n: int, memory: float, count: int, seed: int = 5) -> np.ndarray:
    """Return x (n, count), x_i = a x_{i-1} + noise, of mean 0 and unit variance: tau_int = (1 + a) / (1 - a) / 2."""
    x = np.random.default_rng(seed).standard_normal((n, count))
    for i in range(1, n):
        x[i] = memory * x[i - 1] + np.sqrt(1 - memory**2) * x[i]
    return x


def jackknife(x: np.ndarray) -> np.ndarray:
    """Return the means without one configuration each."""
    return (x.sum(axis=0) - x) / (len(x) - 1)


def read(path: Any, *dataset: str, **keys: Any) -> xr.Dataset:
    """Read a file that does not say its times, which begin at 0."""
    return read_correlator(path, *dataset, first=0, **keys)


def pair(x: np.ndarray, group: str = "") -> dict[str, np.ndarray]:
    return {f"{group}mean": x.mean(axis=0), f"{group}cov": covariance_of_mean(x)}


def table(x: np.ndarray) -> np.ndarray:
    """Return rows cfg t C."""
    cfg, t = np.indices(x.shape)
    return np.stack([cfg.ravel() * 10, t.ravel(), x.ravel()], axis=1)


def labelled(x: np.ndarray, *dims: str, **attrs: Any) -> xr.Dataset:
    return xr.Dataset({"eta": (dims or ("cfg", "t"), x)}, coords={"t": np.arange(PERIOD)}, attrs=attrs)


def hdf5(path: Path, datasets: dict[str, Any], **attributes: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
            file[name].attrs.update(attributes)


def netcdf(path: Path, data: xr.Dataset) -> None:
    data.to_netcdf(path, engine="h5netcdf")


def zarr(path: Path, data: xr.Dataset) -> None:
    data.to_zarr(path, zarr_format=3, consolidated=False)


def _csv_from_windows(path: Path, x: np.ndarray) -> None:
    """As a spreadsheet saves it: column names, a byte order mark, CRLF at the end of lines, rows by time."""
    rows = sorted(table(x).tolist(), key=lambda row: row[1])
    lines = ["cfg,t,C", *(f"{int(cfg)},{int(t)},{C!r}" for cfg, t, C in rows)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")


def pyerrors(path: Path, correlator: Any) -> None:
    """Write what ``correlator`` returns for the package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pe = pytest.importorskip("pyerrors", exc_type=ImportError)
    pe.input.json.dump_to_json(correlator(pe), str(path).removesuffix(".json.gz"))


def _gvar(path: Path, x: np.ndarray, named: bool = False) -> None:
    gv = pytest.importorskip("gvar")
    eta = gv.gvar(x.mean(axis=0), covariance_of_mean(x))
    gv.gdump({"eta": eta, ("a", 1): eta * eta, "m": eta[0]} if named else eta, str(path))


FORMATS = {
    "HDF5": ("x.h5", {"dataset": "a/eta"}, lambda p, x: hdf5(p, {"a/eta": x, "a/pion": 2 * x})),
    "HDF5 jackknife": (
        "x.hdf5",
        {"dataset": "eta", "resampling": "jackknife"},
        lambda p, x: hdf5(p, {"eta": jackknife(x)}),
    ),
    "HDF5 that says so": ("x.h5", {}, lambda p, x: hdf5(p, {"eta": jackknife(x)}, resampling="jackknife")),
    "HDF5 group": ("x.h5", {"dataset": "octet(0)", "error": "mean"}, lambda p, x: hdf5(p, pair(x, "octet(0)/"))),
    "HDF5 covariance alone": ("x.h5", {"error": "mean"}, lambda p, x: hdf5(p, pair(x))),
    "HDF5 covariance of one": (
        "x.h5",
        {"error": "sample", "configurations": COUNT},
        lambda p, x: hdf5(p, pair(x) | {"cov": np.cov(x, rowvar=False)}),
    ),
    "npy": ("x.npy", {}, np.save),
    "npz": ("x.npz", {"dataset": "eta"}, lambda p, x: np.savez(p, eta=x, pion=x)),
    "npz covariance": ("x.npz", {"error": "mean"}, lambda p, x: np.savez(p, **pair(x))),
    "text": ("x.txt", {}, lambda p, x: np.savetxt(p, table(x), fmt=["%d", "%d", "%.17g"], header="cfg t C")),
    "text, one configuration a row": ("x.txt", {}, np.savetxt),
    "csv": ("x.csv", {}, _csv_from_windows),
    "csv, one configuration a row": ("x.csv", {}, lambda p, x: np.savetxt(p, x, delimiter=",")),
    "NetCDF": (
        "x.nc",
        {},
        lambda p, x: netcdf(p, labelled(x.T, "t", "cfg").assign(other=("cfg", x[:, 0]))),
    ),
    "NetCDF 3": ("x.nc", {"dataset": "eta"}, lambda p, x: labelled(x).to_netcdf(p, engine="scipy")),
    "Zarr": ("x.zarr", {}, lambda p, x: zarr(p, labelled(jackknife(x), "jack", "t"))),
    "pyerrors": (
        "x.json.gz",
        {},
        lambda p, x: pyerrors(p, lambda pe: pe.Corr([pe.Obs([column], ["B450"]) for column in x.T])),
    ),
    "pyerrors replica": (
        "x.json.gz",
        {},
        lambda p, x: pyerrors(p, lambda pe: [pe.Obs([c[:13], c[13:]], ["B450|r01", "B450|r02"]) for c in x.T]),
    ),
    "gvar": ("x.json", {}, _gvar),
    "gvar by name": ("x.json", {"dataset": "eta"}, lambda p, x: _gvar(p, x, named=True)),
}
"""Format -> name of the file, the keys that read it, and what writes configurations x (cfg, t) to a path."""


def covariance() -> np.ndarray:
    """Return a sound covariance at t = 0 .. 15, of errors 1e-3 and correlation exp(-|t - t'| / 3)."""
    t = np.arange(PERIOD)
    return 1e-6 * np.exp(-np.abs(t[:, None] - t) / 3)


def spoilt(values: np.ndarray, at: Any, value: Any) -> np.ndarray:
    values = values.copy()
    values[at] = value
    return values


def columns(rows: Any, separator: str = " ") -> str:
    return "".join(separator.join(f"{v:.10g}" for v in row) + "\n" for row in rows)


@dataclass(frozen=True)
class Bad:
    """A file ``name`` of this content, the keys by which it is read, and the fault that must be reported.

    ``content`` is text or bytes, an array or arrays by name, or a function that writes to a path.
    """

    what: str
    name: str
    content: Any
    words: str
    keys: dict[str, Any] = field(default_factory=dict)
    key: str | None = None

    def check(self, directory: Path) -> None:
        path, content = directory / self.name, self.content
        for ending, package in ((".json.gz", "pyerrors"), (".json", "gvar")):
            if self.name.endswith(ending):
                pytest.importorskip(package, exc_type=ImportError)
        if isinstance(content, (str, bytes)):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        elif callable(content):
            content(path)
        else:
            write = {".npy": partial(np.save, allow_pickle=True), ".npz": lambda p, x: np.savez(p, **x), ".h5": hdf5}
            write[path.suffix](path, content)
        with pytest.raises(UserError) as caught:
            load(Source(path, **self.keys), PERIOD, tuple(range(1, 9)))
        (fault,) = caught.value.faults
        assert fault.startswith(str(path))
        assert self.words in fault
        assert fault.isprintable()
        assert caught.value.key == self.key
