"""What is done, missing or stale in a run directory, how large and how old it is, and what to do next."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdpipe.config import problem
from sdpipe.config.schema import Config
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.errors import DamageError
from sdpipe.pipeline import pending
from sdpipe.pipeline.pieces import every_network, training_blocks, validation_blocks
from sdpipe.show.tables import age, size, table


@dataclass(frozen=True)
class Stage:
    """How far a stage is. ``state`` is done, stale (made from other inputs), unfinished or missing.

    ``modified`` is when its files last changed, in seconds since 1970, or None where there are none.
    """

    name: str
    state: str
    done: int
    total: int
    unit: str
    bytes: int
    modified: float | None


def _stage(name: str, done: int, total: int, unit: str, stale: bool, *paths: Path, whole: bool = True) -> Stage:
    """Return one stage, unfinished as well where all of it is done but its store is not ``whole``."""
    files = [f.stat() for path in paths for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    if stale:
        state = "stale"
    elif done == total and whole:
        state = "done"
    else:
        state = "unfinished" if done or files else "missing"
    changed = max((f.st_mtime for f in files), default=None)
    return Stage(name, state, done, total, unit, sum(f.st_size for f in files), changed)


def _made_from_other_inputs(path: Path, config_hash: str) -> bool:
    return store.identity(path) not in (None, config_hash)


def survey(config: Config, layout: Layout) -> list[Stage]:
    """Return how far each stage is, in their order. Reads markers, attributes and file names only."""
    every, blocks = len(training_blocks(config)), len(pending.blocks(config, layout))
    stale_set = layout.training.exists() and not pending.training_is_current(config, layout)
    whole = pending.template_is_current(config, layout)
    generate = _stage("generate", every - blocks, every, "blocks", stale_set, layout.training, whole=whole)

    total = len(every_network(config))
    lost = [layout.network(*network) for network in pending.missing_networks(config, layout)]
    stale_networks = any(path.exists() for path in lost)
    stale_history = not lost and not pending.history_is_current(config, layout)
    train = _stage(
        "train", total - len(lost), total, "networks", stale_networks or stale_history, layout.networks, layout.history
    )

    def of_targets(name: str, late: list[str], root: Path, identity: Any, *more: Path) -> Stage:
        stale = any(_made_from_other_inputs(root / t, identity(config, t)) for t in late)
        total, whole = len(config.targets), not pending.root_is_damaged(root)
        return _stage(name, total - len(late), total, "targets", stale, root, *more, whole=whole)

    predict = of_targets("predict", pending.predictions(config, layout), layout.predictions, problem.prediction_hash)
    analyze = of_targets("analyze", pending.budgets(config, layout), layout.budget, problem.budget_hash, layout.figures)
    validate = _validation(config, layout)
    late_report = pending.report(config, layout)
    report = _stage("report", int(not late_report), 1, "page", late_report and layout.report.exists(), layout.report)
    return [generate, train, predict, *validate, analyze, report]


def _validation(config: Config, layout: Layout) -> list[Stage]:
    """Return the stage ``validate`` where it calibrates, or was asked for."""
    if config.budget.calibration == "none" and not layout.validation.exists():
        return []
    blocks, late = len(validation_blocks(config)), len(pending.validation_draws(config, layout))
    done = blocks - late + int(pending.validation_is_current(config, layout))
    stale = _made_from_other_inputs(layout.validation, problem.validation_hash(config))
    return [_stage("validate", done, blocks + 1, "steps", stale, layout.validation, layout.draws)]


def in_training(layout: Layout) -> list[dict[str, Any]]:
    """Return what the stacks that are being trained last noted: network, epoch, epochs, losses, time."""
    rows = []
    for file in sorted(layout.progress("").parent.glob("*.json")):
        at = file.stat().st_mtime
        rows += [{**row, "modified": at} for row in json.loads(file.read_text(encoding="utf-8"))]
    return rows


def next_stage(stages: Iterable[Stage]) -> str | None:
    """Return the stage that does what is left: ``run`` where it is more than one, None where all is done.

    >>> one, two = (Stage(n, "missing", 0, 1, "page", 0, None) for n in ("analyze", "report"))
    >>> next_stage([one, two]), next_stage([two]), next_stage([])
    ('run', 'report', None)
    """
    left = [s.name for s in stages if s.state != "done"]
    if not left:
        return None
    return left[0] if len(left) == 1 else "run"


def rows(stages: Iterable[Stage]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of stages."""
    now = time.time()
    body = [
        [
            s.name,
            s.state,
            f"{s.done}/{s.total} {s.unit}",
            size(s.bytes) if s.modified else "-",
            age(now - s.modified) if s.modified else "-",
        ]
        for s in stages
    ]
    return ["stage", "state", "done", "size", "changed"], body


def text(stages: list[Stage], running: list[dict[str, Any]]) -> str:
    """Return the tables that ``sdpipe status`` prints."""
    parts = [table(*rows(stages))]
    if running:
        now = time.time()
        header = ["in training", "epoch", "val MAE", "linear MAE", "noted"]
        body = [
            [
                r["task"].removeprefix("train-"),
                f"{r['epoch']}/{r['epochs']}",
                f"{r['val_loss']:.5f}",
                f"{r['linear_loss']:.5f}",
                age(now - r["modified"]),
            ]
            for r in running
        ]
        parts.append(table(header, body))
    return "\n\n".join(parts)


def as_json(
    config: Config, layout: Layout, stages: list[Stage], command: str | None, damaged: list[DamageError] | None
) -> str:
    """Return the same as JSON: ``name``, ``run``, ``stages``, ``training``, and the ``next`` command or null.

    ``damaged`` lists each damaged ``file`` and ``what`` is wrong with it, or is null where the bytes were not read.
    """
    facts = {
        "name": config.name,
        "run": str(layout.root),
        "stages": [{**vars(s), "modified": _iso(s.modified)} for s in stages],
        "training": [{**r, "modified": _iso(r["modified"])} for r in in_training(layout)],
        "damaged": None if damaged is None else [{"file": str(e.file), "what": e.what} for e in damaged],
        "next": command,
    }
    return json.dumps(facts, indent=2)


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
