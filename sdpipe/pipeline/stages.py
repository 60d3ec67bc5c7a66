"""The page: every stage of the pipeline in one table, and what each does with the pieces that are not done.

A stage is a row: its pieces, what must be done before it, the function that makes what is left. What is pending, what
``status`` and ``--dry-run`` print, which command mends what is missing and the help of the command line all follow.
Dask, PyTorch and matplotlib are imported once there is work for them, so that a finished run answers at once.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from sdpipe.config.schema import MANY, Config
from sdpipe.disk import files
from sdpipe.disk.layout import Layout
from sdpipe.errors import RunError, UserError
from sdpipe.pipeline import ownership, pieces, stacks
from sdpipe.pipeline.made_from import MadeFrom
from sdpipe.pipeline.pieces import Piece
from sdpipe.pipeline.spoken import SAYS
from sdpipe.pipeline.stacks import StackPlan
from sdpipe.pipeline.state import PieceState, StageProgress, State, survey_of
from sdpipe.problem.problem import Problem
from sdpipe.show import console
from sdpipe.show.console import log
from sdpipe.workers import pools
from sdpipe.workers.pools import Workers
from sdpipe.workers.serial import Task


@dataclass(frozen=True)
class Command:
    """One command at work: what it knows of the run directory, and who works for it."""

    state: State
    workers: Workers

    @property
    def config(self) -> Config:
        return self.state.config

    @property
    def layout(self) -> Layout:
        return self.state.layout

    @property
    def problem(self) -> Problem:
        return self.state.inputs.problem


@dataclass(frozen=True)
class Stage:
    """One row of the page.

    Attributes
    ----------
    name, says, example
        What people type, what the help says of it, and an example: ``SAYS`` has them from then on.
    pieces, unit
        What it makes, and what these are called.
    places
        Where that lies.
    do
        Makes the pieces that are left.
    needs
        Stages that must be done before.
    pool
        Whose workers it uses.
    detail
        More that ``--dry-run`` says.
    """

    name: str
    says: str
    example: str
    pieces: Callable[[MadeFrom], list[Piece]]
    unit: str
    places: Callable[[Layout], list[Path]]
    do: Callable[[Command, list[PieceState]], None]
    needs: tuple[str, ...] = ()
    pool: Literal["cpu", "gpu"] | None = None
    detail: Callable[[State, list[PieceState]], list[str]] = lambda _state, _undone: []

    def __post_init__(self) -> None:
        SAYS[self.name] = (self.says, self.example)


# --- what each stage does --------------------------------------------------------------------------------------------


def generate(run: Command, undone: list[PieceState]) -> None:
    """Write ``training.zarr``: mock correlators and smeared spectral densities, block by block."""
    from sdpipe.pipeline import tasks

    _prepare_store(run, undone, run.layout.training, tasks.training_template)
    blocks = [each.piece for each in undone if each.piece.work]
    samples, total = 0, len(pieces.training_blocks(run.config))
    if blocks and (others := _other_versions(run.state)):
        by_others = ", ".join(f"{count} blocks are by {versions}" for versions, count in others.items())
        now = _versions(tasks.VERSIONS)
        log.warning(f"generate: {by_others}, the others by {now}; last bits may differ between them")
    workers = pools.most_workers(run.config, "cpu", run.layout.logs)
    size = pools.each_task(len(blocks), pieces.BLOCK_SECONDS, workers)
    together = {blocks[i].name: blocks[i : i + size] for i in range(0, len(blocks), size)}
    todo = {name: (run.problem, run.layout.root, some) for name, some in together.items()}
    for name, count, progress in _map(run, "generate", tasks.generate_blocks, todo, (len(blocks), total)):
        samples += count
        progress.advance(f"{samples / progress.seconds:,.0f} samples/s", len(together[name]))


def _other_versions(state: State) -> Counter[str]:
    """Count the blocks that are done and were drawn by other versions of sdpipe and NumPy than are here now."""
    from sdpipe.pipeline import tasks

    blocks = [state.look(piece) for piece in pieces.of_training(state.identities) if piece.work]
    drawn_by = [{name: f.receipt.facts.get(name) for name in tasks.VERSIONS} for f in blocks if f.condition == "done"]
    return Counter(_versions(versions) for versions in drawn_by if versions != tasks.VERSIONS)


def _versions(versions: dict[str, str]) -> str:
    return f"sdpipe {versions['sdpipe']} with NumPy {versions['numpy']}"


def train(run: Command, undone: list[PieceState]) -> None:
    """Train every network of the broad audience, then write ``history.zarr`` and its figure."""
    from sdpipe.pipeline import tasks

    missing = [each.piece.work for each in undone if each.piece.work]
    for flag in run.problem.noise.flags if missing else ():
        log.warning(f"noise: {flag}")
    if shared := [each.piece for each in undone if each.piece.name == "audience"]:
        tasks.write_audience(run.problem, run.layout, *shared)
    if not run.config.origin.networks:
        return
    if run.config.origin.served:
        log.info("train: the shipped networks serve this lattice, with ensembles, references and prior of their own")
        tasks.serve_shipped(run.problem, run.layout, [each.piece for each in undone if each.piece.work])
        tasks.write_history(run.config, run.layout, run.state.identities.audience)
        return
    from sdpipe.pipeline.training_tasks import train_stack  # and PyTorch, which networks of others do without

    plan_of = {plan.name: plan for plan in _stacks(run.state, missing)}
    stacks.note(run.layout, plan_of.values())
    diverged, devices = dict[str, str](), set[str]()

    def show(progress: Any, message: dict[str, Any]) -> None:
        if "note" in message:
            log.info(f"train: {message['note']}")
        elif "device" in message:
            if message["device"] == "cpu" and not devices and run.config.training.device == "auto":
                log.info(f"train: no GPU on {message['host']}; training on the CPU")
            devices.add(message["device"])
        else:
            bars = {name: message[f"{name}_loss"] for name in ("linear", "posterior")}
            note = ", ".join(f"{k} {v:.5f}" for k, v in {"val": message["val_loss"], **bars}.items() if isfinite(v))
            progress.row(message["task"].removeprefix("train-"), message["epoch"], message["epochs"], note)

    todo = {name: (run.problem, run.layout.root, plan) for name, plan in plan_of.items()}
    total, share = len(pieces.every_network(run.config)), attrgetter("threads", "sharers")
    for name, result, progress in _map(run, "train", train_stack, todo, (len(missing), total), show, share):
        diverged |= result["diverged"]
        for network in plan_of[name].networks:
            progress.drop(network.label(run.config).removeprefix("train-"))
        progress.advance(name, len(plan_of[name].wanted))
    if diverged:
        lost = "; ".join(f"{name} {why}" for name, why in sorted(diverged.items()))
        raise RunError(f"training diverged: {lost}; all other networks are safe in {run.layout.networks}")
    files.delete(run.layout.unfinished)
    tasks.write_history(run.config, run.layout, run.state.identities.audience)


def predict(run: Command, undone: list[PieceState]) -> None:
    """Send the bootstrap samples of every target through every network."""
    from sdpipe.pipeline import tasks

    _prepare_groups(run, undone, run.layout.predictions)
    names = {each.piece.name: each.piece for each in undone if each.piece.work}
    target = run.state.inputs.target
    todo = {f"predict-{name}": (run.problem, run.layout.root, piece, target(name)) for name, piece in names.items()}
    results = {}
    for name, result, progress in _map(run, "predict", tasks.predict_target, todo):
        results[name.removeprefix("predict-")] = result
        progress.advance(name)
    for name in names:
        if results[name]["data"]:
            log.info(f"{name}: {results[name]['data']}")
        for flag in results[name]["flags"]:
            log.warning(f"{name}: {flag}")


def validate(run: Command, undone: list[PieceState]) -> None:
    """Predict draws with known truth; write how well the error bars hold, what calibrates them, and figures."""
    from sdpipe.pipeline import results, tasks
    from sdpipe.show.flags import worded

    _prepare_store(run, undone, run.layout.draws, tasks.validation_template)
    blocks, total = [each.piece for each in undone if each.piece.work], len(pieces.validation_blocks(run.config))
    todo = {b.name: (run.problem, run.layout.root, b) for b in blocks}
    counts, share = (len(blocks), total), lambda pool: (pool.forks,)
    for name, _, progress in _map(run, "validate", tasks.validate_block, todo, counts, share=share):
        progress.advance(name)
    names = {each.piece.name: each.piece for each in undone}
    if piece := names.get("validation"):
        for flag in worded(tasks.write_validation(run.problem, run.layout, piece)):
            log.warning(f"validate: {flag}")
    if piece := names.get("@figures"):
        results.draw_validation(run.layout, piece)


def analyze(run: Command, undone: list[PieceState]) -> None:
    """Write the error budget of every target and draw its figures: side by side, or a single one in the driver."""
    from sdpipe.pipeline import results

    _prepare_groups(run, undone, run.layout.budget)
    todo = {f.piece.name: (run.config, run.layout.root, f.piece) for f in undone if f.piece.work}
    if len(todo) == 1:  # for which no worker need start
        flags = {name: results.analyze_target(*arguments) for name, arguments in todo.items()}
    else:
        tasks = {f"analyze-{name}": arguments for name, arguments in todo.items()}
        flags = {}
        for name, result, progress in _map(run, "analyze", results.analyze_target, tasks):
            flags[name.removeprefix("analyze-")] = result
            progress.advance(name)
    for name in todo:
        for flag in flags[name]:
            log.warning(f"{name}: {flag}")
    if run.config.many:
        log.info(
            f"analyze: figures of more than {MANY} targets are drawn on demand: run.plot.save(DIRECTORY, target=NAME)"
        )


def report(run: Command, undone: list[PieceState]) -> None:
    """Write ``report.html`` from everything that is there and, of many targets, the page of each."""
    from sdpipe.pipeline import results

    inputs, layout = run.state.inputs, run.layout
    data = [(what, path, inputs.sha256(path)) for what, path in inputs.data]
    results.write_report(
        run.config, layout, [each.piece for each in undone], data, host=log.isEnabledFor(logging.DEBUG)
    )
    written = {name for stage, name in layout.receipts.all() if stage == "report"}
    for name in written - {piece.name for piece in pieces.of_report(run.state.identities)}:
        files.delete(layout.pages / f"{name.removeprefix(pieces.PAGE)}.html")
        layout.receipts.forget("report", name)


# --- what stages share -----------------------------------------------------------------------------------------------


def _map(
    run: Command,
    stage: str,
    function: Callable[..., Any],
    tasks: dict[str, tuple[Any, ...]],
    counts: tuple[int, int] | None = None,
    show: Callable[[Any, dict[str, Any]], None] | None = None,
    share: Callable[[Any], tuple[int, ...]] = lambda _pool: (),
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, result and progress of each task as the workers of a stage finish it.

    ``tasks`` are arguments by name, ``share`` adds what a task may use of its pool. ``counts`` are the things that are
    left to make, and all of them; without it, each task makes one. ``show`` is called with the progress and each
    message of a task. No worker is started for no task.
    """
    if not tasks:
        return
    undone, total = counts or (len(tasks), len(tasks))
    with (
        run.workers.pool(STAGES[stage].pool, stage, len(tasks)) as pool,
        console.progress(stage, total, undone) as progress,
    ):
        on_message = (lambda message: show(progress, message)) if show else None
        todo = [Task(name, (*arguments, *share(pool))) for name, arguments in tasks.items()]
        for name, result in pool.map(function, todo, on_message):
            yield name, result, progress


