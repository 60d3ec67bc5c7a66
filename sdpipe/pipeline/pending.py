"""What is still to do in a run directory: reads markers, attributes and file names only, imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdpipe.config import problem
from sdpipe.config.schema import Config
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.errors import UserError
from sdpipe.pipeline.pieces import (
    VALIDATION_BLOCK,
    Block,
    NetworkId,
    StackTask,
    ValidationBlock,
    chunk_samples,
    every_network,
    stack_name,
    training_blocks,
    training_template,
    validation_blocks,
    validation_template,
)

COST = {"arcS": 1, "arcM": 2, "arcL": 4}


def blocks(config: Config, layout: Layout) -> list[Block]:
    """Return the blocks of ``training.zarr`` that are missing; all of them where it was made from other inputs.

    A block is there when its marker is, and each of its chunks: a lost chunk would read as zeros.
    """
    every = training_blocks(config)
    if not training_is_current(config, layout):
        return every
    missing = set(layout.markers("generate", problem.training_hash(config)).missing([b.name for b in every]))
    _, variables = training_template(config)
    step = chunk_samples(config)
    return [b for b in every if b.name in missing or not _chunks_are_there(layout.training, variables, b, step)]


def _chunks_are_there(
    path: Path, variables: dict[str, store.Variable], block: Block | ValidationBlock, step: int
) -> bool:
    at = (block.row, block.start // step)
    return all(store.chunk(path, name, at, len(v.dims)).exists() for name, v in variables.items())


def training_is_current(config: Config, layout: Layout) -> bool:
    """Return whether ``training.zarr`` is there and made from these inputs, complete or not."""
    if not layout.training.exists():
        return False
    identity, wanted = store.identity(layout.training), problem.training_hash(config)
    if identity is None:  # damaged: its blocks, whose markers know what they were made from, are not lost
        markers = layout.markers("generate", wanted)
        return len(markers.missing([b.name for b in training_blocks(config)])) < len(training_blocks(config))
    return identity == wanted


def template_is_current(config: Config, layout: Layout) -> bool:
    """Return whether metadata and coordinates of ``training.zarr`` are there."""
    coords, _ = training_template(config)
    facts = layout.markers("generate", problem.training_hash(config)).facts("template")
    sound = facts is not None and store.identity(layout.training) is not None
    return sound and all(store.is_array_whole(layout.training / name) for name in coords)


def missing_networks(config: Config, layout: Layout) -> list[NetworkId]:
    """Return the networks that are missing, or were trained on other inputs."""
    return [network for network, facts in _trained(config, layout).items() if facts is None]


def _trained(config: Config, layout: Layout) -> dict[NetworkId, dict[str, Any] | None]:
    """Return the facts of every network of the config, None for one that is not there.

    Raises UserError where one was written with another schema.
    """
    markers = {name: layout.markers("train", problem.network_hash(config, name)) for name in config.ensembles}
    paths = {network: layout.network(*network) for network in every_network(config)}
    trained = {n: markers[n.ensemble].facts(path.stem) if path.exists() else None for n, path in paths.items()}
    for network, facts in trained.items():
        if facts and facts.get("schema", store.SCHEMA) != store.SCHEMA:
            raise store.another_schema(paths[network], facts)
    return trained


def stacks(config: Config, layout: Layout, wide: bool) -> list[StackTask]:
    """Return the stacks of networks that are still to train, the costly ones first.

    Side by side are the replicas of one ensemble and sigma or, with ``wide``, all networks of one architecture
    and training-set size.
    """

    def alike(network: NetworkId) -> tuple[str, int]:
        ensemble = config.ensembles[network.ensemble]
        return ensemble.network, ensemble.Nrho

    def cost(task: StackTask) -> int:
        architecture, Nrho = alike(task.networks[0])
        return len(task.networks) * Nrho * COST[architecture]

    trained = _trained(config, layout)
    by_stem = {layout.network(*network).stem: network for network in trained}
    # A network is trained again in the stack that it was in: its last bits depend on it.
    stack_of: dict[NetworkId, tuple[NetworkId, ...]] = {}
    for stems in {_together(layout, network, facts) for network, facts in trained.items() if facts}:
        stack = tuple(by_stem[stem] for stem in stems if stem in by_stem)
        if len(stack) == len(stems) and len(set(map(alike, stack))) == 1:
            stack_of |= dict.fromkeys(stack, stack)
    per_task = config.training.replicas_per_task or config.training.replicas
    wanted: dict[tuple[Any, ...], list[NetworkId]] = {}
    for network in (n for n, facts in trained.items() if facts is None):
        new = (*(alike(network) if wide else network[:2]), network.replica // per_task)
        wanted.setdefault(stack_of.get(network, new), []).append(network)
    todo = []
    for networks in wanted.values():
        together = stack_of.get(networks[0], tuple(networks))
        todo.append(StackTask(stack_name(config, together), together, tuple(networks)))
    return sorted(todo, key=lambda task: -cost(task))


def _together(layout: Layout, network: NetworkId, facts: dict[str, Any]) -> tuple[str, ...]:
    """Return the file stems of the networks that one was trained with; once they were replicas of its own only."""
    stack = facts.get("together", ())
    return tuple(n if isinstance(n, str) else layout.network(*network[:2], n).stem for n in stack)


def history_is_current(config: Config, layout: Layout) -> bool:
    """Return whether ``history.zarr`` is there and holds these networks, no more and no fewer."""
    facts = layout.markers("train", problem.audience_hash(config)).facts("history")
    return facts is not None and store.is_whole(layout.history)


def predictions(config: Config, layout: Layout) -> list[str]:
    """Return the targets whose predictions are missing or stale."""

    def done(name: str) -> bool:
        markers = layout.markers("predict", problem.prediction_hash(config, name))
        return markers.facts(name) is not None and store.is_whole(layout.predictions / name)

    return [name for name in config.targets if not done(name)]


def root_is_damaged(path: Path) -> bool:
    """Return whether the store of one group a target is there, without the file that makes it one."""
    return path.exists() and not store.is_root_whole(path)


def validation_draws(config: Config, layout: Layout) -> list[ValidationBlock]:
    """Return the blocks of validation draws that are still to predict, told as those of ``training.zarr`` are."""
    every = validation_blocks(config)
    if not draws_are_current(config, layout):
        return every
    missing = set(layout.markers("validate", problem.draws_hash(config)).missing([b.name for b in every]))
    _, variables = validation_template(config)
    step = VALIDATION_BLOCK
    return [b for b in every if b.name in missing or not _chunks_are_there(layout.draws, variables, b, step)]


def draws_are_current(config: Config, layout: Layout) -> bool:
    """Return whether the store of predicted draws is there and made from these inputs, complete or not."""
    return store.identity(layout.draws) == problem.draws_hash(config)


def validation(config: Config, layout: Layout) -> bool:
    """Return whether ``validate`` has anything to do: draws to predict, or ``validation.zarr`` to write."""
    return bool(validation_draws(config, layout)) or not validation_is_current(config, layout)


def validation_is_current(config: Config, layout: Layout) -> bool:
    """Return whether ``validation.zarr`` and its figures are there and made from these inputs."""
    facts = layout.markers("validate", problem.validation_hash(config)).facts("validation")
    drawn = [layout.root / f for f in (facts or {}).get("figures", [])]
    return calibration_is_current(config, layout) and all(f.exists() for f in drawn)


def calibration_is_current(config: Config, layout: Layout) -> bool:
    """Return whether ``validation.zarr`` is there and made from these inputs."""
    markers = layout.markers("validate", problem.validation_hash(config))
    return markers.facts("validation") is not None and store.is_whole(layout.validation)


def budgets(config: Config, layout: Layout) -> list[str]:
    """Return the targets whose budget or figures are missing or stale."""

    def done(name: str) -> bool:
        facts = layout.markers("analyze", problem.budget_hash(config, name)).facts(name)
        figures = [layout.root / f for f in (facts or {}).get("figures", [])]
        return facts is not None and store.is_whole(layout.budget / name) and all(f.exists() for f in figures)

    return [name for name in config.targets if not done(name)]


def report_sources(config: Config, layout: Layout) -> dict[str, str]:
    """Return when each store that the report shows was made."""
    stores = [layout.history, layout.validation, *(layout.budget / name for name in config.targets)]
    return {layout.relative(s): store.read_attributes(s)["created"] for s in stores if store.identity(s)}


def report(config: Config, layout: Layout) -> bool:
    """Return whether the report is missing or stale."""
    facts = layout.markers("report", problem.report_hash(config)).facts("report")
    return facts is None or not layout.report.exists() or facts.get("sources") != report_sources(config, layout)


def anything(config: Config, layout: Layout, stages: list[str]) -> bool:
    """Return whether one of ``stages`` has something to do."""
    todo = {
        "generate": lambda: blocks(config, layout) or not template_is_current(config, layout),
        "train": lambda: missing_networks(config, layout) or not history_is_current(config, layout),
        "predict": lambda: predictions(config, layout) or root_is_damaged(layout.predictions),
        "validate": lambda: validation(config, layout),
        "analyze": lambda: budgets(config, layout) or root_is_damaged(layout.budget),
        "report": lambda: report(config, layout),
    }
    return any(todo[stage]() for stage in stages)


def _remedy(stage: str, config: Config, layout: Layout) -> str:
    """Return the command that makes what is missing."""
    if not layout.config.exists():
        return f"run: sdpipe {stage} CONFIG --run {layout.root}"
    return f"run: sdpipe {stage} {layout.root}" + ("" if layout.owns(config) else " with the same config and overrides")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def require_training(config: Config, layout: Layout) -> None:
    """Raise UserError where ``training.zarr`` is missing, stale or not complete."""
    remedy = _remedy("generate", config, layout)
    if not layout.training.exists():
        raise UserError(f"{layout.training}: missing; {remedy}")
    if not training_is_current(config, layout):
        raise UserError(f"{layout.training}: made from other inputs; {remedy}")
    if not template_is_current(config, layout):
        raise UserError(f"{layout.training}: metadata or coordinates are damaged; {remedy}")
    missing = [b.name for b in blocks(config, layout)]
    if missing:
        raise UserError(f"{layout.training}: {len(missing)} blocks missing ({_few(missing)}); {remedy}")


def require_networks(config: Config, layout: Layout) -> None:
    """Raise UserError where a network of the config is missing or was trained on other inputs."""
    missing = [layout.network(*network).stem for network in missing_networks(config, layout)]
    if missing:
        raise UserError(
            f"{layout.networks}: {len(missing)} networks missing or stale ({_few(missing)}); "
            + _remedy("train", config, layout)
        )


def require_predictions(config: Config, layout: Layout) -> None:
    """Raise UserError where predictions are missing or stale."""
    late = predictions(config, layout)
    if late:
        raise UserError(f"{layout.predictions}: missing or stale: {_few(late)}; {_remedy('predict', config, layout)}")


def require_assessment(config: Config, layout: Layout) -> None:
    """Raise UserError where predictions, or the ``validation.zarr`` that calibrates them, are missing or stale."""
    require_predictions(config, layout)
    if config.budget.calibration == "conformal" and not calibration_is_current(config, layout):
        raise UserError(
            f"{layout.validation}: missing or stale, and budget.calibration=conformal needs it; "
            f"{_remedy('validate', config, layout)}; or budget.calibration=none for the published budget"
        )


def require_budgets(config: Config, layout: Layout) -> None:
    """Raise UserError where budgets are missing or stale."""
    late = budgets(config, layout)
    if late:
        raise UserError(f"{layout.budget}: missing or stale: {_few(late)}; {_remedy('analyze', config, layout)}")
