"""Forty networks, hardly trained, times are the same: loading, prediction, validation, analysis."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.commands import run_stage
from benchmarks.steps import plain_network
from benchmarks.table import Limit, Row, turn_by_turn
from benchmarks.training_sets import REFERENCE, SYNTHETIC
from sdpipe.config.load import load_config
from sdpipe.config.schema import to_yaml
from sdpipe.disk.layout import Layout
from sdpipe.estimators.networks import Networks
from sdpipe.learn import trained
from sdpipe.pipeline.tasks import load_audience, load_networks, load_predictor
from sdpipe.problem.inputs import Inputs

BARE_SAMPLES = 10

SMALL = [
    "spectra.Nrho=8192",
    "training.epochs=2",
    "validation.samples=154",
    "validation.bootstrap=200",
    "validation.levels=[0.683]",
]
"""A training of seconds; the thirteen families of draws are 2,000 spectra."""


def analyze(config: Path, layout: Layout) -> float:
    """Analyse every target anew; return the wall seconds of the process."""
    shutil.rmtree(layout.receipts.directory / "analyze", ignore_errors=True)
    return run_stage("analyze", config, layout)


def measure(root: Path) -> list[Row]:
    """Load, predict, validate and analyse with the reference audience, barely trained."""
    torch.set_num_threads(1)
    sizes = {name: min(e.Nrho, 8192) for name, e in load_config(REFERENCE, [SYNTHETIC]).ensembles.items()}
    config = load_config(REFERENCE, [SYNTHETIC, *(f"ensembles.{n}.Nrho={Nrho}" for n, Nrho in sizes.items()), *SMALL])
    layout, file = Layout(root / "audience"), root / "audience.yaml"
    shutil.rmtree(layout.root, ignore_errors=True)
    file.write_text(to_yaml(config))
    wall = {stage: run_stage(stage, file, layout) for stage in ("generate", "train", "predict", "validate")}
    lattice = Inputs(config).problem.noise
    everyone = load_predictor(config, layout)
    members, audience = everyone.members, everyone.audience
    samples = lattice.draw(lattice.mean, config.bootstrap, np.random.default_rng(1))
    modules = {name: plain_network(name).eval() for name in ("arcS", "arcL")}
    x = torch.as_tensor((samples - lattice.mean) @ members[0].matrix, dtype=torch.float32)

    def load() -> None:
        trained._network.cache_clear()
        load_networks(config, layout, load_audience(layout))

    def one_by_one() -> None:
        for member in members:
            Networks([member], audience, member.ensemble).of_inputs(samples[:1])

    def bare() -> None:
        with torch.inference_mode():
            for member in members:
                for i in range(BARE_SAMPLES):
                    modules[member.architecture](x[i : i + 1])

    t = turn_by_turn(
        {
            "load": load,
            "predict": lambda: everyone.predict(samples),
            "one by one": one_by_one,
            "bare": bare,
        },
        rounds=5,
    )
    wall["analyze"] = median(analyze(file, layout) for _ in range(3))
    boots, count = config.bootstrap, len(members)
    one, module = t["one by one"] * boots, t["bare"] * boots / BARE_SAMPLES
    return [
        Row(f"load {count} networks", t["load"], "s", None, (Limit("ours", "≤", 1),), True),
        Row(
            f"predict {boots} samples x {count} networks", t["predict"], "s", one,
            (Limit("ours", "≤", 1), Limit("ratio", "≥", 100)), True,
            f"baseline: the same function, one sample and one network a call; 1 of {boots} samples timed and scaled",
        ),
        Row(
            "the same, against bare torch.nn modules", t["predict"], "s", module, (), True,
            f"no transforms, no linear part; {BARE_SAMPLES} of {boots} samples timed and scaled",
        ),
        Row("validate 2,000 spectra x 200 bootstraps x 40 networks", wall["validate"] / 60, "min", None,
            (Limit("ours", "≤", 4),), True, "wall time of sdpipe validate, figures included"),
        Row(f"analyze {len(config.targets)} targets, figures included", wall["analyze"], "s", None,
            (Limit("ours", "≤", 5),), True, "wall time of sdpipe analyze"),
    ]  # fmt: skip
