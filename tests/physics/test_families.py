"""Families off the prior keep to their ranges, and their integrals are those of their density."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from sdpipe.physics.families import DeltaTanhFamily, O3Family, PeaksFamily, ResonanceFamily
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.spectra import Spectrum

GRID = Observables(Kernel("vector", 32), (1, 4, 16), (0.44,), (0.5, 1.5))
FAMILIES = {
    "o3": O3Family((0.2, 1.3)),
    "resonance": ResonanceFamily((0.5, 1.4), (0.08, 0.3), (0.2, 1.3)),
    "peaks": PeaksFamily((5, 50), (0.3, 2.5)),
    "delta_tanh": DeltaTanhFamily((0.5, 1.4)),
}


def integrand(omega: float, s: Spectrum, column: int) -> float:
    at = np.array([omega])
    return float(s.continuum(at)[0] * GRID.columns(at)[0, column])


@pytest.mark.parametrize("name", FAMILIES)
def test_integrals_agree_with_adaptive_quadrature(name: str) -> None:
    for seed in range(3):
        s = FAMILIES[name].draw(np.random.default_rng(seed))
        expected = sum((A * GRID.columns(np.array([M]))[0] for A, M in s.peaks), np.zeros(GRID.count))
        if s.continuum is not None:
            points = [s.threshold, *s.breaks, s.threshold + 1, s.threshold + 4, s.threshold + 60]
            for j in range(GRID.count):
                for low, high in zip(sorted(points)[:-1], sorted(points)[1:], strict=True):
                    expected[j] += quad(integrand, low, high, (s, j), epsabs=0, epsrel=1e-8, limit=400)[0]
        assert s.integrals(GRID) == pytest.approx(expected, rel=1e-6)


def test_parameters_stay_in_their_ranges() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        assert 0.2 <= FAMILIES["o3"].draw(generator).threshold <= 1.3
        masses = [M for _, M in FAMILIES["peaks"].draw(generator).peaks]
        assert 5 <= len(masses) <= 50
        assert 0.3 <= min(masses) <= max(masses) <= 2.5
        ((_, M),) = FAMILIES["delta_tanh"].draw(generator).peaks
        assert 0.5 <= M <= 1.4
        resonance = FAMILIES["resonance"].draw(generator)
        assert 0.2 <= resonance.threshold <= 0.8 * 1.4


def test_a_resonance_is_zero_at_threshold_and_peaks_near_its_mass() -> None:
    omega = np.linspace(0.01, 4, 4000)
    for seed in range(20):
        s = FAMILIES["resonance"].draw(np.random.default_rng(seed))
        above = omega[omega >= s.threshold]
        rho = s.continuum(above)
        assert (rho >= 0).all()
        assert rho[0] < 0.05 * rho.max()
        (mass,) = s.breaks
        near = (above > 0.7 * mass) & (above < 1.3 * mass)
        assert rho[near].max() > 0.3 * rho.max()


def test_peaks_average_to_a_density_of_one() -> None:
    generator = np.random.default_rng(3)
    total = [sum(A for A, _ in FAMILIES["peaks"].draw(generator).peaks) for _ in range(2000)]
    assert np.mean(total) == pytest.approx(2.2, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_draw_is_a_function_of_its_generator(family) -> None:
    one, two = (family.draw(np.random.default_rng(9)).integrals(GRID) for _ in range(2))
    assert np.array_equal(one, two)