def _prepare_store(run: Command, undone: list[PieceState], path: Path, template: Callable[[Config], Any]) -> None:
    """Make a store that blocks are written to, where its metadata are not done; blocks that are done stay."""
    from sdpipe.disk import store

    for piece in (each.piece for each in undone if each.piece.name == "template"):
        blocks = [p for p in STAGES[piece.stage].pieces(run.state.identities) if p.work]
        if len(run.state.to_do(blocks)) == len(blocks):
            files.remove(path)
            run.layout.receipts.forget_below(path)
        written = template(run.config).create(path, store.attributes(piece.made_from, run.config.seed))
        pieces.finish(run.layout, piece, written)


def _prepare_groups(run: Command, undone: list[PieceState], path: Path) -> None:
    """Make the store of one group per target where it is not done, and take out of it what is no longer a target.

    A group without a receipt is not this run's, and stays.
    """
    from sdpipe.disk import store

    for each in undone:
        if each.piece.name == "@store":
            piece = each.piece
            written = store.create_groups(path, store.attributes(piece.made_from, run.config.seed))
            pieces.finish(run.layout, piece, written)
    stage = undone[0].piece.stage
    targets = {name for by, name in run.layout.receipts.all() if by == stage and name != "@store"}
    for name in sorted(targets - run.config.targets.keys()):
        log.info(f"{stage}: {name} is no longer a target; removing it from {path.name}")
        files.remove(path / name)
        run.layout.receipts.forget(stage, name)


