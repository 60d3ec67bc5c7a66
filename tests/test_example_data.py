"""The correlators that are shipped: the synthetic one is what its script makes, the template runs on the other."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.special import fdtrc

import sdpipe
from benchmarks.o3_reconstruction import of_run
from sdpipe.physics.smearing import Gaussian
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


def test_the_readme_shows_what_reconstruct_answers(tmp_path: Path) -> None:
    """Its table is that of the screen, and its caption counts the energies at which the truth is inside the error."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^(0\.\d{4}) +([\d.]+)\((\d+)\) +([\d.]+)\((\d+)\)$", text, re.MULTILINE)
    counted = re.search(r"within one error of it at (\d+) % of the energies, within two at (\d+) %", text)
    assert len(rows) == 3
    assert counted
    budget = sdpipe.reconstruct(FILE, run=tmp_path / "run").budget["pseudoscalar"].load()
    for E, *shown in rows:
        at = budget.sel(E=float(E), method="nearest", tolerance=1e-4)
        for sigma, (value, digits) in enumerate(zip(shown[::2], shown[1::2], strict=True)):
            error = int(digits) * 10.0 ** -len(value.split(".")[1])
            assert abs(at.central[sigma] - float(value)) < 0.1 * error
            assert at.calibrated[sigma] == pytest.approx(error, rel=0.05)
    made = runpy.run_path(str(FILE.with_suffix(".py")))
    truth = np.stack(
        [Gaussian()(budget.E.values[:, None], made["ENERGIES"], s) @ made["AMPLITUDES"] for s in budget.sigma.values]
    )
    off = np.abs(budget.central - truth) / budget.calibrated
    for errors, percent in enumerate(counted.groups(), 1):
        assert float((off < errors).mean()) == pytest.approx(int(percent) / 100, abs=0.03)
