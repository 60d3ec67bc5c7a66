"""What a command would do: blocks, bytes, networks to train."""

from __future__ import annotations

from math import prod

import numpy as np

from sdpipe.config.schema import Config
from sdpipe.disk.layout import Layout
from sdpipe.learn.networks import parameter_count
from sdpipe.pipeline import pending
from sdpipe.pipeline.pieces import training_blocks, training_template, validation_blocks
from sdpipe.show.tables import size
from sdpipe.workers.choice import wide_stacks


def plan(config: Config, layout: Layout, names: list[str]) -> str:
    """Return a text that says what the stages ``names`` would do in a run directory."""
    lines = [f"run directory: {layout.root}"]
    if "generate" in names:
        blocks, missing = training_blocks(config), len(pending.blocks(config, layout))
        coords, variables = training_template(config)
        sizes = {dim: np.size(values[1]) for dim, values in coords.items()}
        total = sum(prod(sizes[d] for d in v.dims) * np.dtype(v.dtype).itemsize for v in variables.values())
        lines.append(f"generate: {missing} of {len(blocks)} blocks to write, {size(total)} in all before compression")
    if "train" in names:
        stacks, count = (
            pending.stacks(config, layout, wide_stacks(config)),
            len(pending.missing_networks(config, layout)),
        )
        lines.append(f"train: {count} networks to train in {len(stacks)} tasks")
        inputs, outputs = len(config.lattice.slices), config.energies.count
        for name, e in config.ensembles.items():
            weights = parameter_count(e.network, inputs, outputs)
            lines.append(f"  {name}: Nb {e.Nb}, Nrho {e.Nrho}, {e.network} with {weights} parameters")
    if "predict" in names:
        lines.append(f"predict: {len(pending.predictions(config, layout))} of {len(config.targets)} targets")
    if "validate" in names:
        late, every = pending.validation_draws(config, layout), validation_blocks(config)
        lines.append(f"validate: {len(late)} of {len(every)} blocks, {config.validation.samples} draws a family")
    if "analyze" in names:
        lines.append(f"analyze: {len(pending.budgets(config, layout))} of {len(config.targets)} targets")
    return "\n".join(lines)