def _stacks(state: State, missing: list[pieces.NetworkId]) -> list[StackPlan]:
    return stacks.plan(state.identities, state.layout, missing, pools.trainers(state.config, state.layout.logs))


# --- what a dry run adds ---------------------------------------------------------------------------------------------


def _bytes(state: State, _undone: list[PieceState]) -> list[str]:
    from rich.filesize import decimal

    from sdpipe.pipeline import tasks

    return [f"  {decimal(tasks.training_template(state.config).nbytes)} in all before compression"]


def _networks(state: State, undone: list[PieceState]) -> list[str]:
    from sdpipe.learn.architectures import parameter_count
    from sdpipe.pipeline.tasks import network_shape

    config, missing = state.config, [f.piece.work for f in undone if f.piece.work]
    lines = [f"  in {len(_stacks(state, missing))} tasks"] if missing else []
    for name, e in config.ensembles.items():
        weights = parameter_count(e.network, *network_shape(config))
        lines.append(f"  {name}: Nb {e.Nb}, Nrho {e.Nrho}, {e.network} with {weights} parameters")
    return lines


# --- the table -------------------------------------------------------------------------------------------------------

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "generate",
            *SAYS["generate"],
            pieces.of_training,
            "blocks",
            lambda layout: [layout.training],
            generate,
            pool="cpu",
            detail=_bytes,
        ),
        Stage(
            "train",
            *SAYS["train"],
            pieces.of_audience,
            "networks",
            lambda layout: [layout.networks, layout.history],
            train,
            needs=("generate",),
            pool="gpu",
            detail=_networks,
        ),
        Stage(
            "predict",
            *SAYS["predict"],
            pieces.of_predictions,
            "targets",
            lambda layout: [layout.predictions],
            predict,
            needs=("train",),
            pool="cpu",
        ),
        Stage(
            "validate",
            *SAYS["validate"],
            pieces.of_validation,
            "blocks",
            lambda layout: [layout.validation, layout.draws],
            validate,
            needs=("train",),
            pool="cpu",
        ),
        Stage(
            "analyze",
            *SAYS["analyze"],
            pieces.of_budgets,
            "targets",
            lambda layout: [layout.budget, layout.figures],
            analyze,
            needs=("predict", "validate"),
            pool="cpu",
        ),
        Stage(
            "report",
            *SAYS["report"],
            pieces.of_report,
            "page",
            lambda layout: [layout.report, layout.pages],
            report,
            needs=("analyze",),
        ),
    )
}
"""Name -> stage, in the order in which ``run`` takes them. To add one, see docs/extending.md."""


