"""The shipped audience on lattices that it never saw, beside networks trained for each: MAE and coverage.

    python -m benchmarks universal

For each lattice two runs are validated on the same draws with known truth: one of the shipped audience, which trains
nothing, and one of networks of the same prior that were trained for that lattice and its noise (one ensemble, 4,096
samples, two replicas). Rows are the ratio of their mean absolute errors on the prior, coverage on the prior, the least
over its Chebyshev component at several Nb and over the held-out families, and the seconds of training.
"""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from benchmarks.commands import run_stage
from benchmarks.table import Row
from sdpipe.config.load import load_config
from sdpipe.config.schema import to_yaml
from sdpipe.disk import files, store
from sdpipe.disk.layout import Layout

CONFIG = Path("configs/quickstart.yaml")

LATTICES = {
    "vector-24": ("vector", 24, (1, 12), 1.0, (1e-3, 0.0, 4.0)),
    "vector-32-quiet": ("vector", 32, (1, 16), 0.9, (1e-4, 0.0, 4.0)),
    "vector-32-loud": ("vector", 32, (1, 16), 0.9, (1e-2, 0.0, 1.0)),
    "vector-64": ("vector", 64, (1, 32), 0.5, (1e-3, 0.02, 8.0)),
    "vector-128": ("vector", 128, (1, 40), 0.35, (1e-3, 0.02, 30.0)),
    "periodic-32": ("periodic", 32, (1, 16), 0.8, (1e-3, 0.0, 4.0)),
    "periodic-48": ("periodic", 48, (1, 20), 0.7, (3e-3, 0.05, 0.01)),
    "periodic-64": ("periodic", 64, (1, 24), 0.5, (5e-4, 0.0, 15.0)),
    "periodic-96": ("periodic", 96, (2, 40), 0.4, (1e-3, 0.03, 8.0)),
    "exponential-20": ("exponential", 48, (1, 20), 0.9, (1e-3, 0.1, 4.0)),
    "exponential-24": ("exponential", 64, (1, 24), 0.6, (1e-2, 0.0, 30.0)),
    "exponential-36": ("exponential", 96, (1, 36), 0.4, (1e-4, 0.05, 2.0)),
}
"""Kernel, period, times, spacing; relative error at t = 1, its growth and correlation length. Training saw none."""


def _overrides(name: str) -> list[str]:
    kernel, period, times, spacing, (r1, delta, tau) = LATTICES[name]
    lattice = f"{{period: {period}, times: {list(times)}, spacing: {spacing}}}"
    noise = f"{{kind: synthetic, r1: {r1}, delta: {delta}, tau: {tau}}}"
    only = "ensembles={Nmax: {Nb: 64, Nrho: 4096, network: mlpXS}}"
    alone = [only, "budget.references={}", "spectra.Nb=[64]", "spectra.Nrho=4096", "training.replicas=2"]
    alone += ["validation={samples: 1600, bootstrap: 5, levels: [0.683, 0.954]}", "methods=[posterior]"]
    return [f"lattice={lattice}", f"kernel={kernel}", f"noise={noise}", "targets={o3: {kind: o3}}", *alone]


def _scores(validation: xr.Dataset) -> dict[str, float]:
    prior, names = validation.sel(family="mixture"), validation.family.values.tolist()
    component = [name for name in names if name.startswith("chebyshev")]
    held = [name for name in names if not name.startswith(("mixture", "chebyshev"))]
    scores = {"mae": float(prior.mae.sel(estimate="networks").mean())}
    scores["posterior"] = float(prior.mae.sel(estimate="posterior").mean())
    for level in (0.683, 0.954):
        coverage = validation.coverage.sel(level=level)
        scores[f"prior {level}"] = float(coverage.sel(family="mixture").mean())
        scores[f"chebyshev {level}"] = float(coverage.sel(family=component).min())
        scores[f"held-out {level}"] = float(coverage.sel(family=held).min())
    return scores


def measure(directory: Path) -> list[Row]:
    """Validate both audiences on every lattice."""
    rows, root = [], directory / "universal"
    root.mkdir(parents=True, exist_ok=True)
    for name in LATTICES:
        scores, seconds = {}, {}
        for audience, stages in (("own", ("generate", "train", "validate")), ("shipped", ("train", "validate"))):
            layout = Layout(root / f"{name}-{audience}")
            path = root / f"{layout.root.name}.yaml"
            files.write_text(path, to_yaml(load_config(CONFIG, [*_overrides(name), f"training.audience={audience}"])))
            took = {stage: run_stage(stage, path, layout) for stage in stages}
            seconds[audience] = took["train"] + took.get("generate", 0.0)
            scores[audience] = _scores(store.load(layout.validation))
        one, other = scores["shipped"], scores["own"]
        rows.append(Row(f"{name}: MAE, shipped / own", one["mae"] / other["mae"], "1"))
        rows.append(Row(f"{name}: MAE, shipped / posterior", one["mae"] / one["posterior"], "1"))
        for who in ("prior", "chebyshev", "held-out"):
            rows += [Row(f"{name}: coverage, {who} {level}", one[f"{who} {level}"], "1") for level in (0.683, 0.954)]
        rows += [Row(f"{name}: training, {audience}", took, "s") for audience, took in seconds.items()]
        print("\n".join(f"{row}" for row in rows[-10:]), flush=True)
    return rows
