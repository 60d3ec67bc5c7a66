"""Matrices of correlators: elements, GEVP against pyerrors, every format, and matrices that cannot be used."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from sdpipe import read_correlator
from sdpipe.correlators import formats, known
from sdpipe.correlators.correlator import Source
from sdpipe.correlators.matrices import Gevp
from sdpipe.correlators.record import times_second
from sdpipe.correlators.states import Known
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel
from tests.correlators.files import ar1, hdf5, jackknife, netcdf, zarr
from tests.correlators.files import pyerrors as dump

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "openqxd-matrix.h5"

MASSES, COUPLINGS = np.array([0.3, 0.55, 0.9]), np.array([[1.0, 0.7, 0.4], [0.6, -0.8, 0.5], [0.3, 0.2, 0.9]])
TIMES = 12


def exact() -> np.ndarray:
    """Return C_ij(t) = sum_n c_in c_jn exp(-m_n t), (t, i, j), of three states."""
    decay = np.exp(-MASSES * np.arange(TIMES)[:, None])
    return np.einsum("in,jn,tn->tij", COUPLINGS, COUPLINGS, decay)


def mock(count: int = 60, error: float = 0.01) -> np.ndarray:
    """Return configurations (cfg, t, i, j) of it with a relative error, hermitian on average."""
    C, rng = exact(), np.random.default_rng(4)
    size = np.sqrt(np.einsum("tii,tjj->tij", C, C))
    return C + error * size * rng.standard_normal((count, *C.shape))


def read(values: Any, *dataset: str, **matrix: Any) -> xr.Dataset:
    return read_correlator(values, *dataset, first=0, matrix=matrix, covariance="diagonal")


@pytest.mark.parametrize("state", range(3))
def test_the_projected_correlator_is_that_of_pyerrors(state: int) -> None:
    X = ar1(200 * TIMES * 9, 0.2, 1)[:, 0].reshape(200, TIMES, 3, 3) * 0.01 * exact() + exact()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pe = pytest.importorskip("pyerrors", exc_type=ImportError)
    each = [[pe.Corr([pe.Obs([X[:, t, i, j]], ["A"]) for t in range(TIMES)]) for j in range(3)] for i in range(3)]
    theirs = pe.Corr(np.array(each))
    theirs = theirs.projected(theirs.GEVP(2, 5, sort=None)[state])
    ours = read(X, gevp={"t0": 2, "td": 5, "state": state})
    np.testing.assert_allclose(ours["mean"], [o[0].value for o in theirs.content], rtol=1e-10)
    theirs.gamma_method(S=1.5)
    np.testing.assert_allclose(np.sqrt(np.diag(ours.covariance)), [o[0].dvalue for o in theirs.content], rtol=1e-4)


def test_states_come_in_the_order_of_their_energies_and_have_their_masses() -> None:
    for state, mass in enumerate(MASSES):
        data = read(exact() + mock(error=1e-9) - exact(), gevp={"t0": 1, "td": 3, "state": state})
        np.testing.assert_allclose(np.log(data["mean"][:-1].values / data["mean"][1:].values)[:8], mass, rtol=1e-4)
        assert float(data["mean"].sel(t=1)) == pytest.approx(1)
        assert data.attrs["gevp"] == [1, 3, state]


def test_the_vectors_are_those_of_the_mean_for_every_sample() -> None:
    X = mock()
    data = read(X, gevp={"t0": 2, "td": 4})
    u = np.array(data.attrs["vector"])
    np.testing.assert_allclose(data.samples, np.einsum("i,ntij,j->nt", u, X, u), rtol=1e-12)
    assert u[np.abs(u).argmax()] > 0


def test_an_element_is_the_mean_of_both_sides_of_the_diagonal() -> None:
    X = mock()
    data = read(X, component=[0, 2])
    np.testing.assert_allclose(data.samples, (X[:, :, 0, 2] + X[:, :, 2, 0]) / 2, rtol=1e-12)
    np.testing.assert_array_equal(read(X, component=(2, 0)).samples, data.samples)
    again = Source.from_facts(data.attrs)
    assert again.component == (0, 2)
    assert again.crossed
    assert again.keys()["component"] == [0, 2]
    assert not Source.from_facts(read(X, component=[1, 1]).attrs).crossed


def _labelled(X: np.ndarray, dim: str = "cfg") -> xr.Dataset:
    made = xr.Dataset({"C": ((dim, "t", "i", "j"), X)}, coords={"t": np.arange(TIMES)})
    return made.transpose("j", "t", dim, "i")


FORMATS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "tij.npy": np.save,
    "ijt.npy": lambda path, X: np.save(path, np.moveaxis(X, 1, -1)),
    "tij.npz": lambda path, X: np.savez(path, C=X),
    "ijt.h5": lambda path, X: hdf5(path, {"C": np.moveaxis(X, 1, -1)}),
    "tij.h5": lambda path, X: hdf5(path, {"C": jackknife(X)}, resampling="jackknife"),
    "x.nc": lambda path, X: netcdf(path, _labelled(X)),
    "jack.nc": lambda path, X: netcdf(path, _labelled(jackknife(X), "jack")),
    "x.zarr": lambda path, X: zarr(path, _labelled(X)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_correlator(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name, mock())
    for matrix in ({"component": [0, 1]}, {"gevp": {"t0": 2, "td": 4, "state": 1}}):
        here = read(mock(), **matrix)
        data = read(tmp_path / name, **matrix)
        np.testing.assert_allclose(data["mean"], here["mean"], rtol=1e-10)
        np.testing.assert_allclose(data.covariance, here.covariance, rtol=1e-6, atol=0)


def test_a_matrix_of_pyerrors(tmp_path: Path) -> None:
    X = mock()

    def corr(pe: Any) -> Any:
        each = [[[pe.Obs([X[:, t, i, j]], ["A"]) for j in range(3)] for i in range(3)] for t in range(TIMES)]
        return pe.Corr([np.array(one) for one in each])

    dump(tmp_path / "x", corr)
    data = read(tmp_path / "x.json.gz", gevp={"t0": 2, "td": 4})
    np.testing.assert_allclose(data["mean"], read(X, gevp={"t0": 2, "td": 4})["mean"], rtol=1e-10)
    one = read(tmp_path / "x.json.gz", "0,1")
    np.testing.assert_allclose(one["mean"], X[:, :, 0, 1].mean(axis=0), rtol=1e-10)


def test_bootstrap_samples_of_a_matrix_keep_their_spread() -> None:
    rng = np.random.default_rng(3)
    X = mock(50)
    boot = np.stack([X[rng.integers(50, size=50)].mean(axis=0) for _ in range(400)])
    data = read_correlator(_labelled(boot, "boot"), matrix={"component": [0, 0]})
    direct = read(X, component=[0, 0])
    assert data.samples.dims == ("boot", "t")
    np.testing.assert_allclose(np.diag(data.covariance) / np.diag(direct.covariance), 1, atol=0.6)


def test_a_folded_matrix_is_projected_before_it_is_folded() -> None:
    t = np.arange(2 * TIMES)
    wave = np.exp(-MASSES * t[:, None]) + np.exp(-MASSES * (2 * TIMES - t)[:, None])
    C = np.einsum("in,jn,tn->tij", COUPLINGS, COUPLINGS, wave)
    X = C * (1 + 1e-6 * np.random.default_rng(1).standard_normal((40, len(t), 1, 1)))
    data = read_correlator(
        X, period=2 * TIMES, matrix={"gevp": {"t0": 2, "td": 5}}, covariance="diagonal", times=(1, TIMES - 1)
    )
    ratio = (data["mean"].values[:-2] + data["mean"].values[2:]) / (2 * data["mean"].values[1:-1])
    np.testing.assert_allclose(np.arccosh(ratio)[1:-2], MASSES[0], rtol=0.02)


def of_mean(X: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean (t, i, j) of independent configurations (cfg, t, i, j) and its covariance (t, i, j, t, i, j)."""
    flat = X.reshape(len(X), -1)
    return {"mean": X.mean(axis=0), "cov": (np.cov(flat.T) / len(X)).reshape(2 * X.shape[1:])}