def wanted(config: Config, layout: Layout | None = None) -> list[str]:
    """Return the stages of ``run``.

    ``validate`` is one only where it calibrates or, in ``layout``, was asked for; ``generate`` where networks are
    taught.
    """
    calibrates = config.budget.calibration == "conformal" or (layout is not None and layout.validation.exists())
    unwanted = {name for name, wanted in (("validate", calibrates), ("generate", config.origin.trains)) if not wanted}
    return [stage.name for stage in STAGES.values() if stage.name not in unwanted]


def to_do(state: State, name: str) -> list[PieceState]:
    """Return the pieces of a stage that are not done."""
    return state.to_do(STAGES[name].pieces(state.identities))


def survey(state: State) -> list[StageProgress]:
    """Return how far each stage is, in their order."""
    rows = [STAGES[name] for name in wanted(state.config, state.layout)]
    return [survey_of(state, s.name, s.unit, s.pieces(state.identities), s.places(state.layout)) for s in rows]


def next_stage(survey: Iterable[StageProgress]) -> str | None:
    """Return the stage that does what is left: ``run`` where it is more than one, None where all is done.

    >>> one, two = (StageProgress(n, "missing", 0, 1, "page", 0, None) for n in ("analyze", "report"))
    >>> next_stage([one, two]), next_stage([two]), next_stage([])
    ('run', 'report', None)
    """
    undone = [row.name for row in survey if row.state != "done"]
    return None if not undone else undone[0] if len(undone) == 1 else "run"


