"""Bins, autocorrelation, jackknife and bootstrap: the same data give the same error whichever way."""

from __future__ import annotations

import numpy as np
import pytest

from sdpipe.correlators.statistics import (
    autocorrelation_time,
    binned,
    bootstrap,
    covariance_of_bootstrap,
    covariance_of_mean,
    from_jackknife,
)

T = 8


@pytest.fixture
def samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, T)) @ rng.standard_normal((T, T)) + np.arange(10, 10 + T)


def chain(n: int, memory: float, count: int) -> np.ndarray:
    """Return ``count`` series x_i = a x_{i-1} + noise, of unit variance; tau_int = (1 + a) / (1 - a) / 2."""
    noise = np.random.default_rng(1).standard_normal((n, count))
    series = np.empty((n, count))
    series[0] = noise[0]
    for i in range(1, n):
        series[i] = memory * series[i - 1] + np.sqrt(1 - memory**2) * noise[i]
    return series


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
    tau, error = autocorrelation_time(chain(4000, memory, 40))
    expected = (1 + memory) / (1 - memory) / 2
    assert tau.mean() == pytest.approx(expected, abs=4 * tau.std() / np.sqrt(40) + 0.03 * expected)
    assert error.mean() == pytest.approx(tau.std(), rel=0.5)


def test_a_chain_that_never_forgets_is_summed_to_the_end() -> None:
    tau, _ = autocorrelation_time(np.linspace([0.0], [1.0], 400))
    assert tau[0] > 20


def test_bins_of_two_tau_int_or_more_give_the_true_error() -> None:
    memory, n, count = 0.8, 2000, 200
    series = chain(n, memory, count)
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
