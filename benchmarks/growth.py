"""How cost grows: generation with Nb, times and energies; training with times, energies and network."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.table import Row, turn_by_turn
from benchmarks.training_sets import one_ensemble
from sdpipe.learn import architectures
from sdpipe.learn.training import CPU, Stack
from sdpipe.physics.prior import BATCH
from sdpipe.physics.samples import generate

REPLICAS, PAIRS = 5, 256

GRIDS = {
    "16 times, 47 energies": (),
    "8 times": ("lattice.times=[1, 8]",),
    "32 times (T = 64)": ("lattice={period: 64, times: [1, 32]}",),
    "24 energies": ("energies.count=24",),
    "94 energies": ("energies.count=94",),
}

SHAPES = {
    "": (16, 47),
    ", 8 times": (8, 47),
    ", 32 times": (32, 47),
    ", 24 energies": (16, 24),
    ", 94 energies": (16, 94),
}


def _generation(Nb: int, overrides: tuple[str, ...]) -> float:
    """Return microseconds of one core for a sample, without the write."""
    config = one_ensemble(Nb, 8 * BATCH, "arcL", *overrides)
    prior, grid = config.spectra.prior(Nb), config.observables
    t = turn_by_turn({"": lambda: generate(prior, grid, 1, 0, BATCH)}, rounds=9)
    return 1e6 * t[""] / BATCH


def _step(network: str, inputs: int, outputs: int) -> float:
    """Return microseconds of one core for a pair, in a stack at the default batch."""
    initial = [architectures.initialise(network, inputs, outputs, s) for s in range(REPLICAS)]
    stack = Stack.begin(initial, CPU)
    x, y = torch.randn(REPLICAS, PAIRS, inputs), torch.randn(REPLICAS, PAIRS, outputs)

    def steps() -> None:
        for _ in range(5):
            stack.step((y - architectures.forward(stack.parameters, x)).abs().mean(dim=(1, 2)), 1e-4)

    return 1e6 * turn_by_turn({"": steps}, rounds=5)[""] / (5 * REPLICAS * PAIRS)


def measure(_: Path) -> list[Row]:
    """Microseconds of one core for each sample and each training pair; the baseline is the first line of its kind."""
    torch.set_num_threads(1)
    rows = []
    basis = {Nb: _generation(Nb, ()) for Nb in (16, 32, 64, 128, 256, 512)}
    rows += [Row(f"generate, Nb = {Nb}", us, "us/sample", basis[16], (), True) for Nb, us in basis.items()]
    grids = {name: _generation(128, overrides) for name, overrides in GRIDS.items()}
    first = next(iter(grids.values()))
    rows += [Row(f"generate, Nb = 128, {name}", us, "us/sample", first, (), True) for name, us in grids.items()]
    steps = {name: _step("arcL", *shape) for name, shape in SHAPES.items()}
    rows += [Row(f"train arcL{name}", us, "us/pair", steps[""], (), True) for name, us in steps.items()]
    smaller = {n: _step(n, 16, 47) for n in ("arcS", "arcM")}
    return rows + [Row(f"train {n}", us, "us/pair", steps[""], (), True) for n, us in smaller.items()]
