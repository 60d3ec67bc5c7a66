"""Correlator files: one result whatever the format, from bytes read once; and files that cannot be used."""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import xarray as xr

from sdpipe import read_correlator
from sdpipe.correlators import child, formats
from sdpipe.correlators.correlator import Source, load
from sdpipe.correlators.statistics import bootstrap, covariance_of_mean
from sdpipe.errors import UserError
from tests.correlators.files import (
    FORMATS,
    PERIOD,
    Bad,
    ar1,
    columns,
    covariance,
    hdf5,
    labelled,
    netcdf,
    pyerrors,
    read,
    samples,
    spoilt,
    table,
    zarr,
)
from tests.fixtures import HANGING

X = samples()
MEAN = X.mean(axis=0)


def written(directory: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """Write X in one of FORMATS; return the file and the keys that read it."""
    name, keys, write = FORMATS[kind]
    write(directory / name, X)
    return directory / name, keys


# --- one result, whatever the format -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_mean_and_covariance(tmp_path: Path, kind: str) -> None:
    path, keys = written(tmp_path, kind)
    data = read(path, **keys, **({} if "error" in keys or "gvar" in kind else {"bin": 1}))
    error = np.sqrt(np.diag(covariance_of_mean(X)))
    assert list(data.t.values) == list(range(PERIOD))
    np.testing.assert_allclose(data["mean"], MEAN, rtol=1e-12)
    np.testing.assert_allclose(data.covariance / np.outer(error, error), np.corrcoef(X.T), atol=1e-9)
    assert data.covariance.dims == ("t", "t2")
    assert data.attrs["flags"] == []
    if data.attrs["resampling"] != "none":
        np.testing.assert_allclose(data.samples, X, rtol=1e-9)
        assert data.samples.dims == ("cfg", "t")
        assert data.attrs["configurations"] == len(X)


@pytest.mark.parametrize(
    ("name", "keys", "write"),
    [
        ("x.h5", {"resampling": "bootstrap"}, lambda path, x: hdf5(path, {"eta": x})),
        ("x.npy", {"resampling": "bootstrap"}, np.save),
        ("x.nc", {}, lambda path, x: netcdf(path, labelled(x, "boot", "t"))),
        ("x.zarr", {}, lambda path, x: zarr(path, labelled(x, "boot", "t"))),
    ],
)
def test_bootstrap_samples_keep_their_spread(tmp_path: Path, name: str, keys: dict[str, Any], write: Callable) -> None:
    """Their standard deviation is the error of the mean: no factor sqrt(n)."""
    boots = bootstrap(X, 1000, 1, "eta")
    write(tmp_path / name, boots)
    c = load(Source(tmp_path / name, **keys), first=0)
    assert c.dim == "boot"
    assert np.sqrt(np.diag(c.covariance)) == pytest.approx(np.sqrt(np.diag(covariance_of_mean(X))), rel=0.15)
    assert np.array_equal(c.bootstrap(17, 1, "x"), boots)


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("name", ["again.nc", "again.zarr"])
def test_the_result_saved_with_xarray_reads_back(tmp_path: Path, name: str, size: int | None) -> None:
    data = read(written(tmp_path, "npy")[0], bin=size, covariance="shrink")
    (zarr if name.endswith("zarr") else netcdf)(tmp_path / name, data)
    again = read(tmp_path / name, bin=size and 1, covariance="shrink")
    np.testing.assert_array_equal(again.samples, data.samples)
    np.testing.assert_allclose(again.covariance, data.covariance, rtol=1e-12)


def gamma_errors(correlator: Any) -> np.ndarray:
    """Return the errors (t,) that pyerrors itself gives a Corr."""
    correlator.gamma_method(S=1.5)
    return np.array([e[0].dvalue for e in correlator.content])


@pytest.mark.parametrize("kind", ["raw", "derived", "two ensembles", "two ensembles and an input with errors"])
def test_a_corr_of_pyerrors_has_the_errors_of_its_gamma_method(tmp_path: Path, kind: str) -> None:
    slow, fast, made = ar1(1000, 0.9, 1) + 0.3 * ar1(1000, 0.5, 4), ar1(500, 0.0, 4, seed=2), []

    def build(pe: Any) -> Any:
        raw = pe.Corr([pe.Obs([20 + column], ["A"]) for column in slow.T])
        other = pe.Corr([pe.Obs([30 + 0.2 * column], ["B"]) for column in fast.T])
        both = raw + other
        scaled = both * pe.cov_Obs(1.5, 1e-4, "Z")
        made.append(dict(zip(kinds, (raw, (raw * raw).log(), both, scaled), strict=True))[kind])
        return made[0]

    kinds = ("raw", "derived", "two ensembles", "two ensembles and an input with errors")
    pyerrors(tmp_path / "x", build)
    data = read(tmp_path / "x.json.gz")
    np.testing.assert_allclose(np.sqrt(np.diag(data.covariance)), gamma_errors(made[0]), rtol=1e-4)
    np.testing.assert_allclose(data["mean"], [e[0].value for e in made[0].content], rtol=1e-12)
    assert ("samples" in data) == (kind in ("raw", "derived"))
    np.testing.assert_allclose(read(made[0]).covariance, data.covariance, rtol=1e-9)


def test_each_ensemble_weighs_in_the_covariance_with_its_own_memory(tmp_path: Path) -> None:
    """Slow in A, one for all times; fast in B, one for each; of one size: correlation 0.5 in one configuration."""
    slow, fast = ar1(4000, 0.9, 1)[:, 0], ar1(4000, 0.0, 3, seed=2)
    pyerrors(tmp_path / "x", lambda pe: [pe.Obs([slow], ["A"]) + pe.Obs([column], ["B"]) for column in fast.T])
    cov = read(tmp_path / "x.json.gz").covariance.values
    assert np.diag(cov) == pytest.approx((19 + 1) / 4000 * np.ones(3), rel=0.4)
    assert cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]) == pytest.approx(19 / 20, abs=0.03)


