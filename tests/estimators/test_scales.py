"""The same data in GeV, in MeV and in lattice units have one answer, and evidence finds the scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdpipe.errors import UserError
from sdpipe.estimators.bounds import Bounds
from sdpipe.estimators.hlt_solution import HLT
from sdpipe.estimators.posterior import Estimate, Posterior, PriorMoments
from sdpipe.physics.families import FewStatesFamily, PeaksFamily, ResonanceFamily
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise, chi2_p_value, synthetic
from sdpipe.physics.smearing import Sigmoid
from sdpipe.physics.spectra import ChebyshevPrior, delta_tanh, o3, peaks

TIMES = tuple(range(1, 17))
FACTORS = (0.05, 0.3, 2.7, 20.0)


def in_unit(c: float, name: str = "periodic", smearing=None) -> tuple[Observables, Noise, np.ndarray]:
    """Return one lattice, noise and datum with 1/c GeV for the unit of energy."""
    grid = Observables(Kernel(name, 32, 0.7), TIMES, (0.3, 0.5), (0.4, 0.8, 1.3, 2.0))
    clean = grid.split(peaks((0.4, 0.9, 0.5), (0.6, 1.3, 2.2)).integrals(grid))[0]
    noise = synthetic(TIMES, clean, 1e-3, 0.05, 4.0)
    C, z = noise.draw(clean, 1, np.random.default_rng(1))[0], c**-grid.kernel.power
    sigma, energies = (tuple(x / c for x in values) for values in (grid.sigma, grid.energies))
    scaled = Observables(Kernel(name, 32, 0.7 * c), TIMES, sigma, energies, smearing or grid.smearing)
    return scaled, Noise(TIMES, z * noise.mean, z**2 * noise.covariance, "scaled"), z * C


def over_scales(grid: Observables, noise: Noise) -> Posterior:
    return Posterior.for_noise(PriorMoments.over_scales(grid), noise)


def drawn(
    grid: Observables, spectra: list, seed: int = 1, **noise: float
) -> tuple[list[Noise], np.ndarray, np.ndarray]:
    """Return noise of each, noisy C (n, t), and true rho (n, sigma, E)."""
    generator = np.random.default_rng(seed)
    C, rho = grid.split(np.stack([s.integrals(grid) for s in spectra]))
    each = [synthetic(grid.times, c, **({"r1": 1e-3, "delta": 0.03, "tau": 3.0} | noise)) for c in C]
    return each, np.stack([n.draw(c, 1, generator)[0] for n, c in zip(each, C, strict=True)]), rho


@pytest.mark.parametrize("name", ["periodic", "vector", "exponential", "thermal"])
def test_the_same_data_in_another_unit_of_energy_have_the_same_posterior(name: str) -> None:
    grid, noise, C = in_unit(1.0, name)
    one, covariance = over_scales(grid, noise)(C), over_scales(grid, noise).covariance(C)
    for c in FACTORS:
        grid, noise, C = in_unit(c, name)
        posterior = over_scales(grid, noise)
        other = posterior(C)
        np.testing.assert_allclose(other.mean, one.mean, rtol=1e-9)
        np.testing.assert_allclose(other.sd, one.sd, rtol=1e-9)
        np.testing.assert_allclose(posterior.covariance(C), covariance, rtol=1e-9, atol=1e-9 * covariance.max())
        np.testing.assert_allclose(other.features, one.features, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose([c * other.unit, c * other.threshold], [one.unit, one.threshold], rtol=1e-9)
        np.testing.assert_allclose(other.log_evidence, one.log_evidence, rtol=1e-9)


@pytest.mark.parametrize("name", ["periodic", "vector", "exponential", "thermal"])
def test_the_same_data_in_another_unit_of_energy_have_the_same_hlt_and_bounds(name: str) -> None:
    grid, noise, C = in_unit(1.0, name)
    hlt, bounds = HLT.for_noise(grid, noise, 0.2)(C), Bounds.for_noise(grid, noise, 0.1)(C)
    for c in (FACTORS[0], FACTORS[-1]):
        grid, noise, C = in_unit(c, name)
        other, between = HLT.for_noise(grid, noise, 0.2 / c)(C), Bounds.for_noise(grid, noise, 0.1 / c)(C)
        np.testing.assert_allclose(other.mean, hlt.mean, rtol=1e-9)
        np.testing.assert_allclose(other.error, hlt.error, rtol=1e-9)
        np.testing.assert_allclose(between.lower, bounds.lower, rtol=1e-6)  # to what their solver is asked for
        np.testing.assert_allclose(between.upper, bounds.upper, rtol=1e-6)


def test_a_smearing_that_knows_its_unit_is_that_function_of_energies_in_gev() -> None:
    grid, noise, C = in_unit(1.0, smearing=Sigmoid(1))
    one = over_scales(grid, noise)(C)
    truth = grid.split(peaks((0.4, 0.9, 0.5), (0.6, 1.3, 2.2)).integrals(grid))[1]
    assert (np.abs(one.mean - truth) < 3 * one.sd).all()
    grid, noise, C = in_unit(20.0, smearing=Sigmoid(1))
    np.testing.assert_allclose(20.0**2 * over_scales(grid, noise)(C).mean, one.mean, rtol=1e-9)


@pytest.mark.parametrize("c", [2.0**-20, 2.0**20])
def test_the_size_of_a_correlator_scales_it_exactly_for_powers_of_two(c: float) -> None:
    grid, noise, C = in_unit(1.0)
    posterior = over_scales(grid, noise)
    one, other = posterior(C), posterior(c * C)
    assert np.array_equal(c * one.mean, other.mean)
    assert np.array_equal(one.features, other.features)
    assert np.array_equal(posterior.goodness(C)[0], posterior.goodness(c * C)[0])


def test_it_is_right_at_scales_where_a_prior_in_one_unit_is_wrong_and_its_chi2_says_so() -> None:
    grid = Observables(Kernel("exponential", 48), tuple(range(1, 25)), (0.2,), (1.45, 1.93, 2.15, 2.41))
    spectrum = peaks((235.0, 180.0, 90.0), (2.15, 2.6, 3.3))
    noises, C, truth = drawn(grid, [spectrum], r1=8e-4, delta=0.09)
    moments = PriorMoments.from_prior(ChebyshevPrior(64), grid), PriorMoments.over_scales(grid)
    in_gev, averaged = (Posterior.for_noise(one, noises[0]) for one in moments)
    estimate = averaged(C[0])
    assert (np.abs(estimate.mean - truth[0]) < 3 * estimate.sd).all()
    assert (estimate.sd[0, 1:3] < 0.02 * truth[0, 0, 1:3]).all()
    assert 1.5 < estimate.threshold < 2.3
    assert averaged.goodness(C[0])[0] < 24 + 3 * np.sqrt(48)
    assert in_gev.goodness(C[0])[0] > 1000
    assert in_gev(C[0]).log_evidence < estimate.log_evidence - 50


def test_it_covers_densities_at_scales_that_nobody_told_it() -> None:
    grid = Observables(Kernel("periodic", 48), tuple(range(1, 25)), (0.25,), tuple(np.linspace(0.2, 2.4, 8)))
    generator, spectra = np.random.default_rng(4), []
    for i in range(60):
        u = np.exp(generator.uniform(np.log(0.3), np.log(2.0)))
        family = (
            ResonanceFamily((0.5 * u, 1.5 * u), (0.05 * u, 0.3 * u), (0.2 * u, 0.8 * u)),
            PeaksFamily((4, 20), (0.3 * u, 2.5 * u)),
            FewStatesFamily((0.3 * u, 1.2 * u)),
        )[i % 3]
        spectra.append(family.draw(generator))
    noises, C, truth = drawn(grid, spectra, 5)
    moments = PriorMoments.over_scales(grid), PriorMoments.from_prior(ChebyshevPrior(64), grid)
    estimates = [[Posterior.for_noise(one, n)(c) for n, c in zip(noises, C, strict=True)] for one in moments]
    mean, sd = (np.stack([getattr(e, name) for e in estimates[0]]) for name in ("mean", "sd"))
    fixed = np.stack([e.mean for e in estimates[1]])
    error = np.abs(mean - truth)
    assert 0.6 < np.mean(error < sd) < 0.85
    assert np.mean(error < 2 * sd) > 0.9
    relative = [e.sum(axis=(1, 2)) / truth.sum(axis=(1, 2)) for e in (error, np.abs(fixed - truth))]
    assert np.mean(relative[0]) < 0.8 * np.mean(relative[1])


def test_what_its_chi2_is_of_data_that_some_density_makes_and_of_data_that_none_does() -> None:
    grid = Observables(Kernel("vector", 32, 0.5), TIMES, (0.4,), (0.5, 1.0))
    noises, C, _ = drawn(grid, [delta_tanh(), o3(0.7), peaks((0.4, 0.9), (0.6, 1.3))] * 4)
    chi2 = [float(over_scales(grid, n).goodness(c)[0]) for n, c in zip(noises, C, strict=True)]
    assert 4 < np.mean(chi2) < 16
    noise = noises[0]
    broken = C[0] + 5 * np.sqrt(np.diag(noise.covariance)) * (-1.0) ** np.arange(16)
    assert over_scales(grid, noise).goodness(broken)[0] > 100
    stacked = over_scales(grid, noise).goodness(np.stack([[C[0], broken]]))[0]
    np.testing.assert_allclose(stacked, [[chi2[0], over_scales(grid, noise).goodness(broken)[0]]], rtol=1e-3)


@pytest.mark.parametrize("name", ["periodic", "exponential"])
def test_its_p_values_are_uniform_for_densities_that_its_prior_does_not_hold(name: str) -> None:
    generator, p = np.random.default_rng(8), []
    for count, r1 in ((8, 1e-2), (16, 1e-3), (32, 1e-4)):
        grid = Observables(Kernel(name, 2 * count + 8), tuple(range(1, count + 1)), (0.3,), (0.5,))
        spectra = [PeaksFamily((2, 12), (0.3, 2.0)).draw(generator) for _ in range(50)]
        noises, C, _ = drawn(grid, spectra, count, r1=r1)
        moments = PriorMoments.over_scales(grid)
        for noise, c in zip(noises, C, strict=True):
            p.append(float(chi2_p_value(*Posterior.for_noise(moments, noise).goodness(c))))
    shares = [float(np.mean(np.array(p) < level)) for level in (0.01, 0.05, 0.5)]
    assert shares == pytest.approx([0.01, 0.05, 0.5], abs=0.12)
    assert max(shares[0], shares[1] - 0.04) < 0.06


def test_components_that_are_screened_away_have_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, noise, C = in_unit(1.0)
    steep = grid.split(peaks((1.0,), (2.4,)).integrals(grid))[0]
    both, posterior = np.stack([C, steep / steep[0] * C[0]]), over_scales(grid, noise)
    assert len(posterior._near(both[:1]).priors.kind) < 0.5 * len(posterior.priors.kind)
    screened = posterior(both)
    with monkeypatch.context() as patched:
        patched.setattr(Posterior, "_near", lambda self, _: self)
        whole = posterior(both)
    for name in ("mean", "sd", "kinds", "features", "log_evidence", "unit", "threshold"):
        one, other = getattr(screened, name), getattr(whole, name)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max(), err_msg=name)


def test_bootstrap_samples_are_linear_at_the_weights_of_their_correlator() -> None:
    grid, noise, C = in_unit(1.0)
    posterior = over_scales(grid, noise)
    estimate = posterior(C, response=True)
    mean, features = posterior.bootstrap(C, estimate, np.stack([C, 1.01 * C]))
    np.testing.assert_allclose(mean[0], estimate.mean, rtol=1e-8)
    np.testing.assert_allclose(mean[1], 1.01 * estimate.mean, rtol=1e-8)
    assert features.shape == (2, posterior.priors.features)


def test_many_correlators_at_once_have_what_each_has_alone() -> None:
    grid, noise, _ = in_unit(1.0)
    spectra = [peaks((1.0, 0.5), (m, 1.7 * m)) for m in (0.3, 0.6, 1.2)]
    C = grid.split(np.stack([s.integrals(grid) for s in spectra]))[0]
    posterior = over_scales(grid, noise)
    together = posterior(C)
    for i, c in enumerate(C):
        alone: Estimate = posterior(c)
        np.testing.assert_allclose(alone.mean, together.mean[i], rtol=1e-6)
        np.testing.assert_allclose(alone.unit, together.unit[i], rtol=1e-6)
    assert together.threshold[0] < together.threshold[1] < together.threshold[2]
    assert posterior(C[:0]).mean.shape == (0, 2, 4)


def test_faults_are_named() -> None:
    grid = Observables(Kernel("vector", 32), (1,), (0.44,), (0.5, 1.0))
    with pytest.raises(UserError, match="two times or more"):
        PriorMoments.over_scales(grid)
    with pytest.raises(UserError, match="omega_max"):
        PriorMoments.over_scales(replace(grid, times=(1, 2)), ChebyshevPrior(16, omega_max=3.0))


@pytest.mark.parametrize("family", [PeaksFamily((5, 50), (0.3, 1.4)), FewStatesFamily((0.3, 1.4))])
def test_data_that_correlated_noise_shows_to_be_unlike_c_latt_have_errors_that_hold(family) -> None:
    grid = Observables(Kernel("vector", 32), TIMES, (0.44, 0.63), tuple(np.linspace(0.1, 2.5, 20)))
    noise = synthetic(TIMES, grid.split(o3(1.0).integrals(grid))[0], 1e-3, 0.0, 4.0)
    generator = np.random.default_rng(11)
    clean, rho = grid.split(np.stack([family.draw(generator).integrals(grid) for _ in range(100)]))
    C = noise.draw(clean, 1, generator)[:, 0]
    posterior = over_scales(grid, noise)
    estimate, (chi2, dof) = posterior(C, response=True), posterior.goodness(C)
    np.testing.assert_allclose([estimate.chi2, estimate.dof], [chi2, dof], rtol=1e-12)
    off = np.abs(estimate.mean - rho)
    assert np.mean(off < estimate.sd) > 0.6
    assert np.mean(off < 2 * estimate.sd) > 0.9
    assert np.mean(chi2_p_value(chi2, dof) < 0.01) < 0.04
