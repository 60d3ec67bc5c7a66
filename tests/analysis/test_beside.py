"""A density beside a run, smeared alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.analysis.beside import pull
from sdpipe.errors import UserError
from sdpipe.physics.spectra import o3

if TYPE_CHECKING:
    from sdpipe.run import Run
    from tests.fixtures import Finished


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return sdpipe.open_run(finished.root)


def test_a_function_is_smeared_as_the_truth_of_a_target_is(run: Run) -> None:
    truth = run.budget["o3"].truth
    made = sdpipe.smeared(o3().continuum, run, threshold=1.0)
    np.testing.assert_allclose(made.central, truth, rtol=1e-6)
    assert float(made.error.max()) == 0


def test_a_table_is_smeared_with_its_covariance(run: Run) -> None:
    omega = 1 + 39 * np.linspace(0, 1, 2000) ** 2
    rho = o3().continuum(omega)
    exact = sdpipe.smeared(o3().continuum, run, threshold=1.0)
    error = 0.1 * np.abs(rho)
    whole = np.outer(error, error)
    correlated, alone = (sdpipe.smeared((omega, rho, e), run) for e in (whole, error))
    for made in (correlated, alone):
        np.testing.assert_allclose(made.central, exact.central, rtol=2e-3)
        n = made.central.size
        np.testing.assert_allclose(np.diag(made.covariance.values.reshape(n, n)), made.error.values.ravel() ** 2)
    np.testing.assert_allclose(correlated.error, 0.1 * correlated.central, rtol=1e-6)
    assert (alone.error < 0.1 * correlated.error).all()
    labelled = xr.Dataset({"rho": ("omega", rho), "error": ("omega", error)}, {"omega": omega})
    xr.testing.assert_allclose(sdpipe.smeared(labelled, run), alone)


def test_the_pull_of_the_truth_is_that_of_the_budget_and_chi2_counts_both_errors(run: Run) -> None:
    exact = sdpipe.smeared(o3().continuum, run, threshold=1.0)
    found, budget = run.pull("o3", exact), run.budget["o3"]
    np.testing.assert_allclose(found["pull"], (budget.central - budget.truth) / budget.calibrated, rtol=1e-4, atol=1e-4)
    omega = 1 + 39 * np.linspace(0, 1, 2000) ** 2
    wide = sdpipe.smeared((omega, o3().continuum(omega), np.full((2000, 2000), 1e-4)), run)
    assert (run.pull("o3", wide).chi2 < found.chi2).all()
    with pytest.raises(UserError, match=r"needed: what sdpipe.smeared\(rho, run\) returns"):
        pull(run, "o3", exact.isel(E=slice(3), E2=slice(3)))


@pytest.mark.parametrize(
    ("rho", "words"),
    [
        ("a name", "is not a density; allowed: a function"),
        (([1.0, 2.0], [1.0]), r"shapes \(2,\), \(1,\)"),
        (([2.0, 1.0], [1.0, 1.0]), "omega must ascend"),
        (([1.0, 2.0], [1.0, np.nan]), "must be finite"),
        (xr.DataArray([1.0, 2.0], dims="x"), "not a density"),
        (lambda omega: np.full_like(omega, np.nan), "rho is not finite at omega"),
    ],
)
def test_what_is_no_density_is_refused(run: Run, rho: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        sdpipe.smeared(rho, run)
