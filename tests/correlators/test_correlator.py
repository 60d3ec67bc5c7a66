"""Correlators on the slices of the networks: their statistics, what is folded, and what is doubtful about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from sdpipe import read_correlator
from sdpipe.correlators.correlator import Correlator, Source, describe, load
from sdpipe.correlators.folding import asymmetry, folding
from sdpipe.correlators.statistics import binned, bootstrap, covariance_of_mean
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel
from tests.correlators.files import (
    PERIOD,
    Bad,
    ar1,
    columns,
    covariance,
    hdf5,
    labelled,
    netcdf,
    pair,
    read,
    samples,
    spoilt,
)

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "etas-Ds.h5"
X = samples()
MEAN = X.mean(axis=0)


@pytest.fixture
def npy(tmp_path: Path) -> Callable[[np.ndarray], Path]:
    """Return a function that writes samples to a file."""

    def write(values: np.ndarray) -> Path:
        np.save(tmp_path / "x.npy", values)
        return tmp_path / "x.npy"

    return write


def error(data: xr.Dataset) -> np.ndarray:
    return np.sqrt(np.diag(data.covariance))


# --- statistics ----------------------------------------------------------------------------------------------


def test_bins_and_slices_are_taken_before_the_statistics(npy: Callable) -> None:
    path, t = npy(X), np.arange(1, 5)
    data = read_correlator(path, bin=3, period=PERIOD, times=(1, 4))
    folded = binned((X[:, t] + X[:, -t]) / 2, 3)
    assert list(data.t.values) == [1, 2, 3, 4]
    np.testing.assert_allclose(data.samples, folded, rtol=1e-12)
    np.testing.assert_allclose(data.covariance, covariance_of_mean(folded), rtol=1e-9)
    assert (data.attrs["bin"], data.attrs["samples"], data.attrs["dropped"]) == (3, len(folded), len(X) % 3)
    assert list(read_correlator(path, period=PERIOD).t.values) == list(range(PERIOD // 2 + 1))


def chain(n: int, memory: float, count: int) -> np.ndarray:
    return 100 + ar1(n, memory, count)


def test_errors_hold_the_memory_of_the_chain_within_their_own_error(npy: Callable) -> None:
    """The error of the mean of an AR(1) chain is known: sqrt(2 tau_int / n); that of it is sqrt((W + 1/2) / n)."""
    n, memory, count = 3000, 0.8, 40
    data = read(npy(chain(n, memory, count)))
    true = np.sqrt((1 + memory) / (1 - memory) / n)
    assert error(data).mean() == pytest.approx(true, rel=0.05)
    assert np.abs(error(data) / true - 1).max() < 4 * np.sqrt(20 / n)
    assert data.attrs["tau_int"] == pytest.approx(4.5, rel=0.4)
    assert data.attrs["flags"] == []
    assert "bin" not in data.attrs
    assert data.attrs["configurations"] == data.sizes["cfg"] == n
    with pytest.warns(UserWarning, match="bin 1 is too short"):
        naive = error(read(npy(chain(n, memory, count)), bin=1))
    assert naive.mean() == pytest.approx(true / 3, rel=0.05)


def test_times_are_correlated_as_bins_are_not_as_single_configurations(npy: Callable) -> None:
    """A slow mode common to both times and a fast one at each: correlation 0.33 in a configuration, 0.9 in the mean."""
    n, slow = 20_000, chain(20_000, 0.9, 1)
    x = 0.7 * slow + np.random.default_rng(1).standard_normal((n, 2))
    cov = read(npy(x)).covariance.values
    assert np.diag(cov) == pytest.approx((0.49 * 19 + 1) / n * np.ones(2), rel=0.3)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(0.33, abs=0.03)
    assert 0.7 < cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]) < 0.95


def test_bootstrap_means_spread_by_the_error_with_memory(npy: Callable) -> None:
    c = load(Source(npy(chain(3000, 0.8, 4))), first=0)
    boots = c.bootstrap(4000, 1, "x")
    assert boots.std(axis=0) == pytest.approx(np.sqrt(np.diag(c.covariance)), rel=0.05)
    assert boots.mean(axis=0) == pytest.approx(c.mean, abs=4 * float(boots.std()) / np.sqrt(4000))


def test_a_bin_shorter_than_the_memory_of_the_chain_is_flagged(npy: Callable) -> None:
    path = npy(chain(3000, 0.8, 3))
    words = r"bin 2 is too short: on doubling it the error at t = \d grows by \d+ \+- 2 % .*; leave bin out, .* bin: \d"
    with pytest.warns(UserWarning, match=words) as caught:
        data = read(path, bin=2)
    (flag,) = data.attrs["flags"]
    assert flag == str(caught[0].message)
    advised = int(flag.partition("choose bin: ")[2].split()[0])
    assert 30 < advised < 70
    good = read(path, bin=advised)
    assert good.attrs["flags"] == []
    assert error(good) == pytest.approx(error(read(path)), rel=0.25)
    with pytest.warns(UserWarning, match="bin 9 is too short"):
        read(path, bin=9)


def test_configurations_that_are_few_but_for_their_memory_do_not_determine_a_covariance(npy: Callable) -> None:
    path = npy(chain(400, 0.97, 20))
    with pytest.raises(UserError, match=r"400 configurations with tau_int = .* independent ones, .* covariance of 20"):
        read(path)
    assert read(path, covariance="shrink").sizes["t"] == 20


def test_independent_configurations_are_not_flagged(npy: Callable) -> None:
    data = read(npy(10 + np.random.default_rng(1).standard_normal((200, 20))))
    assert data.attrs["flags"] == []
    assert data.attrs["tau_int"] == pytest.approx(0.5, abs=4 * data.attrs["tau_int_error"])


def test_few_configurations_need_a_covariance_that_they_determine(npy: Callable) -> None:
    path, full = npy(X[:10, :10]), covariance_of_mean(X[:10, :10])
    with pytest.raises(UserError, match="10 samples do not determine a covariance of 10 times"):
        read(path)
    shrunk = read(path, bin=1, covariance="shrink").covariance
    assert np.linalg.eigvalsh(shrunk / np.sqrt(np.outer(np.diag(full), np.diag(full))))[0] > 1e-6
    np.testing.assert_allclose(np.log(np.diag(shrunk) / np.diag(full)), 0, atol=1.4)
    np.testing.assert_allclose(read(path, bin=1, covariance="diagonal").covariance, np.diag(np.diag(full)))
    assert read(npy(X[:11, :10])).attrs["covariance"] == "full"


def test_columns_of_errors_give_a_diagonal_covariance(tmp_path: Path) -> None:
    sigma, n = X.std(axis=0, ddof=1), len(X)
    for errors, keys in ((sigma / np.sqrt(n), {"error": "mean"}), (sigma, {"error": "sample", "configurations": n})):
        np.savetxt(tmp_path / "x.dat", np.stack([np.arange(PERIOD), MEAN, errors], axis=1))
        data = read(tmp_path / "x.dat", **keys, covariance="diagonal")
        np.testing.assert_allclose(data["mean"], MEAN)
        np.testing.assert_allclose(data.covariance, np.diag(sigma**2 / n), rtol=1e-9, atol=0)
        assert "samples" not in data


@pytest.mark.parametrize("correlation", [0.0, 0.7, 0.98])
def test_errors_alone_never_fold_to_less_than_the_error_of_the_samples(tmp_path: Path, correlation: float) -> None:
    """Their correlation between t and T - t is not known: independence would understate by up to sqrt(2)."""
    t, n = np.arange(PERIOD), 2000
    common, own = np.random.default_rng(3).standard_normal((2, n, PERIOD))
    common = common[:, np.minimum(t, PERIOD - t)]
    x = np.cosh(0.3 * (t - 8)) * (1 + 0.01 * (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own))
    np.save(tmp_path / "x.npy", x)
    np.savetxt(tmp_path / "x.txt", np.stack([t, x.mean(axis=0), x.std(axis=0, ddof=1) / np.sqrt(n)], axis=1))
    grid = {"period": PERIOD, "times": (1, 8)}
    truth = error(read_correlator(tmp_path / "x.npy", bin=1, **grid))
    folded = error(read_correlator(tmp_path / "x.txt", error="mean", covariance="diagonal", **grid))
    assert (folded > 0.97 * truth).all()
    assert folded[:-1] / truth[:-1] == pytest.approx(np.sqrt(2 / (1 + correlation)) * np.ones(7), rel=0.05)
    assert folded[-1] == pytest.approx(truth[-1])


def few(count: int) -> np.ndarray:
    """Return configurations (cfg, t) with 0.1 % errors, strongly correlated in t."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal((count, 1)) + 0.3 * rng.standard_normal((count, PERIOD)).cumsum(axis=1)
    return np.exp(-0.4 * np.arange(PERIOD)) * (1 + 0.001 * z)