def test_an_element_of_a_matrix_of_correlators_is_read_by_its_indices(tmp_path: Path) -> None:
    x = X[:, :3]

    def build(pe: Any) -> Any:
        return pe.Corr(np.array([[element(pe, 1 + i + j) for j in (0, 1)] for i in (0, 1)]))

    def element(pe: Any, factor: int) -> Any:
        return pe.Corr([pe.Obs([factor * column], ["A"]) for column in x.T])

    pyerrors(tmp_path / "x", build)
    for name, factor in (("0,0", 1), ("0,1", 2), ("1,1", 3)):
        np.testing.assert_allclose(read(tmp_path / "x.json.gz", name)["mean"], factor * x.mean(axis=0))
    with pytest.raises(UserError, match=r"a 2 x 2 matrix of correlators: say component: \[i, j\], or gevp"):
        read(tmp_path / "x.json.gz")


@pytest.mark.parametrize("name", ["eta", "pi"])
def test_a_file_for_the_datasets_of_gvar_is_read_by_name_as_gvar_reads_it(tmp_path: Path, name: str) -> None:
    gv, path = pytest.importorskip("gvar"), tmp_path / "x.dat"
    rows = [f"eta {' '.join(map(str, row))}\npi {(2 * row).tolist()}" for row in X]
    path.write_text("# of two mesons\n" + "\n".join(rows))
    data = read(path, name, bin=1)
    values = gv.dataset.avg_data(gv.dataset.Dataset(str(path)))[name]
    np.testing.assert_allclose(data["mean"], gv.mean(values), rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(np.diag(data.covariance)), gv.sdev(values), rtol=0.02)


@pytest.mark.parametrize("line", ["{t} {C:.6f}({e:.0f})", "{t} {C:.6f} {s:.6g} {s:.6g}", "{t} {m:.6f}({e:.0f})e-3"])
def test_errors_in_brackets_and_beside_complex_numbers_are_read(tmp_path: Path, line: str) -> None:
    errors = 20.0 + np.arange(PERIOD)
    text = [
        line.format(t=t, C=C, e=e, s=1e-6 * e, m=1e3 * C) for t, (C, e) in enumerate(zip(MEAN, errors, strict=True))
    ]
    (tmp_path / "x.txt").write_text("\n".join(["t re im err", *text]))
    data = read_correlator(tmp_path / "x.txt", error="mean", covariance="diagonal")
    np.testing.assert_allclose(data["mean"], MEAN, atol=1e-6)
    unit = 1e-9 if line.endswith("e-3") else 1e-6
    np.testing.assert_allclose(np.sqrt(np.diag(data.covariance)), unit * errors, rtol=1e-9)


