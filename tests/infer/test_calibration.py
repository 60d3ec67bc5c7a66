"""Split-conformal calibration keeps its promise for any distribution, and a verdict tells right from wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpipe.estimators.conformal import conformal_factor, conformal_rank, draws_needed, gaussian_quantile
from sdpipe.infer.calibration import Resolution, band, correlation, nearest, verdict


@given(st.floats(0.01, 0.999))
def test_the_draws_needed_are_enough_and_one_less_is_not(level: float) -> None:
    n = draws_needed(level)
    scores = np.arange(1.0, n + 1)
    assert 1 <= conformal_factor(scores, level) <= n
    if n > 1:
        with pytest.raises(ValueError, match=f"{n} are needed"):
            conformal_factor(scores[:-1], level)


@pytest.mark.parametrize("draw", ["normal", "cauchy", "exponential"])
@pytest.mark.parametrize("level", [0.683, 0.954])
def test_coverage_is_guaranteed_whatever_the_distribution(draw: str, level: float) -> None:
    rng = np.random.default_rng(11)
    sample = {"normal": rng.standard_normal, "cauchy": rng.standard_cauchy, "exponential": rng.standard_exponential}
    scores = np.abs(sample[draw]((400, 40, 50)))
    inside = scores[200:] <= conformal_factor(scores[:200], level)
    assert level - 0.01 <= inside.mean() <= level + 0.015


def test_the_factor_is_that_order_statistic_and_knows_no_other_axis() -> None:
    scores = np.random.default_rng(2).permuted(np.tile(np.arange(1.0, 100)[:, None], (1, 3)), axis=0)
    assert conformal_factor(scores, 0.683).tolist() == [69.0] * 3  # ceil(100 * 0.683)


def test_normal_errors_need_the_normal_quantile() -> None:
    scores = np.abs(np.random.default_rng(3).standard_normal(200_000))
    for level in (0.683, 0.954, 0.997):
        assert conformal_factor(scores, level) == pytest.approx(gaussian_quantile(level), rel=0.02)
    assert gaussian_quantile(0.6826894921) == pytest.approx(1, abs=1e-9)


def test_the_rank_is_the_smallest_level_that_covers() -> None:
    rng = np.random.default_rng(5)
    calibration, scores = rng.standard_exponential((199, 2)), rng.standard_exponential((50, 2))
    rank = conformal_rank(scores, calibration)
    for level in (0.25, 0.683, 0.9):
        assert np.array_equal(rank <= level, scores <= conformal_factor(calibration, level))
    assert conformal_rank(np.full((1, 2), np.inf), calibration).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(("factor", "expected"), [(1.0, "holds"), (0.5, "too narrow"), (2.0, "too wide")])
def test_planted_errors_are_judged(factor: float, expected: str) -> None:
    pull = np.random.default_rng(8).standard_normal(1000) / factor
    assert verdict(float(np.mean(np.abs(pull) <= 1)), 0.683, 1000) == expected


def test_the_band_narrows_with_the_root_of_the_count() -> None:
    assert band(0.683, 400) == pytest.approx(2 * band(0.683, 1600))


def test_nearest_is_in_ratio_and_whatever_the_sign() -> None:
    assert sorted(nearest(1.0, np.array([0.1, -0.9, 1.2, 10.0, 5.0, 0.2, 20.0, 0.01]))) == [1, 2]


def test_resolution_is_that_of_draws_of_similar_noise() -> None:
    rng = np.random.default_rng(4)
    scale = np.exp(rng.uniform(-3, 3, 8000)) * rng.choice([-1, 1], 8000)
    residual = np.abs(scale)[:, None, None] * rng.standard_normal((8000, 2, 3))
    resolution = Resolution(residual, scale)
    low, high = resolution.width(np.array([np.exp(-2), -np.exp(2)]))
    assert np.all((low > 0.1) & (low < 0.3))
    assert np.all((high > 6) & (high < 15))
    covariance = resolution.covariance(np.exp(2))
    assert np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)) == pytest.approx(high)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_chi2_of_new_draws_is_not_larger_than_one_a_number_however_few_draws_there_are() -> None:
    generator = np.random.default_rng(3)
    E = np.linspace(0, 3, 40)
    root = np.linalg.cholesky(np.exp(-(np.subtract.outer(E, E) ** 2)) + 1e-6 * np.eye(40))
    size = np.exp(0.5 * generator.standard_normal((4000, 1)))
    scores = size * (generator.standard_normal((4000, 40)) @ root.T)
    scores /= scores.std()
    for count in (30, 80, 400):
        R = correlation(scores[:count])
        chi2 = np.sum(np.linalg.solve(np.linalg.cholesky(R), scores[400:].T) ** 2, axis=0) / 40
        assert 0.4 < chi2.mean() < 1.3


def test_one_draw_that_is_all_wrong_does_not_decide_over_correlations() -> None:
    scores = np.random.default_rng(4).standard_normal((400, 3))
    scores[7] = 1e14, 1e14, 0
    assert abs(correlation(scores)[0, 1]) < 0.2
