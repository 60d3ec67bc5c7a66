"""Covariances drawn anew: what they are functions of, and that they are in their ranges."""

from __future__ import annotations

import numpy as np
import pytest

from sdpipe.physics.covariances import SHARED, Covariances
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.spectra import ChebyshevPrior

GRID = Observables(Kernel("vector", 32), tuple(range(1, 17)), (0.44,), (1.0,))


def covariances(relative=(1e-4, 1e-2), growth=(0.0, 0.2), tau=(0.2, 30.0)) -> Covariances:
    return Covariances(relative, growth, tau, ChebyshevPrior(16), GRID, floor=1e-6)


def test_a_covariance_is_a_function_of_seed_and_number() -> None:
    some, more = covariances().draw(3, 5, 9), covariances().draw(3, 0, 70)
    for a, b in zip(some, more[5:9], strict=True):
        assert np.array_equal(a.covariance, b.covariance)
        assert np.array_equal(a.mean, b.mean)
    assert not np.array_equal(some[0].covariance, covariances().draw(4, 5, 6)[0].covariance)


def test_relative_errors_at_the_first_time_are_log_uniform_in_their_range() -> None:
    drawn = covariances(growth=(0.0, 0.0)).draw(1, 0, 600)
    x = np.array([np.log10(np.sqrt(n.covariance[0, 0]) / n.mean[0]) for n in drawn])
    assert -4.3 < x.min() < -3.9  # a Wishart matrix has variances of its own
    assert -2.1 < x.max() < -1.7
    assert np.mean(x) == pytest.approx(-3, abs=4 * 2 / np.sqrt(12 * 600))


def test_errors_grow_and_are_correlated_as_asked() -> None:
    noise = covariances((1e-3, 1e-3), (0.1, 0.1), (4.0, 4.0)).draw(1, 0, 200)
    exact = np.exp(0.1 * np.arange(16))
    error = np.array([np.sqrt(np.diag(n.covariance)) / n.mean / 1e-3 for n in noise])
    assert np.median(error / exact, axis=0) == pytest.approx(np.ones(16), abs=0.05)
    neighbours = np.array([n.covariance[3, 4] / np.sqrt(n.covariance[3, 3] * n.covariance[4, 4]) for n in noise])
    plain, correlated = np.abs(neighbours) < 1e-12, np.abs(neighbours - np.exp(-1 / 4)) < 1e-12
    assert 0.08 < plain.mean() < 0.25  # a quarter, 40 % of them as if estimated
    assert 0.33 < correlated.mean() < 0.57


def test_samples_side_by_side_share_a_covariance_and_copies_do_not() -> None:
    found = [list(covariances().of_samples(1, copy, 2, SHARED, 3 * SHARED + 10)) for copy in range(2)]
    assert [rows for rows, _, _ in found[0]] == [slice(0, 64), slice(64, 128), slice(128, 138)]
    assert [[number for _, number, _ in of_copy] for of_copy in found] == [[2, 4, 6], [3, 5, 7]]
    (expected,) = covariances().draw(1, 5, 6)
    assert np.array_equal(found[1][1][2].covariance, expected.covariance)
