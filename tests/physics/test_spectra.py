"""The prior and the spectral densities with a known answer."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel, Observables, gaussian
from sdpipe.physics.spectra import RNG_BLOCK, ChebyshevPrior, Spectrum, chebyshev_basis, delta_tanh, o3, peaks

E_PUBLISHED = (0.10566, 0.95094, 2.53584)
PUBLISHED = (0.39673586, 1.60347949, 1.47003712)
"""delta_tanh smeared at sigma = 0.44 GeV, by the trapezoid rule with 4000 points on [0, 10] GeV."""


def test_rho_is_zero_up_to_its_threshold_and_continuous_there():
    prior = ChebyshevPrior(64)
    c, E0 = prior.draw(1, "test", 0, 20)
    for i in range(20):
        below, at, above = prior.rho(np.array([E0[i] - 1e-9, E0[i], E0[i] + 1e-9]), c[i : i + 1], E0[i : i + 1])[0]
        assert below == 0
        assert at == pytest.approx(0, abs=1e-13)
        assert 0 < abs(above) < 1e-6
        assert not prior.rho(np.linspace(0, E0[i], 50, endpoint=False), c[i : i + 1], E0[i : i + 1]).any()


def test_rho_is_the_chebyshev_sum_above_its_threshold():
    prior = ChebyshevPrior(12)
    c, E0 = prior.draw(2, "test", 0, 2)
    omega = np.array([1.4, 2.0, 7.5])
    for i, row in enumerate(prior.rho(omega, c, E0)):
        for value, w in zip(row, omega, strict=True):
            x, x0 = 1 - 2 * mpmath.exp(-w), 1 - 2 * mpmath.exp(-E0[i])
            terms = (c[i, n] * (mpmath.chebyt(n, x) - mpmath.chebyt(n, x0)) for n in range(12))
            assert value == pytest.approx(float(mpmath.fsum(terms)), rel=1e-11, abs=1e-13)


def test_rho_takes_both_signs():
    prior = ChebyshevPrior(32)
    rho = prior.rho(np.linspace(1.3, 8, 100), *prior.draw(3, "test", 0, 50))
    assert 0.2 < np.mean(rho > 0) < 0.8


def test_rho_ends_at_omega_max():
    prior = ChebyshevPrior(16, omega_max=4.0)
    c, E0 = prior.draw(1, "test", 0, 3)
    omega = np.array([3.9, 4.1, 9.0])
    free = ChebyshevPrior(16).rho(omega, c, E0)
    assert np.array_equal(prior.rho(omega, c, E0), free * [1, 0, 0])
    assert free[:, 1:].all()


def test_basis_is_one_to_minus_one_at_the_ends_of_the_energy_axis():
    basis = chebyshev_basis(5)
    assert basis(np.array([0.0]))[:, 0] == pytest.approx([1, -1, 1, -1, 1], abs=1e-12)
    assert basis(np.array([80.0]))[:, 0] == pytest.approx(np.ones(5), abs=1e-12)


def test_coefficients_and_thresholds_have_the_distribution_of_the_prior():
    n, prior = 20_000, ChebyshevPrior(8, E0=(0.2, 1.3), epsilon=0.5)
    c, E0 = prior.draw(5, "test", 0, n)
    scale = np.array([1.0, *(k**-1.5 for k in range(1, 8))])
    r = c / scale
    assert np.abs(r).max() <= 1
    assert np.abs(r.mean(axis=0)).max() < 5 * math.sqrt(1 / 3 / n)
    assert np.cov(r.T) == pytest.approx(np.eye(8) / 3, abs=5 / 3 / math.sqrt(n))
    assert 0.2 <= E0.min() < 0.21
    assert 1.29 < E0.max() <= 1.3
    assert E0.mean() == pytest.approx(0.75, abs=5 * 1.1 / math.sqrt(12 * n))


@pytest.mark.parametrize("Nb", [3, 8, 64, 65])
def test_positive_draws_are_half_the_sum_of_two_squares(Nb):
    prior, m = ChebyshevPrior(Nb, positive=True), (Nb - 1) // 2
    r = ChebyshevPrior(Nb, epsilon=0.0).draw(2, "test", 0, 60)[0][:, 1:] * np.arange(1, Nb)
    c, E0 = prior.draw(2, "test", 0, 60)
    omega = np.linspace(0.2, 12, 500)
    decay = np.arange(1, m + 1) ** -(1 + prior.epsilon)
    halves = (np.hstack([np.zeros((60, 1)), part * decay]) for part in (r[:, :m], r[:, m : 2 * m]))
    q1, q2 = (ChebyshevPrior(m + 1).rho(omega, half, E0) for half in halves)
    rho = prior.rho(omega, c, E0)
    assert np.abs(rho - (q1**2 + q2**2) / 2).max() < 1e-13
    assert rho.min() > -1e-14
    assert np.abs(prior.rho(E0, c, E0).diagonal()).max() < 1e-13


def test_positive_draws_have_the_size_of_the_prior():
    omega = np.linspace(0.5, 4, 200)
    for Nb in (16, 64):
        size = [
            np.sqrt(np.mean(p.rho(omega, *p.draw(3, "test", 0, 4000)) ** 2))
            for p in (ChebyshevPrior(Nb), ChebyshevPrior(Nb, positive=True))
        ]
        assert size[1] == pytest.approx(size[0], rel=0.1)


def test_a_positive_prior_needs_a_mode_for_each_square():
    with pytest.raises(UserError, match="basis of 3 or more; Nb is 2"):
        ChebyshevPrior(2, positive=True)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 3 * RNG_BLOCK), st.integers(0, 3 * RNG_BLOCK), st.integers(0, 700))
def test_draws_are_nested(start, length, more):
    """Any range of samples is that range of any larger draw, bit for bit."""
    for prior in (ChebyshevPrior(5), ChebyshevPrior(5, positive=True)):
        c, E0 = prior.draw(4, "test", start, start + length)
        all_c, all_E0 = prior.draw(4, "test", 0, start + length + more)
        assert c.shape == (length, 5)
        assert np.array_equal(c, all_c[start : start + length])
        assert np.array_equal(E0, all_E0[start : start + length])


def test_draws_differ_between_seeds_streams_and_basis_sizes():
    draws = [
        ChebyshevPrior(Nb).draw(seed, stream, 0, 4)
        for seed, stream, Nb in ((1, "a", 8), (2, "a", 8), (1, "b", 8), (1, "a", 9))
    ]
    assert len({c[0, 0] for c, _ in draws}) == 4
    assert len({E0[0] for _, E0 in draws}) == 4
    _, E0 = ChebyshevPrior(8).draw(1, "a", 0, 4 * RNG_BLOCK)
    assert len(set(E0)) == 4 * RNG_BLOCK


def test_delta_tanh_reproduces_the_published_figures_with_the_published_rule():
    target = delta_tanh()
    ((A, M),) = target.peaks
    omega = np.linspace(0, 10, 4000)
    rho = np.where(omega >= target.threshold, target.continuum(omega), 0.0)
    for E, value in zip(E_PUBLISHED, PUBLISHED, strict=True):
        trapezoid = np.trapezoid(rho * gaussian(E, omega, 0.44), omega)
        assert A * gaussian(E, M, 0.44) + trapezoid == pytest.approx(value, abs=1e-8)


def test_delta_tanh_integrals_agree_with_mpmath():
    grid = Observables(Kernel("vector", 32), (1, 8, 16), (0.44, 0.63), E_PUBLISHED)
    C, smeared = grid.split(delta_tanh().integrals(grid))
    A, M, H, start = 1.5, 0.8, 1.4730869020785, 1.2744910285
    ends = [start, start + 0.1, start + 0.3, start + 1, 3, 5, 8, 14, 40]

    def exact(kernel):
        with mpmath.workdps(20):
            half = [mpmath.mpf(e) for e in ends]
            above = mpmath.quad(lambda w: H / 2 * (1 + mpmath.tanh((w - start) * 17.08883512531)) * kernel(w), half)
            return float(A * kernel(mpmath.mpf(M)) + above)

    for s, sigma in enumerate((0.44, 0.63)):
        for e, E in enumerate(E_PUBLISHED):
            value = exact(lambda w, E=E, sigma=sigma: mpmath.npdf(w, E, sigma))
            assert smeared[0 + s, e] == pytest.approx(value, abs=1e-9)
    for i, t in enumerate((1, 8, 16)):
        value = exact(lambda w, t=t: w**2 / (12 * mpmath.pi**2) * (mpmath.exp(-w * t) + mpmath.exp(-w * (32 - t))))
        assert C[i] == pytest.approx(value, rel=1e-9)


def test_published_figures_are_those_of_the_trapezoid_not_of_the_integral():
    grid = Observables(Kernel("vector", 32), (1,), (0.44,), E_PUBLISHED)
    exact = grid.split(delta_tanh().integrals(grid))[1][0]
    assert exact == pytest.approx(PUBLISHED, abs=2e-3)
    assert np.abs(exact - PUBLISHED).max() > 1e-8


@pytest.mark.parametrize("threshold", [0.7, 1.0])
def test_o3_integrals_agree_with_mpmath(threshold):
    grid = Observables(Kernel("vector", 32), (1, 16), (0.44, 0.05), (0.5, 1.05, 2.3))
    C, smeared = grid.split(o3(threshold).integrals(grid))

    def exact(kernel, top):
        """Integrate over s, omega = E_th (1 + s^2): smooth at the threshold."""

        def f(s):
            omega = threshold * (1 + s**2)
            theta = 2 * mpmath.acosh(omega / threshold)
            rho = 3 * mpmath.pi**3 / (4 * theta**2) * mpmath.tanh(theta / 2) ** 3
            rho *= (theta**2 + mpmath.pi**2) / (theta**2 + 4 * mpmath.pi**2)
            return rho * kernel(omega) * 2 * threshold * s

        with mpmath.workdps(20):
            edges = mpmath.linspace(mpmath.mpf(10) ** -14, mpmath.sqrt(top / threshold), 13)
            return float(mpmath.quad(f, edges, maxdegree=4, method="gauss-legendre"))

    for i, t in enumerate((1, 16)):
        value = exact(
            lambda w, t=t: w**2 / (12 * mpmath.pi**2) * (mpmath.exp(-w * t) + mpmath.exp(-w * (32 - t))), 50 / min(t, 8)
        )
        assert C[i] == pytest.approx(value, rel=1e-9)
    for s, sigma in enumerate((0.44, 0.05)):
        for e, E in enumerate((0.5, 1.05, 2.3)):
            value = exact(lambda w, E=E, sigma=sigma: mpmath.npdf(w, E, sigma), E + 10 * sigma)
            assert smeared[s, e] == pytest.approx(value, abs=1e-9)


def test_o3_opens_as_a_square_root_and_rises_slowly():
    rho = o3(1.0).continuum
    assert rho(np.array([0.5, 1.0])) == pytest.approx([0, 0], abs=1e-100)
    near = np.array([1e-6, 4e-6])
    assert rho(1 + near)[1] / rho(1 + near)[0] == pytest.approx(2, rel=1e-5)
    theta = 2 * math.acosh(3.0)
    by_hand = 3 * math.pi**3 / (4 * theta**2) * (theta**2 + math.pi**2) / (theta**2 + 4 * math.pi**2)
    assert rho(np.array([3.0]))[0] == pytest.approx(by_hand * math.tanh(theta / 2) ** 3, rel=1e-14)
    assert o3(2.0).continuum(np.array([6.0]))[0] == pytest.approx(rho(np.array([3.0]))[0], rel=1e-14)


def test_peaks_are_exact():
    amplitudes, masses = (0.5, -0.2, 1.1), (0.4, 1.3, 2.2)
    grid = Observables(Kernel("periodic", 20), (0, 3, 10), (0.3,), (0.4, 1.0))
    C, smeared = grid.split(peaks(amplitudes, masses).integrals(grid, omega_max=3.0))
    pairs = list(zip(amplitudes, masses, strict=True))
    for i, t in enumerate((0, 3, 10)):
        expected = sum(A * (math.exp(-M * t) + math.exp(-M * (20 - t))) for A, M in pairs)
        assert C[i] == pytest.approx(expected, rel=1e-14)
    for e, E in enumerate((0.4, 1.0)):
        terms = (A * math.exp(-((E - M) ** 2) / 0.18) / math.sqrt(2 * math.pi * 0.09) for A, M in pairs)
        assert smeared[0, e] == pytest.approx(sum(terms), rel=1e-13)


def test_peaks_and_continuum_above_omega_max_are_left_out():
    grid = Observables(Kernel("vector", 32), (1, 4), (0.5,), (0.5, 1.0))
    together = peaks((1.0, 2.0), (0.8, 7.0)).integrals(grid, omega_max=5.0)
    assert np.array_equal(together, peaks((1.0,), (0.8,)).integrals(grid, omega_max=5.0))
    assert not o3(6.0).integrals(grid, omega_max=5.0).any()
    assert not delta_tanh(amplitude=0.0, position=6.0).integrals(grid, omega_max=5.0).any()


def test_a_spectrum_is_the_sum_of_its_parts():
    grid = Observables(Kernel("vector", 32), (1, 4), (0.5,), (0.5, 1.0))
    whole = delta_tanh().integrals(grid)
    continuum = Spectrum(continuum=delta_tanh().continuum, threshold=delta_tanh().threshold)
    assert whole == pytest.approx(peaks((1.5,), (0.8,)).integrals(grid) + continuum.integrals(grid), rel=1e-10)


@pytest.mark.parametrize("threshold", [1.0, 60.0])
def test_nothing_is_lost_above_the_cutoff(threshold):
    """A flat density above ``threshold`` against its closed form, at early and at late times."""
    for times, spacing in (((1, 4), 1.0), ((14, 16), 2.0)):
        grid = Observables(Kernel("exponential", 32, spacing), times, (0.05,), (0.1, 0.4))
        flat = Spectrum(continuum=np.ones_like, threshold=threshold)
        exact = [math.exp(-spacing * t * threshold) / (spacing * t) for t in times]
        assert grid.split(flat.integrals(grid))[0] == pytest.approx(exact, rel=1e-12, abs=0)