def _labelled_pair(path: Path, x: np.ndarray, dtype: str) -> None:
    mean, cov = (v.astype(dtype) for v in pair(x).values())
    netcdf(path, xr.Dataset({"mean": ("t", mean), "cov": (("t", "t2"), cov)}))


BOOTS, OF_MEAN = {"resampling": "bootstrap"}, {"error": "mean"}
DETERMINED: dict[str, tuple[dict[str, str], Callable]] = {
    "boots.h5": (BOOTS, lambda p, x, kind: hdf5(p, {"x": bootstrap(x, 800, 1, "few").astype(kind)})),
    "boots.npz": (BOOTS, lambda p, x, kind: np.savez(p, bootstrap(x, 800, 1, "few").astype(kind))),
    "boots.nc": (BOOTS, lambda p, x, kind: netcdf(p, labelled(bootstrap(x, 800, 1, "few").astype(kind), "boot", "t"))),
    "pair.h5": (OF_MEAN, lambda p, x, kind: hdf5(p, {n: v.astype(kind) for n, v in pair(x, "g/").items()})),
    "pair.npz": (OF_MEAN, lambda p, x, kind: np.savez(p, **{n: v.astype(kind) for n, v in pair(x).items()})),
    "pair.nc": (OF_MEAN, _labelled_pair),
}
"""File -> the keys that read it, and what writes bootstrap samples of x, or its mean and covariance, to it."""


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", DETERMINED)
def test_a_covariance_that_only_rounding_makes_definite_is_refused(tmp_path: Path, name: str, dtype: str) -> None:
    """Ten configurations have rank 9, however many bootstrap samples are drawn from them."""
    path, (keys, write) = tmp_path / name, DETERMINED[name]
    write(path, few(10), dtype)
    with pytest.raises(UserError, match=r"not positive definite .* covariance: shrink .* or diagonal, or fewer times"):
        read(path, **keys)
    assert read(path, **keys, covariance="diagonal").sizes["t"] == PERIOD
    assert read(path, **keys, times=(0, 7)).attrs["covariance"] == "full"
    write(path, few(40), dtype)
    assert read(path, **keys).attrs["covariance"] == "full"


