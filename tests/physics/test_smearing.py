"""Smearing functions against mpmath, on their own and through every integral, and what falls too slowly."""

from __future__ import annotations

from dataclasses import replace

import mpmath as mp
import numpy as np
import pytest

from sdpipe.errors import UserError
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.physics import rng
from sdpipe.physics.kernels import Kernel, Observables, gaussian
from sdpipe.physics.noise import synthetic
from sdpipe.physics.prior import Levels, Mixture
from sdpipe.physics.samples import generate
from sdpipe.physics.smearing import Cauchy, Function, Gaussian, HalfNorm, Sigmoid, Sinh, Smearing, Tail, Tau
from sdpipe.physics.spectra import ChebyshevPrior, Spectrum, o3, peaks

OWN = Function(lambda E, omega, sigma: omega**2 * np.exp(-3 * omega) * np.cos(E * omega) / sigma, Tail(3.0, 2))


def smooth_step(x, s, kind):
    return 1 / (1 + mp.exp(-x / s)) if kind == "sigmoid" else mp.erfc(-x / s) / 2


def tau_kernel(E, w, s, part, power, kind):
    x = w / E
    return (1 - x**2) ** 2 * (1 + 2 * x**2 if part == "T" else 1) / x**power * smooth_step(E - w, s, kind)


CASES = {
    "gaussian": (Gaussian(), lambda E, w, s: mp.npdf(w, E, s)),
    "halfnorm": (HalfNorm(), lambda E, w, s: mp.npdf(w, E, s) / (1 - mp.ncdf(0, E, s))),
    "cauchy-re": (Cauchy("re"), lambda E, w, s: mp.re(1 / (w - E - 1j * s))),
    "cauchy-im": (Cauchy("im"), lambda E, w, s: mp.im(1 / (w - E - 1j * s))),
    "sigmoid-0": (Sigmoid(0), lambda E, w, s: smooth_step(E - w, s, "sigmoid")),
    "sigmoid-2": (Sigmoid(2), lambda E, w, s: (E - w) ** 2 * smooth_step(E - w, s, "sigmoid")),
    "erf-1": (Sigmoid(1, "erf"), lambda E, w, s: (E - w) * smooth_step(E - w, s, "erf")),
    "tau-T": (Tau("T"), lambda E, w, s: tau_kernel(E, w, s, "T", 1, "sigmoid")),
    "tau-L": (Tau("L", -1, "erf"), lambda E, w, s: tau_kernel(E, w, s, "L", -1, "erf")),
    "sinh": (Sinh(), lambda E, w, s: 2 / (mp.pi * s) ** 2 * ((w - E) / mp.sinh((w - E) / s) if w != E else s)),
    "own": (OWN, lambda E, w, s: w**2 * mp.exp(-3 * w) * mp.cos(E * w) / s),
}
SIGMA, ENERGIES = (0.3, 0.6), (0.4, 1.1)


