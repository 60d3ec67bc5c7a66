"""Data files that cannot be used: exit status 2, one line with what, where and what is allowed, nothing written."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import xarray as xr

if TYPE_CHECKING:
    from tests.conftest import Outcome

Cli = Callable[..., "Outcome"]
Write = Callable[..., Path]

PERIOD = 16


def samples() -> np.ndarray:
    """Return sound configurations (cfg, t), symmetric in t and T - t, with 1 % noise."""
    t = np.arange(PERIOD)
    mean = np.exp(-0.5 * t) + np.exp(-0.5 * (PERIOD - t))
    return mean * (1 + 0.01 * np.random.default_rng(7).standard_normal((40, PERIOD)))


def mean() -> np.ndarray:
    """Return a sound mean at t = 0 .. 15."""
    return samples().mean(axis=0)


def covariance() -> np.ndarray:
    """Return a sound covariance at t = 0 .. 15, of errors 1e-3 and correlation exp(-|t - t'| / 3)."""
    t = np.arange(PERIOD)
    return 1e-6 * np.exp(-np.abs(t[:, None] - t) / 3)


def drawn(configurations: np.ndarray) -> np.ndarray:
    """Return 200 bootstrap means of configurations."""
    rows = np.random.default_rng(1).integers(len(configurations), size=(200, len(configurations)))
    return configurations[rows].mean(axis=1)


def spoilt(values: np.ndarray, at: Any, value: Any) -> np.ndarray:
    values = values.copy()
    values[at] = value
    return values


# --- what the files hold -------------------------------------------------------------------------------------


def hdf5(attributes: dict[str, Any] | None = None, **datasets: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, values in datasets.items():
                file[name.replace("__", "/")] = values
            file.attrs.update(attributes or {})

    return write


def hdf5_with(change: Callable[[h5py.File, Path], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        hdf5(eta=samples())(path)
        with h5py.File(path, "a") as file:
            change(file, path)

    return write


def cut(part: float) -> Callable[[Path], None]:
    """Write an HDF5 file of which only a part is there."""

    def write(path: Path) -> None:
        hdf5(eta=np.tile(samples(), (20, 1)))(path)
        os.truncate(path, int(part * path.stat().st_size))

    return write


def corrupted(path: Path) -> None:
    """Write an HDF5 file with a checksum for its values, and change one of them."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("eta", data=samples(), chunks=(40, 16), fletcher32=True)
        offset = data.id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(offset + 100)
        file.write(b"\xff\xff\xff")


def outside(path: Path) -> str:
    """Write a sound file beside ``path``, which must not be read."""
    other = path.with_name("secret.h5")
    hdf5(eta=samples())(other)
    return str(other)


def raw(path: Path) -> str:
    other = path.with_name("secret.bin")
    samples().tofile(other)
    return str(other)


def text(content: str | bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def columns(rows: Any, separator: str = " ") -> str:
    return "".join(separator.join(f"{v:.10g}" for v in row) + "\n" for row in rows)


def t_C_err() -> np.ndarray:
    return np.stack([np.arange(PERIOD), mean(), 0.01 * mean()], axis=1)


def cfg_t_C(values: np.ndarray | None = None) -> np.ndarray:
    values = samples() if values is None else values
    cfg, t = np.indices(values.shape)
    return np.stack([cfg.ravel() * 10, t.ravel(), values.ravel()], axis=1)


def npy(values: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, values, allow_pickle=True)


def npz(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


def labelled(name: str = "eta", dims: tuple[str, ...] = ("cfg", "t"), values: Any = None, **attrs: Any) -> xr.Dataset:
    data = samples() if values is None else values
    return xr.Dataset({name: (dims, data)}, coords={"t": np.arange(data.shape[-1])}, attrs=attrs)


def netcdf(dataset: xr.Dataset) -> Callable[[Path], None]:
    return lambda path: dataset.to_netcdf(path, engine="h5netcdf")


def zarr_objects(path: Path) -> None:
    """Write a Zarr store whose values are unpickled when read."""
    path.mkdir()
    (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    (path / "eta").mkdir()
    meta = {"shape": [2, 2], "chunks": [2, 2], "dtype": "|O", "fill_value": 0, "order": "C", "zarr_format": 2}
    meta |= {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None}
    (path / "eta" / ".zarray").write_text(json.dumps(meta))
    (path / "eta" / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["cfg", "t"]}))


def gvar_json(**content: Any) -> Callable[[Path], None]:
    whole = {"means": [1.0], "bcovs": [[[], [], [], []]], "bufsize": 1, "fix_cov": False, "shape": [1], **content}
    return text(json.dumps(whole))


# --- the table -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """A file ``name`` that ``write`` makes, the keys by which it is read, and the fault that must be reported."""

    what: str
    name: str
    write: Callable[[Path], Any]
    words: str
    key: str = "path"
    keys: str = ""


def h5(what: str, write: Callable[[Path], Any], words: str, key: str = "path", keys: str = "dataset: eta") -> Bad:
    return Bad(what, "data.h5", write, words, key, keys)


def txt(what: str, content: str | bytes, words: str, key: str = "path", keys: str = "covariance: diagonal") -> Bad:
    return Bad(what, "data.txt", text(content), words, key, keys)


X = samples()
PAIR = {"g__mean": mean(), "g__cov": covariance()}
BOTH = "dataset: g, error: mean"
CODE = "__import__('os').mkdir('HACKED')"
T_C_ERR, CFG_T_C = columns(t_C_err()), columns(cfg_t_C())

BAD = [
    # files
    Bad("no file", "data.h5", lambda _: None, "no such file"),
    Bad("a directory", "data.h5", lambda path: path.mkdir(), "not a regular file"),
    Bad("a device", "data.h5", os.mkfifo, "not a regular file"),
    Bad("unknown ending", "data.root", text("x"), "allowed endings of the name: .h5, .hdf5, .npy"),
    # HDF5
    h5("text", text("no HDF5 at all"), "not a readable HDF5 file"),
    h5("cut to 90 %", cut(0.9), "not a readable HDF5 file"),
    h5("cut to the header", cut(0.01), "not a readable HDF5 file"),
    h5("a wrong checksum", corrupted, "damaged"),
    h5("no such dataset", hdf5(g__x=X, pion=X), "there is no dataset 'eta'; those there: g/x, pion", "dataset"),
    h5("which dataset", hdf5(a=X, b=X), "say which dataset to read; those there: a, b", "dataset", ""),
    h5("empty", hdf5(eta=X[:0]), "the dataset is empty"),
    h5("one configuration", hdf5(eta=X[:1]), "at least 2 are needed"),
    h5("one dimension", hdf5(eta=X[0]), "it must be (configurations, times)"),
    h5("three dimensions", hdf5(eta=X[None]), "it must be (configurations, times)"),
    h5("complex", hdf5(eta=X + 0j), "values must be real numbers, not complex128"),
    h5("text values", hdf5(eta=[[b"a", b"b"]] * 3), "values must be real numbers"),
    h5("objects", hdf5_with(lambda f, _: f.create_dataset("o", (3, 3), h5py.string_dtype())), "real numbers",
       keys="dataset: o"),
    h5("NaN", hdf5(eta=spoilt(X, (3, 5), np.nan)), "eta: value nan at index (3, 5); all values must be finite"),
    h5("infinity", hdf5(eta=spoilt(X, (0, 1), -np.inf)), "eta: value -inf at index (0, 1)"),
    h5("zero variance", hdf5(eta=spoilt(X, (slice(None), 2), 1.0)), "t = 2 is the same in every sample"),
    h5("a configuration twice", hdf5(eta=spoilt(X, 7, X[3])), "rows 3 and 7 are the same; each configuration counts"),
    h5("T too small", hdf5(eta=X[:, :5]), "5 time slices, 0..4, but lattice.period 16"),
    h5("T too large", hdf5(eta=np.tile(X, 2)), "32 time slices, 0..31, but lattice.period 16"),
    h5("antisymmetric", hdf5(eta=X * np.sign(7.5 - np.arange(16))), "C(T - t) = -C(t), but the kernel needs"),
    h5("fewer samples than times", hdf5(eta=X[:6]), "6 samples do not determine a covariance of 8", "covariance"),
    h5("as many as times", hdf5(eta=X[:8]), "allowed remedies: covariance: shrink or diagonal", "covariance"),
    h5("bins too large", hdf5(eta=X), "bin: 30 leaves 1 of 40 configurations", "bin", "dataset: eta, bin: 30"),
    h5("few bins", hdf5(eta=X), "5 samples do not determine", "covariance", "dataset: eta, bin: 8"),
    h5("bins of bootstrap samples", hdf5(eta=X), "bin: 2 needs configurations", "bin",
       "dataset: eta, resampling: bootstrap, bin: 2"),
    h5("shrinkage of bootstrap samples", hdf5(eta=X), "shrink needs configurations", "covariance",
       "dataset: eta, resampling: bootstrap, covariance: shrink"),
    h5("another resampling", hdf5({"resampling": "bootstrap"}, eta=X), "jackknife, but the file itself says bootstrap",
       "resampling", "dataset: eta, resampling: jackknife"),
    h5("a resampling of its own", hdf5({"resampling": "subsets"}, eta=X), "the file says resampling: subsets; allowed:",
       "resampling"),
    h5("an error of samples", hdf5(eta=X), "error is for a mean with its errors", "error", "dataset: eta, error: mean"),
    h5("bootstrap samples of few", hdf5(eta=drawn(X[:8]).astype("f4")), "not positive definite (lowest eigenvalue",
       "covariance", "dataset: eta, resampling: bootstrap"),
    h5("bootstrap samples of said few", hdf5({"configurations": 8}, eta=drawn(X)), "8 configurations do not determine",
       "covariance", "dataset: eta, resampling: bootstrap"),
    h5("external link", hdf5_with(lambda f, p: f.__setitem__("x", h5py.ExternalLink(outside(p), "/eta"))),
       "a link; the numbers must be in the file itself", "dataset", "dataset: x"),
    h5("through an external link", hdf5_with(lambda f, p: f.__setitem__("x", h5py.ExternalLink(outside(p), "/"))),
       "a link; the numbers must be in the file itself", "dataset", "dataset: x/eta"),
    h5("soft link", hdf5_with(lambda f, _: f.__setitem__("x", h5py.SoftLink("/eta"))), "a link", "dataset",
       "dataset: x"),
    h5("external values", hdf5_with(lambda f, p: f.create_dataset("x", X.shape,
       "f8", external=[(raw(p), 0, X.nbytes)])),
       "its values are in other files", keys="dataset: x"),
    h5("virtual", hdf5_with(lambda f, p: f.create_virtual_dataset("x", virtual(p))), "in other files",
       keys="dataset: x"),
    # mean and covariance
    h5("mean without a word", hdf5(**PAIR), "those of the mean, or those of one configuration", "error", "dataset: g"),
    h5("of one of how many", hdf5(**PAIR), "needs configurations: n", "configurations", "dataset: g, error: sample"),
    h5("another error", hdf5({"error": "sample"}, **PAIR), "error: mean, but the file itself says sample",
       "error", BOTH),
    h5("bins of a mean", hdf5(**PAIR), "bin is for samples", "bin", BOTH + ", bin: 2"),
    h5("resampling of a mean", hdf5(**PAIR), "resampling is for samples",
       "resampling", BOTH + ", resampling: bootstrap"),
    h5("shrinkage of a covariance", hdf5(**PAIR), "shrink needs samples", "covariance", BOTH + ", covariance: shrink"),
    h5("negative eigenvalue", hdf5(g__mean=mean(), g__cov=spoilt(covariance(), ([2, 3], [3, 2]), 2e-6)),
       "not positive semi-definite (lowest eigenvalue", "covariance", BOTH),
    h5("negative variance", hdf5(g__mean=mean(), g__cov=-covariance()), "variance -1e-06 at t = 0", keys=BOTH),
    h5("not symmetric", hdf5(g__mean=mean(), g__cov=spoilt(covariance(), (2, 3), 0)), "not symmetric", keys=BOTH),
    h5("singular", hdf5(g__mean=mean(), g__cov=np.full((16, 16), 1e-6)), "not positive definite", "covariance", BOTH),
    h5("singular in single precision", hdf5(g__mean=mean(), g__cov=np.cov(X[:8].T).astype("f4")),
       "not positive definite", "covariance", BOTH),
    h5("no number of configurations", hdf5({"configurations": "many"}, **PAIR), "many; it must be a whole number",
       "configurations", BOTH),
    h5("of another size", hdf5(g__mean=mean(), g__cov=covariance()[:, 1:]), "needed (T,) and (T, T)", keys=BOTH),
    h5("no covariance", hdf5(g__mean=mean()), "there is no dataset 'g'; those there: g/mean", "dataset", BOTH),
    h5("zero mean", hdf5(g__mean=0 * mean(), g__cov=covariance()), "zero at t_ref = 1", keys=BOTH),
    # text
    txt("empty text", "", "no numbers in it; needed columns t C err, or cfg t C"),
    txt("no UTF-8", b"\xff\xfe1\x00", "not a text file in UTF-8"),
    txt("words", "1 2 3\nwhat is this\n", "data.txt:2: 'what is this' is not three numbers"),
    txt("comma decimals", columns(t_C_err()).replace(".", ","), "decimals are written with a point"),
    txt("semicolons", columns(t_C_err(), ";"), "columns are separated by blanks"),
    txt("two columns", columns(t_C_err()[:, :2]), "data.txt:1: 2 columns; needed t C err, or cfg t C"),
    txt("NaN in a line", "0 1 0.1\n1 nan 0.1\n", "data.txt:2: '1 nan 0.1'; all values must be finite"),
    txt("infinity in a line", "0 1 0.1\n1 inf 0.1\n", "data.txt:2: '1 inf 0.1'; all values must be finite"),
    txt("times fall", columns(t_C_err()[::-1]), "t = 14 comes after t = 15; times must ascend"),
    txt("a time twice", columns(np.repeat(t_C_err(), 2, axis=0)),
        "t = 0 comes after t = 0; times must ascend, each once"),
    txt("half times", columns(t_C_err() * [0.5, 1, 1]), "t = 0.5; times are whole numbers"),
    txt("negative times", columns(t_C_err() - [1, 0, 0]), "t = -1; times must not be negative"),
    txt("a time is missing", columns(np.delete(t_C_err(), 3, axis=0)), "t = 3 is missing; those there: 0, 1, 2, 4"),
    txt("negative error", columns(t_C_err() * [1, 1, -1]), "data.txt:1: error -0.00998658; it must be positive"),
    txt("no word on errors", T_C_ERR, "those of the mean, or those of one configuration", "error"),
    txt("no correlations", T_C_ERR, "allowed: covariance: diagonal", "covariance", "error: mean"),
    txt("zero error", columns(t_C_err() * [1, 1, 0]), "variance 0 at t = 1", keys="covariance: diagonal, error: mean"),
    txt("a name for it", T_C_ERR, "holds one correlator; leave dataset out", "dataset", "dataset: eta"),
    txt("a time of one configuration is missing", columns(np.delete(cfg_t_C(), 20, axis=0)),
        "configuration 10 has t = 4 0 times; needed: once", keys=""),
    txt("a time of one configuration twice", CFG_T_C + "10 4 0.1\n", "configuration 10 has t = 4 2 times", keys=""),
    txt("configuration twice in text", columns(cfg_t_C(spoilt(X, 7, X[3]))), "rows 3 and 7 are the same", keys=""),
    Bad("comma decimals in csv", "data.csv", text(columns(t_C_err(), ";").replace(".", ",")), "in .csv by commas"),
    # NumPy
    Bad("pickled array", "data.npy", npy(np.array([{}, {}])), "not a readable NumPy file"),
    Bad("no array", "data.npy", text("x"), "not a readable NumPy file"),
    Bad("a mean alone", "data.npy", npy(mean()), "it must be (configurations, times)"),
    Bad("boolean", "data.npy", npy(X > 0), "values must be real numbers, not bool"),
    Bad("which array", "data.npz", npz(a=X, b=X), "say which dataset to read; those there: a, b", "dataset"),
    Bad("no such array", "data.npz", npz(a=X), "there is no dataset 'eta'; those there: a", "dataset", "dataset: eta"),
    Bad("pickled arrays", "data.npz", npz(a=np.array([{}])), "not a readable NumPy file"),
    # xarray
    Bad("no NetCDF", "data.nc", text("x"), "not a readable NetCDF file"),
    Bad("cut NetCDF", "data.nc", text(b"\x89HDF\r\n\x1a\n"), "not a readable NetCDF file"),
    Bad("half times in NetCDF", "data.nc", netcdf(labelled().assign_coords(t=np.arange(16) / 2)), "whole numbers"),
    Bad("NetCDF says bootstrap", "data.nc", netcdf(labelled(dims=("boot", "t"))), "the file itself says bootstrap",
        "resampling",
        "resampling: configurations"),
    Bad("link in NetCDF", "data.nc", lambda p: (netcdf(labelled())(p), link(p)),
        "a link; the numbers must be in the file"),
    Bad("NetCDF with external data", "data.nc", lambda p: (netcdf(labelled())(p), add_external(p)),
        "its values are in other files"),
    Bad("NetCDF with virtual data", "data.nc", lambda p: (netcdf(labelled())(p), add_virtual(p)),
        "its values are in other files"),
    Bad("no Zarr", "data.zarr", lambda path: path.mkdir(), "not a readable Zarr store"),
    Bad("a file for a store", "data.zarr", text("x"), "not a directory"),
    Bad("Zarr of objects", "data.zarr", zarr_objects, "not a readable Zarr store"),
    # pyerrors and gvar
    Bad("no gzip", "data.json.gz", text("x"), "not a readable pyerrors file"),
    Bad("no pyerrors", "data.json.gz", text(gzip.compress(b"{}")), "not a readable pyerrors file"),
    Bad("no gvar", "data.json", text("{}"), "not a readable gvar file"),
    Bad("code in gvar", "data.json", gvar_json(keys=f"[{CODE}]", layouts=[[[0, 1, None], [1]]]), "not a readable gvar"),
    Bad("code in old gvar", "data.json", gvar_json(tag=["json", "dict"], gmean=[[CODE, 1]], gcov=[[1]], bcovs=None),
        "not a readable gvar file"),
    Bad("one number of gvar", "data.json", gvar_json(shape=[]), "needed one value a time, (T,)"),
]  # fmt: skip


def virtual(path: Path) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(X.shape, "f8")
    layout[:] = h5py.VirtualSource(outside(path), "eta", X.shape)
    return layout


def add_external(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset("x", X.shape, "f8", external=[(raw(path), 0, X.nbytes)])


def add_virtual(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("x", virtual(path))


def link(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["x"] = h5py.ExternalLink(outside(path), "/eta")


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.what)
def test_a_file_that_cannot_be_used(cli: Cli, tiny_text: str, tmp_path: Path, monkeypatch: Any, bad: Bad) -> None:
    for name, package in ((".json.gz", "pyerrors"), (".json", "gvar")):
        if bad.name.endswith(name):
            pytest.importorskip(package, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / bad.name
    bad.write(path)
    config = tmp_path / "bad.yaml"
    entry = f"  mine: {{kind: correlator, path: {bad.name}{', ' if bad.keys else ''}{bad.keys}}}\n"
    config.write_text(tiny_text.replace("targets:\n", "targets:\n" + entry))
    line = config.read_text().splitlines().index(entry.rstrip()) + 1
    before = sorted(tmp_path.iterdir())
    fault = cli("run", "bad.yaml").fault
    assert fault.startswith(f"error: bad.yaml:{line}: targets.mine.{bad.key}: {path}")
    assert bad.words in fault
    assert fault.isprintable()
    assert sorted(tmp_path.iterdir()) == before


def test_there_are_enough_of_them() -> None:
    assert len({bad.what for bad in BAD}) == len(BAD) >= 40