@pytest.mark.parametrize("name", ["boots.h5", "pair.h5"])
def test_configurations_behind_a_file_are_counted_where_they_are_said(tmp_path: Path, name: str) -> None:
    path, (keys, write) = tmp_path / name, DETERMINED[name]
    write(path, few(40), "f8")
    assert load(Source(path, **keys), first=0).estimated_from is None
    assert load(Source(path, **keys, configurations=40), first=0).estimated_from == 40
    assert load(Source(path, **keys, configurations=40, covariance="diagonal"), first=0).estimated_from is None
    for told, asked, words in (
        (16, {}, r"16 configurations do not determine .* 16 times; .*: covariance: diagonal"),
        (16, {"configurations": 40}, "configurations: 40, but the file itself says 16"),
        ("many", {}, "configurations: many; it must be a whole number, 2 or more"),
    ):
        with h5py.File(path, "a") as file:
            file.attrs["configurations"] = told
        with pytest.raises(UserError, match=words):
            read(path, **keys, **asked)


def test_a_covariance_that_hides_from_the_goodness_of_fit_says_so(npy: Callable) -> None:
    for treatment, weak in (("full", False), ("shrink", True), ("diagonal", True)):
        said = describe(read(npy(X), covariance=treatment).attrs)
        assert ("hides from chi2 and the goodness of fit" in said) == weak


def test_samples_of_a_mean_with_covariance_are_drawn_around_it(tmp_path: Path) -> None:
    x, path = X[:, :4], tmp_path / "x.npz"
    np.savez(path, **pair(x))
    drawn = load(Source(path, error="mean"), first=0).bootstrap(20_000, 1, "eta")
    sigma = np.sqrt(np.diag(covariance_of_mean(x)))
    assert (drawn.mean(axis=0) - x.mean(axis=0)) / sigma == pytest.approx(np.zeros(4), abs=0.05)
    np.testing.assert_allclose(np.cov(drawn.T) / np.outer(sigma, sigma), np.corrcoef(x.T), atol=0.05)