def test_a_pair_beside_samples_is_read_where_the_choice_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"mean": MEAN, "cov": covariance(), "samples": X})
    assert "samples" not in read(tmp_path / "x.npz", "/", error="mean")
    assert read(tmp_path / "x.npz", "samples").sizes["cfg"] == len(X)


def test_what_a_session_holds_is_read_like_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    expected = read(tmp_path / "x.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pe = pytest.importorskip("pyerrors", exc_type=ImportError)
    obs = [pe.Obs([column], ["A"]) for column in X.T]
    for values, keys in ((X, ()), (X.tolist(), ()), ({"eta": X, "pi": 2 * X}, ("eta",)), (obs, ()), (pe.Corr(obs), ())):
        data = read(values, *keys)
        xr.testing.assert_allclose(data.drop_attrs(), expected.drop_attrs(), rtol=1e-9)
        assert data.attrs["path"] == "FILE"
        assert len(data.attrs["sha256"]) == 64
    cov, gv = covariance_of_mean(X), pytest.importorskip("gvar")
    eta = gv.gvar(MEAN, cov)
    for values, keys in ((eta, {}), ({"eta": list(eta)}, {}), ({"mean": MEAN, "cov": cov}, {"error": "mean"})):
        data = read(values, **keys)
        np.testing.assert_allclose(data["mean"], MEAN, rtol=1e-12)
        np.testing.assert_allclose(data.covariance, cov, rtol=1e-9, atol=1e-18)
    for values, words in (
        ([[1, 2], [3]], "rows of different lengths"),
        (X + 0j, "real numbers"),
        (None, "NoneType of"),
    ):
        with pytest.raises(UserError, match=words):
            read(values)
    with pytest.raises(UserError, match="say which dataset to read; those there: eta, pi"):
        read({"eta": X, "pi": X})


LABELLED = xr.DataArray(X, dims=("cfg", "t"), coords={"t": np.arange(PERIOD) + 3})
PAIR = {
    "mean": LABELLED.mean("cfg"),
    "cov": xr.DataArray(covariance(), dims=("t", "t2"), coords={"t": LABELLED.t, "t2": LABELLED.t.values}),
}


@pytest.mark.parametrize(
    "values",
    [
        LABELLED,
        LABELLED.T,
        LABELLED.T.rename(t="slice").assign_coords(t=("slice", LABELLED.t.values)),
        LABELLED.T.to_dataset(name="eta"),
        {"eta": LABELLED.T},
        LABELLED.T.to_pandas(),
    ],
)
def test_labels_in_a_session_say_what_they_say_in_a_file(values: Any) -> None:
    """A square array whose dimensions were not looked at would be read transposed, without a word."""
    data = read_correlator(values)
    assert data.t.values.tolist() == list(range(3, 3 + PERIOD))
    np.testing.assert_array_equal(data.samples, X)
    assert data.samples.dims == ("cfg", "t")


def test_a_dimension_says_what_its_samples_are_in_a_session_too() -> None:
    for values in (LABELLED.rename(cfg="jack"), LABELLED.rename(cfg="jack").T):
        assert read_correlator(values).attrs["resampling"] == "jackknife"
    boots = xr.DataArray(bootstrap(X, 200, 1, "x"), dims=("boot", "t"))
    assert read_correlator(boots.T, first=0).samples.dims == ("boot", "t")


def test_the_result_reads_back_and_so_does_a_pair_with_labels() -> None:
    data = read_correlator(LABELLED)
    xr.testing.assert_equal(read_correlator(data), data)
    pair = read_correlator(PAIR, error="mean")
    assert pair.t.values.tolist() == LABELLED.t.values.tolist()
    np.testing.assert_array_equal(pair.covariance, covariance())


MASKED = np.ma.array(X, mask=X[5, 0] < X)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (LABELLED.isel(t=slice(None, None, -1)), "t = 17 comes after t = 18; times must ascend, each once"),
        (LABELLED[0], r"it must be \(configurations, times\)"),
        (PAIR | {"cov": PAIR["cov"].isel(t2=slice(None, None, -1))}, "its times along t2 are not those of t"),
        (PAIR | {"cov": covariance()}, "mean and cov: one has labels, the other none"),
        (LABELLED.to_pandas().rename_axis(columns=None), "columns has labels and no name; say rename_axis"),
        (MASKED, "values are masked; leave such configurations out"),
        (list(MASKED), "values are masked"),
        ({"eta": MASKED}, "values are masked"),
        ({"mean": MASKED[6], "cov": covariance()}, "array: mean: .* masked"),
    ],
)
def test_labels_and_masks_that_contradict_are_refused(values: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        read_correlator(values, error="mean" if isinstance(values, dict) and "mean" in values else None)
    assert len(refused.value.faults) == 1


def test_a_masked_array_without_a_masked_value_is_an_array() -> None:
    np.testing.assert_array_equal(read(np.ma.array(X)).samples, X)
    x = np.ma.array(X, mask=np.broadcast_to(np.arange(len(X))[:, None] == 3, X.shape))
    with pytest.raises(UserError, match="16 values are masked") as refused:
        read(x)
    kept = eval(str(refused.value).partition("out: ")[2], {"x": x, "numpy": np})
    np.testing.assert_array_equal(read(kept).samples, np.delete(X, 3, axis=0))


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(X))


