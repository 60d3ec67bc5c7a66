"""Standardisation, whitening and the linear estimator, against noise whose moments are exact.

The noise copies of each sample are s L z with z = +-sqrt(t) e_k: their mean is zero and their covariance
s^2 Cov_latt to rounding, so that what holds for infinitely many random copies holds here exactly.
"""

import numpy as np
import pytest

from sdpipe.learn import moments
from sdpipe.learn.moments import InputTransform, LinearEstimator, Moments
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.samples import generate
from sdpipe.physics.spectra import ChebyshevPrior

GRID = Observables(Kernel("vector", 12), (1, 2, 3, 4, 5, 6), (0.5,), (0.3, 0.8, 1.3, 1.8))
NOISE = synthetic(GRID.times, 0.3 * np.exp(-0.7 * np.arange(6)), r1=2e-3, delta=0.1, tau=3.0)


def moments_of(C, y, noise=NOISE):
    return Moments.from_samples(lambda: [(C, y)], noise)


def every_noise(C):
    """Return noisy copies (sample, copy, t) with exact first and second moments."""
    t = C.shape[1]
    z = np.sqrt(t) * np.concatenate([np.eye(t), -np.eye(t)])
    return C[:, None] + NOISE.scale(C)[:, None, None] * (z @ NOISE.cholesky.T)


def test_moments_are_those_of_the_samples(clean):
    C, y = clean
    m = moments_of(C, y)
    joint = np.cov(np.hstack([C, y]).T, ddof=0)
    assert m.mean == pytest.approx(C.mean(axis=0), rel=1e-12, abs=1e-15)
    assert m.target_mean == pytest.approx(y.mean(axis=0), rel=1e-12, abs=1e-15)
    assert m.covariance == pytest.approx(joint[:6, :6], rel=1e-10)
    assert m.cross == pytest.approx(joint[:6, 6:], rel=1e-9, abs=1e-14)
    assert m.target_covariance == pytest.approx(joint[6:, 6:], rel=1e-9, abs=1e-14)
    scatter = every_noise(C) - C[:, None]
    assert m.noise == pytest.approx(np.einsum("skt,sku->tu", scatter, scatter) / (600 * 12), rel=1e-10)


def test_moments_do_not_depend_on_how_they_are_summed(clean, monkeypatch):
    at_once = moments_of(*clean)
    monkeypatch.setattr(moments, "MOMENT_ROWS", 7)
    for name in ("mean", "covariance", "noise", "target_mean", "cross", "target_covariance"):
        assert getattr(moments_of(*clean), name) == pytest.approx(getattr(at_once, name), rel=1e-10, abs=1e-16)


def test_moments_of_single_precision_are_summed_in_double(clean):
    C, y = (np.tile(a.astype(np.float32) + np.float32(100), (20, 1)) for a in clean)
    m = moments_of(C, y)
    assert m.mean == pytest.approx(C.astype(float).mean(axis=0), rel=1e-12)
    rounding = np.diag(moments.ROUNDING**2 * np.mean(C.astype(float) ** 2, axis=0))
    assert m.covariance == pytest.approx(np.cov(C.T.astype(float), ddof=0) + rounding, rel=1e-9)


def test_later_times_never_harm_the_linear_estimator_even_with_noise_below_single_precision():
    """A heavy state: at t = 32 the noise is 1e-14 of the spread of C(t) over the prior."""
    losses = []
    for last in (16, 32):
        grid = Observables(Kernel("periodic", 64), tuple(range(1, last + 1)), (0.3,), (0.3, 0.8, 1.3, 1.8))
        made = generate(ChebyshevPrior(16), grid, 1, 0, 6000)
        noise = synthetic(grid.times, np.exp(-1.2 * np.arange(1, last + 1)), r1=1e-4, delta=0.0, tau=4.0)
        C, y = made.correlator.astype(np.float32), made.smeared[:, 0]
        moments = moments_of(C[:5000], y[:5000], noise)
        transform = InputTransform.fit(moments, "whiten")
        linear = LinearEstimator.fit(moments, transform)
        x = transform(noise.draw(C[5000:].astype(float), 1, np.random.default_rng(1))[:, 0])
        losses.append(np.abs(linear(x) - y[5000:]).mean())
        assert (np.diag(linear.unresolved) > 0).all()
    assert losses[1] < 1.05 * losses[0]


