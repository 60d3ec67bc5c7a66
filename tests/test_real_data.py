"""A real lattice correlator through the whole pipeline, small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

import sdpipe
from sdpipe.pipeline.tasks import load_audience
from sdpipe.problem.inputs import Inputs

if TYPE_CHECKING:
    from tests.fixtures import Outcome, SerialPool

Cli = Callable[..., "Outcome"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "etas-Ds.h5"

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"{DATA.name}, a real correlator, is not in ../shared/data")

GROUND_STATE = 0.416
"""Mass of the lowest state in lattice units."""

CONFIG = """\
name: real
lattice: {{period: 64, times: [1, 32], spacing: 1.0}}
kernel: periodic
smearing: {{sigma: [0.2, 0.3]}}
energies: {{min: 0.05, max: 2.0, count: 10}}
spectra: {{Nb: [8, 16], Nrho: 1200}}
noise: {{kind: correlator, path: {noise}, dataset: etas}}
ensembles:
  Nmax:   {{Nb: 16, Nrho: 1200, network: arcS}}
  Nref_b: {{Nb: 8,  Nrho: 1200, network: arcS}}
budget: {{central: Nmax, references: {{b: Nref_b}}}}
training: {{replicas: 2, epochs: 2}}
targets:
  eta_s: {{kind: correlator, path: {target}, dataset: etas}}
  o3: {{kind: o3, threshold: 0.5}}
bootstrap: 100
validation: {{samples: 120, bootstrap: 4, levels: [0.683, 0.954], families: {{o3: {{kind: o3}}}}}}
"""


def folded(data: np.ndarray) -> np.ndarray:
    """Return [C(t) + C(T - t)] / 2 at t = 1 .. T/2 for data (cfg, T)."""
    t = np.arange(1, data.shape[1] // 2 + 1)
    return (data[:, t] + data[:, -t]) / 2


def test_a_real_correlator_from_file_to_budget(cli: Cli, serial: SerialPool, tmp_path: Path) -> None:
    with h5py.File(DATA) as file:
        data = file["etas"][()]
    target, factor = tmp_path / "target.h5", 1000.0
    with h5py.File(target, "w") as file:
        file["etas"] = data
    config = tmp_path / "real.yaml"
    config.write_text(CONFIG.format(noise=DATA, target=target))
    outcome = cli("run", config, "--run", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    run = sdpipe.open_run(tmp_path / "run")

    # The store holds the correlator as it is in the file, and the scale that took it to the training set.
    C = folded(data)
    noise = Inputs(run.config).problem.noise
    np.testing.assert_allclose(noise.mean, C.mean(axis=0), rtol=1e-12)
    correlation = noise.covariance / np.sqrt(np.outer(*2 * [np.diag(noise.covariance)]))
    np.testing.assert_allclose(correlation, np.corrcoef(C, rowvar=False), atol=1e-9)
    naive = np.cov(C, rowvar=False) / len(C)
    assert (np.diag(noise.covariance) > 0.999 * np.diag(naive)).all()
    np.testing.assert_allclose(np.diag(noise.covariance), np.diag(naive), rtol=0.6)
    predictions = run.predictions["eta_s"].load()
    error = np.sqrt(np.diag(noise.covariance))
    assert np.abs((predictions.correlator.mean("boot") - C.mean(axis=0)) / error).max() < 0.5
    np.testing.assert_allclose(predictions.correlator.std("boot"), error, rtol=0.35)
    typical = load_audience(run.layout).statistics.typical
    assert 0.099 < predictions.attrs["scale"] * C[:, 0].mean() / typical < 10.1
    assert run.predictions["o3"].attrs["scale"] == 1.0

    # Its time slices are where they should be: the effective mass is that of the ground state.
    mean = predictions.correlator.mean("boot")
    at = dict(zip(mean.t.values.tolist(), mean.values.tolist(), strict=True))
    effective = [float(np.arccosh((at[t - 1] + at[t + 1]) / (2 * at[t]))) for t in range(20, 28)]
    assert np.mean(effective) == pytest.approx(GROUND_STATE, rel=0.01)

    # Predictions are finite, and nothing pretends to know the truth.
    rho = predictions.rho
    assert bool(np.isfinite(rho).all())
    assert "truth" not in predictions
    budget = run.budget["eta_s"]
    assert "truth" not in budget
    assert "pull" not in budget
    assert bool((budget.total > 0).all())

    # A correlator in other units: only it is predicted anew, and the prediction follows.
    serial.done.clear()
    with h5py.File(target, "a") as file:
        file["etas"][:] = factor * data
    again = cli("predict", tmp_path / "run")
    assert again.status == 0
    assert serial.done == ["predict-eta_s"]
    assert "inputs of eta_s have changed" in again.err
    scaled = run.predictions["eta_s"].load()
    assert scaled.attrs["scale"] == pytest.approx(predictions.attrs["scale"] / factor, rel=1e-12)
    tolerance = 1e-4 * float(np.abs(rho).max())
    np.testing.assert_allclose(scaled.rho / factor, rho, atol=tolerance)

    # The same from Python.
    samples = predictions.correlator
    np.testing.assert_allclose(
        sdpipe.predict(run, factor * samples) / factor, rho, atol=0.01 * float(np.abs(rho).max())
    )