@pytest.mark.parametrize("name", CASES)
def test_it_is_its_formula(name: str) -> None:
    smearing, formula = CASES[name]
    omega = np.array([0.05, 0.4, 0.40001, 0.9, 1.3, 4.0])
    for E in ENERGIES:
        for s in SIGMA:
            exact = [float(formula(mp.mpf(E), mp.mpf(float(w)), mp.mpf(s))) for w in omega]
            assert smearing(E, omega, s) == pytest.approx(exact, rel=1e-12, abs=1e-15)
            assert smearing.grown(E, omega, s, 0.7) == pytest.approx(exact * np.exp(0.7 * omega), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", [n for n in CASES if n != "cauchy-re"])
def test_integrals_over_a_continuum_agree_with_mpmath(name: str) -> None:
    smearing, formula = CASES[name]
    grid = Observables(Kernel("vector", 16), (1, 8), SIGMA, ENERGIES, smearing)
    threshold = 0.5
    C, rho = grid.split(o3(threshold).integrals(grid))

    def density(w):
        if w == threshold:
            return mp.mpf(0)
        theta = 2 * mp.acosh(w / threshold)
        return 3 * mp.pi**3 / 4 / theta**2 * (theta**2 + mp.pi**2) / (theta**2 + 4 * mp.pi**2) * mp.tanh(theta / 2) ** 3

    cuts = [threshold, 0.7, 1.1, 2, 4, 8, 16, 32, *([] if name != "cauchy-im" else [1e2, 1e3, 1e5, 1e8, mp.inf])]
    with mp.workdps(20):
        for i, s in enumerate(SIGMA):
            for j, E in enumerate(ENERGIES):
                exact = mp.quad(lambda w: density(w) * formula(mp.mpf(E), w, mp.mpf(s)), cuts)  # noqa: B023
                assert rho[i, j] == pytest.approx(float(exact), rel=1e-9, abs=1e-10)
    assert pytest.approx(grid.split(o3(threshold).integrals(Observables(grid.kernel, (1, 8), SIGMA, ENERGIES)))[0]) == C


def test_the_real_part_is_integrated_over_densities_that_end() -> None:
    grid = Observables(Kernel("exponential", 16), (1, 8), (0.1,), (0.8,), Cauchy("re"))
    C, rho = grid.split(peaks((0.5, 2.0), (0.6, 1.3)).integrals(grid))
    assert rho[0, 0] == pytest.approx(0.5 * -0.2 / 0.05 + 2 * 0.5 / 0.26)
    assert C[0] == pytest.approx(0.5 * np.exp(-0.6) + 2 * np.exp(-1.3))
    with pytest.raises(UserError, match="falls too slowly"):
        o3(0.5).integrals(grid)
    spectrum = Spectrum(continuum=lambda w: np.ones_like(w), threshold=0.2)
    _, rho = grid.split(spectrum.integrals(grid, omega_max=3.0))
    assert rho[0, 0] == pytest.approx(np.log((2.2**2 + 0.01) / (0.6**2 + 0.01)) / 2, rel=1e-9)


@pytest.mark.parametrize("name", ["halfnorm", "cauchy-im", "sigmoid-0", "tau-T", "sinh", "own"])
def test_the_posterior_takes_any(name: str) -> None:
    smearing = CASES[name][0]
    prior = ChebyshevPrior(32)
    grid = Observables(Kernel("vector", 24), tuple(range(1, 13)), (0.4,), (0.8, 1.4), smearing)
    C, rho = grid.split(np.stack([s.integrals(grid) for s in (o3(0.6), peaks((0.4, 0.8), (0.5, 1.2)))]))
    noise = synthetic(grid.times, C[0], 1e-3, 0.0, 4.0)
    estimate = Posterior.for_noise(PriorMoments.from_prior(prior, grid), noise)(C)
    assert (np.abs(estimate.mean - rho) < 3 * estimate.sd).all()


@pytest.mark.parametrize("name", CASES)
def test_what_networks_are_taught_agrees_with_mpmath(name: str) -> None:
    """rho_sigma(E) of draws of the prior, a series and a comb of delta functions, as ``generate`` makes them."""
    smearing, formula = CASES[name]
    end = 6.0 if name == "cauchy-re" else None
    kernel = Kernel("thermal" if name == "sinh" else "vector", 16)
    grid, prior = Observables(kernel, (1, 8), SIGMA, ENERGIES, smearing), ChebyshevPrior(8, omega_max=end)
    rho = [generate(Mixture({kind: 1}, prior), grid, 1, 0, 2).smeared[1] for kind in ("chebyshev", "levels")]
    (c,), (E0,) = prior.draw(1, "generate", 1, 2)
    levels = Levels(prior)
    weights = levels.draw(rng.generator(1, "generate", "levels", 0), 64)[1]

    def series(w):
        x = 1 - 2 * mp.exp(-w)
        return mp.fsum(a * (mp.chebyt(n, x) - mp.chebyt(n, 1 - 2 * mp.exp(-mp.mpf(E0)))) for n, a in enumerate(c))

    far = [6, 12, 40, *([1e2, 1e3, 1e5, 1e8, mp.inf] if name == "cauchy-im" else [])]
    cuts = [mp.mpf(E0), *(w for w in (0.4, 0.8, 1.1, 1.5, 2, 3) if w > E0), *([end] if end else far)]
    with mp.workdps(20):
        for i, s in enumerate(SIGMA):
            for j, E in enumerate(ENERGIES):
                exact = mp.quad(lambda w: series(w) * formula(mp.mpf(E), w, mp.mpf(s)), cuts)  # noqa: B023
                assert rho[0][i, j] == pytest.approx(float(exact), rel=1e-9, abs=1e-9)
                there = np.flatnonzero(weights)
                exact = mp.fsum(weights[k] * formula(mp.mpf(E), mp.mpf(levels.masses[k]), mp.mpf(s)) for k in there)
                assert rho[1][i, j] == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("unit", [0.25, 3.0])
def test_a_smearing_in_one_over_energy_is_the_same_in_any_unit(unit: float) -> None:
    for name in ("halfnorm", "cauchy-im", "sinh"):
        grid = Observables(Kernel("periodic", 16, 0.7), (1, 8), SIGMA, ENERGIES, CASES[name][0])
        prior = ChebyshevPrior(8, (0.2 / unit, 1.3 / unit), unit=unit)
        made = generate(prior, grid, 1, 0, 1)
        (c,), (E0,) = prior.draw(1, "generate", 0, 1)
        spectrum = Spectrum(
            continuum=lambda w: replace(prior, unit=1.0).rho(w / unit, c[None], np.array([E0]))[0],  # noqa: B023
            threshold=unit * E0,
        )
        C, rho = grid.split(spectrum.integrals(grid))
        assert made.smeared[0] == pytest.approx(rho, rel=1e-8, abs=1e-9)
        assert made.correlator[0] == pytest.approx(C, rel=1e-6)
    with pytest.raises(UserError, match="sigmoid is for energies in GeV"):
        replace(grid, smearing=Sigmoid()).in_units(unit)


def test_the_thermal_kernel_is_its_formula_and_finite_at_zero() -> None:
    kernel = Kernel("thermal", 12, 0.7)
    assert kernel.parity
    assert kernel.units == "GeV^2"
    omega = np.array([0.0, 1e-8, 0.3, 2.0, 9.0])
    for t in (1, 3, 6):
        exact = [2 / (0.7 * 12)] + [
            float(mp.mpf(w) * mp.cosh(0.7 * w * (t - 6)) / mp.sinh(0.7 * w * 6)) for w in omega[1:].tolist()
        ]
        assert kernel(t, omega) == pytest.approx(exact, rel=1e-12)
        assert kernel(t, omega, shift=0.5) == pytest.approx(exact * np.exp(0.35 * omega), rel=1e-12)
    grid = Observables(kernel, (1, 6), (0.5,), (0.0, 0.8), Sinh())
    spectrum = Spectrum(continuum=lambda w: np.exp(-w), threshold=0.0)
    C, rho = grid.split(spectrum.integrals(grid))
    with mp.workdps(20):
        for i, t in enumerate((1, 6)):
            exact = mp.quad(
                lambda w: w * mp.cosh(0.7 * w * (t - 6)) / mp.sinh(4.2 * w) * mp.exp(-w),  # noqa: B023
                [0, 1, 4, 16, 60],
            )
            assert C[i] == pytest.approx(float(exact), rel=1e-9)
        for i, E in enumerate((0.0, 0.8)):
            exact = mp.quad(lambda w: CASES["sinh"][1](E, w, mp.mpf(0.5)) * mp.exp(-w), [0, 0.8, 2, 8, 30])  # noqa: B023
            assert rho[0, i] == pytest.approx(float(exact), rel=1e-9)


def test_gaussian_is_what_it_was_to_the_last_bit() -> None:
    kernel, omega = Kernel("vector", 32), np.linspace(0.01, 9, 500)
    grid = Observables(kernel, (1, 7), (0.3, 0.6), (0.2, 1.4))
    assert grid == Observables(kernel, (1, 7), (0.3, 0.6), (0.2, 1.4), Gaussian())
    b, G = grid.split(grid.columns(omega))
    assert np.array_equal(G[:, 1, 0], gaussian(0.2, omega, 0.6))
    expected = omega**2 / (12 * np.pi**2) * (np.exp(-1.0 * omega * 7.0) + np.exp(-1.0 * omega * 25.0))
    assert np.array_equal(b[:, 1], expected)


def test_faults_of_a_function_are_named() -> None:
    with pytest.raises(UserError, match=r"gives inf at omega = 0\.5$"):
        Function(lambda _E, omega, _s: np.where(omega == 0.5, np.inf, 0), Tail(1.0))(0, np.array([0.1, 0.5]), 1)
    with pytest.raises(UserError, match="complex"):
        Function(lambda _E, omega, _s: 1j * omega, Tail(1.0))(0, np.array([0.1]), 1)


def test_every_kind_has_a_name_of_its_own() -> None:
    kinds = [Gaussian, HalfNorm, Cauchy, Sigmoid, Tau, Sinh, Function]
    assert len({k.name for k in kinds}) == len(kinds)
    assert all(issubclass(k, Smearing) and k.__doc__ for k in kinds)