def few_times() -> np.ndarray:
    return mock(400)[:, :6]


def crossed_mean() -> np.ndarray:
    mean = few_times().mean(axis=0)
    mean[4, 0, 1] += 0.2
    return mean


@pytest.mark.parametrize("matrix", [{"component": [0, 1]}, {"gevp": {"t0": 1, "td": 3, "state": 1}}], ids=str)
def test_a_mean_with_its_covariance_is_what_samples_are(matrix: dict[str, Any]) -> None:
    X = few_times()
    ours = read_correlator(of_mean(X), error="mean", first=0, matrix=matrix)
    theirs = read_correlator(X, bin=1, first=0, matrix=matrix)
    np.testing.assert_allclose(ours["mean"], theirs["mean"], rtol=1e-10)
    np.testing.assert_allclose(ours["covariance"], theirs["covariance"], rtol=1e-7, atol=1e-14)
    assert ours.attrs.get("vector") == pytest.approx(theirs.attrs.get("vector"))


def test_a_state_of_a_mean_has_its_mass() -> None:
    lowest = read_correlator(of_mean(few_times()), error="mean", first=0, matrix={"gevp": {"t0": 1, "td": 3}})
    C, V = lowest["mean"].values, lowest["covariance"].values
    ratio = np.log(C[3] / C[4])
    error = np.sqrt(V[3, 3] / C[3] ** 2 + V[4, 4] / C[4] ** 2 - 2 * V[3, 4] / C[3] / C[4])
    assert abs(ratio - MASSES[0]) < 3 * error + 0.005