def require(state: State, name: str) -> None:
    """Raise UserError, with the command that mends it, where a stage that ``name`` needs is not done."""
    needed = [n for n in STAGES[name].needs if n in wanted(state.config)]
    for stage in (STAGES[n] for n in needed):
        missing = [each for each in to_do(state, stage.name) if each.piece.needed]
        if not missing:
            continue
        place, layout = stage.places(state.layout)[0], state.layout
        what = ", ".join(f"{f.piece.name} ({f.condition})" for f in missing[:3])
        if not layout.config.exists():
            remedy = f"run: sdpipe {stage.name} CONFIG --run {layout.root}"
        else:
            same = "" if ownership.owns(layout, state.config) else " with the same config and overrides"
            remedy = f"run: sdpipe {stage.name} {layout.root}{same}"
        if stage.name == "validate":
            remedy += "; or budget.calibration=none for the published budget"
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"{place}: not done: {what}{more}; {remedy}")


def perform(name: str, run: Command) -> bool:
    """Do what is left of one stage, note how long it took, and return whether there was anything."""
    require(run.state, name)
    todo = to_do(run.state, name)
    if not todo:
        return False
    _say_why(name, todo)
    begun, start = datetime.now(UTC), time.monotonic()
    for each in todo:  # what is at work has no receipt
        for place in (error.file for error in each.damage if error.file.is_dir()):
            files.set_aside(place)  # before the receipt, which alone knows of it
        run.layout.receipts.forget(each.piece.stage, each.piece.name)
    try:
        STAGES[name].do(run, todo)
    finally:
        run.layout.note_session(name, begun, time.monotonic() - start)
    return True


def _say_why(name: str, todo: list[PieceState]) -> None:
    """Say which pieces are made anew, and why."""
    for each in todo:
        if each.condition == "damaged":
            first, *more = each.damage
            others = f" and {len(more)} more files" if more else ""
            log.info(f"{name}: {first.file}: {first.what}{others}; making {each.piece.name} anew")
    stale = [each.piece.name for each in todo if each.condition == "stale" and each.piece.work]
    if stale:
        few = ", ".join(stale[:3]) + (f" and {len(stale) - 3} more" if len(stale) > 3 else "")
        log.info(f"{name}: the inputs of {few} have changed; making them anew")


def plan(state: State, names: list[str]) -> str:
    """Return what the stages ``names`` would do, for ``--dry-run``."""
    lines = [f"run directory: {state.layout.root}"]
    for stage in (STAGES[name] for name in names):
        every = [p for p in stage.pieces(state.identities) if p.counted]
        todo = to_do(state, stage.name)
        count = sum(f.piece.counted for f in todo)
        lines += [f"{stage.name}: {count} of {len(every)} {stage.unit} to make", *stage.detail(state, todo)]
    return "\n".join(lines)