@pytest.mark.parametrize(("name", "write"), [("x.mat", lambda p: scipy.io.savemat(p, {"C": X})), ("x.pkl", pickled)])
def test_the_line_that_a_refusal_ends_with_converts_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(name))
    with pytest.raises(UserError) as refused:
        read(name)
    line = str(refused.value).partition("to convert: ")[2].partition("; gvars")[0]
    exec(line, {"numpy": np, "scipy": scipy})
    np.testing.assert_allclose(read("x.npy")["mean"], X.mean(axis=0), rtol=1e-12)


IMAGINARY = 0.01 * np.random.default_rng(5).standard_normal(X.shape)
TIMES = np.arange(PERIOD)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (np.concatenate([np.c_[TIMES, x, y] for x, y in zip(X, IMAGINARY, strict=True)]), MEAN),
        (np.concatenate([np.c_[TIMES, x, y, 2 * x, y] for x, y in zip(X, IMAGINARY, strict=True)]), MEAN),
        (np.c_[table(X), IMAGINARY.ravel()], MEAN),
        (np.c_[table(X), IMAGINARY.ravel(), 2 * X.ravel(), IMAGINARY.ravel()], MEAN),
        (table(X)[:, [1, 0, 2]], MEAN),
        (np.c_[TIMES, MEAN, 20 * IMAGINARY[0], 0.01 * MEAN], MEAN),
        (np.c_[TIMES, MEAN, 0.01 * MEAN, 2 * MEAN, 0.01 * MEAN], MEAN),
        (np.c_[np.arange(len(X)), X], MEAN),
        (np.c_[TIMES, X[0], IMAGINARY[0]], X[0]),
        (np.c_[TIMES, X[0], IMAGINARY[0], 2 * X[0], IMAGINARY[0]], X[0]),
        (np.c_[TIMES, X[0]], X[0]),
    ],
    ids=[
        "t re im, one configuration below the other",
        "t re im re im, one configuration below the other",
        "cfg t re im",
        "cfg t re im re im",
        "t cfg C",
        "t re im err with a large im",
        "t C err C err",
        "cfg C(0) C(1) ...",
        "t re im",
        "t re im re im",
        "t C",
    ],
)
@pytest.mark.parametrize("ending", ["txt", "csv"])
def test_the_line_in_a_refusal_of_a_table_makes_a_file_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: np.ndarray, found: np.ndarray, ending: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"table.{ending}"
    np.savetxt(name, rows, delimiter="," if ending == "csv" else " ")
    with pytest.raises(UserError) as refused:
        read(name)
    said = str(refused.value).replace("PATTERN.csv", name).replace("PATTERN", name)
    line = first_call(said[said.index("numpy.save") :])
    exec(line, {"numpy": np, "glob": glob, "FILE": name})
    made = Path("x.npy") if "numpy.save(" in line else Path("x.txt")
    np.testing.assert_allclose(load_mean(made), found, rtol=1e-9)


