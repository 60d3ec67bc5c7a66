"""A known state taken off before the rest is reconstructed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.analysis.put_back import put_back
from sdpipe.correlators.known import ground_state
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel, Observables

if TYPE_CHECKING:
    from pathlib import Path

    from sdpipe.run import Run
    from tests.fixtures import Finished

STATE = (0.5, 0.7)
"""Amplitude and mass of the lower of the two states of the target ``peaks``."""


KEYS = (
    "training.audience=none",
    "methods=[posterior]",
    "validation={samples: 60, levels: [0.683], families: {}, bootstrap: 2}",
)

pytestmark = pytest.mark.filterwarnings("ignore:.*draws per family are too few")


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return sdpipe.open_run(finished.root)


def test_without_a_known_state_the_budget_holds_the_truth(run: Run, tmp_path: Path) -> None:
    truth, after = run.budget["peaks"].truth, run.subtract("peaks", [STATE], tmp_path / "rest", *KEYS)
    off = np.abs(after.central - truth)
    assert float(off.mean()) < float(np.abs(run.budget["peaks"].central - truth).mean())
    assert float((off < 2 * after.calibrated).mean()) >= 0.9
    np.testing.assert_allclose(after.samples.mean("boot"), after.central, rtol=1e-3)


def test_the_errors_of_a_state_and_their_correlation_with_the_data_are_in_the_budget() -> None:
    g = np.random.default_rng(3)
    grid = Observables(Kernel("exponential", 32), (1, 2), (0.3,), (0.5, 1.0))
    noise, zero = 0.1 * g.standard_normal((500, 1)), np.zeros((500, 1))
    samples = (1 + noise)[:, :, None] * np.ones((1, 1, 2))
    latt = xr.DataArray(samples.std(axis=0)[None], dims=("source", "sigma", "E"), coords={"source": ["latt"]})
    total, V = latt.isel(source=0, drop=True), np.einsum("bse,bsf->sef", samples - 1, samples - 1) / 500
    budget = xr.Dataset({"error": latt, "total": total, "central": 0 * total + 1})
    budget["covariance"] = (("sigma", "E", "E2"), V)
    f = grid.smearing(np.array(grid.energies), 0.7, np.array([[0.3]]))
    for amplitude, sign in ((1 + noise / f[0, 0], 1), (1 - noise / f[0, 0], -1), (1 + zero, 0)):
        made = put_back(budget, samples, amplitude, 0.7 + zero, grid)
        expected = abs(1 + sign) * samples[:, 0, 0].std()
        np.testing.assert_allclose(made.error.sel(source="latt").values[0, 0], expected, atol=1e-9)
        np.testing.assert_allclose(made.total.values[0, 0], expected, atol=2e-3)
        np.testing.assert_allclose(made.central.values, 1 + amplitude.mean() * f, rtol=1e-9)


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "no state is given"),
        ([(0.5, -0.7)], r"a mass of -0.7 1/a; allowed: above 0, up to pi/a = 3.142"),
        ([(0.5, 4.0)], "a mass of 4 1/a; allowed: above 0, up to pi/a"),
        ([(50.0, 0.7)], "these states are more than the data"),
        (
            [(np.ones(3), 0.7)],
            r"shape \(3,\) is not allowed; allowed: a number, \(value, error\), a gvar, or 50 samples",
        ),
        ([(np.nan, 0.7)], "not allowed"),
        ([("much", 0.7)], "'much' is not allowed; allowed: a number"),
        ([(0.5,)], r"a state is no pair; needed: pairs \(amplitude, mass\)"),
    ],
)
def test_states_that_cannot_be_are_refused(run: Run, tmp_path: Path, states: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run.subtract("peaks", states, tmp_path / "rest", *KEYS)
    assert not (tmp_path / "rest").exists()


def test_one_state_is_fitted_sample_by_sample() -> None:
    g, kernel, t = np.random.default_rng(1), Kernel("periodic", 48), np.arange(1, 25)
    clean = 1.3 * kernel(t, 0.4) + 0.8 * kernel(t, 1.2)
    C = clean * (1 + 1e-3 * g.standard_normal((100, 1)) + 1e-4 * g.standard_normal((100, 24)))
    A, M = ground_state(C, t.tolist(), kernel, (14, 24))
    np.testing.assert_allclose([A.mean(), M.mean()], [1.3, 0.4], rtol=1e-3)
    assert np.corrcoef(A, C[:, -1])[0, 1] > 0.9
    with pytest.raises(UserError, match=r"times 14..30; allowed: 3 or more within 1..24"):
        ground_state(C, t.tolist(), kernel, (14, 30))
    with pytest.raises(UserError, match=r"times \(14,\); allowed: \(first, last\) within 1..24"):
        ground_state(C, t.tolist(), kernel, (14,))
