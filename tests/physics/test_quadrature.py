"""Integrals of the Chebyshev prior against mpmath at 30 digits, and the rule behind them."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import mpmath
import numpy as np
import pytest

from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.quadrature import integrate, nodes_and_weights, refine
from sdpipe.physics.spectra import ChebyshevPrior

mp = mpmath.mp.clone()
mp.dps = 30

FIXED_POINT = 2**160
COARSE, FINE = (24, 12.0), (30, 9.0)
"""Two reference rules: Gauss-Legendre nodes in a panel, and the phase of the fastest mode over a panel."""

SIGMA, ENERGIES = (0.44, 0.63), (0.10566, 0.95094, 2.53584)
C_TOLERANCE, RHO_TOLERANCE = 1e-6, 1e-9


@cache
def gauss_legendre(n):
    """Nodes and weights on [-1, 1]: the roots of P_n, by Newton's method from double precision."""
    rule = []
    for guess in np.polynomial.legendre.leggauss(n)[0]:
        x = mp.mpf(guess)
        for _ in range(3):
            below, p = mp.mpf(1), x
            for k in range(2, n + 1):
                below, p = p, ((2 * k - 1) * x * p - (k - 1) * below) / k
            slope = n * (x * p - below) / (x * x - 1)
            x -= p / slope
        rule.append((x, 2 / ((1 - x * x) * slope * slope)))
    return rule


