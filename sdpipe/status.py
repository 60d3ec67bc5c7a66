"""The table of what is done, missing or stale in a run directory."""

from __future__ import annotations

import json

from sdpipe import pending
from sdpipe.blocks import training_blocks
from sdpipe.config import Config
from sdpipe.layout import Layout


def _state(done: int, total: int, there: bool) -> str:
    if done == total:
        return "done"
    if not there:
        return "missing"
    return "unfinished" if done else "stale or not begun"


def running_rows(layout: Layout) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the networks that are being trained: epoch, validation loss, the linear one."""
    rows = []
    for file in sorted(layout.progress("").parent.glob("*.json")):
        for r in json.loads(file.read_text(encoding="utf-8")):
            epoch = f"{r['epoch']}/{r['epochs']}"
            rows.append([r["task"].removeprefix("train-"), epoch, f"{r['val_loss']:.5f}", f"{r['linear_loss']:.5f}"])
    return ["in training", "epoch", "val MAE", "linear MAE"], rows


def status_rows(config: Config, layout: Layout) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the status table: stage, state, how much of it is done."""
    blocks, targets = len(training_blocks(config)), len(config.targets)
    networks = len(config.ensembles) * len(config.smearing.sigma) * config.training.replicas
    missing_networks = sum(len(s.replicas) for s in pending.stacks(config, layout))
    counts = [
        ("generate", blocks - len(pending.blocks(config, layout)), blocks, "blocks", layout.training),
        ("train", networks - missing_networks, networks, "networks", layout.networks),
        ("predict", targets - len(pending.predictions(config, layout)), targets, "targets", layout.predictions),
        ("analyze", targets - len(pending.budgets(config, layout)), targets, "targets", layout.budget),
        ("report", int(not pending.report(config, layout)), 1, "page", layout.report),
    ]
    rows = [
        [stage, _state(done, all_, path.exists()), f"{done}/{all_} {what}"] for stage, done, all_, what, path in counts
    ]
    return ["stage", "state", "done"], rows
