"""What is still to do in a run directory: reads markers, attributes and file names only, imports nothing heavy."""

from __future__ import annotations

from itertools import product

from sdpipe import problem, store
from sdpipe.blocks import Block, StackTask, chunk_samples, training_blocks, training_template
from sdpipe.config import Config
from sdpipe.errors import UserError
from sdpipe.layout import Layout

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

    def whole(block: Block) -> bool:
        at = (block.row, block.start // chunk_samples(config))
        files = (store.chunk(layout.training, name, at, len(v.dims)) for name, v in variables.items())
        return all(file.exists() for file in files)

    return [b for b in every if b.name in missing or not whole(b)]


def training_is_current(config: Config, layout: Layout) -> bool:
    """Return whether ``training.zarr`` is there and made from these inputs, complete or not."""
    there = layout.training.exists()
    return there and store.read_attributes(layout.training).get("config_hash") == problem.training_hash(config)


def stacks(config: Config, layout: Layout) -> list[StackTask]:
    """Return the stacks of networks that are still to train, the costly ones first."""
    todo = []
    replicas = range(config.training.replicas)
    per_task = config.training.replicas_per_task or len(replicas)
    for name, (i, sigma) in product(config.ensembles, enumerate(config.smearing.sigma)):
        markers = layout.markers("train", problem.network_hash(config, name))
        paths = [layout.network(name, i, r) for r in replicas]
        missing = [r for r, path in enumerate(paths) if markers.facts(path.stem) is None or not path.exists()]
        for low in range(0, len(replicas), per_task):
            together = tuple(r for r in missing if low <= r < low + per_task)
            if together:
                todo.append(StackTask(name, i, sigma, together))
    return sorted(todo, key=lambda s: -config.ensembles[s.ensemble].Nrho * COST[config.ensembles[s.ensemble].network])


def history_is_current(config: Config, layout: Layout) -> bool:
    """Return whether ``history.zarr`` is there and holds these networks, no more and no fewer."""
    there = layout.history.exists()
    return there and store.read_attributes(layout.history).get("config_hash") == problem.audience_hash(config)


def predictions(config: Config, layout: Layout) -> list[str]:
    """Return the targets whose predictions are missing or stale."""

    def done(name: str) -> bool:
        markers = layout.markers("predict", problem.prediction_hash(config, name))
        return markers.facts(name) is not None and (layout.predictions / name).exists()

    return [name for name in config.targets if not done(name)]


def budgets(config: Config, layout: Layout) -> list[str]:
    """Return the targets whose budget or figures are missing or stale."""

    def done(name: str) -> bool:
        facts = layout.markers("analyze", problem.budget_hash(config, name)).facts(name)
        files = [layout.budget / name, *(layout.root / f for f in (facts or {}).get("figures", []))]
        return facts is not None and all(f.exists() for f in files)

    return [name for name in config.targets if not done(name)]


def report(config: Config, layout: Layout) -> bool:
    """Return whether the report is missing or stale."""
    facts = layout.markers("report", problem.report_hash(config)).facts("report")
    return facts is None or not layout.report.exists()


def _remedy(stage: str, layout: Layout) -> str:
    """Return the command that makes what is missing."""
    return f"run: sdpipe {stage} " + (str(layout.root) if layout.config.exists() else f"CONFIG --run {layout.root}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def require_training(config: Config, layout: Layout) -> None:
    """Raise UserError where ``training.zarr`` is missing, stale or not complete."""
    remedy = _remedy("generate", layout)
    if not layout.training.exists():
        raise UserError(f"{layout.training}: missing; {remedy}")
    if not training_is_current(config, layout):
        raise UserError(f"{layout.training}: made from other inputs; {remedy}")
    missing = [b.name for b in blocks(config, layout)]
    if missing:
        raise UserError(f"{layout.training}: {len(missing)} blocks missing ({_few(missing)}); {remedy}")


def require_networks(config: Config, layout: Layout) -> None:
    """Raise UserError where a network of the config is missing or was trained on other inputs."""
    missing = [layout.network(s.ensemble, s.sigma_index, r).stem for s in stacks(config, layout) for r in s.replicas]
    if missing:
        raise UserError(
            f"{layout.networks}: {len(missing)} networks missing or stale ({_few(missing)}); "
            + _remedy("train", layout)
        )


def require_predictions(config: Config, layout: Layout) -> None:
    """Raise UserError where predictions are missing or stale."""
    late = predictions(config, layout)
    if late:
        raise UserError(f"{layout.predictions}: missing or stale: {_few(late)}; {_remedy('predict', layout)}")


def require_budgets(config: Config, layout: Layout) -> None:
    """Raise UserError where budgets are missing or stale."""
    late = budgets(config, layout)
    if late:
        raise UserError(f"{layout.budget}: missing or stale: {_few(late)}; {_remedy('analyze', layout)}")
