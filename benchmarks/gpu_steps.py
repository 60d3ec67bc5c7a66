"""What a training step on a GPU gains: from wider stacks, from TF32, from a CUDA graph. Needs CUDA.

    python -m benchmarks gpu-steps

sdpipe trains in full single precision, without graphs. TF32 is worth having if it is faster and the validation error
moves by less than 0.5 %, a graph of the whole step, with an Adam that can be captured, if it is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.steps import E, T, mock, stack_epoch
from benchmarks.table import Limit, Row, turn_by_turn, wall_seconds
from benchmarks.time_to_accuracy import fitted_set
from sdpipe.learn import architectures
from sdpipe.learn.feeds import Member, TensorOptions
from sdpipe.learn.training import PROTOCOLS, Outcome, Recipe, train

NETWORK, BATCH, STACKS, STEPS = "arcL", 256, (5, 10, 20, 40), 200
PRECISIONS = {"full single precision": "highest", "TF32": "high"}
"""Names of what PyTorch calls so; the first one is how sdpipe trains."""


def step_of(replicas: int, device: str, capturable: bool = False) -> Callable[[], None]:
    """Return a function that takes one step of Adam on a stack, with the same pairs again and again."""
    weights = architectures.stack([architectures.initialise(NETWORK, T, E, seed) for seed in range(replicas)])
    weights = {name: w.to(device, torch.float32).requires_grad_() for name, w in weights.items()}
    optimizer = torch.optim.Adam(list(weights.values()), fused=True, capturable=capturable)
    x, y = (torch.randn(replicas, BATCH, size, device=device) for size in (T, E))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (y - architectures.forward(weights, x)).abs().mean(dim=(1, 2)).sum().backward()
        optimizer.step()

    return step


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Return ``step`` as one CUDA graph, captured after three steps on a stream of their own, as PyTorch asks.

    What is returned keeps ``step``, and with it the weights and pairs that the graph works on.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(_held: Callable[[], None] = step) -> None:
        graph.replay()

    return replay


def many(step: Callable[[], None]) -> None:
    """Take STEPS steps, and wait for the last one."""
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()


def validation_error(root: Path, device: str) -> float:
    """Return the best validation error, mean of five replicas, of a whole training on 50,000 samples."""
    network, fitted, seed = fitted_set(root, "default", "whiten")
    outcomes: dict[int, Outcome] = {}
    members = [Member(0, ("Nmax", 0, replica)) for replica in range(5)]
    recipe, options = Recipe(network, PROTOCOLS["default"], seed), TensorOptions(torch.device(device))
    train(recipe, [fitted.data], members, outcomes.__setitem__, options=options)
    return float(np.mean([min(outcome.val_loss) for outcome in outcomes.values()]))


def measure(root: Path) -> list[Row]:
    """Time stacks of several sizes, steps with and without TF32, what that costs in accuracy, and a graph of a step."""
    if not torch.cuda.is_available():
        print("gpu-steps: no NVIDIA GPU here; on a machine that has one: python -m benchmarks gpu-steps")
        return []
    sample = mock(32_000)
    pairs = sample.rows[0]
    sizes = {str(n): lambda n=n: stack_epoch(NETWORK, sample, BATCH, n, "cuda") for n in STACKS}
    seconds = turn_by_turn(sizes, rounds=3, clock=wall_seconds)
    rows = [
        Row(f"stack of {n}", int(n) * pairs / t, "pairs/s", STACKS[0] * pairs / seconds[str(STACKS[0])])
        for n, t in seconds.items()
    ]
    speed, error = {}, {}
    try:
        for name, precision in PRECISIONS.items():
            torch.set_float32_matmul_precision(precision)
            speed[name] = STACKS[-1] * pairs / turn_by_turn({"": sizes[str(STACKS[-1])]}, 3, wall_seconds)[""]
            error[name] = validation_error(root / "gpu-steps", "cuda")
    finally:
        torch.set_float32_matmul_precision("highest")
    full, fast = PRECISIONS
    rows += [
        Row(f"{fast}, stack of {STACKS[-1]}", speed[fast], "pairs/s", speed[full], note=f"baseline: {full}"),
        Row(f"{fast}, validation error over that of {full}", error[fast] / error[full], "", None,
            (Limit("ours", "≥", 0.995), Limit("ours", "≤", 1.005)), True),
    ]  # fmt: skip
    for n in STACKS:
        steps = {"eager": step_of(n, "cuda"), "graph": captured(step_of(n, "cuda", capturable=True))}
        t = turn_by_turn({name: lambda s=step: many(s) for name, step in steps.items()}, 3, wall_seconds)
        one, other = (STEPS / t[name] for name in ("graph", "eager"))
        rows.append(Row(f"a step as a CUDA graph, stack of {n}", one, "steps/s", other, note="baseline: without"))
    return rows
