"""Bins, autocorrelation, jackknife and bootstrap: the same data give the same error whichever way."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import sdpipe
from sdpipe.correlators import statistics
from sdpipe.correlators.statistics import (
    autocorrelation_time,
    binned,
    bootstrap,
    covariance_by_gamma,
    covariance_of_bootstrap,
    covariance_of_mean,
    from_jackknife,
)
from tests.correlators.files import ar1

T = 8


@pytest.fixture
def samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, T)) @ rng.standard_normal((T, T)) + np.arange(10, 10 + T)


def pyerrors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return pytest.importorskip("pyerrors", exc_type=ImportError)


def jackknife(samples: np.ndarray) -> np.ndarray:
    """Return the means without one sample each."""
    return np.array([np.delete(samples, i, axis=0).mean(axis=0) for i in range(len(samples))])


def test_jackknife_samples_give_back_the_configurations_and_their_error(samples: np.ndarray) -> None:
    omitted, n = jackknife(samples), len(samples)
    np.testing.assert_allclose(from_jackknife(omitted), samples, rtol=1e-12)
    deviation = omitted - omitted.mean(axis=0)
    textbook = (n - 1) / n * deviation.T @ deviation
    np.testing.assert_allclose(covariance_of_mean(from_jackknife(omitted)), textbook, rtol=1e-9)


def test_configurations_jackknife_and_bootstrap_give_the_same_error(samples: np.ndarray) -> None:
    count = 20_000
    error = np.sqrt(np.diag(covariance_of_mean(samples)))
    from_boots = np.sqrt(np.diag(covariance_of_bootstrap(bootstrap(samples, count, 1, "eta"))))
    assert np.sqrt(np.diag(covariance_of_mean(from_jackknife(jackknife(samples))))) == pytest.approx(error, rel=1e-9)
    # The bootstrap divides by n where the unbiased variance divides by n - 1.
    expected = error * np.sqrt(1 - 1 / len(samples))
    assert from_boots == pytest.approx(expected, rel=5 / np.sqrt(2 * count))


def test_bootstrap_means_scatter_like_the_mean(samples: np.ndarray) -> None:
    count = 20_000
    boots = bootstrap(samples, count, seed=1, stream="eta")
    error = samples.std(axis=0) / np.sqrt(len(samples))
    assert boots.shape == (count, T)
    assert (boots.mean(axis=0) - samples.mean(axis=0)) / error == pytest.approx(np.zeros(T), abs=5 / np.sqrt(count))
    assert np.corrcoef(boots.T) == pytest.approx(np.corrcoef(samples.T), abs=0.05)


def test_each_bootstrap_mean_takes_as_many_configurations_as_there_are() -> None:
    boots = bootstrap(np.eye(5), 100, seed=1, stream="x") * 5
    assert np.abs(boots - np.round(boots)).max() < 1e-12
    assert boots.sum(axis=1) == pytest.approx(np.full(100, 5))
    assert boots.max() >= 2


def test_bootstrap_is_a_function_of_seed_and_stream(samples: np.ndarray) -> None:
    first = bootstrap(samples, 4, 1, "eta")
    assert np.array_equal(first, bootstrap(samples, 4, 1, "eta"))
    assert not np.array_equal(first, bootstrap(samples, 4, 2, "eta"))
    assert not np.array_equal(first, bootstrap(samples, 4, 1, "pion"))


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_the_autocorrelation_time_is_that_of_a_chain_with_memory(memory: float) -> None:
    tau, error = autocorrelation_time(ar1(4000, memory, 40))
    expected = (1 + memory) / (1 - memory) / 2
    assert tau.mean() == pytest.approx(expected, abs=4 * tau.std() / np.sqrt(40) + 0.03 * expected)
    assert 0.6 < error.mean() / tau.std() < 1.6


def test_a_chain_that_never_forgets_is_summed_to_the_end() -> None:
    tau, _ = autocorrelation_time(np.linspace([0.0], [1.0], 400))
    assert tau[0] > 20


@pytest.mark.parametrize(("n", "memory"), [(200, 0.0), (1000, 0.5), (1001, 0.9), (12, 0.0)])
def test_the_gamma_method_is_that_of_pyerrors_to_the_last_digits(n: int, memory: float) -> None:
    pe, series = pyerrors(), ar1(n, memory, 12)
    tau, error = autocorrelation_time(series)
    for i, column in enumerate(series.T):
        obs = pe.Obs([column], ["A"])
        obs.gamma_method(S=1.5)
        assert tau[i] == pytest.approx(obs.e_tauint["A"], rel=1e-7)
        assert error[i] == pytest.approx(obs.e_dtauint["A"], rel=1e-6, abs=1e-7)
        assert np.sqrt(covariance_by_gamma(series)[i, i]) == pytest.approx(obs.dvalue, rel=1 / n**2 + 1e-7)


def test_bins_change_the_correlations_and_not_the_errors_of_the_gamma_method(samples: np.ndarray) -> None:
    one, three = covariance_by_gamma(samples), covariance_by_gamma(samples, 3)
    np.testing.assert_allclose(np.diag(one), np.diag(three), rtol=1e-12)
    R = three / np.sqrt(np.outer(np.diag(three), np.diag(three)))
    np.testing.assert_allclose(R, np.corrcoef(binned(samples, 3).T), rtol=1e-9)


def test_bins_of_two_tau_int_or_more_give_the_true_error() -> None:
    memory, n, count = 0.8, 2000, 200
    series = ar1(n, memory, count)
    true = np.sqrt((1 + memory) / (1 - memory) / n)
    assert series.mean(axis=0).std() == pytest.approx(true, rel=0.15)
    naive = np.sqrt(np.diag(covariance_of_mean(series))).mean()
    assert naive == pytest.approx(true / 3, rel=0.05)
    wide = np.sqrt(np.diag(covariance_of_mean(binned(series, 50)))).mean()
    assert wide == pytest.approx(true, rel=0.1)
    # At a bin of 2 tau_int the error is a quarter too small.
    assert 0.75 * true < np.sqrt(np.diag(covariance_of_mean(binned(series, 9)))).mean() < true


def test_bins_average_consecutive_configurations_and_drop_the_rest(samples: np.ndarray) -> None:
    assert np.array_equal(binned(samples, 1), samples)
    assert binned(samples, 4).shape == (7, T)
    assert binned(samples, 4)[1] == pytest.approx(samples[4:8].mean(axis=0))


def test_a_damaged_configuration_is_named_and_a_long_tail_is_not() -> None:
    """One factor 5 in all times, one wrong number, one other sign; noise like exp(z) and few configurations."""
    t, g = np.arange(16), np.random.default_rng(8)
    root = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(t, t)))
    C = np.exp(-0.3 * t)
    right = C * (1 + 0.1 * g.standard_normal((120, 16)) @ root.T)
    for change in (np.s_[37], np.s_[37, 7], np.s_[[37, 90]]):
        x = right.copy()
        x[change] *= -1 if change == np.s_[37, 7] else 5
        rows, column, far = statistics.outlying(x)
        assert rows == ([37, 90] if change == np.s_[[37, 90]] else [37])
        assert far > 10
        assert column == 7 or change != np.s_[37, 7]
    for n in (10, 13, 50, 500):
        for tail in (0.1, 0.6, 1.2):
            for _ in range(20):
                assert statistics.outlying(C * np.exp(tail * g.standard_normal((n, 16)) @ root.T))[0] == []
                assert statistics.outlying(C * (1 + tail * g.standard_normal((n, 16)) @ root.T))[0] == []


def test_a_file_with_a_damaged_configuration_is_flagged_with_the_line_that_leaves_it_out() -> None:
    x = np.exp(-0.3 * np.arange(9)) * (1 + 0.1 * np.random.default_rng(3).standard_normal((60, 9)))
    x[41] *= 4
    with pytest.warns(UserWarning, match=r"configuration 41, counted from 0, .* numpy.delete\(x, \[41\], axis=0\)"):
        sdpipe.read_correlator(x, first=0)
    assert sdpipe.read_correlator(np.delete(x, [41], axis=0), first=0).attrs["flags"] == []