@pytest.mark.parametrize("name", ["x.h5", "x.npz", "x.nc", "x.json", "array", "labelled", "gvar", "last"])
def test_every_format_of_a_mean_gives_the_same_correlator(tmp_path: Path, name: str) -> None:
    pair = of_mean(few_times())
    mean, cov = pair["mean"], pair["cov"]
    labelled = xr.Dataset(
        {"mean": (("i", "t", "j"), np.moveaxis(mean, 0, 1)), "covariance": (("t", "i", "j", "t2", "i2", "j2"), cov)},
        {"t": range(6)},
    )
    value: Any = tmp_path / name
    if name == "x.h5":
        hdf5(value, pair)
    elif name == "x.npz":
        np.savez(value, **pair)
    elif name == "x.nc":
        labelled.to_netcdf(value)
    elif name in ("x.json", "gvar"):
        gvar = pytest.importorskip("gvar")
        g = gvar.gvar(mean, cov)
        value = g if name == "gvar" else gvar.gdump(g, str(value)) or value
    elif name == "last":
        value = {"mean": np.moveaxis(mean, 0, -1), "cov": np.moveaxis(cov, (0, 3), (2, 5))}
    else:
        value = labelled if name == "labelled" else pair
    first = {} if name in ("x.nc", "labelled") else {"first": 0}
    said = {} if name in ("x.json", "gvar") else {"error": "mean"}
    ours = read_correlator(value, matrix={"component": [0, 2]}, **first, **said)
    expected = read_correlator(pair, error="mean", first=0, matrix={"component": [0, 2]})
    for part in ("mean", "covariance"):
        np.testing.assert_allclose(ours[part], expected[part], rtol=1e-9, atol=1e-16)


BAD_MEANS = {
    "neither": ({}, {}, "a 3 x 3 matrix of correlators: say component"),
    "t0": ({}, {"gevp": {"t0": 6, "td": 7}}, "t0: 6 is not among its times, 0..5"),
    "flat covariance": ({"cov": np.eye(54)}, {"component": [0, 0]}, r"needed .* \(T, n, n, T, n, n\), cov.reshape"),
    "not square": ({"mean": np.ones((6, 3, 2))}, {"component": [0, 0]}, "is no matrix of correlators"),
    "not hermitian": (
        {"mean": crossed_mean()},
        {"component": [0, 0]},
        r"not hermitian: C_01 and C_10 differ by [\d.e+]+ errors at t = 4; allowed: 5",
    ),
}


@pytest.mark.parametrize("what", BAD_MEANS)
def test_a_mean_that_cannot_be_used_is_one_line(what: str) -> None:
    changed, matrix, words = BAD_MEANS[what]
    with pytest.raises(UserError, match=words) as caught:
        read_correlator({**of_mean(few_times()), **changed}, error="mean", first=0, matrix=matrix)
    (fault,) = caught.value.faults
    assert "\n" not in fault


def crossed(X: np.ndarray, at: Any, by: float) -> np.ndarray:
    X = X.copy()
    X[(slice(None), *at)] += by
    return X