def chebyshev_sum(c, x):
    """Clenshaw's recurrence for sum_n c_n T_n(x) at all points x, in 160-bit fixed point."""
    x = np.array([int(v * FIXED_POINT) for v in x], object)
    above, b = x * 0, x * 0
    for value in reversed(c[1:]):
        above, b = b, (2 * x * b // FIXED_POINT) - above + int(mp.mpf(value) * FIXED_POINT)
    total = (x * b // FIXED_POINT) - above + int(mp.mpf(c[0]) * FIXED_POINT)
    return [mp.mpf(int(v)) / FIXED_POINT for v in total]


def panels(E0, end, size, phase):
    """Edges from E0 to ``end``; theta of x = cos(theta) turns by d theta = tan(theta / 2) d omega."""
    edges = [E0]
    while edges[-1] < end:
        omega = edges[-1]
        sine = np.exp(-omega / 2)
        turn = size * sine / np.sqrt(1 - sine**2)
        longest = 0.25 if omega < 6 else omega / 4
        edges.append(min(omega + min(phase / turn, longest), end))
    return edges


@dataclass
class Reference:
    """One spectral density on the nodes of a fixed rule, in mpf, for any number of t and E."""

    omega: list
    weighted: list

    @classmethod
    def of(cls, c, E0, end, rule=COARSE):
        nodes, phase = rule
        edges = panels(float(E0), end, len(c), phase)
        omega, weight = [], []
        for low, high in pairwise(edges):
            half, middle = (mp.mpf(high) - mp.mpf(low)) / 2, (mp.mpf(high) + mp.mpf(low)) / 2
            omega += [middle + half * x for x, _ in gauss_legendre(nodes)]
            weight += [half * w for _, w in gauss_legendre(nodes)]
        *P, at_E0 = chebyshev_sum(c, [1 - 2 * mp.exp(-w) for w in [*omega, mp.mpf(float(E0))]])
        return cls(omega, [w * (p - at_E0) for w, p in zip(weight, P, strict=True)])

    def correlator(self, name, a, T, t):
        """Return int b_T rho and int b_T |rho|."""

        def b(omega):
            value = mp.exp(-a * omega * t)
            if name != "exponential":
                value += mp.exp(-a * omega * (T - t))
            return value * omega**2 / (12 * mp.pi**2) if name == "vector" else value

        terms = [w * b(omega) for omega, w in zip(self.omega, self.weighted, strict=True)]
        return mp.fsum(terms), mp.fsum(terms, absolute=True)

    def smeared(self, E, sigma):
        """Return int G_sigma(E - omega) rho."""
        E, sigma = mp.mpf(E), mp.mpf(sigma)
        G = [mp.exp(-((E - omega) ** 2) / (2 * sigma**2)) for omega in self.omega]
        return mp.fdot(G, self.weighted) / (mp.sqrt(2 * mp.pi) * sigma)


def assert_accurate(prior, kernel, times, c, E0, sigmas=SIGMA, energies=ENERGIES):
    """Compare C(t) and rho_sigma(E) of each draw with the reference."""
    grid = Observables(kernel, times, sigmas, energies)
    C, smeared = grid.split(prior.quadrature(grid)(c, E0))
    for i in range(len(c)):
        end = prior.omega_max or 90 / (kernel.spacing * kernel.slowest_decay(times))
        exact = Reference.of(c[i], E0[i], max(end, 12.0) if prior.omega_max is None else end)
        for j, t in enumerate(times):
            value, norm = exact.correlator(kernel.name, kernel.spacing, kernel.period, t)
            assert abs(C[i, j] - value) <= C_TOLERANCE * norm, f"draw {i}, E0 = {E0[i]}, t = {t}"
        for s, sigma in enumerate(sigmas):
            for e, E in enumerate(energies):
                difference = abs(smeared[i, s, e] - exact.smeared(E, sigma))
                assert difference <= RHO_TOLERANCE, f"draw {i}, sigma = {sigma}, E = {E}"


def test_chebyshev_sum_of_the_reference_is_that_of_mpmath():
    c, x = np.array([0.3, -1.2, 0.0, 0.7, 2.5]), [mp.mpf("0.1234"), mp.mpf("-0.999"), 1 - mp.mpf(10) ** -20]
    exact = [mp.fsum(mp.mpf(c[n]) * mp.chebyt(n, v) for n in range(5)) for v in x]
    assert all(abs(a - b) < mp.mpf(10) ** -28 for a, b in zip(chebyshev_sum(c, x), exact, strict=True))


@pytest.mark.parametrize("Nb", [16, 128, 512])
def test_reference_is_converged(Nb):
    c, E0 = ChebyshevPrior(Nb).draw(3, "reference", 0, 1)
    coarse, fine = (Reference.of(c[0], E0[0], 90.0, rule) for rule in (COARSE, FINE))
    for t in (1, 16):
        (a, norm), (b, _) = (r.correlator("vector", 1, 32, t) for r in (coarse, fine))
        assert abs(a - b) <= 1e-15 * norm
    assert abs(coarse.smeared(0.95094, 0.44) - fine.smeared(0.95094, 0.44)) <= 1e-15


@pytest.mark.parametrize(("Nb", "draws"), [(16, 4), (128, 2), (512, 1)])
def test_random_draws_agree_with_mpmath(Nb, draws):
    prior = ChebyshevPrior(Nb)
    assert_accurate(prior, Kernel("vector", 32), (1, 6, 11, 16), *prior.draw(7, "draws", 0, draws))


@pytest.mark.parametrize("Nb", [16, 128])
def test_positive_draws_agree_with_mpmath(Nb):
    prior = ChebyshevPrior(Nb, positive=True)
    assert_accurate(prior, Kernel("vector", 32), (1, 6, 16), *prior.draw(7, "draws", 0, 3))


@pytest.mark.parametrize("name", ["periodic", "exponential"])
def test_other_kernels_agree_with_mpmath(name):
    prior = ChebyshevPrior(32)
    assert_accurate(prior, Kernel(name, 24), (1, 12, 23), *prior.draw(8, "draws", 0, 2))


def test_thresholds_at_the_ends_of_their_range_agree_with_mpmath():
    prior = ChebyshevPrior(16, E0=(0.2, 1.3))
    c, _ = prior.draw(9, "draws", 0, 3)
    assert_accurate(prior, Kernel("vector", 32), (1, 16), c, np.array([0.2, 0.75, 1.3]))


def test_small_spacing_agrees_with_mpmath():
    prior = ChebyshevPrior(16)
    assert_accurate(prior, Kernel("vector", 32, 0.4), (1, 16), *prior.draw(10, "draws", 0, 2))


def test_finite_omega_max_allows_time_zero():
    prior = ChebyshevPrior(64, omega_max=10.0)
    assert_accurate(prior, Kernel("vector", 31), (0, 1, 15, 31), *prior.draw(11, "draws", 0, 2))


@pytest.mark.parametrize(("name", "T", "a"), [("periodic", 64, 1.0), ("vector", 64, 2.0), ("periodic", 32, 5.0)])
def test_late_times_of_long_lattices_agree_with_mpmath(name, T, a):
    prior = ChebyshevPrior(16)
    c, _ = prior.draw(12, "draws", 0, 6)
    E0 = np.array([0.25, 0.47, 0.749, 1.02, 1.2, 1.299])
    assert_accurate(prior, Kernel(name, T, a), (1, T // 4, T // 2), c, E0)


def test_late_first_time_agrees_with_mpmath():
    prior = ChebyshevPrior(16)
    c, _ = prior.draw(13, "draws", 0, 3)
    E0 = np.array([0.3, 0.9, 1.3])
    assert_accurate(prior, Kernel("periodic", 32, 4.0), (12, 16), c, E0, (0.05,), (0.1, 0.5))


@pytest.mark.parametrize("sigma", [0.05, 0.01, 0.002])
def test_narrow_smearing_gives_rho_itself(sigma):
    """rho_sigma(E) = rho(E) + sigma^2 rho''(E) / 2 + O(sigma^4) away from the threshold."""
    prior, energies = ChebyshevPrior(8), (2.1, 3.0, 5.7)
    grid = Observables(Kernel("vector", 32), (1, 16), (sigma,), energies)
    c, E0 = prior.draw(14, "draws", 0, 2)
    smeared = grid.split(prior.quadrature(grid)(c, E0))[1][:, 0]
    h = 1e-3
    below, at, above = (prior.rho(np.array(energies) + d, c, E0) for d in (-h, 0.0, h))
    assert smeared == pytest.approx(at + sigma**2 * (below - 2 * at + above) / (2 * h**2), abs=20 * sigma**4 + 1e-9)


def test_narrow_smearing_far_below_a_threshold_vanishes():
    """The tail of the Gaussian lies among the smallest floats, where nothing can be resolved."""
    grid = Observables(Kernel("vector", 32), (1, 2), (0.02,), (0.1, 0.5, 3.0))
    smeared = grid.split(integrate(lambda omega: np.sqrt(omega - 1), grid, 1.0, 50.0))[1][0]
    assert smeared[:2] == pytest.approx([0, 0], abs=1e-100)
    assert smeared[2] == pytest.approx(np.sqrt(2) * (1 - 0.02**2 / 32), rel=1e-7)


def test_integrals_are_linear_in_the_coefficients():
    grid = Observables(Kernel("vector", 32), (1, 16), SIGMA, ENERGIES)
    prior = ChebyshevPrior(16)
    rule = prior.quadrature(grid)
    c, _ = prior.draw(1, "linear", 0, 2)
    E0 = np.full(2, 0.7)
    a, b = rule(c, E0)
    assert rule(np.array([2 * c[0] - 3 * c[1]]), E0[:1])[0] == pytest.approx(2 * a - 3 * b, rel=1e-10, abs=1e-13)


def test_constant_coefficient_drops_out():
    grid = Observables(Kernel("vector", 32), (1, 16), SIGMA, ENERGIES)
    c = np.zeros((1, 16))
    c[0, 0] = 5.0
    assert np.abs(ChebyshevPrior(16).quadrature(grid)(c, np.array([0.5]))).max() < 1e-12


def test_nodes_follow_the_size_of_the_basis():
    grid = Observables(Kernel("vector", 32), tuple(range(1, 17)), SIGMA, ENERGIES)
    nodes = [ChebyshevPrior(Nb).quadrature(grid).nodes for Nb in (16, 64, 256, 1024)]
    assert nodes == sorted(set(nodes))
    assert nodes[-1] > 4 * nodes[0]


@pytest.mark.parametrize("E0", [0.19, 1.31, np.nan])
def test_thresholds_outside_the_range_are_refused(E0):
    grid = Observables(Kernel("vector", 32), (1, 16), SIGMA, ENERGIES)
    rule = ChebyshevPrior(16).quadrature(grid)
    with pytest.raises(ValueError, match="thresholds must lie in"):
        rule(np.ones((2, 16)), np.array([0.5, E0]))


def test_panels_integrate_polynomials_of_degree_63_exactly():
    nodes, weights = nodes_and_weights(np.array([0.0, 0.3, 1.0]))
    for degree in (0, 1, 31, 63):
        assert np.sum(weights * nodes**degree) == pytest.approx(1 / (degree + 1), rel=1e-14)


def test_refinement_resolves_a_narrow_feature_where_it_is():
    def f(x):
        return (1 / (1e-6 + (x - 0.3) ** 2))[:, None]

    edges = refine(f, np.array([0.0, 1.0]), tolerance=1e-11)
    nodes, weights = nodes_and_weights(edges)
    exact = (np.arctan(0.7e3) + np.arctan(0.3e3)) * 1e3
    assert np.sum(weights.ravel() * f(nodes.ravel())[:, 0]) == pytest.approx(exact, rel=1e-11)
    assert np.abs(edges[np.argmin(np.diff(edges))] - 0.3) < 0.05


def test_refinement_ends_at_an_integrable_singularity():
    def f(x):
        return np.sqrt(x)[:, None]

    nodes, weights = nodes_and_weights(refine(f, np.array([0.0, 1.0]), tolerance=1e-12, floor=1e-14))
    assert np.sum(weights.ravel() * f(nodes.ravel())[:, 0]) == pytest.approx(2 / 3, rel=1e-11)


def test_an_integrand_that_cannot_be_resolved_is_refused():
    with pytest.raises(RuntimeError, match="not resolved"):
        refine(lambda x: 1 / np.sqrt(x)[:, None], np.array([0.0, 1.0]), tolerance=1e-11)


def test_breaks_are_panel_edges():
    grid = Observables(Kernel("exponential", 32), (1, 4), (0.5,), (0.4,))
    with_step = integrate(lambda omega: np.where(omega < 0.77, 1.0, 3.0), grid, 0.2, 9.0, breaks=(0.77,))
    pieces = integrate(np.ones_like, grid, 0.2, 0.77) + 3 * integrate(np.ones_like, grid, 0.77, 9.0)
    assert with_step == pytest.approx(pieces, rel=1e-12)
    exact = [(np.exp(-0.2 * t) - np.exp(-0.77 * t) + 3 * (np.exp(-0.77 * t) - np.exp(-9.0 * t))) / t for t in (1, 4)]
    assert with_step[:2] == pytest.approx(exact, rel=1e-12)


def test_a_panel_that_ends_beside_a_zero_of_a_mode_is_resolved_to_rounding() -> None:
    E = 0.5695372015824937 + 2.36880771697 * np.array([0, 0.05, 0.1, 0.2, 0.26, 0.34, 0.44, 0.57, 0.76, 1, 1.4, 2])
    sigma = (0.118, 0.166, 0.237, 0.332, 0.474, 0.616, 0.805, 1.04, 1.35, 1.8, 2.37)
    grid = Observables(Kernel("exponential", 96), tuple(range(1, 48)), sigma, tuple(E)).in_units(6.7)
    prior = ChebyshevPrior(32)
    c, E0 = prior.draw(1, "beside a zero", 0, 3)
    found = prior.quadrature(grid)(c, E0)
    for row, coefficients, threshold in zip(found, c, E0, strict=True):
        omega = np.linspace(threshold, 40, 400_001)
        rho = prior.rho(omega, coefficients[None], np.array([threshold]))[0]
        sampled = grid.columns(omega)[:, 50:]
        np.testing.assert_allclose(row[50:], np.trapezoid(rho[:, None] * sampled, omega, axis=0), rtol=1e-5, atol=1e-7)