def test_standardised_clean_inputs_have_zero_mean_and_unit_deviation(clean):
    C, y = clean
    transform = InputTransform.fit(moments_of(C, y), "standardise")
    x = transform(C)
    assert x.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-12)
    assert x.std(axis=0) == pytest.approx(np.ones(6), rel=1e-12)
    assert x[:, 2] == pytest.approx((C[:, 2] - C[:, 2].mean()) / C[:, 2].std(), abs=1e-12)


def test_whitened_noisy_inputs_have_unit_covariance(clean):
    C, y = clean
    transform = InputTransform.fit(moments_of(C, y), "whiten")
    x = transform(every_noise(C)).reshape(-1, 6)
    assert x.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-9)
    assert np.cov(x.T, ddof=0) == pytest.approx(np.eye(6), abs=1e-8)


def test_whitening_and_standardising_lose_nothing(clean):
    C, y = clean
    for inputs in ("whiten", "standardise"):
        transform = InputTransform.fit(moments_of(C, y), inputs)
        assert transform(C) @ np.linalg.inv(transform.matrix) + transform.mean == pytest.approx(C, rel=1e-8)
        assert transform(C[3]) == pytest.approx(transform(C)[3], abs=1e-12)


@pytest.mark.parametrize("inputs", ["whiten", "standardise"])
def test_linear_estimator_is_the_least_squares_fit_to_noisy_samples(clean, inputs):
    C, y = clean
    moments = moments_of(C, y)
    transform = InputTransform.fit(moments, inputs)
    estimator = LinearEstimator.fit(moments, transform)
    x = transform(every_noise(C)).reshape(-1, 6)
    design = np.hstack([x, np.ones((len(x), 1))])
    fit = np.linalg.lstsq(design, np.repeat(y, 12, axis=0))[0]
    estimate, expected = estimator(x), design @ fit
    assert estimate == pytest.approx(expected, abs=1e-8)
    assert estimator.residual == pytest.approx((np.repeat(y, 12, axis=0) - expected).std(axis=0), rel=1e-7)
    assert estimator.offset == pytest.approx(y.mean(axis=0), rel=1e-12)


def test_linear_estimator_has_the_least_error_on_random_noise(clean):
    """No nearby linear estimator does better on many noisy draws."""
    C, y = clean
    moments = moments_of(C, y)
    transform = InputTransform.fit(moments, "whiten")
    best = LinearEstimator.fit(moments, transform)
    rng = np.random.default_rng(0)
    x = transform(NOISE.draw(C, 200, rng))

    def error(weight, offset):
        return np.mean((x @ weight + offset - y[:, None]) ** 2, axis=(0, 1))

    least = error(best.weight, best.offset)
    assert least == pytest.approx(best.residual**2, rel=0.02)
    for _ in range(10):
        step = 0.1 * best.residual * rng.standard_normal(best.weight.shape)
        assert np.all(error(best.weight + step, best.offset) > least)
    assert np.all(error(best.weight, best.offset + 0.1 * best.residual) > least)


def test_noise_makes_the_linear_estimator_more_careful(clean):
    C, y = clean
    residuals = []
    for r1 in (1e-5, 1e-3, 1e-1):
        moments = moments_of(C, y, synthetic(GRID.times, NOISE.mean, r1, 0.0, 3.0))
        residuals.append(LinearEstimator.fit(moments, InputTransform.fit(moments, "whiten")).residual)
    assert np.all(np.diff(residuals, axis=0) > 0)
    assert np.all(residuals[-1] <= y.std(axis=0) * (1 + 1e-12))
