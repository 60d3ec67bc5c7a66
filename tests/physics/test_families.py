"""Families off the prior keep to their ranges, and their integrals are those of their density."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad

from sdpipe.physics.families import (
    DeltaTanhFamily,
    FewStatesFamily,
    FiniteVolumeFamily,
    O3Family,
    PeaksFamily,
    ResonanceFamily,
    SignChangingFamily,
)
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.spectra import Spectrum, o3

GRID = Observables(Kernel("vector", 32), (1, 4, 16), (0.44,), (0.5, 1.5))
FAMILIES = {
    "o3": O3Family((0.2, 1.3)),
    "resonance": ResonanceFamily((0.5, 1.4), (0.08, 0.3), (0.2, 1.3)),
    "peaks": PeaksFamily((5, 50), (0.3, 2.5)),
    "delta_tanh": DeltaTanhFamily((0.5, 1.4)),
    "finite_volume": FiniteVolumeFamily((0.2, 1.3)),
    "sign_changing": SignChangingFamily((0.5, 1.4), (0.08, 0.3), (0.2, 1.3)),
    "few_states": FewStatesFamily((0.4, 1.4)),
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


def test_levels_of_a_box_are_those_of_two_free_particles() -> None:
    """E = 2 sqrt(m^2 + p^2) with p L a multiple of 2 pi, from the lowest on, none left out up to 25 GeV."""
    family, generator = FiniteVolumeFamily((0.2, 1.3), (4, 12)), np.random.default_rng(4)
    for _ in range(100):
        E, weight = (np.array(v) for v in zip(*[(M, A) for A, M in family.draw(generator).peaks], strict=True))
        m2 = (4 * E[0] ** 2 - E[1] ** 2) / 12  # from the first two levels: E_n^2 = 4 m^2 + 4 n^2 p_1^2
        p1 = np.sqrt(E[0] ** 2 / 4 - m2)
        n = np.arange(1, len(E) + 1)
        assert pytest.approx(2 * np.sqrt(m2 + (n * p1) ** 2), rel=1e-9) == E
        assert 0.1 <= np.sqrt(m2) <= 0.65
        assert 4 <= np.sqrt(m2) * 2 * np.pi / p1 <= 12
        assert E[-1] <= 25 < 2 * np.sqrt(m2 + ((n[-1] + 1) * p1) ** 2)
        gap = 2 * np.sqrt(m2 + ((n + 0.001) * p1) ** 2) - 2 * np.sqrt(m2 + ((n - 0.001) * p1) ** 2)
        assert weight == pytest.approx(o3(2 * np.sqrt(m2)).continuum(E) * gap / 0.002, rel=1e-5)


def test_a_large_box_has_the_density_of_the_infinite_volume() -> None:
    box = FiniteVolumeFamily((0.8, 0.8), (400, 400)).draw(np.random.default_rng(0))
    assert box.integrals(GRID) == pytest.approx(o3(0.8).integrals(GRID), rel=2e-3)


def test_a_sum_of_levels_agrees_with_mpmath() -> None:
    box = FAMILIES["finite_volume"].draw(np.random.default_rng(2))
    mp = mpmath.mp.clone()
    mp.dps = 30
    C, rho = GRID.split(box.integrals(GRID))
    pairs = [(mp.mpf(float(A)), mp.mpf(float(M))) for A, M in box.peaks]
    for t, value in zip(GRID.times, C, strict=True):
        b = [A * M**2 / (12 * mp.pi**2) * (mp.exp(-M * t) + mp.exp(-M * (32 - t))) for A, M in pairs]
        assert abs(value - mp.fsum(b)) <= 1e-6 * mp.fsum(b)
    sigma = mp.mpf(0.44)
    for E, value in zip(GRID.energies, rho[0], strict=True):
        G = [A * mp.exp(-((mp.mpf(E) - M) ** 2) / (2 * sigma**2)) for A, M in pairs]
        assert abs(value - mp.fsum(G) / (mp.sqrt(2 * mp.pi) * sigma)) <= 1e-9


@pytest.mark.parametrize("name", ["sign_changing", "few_states"])
def test_integrals_agree_with_mpmath(name: str) -> None:
    """|delta C| <= 1e-6 int b_T |rho| and |delta rho_sigma| <= 1e-9, the density evaluated in multiple precision."""
    mp = mpmath.mp.clone()
    mp.dps = 20
    s = FAMILIES[name].draw(np.random.default_rng(6))
    zero = [m for m in np.linspace(*s.breaks, 2000) if s.continuum(m) < 0][:1] if s.breaks else []
    around = [f * M for M in s.breaks for f in (0.9, 1, 1.1)]
    edges = [s.threshold, *sorted(e for e in [*around, *zero] if e > s.threshold), 5, 12, 60]
    sigma = mp.mpf(GRID.sigma[0])

    def integral(column: Callable, of: Callable = lambda value: value) -> mpmath.mpf:
        continuum = mp.quad(lambda w: column(w) * of(s.continuum(w)), edges)
        return continuum + mp.fsum(float(A) * column(mp.mpf(float(M))) for A, M in s.peaks)

    C, smeared = GRID.split(s.integrals(GRID))
    for t, value in zip(GRID.times, C, strict=True):

        def b(w, t=t):
            return w**2 / (12 * mp.pi**2) * (mp.exp(-w * t) + mp.exp(-w * (32 - t)))

        assert abs(value - integral(b)) <= 1e-6 * integral(b, abs)
    for E, value in zip(GRID.energies, smeared[0], strict=True):

        def G(w, E=E):
            return mp.exp(-((E - w) ** 2) / (2 * sigma**2)) / (mp.sqrt(2 * mp.pi) * sigma)

        assert abs(value - integral(G)) <= 1e-9


def test_differences_of_peaks_have_both_signs() -> None:
    generator, omega = np.random.default_rng(8), np.linspace(0.1, 10, 2000)
    for _ in range(100):
        s = FAMILIES["sign_changing"].draw(generator)
        rho = s.continuum(omega[omega > s.threshold])
        assert rho.max() > 0.1
        assert rho.min() < -0.05
        M1, M2 = s.breaks
        assert 0.5 <= M1 <= 1.4
        assert 1.3 <= M2 / M1 <= 2
        assert s.threshold <= 0.8 * M1


def test_few_states_lie_below_a_late_continuum() -> None:
    generator = np.random.default_rng(9)
    draws = [FAMILIES["few_states"].draw(generator) for _ in range(300)]
    assert {len(s.peaks) for s in draws} == {2, 3, 4}
    for s in draws:
        masses = [M for _, M in s.peaks]
        assert 0.4 <= masses[0] <= masses[-1] <= 1.4
        assert 1.2 <= s.threshold / masses[-1] <= 2
        assert all(0.2 <= A <= 1.5 for A, _ in s.peaks)
        v = np.linspace(0, 0.999, 200)
        rho = s.continuum(s.threshold / np.sqrt(1 - v**2))
        assert rho == pytest.approx(s.continuum(np.array([1e9])) * v * (3 - v**2) / 2, abs=1e-6)