def test_a_normalised_correlator_is_sound_where_its_constant_slice_is_not_used(npy: Callable) -> None:
    path = npy(spoilt(X, (slice(None), 0), 1.0))
    assert read(path, times=(1, 4)).sizes["t"] == 4
    with pytest.raises(UserError, match="t = 0 is the same in every sample"):
        read(path, times=(0, 4))


def test_labels_come_off_again(npy: Callable) -> None:
    source = Source(npy(X), bin=2, covariance="shrink")
    c = load(source, PERIOD, (1, 2, 3))
    again = Correlator.from_xarray(c.to_xarray())
    assert (again.times, again.dim, again.facts, again.flags) == (c.times, c.dim, c.facts, c.flags)
    assert np.array_equal(again.samples, c.samples)
    assert Source.from_facts(again.facts) == source
    assert source.keys() == {"path": str(source.path), "bin": 2, "covariance": "shrink"}


@pytest.mark.skipif(not REAL_DATA.exists(), reason=f"needs {REAL_DATA.name}, real lattice data not shipped here")
def test_real_data_fold_to_a_falling_correlator_with_a_plateau() -> None:
    data = read_correlator(REAL_DATA, "etas", period=64, times=(1, 32))
    C = data["mean"].values
    assert data.sizes == {"t": 32, "t2": 32, "cfg": 225}
    assert np.all(np.diff(C) < 0)
    assert np.all(error(data) < 0.01 * C)
    assert np.log(C[14] / C[19]) / 5 == pytest.approx(0.416, abs=0.005)
    assert data.attrs["flags"] == []


# --- which slices, and what is folded ------------------------------------------------------------------------

T = 8
WHOLE = tuple(range(T))


def test_a_whole_period_is_folded() -> None:
    C, times = np.random.default_rng(0).standard_normal((30, T)), (0, 1, 3, 4)
    folded = C @ folding(WHOLE, T, times, "x").T
    for column, t in zip(folded.T, times, strict=True):
        assert column == pytest.approx((C[:, t] + C[:, -t % T]) / 2, rel=1e-14)
    symmetric = Kernel("periodic", T)(np.arange(T), 0.7)
    assert pytest.approx(symmetric[1:5], rel=1e-14) == symmetric @ folding(WHOLE, T, (1, 2, 3, 4), "x").T


@pytest.mark.parametrize(
    ("there", "period", "times", "named", "expected"),
    [
        ((0, 1, 2, 3, 4), T, (1, 4), False, [11, 14]),  # half a period is folded already
        (WHOLE, T, (1, 4, 7), False, [11, 14, 17]),  # beyond T/2 nothing is folded
        (WHOLE, None, (1, 3), False, [11, 13]),  # open boundaries
        (WHOLE[1:], T, (1, 4), True, [(11 + 17) / 2, 14]),  # t = 0 may be missing where nothing needs it
        ((1, 2, 3), T, (1, 3), True, [11, 13]),
    ],
)
def test_slices_that_are_taken_as_they_are(
    there: tuple[int, ...], period: int | None, times: tuple[int, ...], named: bool, expected: list[float]
) -> None:
    assert np.array_equal(folding(there, period, times, "x", named) @ (10.0 + np.array(there)), expected)


def test_times_beyond_half_a_period_are_flagged(npy: Callable) -> None:
    path, last = npy(X), PERIOD // 2 + 2
    with pytest.warns(UserWarning, match=rf"t = {last} is beyond T/2 = {PERIOD // 2}: nothing is folded"):
        read_correlator(path, period=PERIOD, times=(1, last), covariance="shrink")
    assert read_correlator(path, first=0, times=(1, last), covariance="shrink").attrs["flags"] == []


