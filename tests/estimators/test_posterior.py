"""The closed-form posterior against sampling, its coverage, its limits, and its independence of the size of C(t)."""

from __future__ import annotations

import numpy as np
import pytest

from sdpipe.errors import UserError
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise, synthetic
from sdpipe.physics.spectra import ChebyshevPrior, delta_tanh, o3, peaks

TIMES = tuple(range(1, 17))
ENERGIES = tuple(np.linspace(0.10566, 2.53584, 47))
GRID = Observables(Kernel("vector", 32), TIMES, (0.44,), ENERGIES)
PRIOR = ChebyshevPrior(128)


def noise_on(grid: Observables, r1: float = 1e-3, tau: float = 4.0) -> Noise:
    return synthetic(grid.times, grid.split(o3(1.0).integrals(grid))[0], r1, 0.0, tau)


@pytest.fixture(scope="module")
def hierarchical() -> Posterior:
    return Posterior.for_noise(PriorMoments.from_prior(PRIOR, GRID), noise_on(GRID))


def noisy_draws(grid: Observables, noise: Noise, integrals: np.ndarray, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    C, rho = grid.split(integrals)
    return noise.draw(C, 1, np.random.default_rng(seed))[:, 0], rho


def gaussian_draws(prior: ChebyshevPrior, grid: Observables, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return integrals of draws whose coefficients are Gaussian, with the variances of the prior."""
    c = generator.standard_normal((count, prior.Nb)) / np.sqrt(3) / np.maximum(np.arange(prior.Nb), 1)
    return prior.quadrature(grid)(c, generator.uniform(*prior.E0, count))


def test_mean_and_sd_are_those_of_a_million_weighted_draws() -> None:
    grid = Observables(Kernel("vector", 12), (1, 2, 3, 4), (0.4, 0.6), (0.4, 0.8, 1.4))
    prior, noise = ChebyshevPrior(8), noise_on(grid, r1=0.05, tau=2.0)
    posterior = Posterior.for_noise(PriorMoments.from_prior(prior, grid, hierarchical=False), noise)
    generator, count = np.random.default_rng(5), 1_000_000
    C, rho = grid.split(gaussian_draws(prior, grid, count + 1, generator))
    data = noise.draw(C[:1], 1, generator)[0, 0]
    misfit = np.linalg.solve(noise.cholesky, (data - C[1:]).T) / noise.scale(data)
    log_w = -np.sum(misfit**2, axis=0) / 2
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    assert 1 / np.sum(w**2) > 500
    mean = np.einsum("i,ise->se", w, rho[1:])
    off = (rho[1:] - mean) ** 2
    variance = np.einsum("i,ise->se", w, off)
    error_of_mean = np.sqrt(np.einsum("i,ise->se", w**2, off))
    error_of_variance = np.sqrt(np.einsum("i,ise->se", w**2, (off - variance) ** 2))
    estimate = posterior(data)
    assert (np.abs(estimate.mean - mean) < 4 * error_of_mean).all()
    assert (np.abs(estimate.sd**2 - variance) < 4 * error_of_variance).all()
    implied = w @ C[1:]
    error_of_implied = np.sqrt(w**2 @ (C[1:] - implied) ** 2)
    assert (np.abs(posterior.implied(data) - implied) < 4 * error_of_implied).all()
    assert (error_of_implied < 0.2 * abs(noise.scale(data)) * np.sqrt(np.diag(noise.covariance))).all()


def test_it_covers_the_prior_and_beats_the_best_linear_estimator() -> None:
    noise = noise_on(GRID)
    posterior = Posterior.for_noise(PriorMoments.from_prior(PRIOR, GRID, hierarchical=False), noise)
    quadrature = PRIOR.quadrature(GRID)
    train = noisy_draws(GRID, noise, quadrature(*PRIOR.draw(1, "linear", 0, 20_000)))
    C, rho = noisy_draws(GRID, noise, quadrature(*PRIOR.draw(1, "fresh", 0, 3_000)), 2)
    estimate = posterior(C)
    error = np.abs(estimate.mean - rho)
    assert 100 * np.mean(error < estimate.sd) == pytest.approx(67.7, abs=1.5)
    assert 100 * np.mean(error < 2 * estimate.sd) == pytest.approx(95.5, abs=1.5)
    unit = train[0].std(axis=0)
    weight = np.linalg.lstsq(train[0] / unit, train[1][:, 0], rcond=1e-15)[0]
    linear = np.abs(C / unit @ weight - rho[:, 0])
    assert error.mean() / linear.mean() == pytest.approx(0.785, abs=0.04)

    C, rho = noisy_draws(GRID, noise, gaussian_draws(PRIOR, GRID, 3_000, np.random.default_rng(3)), 4)
    estimate = posterior(C)
    error = np.abs(estimate.mean - rho)
    assert 100 * np.mean(error < estimate.sd) == pytest.approx(68.3, abs=1.5)
    assert 100 * np.mean(error < 2 * estimate.sd) == pytest.approx(95.4, abs=1)


@pytest.mark.parametrize("c", [2.0**-20, 2.0**20])
def test_the_size_of_a_correlator_scales_its_posterior_exactly_for_powers_of_two(hierarchical, c: float) -> None:
    C, _ = noisy_draws(GRID, hierarchical.noise, np.stack([s.integrals(GRID) for s in (o3(0.7), delta_tanh())]))
    one, other = hierarchical(C), hierarchical(c * C)
    assert np.array_equal(c * one.mean, other.mean)
    assert np.array_equal(c * one.sd, other.sd)
    assert np.array_equal(one.features, other.features)
    assert np.array_equal(c**2 * hierarchical.covariance(C), hierarchical.covariance(c * C))


@pytest.mark.parametrize("c", [1e-6, 3.7, 1e6])
def test_the_size_of_a_correlator_scales_its_posterior_to_rounding(hierarchical, c: float) -> None:
    C, _ = noisy_draws(GRID, hierarchical.noise, np.stack([s.integrals(GRID) for s in (o3(0.7), delta_tanh())]))
    one, other = hierarchical(C), hierarchical(c * C)
    assert other.mean == pytest.approx(c * one.mean, rel=1e-8, abs=1e-8 * c * np.abs(one.mean).max())
    assert other.sd == pytest.approx(c * one.sd, rel=1e-6)
    assert other.features == pytest.approx(one.features, rel=1e-6, abs=1e-6)


def test_a_known_amplitude_makes_it_depend_on_the_size() -> None:
    noise = noise_on(GRID)
    posterior = Posterior.for_noise(PriorMoments.from_prior(PRIOR, GRID, hierarchical=False), noise)
    C, _ = GRID.split(o3(0.7).integrals(GRID))
    assert (posterior(100 * C).sd < 50 * posterior(C).sd).any()


def test_covariance_is_positive_with_the_variance_on_its_diagonal() -> None:
    grid = Observables(Kernel("vector", 32), TIMES, (0.44, 0.63), (0.2, 0.6, 1.0, 1.6, 2.4))
    posterior = Posterior.for_noise(PriorMoments.from_prior(PRIOR, grid), noise_on(grid))
    spectra = (o3(0.7), delta_tanh(), peaks((0.4, 0.9), (0.6, 1.3)))
    C, _ = noisy_draws(grid, posterior.noise, np.stack([s.integrals(grid) for s in spectra]))
    covariance, sd = posterior.covariance(C), posterior(C).sd
    assert covariance.shape == (3, 2, 5, 5)
    assert np.array_equal(covariance, covariance.swapaxes(-1, -2))
    assert np.linalg.eigvalsh(covariance).min() > -1e-12 * covariance.max()
    assert np.einsum("nsee->nse", covariance) == pytest.approx(sd**2, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "period", "spacing", "times"),
    [
        ("vector", 48, 0.5, tuple(range(1, 25))),
        ("periodic", 24, 1.0, (1, 2, 4, 7, 12)),
        ("exponential", 32, 2.0, (2, 3)),
    ],
)
def test_its_variance_is_that_of_its_errors_for_any_kernel_period_and_times(name, period, spacing, times) -> None:
    grid, prior = Observables(Kernel(name, period, spacing), times, (0.5,), (0.5, 1.0, 1.5)), ChebyshevPrior(32)
    noise, generator = noise_on(grid, tau=2.0), np.random.default_rng(8)
    C, rho = noisy_draws(grid, noise, gaussian_draws(prior, grid, 3_000, generator))
    known = Posterior.for_noise(PriorMoments.from_prior(prior, grid, hierarchical=False), noise)(C)
    assert np.mean(((known.mean - rho) / known.sd) ** 2) == pytest.approx(1, abs=0.1)
    unknown = Posterior.for_noise(PriorMoments.from_prior(prior, grid), noise)(C)
    assert np.mean(np.abs(unknown.mean - rho) < unknown.sd) > 0.65


def test_levels_cover_spectra_that_a_smooth_prior_does_not(hierarchical) -> None:
    generator = np.random.default_rng(6)
    masses = [np.sort(generator.uniform(0.3, 2.5, 8)) for _ in range(200)]
    spectra = [peaks(tuple(generator.uniform(0.1, 1, 8)), tuple(m)) for m in masses]
    C, rho = noisy_draws(GRID, hierarchical.noise, np.stack([s.integrals(GRID) for s in spectra]))
    smooth = Posterior.for_noise(PriorMoments.from_prior(PRIOR, GRID, hierarchical=False), hierarchical.noise)(C)
    estimate = hierarchical(C)
    assert np.mean(np.abs(smooth.mean - rho) < smooth.sd) < 0.4
    assert np.mean(np.abs(estimate.mean - rho) < estimate.sd) > 0.6
    assert np.mean(np.abs(estimate.mean - rho)) < 0.7 * np.mean(np.abs(smooth.mean - rho))
    assert estimate.kinds.sum(axis=-1) == pytest.approx(np.ones(200))
    assert estimate.kinds[:, 1:].sum(axis=1).mean() > 0.5


def test_without_noise_few_modes_are_known() -> None:
    prior = ChebyshevPrior(4, E0=(0.7, 0.7 + 1e-6))
    grid = Observables(Kernel("vector", 16), tuple(range(1, 9)), (0.4,), (0.5, 1.0, 1.5))
    C, rho = grid.split(prior.quadrature(grid)(np.array([[0, 0.6, -0.3, 0.2]]), np.array([0.7])))
    moments = PriorMoments.from_prior(prior, grid, hierarchical=False, floor=1e-9)
    sd = [Posterior.for_noise(moments, noise_on(grid, r1))(C).sd for r1 in (1e-2, 1e-4, 1e-6)]
    exact = Posterior.for_noise(moments, noise_on(grid, 1e-6))(C)
    assert (sd[0] > 10 * sd[1]).all()
    assert (sd[1] > 10 * sd[2]).all()
    assert exact.mean == pytest.approx(rho, rel=1e-3)


def test_data_that_say_nothing_leave_the_prior() -> None:
    noise = noise_on(GRID, r1=1e7)
    posterior = Posterior.for_noise(PriorMoments.from_prior(PRIOR, GRID, hierarchical=False), noise)
    C, rho = GRID.split(PRIOR.quadrature(GRID)(*PRIOR.draw(1, "prior", 0, 20_000)))
    estimate = posterior(C[0])
    assert np.abs(estimate.mean).max() < 1e-3
    assert estimate.sd == pytest.approx(np.sqrt(np.mean(rho**2, axis=0)), rel=0.03)


def test_bootstrap_samples_are_linear_in_the_data_at_the_weights_of_their_mean(hierarchical) -> None:
    noise, generator = hierarchical.noise, np.random.default_rng(3)
    C, _ = noisy_draws(GRID, noise, np.stack([o3(1.0).integrals(GRID), delta_tanh().integrals(GRID)]))
    estimate, samples = hierarchical(C, response=True), noise.draw(C, 30, generator)
    mean, features = hierarchical.bootstrap(C, estimate, np.concatenate([C[:, None], samples], axis=1))
    np.testing.assert_allclose(mean[:, 0], estimate.mean, rtol=1e-8)
    np.testing.assert_allclose(features[:, 0], estimate.features, rtol=1e-8, atol=1e-8)
    halfway, _ = hierarchical.bootstrap(C, estimate, (samples[:, :10] + samples[:, 10:20]) / 2)
    np.testing.assert_allclose(halfway, (mean[:, 1:11] + mean[:, 11:21]) / 2, rtol=1e-7)


def test_the_implied_correlator_is_nearer_to_the_truth_than_the_data_and_leaves_what_no_rho_makes(hierarchical) -> None:
    clean, noise = GRID.split(delta_tanh().integrals(GRID))[0], hierarchical.noise
    error = noise.scale(clean) * np.sqrt(np.diag(noise.covariance))
    data = noise.draw(clean, 200, np.random.default_rng(9))
    of_data, of_implied = (np.mean(((C - clean) / error) ** 2) for C in (data, hierarchical.implied(data)))
    assert of_implied < 0.95 * of_data
    broken = clean + 5 * error * (-1.0) ** np.arange(len(clean))
    left = (broken - hierarchical.implied(broken)) / error
    assert np.abs(left).max() > 3
    assert np.array_equal(4 * hierarchical.implied(data[0]), hierarchical.implied(4 * data[0]))


def test_what_noise_adds_and_what_is_not_resolved_make_the_covariance(hierarchical) -> None:
    C, _ = noisy_draws(GRID, hierarchical.noise, np.stack([o3(1.0).integrals(GRID), delta_tanh().integrals(GRID)]))
    estimate = hierarchical(C, response=True)
    resolved, covariance = hierarchical.resolved(C, estimate), hierarchical.covariance(C)
    left = np.linalg.eigvalsh(covariance - resolved)
    assert (left > -1e-10 * left[..., -1:]).all()
    samples = hierarchical.noise.draw(C, 20_000, np.random.default_rng(4))
    mean, _ = hierarchical.bootstrap(C, estimate, samples)
    np.testing.assert_allclose(mean.std(axis=1) ** 2, np.diagonal(resolved, axis1=2, axis2=3), rtol=0.06)


def test_data_are_not_taken_for_better_than_their_rounding() -> None:
    generator = np.random.default_rng(7)
    C, rho = GRID.split(np.stack([delta_tanh(mass=m).integrals(GRID) for m in generator.uniform(0.4, 0.9, 100)]))
    noise = noise_on(GRID)
    data = noise.draw(C, 1, generator)[:, 0] * (1 + 1e-5 * generator.standard_normal(C.shape))
    covered = {}
    for floor in (0.0, 1e-5):
        estimate = Posterior.for_noise(PriorMoments.from_prior(PRIOR, GRID, floor=floor), noise)(data)
        covered[floor] = np.mean(np.abs(estimate.mean - rho) < 2 * estimate.sd)
    assert covered[1e-5] > 0.93
    assert covered[0.0] < covered[1e-5] - 0.1


def test_one_correlator_has_the_posterior_that_it_has_among_others(hierarchical) -> None:
    C, _ = noisy_draws(GRID, hierarchical.noise, PRIOR.quadrature(GRID)(*PRIOR.draw(2, "batch", 0, 1_200)))
    together = hierarchical(C.reshape(2, 600, -1))
    assert together.mean.shape == together.sd.shape == (2, 600, 1, 47)
    assert together.features.shape[:2] == (2, 600)
    alone = hierarchical(C[777])
    assert alone.mean == pytest.approx(together.mean[1, 177], rel=1e-9, abs=1e-12)
    assert alone.features == pytest.approx(together.features[1, 177], rel=1e-9, abs=1e-9)
    assert hierarchical(C[:0]).mean.shape == (0, 1, 47)


def test_a_wide_smearing_has_fewer_modes() -> None:
    grid = Observables(Kernel("vector", 32), TIMES, (5.0,), ENERGIES)
    estimate = Posterior.for_noise(PriorMoments.from_prior(PRIOR, grid), noise_on(grid))(
        o3(0.7).integrals(grid)[: len(TIMES)]
    )
    assert np.isfinite(estimate.features).all()
    assert estimate.features.size < 45


def test_faults_are_named() -> None:
    one = Observables(Kernel("vector", 32), (1,), (0.44,), (0.5, 1.0))
    with pytest.raises(UserError, match="two times or more"):
        PriorMoments.from_prior(PRIOR, one)
    moments = PriorMoments.from_prior(
        ChebyshevPrior(16), Observables(Kernel("vector", 32), (1, 2), (0.44,), (0.5, 1.0))
    )
    with pytest.raises(UserError, match="times"):
        Posterior.for_noise(moments, noise_on(GRID))
    posterior = Posterior.for_noise(moments, noise_on(moments.observables))
    for bad in (np.array([1.0, np.nan]), np.array([np.inf, 1.0])):
        with pytest.raises(UserError, match="not finite"):
            posterior(bad)
    with pytest.raises(UserError, match="zero at every time"):
        posterior(np.zeros((3, 2)))
    with pytest.raises(UserError, match="takes"):
        posterior(np.ones(3))


@pytest.mark.parametrize("name", ["vector", "periodic", "exponential"])
def test_a_prior_in_other_units_gives_the_same_answer_for_data_in_these(name: str) -> None:
    unit, times, E = 0.4, tuple(range(1, 13)), (0.5, 1.0, 1.5)
    one = Observables(Kernel(name, 24, 0.8), times, (0.44,), E)
    other = Observables(Kernel(name, 24, 0.8 / unit), times, (0.44 * unit,), tuple(unit * e for e in E))
    C = one.split(delta_tanh().integrals(one))[0]
    scaled = unit**one.kernel.power * C
    said = [
        Posterior.for_noise(
            PriorMoments.from_prior(ChebyshevPrior(16, unit=u), grid), synthetic(times, mean, 1e-3, 0, 4)
        )(mean)
        for u, grid, mean in ((1.0, one, C), (unit, other, scaled))
    ]
    np.testing.assert_allclose(said[1].mean, said[0].mean, rtol=1e-7)
    np.testing.assert_allclose(said[1].sd, said[0].sd, rtol=1e-6)
    np.testing.assert_allclose(said[1].features, said[0].features, rtol=1e-5, atol=1e-5)
