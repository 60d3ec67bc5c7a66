"""The full broad audience at reference scale: 40 networks, 4 x 400,000 samples, from an empty directory to the report.

    python -m benchmarks reference

Two runs of configs/broad-audience-T32.yaml with synthetic noise: as it stands, with networks on C(t) and the prior of
arXiv:2307.00808 (``published``), and with the mixture prior and networks that correct the posterior (``default``). Both
go on where they were left. Beside them the public 2025 implementation of the paper: its 40 networks' validation losses
and its predictions of delta_tanh, which its repository holds. Its noise is that of a lattice that is not public, and
its validation samples are in its training too, so that losses compare in size, not in digits. Figures are written
beside the runs.
"""

from __future__ import annotations

import resource
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import sdpipe
from benchmarks.commands import run_stage
from benchmarks.table import Row
from benchmarks.training_sets import MIXTURE, REFERENCE
from sdpipe.config.load import load_config
from sdpipe.config.schema import to_yaml
from sdpipe.disk import files
from sdpipe.disk.layout import Layout
from sdpipe.infer.budget import total_error
from sdpipe.run import Run
from sdpipe.show import figures

NOISE = "noise={kind: synthetic, r1: 1.0e-3, delta: 0.0, tau: 4.0, model: {kind: o3, threshold: 1.0}}"
NETWORKS = {
    "Nmax": "Nb: 128, Nrho: 400000, network: mlpM",
    "Nref_b": "Nb: 16, Nrho: 400000, network: mlpM",
    "Nref_n": "Nb: 128, Nrho: 400000, network: mlpS",
    "Nref_rho": "Nb: 128, Nrho: 25000, network: mlpM",
}
RUNS = {
    "published": (NOISE,),
    "default": (
        NOISE,
        f"spectra={{Nb: [16, 32, 64, 128], Nrho: 400000, mixture: {MIXTURE}}}",
        f"ensembles={{{', '.join(f'{name}: {{{keys}}}' for name, keys in NETWORKS.items())}}}",
        "training={replicas: 5, inputs: posterior, epochs: 8}",
    ),
}
"""What each run changes in the config."""

THEIR_LOSSES = {
    "Nmax": (0.0109, 0.0054),
    "Nref_b": (0.0101, 0.0048),
    "Nref_n": (0.0109, 0.0054),
    "Nref_rho": (0.0117, 0.0058),
}
"""Validation losses of the reference code at sigma = 0.44 and 0.63 GeV, means of 5 replicas."""

THEIR_DELTA_TANH = {"mean |error|": (0.056, 0.045), "mean total error": (0.178, 0.083), "within it": (1.00, 0.83)}
"""Its predictions of delta_tanh at both sigma."""

TARGETS = ("o3", "delta_tanh")


def measure(directory: Path) -> list[Row]:
    """Make both runs, unless they are done, tell what came out, and draw it."""
    rows, runs = [], {}
    for name, keys in RUNS.items():
        path, layout = directory / "reference" / f"{name}.yaml", Layout(directory / "reference" / name)
        files.write_text(path, to_yaml(load_config(REFERENCE, keys)))
        run_stage("run", path, layout)
        run = runs[name] = sdpipe.open_run(layout.root)
        rows += [*_cost(name, layout), *_losses(name, run)]
        rows += [row for target in TARGETS for row in _target(name, run, target)]
        rows += _coverage(name, run)
    draw(runs, directory / "reference")
    return rows


@mpl.rc_context(figures.STYLE)
def draw(runs: dict[str, Run], directory: Path) -> None:
    """Draw reconstructions, and errors by source, of both targets by both runs at the smaller sigma."""
    for name, of in (("reconstruction", figures.reconstruction), ("budget", figures.by_source)):
        figure = Figure(figsize=(11, 9))
        axes = figure.subplots(len(TARGETS), len(runs), squeeze=False)
        for row, target in zip(axes, TARGETS, strict=True):
            for ax, (label, run) in zip(row, runs.items(), strict=True):
                of(run.budget[target].isel(sigma=0).load(), ax)
                ax.set_title(f"{label}: {target}", fontsize=10, loc="left")
        figure.tight_layout()
        figures.save(figure, directory / f"{name}.png")


def _cost(name: str, layout: Layout) -> list[Row]:
    """Return wall time by stage, bytes on disk, and the memory of the largest process of this measurement."""
    seconds: dict[str, float] = {}
    for sitting in layout.sittings():
        seconds[sitting["stage"]] = seconds.get(sitting["stage"], 0.0) + sitting["seconds"]
    size = sum(f.stat().st_size for f in layout.root.rglob("*") if f.is_file())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return [
        *(Row(f"{name}: {stage}", s / 60, "min") for stage, s in seconds.items()),
        Row(f"{name}: on disk", size / 1e9, "GB"),
        Row(f"{name}: the largest process", peak / 1e6, "GB", note="since this command began"),
    ]


def _losses(name: str, run: Run) -> list[Row]:
    """Return the best validation loss of each ensemble, mean of its replicas, also over those of linear and posterior.

    The reference code's are its baseline where the prior is the same.
    """
    history, rows = run.history.load(), []
    best = history.val_loss.min("epoch").mean("replica")
    for ensemble in history.ensemble.values:
        for i, sigma in enumerate(history.sigma.values):
            one = {"ensemble": ensemble, "sigma": sigma}
            what, loss = f"{name}: {ensemble}, sigma {sigma:g}, validation loss", float(best.sel(one))
            theirs = THEIR_LOSSES[ensemble][i] if name == "published" else None
            rows.append(Row(what, loss, "", theirs, smaller=True))
            rows.append(Row(f"{what} over linear", loss / float(history.linear_loss.sel(one)), ""))
            rows.append(Row(f"{what} over posterior", loss / float(history.posterior_loss.sel(one)), ""))
    return rows


def _target(name: str, run: Run, target: str) -> list[Row]:
    """Return accuracy, errors and budget of a target with a known answer; lengths are means over energies."""
    budget, rows = run.budget[target].load(), []
    for i, sigma in enumerate(budget.sigma.values):
        one, what = budget.sel(sigma=sigma), f"{name}: {target}, sigma {sigma:g}"
        off = np.abs(one.central - one.truth)
        published = total_error(one.error.isel(source=slice(-1)))
        mine = {
            "mean |error|": off.mean(),
            "mean total error": published.mean(),
            "within it": (off <= published).mean(),
        }
        for key, value in mine.items():
            theirs = THEIR_DELTA_TANH[key][i] if target == "delta_tanh" else None
            rows.append(Row(f"{what}, {key}", float(value), "", theirs, smaller=True))
        rows.append(Row(f"{what}, mean calibrated error", float(one.calibrated.mean()), ""))
        rows.append(Row(f"{what}, within the calibrated error", float((off <= one.calibrated).mean()), ""))
        rows += [
            Row(f"{what}, mean error by {s}", float(one.error.sel(source=s).mean()), "") for s in one.source.values
        ]
    return rows


def _coverage(name: str, run: Run) -> list[Row]:
    """Return coverage of the calibrated error, by family and sigma."""
    validation = run.validation.load()
    return [
        Row(
            f"{name}: {family}, sigma {sigma:g}, coverage at {level:.1%}",
            float(validation.coverage.sel(family=family, sigma=sigma, level=level)),
            "",
        )
        for family in validation.family.values
        for sigma in validation.sigma.values
        for level in (0.683, 0.954)
    ]