@pytest.mark.parametrize(
    ("there", "period", "times", "words"),
    [
        (range(T + 1), T, (1, 4), r"9 time slices, .* 8 \(a period\)"),
        (range(5), T, (1, 6), r"t = 6 is missing; those there: 0\.\.4"),
        (range(T + 4), T, (1, 6), r"12 time slices, 0\.\.11, but lattice.period 8 and times up to 6 need 8"),
        (range(3), None, (1, 3), r"t = 3 is missing; those there: 0\.\.2"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_data_of_the_wrong_length_are_refused(
    there: range, period: int | None, times: tuple[int, ...], words: str, named: bool
) -> None:
    with pytest.raises(UserError, match=f"file: eta: {words}"):
        folding(tuple(there), period, times, "file: eta", named=named)


@pytest.mark.parametrize(
    ("there", "times", "named", "words"),
    [
        (WHOLE[:-1], (1, 4), False, r"7 time slices, 0\.\.6"),
        (WHOLE[:6], (1, 4), False, r"6 time slices, 0\.\.5, but lattice.period 8 .* 8 \(a period\), or 5 \(folded\)"),
        (WHOLE[1:], (0, 1, 2, 3, 4), True, r"t = 0 is missing; those there: 1\.\.7; needed: 0\.\.4"),
        ((0, 1, 2, 4, 6, 7), (1, 2, 3), True, r"t = 3 is missing; those there: 0, 1, 2, 4, 6, 7"),
    ],
)
def test_slices_that_are_missing_are_named(
    there: tuple[int, ...], times: tuple[int, ...], named: bool, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        folding(there, T, times, "x", named=named)


def test_slices_that_begin_at_one_keep_their_times_where_that_is_said(npy: Callable) -> None:
    """Taken as t = 0, they would give every amplitude wrong by exp(E)."""
    A, E = 2.0, 0.5
    t = np.arange(1, 10)
    path = npy(A * np.exp(-E * t) * (1 + 1e-3 * np.random.default_rng(1).standard_normal((50, 9))))
    words = "9 time slices, and the file does not say which: say lattice.first .*first=.*, the t of the first one"
    with pytest.raises(UserError, match=words) as caught:
        read_correlator(path)
    assert caught.value.key == "first"
    data = read_correlator(path, first=1)
    assert data.t.values.tolist() == t.tolist()
    assert data["mean"].values * np.exp(E * data.t.values) == pytest.approx(A * np.ones(9), rel=1e-3)
    for keys in ({"period": 16}, {"first": 0}):
        assert read_correlator(path, **keys).t.values[0] == 0
    with pytest.raises(UserError, match="9 time slices, neither T = 20 nor T/2 \\+ 1, and the file"):
        read_correlator(path, period=20)
    assert read_correlator(path, period=20, first=1).t.values.tolist() == t.tolist()


def test_a_file_that_names_its_slices_needs_no_first(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "x.txt", ROWS[1:5])
    for keys in ({}, {"first": 0}):
        data = read_correlator(tmp_path / "x.txt", error="mean", covariance="diagonal", **keys)
        assert data.t.values.tolist() == [1, 2, 3, 4]


def test_an_antisymmetric_correlator_is_folded_with_its_sign(npy: Callable) -> None:
    kernel, t = Kernel("periodic-odd", PERIOD), np.arange(PERIOD)
    noise = 1e-2 * np.random.default_rng(2).standard_normal((400, PERIOD))
    path = npy(kernel(t, 0.3) * (1 + noise) + 1e-6 * noise)
    data = read_correlator(path, period=PERIOD, parity=-1)
    assert data.t.values.tolist() == list(range(1, PERIOD // 2))
    assert data["mean"].values == pytest.approx(kernel(data.t.values, 0.3), rel=3e-3)
    unfolded = read_correlator(path, first=0, times=(1, 7))
    assert error(data) == pytest.approx(error(unfolded) / np.sqrt(2), rel=0.2)
    with pytest.raises(
        UserError, match=r"C\(T - t\) = -C\(t\), but .* C\(T - t\) = C\(t\): say kernel=periodic-odd .*parity=-1"
    ):
        read_correlator(path, period=PERIOD)
    with pytest.raises(UserError, match=r"C\(T - t\) = C\(t\), but .* = -C\(t\): say kernel=periodic \(from"):
        read_correlator(npy(X), period=PERIOD, parity=-1)


def halves(sign: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return C(t) with C(T - t) = sign C(t), and its covariance."""
    t = np.arange(T)
    C = np.exp(-0.5 * t) + sign * np.exp(-0.5 * (T - t))
    sigma = noise * np.abs(np.where(C == 0, 1, C))
    return C + sigma * np.random.default_rng(3).standard_normal(T), np.diag(sigma**2)


def asymmetric(C: np.ndarray, cov: np.ndarray) -> list[str]:
    return asymmetry(C, cov, folding(WHOLE, T, (1, 2, 3, 4), "x"), (1, 2, 3, 4), "x")


@pytest.mark.parametrize("noise", [1e-6, 1e-2, 0.5])
def test_a_symmetric_correlator_is_folded_without_a_word(noise: float) -> None:
    assert asymmetric(*halves(1, noise)) == []


def test_data_that_differ_at_t_and_T_minus_t_are_flagged() -> None:
    """A baryon's partner of other parity runs backwards with another mass."""
    C, cov = halves(1, 1e-2)
    (flag,) = asymmetric(spoilt(C, 5, 1.2 * C[5]), cov)
    assert "C(t) and C(T - t) differ by" in flag
    assert "at t = 3" in flag


def test_data_made_symmetric_have_nothing_to_differ() -> None:
    """Their covariance is singular between t and T - t, which must not divide by zero."""
    C, cov = halves(1, 1e-2)
    mirror = np.zeros((T, T))
    mirror[np.arange(T), -np.arange(T) % T] = 1
    half = (np.eye(T) + mirror) / 2
    assert asymmetric(half @ C, half @ cov @ half) == []


# --- numbers that cannot be used -----------------------------------------------------------------------------

ROWS = np.stack([np.arange(PERIOD), MEAN, 0.01 * MEAN], axis=1)
DIAGONAL = {"covariance": "diagonal"}
PAIR = {"g/mean": MEAN, "g/cov": covariance()}


def boots(x: np.ndarray, **attributes: Any) -> Callable[[Path], None]:
    return lambda path: hdf5(path, {"x": bootstrap(x, 200, 1, "x")}, **attributes)


def said(datasets: dict[str, Any], **attributes: Any) -> Callable[[Path], None]:
    """Write datasets to a file that says something itself."""

    def write(path: Path) -> None:
        hdf5(path, datasets)
        with h5py.File(path, "a") as file:
            file.attrs.update(attributes)

    return write


BAD = [
    Bad("one configuration", "x.npy", X[:1], "at least 2 are needed"),
    Bad("zero variance", "x.npy", spoilt(X, (slice(None), 2), 1.0), "t = 2 is the same in every sample"),
    Bad("a configuration twice", "x.npy", spoilt(X, 7, X[3]), "rows 3 and 7 are the same; each configuration counts"),
    Bad("T too small", "x.npy", X[:, :5], "5 time slices, neither T = 16 nor T/2 + 1", {}, "first"),
    Bad("T too large", "x.npy", np.tile(X, 2), "32 time slices, neither T = 16 nor T/2 + 1", {}, "first"),
    Bad("antisymmetric", "x.npy", X * np.sign(7.5 - np.arange(16)), "C(T - t) = -C(t), but the kernel needs"),
    Bad("fewer samples than times", "x.npy", X[:6], "6 samples do not determine a covariance of 8", {}, "covariance"),
    Bad("as many as times", "x.npy", X[:8], "allowed remedies: covariance: shrink or diagonal", {}, "covariance"),
    Bad("bins too large", "x.npy", X, "bin: 30 leaves 1 of 40 configurations", {"bin": 30}, "bin"),
    Bad("few bins", "x.npy", X, "5 samples do not determine", {"bin": 8}, "covariance"),
    Bad("bins of bootstrap samples", "x.npy", X, "bin: 2 needs configurations", BOOTS | {"bin": 2}, "bin"),
    Bad("shrinkage of bootstrap samples", "x.npy", X, "shrink needs configurations", BOOTS | {"covariance": "shrink"},
        "covariance"),
    Bad("another resampling", "x.h5", said({"x": X}, resampling="bootstrap"), "but the file itself says bootstrap",
        {"resampling": "jackknife"}, "resampling"),
    Bad("a dimension says bootstrap", "x.nc", lambda path: netcdf(path, labelled(X, "boot", "t")),
        "but the file itself says bootstrap", {"resampling": "configurations"}, "resampling"),
    Bad("a resampling of its own", "x.h5", said({"x": X}, resampling="subsets"), "says resampling: subsets; allowed:",
        {}, "resampling"),
    Bad("an error of samples", "x.npy", X, "error is for a mean with its errors", OF_MEAN, "error"),
    Bad("bootstrap samples of few", "x.h5", boots(X[:8]), "not positive definite (lowest eigenvalue", BOOTS,
        "covariance"),
    Bad("bootstrap samples of said few", "x.h5", boots(X, configurations=8), "8 configurations do not determine",
        BOOTS, "covariance"),
    Bad("mean without a word", "x.h5", PAIR, "those of the mean, or those of one configuration", {}, "error"),
    Bad("of one of how many", "x.h5", PAIR, "needs configurations: n", {"error": "sample"}, "configurations"),
    Bad("another error", "x.h5", said(PAIR, error="sample"), "but the file itself says sample", OF_MEAN, "error"),
    Bad("bins of a mean", "x.h5", PAIR, "bin is for samples", OF_MEAN | {"bin": 2}, "bin"),
    Bad("resampling of a mean", "x.h5", PAIR, "resampling is for samples", OF_MEAN | BOOTS, "resampling"),
    Bad("shrinkage of a covariance", "x.h5", PAIR, "shrink needs samples", OF_MEAN | {"covariance": "shrink"},
        "covariance"),
    Bad("negative eigenvalue", "x.h5", {"g/mean": MEAN, "g/cov": spoilt(covariance(), ([2, 3], [3, 2]), 2e-6)},
        "not positive semi-definite (lowest eigenvalue", OF_MEAN, "covariance"),
    Bad("negative variance", "x.h5", {"g/mean": MEAN, "g/cov": -covariance()}, "variance -1e-06 at t = 0", OF_MEAN),
    Bad("not symmetric", "x.h5", {"g/mean": MEAN, "g/cov": spoilt(covariance(), (2, 3), 0)}, "not symmetric", OF_MEAN),
    Bad("singular", "x.h5", {"g/mean": MEAN, "g/cov": np.full((16, 16), 1e-6)}, "not positive definite", OF_MEAN,
        "covariance"),
    Bad("errors without correlations", "x.txt", columns(ROWS), "allowed: covariance: diagonal", OF_MEAN, "covariance"),
    Bad("no word on errors", "x.txt", columns(ROWS), "those of the mean, or those of one", DIAGONAL, "error"),
    Bad("a time is missing", "x.txt", columns(np.delete(ROWS, [3, 13], axis=0)), "t = 3 is missing; those there: 0, 1"),
    Bad("zero error", "x.txt", columns(ROWS * [1, 1, 0]), "errors, is 0 throughout", OF_MEAN | DIAGONAL),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.what)
def test_numbers_that_cannot_be_used(tmp_path: Path, bad: Bad) -> None:
    bad.check(tmp_path)


def test_any_part_of_a_period_is_read_and_folded_where_both_slices_are_there(tmp_path: Path) -> None:
    t = np.arange(10, 54)
    C = np.cosh(0.2 * (t - 32.0))
    noise = np.random.default_rng(1).standard_normal((300, len(t)))
    np.save(tmp_path / "part.npy", C * (1 + 0.01 * noise))
    part = read_correlator(tmp_path / "part.npy", period=64, first=10)
    assert part.t.values.tolist() == list(range(10, 33))
    samples = C * (1 + 0.01 * noise)
    np.testing.assert_allclose(part["mean"].sel(t=12), (samples[:, 2] + samples[:, 42]).mean() / 2)
    np.testing.assert_allclose(part["mean"].sel(t=10), samples[:, 0].mean())  # t = 54 is not there
    (tmp_path / "late.txt").write_text("6 0.1 0.01\n7 0.2 0.01\n")
    late = read_correlator(tmp_path / "late.txt", error="mean", covariance="diagonal", period=8)
    assert (late.t.values.tolist(), late["mean"].values.tolist()) == ([1, 2], [0.2, 0.1])


@pytest.mark.parametrize(
    "keys", [{"bin": 0}, {"covariance": "none"}, {"times": (3, 1)}, {"times": (1,)}, {"period": 0}, {"resampling": "x"}]
)
def test_arguments_that_mean_nothing_are_refused(npy: Callable, keys: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(keys))):
        read(npy(X), **keys)
    with pytest.raises(UserError, match=r"array: list of object; allowed: the path of one file, an array"):
        read([npy(X)])