BAD = {
    "neither": (mock(), {}, r"a 3 x 3 matrix of correlators: say component: \[i, j\], or gevp"),
    "both": (mock(), {"component": [0, 0], "gevp": {"t0": 1, "td": 2}}, "both component and gevp are given"),
    "element": (mock(), {"component": [0, 3]}, r"component: \[0, 3\] is not there; allowed: 0 to 2"),
    "negative": (mock(), {"component": [-1, 0]}, r"component: \[-1, 0\] is not there"),
    "state": (mock(), {"gevp": {"t0": 1, "td": 2, "state": 3}}, "state: 3 is not there; allowed: 0 to 2"),
    "t0": (mock(), {"gevp": {"t0": 12, "td": 13}}, "t0: 12 is not among its times, 0..11"),
    "td": (mock(), {"gevp": {"t0": 1, "td": 12}}, "td: 12 is not among its times, 0..11"),
    "order": (mock(), {"gevp": {"t0": 3, "td": 3}}, r"t0: 3 is not below td \(3\); needed: an earlier time"),
    "not positive": (-mock(), {"gevp": {"t0": 1, "td": 2}}, r"C\(t0 = 1\) is not positive definite \(lowest"),
    "not hermitian": (
        crossed(mock(), (4, 0, 1), 0.2),
        {"component": [0, 0]},
        r"C_01 and C_10 differ by \d+.*at t = 4; allowed: 5",
    ),
    "not square": (mock()[..., :2], {"component": [0, 0]}, "is no matrix of correlators; needed: a square one"),
    "which is t": (mock()[:, :3], {"component": [0, 0]}, "does not say which dimension is t"),
    "not square, labelled": (
        _labelled(mock()).isel(j=slice(2)),
        {"component": [0, 0]},
        "is no square matrix; needed",
    ),
    "one correlator": (mock()[:, :, 0, 0], {"component": [0, 0]}, "component is for a matrix of correlators"),
    "one correlator, gevp": (mock()[:, :, 0, 0], {"gevp": {"t0": 1, "td": 2}}, "gevp is for a matrix"),
    "three dimensions": (mock()[0], {"component": [0, 0]}, "it must be"),
    "key": (mock(), {"element": [0, 0]}, "matrix: .* is not allowed; allowed: component"),
    "text": (mock(), {"gevp": {"t0": "a", "td": 2}}, "is not allowed"),
    "one number": (mock(), {"component": 1}, "is not allowed"),
    "fraction": (mock(), {"gevp": {"t0": 1.5, "td": 2}}, "is not allowed"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_used_is_one_line(what: str) -> None:
    X, matrix, words = BAD[what]
    with pytest.raises(UserError, match=words) as caught:
        read(X, **matrix)
    (fault,) = caught.value.faults
    assert "\n" not in fault


def test_noise_on_both_sides_of_the_diagonal_is_hermitian_within_errors() -> None:
    X = np.random.default_rng(8).standard_normal((100, TIMES, 3, 3)) + exact()
    assert read(X, component=[0, 1]).attrs["flags"] == []


def test_dimensions_that_are_named_need_no_guess() -> None:
    X = mock()[:, :3]
    labelled = xr.DataArray(X, dims=("cfg", "t", "i", "j"), coords={"t": [0, 1, 2]})
    np.testing.assert_allclose(read(labelled, component=[0, 0])["mean"], X[:, :, 0, 0].mean(axis=0))


def test_the_order_of_dimensions_follows_from_which_two_are_alike() -> None:
    X = mock()
    np.testing.assert_array_equal(times_second(np.moveaxis(X, 1, -1), "x"), X)


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA.name}, a real matrix, is not in ../shared/data")
@pytest.mark.parametrize(("state", "energy", "error"), [(0, 2.1525, 9e-4), (1, 2.1787, 9e-4), (2, 2.1883, 9e-4)])
def test_the_levels_of_a_real_matrix_are_those_of_its_gevp(state: int, energy: float, error: float) -> None:
    """One state fitted to the projected correlator at t = 15..24."""
    source = Source(DATA, "matrix", gevp=Gevp(5, 10, state), subtract=(Known(between=(15, 24)),))
    _, M = known.load(source, Kernel("exponential", 64), None, formats.snapshot(DATA), 0).states
    assert abs(M.mean() - energy) < 2 * np.hypot(M.std(), error)
    assert M.std() < 2 * error
