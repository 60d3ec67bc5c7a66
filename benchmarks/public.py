"""Suites that nobody here wrote: the same correlators to every estimator, settings frozen before a truth is seen.

    python -m benchmarks public

Suite V is the synthetic vector correlator of lsdensities (LupoA/lsdensities, examples/syntheticVVCorrelator.py): a
state at 0.775 GeV of weight U(0.35, 0.45), and 24 states at U(0.28, 3.6) GeV of weight U(0.005, 0.02); C(t) at t =
1..24 with a relative error that rises exponentially from 0.002 to 0.15 and correlation exp(-|t - t'|/3); sigma = 0.4
GeV at four energies. Each of 40 correlators is one draw of its noise around C(t).

Networks are those of the shipped audience, and dedicated ones: one ensemble of the default mixture, 100,000 samples,
with the kernel, times and noise of the suite. Rows are Err_sigma = int |rho - truth| / int |truth|, f = mean of
theta(1 - Err) (1 - Err), coverage of the calibrated error at 68.3 %, its mean half width, and seconds per correlator.
Settings are those of 2026-11-26.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import sdpipe
from benchmarks.commands import run_stage
from benchmarks.table import Row
from sdpipe.config.load import load_config
from sdpipe.config.schema import to_yaml
from sdpipe.disk import files
from sdpipe.disk.layout import Layout
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.spectra import peaks
from sdpipe.run import Run

TIMES, SIGMA, ENERGIES = tuple(range(1, 25)), 0.4, (0.3, 0.6, 0.9, 1.2)
DRAWS, BOOTS = 40, 200
R1, GROWTH, TAU = 0.002, float(np.log(0.15 / 0.002) / 23), 3.0

CONFIG = f"""\
name: suite-V
lattice: {{period: 48, times: [1, 24], spacing: 1.0}}
kernel: exponential
smearing: {{sigma: [{SIGMA}]}}
energies: {{min: {ENERGIES[0]}, max: {ENERGIES[-1]}, count: {len(ENERGIES)}}}
spectra: {{}}
noise:
  kind: synthetic
  r1: {R1}
  delta: {GROWTH}
  tau: {TAU}
  model: {{kind: peaks, amplitudes: [0.4, {", ".join(["0.0125"] * 24)}],
    masses: [0.775, {", ".join(f"{E:.4f}" for E in np.linspace(0.28, 3.6, 24))}]}}
budget: {{}}
training: {{audience: shipped}}
validation: {{samples: 4000, bootstrap: 10, levels: [0.683, 0.954], families: {{}}}}
methods: [linear, posterior, hlt]
targets: {{o3: {{kind: o3}}}}
"""


OWN = (
    "spectra={Nb: [64], Nrho: 100000, mixture: {chebyshev: 3, smooth: 1, levels: 2, states: 2, signed: 1}}",
    "ensembles={Nmax: {Nb: 64, Nrho: 100000, network: mlpM}}",
    "budget={central: Nmax, references: {}}",
    "training={replicas: 2, inputs: posterior, epochs: 8}",
)
"""The dedicated networks."""


def draws() -> list[tuple[NDArray, NDArray, NDArray]]:
    """Return bootstrap means (boot, t), their mean, and the truth (E,) of every correlator of suite V."""
    g, made = np.random.default_rng(20261126), []
    grid = Observables(Kernel("exponential", 48), TIMES, (SIGMA,), ENERGIES)
    for _ in range(DRAWS):
        weights = (g.uniform(0.35, 0.45), *g.uniform(0.005, 0.02, 24))
        C, truth = grid.split(peaks(weights, (0.775, *g.uniform(0.28, 3.6, 24))).integrals(grid))
        noise = synthetic(TIMES, C, R1, GROWTH, TAU)
        mean = noise.draw(C, 1, g)[0]
        boots = noise.draw(C, BOOTS, g) - C
        made.append((mean + boots - boots.mean(axis=0), mean, truth[0]))
    return made


def measure(directory: Path) -> list[Row]:
    """Score shipped and dedicated networks, and every method beside them, on suite V."""
    root, rows = directory / "public", []
    for name, keys in {"shipped": (), "dedicated": OWN}.items():
        path, layout = root / f"suite-V-{name}.yaml", Layout(root / f"suite-V-{name}")
        files.write_text(path, CONFIG)
        files.write_text(path, to_yaml(load_config(path, keys)))
        for stage in (*(("generate",) if keys else ()), "train", "predict", "validate"):
            run_stage(stage, path, layout)
        rows += _scores(name, sdpipe.open_run(layout.root))
        print("\n".join(map(str, rows)), flush=True)
    return rows


def _scores(audience: str, run: Run) -> list[Row]:
    """Return the scores of the networks of one run, and of its methods."""
    found = []
    begun = time.perf_counter()
    for boots, _, truth in draws():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the variance of its noise")  # it is relative to its own C(t)
            budget = sdpipe.judge(run, boots).isel(sigma=0)
        central = {"networks": budget.central} | {
            m: budget.method_central.sel({"method": m}) for m in run.config.methods
        }
        error = {"networks": budget.calibrated}
        error |= {m: budget.method_calibrated.sel({"method": m}) for m in run.config.methods}
        found.append({m: (central[m].values - truth, error[m].values, truth) for m in central})
    seconds, rows = (time.perf_counter() - begun) / DRAWS, []
    for name in found[0]:
        off, half, truth = (np.stack([one[name][i] for one in found]) for i in range(3))
        err = np.abs(off).sum(axis=1) / np.abs(truth).sum(axis=1)
        rows += [
            Row(f"suite V, {audience} run, {name}: Err_sigma", float(err.mean()), "1"),
            Row(f"suite V, {audience} run, {name}: f", float(np.maximum(1 - err, 0).mean()), "1"),
            Row(f"suite V, {audience} run, {name}: coverage at 68.3 %", float((np.abs(off) <= half).mean()), "1"),
            Row(f"suite V, {audience} run, {name}: half width", float(half.mean()), "1"),
        ]
    return [*rows, Row(f"suite V, {audience} run: all of them, for one correlator", seconds, "s")]
