"""The pipeline on a page: a stage reads the config, maps a function over pending blocks, and returns.

Every stage is a resume: it returns whether it had anything to do. Dask, PyTorch and matplotlib are imported
once there is work for them, so that a finished run answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdpipe.config import problem
from sdpipe.config.schema import Config
from sdpipe.disk import files, store
from sdpipe.disk.layout import Layout
from sdpipe.errors import RunError
from sdpipe.pipeline import pending
from sdpipe.pipeline.pieces import (
    NetworkId,
    network_name,
    training_blocks,
    training_template,
    validation_blocks,
    validation_template,
)
from sdpipe.show.console import Console
from sdpipe.workers.choice import Workers, wide_stacks


@dataclass(frozen=True)
class Context:
    """What every stage works on."""

    config: Config
    layout: Layout
    console: Console
    workers: Workers


def generate(run: Context) -> bool:
    """Write ``training.zarr``: mock correlators and smeared spectral densities, block by block."""
    config, layout = run.config, run.layout
    blocks = pending.blocks(config, layout)
    if not pending.anything(config, layout, ["generate"]):
        return False
    from sdpipe.pipeline.generation import generate_block
    from sdpipe.workers.pools import Task

    identity = problem.training_hash(config)
    markers, attrs = layout.markers("generate", identity), store.attributes(identity, config.seed)
    if not pending.training_is_current(config, layout):
        if layout.training.exists():
            run.console.say("generate: the inputs have changed; making the training set anew")
            files.remove(layout.training)
        markers.clear()
        store.create(layout.training, *training_template(config), attrs)
        markers.add("template")
    elif not pending.template_is_current(config, layout):
        run.console.say("generate: metadata or coordinates of the training set are lost; writing them anew")
        store.restore(layout.training, *training_template(config), attrs)
        markers.add("template")
    if not blocks:
        return True
    tasks = [Task(b.name, (config, layout.root, b)) for b in blocks]
    with (
        run.workers.pool("generate", len(tasks)) as pool,
        run.console.progress("generate", len(training_blocks(config)), len(tasks)) as progress,
    ):
        samples = 0
        for _, result in pool.map(generate_block, tasks):
            samples += result["samples"]
            progress.advance(f"{samples / progress.seconds:,.0f} samples/s")
    return True


def train(run: Context) -> bool:
    """Train every network of the broad audience, then write ``history.zarr``."""
    config, layout = run.config, run.layout
    pending.require_training(config, layout)
    missing = pending.missing_networks(config, layout)
    if not missing and pending.history_is_current(config, layout):
        return False
    from sdpipe.learn import history
    from sdpipe.pipeline.audience import load_networks

    if missing:
        _train_stacks(run, missing)
    networks = load_networks(config, layout)
    identity = problem.audience_hash(config)
    store.write_dataset(layout.history, history.collect(networks), store.attributes(identity, config.seed))
    layout.markers("train", identity).add("history")
    for leftover in layout.state("train").glob("*.pt"):
        leftover.unlink()
    return True


def _train_stacks(run: Context, missing: list[NetworkId]) -> None:
    from sdpipe.pipeline.audience import train_stack
    from sdpipe.workers import pools

    config, layout = run.config, run.layout
    if any(layout.network(*network).exists() for network in missing):
        run.console.say(f"train: {len(missing)} networks are missing or stale; training them anew")
    for flag in problem.lattice_noise(config).flags:
        run.console.warn(f"noise: {flag}")
    diverged, devices = dict[str, str](), set[str]()
    stacks = pending.stacks(config, layout, wide_stacks(config))
    with run.workers.pool("train", len(stacks)) as pool, run.console.progress("train", len(stacks)) as progress:
        worker = (pool.threads, pool.sharers, pools.memory, pools.report)
        tasks = [pools.Task(s.name, (config, layout.root, s, *worker)) for s in stacks]
        networks = {s.name: [network_name(config, n) for n in s.networks] for s in stacks}

        def show(message: dict[str, Any]) -> None:
            if "note" in message:
                run.console.say(f"train: {message['note']}")
            elif "device" in message:
                if message["device"] == "cpu" and not devices and config.training.device == "auto":
                    run.console.say(f"train: no GPU on {message['host']}; training on the CPU")
                devices.add(message["device"])
            else:
                note = f"val {message['val_loss']:.5f}, linear {message['linear_loss']:.5f}"
                progress.row(message["task"].removeprefix("train-"), message["epoch"], message["epochs"], note)

        for name, result in pool.map(train_stack, tasks, on_message=show):
            diverged |= result["diverged"]
            for network in networks[name]:
                progress.drop(network.removeprefix("train-"))
            progress.advance(name)
    if diverged:
        lost = "; ".join(f"{name} {why}" for name, why in sorted(diverged.items()))
        raise RunError(f"training diverged: {lost}; all other networks are safe in {layout.networks}")


def _open_groups(run: Context, path: Path, stage: str) -> None:
    """Make the store of one group a target, or take out of it the targets that the config no longer has."""
    config, layout = run.config, run.layout
    store.create_groups(path, store.attributes(problem.audience_hash(config), config.seed))
    for name in sorted({p.name for p in path.iterdir() if p.is_dir()} - config.targets.keys()):
        run.console.say(f"{stage}: {name} is no longer a target; removing it from {path.name}")
        layout.markers(stage, "").forget(name)
        files.remove(path / name)


def predict(run: Context) -> bool:
    """Send the bootstrap samples of every target through every network."""
    config, layout = run.config, run.layout
    pending.require_networks(config, layout)
    late = pending.predictions(config, layout)
    if not pending.anything(config, layout, ["predict"]):
        return False
    from sdpipe.pipeline.prediction import predict_target
    from sdpipe.workers.pools import Task

    for name in late:
        if (layout.predictions / name).exists():
            run.console.say(f"predict: inputs of {name} have changed; predicting it anew")
    _open_groups(run, layout.predictions, "predict")
    if not late:
        return True
    tasks = [Task(f"predict-{name}", (config, layout.root, name)) for name in late]
    with run.workers.pool("predict", len(tasks)) as pool, run.console.progress("predict", len(tasks)) as progress:
        results = {}
        for name, result in pool.map(predict_target, tasks):
            results[name.removeprefix("predict-")] = result
            progress.advance(name)
    for name in late:
        if results[name]["data"]:
            run.console.say(f"{name}: {results[name]['data']}")
        for flag in results[name]["flags"]:
            run.console.warn(f"{name}: {flag}")
    return True


def validate(run: Context) -> bool:
    """Predict draws with known truth; write how well the error bars hold, and what calibrates them."""
    config, layout = run.config, run.layout
    pending.require_networks(config, layout)
    if not pending.validation(config, layout):
        return False
    from sdpipe.infer import typicality
    from sdpipe.infer.coverage import collect
    from sdpipe.pipeline import validation
    from sdpipe.show import validation_figures

    identity = problem.validation_hash(config)
    blocks = pending.validation_draws(config, layout)
    if blocks:
        _predict_draws(run, validation.validate_block, blocks)
    if pending.validation_is_current(config, layout):  # made of these draws before they were damaged or lost
        return True
    levels = sorted({*config.validation.levels, config.budget.level})
    made = collect(store.load(layout.draws), validation.residuals(config, layout), levels, config.budget.level)
    store.write_dataset(layout.validation, made, store.attributes(identity, config.seed))
    drawn = validation_figures.draw_all(layout.figures, made)
    smallest = typicality.smallest_p_value(config.validation.samples // 2)
    if smallest >= typicality.SUSPICIOUS:
        run.console.warn(
            f"validate: {config.validation.samples} draws a family are too few to flag what is out of distribution: "
            f"no p-value is below {smallest:.2g}; from 1600 on they reach {typicality.SUSPICIOUS:g}"
        )
    layout.markers("validate", identity).add("validation", figures=[layout.relative(path) for path in drawn])
    return True


def _predict_draws(run: Context, validate_block: Callable[..., Any], blocks: list[Any]) -> None:
    from sdpipe.workers.pools import Task

    config, layout = run.config, run.layout
    identity = problem.draws_hash(config)
    if not pending.draws_are_current(config, layout):
        files.remove(layout.draws)
        layout.markers("validate", identity).clear()
        layout.draws.parent.mkdir(parents=True, exist_ok=True)
        store.create(layout.draws, *validation_template(config), store.attributes(identity, config.seed))
    with (
        run.workers.pool("validate", len(blocks)) as pool,
        run.console.progress("validate", len(validation_blocks(config)), len(blocks)) as progress,
    ):
        tasks = [Task(b.name, (config, layout.root, b, pool.threads)) for b in blocks]
        for name, _ in pool.map(validate_block, tasks):
            progress.advance(name)


def analyze(run: Context) -> bool:
    """Write the error budget of every target and draw its figures."""
    config, layout = run.config, run.layout
    pending.require_assessment(config, layout)
    late = pending.budgets(config, layout)
    if not pending.anything(config, layout, ["analyze"]):
        return False
    from sdpipe.infer.assessment import assess
    from sdpipe.show import asymptotics, figures

    _open_groups(run, layout.budget, "analyze")
    if not late:
        return True
    validation = store.load(layout.validation) if config.budget.calibration == "conformal" else None
    histories = figures.draw_history(layout.figures, store.load(layout.history))
    for name in late:
        data = store.load(layout.predictions / name)
        budget = assess(data, config.budget.central, config.budget.references, validation, config.budget.level)
        for flag in sorted(set(budget.attrs["flags"]) - set(data.attrs["flags"])):
            run.console.warn(f"{name}: {flag}")
        identity = problem.budget_hash(config, name)
        store.write_dataset(layout.budget / name, budget, store.attributes(identity, config.seed))
        drawn = figures.draw_target(layout.figures, name, budget) + histories
        drawn += asymptotics.draw_target(layout.figures, name, data.rho, budget, config)
        layout.markers("analyze", identity).add(name, figures=[layout.relative(path) for path in drawn])
        run.console.detail(f"analyze: {name}")
    return True


def report(run: Context) -> bool:
    """Write ``report.html`` from everything that is there."""
    config, layout = run.config, run.layout
    pending.require_budgets(config, layout)
    if not pending.report(config, layout):
        return False
    from sdpipe.show.report import render

    files.write_text(layout.report, render(config, layout))
    layout.markers("report", problem.report_hash(config)).add("report", sources=pending.report_sources(config, layout))
    return True


STAGES: dict[str, Callable[[Context], bool]] = {
    "generate": generate,
    "train": train,
    "predict": predict,
    "validate": validate,
    "analyze": analyze,
    "report": report,
}
"""Stages in the order in which ``run`` takes them."""


def in_one_go(config: Config) -> list[str]:
    """Return the stages of ``run``: ``validate`` only where it calibrates."""
    return [name for name in STAGES if name != "validate" or config.budget.calibration == "conformal"]


NEEDS: dict[str, Callable[[Config, Layout], None]] = {
    "train": pending.require_training,
    "predict": pending.require_networks,
    "validate": pending.require_networks,
    "analyze": pending.require_assessment,
    "report": pending.require_budgets,
}
"""What must be there before a stage, checked before anything is written."""


def perform(name: str, run: Context) -> bool:
    """Do one stage, note how long it took, and return whether it had anything to do."""
    begun, start, worked = datetime.now(UTC), time.monotonic(), True
    try:
        worked = STAGES[name](run)
    finally:
        if worked:
            run.layout.note_sitting(name, begun, time.monotonic() - start)
    return worked
