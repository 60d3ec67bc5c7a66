"""The correlators that are shipped: the synthetic one is what its script makes, the template runs on the other."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.special import fdtrc

import sdpipe
from benchmarks.o3_reconstruction import of_run
from tests.fixtures import REPOSITORY

if TYPE_CHECKING:
    from tests.fixtures import Outcome

FILE = REPOSITORY / "data" / "pseudoscalar.txt"

SMALL = (
    "spectra.Nrho=1200",
    "ensembles={Nmax: {Nb: 64, Nrho: 1200, network: arcS}, Nref_b: {Nb: 16, Nrho: 1200, network: arcS}}",
    "budget.references={b: Nref_b}",
    "training={replicas: 2, epochs: 2}",
    "validation={samples: 120, bootstrap: 4, levels: [0.683, 0.954], families: {o3: {kind: o3}}}",
)


def test_the_file_is_what_its_script_makes() -> None:
    made = runpy.run_path(str(FILE.with_suffix(".py")))
    np.testing.assert_allclose(np.loadtxt(FILE), made["configurations"](), rtol=1e-6)
    assert FILE.stat().st_size < 200_000


def test_its_mean_is_the_true_correlator_within_its_covariance() -> None:
    data = sdpipe.read_correlator(FILE, period=32, times=(1, 16))
    made = runpy.run_path(str(FILE.with_suffix(".py")))
    off, independent = data["mean"].values - made["correlator"](data.t.values), 240 // 4
    chi2 = off @ np.linalg.solve(data.covariance.values, off)
    assert fdtrc(16, independent - 16, chi2 * (independent - 16) / (16 * (independent - 1))) > 0.05
    assert data.attrs["tau_int"] == pytest.approx(2.0, abs=2 * data.attrs["tau_int_error"])
    assert data.attrs["flags"] == []


def test_the_template_runs_as_shipped(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its files and keys are those that are shipped; only sizes are made smaller. The answer is known."""
    monkeypatch.chdir(REPOSITORY)
    outcome = cli("run", "configs/lattice-data.yaml", *SMALL, "--run", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "mine: 1500 configurations, tau_int 0.59 +- 0.05, errors by the Gamma method; covariance full" in outcome.err
    run = sdpipe.open_run(tmp_path / "run")
    budget, exact = of_run(run, "mine")
    middle = (budget.E.values >= 0.5) & (budget.E.values <= 1.5)
    assert np.abs(budget.central.values / exact - 1)[:, middle].max() < 0.12  # cutoff effects are 6 %, its errors 5
    assert "errors by the Gamma method" in run.layout.report.read_text()