def first_call(text: str) -> str:
    """Return a text up to where the bracket that it opens first is closed."""
    depth = np.cumsum([(c in "([") - (c in ")]") for c in text])
    return text[: int(np.flatnonzero((depth == 0) & (np.array(list(text)) == ")"))[0]) + 1]


def load_mean(path: Path) -> np.ndarray:
    """Return the mean of a file, which may hold one configuration only."""
    if path.suffix == ".npy" and len(x := np.load(path)) == 1:
        return x[0]
    keys = {"error": "mean", "covariance": "diagonal"} if path.suffix == ".txt" else {}
    try:
        return read(path, **keys)["mean"].values
    except UserError:
        return read(path)["mean"].values


def test_a_flat_correlator_whose_noise_is_common_to_all_times_is_no_table_in_the_other_order(tmp_path: Path) -> None:
    """Means over t vary by 5 % from one configuration to the next, those over configurations by 3 % with t."""
    flat = np.linspace(1.05, 0.95, PERIOD) * (1 + 0.05 * np.random.default_rng(2).standard_normal((200, 1)))
    flat = flat + 1e-3 * np.random.default_rng(3).standard_normal(flat.shape)
    np.savetxt(tmp_path / "x.txt", table(flat))
    np.testing.assert_allclose(read(tmp_path / "x.txt")["mean"], flat.mean(axis=0), rtol=1e-12)


def test_a_format_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gvar", None)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"needs gvar; run: pip install 'sdpipe\[gvar\]'"):
        child.read(formats.snapshot(tmp_path / "x.json"))


def test_importing_the_room_imports_no_reader() -> None:
    code = "import sys, sdpipe.correlators.correlator; print(*{'h5py', 'xarray', 'zarr', 'scipy'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANGING
    ).stdout
    assert out.strip() == ""


