"""The whole audience on one GPU at reference scale: 40 networks, generation included. Needs CUDA."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from benchmarks.commands import run_stage
from benchmarks.steps import mock, plain_epoch
from benchmarks.table import Limit, Row, turn_by_turn, wall_seconds
from benchmarks.training_sets import REFERENCE, SYNTHETIC
from sdpipe.config.load import load_config
from sdpipe.config.schema import Config, to_yaml
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.learn import architectures
from sdpipe.physics.samples import is_validation
from sdpipe.workers.serial import cores

PEAK = 67e12
"""Single-precision peak of an H100 or H200 outside its tensor cores, in operations a second."""


def _operations(network: str, inputs: int, outputs: int) -> float:
    """Return multiplications and additions of a step for one pair: forward, and twice as much backward."""
    first, second = architectures.FEATURE_MAPS[network]
    shapes = architectures.shapes(network, inputs, outputs)
    once, twice = -(-inputs // 2), -(-inputs // 4)
    forward = once * 3 * first + twice * 3 * first * second
    forward += sum(shape[0] * shape[1] for name, shape in shapes.items() if name in ("dense.weight", "output.weight"))
    return 6 * forward


def _work(config: Config, layout: Layout) -> tuple[int, float]:
    """Return the pairs that the networks of a finished training were shown, and the operations that took."""
    epochs = np.isfinite(store.load(layout.history).val_loss).sum("epoch")
    pairs, operations = 0, 0.0
    for name, ensemble in config.ensembles.items():
        seen = int(epochs.sel(ensemble=name).sum()) * int(np.sum(~is_validation(np.arange(ensemble.Nrho))))
        pairs += seen
        operations += seen * _operations(ensemble.network, len(config.lattice.slices), config.energies.count)
    return pairs, operations


def measure(root: Path) -> list[Row]:
    """Time ``sdpipe generate`` and ``sdpipe train`` of the reference audience."""
    if not torch.cuda.is_available():
        print("gpu: no NVIDIA GPU here; on a machine that has one: python -m benchmarks gpu")
        return []
    config = load_config(REFERENCE, [SYNTHETIC])
    layout, file = Layout(root / "gpu"), root / "gpu.yaml"
    shutil.rmtree(layout.root, ignore_errors=True)
    file.write_text(to_yaml(config))
    generated, trained = (run_stage(stage, file, layout) for stage in ("generate", "train"))
    pairs, operations = _work(config, layout)
    sample = mock(32_000)
    plain = turn_by_turn({"": lambda: plain_epoch("arcL", sample, 32, "cuda")}, rounds=3, clock=wall_seconds)[""]
    rate, one = pairs / trained, sample.rows[0] / plain
    return [
        Row("audience at reference scale, generation included", (generated + trained) / 60, "min", None,
            (Limit("ours", "≤", 15),), True, f"whole commands; generation {generated:.0f} s on {cores()} cores"),
        Row("training of it", rate, "pairs/s", one, note="baseline: one arcL network, DataLoader, batch 32, this GPU"),
        Row("training of it, of the single-precision peak of an H100", 100 * operations / trained / PEAK, "%",
            note=f"on {torch.cuda.get_device_name()}"),
    ]  # fmt: skip
