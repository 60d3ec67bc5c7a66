"""Levels and residues: mocks of known levels, and refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import sdpipe
from sdpipe.analysis.levels import fit_levels
from sdpipe.errors import UserError
from sdpipe.physics import rng
from sdpipe.physics.smearing import GAUSSIAN, Cauchy, HalfNorm, Smearing

if TYPE_CHECKING:
    from tests.fixtures import Finished

SIGMA, E = np.array([0.3, 0.45]), np.linspace(0.2, 2.0, 19)
GRID = np.repeat(SIGMA, len(E)), np.tile(E, len(SIGMA))


def density(masses: list[float], amplitudes: list[float], smearing: Smearing = GAUSSIAN) -> np.ndarray:
    return smearing(E[:, None], np.array(masses), SIGMA[:, None, None]) @ np.array(amplitudes)


def covariance(error: float) -> np.ndarray:
    """Errors that are correlated between energies and widths as those of a reconstruction are."""
    s, x = GRID
    return error**2 * np.exp(-((x[:, None] - x) ** 2) / (2 * 0.3**2) - np.abs(s[:, None] - s)) + 1e-8 * np.eye(len(x))


def test_one_isolated_level_is_covered() -> None:
    V, truth = covariance(0.03), np.array([0.9, 1.3])
    root = np.linalg.cholesky(V)
    z = rng.generator(1, "levels").standard_normal((400, len(V)))
    exact = density([0.9], [1.3]).ravel()
    pulls = []
    for draw in exact + z @ root.T:
        one = fit_levels(SIGMA, E, draw.reshape(2, -1), V, GAUSSIAN)
        off = np.array([one.mass[0], one.amplitude[0]]) - truth
        pulls.append(off / np.sqrt(np.diag(one.covariance)))
    inside = np.mean(np.abs(pulls) < 1, axis=0)
    assert (np.abs(inside - 0.683) <= 0.05).all()


@pytest.mark.parametrize("smearing", [GAUSSIAN, HalfNorm(), Cauchy()])
def test_two_levels_come_out_exactly_with_every_smearing(smearing: Smearing) -> None:
    two = fit_levels(SIGMA, E, density([0.7, 1.5], [1.0, 0.4], smearing), covariance(0.01), smearing, 2)
    np.testing.assert_allclose(two.mass, [0.7, 1.5], rtol=1e-5)
    np.testing.assert_allclose(two.amplitude, [1.0, 0.4], rtol=1e-4)
    assert two.chi2 < 1e-6
    assert two.together == []


def test_the_error_of_an_isolated_level_is_that_of_the_linearised_fit() -> None:
    one = fit_levels(SIGMA, E, density([0.9], [1.3]), covariance(0.01), GAUSSIAN)
    h = 1e-5
    slopes = [
        density([0.9 + h], [1.3]) - density([0.9 - h], [1.3]),
        density([0.9], [1.3 + h]) - density([0.9], [1.3 - h]),
    ]
    J = np.stack([d.ravel() / (2 * h) for d in slopes], axis=1)
    linear = np.linalg.inv(J.T @ np.linalg.solve(covariance(0.01), J))
    np.testing.assert_allclose(np.sqrt(np.diag(one.covariance)), np.sqrt(np.diag(linear)), rtol=0.03)


def test_a_level_that_the_density_does_not_determine_has_an_error_of_its_own_size() -> None:
    two = fit_levels(SIGMA, E, density([0.9], [1.0]), covariance(0.05), GAUSSIAN, 2)
    worse = int(np.argmin(np.abs(two.amplitude)))
    assert np.sqrt(two.covariance[worse, worse]) > SIGMA.min()


def test_a_rest_that_is_not_there_changes_no_level() -> None:
    found = fit_levels(SIGMA, E, density([0.9], [1.3]), covariance(0.01), GAUSSIAN, 1, rest=True)
    np.testing.assert_allclose([*found.mass, *found.amplitude], [0.9, 1.3], rtol=1e-3)
    assert np.isfinite(found.covariance).all()
    assert (np.diag(found.covariance) > 0).all()


def test_a_level_below_a_continuum_is_found_with_the_rest() -> None:
    omega = np.linspace(1.4, 8, 4001)
    above = np.trapezoid(0.5 * GAUSSIAN(E[:, None], omega, SIGMA[:, None, None]), omega)
    found = fit_levels(SIGMA, E, density([0.7], [1.0]) + above, covariance(0.01), GAUSSIAN, 1, rest=True)
    np.testing.assert_allclose([*found.mass, *found.amplitude, *found.rest], [0.7, 1.0, 1.4, 0.5], rtol=2e-3)


def test_levels_that_are_nearer_than_their_errors_are_said_to_be() -> None:
    noise = np.linalg.cholesky(covariance(0.05)) @ rng.generator(3, "near").standard_normal(len(GRID[0]))
    two = fit_levels(SIGMA, E, density([0.9], [1.0]) + noise.reshape(2, -1), covariance(0.05), GAUSSIAN, 2)
    near = fit_levels(SIGMA, E, density([0.88, 0.92], [0.5, 0.5]), covariance(0.05), GAUSSIAN, 2)
    assert near.together == [0]
    assert len(two.mass) == 2


def test_too_little_for_levels_is_refused() -> None:
    exact = density([0.9], [1.0])
    with pytest.raises(UserError, match="count: 0 is not allowed; allowed: 1 or more"):
        fit_levels(SIGMA, E, exact, covariance(0.1), GAUSSIAN, 0)
    with pytest.raises(UserError, match=r"count: 1\.5 is not allowed"):
        fit_levels(SIGMA, E, exact, covariance(0.1), GAUSSIAN, 1.5)
    with pytest.raises(UserError, match="4 directions of rho do not determine 6 parameters of 3 levels"):
        fit_levels(SIGMA, E[:2], exact[:, :2], np.eye(4), GAUSSIAN, 3)
    with pytest.raises(UserError, match="finite values with errors above 0"):
        fit_levels(SIGMA, E, exact, 0 * covariance(0.1), GAUSSIAN)


def test_levels_of_a_run(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    found = run.levels("peaks", E=(0.2, 1.4), rest=True)
    assert set(found) == {
        "mass",
        "mass_error",
        "amplitude",
        "amplitude_error",
        "central",
        "covariance",
        "isolated",
        "isolated_error",
    }
    assert found.mass.attrs["units"] == "1/a"
    assert found.attrs["freedom"] > 0
    with pytest.raises(UserError, match=r"E: no energy of the run lies within 5..6"):
        run.levels("peaks", E=(5, 6))
