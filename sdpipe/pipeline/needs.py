"""What a stage needs of a machine: memory, a GPU, a solver; one that lacks them is refused before work begins."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdpipe.config.schema import Config
from sdpipe.errors import ConfigError, UserError
from sdpipe.pipeline.pieces import VALIDATION_BLOCK, every_network
from sdpipe.problem.problem import families
from sdpipe.workers import pools

if TYPE_CHECKING:
    from sdpipe.workers.pool import Kind

BASE = 450_000_000
"""Bytes of a process before it computes anything, with PyTorch, which training alone imports."""


def peaks(config: Config, stage: str) -> tuple[float, float]:
    """Return the bytes that a worker and the driver take in one stage.

    The factors are those of measured peaks, which they give to a fifth: 8 to 1,024 energies, 50 to 4,000 bootstrap
    samples, 120 to 5,000 draws.
    """
    from sdpipe.infer.calibration import ROWS

    sigmas, energies, validation = len(config.smearing.sigma), config.energies.count, config.validation
    matrix = 8 * energies**2  # between energies; every network holds one
    networks = matrix * len(every_network(config))
    one = 4 * sigmas * (len(config.ensembles) + 1) * config.training.replicas * energies  # correlator, predicted
    rows = min(max(ROWS, validation.bootstrap), min(VALIDATION_BLOCK, validation.samples) * validation.bootstrap)
    draws = 8 * len(families(config)) * validation.samples * sigmas * energies
    budget = 14 * sigmas * matrix + 5.5 * one * config.bootstrap  # of one target
    worker, driver = {
        "generate": (60_000 * sigmas * energies, 0),
        "train": (18 * matrix, networks),
        "predict": (networks + 6 * sigmas * matrix + 4.5 * one * config.bootstrap, 0),
        "validate": (networks + 2 * sigmas * matrix + 7 * one * rows, networks + 30 * draws),
        "analyze": (budget, budget),
        "report": (0, 2 * sigmas * matrix * len(config.targets)),
    }.get(stage, (0, 0))
    return BASE + worker, BASE + driver


def check_memory(config: Config, stage: str, kind: Kind | None, logs: Path) -> None:
    """Raise UserError where a worker of the pool ``kind``, or the driver, has less memory than a stage takes."""
    worker, driver = peaks(config, stage)
    needs = {"this machine": (driver, pools.memory(config, None, logs))}
    if kind:
        needs[f"a worker of cluster.{kind}: {getattr(config.cluster, kind)}"] = worker, pools.memory(config, kind, logs)
    for where, (need, memory) in needs.items():
        if need > memory:
            raise UserError(
                f"{stage}: about {need / 1e9:.2g} GB of memory are needed, and {where} has {memory / 1e9:.2g} GB; "
                "lower energies.count, bootstrap, training.replicas, validation.samples or validation.bootstrap, or "
                "take more memory"
            )


def check_equipment(config: Config, names: Sequence[str]) -> None:
    """Raise ConfigError where one of these stages needs a GPU or a solver for bounds that is not on this machine."""
    if "train" in names and config.training.device == "cuda" and config.cluster.gpu == "local":
        import torch

        if not torch.cuda.is_available():
            fault = f"no CUDA GPU on this machine ({socket.gethostname()}); allowed here: auto, cpu"
            raise ConfigError((("training", "device"), fault))
    if "predict" in names and "bounds" in config.methods:
        from sdpipe.estimators import bounds

        try:
            bounds.solver()
        except UserError as error:
            raise ConfigError((("methods",), str(error))) from None
