"""One table of estimators: what is in it is predicted, validated, calibrated, compared and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.estimators import ESTIMATORS
from sdpipe.estimators.linear import Linear
from sdpipe.estimators.protocol import Estimate, Estimator
from sdpipe.learn.audience import Audience

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome

FEW = ["validation={samples: 60, levels: [0.683], bootstrap: 2, families: {}}", "bootstrap=20"]


@pytest.fixture
def toy() -> Iterator[str]:
    """An estimator of one's own, in ten lines: the linear one with twice its error."""

    class Toy(Estimator):
        summary = "the linear estimator with twice its error"
        fitted = True

        def __init__(self, audience: Audience) -> None:
            self.linear = Linear(audience)

        def estimate(self, C, samples=None) -> Estimate:
            one = self.linear.estimate(C, samples)
            return Estimate(one.mean, 2 * one.error, one.samples)

        def covariance(self, C) -> np.ndarray:
            return 4 * self.linear.covariance(C)

    ESTIMATORS["toy"] = Toy
    yield "toy"
    del ESTIMATORS["toy"]


def test_an_estimator_of_ones_own_is_in_everything(toy: str, cli: Callable[..., Outcome], tiny_config: Path) -> None:
    root = tiny_config.parent / "run"
    outcome = cli("run", tiny_config, "methods=[linear, toy]", *FEW, "cluster.cpu=serial", "--run", root, "-v")
    assert outcome.status == 0, outcome.err
    assert "± toy" in outcome.out
    run = sdpipe.open_run(root)
    budget, validation = run.budget["o3"], run.validation
    own, linear = budget.sel(estimator=toy), budget.sel(estimator="linear")
    np.testing.assert_allclose(own.estimator_central, linear.estimator_central, rtol=1e-6)
    np.testing.assert_allclose(own.estimator_error, 2 * linear.estimator_error)
    assert (own.estimator_calibrated <= 2 * linear.estimator_calibrated * (1 + 1e-6)).all()
    assert toy in validation.budget
    assert toy in validation.estimate
    assert toy in run.compare("o3").estimate
    page = run.layout.report.read_text(encoding="utf-8")
    assert "the linear estimator with twice its error" in page


def test_a_name_that_is_in_no_table_is_refused_with_those_that_are(
    cli: Callable[..., Outcome], tiny_config: Path
) -> None:
    fault = cli("run", tiny_config, "methods=[linear, magic]").fault
    assert "there is no method 'magic'; allowed: linear, posterior, hlt, positive, bounds" in fault


@pytest.mark.parametrize(
    ("kernel", "kind", "method"),
    [("thermal", "sinh", "hlt"), ("periodic", "cauchy", "posterior"), ("vector", "gaussian", "linear")],
)
def test_without_networks_estimators_answer_for_every_kernel_and_smearing(
    kernel: str, kind: str, method: str, cli: Callable[..., Outcome], tiny_config: Path
) -> None:
    root = tiny_config.parent / "run"
    keys = ["training={audience: none}", "ensembles={}", f"budget={{central: {method}}}", f"methods=[{method}]"]
    problem = [f"kernel={kernel}", f"smearing={{kind: {kind}, sigma: [0.44]}}"]
    cutoff = ["spectra.omega_max=20", "targets={peaks: {kind: peaks, amplitudes: [0.5, 0.3], masses: [0.7, 1.4]}}"]
    outcome = cli("run", tiny_config, *keys, *problem, *cutoff, *FEW, "cluster.cpu=serial", "--run", root)
    assert outcome.status == 0, outcome.err
    run = sdpipe.open_run(root)
    assert not run.layout.training.exists()
    assert "rho" not in run.predictions["peaks"]
    budget = run.budget["peaks"]
    assert budget.attrs["answered_by"] == method
    own = budget.sel(estimator=method)
    np.testing.assert_allclose(budget.central, own.estimator_central, rtol=1e-6)
    np.testing.assert_allclose(budget.total, np.maximum(own.estimator_error, budget.error.sel(source="latt")))
    assert (np.abs(budget.central - budget.truth) < 5 * budget.calibrated + 0.1).all()
    assert f"central values and errors are those of {method}" in run.layout.report.read_text(encoding="utf-8")
    assert f"of {method}, without networks" in outcome.out


def test_without_networks_something_must_answer(cli: Callable[..., Outcome], tiny_config: Path) -> None:
    fault = cli("run", tiny_config, "training={audience: none}", "budget={}", "methods=[bounds]").fault
    assert "budget.central" in fault
    assert "without networks a method answers" in fault


def test_the_published_budget_by_hand_is_that_of_the_store(finished: Finished) -> None:
    """Five lines of xarray on predictions.zarr give what budget.zarr has."""
    run = sdpipe.open_run(finished.root)
    rho, budget = run.predictions["o3"].rho.astype(float), run.budget["o3"].load()
    mean, latt = rho.mean(("boot", "replica")), rho.mean("replica").std("boot")
    net = rho.mean("boot").std("replica", ddof=1)
    shift = np.abs(mean.sel(ensemble="Nmax") - mean)
    stat = np.hypot(latt, net)
    P = shift / np.hypot(stat.sel(ensemble="Nmax"), stat)
    np.testing.assert_allclose(mean.sel(ensemble="Nmax"), budget.central, rtol=1e-12)
    np.testing.assert_allclose(latt.sel(ensemble="Nmax"), budget.error.sel(source="latt"), rtol=1e-9)
    np.testing.assert_allclose(net.sel(ensemble="Nmax"), budget.error.sel(source="net"), rtol=1e-9)
    erf = np.vectorize(__import__("math").erf)
    for source, name in {"b": "Nref_b", "rho": "Nref_rho"}.items():
        by_hand = shift.sel(ensemble=name) * erf(P.sel(ensemble=name) / np.sqrt(2))
        np.testing.assert_allclose(by_hand, budget.error.sel(source=source), rtol=1e-9)


COLLIDING = {"method", "tolerance", "drop", "indexers", "missing_dims", "kwargs", "assume_sorted", *dir(xr.Dataset)} - {
    "copy"
}
"""Parameters of ``sel``, ``isel`` and ``interp``, and attributes of a Dataset; ``copy`` of training.zarr is older."""


@pytest.mark.parametrize(
    "store", ["training.zarr", "history.zarr", "validation.zarr", "predictions.zarr/o3", "budget.zarr/o3"]
)
def test_no_name_in_a_store_means_something_else_to_xarray(finished: Finished, store: str) -> None:
    """``sel(method="hlt")`` would select nothing, and ``ds.scale`` would be a method of the dataset."""
    data = xr.open_zarr(finished.root / store, consolidated=False)
    assert not {str(name) for name in (*data.dims, *data.variables)} & COLLIDING
