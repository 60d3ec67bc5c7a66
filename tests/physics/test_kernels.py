"""The kernels of C(t) and of the smearing, on spectra whose answer is known in closed form."""

import math

import numpy as np
import pytest

from sdpipe.physics.kernels import Kernel, Observables, gaussian
from sdpipe.physics.spectra import peaks

T, A, M, SPACING = 24, 1.7, 0.6, 0.8
TIMES = tuple(range(1, T))


def correlator(kernel: Kernel, amplitudes=(A,), masses=(M,)) -> np.ndarray:
    grid = Observables(kernel, TIMES, (0.4,), (0.5,))
    return grid.split(peaks(amplitudes, masses).integrals(grid))[0]


@pytest.mark.parametrize(
    ("name", "backward", "factor"),
    [
        ("exponential", 0.0, 1.0),
        ("periodic", 1.0, 1.0),
        ("periodic-odd", -1.0, 1.0),
        ("vector", 1.0, M**2 / (12 * math.pi**2)),
    ],
)
def test_delta_spectrum_gives_exponentials(name, backward, factor):
    expected = [A * factor * (math.exp(-SPACING * M * t) + backward * math.exp(-SPACING * M * (T - t))) for t in TIMES]
    assert correlator(Kernel(name, T, SPACING)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", ["vector", "periodic"])
def test_correlator_is_symmetric_about_half_the_period(name):
    C = correlator(Kernel(name, T, SPACING))
    assert pytest.approx(C[::-1], rel=1e-14) == C
    assert np.argmin(C) == TIMES.index(T // 2)
    assert Kernel(name, T).parity == 1


def test_the_odd_kernel_is_a_hyperbolic_sine_that_vanishes_at_half_the_period():
    kernel = Kernel("periodic-odd", T, SPACING)
    C = correlator(kernel)
    assert pytest.approx(-C[::-1], rel=1e-14, abs=1e-300) == C
    assert C[TIMES.index(T // 2)] == 0
    expected = 2 * A * math.exp(-SPACING * M * T / 2) * np.sinh(SPACING * M * (T / 2 - np.array(TIMES)))
    assert pytest.approx(expected, rel=1e-12) == C
    assert kernel.parity == -1


def test_open_boundaries_have_no_image_from_the_other_end():
    C = correlator(Kernel("exponential", T, SPACING))
    assert np.all(np.diff(C) < 0)
    assert C[1:] / C[:-1] == pytest.approx(np.full(T - 2, math.exp(-SPACING * M)), rel=1e-13)
    assert Kernel("exponential", T).parity == 0


@pytest.mark.parametrize("name", ["vector", "periodic", "periodic-odd", "exponential"])
def test_correlator_is_linear_in_the_spectrum(name):
    kernel = Kernel(name, T, SPACING)
    together = correlator(kernel, (A, -0.3), (M, 1.9))
    assert together == pytest.approx(correlator(kernel) - 0.3 * correlator(kernel, (1.0,), (1.9,)), rel=1e-12)


@pytest.mark.parametrize("name", ["vector", "periodic", "periodic-odd", "exponential"])
def test_spacing_and_time_enter_as_their_product(name):
    fine, coarse = Kernel(name, 2 * T, SPACING / 2), Kernel(name, T, SPACING)
    omega = np.linspace(0, 6, 13)
    for t in (0, 1, T // 2):
        assert fine(2 * t, omega) == pytest.approx(coarse(t, omega), rel=1e-14)


def test_vector_kernel_carries_omega_squared():
    omega = np.array([0.0, 0.3, 2.0])
    ratio = Kernel("vector", T)(3, omega) / Kernel("periodic", T)(3, omega)
    assert ratio == pytest.approx(omega**2 / (12 * np.pi**2), rel=1e-14)


def test_kernels_name_the_units_of_the_correlator():
    assert Kernel("vector", T, spacing=0.5).units == "GeV^3"
    assert Kernel("periodic", T, spacing=0.5).units == Kernel("exponential", T, spacing=0.5).units == "GeV"
    assert (Kernel("vector", T).units, Kernel("periodic", T).units) == ("1/a^3", "1/a")


def test_slowest_decay_counts_the_image_of_a_periodic_kernel():
    assert Kernel("periodic", 32).slowest_decay((3, 30)) == 2
    assert Kernel("exponential", 32).slowest_decay((3, 30)) == 3


@pytest.mark.parametrize("sigma", [0.05, 0.44, 2.0])
def test_gaussian_has_unit_area_mean_E_and_variance_sigma_squared(sigma):
    E = 0.9
    omega, step = np.linspace(E - 10 * sigma, E + 10 * sigma, 401, retstep=True)
    G = gaussian(E, omega, sigma)
    assert np.sum(G) * step == pytest.approx(1, rel=1e-13)
    assert np.sum(omega * G) * step == pytest.approx(E, rel=1e-13)
    assert np.sum((omega - E) ** 2 * G) * step == pytest.approx(sigma**2, rel=1e-12)


def test_columns_are_times_then_energies_within_each_sigma():
    kernel, times, sigma, energies = Kernel("vector", T, SPACING), (2, 5, 7), (0.3, 0.6), (0.1, 0.8, 1.5, 2.0)
    grid = Observables(kernel, times, sigma, energies)
    omega = np.array([0.4, 1.1, 3.0])
    b, G = grid.split(grid.columns(omega))
    assert grid.count == 3 + 2 * 4
    assert b.shape == (3, 3)
    assert G.shape == (3, 2, 4)
    for i, w in enumerate(omega):
        assert b[i].tolist() == [float(kernel(t, w)) for t in times]
        assert G[i].tolist() == [[float(gaussian(E, w, s)) for E in energies] for s in sigma]