# --- bytes that are read once --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["HDF5", "npy", "npz", "text", "NetCDF", "NetCDF 3", "Zarr", "pyerrors", "gvar"])
def test_what_was_read_does_not_change_with_the_file(tmp_path: Path, kind: str) -> None:
    path, keys = written(tmp_path, kind)
    expected = load(Source(path, **keys), first=0)
    snapshot = formats.snapshot(path)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    FORMATS[kind][2](path, 2 * X)
    for _ in range(2):
        c = load(Source(path, **keys), snapshot=snapshot, first=0)
        assert np.array_equal(c.mean, expected.mean)
        assert np.array_equal(c.covariance, expected.covariance)
        assert c.facts == expected.facts
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert np.array_equal(load(Source(path, **keys), snapshot=snapshot, first=0).mean, expected.mean)


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "npy")
    (tmp_path / "link.npy").symlink_to(path)
    for name in (path, tmp_path / "link.npy"):
        assert read(name).attrs["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    store, keys = written(tmp_path, "Zarr")
    before = formats.snapshot(store).sha256
    assert read(store, **keys).attrs["sha256"] == before
    shutil.copytree(store, tmp_path / "copy.zarr")
    assert formats.snapshot(tmp_path / "copy.zarr").sha256 == before
    chunk = next(path for path in (store / "eta" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert formats.snapshot(store).sha256 != before


def test_a_directory_in_a_store_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    """Its chunks would read as fill values."""
    store, _ = written(tmp_path, "Zarr")
    (store / "eta").rename(tmp_path / "elsewhere")
    (store / "eta").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"x\.zarr/eta: a link to a directory; the numbers must be in the file itself"):
        formats.snapshot(store)


# --- files that cannot be used -------------------------------------------------------------------------------
def changed(change: Callable[[h5py.File, Path], Any]) -> Callable[[Path], None]:
    """Write X as HDF5 (and NetCDF), and change the file."""

    def write(path: Path) -> None:
        netcdf(path, labelled(X))
        with h5py.File(path, "a") as file:
            change(file, path)

    return write


def cut(part: float) -> Callable[[Path], None]:
    """Write an HDF5 file of which only a part is there."""

    def write(path: Path) -> None:
        hdf5(path, {"eta": np.tile(X, (20, 1))})
        os.truncate(path, int(part * path.stat().st_size))

    return write


def corrupted(path: Path) -> None:
    """Write an HDF5 file with a checksum for its values, and change one of them."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("eta", data=X, chunks=(40, 16), fletcher32=True)
        offset = data.id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(offset + 100)
        file.write(b"\xff\xff\xff")


def outside(path: Path) -> str:
    """Write a sound file beside ``path``, which must not be read."""
    hdf5(path.with_name("secret.h5"), {"eta": X})
    return str(path.with_name("secret.h5"))


def external(file: h5py.File, path: Path) -> None:
    X.tofile(path.with_name("secret.bin"))
    file.create_dataset("x", X.shape, "f8", external=[(str(path.with_name("secret.bin")), 0, X.nbytes)])


def virtual(file: h5py.File, path: Path) -> None:
    layout = h5py.VirtualLayout(X.shape, "f8")
    layout[:] = h5py.VirtualSource(outside(path), "eta", X.shape)
    file.create_virtual_dataset("x", layout)


def link(file: h5py.File, path: Path) -> None:
    file["x"], file["all"] = h5py.ExternalLink(outside(path), "/eta"), h5py.ExternalLink(outside(path), "/")
    file["soft"] = h5py.SoftLink("/eta")


def objects(file: h5py.File, _path: Path) -> None:
    file.create_dataset("o", (3, 3), h5py.string_dtype())


def zarr_objects(path: Path) -> None:
    """Write a Zarr store whose values are unpickled when read."""
    (path / "eta").mkdir(parents=True)
    (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    meta = {"shape": [2, 2], "chunks": [2, 2], "dtype": "|O", "fill_value": 0, "order": "C", "zarr_format": 2}
    meta |= {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None}
    (path / "eta" / ".zarray").write_text(json.dumps(meta))
    (path / "eta" / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["cfg", "t"]}))


def gvar_json(**content: Any) -> str:
    whole = {"means": [1.0], "bcovs": [[[], [], [], []]], "bufsize": 1, "fix_cov": False, "shape": [1], **content}
    return json.dumps(whole)


CODE = "__import__('os').mkdir('HACKED')"
ROWS = np.stack([np.arange(PERIOD), MEAN, 0.01 * MEAN], axis=1)
T_C_ERR, ETA, G = columns(ROWS), {"dataset": "eta"}, {"dataset": "g", "error": "mean"}
COVARIANCE = {"g/mean": MEAN, "g/cov": covariance()}
A_LINK, ELSEWHERE = "a link; the numbers must be in the file itself", "its values are in other files"

BAD = [
    # files
    Bad("no file", "x.h5", lambda _: None, "no such file"),
    Bad("a directory", "x.h5", lambda path: path.mkdir(), "not a regular file"),
    Bad("a device", "x.h5", os.mkfifo, "not a regular file"),
    Bad("a name too long", 300 * "x" + ".h5", lambda _: None, "cannot be read (File name too long)"),
    Bad("unknown ending", "x.foo", "x", "allowed endings of the name: .h5, .hdf5, .npy"),
    Bad("how to convert", "x.foo", "x", 'to convert: numpy.save("x.npy", samples), samples being (configurations'),
    Bad("how to convert from R", "x.RData", "x", 'or in R: load("x.RData"); write.table(x, "x.txt", row.names'),
    Bad("how to convert from R without R", "x.rda", "x", 'to convert: numpy.save("x.npy", rdata.read_rda('),
    # HDF5
    Bad("text", "x.h5", "no HDF5 at all", "not a readable HDF5 file"),
    Bad("cut to 90 %", "x.h5", cut(0.9), "not a readable HDF5 file"),
    Bad("cut to the header", "x.h5", cut(0.01), "not a readable HDF5 file"),
    Bad("a wrong checksum", "x.h5", corrupted, "damaged", ETA),
    Bad("no such dataset", "x.h5", {"g/x": X, "pion": X}, "no dataset 'eta'; those there: g/x, pion", ETA, "dataset"),
    Bad("which dataset", "x.h5", {"a": X, "b": X}, "say which dataset to read; those there: a, b", {}, "dataset"),
    Bad("empty", "x.h5", {"eta": X[:0]}, "the dataset is empty", ETA),
    Bad("one dimension", "x.h5", {"eta": X[0]}, "it must be (configurations, times)", ETA),
    Bad("three dimensions", "x.h5", {"eta": X[None]}, "it must be (configurations, times)", ETA),
    Bad("complex", "x.h5", {"eta": X + 0j}, "not complex128; take the real part: numpy.save('x.npy', x.real)", ETA),
    Bad("text values", "x.h5", {"eta": [[b"a", b"b"]] * 3}, "values must be real numbers", ETA),
    Bad("objects", "x.h5", changed(objects), "real numbers", {"dataset": "o"}),
    Bad("NaN", "x.h5", {"eta": spoilt(X, (3, 5), np.nan)}, "eta: value nan at index (3, 5); all values must be finite"),
    Bad("infinity", "x.h5", {"eta": spoilt(X, (0, 1), -np.inf)}, "eta: value -inf at index (0, 1)"),
    Bad("too large", "x.h5", {"eta": 1e200 * X}, "a value of size 1.01e+200; allowed: up to 1e+150"),
    Bad("external link", "x.h5", changed(link), f"x: {A_LINK}", {"dataset": "x"}, "dataset"),
    Bad("through an external link", "x.h5", changed(link), f"all/eta: {A_LINK}", {"dataset": "all/eta"}, "dataset"),
    Bad("soft link", "x.h5", changed(link), f"soft: {A_LINK}", {"dataset": "soft"}, "dataset"),
    Bad("external values", "x.h5", changed(external), ELSEWHERE, {"dataset": "x"}),
    Bad("virtual", "x.h5", changed(virtual), ELSEWHERE, {"dataset": "x"}),
    Bad("another size", "x.h5", {"g/mean": MEAN, "g/cov": covariance()[:, 1:]}, "needed (T,) and (T, T)", G),
    Bad("no covariance", "x.h5", {"g/mean": MEAN}, "no dataset 'g'; those there: g/mean", G, "dataset"),
    # text
    Bad("empty text", "x.txt", "", "no numbers in it; needed columns t C err, t C(err)"),
    Bad("no UTF-8", "x.txt", b"\xff\xfe1\x00", "not a text file in UTF-8"),
    Bad("words", "x.txt", "1 2 3\nwhat is this\n", "x.txt:2: 'what is this' is not a row of numbers"),
    Bad("comma decimals", "x.txt", T_C_ERR.replace(".", ","), "decimals are written with a point"),
    Bad("semicolons", "x.txt", columns(ROWS, ";"), "columns are separated by blanks"),
    Bad("comma decimals in csv", "x.csv", columns(ROWS, ";").replace(".", ","), "in .csv by commas"),
    Bad("two columns", "x.txt", columns(ROWS[:, :2]), "x.txt:1: 2 columns; needed columns t C err"),
    Bad("NaN in a line", "x.txt", "0 1 0.1\n1 nan 0.1\n", "x.txt:2: '1 nan 0.1'; all values must be finite"),
    Bad("times fall", "x.txt", columns(ROWS[::-1]), "t = 14 comes after t = 15; times must ascend"),
    Bad("a time twice", "x.txt", columns(np.repeat(ROWS, 2, axis=0)), "t = 0 comes after t = 0; times must ascend"),
    Bad("half times", "x.txt", columns(ROWS * [0.5, 1, 1]), "t = 0.5; times are whole numbers"),
    Bad("negative times", "x.txt", columns(ROWS - [1, 0, 0]), "t = -1; times must not be negative"),
    Bad("negative error", "x.txt", columns(ROWS * [1, 1, -1]), "x.txt:1: error -0.00996"),
    Bad("a name for it", "x.txt", T_C_ERR, "holds one correlator; leave dataset out", ETA, "dataset"),
    Bad("rows of two lengths", "x.txt", "1 2 3\n1 2 3 4\n", "x.txt:2: 4 columns, but 3 in the rows above"),
    Bad("labels before rows", "x.txt", columns(np.c_[np.arange(40), X]), "whole numbers in the first; take"),
    Bad("slices counted in front", "x.csv", columns(np.r_[[np.arange(PERIOD)], X], ","),
        "x.csv:1: 0, 1, 2, ... count the slices and are no configuration"),
    Bad("a table of pandas", "x.csv", ",0,1,2\n0,0.5,0.2,0.1\n",
        "pandas writes: to_csv(..., header=False, index=False)"),
    Bad("cfg t re im", "x.txt", columns(np.c_[table(X), table(X)[:, 2]]), "for cfg t re im take the imaginary part"),
    Bad("an imaginary part", "x.txt", columns(np.c_[ROWS[:, :2], ROWS[:, 2] * 6, ROWS[:, 2]]),
        "x.txt:1: imaginary part 0.0"),
    Bad("names before some", "x.txt", "1 2 3\neta 1 2 3\n", "rows with and without a name in front"),
    Bad("which name", "x.txt", "eta 1 2 3\npi 1 2 3\n", "say which dataset to read; those there: eta, pi", {},
        "dataset"),
    Bad("a time is missing", "x.txt", columns(np.delete(table(X), 20, axis=0)), "has t = 4 0 times; needed: once"),
    Bad("one there twice", "x.txt", columns(table(X)) + "10 4 0.1\n", "configuration 10 has t = 4 2 times"),
    # NumPy
    Bad("pickled array", "x.npy", np.array([{}, {}]), "not a readable NumPy file"),
    Bad("no array", "x.npy", "x", "not a readable NumPy file"),
    Bad("a mean alone", "x.npy", MEAN, "it must be (configurations, times)"),
    Bad("boolean", "x.npy", X > 0, "values must be real numbers, not bool"),
    Bad("which array", "x.npz", {"a": X, "b": X}, "say which dataset to read; those there: a, b", {}, "dataset"),
    Bad("no such array", "x.npz", {"a": X}, "there is no dataset 'eta'; those there: a", ETA, "dataset"),
    Bad("mean, cov and samples", "x.npz", {"mean": MEAN, "cov": covariance(), "samples": X},
        "holds mean and cov, and samples: say dataset: / for the former, or dataset: NAME", {}, "dataset"),
    Bad("mean, cov and samples in HDF5", "x.h5", {"mean": MEAN, "cov": covariance(), "samples": X},
        "holds mean and cov, and samples: say dataset", {}, "dataset"),
    Bad("pickled arrays", "x.npz", {"a": np.array([{}])}, "not a readable NumPy file"),
    # xarray
    Bad("no NetCDF", "x.nc", "x", "not a readable NetCDF file"),
    Bad("cut NetCDF", "x.nc", b"\x89HDF\r\n\x1a\n", "not a readable NetCDF file"),
    Bad("half times in NetCDF", "x.nc", lambda p: netcdf(p, labelled(X).assign_coords(t=np.arange(16) / 2)), "whole"),
    Bad("link in NetCDF", "x.nc", changed(link), A_LINK),
    Bad("NetCDF with external data", "x.nc", changed(external), ELSEWHERE),
    Bad("NetCDF with virtual data", "x.nc", changed(virtual), ELSEWHERE),
    Bad("no Zarr", "x.zarr", lambda path: path.mkdir(), "not a readable Zarr store"),
    Bad("a file for a store", "x.zarr", "x", "not a directory"),
    Bad("Zarr of objects", "x.zarr", zarr_objects, "not a readable Zarr store"),
    # pyerrors and gvar
    Bad("no gzip", "x.json.gz", "x", "not a readable pyerrors file"),
    Bad("no pyerrors", "x.json.gz", gzip.compress(b"{}"), "not a readable pyerrors file"),
    Bad("no gvar", "x.json", "{}", "not a readable gvar file"),
    Bad("code in gvar", "x.json", gvar_json(keys=f"[{CODE}]", layouts=[[[0, 1, None], [1]]]), "not a readable gvar"),
    Bad("code in old gvar", "x.json", gvar_json(tag=["json", "dict"], gmean=[[CODE, 1]], gcov=[[1]], bcovs=None),
        "not a readable gvar file"),
    Bad("one number of gvar", "x.json", gvar_json(shape=[]), "needed one value per time, (T,)"),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.what)
def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad) -> None:
    monkeypatch.chdir(tmp_path)
    bad.check(tmp_path)
    assert not (tmp_path / "HACKED").exists()
