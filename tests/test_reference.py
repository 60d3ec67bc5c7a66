"""``python -m benchmarks reference``: its tables are what the stores of a run say."""

from __future__ import annotations

import numpy as np
import pytest

import sdpipe
from benchmarks import reference
from sdpipe.run import Run
from tests.fixtures import Finished


@pytest.fixture(scope="module")
def runs(finished: Finished) -> dict[str, Run]:
    return {"published": sdpipe.open_run(finished.root)}


def test_losses_stand_beside_those_of_the_reference_code(runs: dict[str, Run]) -> None:
    table, history = reference.losses(runs), runs["published"].history
    best = history.val_loss.sel(ensemble="Nmax", sigma=0.63).min("epoch").mean()
    assert table.loc[("Nmax", 0.63), "published"] == pytest.approx(float(best))
    assert table.loc[("Nmax", 0.63), reference.CODE] == 0.0054


def test_errors_of_targets(runs: dict[str, Run]) -> None:
    table, budget = reference.targets(runs), runs["published"].budget["delta_tanh"].isel(sigma=0)
    line = table.loc[("delta_tanh", 0.44, "published")]
    assert line["mean |error|"] == pytest.approx(float(np.abs(budget.central - budget.truth).mean()))
    within = np.abs(budget.central - budget.truth) <= budget.calibrated
    assert line["within the calibrated error [%]"] == pytest.approx(100 * float(within.mean()))
    assert table.loc[("delta_tanh", 0.63, reference.CODE), "mean total error"] == 0.083
    sources = reference.by_source(runs).loc[("delta_tanh", 0.44, "published")]
    assert sources.to_dict() == pytest.approx(budget.error.mean("E").to_series().to_dict())


def test_coverage_and_cost(runs: dict[str, Run]) -> None:
    run, coverage, cost = runs["published"], reference.coverage(runs), reference.cost(runs)
    covered = run.validation.coverage.sel(family="o3", sigma=0.44, level=0.954)
    assert coverage.loc[("o3", 0.44), "published 95.4 %"] == pytest.approx(100 * float(covered))
    assert [line.removesuffix(" [min]") for line in cost.index[:-1]] == [s["stage"] for s in run.layout.sessions()]
    assert 0 < cost.loc["on disk [GB]", "published"] < 0.1
