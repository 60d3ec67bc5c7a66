"""The whole audience on one GPU at reference scale: 40 networks, generation included. Needs CUDA."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from benchmarks.steps import mock, plain_epoch
from benchmarks.table import Limit, Row, turn_by_turn, wall_seconds
from benchmarks.training_sets import REFERENCE, SYNTHETIC, empty_run
from sdpipe import dataset, networks, problem
from sdpipe.blocks import training_blocks
from sdpipe.cluster import Task, cores, local_pool
from sdpipe.config import Config
from sdpipe.configfile import load_config
from sdpipe.feeds import Member
from sdpipe.generation import generate_block
from sdpipe.training import PROTOCOLS, train

PEAK = 67e12
"""Single-precision peak of an H200 outside its tensor cores, in operations a second."""


def _generate(config: Config, root: Path) -> Path:
    layout, blocks = empty_run(config, root), training_blocks(config)
    with local_pool(cores(), root / "generate.html", lambda _: None) as pool:
        list(pool.map(generate_block, [Task(b.name, (config, root, b)) for b in blocks]))
    return layout.training


def _operations(network: str, inputs: int, outputs: int) -> float:
    """Return multiplications and additions of a step for one pair: forward, and twice as much backward."""
    first, second = networks.FEATURE_MAPS[network]
    shapes = networks.shapes(network, inputs, outputs)
    once, twice = -(-inputs // 2), -(-inputs // 4)
    forward = once * 3 * first + twice * 3 * first * second
    forward += sum(shape[0] * shape[1] for name, shape in shapes.items() if name in ("dense.weight", "output.weight"))
    return 6 * forward


def measure(root: Path) -> list[Row]:
    """Time the audience, one stack for each (network, Nrho) with all its ensembles and both sigma, on one GPU."""
    if not torch.cuda.is_available():
        print("gpu: no NVIDIA GPU here; on a machine that has one: python -m benchmarks gpu")
        return []
    config = load_config(REFERENCE, [SYNTHETIC])
    device, protocol, lattice = torch.device("cuda"), PROTOCOLS["default"], problem.lattice_noise(config)
    begun = time.perf_counter()
    path = _generate(config, root / f"gpu-{time.time_ns()}")
    generated = time.perf_counter() - begun
    replicas, pairs, operations = config.training.replicas, 0, 0.0
    trained = time.perf_counter()
    for network, Nrho in dict.fromkeys((e.network, e.Nrho) for e in config.ensembles.values()):
        same = [name for name, e in config.ensembles.items() if (e.network, e.Nrho) == (network, Nrho)]
        data, members = [], []
        for name, s in product(same, range(len(config.smearing.sigma))):
            fitted = dataset.load(
                path, config.ensembles[name].Nb, Nrho, s, lattice, "whiten", protocol, config.seed, name
            )
            members += [Member(len(data), (name, s, r)) for r in range(replicas)]
            data.append(fitted.data)
        train(network, data, members, protocol, config.seed, lambda *_: None, device=device)
        seen = len(members) * len(data[0].x) * protocol.epochs
        pairs += seen
        operations += seen * _operations(network, *data[0].weight.shape)
    torch.cuda.synchronize()
    ours = time.perf_counter() - trained
    sample = mock(32_000)
    plain = turn_by_turn({"": lambda: plain_epoch("arcL", sample, 32, "cuda")}, rounds=3, clock=wall_seconds)[""]
    large = replace(protocol, epochs=1)

    def stack(size: int) -> None:
        members = [Member(0, ("mock", r)) for r in range(size)]
        train("arcL", [sample], members, large, 1, lambda *_: None, device=device)
        torch.cuda.synchronize()

    sizes = turn_by_turn({str(n): lambda n=n: stack(n) for n in (5, 10, 20, 40)}, rounds=3, clock=wall_seconds)
    rate, one = pairs / ours, len(sample.x) / plain
    return [
        Row("audience at reference scale, generation included", (generated + ours) / 60, "min", None,
            (Limit("ours", "≤", 15),), True, f"of it generation {generated:.0f} s on {cores()} cores"),
        Row("training of it", rate, "pairs/s", one, note="baseline: one arcL network, DataLoader, batch 32, this GPU"),
        Row("training of it, of the single-precision peak of an H200", 100 * operations / ours / PEAK, "%"),
        *(Row(f"arcL, batch 256, stack of {n}", int(n) * len(sample.x) / t, "pairs/s", one) for n, t in sizes.items()),
    ]  # fmt: skip
