"""The pipeline on a page: a stage reads the config, maps a function over pending blocks, and returns.

Every stage is a resume: it returns whether it had anything to do. Dask, PyTorch and matplotlib are imported
once there is work for them, so that a finished run answers at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpipe import pending, problem, store
from sdpipe.blocks import training_blocks, training_template
from sdpipe.config import Config
from sdpipe.console import Console
from sdpipe.errors import RunError
from sdpipe.layout import Layout

if TYPE_CHECKING:
    from sdpipe.cluster import Pool


@dataclass(frozen=True)
class Context:
    """What every stage works on."""

    config: Config
    layout: Layout
    console: Console


@contextmanager
def _pool(run: Context, stage: str, tasks: int) -> Iterator[Pool]:
    """Start the pool of a stage, never more workers than tasks."""
    from sdpipe import cluster

    section, log = pools(run.config)[stage], run.layout.logs / f"dask-{stage}.html"
    if section == "local":
        with cluster.local_pool(tasks, log, run.console.say) as pool:
            yield pool
        return
    from sdpipe import slurm

    gpu, key = stage == "train", "gpu" if stage == "train" else "cpu"
    settings, tls = slurm.read_section(section, key, gpu, run.layout.logs), run.layout.state("tls")
    with slurm.slurm_pool(settings, tasks, run.config.cluster.jobs, gpu, tls, log, run.console.say) as pool:
        yield pool


def pools(config: Config) -> dict[str, str]:
    """Return the pool that each stage with workers uses: local, or a section of jobqueue.yaml."""
    return {"generate": config.cluster.cpu, "train": config.cluster.gpu, "predict": config.cluster.cpu}


def generate(run: Context) -> bool:
    """Write ``training.zarr``: mock correlators and smeared spectral densities, block by block."""
    config, layout = run.config, run.layout
    blocks = pending.blocks(config, layout)
    if not blocks:
        return False
    from sdpipe.cluster import Task
    from sdpipe.generation import generate_block

    if not pending.training_is_current(config, layout):
        identity = problem.training_hash(config)
        if layout.training.exists():
            run.console.say("generate: the inputs have changed; making the training set anew")
            shutil.rmtree(layout.training)
        layout.markers("generate", identity).clear()
        store.create(layout.training, *training_template(config), store.attributes(identity, config.seed))
    tasks = [Task(b.name, (config, layout.root, b)) for b in blocks]
    with (
        _pool(run, "generate", len(tasks)) as pool,
        run.console.progress("generate", len(training_blocks(config)), len(tasks)) as progress,
    ):
        for _, result in pool.map(generate_block, tasks):
            progress.advance(f"{result['samples'] / result['seconds']:,.0f} samples/s a worker")
    return True


def train(run: Context) -> bool:
    """Train every network of the broad audience, then write ``history.zarr``."""
    config, layout = run.config, run.layout
    pending.require_training(config, layout)
    stacks = pending.stacks(config, layout)
    if not stacks and pending.history_is_current(config, layout):
        return False
    from sdpipe import history
    from sdpipe.audience import load_networks, train_stack

    if stacks:
        _train_stacks(run, train_stack, stacks)
    networks = load_networks(config, layout)
    attrs = store.attributes(problem.audience_hash(config), config.seed)
    store.write_dataset(layout.history, history.collect(networks), attrs)
    return True


def _train_stacks(run: Context, train_stack: Callable[..., Any], stacks: list[Any]) -> None:
    from sdpipe import cluster

    config, layout = run.config, run.layout
    stale = sum(layout.network(s.ensemble, s.sigma_index, r).exists() for s in stacks for r in s.replicas)
    if stale:
        run.console.say(f"train: the inputs have changed; training {stale} networks anew")
    diverged: dict[str, int] = {}
    devices: set[str] = set()
    with _pool(run, "train", len(stacks)) as pool, run.console.progress("train", len(stacks)) as progress:
        tasks = [cluster.Task(s.name, (config, layout.root, s, pool.threads, cluster.report)) for s in stacks]

        def show(message: dict[str, Any]) -> None:
            if "device" in message:
                if message["device"] == "cpu" and not devices and config.training.device == "auto":
                    run.console.say(f"train: no GPU on {message['host']}; training on the CPU")
                devices.add(message["device"])
                return
            note = f"val loss {message['val_loss']:.5f} (linear {message['linear_loss']:.5f})"
            progress.row(message["task"], message["epoch"], message["epochs"], note)

        for name, result in pool.map(train_stack, tasks, on_message=show):
            diverged |= result["diverged"]
            progress.advance(name)
    if diverged:
        lost = ", ".join(f"{name} at epoch {epoch}" for name, epoch in sorted(diverged.items()))
        raise RunError(f"training diverged: {lost}; all other networks are safe in {layout.networks}")


def predict(run: Context) -> bool:
    """Send the bootstrap samples of every target through every network."""
    config, layout = run.config, run.layout
    pending.require_networks(config, layout)
    late = pending.predictions(config, layout)
    if not late:
        return False
    from sdpipe.audience import predict_target
    from sdpipe.cluster import Task

    for name in late:
        if (layout.predictions / name).exists():
            run.console.say(f"predict: inputs of {name} have changed; predicting it anew")
    tasks = [Task(f"predict-{name}", (config, layout.root, name)) for name in late]
    with _pool(run, "predict", len(tasks)) as pool, run.console.progress("predict", len(tasks)) as progress:
        for name, _ in pool.map(predict_target, tasks):
            progress.advance(name)
    return True


def analyze(run: Context) -> bool:
    """Write the error budget of every target and draw its figures."""
    config, layout = run.config, run.layout
    pending.require_predictions(config, layout)
    late = pending.budgets(config, layout)
    if not late:
        return False
    from sdpipe import figures
    from sdpipe.budget import error_budget

    histories = figures.draw_history(layout.figures, store.read(layout.history).load())
    for name in late:
        data = store.read(layout.predictions / name).load()
        budget = error_budget(data.rho, config.budget.central, config.budget.references, data.get("truth"))
        identity = problem.budget_hash(config, name)
        store.write_group(layout.budget, name, budget, store.attributes(identity, config.seed))
        drawn = figures.draw_target(layout.figures, name, budget) + histories
        files = [str(path.relative_to(layout.root)) for path in drawn]
        layout.markers("analyze", identity).add(name, figures=files)
        run.console.detail(f"analyze: {name}")
    return True


def report(run: Context) -> bool:
    """Write ``report.html`` from everything that is there."""
    config, layout = run.config, run.layout
    pending.require_budgets(config, layout)
    if not pending.report(config, layout):
        return False
    from sdpipe.report import render

    store.write_text(layout.report, render(config, layout))
    layout.markers("report", problem.report_hash(config)).add("report")
    return True


STAGES: dict[str, Callable[[Context], bool]] = {
    "generate": generate,
    "train": train,
    "predict": predict,
    "analyze": analyze,
    "report": report,
}
"""Stages in the order in which ``run`` takes them."""

NEEDS: dict[str, Callable[[Config, Layout], None]] = {
    "train": pending.require_training,
    "predict": pending.require_networks,
    "analyze": pending.require_predictions,
    "report": pending.require_budgets,
}
"""What must be there before a stage, checked before anything is written."""


def prepare(config: Config, root: Path, console: Console, stages: list[str]) -> Context:
    """Check every input of ``stages`` before anything is written, then claim the run directory."""
    layout = Layout(root)
    check_inputs(config, layout, stages)
    if stages[0] in NEEDS:
        NEEDS[stages[0]](config, layout)
    check_pools(config, layout, stages)
    layout.claim(config)
    return Context(config, layout, console)


def check_inputs(config: Config, layout: Layout, stages: list[str]) -> None:
    """Raise UserError when the run directory is another config's or a data file cannot be used."""
    layout.check_owner(config)
    problem.lattice_noise(config)
    if stages != ["generate"] and stages != ["train"]:
        problem.check_targets(config)


def check_pools(config: Config, layout: Layout, stages: list[str]) -> list[str]:
    """Let Slurm check the job scripts of the pools that ``stages`` use; return them.

    Raises UserError with Slurm's own words where it refuses one.
    """
    scripts: dict[str, str] = {}
    for stage in stages:
        section = pools(config).get(stage, "local")
        if section == "local" or section in scripts:
            continue
        from sdpipe import slurm

        key = "gpu" if stage == "train" else "cpu"
        settings = slurm.read_section(section, key, stage == "train", layout.logs)
        slurm.preflight(settings, key)
        scripts[section] = slurm.job_script(settings)
    return list(scripts.values())
