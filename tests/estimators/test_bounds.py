"""Bounds for rho >= 0: they hold, they are certified, they narrow with the errors, and they say what they cannot."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.stats import chi2

from sdpipe.errors import UserError
from sdpipe.estimators.bounds import REPAIR, Bounds
from sdpipe.infer.trust import of_interval
from sdpipe.physics.families import (
    DeltaTanhFamily,
    FewStatesFamily,
    FiniteVolumeFamily,
    O3Family,
    PeaksFamily,
    ResonanceFamily,
)
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise, synthetic
from sdpipe.physics.smearing import Cauchy, Function, HalfNorm, Sigmoid, Tail, Tau
from sdpipe.physics.spectra import Spectrum, delta_tanh, o3, peaks
from sdpipe.show.flags import worded

THRESHOLD, MASS, E0 = (0.2, 1.3), (0.3, 1.42), 0.15
FAMILIES = {
    "o3": O3Family(THRESHOLD),
    "resonance": ResonanceFamily(MASS, (0.088, 0.308), THRESHOLD),
    "peaks": PeaksFamily((3, 12), MASS),
    "delta_tanh": DeltaTanhFamily(MASS),
    "finite_volume": FiniteVolumeFamily(THRESHOLD),
    "few_states": FewStatesFamily(MASS),
}


def grid_of(energies=(0.42, 1.16, 2.01), sigma=(0.44,), kernel="vector", **more) -> Observables:
    return Observables(Kernel(kernel, 32), tuple(range(1, 17)), sigma, energies, **more)


def data(grid: Observables, spectrum: Spectrum, r1: float, seed: int = 1):
    noise = synthetic(grid.times, grid.split(o3(1.0).integrals(grid))[0], r1, 0.0, 4.0)
    C, rho = grid.split(spectrum.integrals(grid))
    return noise, noise.draw(C, 1, np.random.default_rng(seed))[0], rho


@pytest.mark.parametrize("r1", [1e-3, 1e-4])
def test_they_cover_every_family(r1: float) -> None:
    grid, generator = grid_of((0.6, 1.6)), np.random.default_rng(1)
    certified = []
    for seed, family in enumerate([*FAMILIES.values()] * 2):
        noise, C, rho = data(grid, family.draw(generator), r1, seed)
        at = Bounds.for_noise(grid, noise, E0)(C)
        assert not at.excluded
        c = at.certified
        assert (at.lower[c] <= rho[c]).all(), family
        assert (rho[c] <= at.upper[c]).all(), family
        assert np.isnan(at.lower[~c]).all()
        assert (at.repair[c] < REPAIR).all()
        certified.append(c)
    assert np.mean(certified) > 0.9


def test_any_combination_above_f_is_an_upper_bound_and_none_is_below_a_density_that_fits() -> None:
    """The gap of duality: densities on a fine comb that fit the data reach almost as far as the bounds."""
    grid = grid_of((1.16,))
    noise, C, _ = data(grid, o3(1.0), 1e-3)
    at = Bounds.for_noise(grid, noise, E0)(C)
    comb = np.geomspace(E0, 12, 1500)
    b, G = grid.split(grid.columns(comb))
    L, r2 = noise.cholesky, chi2.ppf(0.683, len(grid.times))
    rows, d = np.linalg.solve(L, b.T) / noise.scale(C), np.linalg.solve(L, C) / noise.scale(C)
    for sign, bound in ((1, at.upper[0, 0]), (-1, at.lower[0, 0])):
        reached = []
        for weight in np.geomspace(3, 300, 10):  # pulls rho_sigma(E) beyond the bound, against chi2
            far = at.upper[0, 0] + 1 if sign > 0 else 0.0
            w, _ = nnls(np.vstack([rows, weight * G[:, 0, 0]]), np.append(d, weight * far), maxiter=50_000)
            if np.sum((rows @ w - d) ** 2) <= r2:
                reached.append(sign * (G[:, 0, 0] @ w))
        assert max(reached) <= sign * bound
        assert max(reached) > sign * bound - 0.25 * (at.upper[0, 0] - at.lower[0, 0])


def test_they_narrow_with_the_errors_and_widen_with_the_level() -> None:
    grid, width = grid_of(), {}
    for r1, level in ((1e-3, 0.683), (1e-3, 0.954), (1e-4, 0.683)):
        noise, C, rho = data(grid, o3(0.8), r1)
        at = Bounds.for_noise(grid, noise, E0, level)(C)
        assert at.chi2_max == pytest.approx(chi2.ppf(level, 16))
        assert ((at.lower < rho) & (rho < at.upper)).all()
        assert at.certified.all()
        width[r1, level] = at.upper - at.lower
    assert (width[1e-3, 0.954] > width[1e-3, 0.683]).all()
    assert (width[1e-4, 0.683] < 0.8 * width[1e-3, 0.683]).all()


def test_they_scale_with_the_correlator() -> None:
    grid = grid_of((1.16,))
    noise, C, _ = data(grid, delta_tanh(), 1e-3)
    one, other = Bounds.for_noise(grid, noise, E0)(C), Bounds.for_noise(grid, noise, E0)(16 * C)
    assert np.array_equal(16 * one.upper, other.upper)
    assert np.array_equal(16 * one.lower, other.lower)
    assert one.chi2_min == other.chi2_min


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_units_do_not_matter(unit: float) -> None:
    grid = grid_of((1.16,))
    noise, C, _ = data(grid, delta_tanh(), 1e-3)
    other = Noise(noise.times, unit * noise.mean, unit**2 * noise.covariance, "scaled")
    one, scaled = Bounds.for_noise(grid, noise, E0)(C), Bounds.for_noise(grid, other, E0)(unit * C)
    assert scaled.certified.all()
    assert scaled.upper == pytest.approx(unit * one.upper, rel=1e-3)
    assert scaled.lower == pytest.approx(unit * one.lower, rel=1e-3)


def test_a_density_that_is_negative_somewhere_is_told_in_words() -> None:
    grid = grid_of()
    noise, C, _ = data(grid, peaks((1.0, -0.8, 1.0), (0.6, 0.9, 1.5)), 1e-4)
    at = Bounds.for_noise(grid, noise, E0)(C)
    assert at.excluded
    assert at.chi2_min > at.chi2_max
    assert not at.certified.any()
    assert np.isnan(at.upper).all()
    (flag,) = worded(of_interval("bounds", at))
    assert "no spectral density rho >= 0 agrees with the data" in flag


def test_the_smallest_chi2_is_that_of_nonnegative_least_squares() -> None:
    grid = grid_of((1.16,))
    noise, C, _ = data(grid, peaks((0.5, 0.4), (0.5, 1.1)), 1e-2)
    bounds = Bounds.for_noise(grid, noise, E0)
    comb = np.geomspace(E0, 40, 4000)
    rows = bounds.rotation.T @ grid.kernel(np.array(grid.times)[:, None], comb)
    unit = np.linalg.norm(rows, axis=0)
    _, chi = nnls(rows / unit, C @ bounds.rotation / noise.scale(C), maxiter=50_000)
    assert bounds(C).chi2_min == pytest.approx(chi**2, rel=0.02, abs=0.02)


@pytest.mark.parametrize(
    ("kernel", "smearing", "sigma"),
    [
        ("exponential", Sigmoid(0), 0.2),
        ("periodic", HalfNorm(), 0.44),
        ("vector", Tau("T", step="erf"), 0.3),
        ("thermal", Function(lambda E, omega, sigma: np.exp(-(((omega - E) / sigma) ** 2)), Tail(np.inf)), 0.5),
    ],
)
def test_any_kernel_and_smearing(kernel, smearing, sigma) -> None:
    grid = grid_of((0.8, 1.5), (sigma,), kernel, smearing=smearing)
    for spectrum in (o3(0.6), peaks((0.4, 0.6), (0.5, 1.2))):
        noise, C, rho = data(grid, spectrum, 1e-3)
        at = Bounds.for_noise(grid, noise, E0)(C)
        assert at.certified.all()
        assert ((at.lower <= rho) & (rho <= at.upper)).all()


def test_faults_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grid_of()
    noise, C, _ = data(grid, o3(1.0), 1e-3)
    with pytest.raises(UserError, match="above 0"):
        Bounds.for_noise(grid, noise)
    with pytest.raises(UserError, match="between 0 and 1"):
        Bounds.for_noise(grid, noise, E0, 1.0)
    with pytest.raises(UserError, match="falls more slowly than C"):
        Bounds.for_noise(grid_of(smearing=Cauchy("im")), noise, E0)
    with pytest.raises(UserError, match="falls more slowly than C"):
        Bounds.for_noise(grid_of(sigma=(1.0,), smearing=Sigmoid()), noise, E0)
    other = Observables(grid.kernel, (1, 2, 3), (0.44,), (1.0,))
    with pytest.raises(UserError, match="times"):
        Bounds.for_noise(other, noise, E0)
    bounds = Bounds.for_noise(grid, noise, E0)
    with pytest.raises(UserError, match="take"):
        bounds(C[:3])
    with pytest.raises(UserError, match="not finite"):
        bounds(C * np.inf)
    with pytest.raises(UserError, match="zero at t_ref"):
        bounds(np.where(np.arange(16) == 0, 0, C))
    monkeypatch.setitem(sys.modules, "clarabel", None)
    with pytest.raises(UserError, match=r"pip install 'sdpipe\[bounds\]'"):
        Bounds.for_noise(grid, noise, E0)
