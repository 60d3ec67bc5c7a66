"""What a worker does for ``generate``: one block of samples, from plain arguments to whole chunks on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdpipe.config import problem
from sdpipe.config.schema import Config
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.physics.samples import generate, noisy_copies
from sdpipe.pipeline.pieces import Block


def generate_block(config: Config, root: Path, block: Block) -> dict[str, Any]:
    """Write one block of ``training.zarr``."""
    layout = Layout(root)
    made = generate(problem.prior(config, block.Nb), problem.observables(config), config.seed, block.start, block.stop)
    region = (block.row, slice(block.start, block.stop))
    store.write_block(layout.training, "correlator", region, made.correlator)
    store.write_block(layout.training, "smeared", region, made.smeared)
    store.write_block(layout.training, "threshold", region, made.threshold)
    if config.noise.copies:
        noise = problem.lattice_noise(config)
        noisy = noisy_copies(made.correlator, noise, config.noise.copies, config.seed, block.Nb, block.start)
        store.write_block(layout.training, "noisy", region, noisy)
    layout.markers("generate", problem.training_hash(config)).add(block.name)
    return {"samples": block.stop - block.start}
