"""The most probable rho >= 0: the minimum that it claims to be, right where a density is, and a test of positivity."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from sdpipe.errors import UserError
from sdpipe.estimators.bounds import Bounds
from sdpipe.estimators.positive import STEPS, Positive, _nearest, _nonnegative
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.physics.families import SignChangingFamily
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise, synthetic
from sdpipe.physics.spectra import delta_tanh, o3, peaks

TIMES = tuple(range(1, 17))
GRID = Observables(Kernel("periodic", 32), TIMES, (0.3, 0.5), (0.3, 0.6, 0.9, 1.3))


def datum(spectrum, grid: Observables = GRID, r1: float = 1e-3, seed: int = 1) -> tuple[Noise, np.ndarray, np.ndarray]:
    """Return noise, noisy C (t,) and true rho (sigma, E)."""
    clean, truth = grid.split(spectrum.integrals(grid))
    noise = synthetic(grid.times, clean, r1, 0.03, 3.0)
    return noise, noise.draw(clean, 1, np.random.default_rng(seed))[0], truth


@pytest.mark.parametrize("seed", range(4))
def test_newton_finds_the_minimum_of_lawson_and_hanson(seed: int) -> None:
    generator = np.random.default_rng(seed)
    omega = np.geomspace(0.01, 10, 200)
    B = 10.0 ** (1 + seed) * np.exp(-np.arange(1, 13)[:, None] * omega) * np.sqrt(np.gradient(omega))
    y = B @ (generator.random(200) < 0.03) + generator.standard_normal(12)
    U, S, Vt = np.linalg.svd(B, full_matrices=False)
    x, R = _nonnegative(S, Vt, U.T @ y, STEPS)
    expected, _ = nnls(np.vstack([B, np.eye(200)]), np.append(y, np.zeros(200)), maxiter=10_000)
    np.testing.assert_allclose(x, expected, atol=1e-6 * expected.max())
    inside = Vt.T[x > 0]
    np.testing.assert_allclose(R.T @ R, inside.T @ inside + np.diag(S**-2.0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("guess", [0, 5, 200])
def test_the_fit_of_the_data_alone_is_that_of_all_weights_from_any_guess(guess: int) -> None:
    generator = np.random.default_rng(guess)
    omega = np.geomspace(0.01, 10, 200)
    A = np.exp(-np.arange(1, 13)[:, None] * omega) * np.sqrt(np.gradient(omega))
    for y in (A @ (generator.random(200) < 0.03) + 1e-4 * generator.standard_normal(12), -A.sum(axis=1)):
        found = _nearest(A, y, generator.permutation(200)[:guess])
        np.testing.assert_array_equal(found, np.flatnonzero(nnls(A, y)[0]))


def test_it_is_nearer_to_states_than_a_prior_that_knows_no_sign() -> None:
    generator, errors = np.random.default_rng(5), []
    for seed in range(12):
        masses = np.sort(generator.uniform(0.3, 1.8, 3))
        noise, C, truth = datum(peaks(tuple(generator.uniform(0.3, 1, 3)), tuple(masses)), r1=2e-4, seed=seed)
        gaussian = Posterior.for_noise(PriorMoments.over_scales(GRID), noise)(C).mean
        estimates = Positive.for_noise(GRID, noise)(C).mean, gaussian
        errors.append([np.abs(mean - truth).sum() / truth.sum() for mean in estimates])
    positive, either_sign = np.mean(errors, axis=0)
    assert positive < 0.75 * either_sign
    assert positive < 0.02


@pytest.mark.parametrize("name", ["periodic", "vector", "exponential", "thermal"])
def test_it_explains_positive_densities_within_its_errors_and_has_no_negative_part(name: str) -> None:
    grid = Observables(Kernel(name, 32, 0.7), TIMES, (0.4,), (0.3, 0.6, 0.9, 1.3))
    for spectrum in (o3(0.5), delta_tanh(), peaks((0.4, 0.9), (0.5, 1.4))):
        noise, C, truth = datum(spectrum, grid)
        positive = Positive.for_noise(grid, noise)
        found = positive(C)
        assert (found.mean >= 0).all()
        assert (np.abs(found.mean - truth) < 4 * found.error).all()
        assert positive.least_chi2(C) <= found.chi2 < 16 + 3 * np.sqrt(32)


def test_data_that_no_positive_density_makes_are_told_by_the_least_chi2() -> None:
    family = SignChangingFamily((0.4, 0.8), (0.05, 0.2), (0.2, 0.4))
    noise, C, _ = datum(family.draw(np.random.default_rng(2)), r1=1e-4)
    least = Positive.for_noise(GRID, noise).least_chi2(C)
    assert least > 40
    interval = Bounds.for_noise(GRID, noise)(C)
    assert least == pytest.approx(interval.chi2_min, rel=0.05)
    noise, C, _ = datum(delta_tanh(), r1=1e-4)
    least = Positive.for_noise(GRID, noise).least_chi2(C)
    assert Bounds.for_noise(GRID, noise)(C).chi2_min - 1e-3 <= least < 30


@pytest.mark.parametrize("c", [0.05, 0.3, 2.7, 20.0])
def test_the_same_data_in_another_unit_of_energy_have_the_same_answer(c: float) -> None:
    grid = Observables(Kernel("vector", 32, 0.7), TIMES, (0.3, 0.5), (0.4, 0.8, 1.3, 2.0))
    noise, C, _ = datum(peaks((0.4, 0.9, 0.5), (0.6, 1.3, 2.2)), grid)
    one = Positive.for_noise(grid, noise)
    sigma, energies = (tuple(x / c for x in values) for values in (grid.sigma, grid.energies))
    other = Observables(Kernel("vector", 32, 0.7 * c), TIMES, sigma, energies)
    scaled = Positive.for_noise(other, Noise(TIMES, c**-3 * noise.mean, c**-6 * noise.covariance, "scaled"))
    for name in ("mean", "statistical", "systematic", "chi2", "penalty"):
        np.testing.assert_allclose(getattr(scaled(c**-3 * C), name), getattr(one(C), name), rtol=1e-9, err_msg=name)


def test_the_size_of_a_correlator_scales_its_answer() -> None:
    noise, C, _ = datum(delta_tanh())
    positive = Positive.for_noise(GRID, noise)
    one, other = positive(C), positive(3.7 * C)
    np.testing.assert_allclose(other.mean, 3.7 * one.mean, rtol=1e-9)
    np.testing.assert_allclose(other.error, 3.7 * one.error, rtol=1e-9)
    np.testing.assert_allclose([other.chi2, other.penalty], [one.chi2, one.penalty], rtol=1e-9)


def test_it_is_right_on_steep_data() -> None:
    grid = Observables(Kernel("exponential", 48), tuple(range(1, 25)), (0.2,), (1.93, 2.15, 2.41))
    noise, C, truth = datum(peaks((235.0, 180.0, 90.0), (2.15, 2.6, 3.3)), grid)
    found = Positive.for_noise(grid, noise)(C)
    assert found.mean[:, :2] == pytest.approx(truth[:, :2], rel=0.03)
    assert found.mean == pytest.approx(truth, rel=0.15)
    assert found.chi2 < 24 + 3 * np.sqrt(48)


def test_samples_are_linear_with_the_zeros_of_their_centre() -> None:
    noise, C, _ = datum(delta_tanh())
    positive = Positive.for_noise(GRID, noise)
    samples = noise.draw(C, 4000, np.random.default_rng(3))
    samples = samples - samples.mean(axis=0) + C
    around, found = positive.around(C, samples), positive(C)
    np.testing.assert_allclose(around.samples.mean(axis=0), found.mean, rtol=1e-6)
    np.testing.assert_allclose(around.samples.std(axis=0), found.statistical, rtol=0.05)
    whole = positive.bootstrap(samples)
    np.testing.assert_allclose(whole.samples, around.samples, rtol=1e-6)
    many = positive.around(np.stack([C, 1.1 * C]), np.stack([samples[:5], samples[5:10]]))
    assert many.samples.shape == (2, 5, 2, 4)
    assert many.chi2.shape == (2,)


def test_the_covariance_has_the_errors_on_its_diagonal() -> None:
    noise, C, _ = datum(delta_tanh())
    positive = Positive.for_noise(GRID, noise)
    covariance = positive.covariance(np.stack([C, C]))
    assert covariance.shape == (2, 2, 4, 2, 4)
    error = np.sqrt(np.einsum("sese->se", covariance[0]))
    np.testing.assert_allclose(error, positive(C).error, rtol=1e-6)
    assert np.linalg.eigvalsh(covariance[0].reshape(8, 8)).min() > -1e-12 * covariance.max()


def test_faults_are_named() -> None:
    noise, C, _ = datum(delta_tanh())
    other = Observables(Kernel("periodic", 32), (1, 2), (0.3,), (0.5,))
    with pytest.raises(UserError, match="times"):
        Positive.for_noise(other, noise)
    positive = Positive.for_noise(GRID, noise)
    with pytest.raises(UserError, match="not finite"):
        positive(np.full(16, np.nan))
    with pytest.raises(UserError, match="takes"):
        positive(C[:3])
    with pytest.raises(UserError, match="t_ref"):
        positive(0 * C)
