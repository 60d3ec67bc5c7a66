"""The full broad audience at reference scale: 40 networks, 4 x 400,000 samples, from an empty directory to the report.

    python -m benchmarks reference

Two runs of configs/broad-audience-T32.yaml with synthetic noise: as it stands, with networks on C(t) and the prior of
arXiv:2307.00808 (``published``), and with the mixture prior and networks that correct the posterior (``default``). Both
go on where they were left. Beside them the public 2025 implementation of the paper: its 40 networks' validation losses
and its predictions of delta_tanh, which its repository holds. Its noise is that of a lattice that is not public, and
its validation samples are in its training too, so that losses compare in size, not in digits. The tables and figures of
docs/reference.md are written beside the runs.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import sdpipe
from benchmarks.commands import run_stage
from benchmarks.table import Row, markdown
from benchmarks.training_sets import MIXTURE, REFERENCE
from sdpipe.config.load import load_config
from sdpipe.config.schema import to_yaml
from sdpipe.disk import files
from sdpipe.disk.layout import Layout
from sdpipe.infer.budget import total_error
from sdpipe.run import Run
from sdpipe.show import figures
from sdpipe.show.picture import save

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

CODE = "reference code"

THEIR_LOSSES = {
    "Nmax": (0.0109, 0.0054),
    "Nref_b": (0.0101, 0.0048),
    "Nref_n": (0.0109, 0.0054),
    "Nref_rho": (0.0117, 0.0058),
}
"""Validation losses of the reference code at sigma = 0.44 and 0.63 GeV, means of 5 replicas."""

THEIR_DELTA_TANH = {"mean |error|": (0.056, 0.045), "mean total error": (0.178, 0.083), "within it [%]": (100, 83)}
"""Its predictions of delta_tanh at both sigma."""

TARGETS = ("o3", "delta_tanh")


def measure(directory: Path) -> list[Row]:
    """Make both runs, unless they are done, and write tables and figures of what came out."""
    home, runs, peak = directory / "reference", {}, {}
    home.mkdir(parents=True, exist_ok=True)
    for name, keys in RUNS.items():
        files.write_text(home / f"{name}.yaml", to_yaml(load_config(REFERENCE, keys)))
        run_stage("run", home / f"{name}.yaml", Layout(home / name))
        runs[name] = sdpipe.open_run(home / name)
        peak[name] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    made = {title: table(runs) for title, table in TABLES.items()}
    made["Cost"].loc["largest process since the command began [GB]"] = peak
    files.write_text(home / "tables.md", "\n".join(f"## {title}\n\n{markdown(x)}\n" for title, x in made.items()))
    draw(runs, home)
    return [
        Row(f"{title}: {' '.join(map(str, np.atleast_1d(line)))}: {column}", value, "")
        for title, frame in made.items()
        for column in frame
        for line, value in frame[column].dropna().items()
    ]


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
        save(figure, directory / f"{name}.png")


def losses(runs: dict[str, Run]) -> pd.DataFrame:
    """Return the best validation loss, mean of the replicas, also over those of the linear estimator and posterior."""
    found = {}
    for name, run in runs.items():
        history = run.history.load()
        best = history.val_loss.min("epoch").mean("replica")
        each = {"": best, " over linear": best / history.linear_loss, " over posterior": best / history.posterior_loss}
        found |= {f"{name}{what}": x.to_series() for what, x in each.items()}
    frame = pd.DataFrame(found)
    frame[CODE] = pd.Series(
        {(e, s): x for e, both in THEIR_LOSSES.items() for s, x in zip(_sigma(runs), both, strict=True)}
    )
    return frame


def targets(runs: dict[str, Run]) -> pd.DataFrame:
    """Return accuracy and errors of targets with a known answer; lengths are means over energies."""
    found = {}
    for target in TARGETS:
        for i, sigma in enumerate(_sigma(runs)):
            for name, run in runs.items():
                one = run.budget[target].isel(sigma=i).load()
                off, published = np.abs(one.central - one.truth), total_error(one.error.drop_sel(source="resolution"))
                found[target, sigma, name] = {
                    "mean |error|": off.mean(),
                    "mean total error": published.mean(),
                    "within it [%]": 100 * (off <= published).mean(),
                    "mean calibrated error": one.calibrated.mean(),
                    "within the calibrated error [%]": 100 * (off <= one.calibrated).mean(),
                }
            if target == "delta_tanh":
                found[target, sigma, CODE] = {what: both[i] for what, both in THEIR_DELTA_TANH.items()}
    return pd.DataFrame(found).T.astype(float).rename_axis(["target", "sigma", "run"])


def by_source(runs: dict[str, Run]) -> pd.DataFrame:
    """Return the mean error of each source; ``resolution`` is not in the published budget."""
    found = {
        (target, sigma, name): run.budget[target].error.sel(sigma=sigma).mean("E").to_series()
        for target in TARGETS
        for sigma in _sigma(runs)
        for name, run in runs.items()
    }
    return pd.DataFrame(found).T.rename_axis(["target", "sigma", "run"])


def coverage(runs: dict[str, Run]) -> pd.DataFrame:
    """Return the percentage of the draws of each family inside the calibrated error."""
    found = {}
    for name, run in runs.items():
        of = run.validation.coverage.sel(level=[0.683, 0.954]).load()
        found |= {f"{name} {100 * x:g} %": 100 * of.sel(level=x, drop=True).to_series() for x in of.level.values}
    families = dict.fromkeys(line for column in found.values() for line in column.index)
    return pd.DataFrame(found).reindex(families)


def cost(runs: dict[str, Run]) -> pd.DataFrame:
    """Return wall time by stage and bytes on disk."""
    found: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        of = found.setdefault(name, {})
        for session in run.layout.sessions():
            stage = f"{session['stage']} [min]"
            of[stage] = of.get(stage, 0.0) + session["seconds"] / 60
        of["on disk [GB]"] = sum(f.stat().st_size for f in run.layout.root.rglob("*") if f.is_file()) / 1e9
    return pd.DataFrame(found).rename_axis("what")


TABLES: dict[str, Callable[[dict[str, Run]], pd.DataFrame]] = {
    "Losses": losses,
    "Targets with a known answer": targets,
    "Mean error by source": by_source,
    "Coverage": coverage,
    "Cost": cost,
}


def _sigma(runs: dict[str, Run]) -> list[float]:
    """Return sigma, in GeV: that of both runs is the same."""
    return next(iter(runs.values())).history.sigma.values.tolist()
