"""Train a stack of networks side by side: PyTorch and NumPy only, no Dask, no YAML, no Zarr.

A stack holds networks of one architecture and one training-set size. They share each batched matrix
product and nothing else: initial weights, data order, noise, loss, optimiser state and stopping epoch of
a replica are functions of its own seed, so it follows the trajectory that it has when trained alone.
Every random number is a function of (seed, member, epoch): a killed training resumes to the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdpipe.learn import networks
from sdpipe.learn.feeds import VALIDATION_ROWS, Data, Feed, Member, Streamed, feed, stacked
from sdpipe.learn.networks import Parameters
from sdpipe.learn.stacks import Progress, Stack
from sdpipe.physics import rng


@dataclass(frozen=True)
class Protocol:
    """How a network is trained.

    Attributes
    ----------
    epochs, batch
        Largest number of epochs, and pairs (sample, noise copy) in a step.
    rate
        Learning rate of Adam as a function of (epochs done, as a real number; ``epochs``).
    copies, fresh
        Noise copies of each sample in an epoch; whether they are drawn anew in every epoch.
    residual
        Whether the network corrects the linear estimator, in units of its residual, or predicts rho itself.
    patience
        Epochs without a fall of the validation loss by 1e-5 after which training stops.
    """

    epochs: int
    batch: int
    rate: Callable[[float, int], float]
    copies: int
    fresh: bool
    residual: bool
    patience: int


def published_rate(done: float, _epochs: int) -> float:
    """Return 2e-4, flat for 25 epochs, then 2e-4 / (1 + 4e-4 (e - 24)): arXiv:2307.00808, sec. 4."""
    epoch = int(done)
    return 2e-4 if epoch < 25 else 2e-4 / (1 + 4e-4 * (epoch - 24))


def one_cycle_rate(done: float, epochs: int, peak: float = 3e-3) -> float:
    """Return a rate that rises from peak/10 over the first 30 % of ``epochs`` and falls to 0, both as a cosine."""
    turn = 0.3 * epochs
    if done < turn:
        return peak * (0.1 + 0.9 * (1 - math.cos(math.pi * done / turn)) / 2)
    return peak * (1 + math.cos(math.pi * min((done - turn) / (epochs - turn), 1.0))) / 2


PROTOCOLS: dict[str, Protocol] = {
    "default": Protocol(20, 256, one_cycle_rate, copies=1, fresh=True, residual=True, patience=15),
    "published": Protocol(200, 32, published_rate, copies=20, fresh=False, residual=False, patience=15),
}


@dataclass
class Outcome:
    """A trained network: best-epoch weights, losses of every epoch, and the epoch it diverged at, if it did."""

    parameters: Parameters
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int
    diverged: int | None = None


class _Estimator:
    """offset + x @ weight + scale * network(x) for every member at once."""

    def __init__(
        self, data: list[Data] | list[Streamed], members: list[Member], device: torch.device, dtype: torch.dtype
    ) -> None:
        mine = [data[m.data] for m in members]
        self.weight, offset, scale = (stacked(mine, name, device, dtype) for name in ("weight", "offset", "scale"))
        self.offset, self.scale = offset.unsqueeze(1), scale.unsqueeze(1)

    def loss(self, p: Parameters, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean absolute error (member,) of x (member, pair, t) against y (member, pair, E)."""
        linear = torch.baddbmm(self.offset, x, self.weight)
        return (y - linear - self.scale * networks.forward(p, x)).abs().mean(dim=(1, 2))


def _new_stack(
    network: str,
    data: list[Data] | list[Streamed],
    members: list[Member],
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Stack:
    inputs, outputs = data[0].weight.shape
    seeds = [rng.torch_seed(seed, "weights", *m.stream) for m in members]
    initial = networks.stack([networks.initialise(network, inputs, outputs, s) for s in seeds])
    parameters = {k: v.to(device, dtype) for k, v in initial.items()}
    best = {k: v.clone() for k, v in parameters.items()}
    return Stack(parameters, best, [Progress(row) for row in range(len(members))])


def device_for(wanted: str) -> torch.device:
    """Return the device of ``training.device``: auto takes a GPU where PyTorch sees one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def train(
    network: str,
    data: list[Data] | list[Streamed],
    members: list[Member],
    protocol: Protocol,
    seed: int,
    finished: Callable[[int, Outcome], None],
    *,
    state: Path | None = None,
    identity: str = "",
    on_epoch: Callable[[int, list[tuple[int, float]]], None] | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train the members of one stack to the end.

    Parameters
    ----------
    network
        Name of the architecture.
    data
        Training sets, all of one size and all in memory or all streamed; ``Member.data`` points into this list.
    members
        Networks to train.
    protocol
        Learning rate, batch, noise copies and stopping.
    seed
        Every random number is a function of it, the member's stream and the epoch.
    finished
        Called with (index into ``members``, outcome) when that member stops.
    state, identity
        File that holds the unfinished stack after each epoch, resumed from where its identity is this one.
    on_epoch
        Called after each epoch with (epoch, [(index into ``members``, validation loss)]).
    device, dtype
        Where and in what precision to train.

    The loss is the mean absolute error over pairs and energies. A member whose loss is not finite leaves the
    stack with ``Outcome.diverged`` set to that epoch; the others go on.
    """
    device = device or torch.device("cpu")
    stack = Stack.load(state, identity, device) if state else None
    stack = stack or _new_stack(network, data, members, seed, device, dtype)
    source = feed(data, protocol.copies, protocol.fresh, seed, device, dtype)
    while stack.progress:
        living = [members[p.row] for p in stack.progress]
        estimator = _Estimator(data, living, device, dtype)
        total = torch.zeros(len(living), device=device, dtype=dtype)
        steps = source.steps(stack.epoch, protocol.batch)
        for i, (x, y) in enumerate(source.batches(living, stack.epoch, protocol.batch)):
            losses = estimator.loss(stack.parameters, x, y)
            stack.step(losses, protocol.rate(stack.epoch + i / steps, protocol.epochs))
            total += losses.detach() * (x.shape[1] / source.pairs)
        val = _validate(estimator, stack.parameters, source, [m.data for m in living])
        stack.epoch += 1
        stack = _end_epoch(stack, total.tolist(), val.tolist(), protocol, finished, on_epoch)
        if state and stack.progress:
            stack.save(state, identity)
    if state:
        state.unlink(missing_ok=True)


def _validate(estimator: _Estimator, p: Parameters, source: Feed, rows: list[int]) -> Tensor:
    total = torch.zeros(len(rows), device=source.device, dtype=source.dtype)
    with torch.no_grad():
        for x, y in source.validation():
            for low in range(0, x.shape[1], VALIDATION_ROWS):
                part = slice(low, low + VALIDATION_ROWS)
                total += estimator.loss(p, x[rows, part], y[rows, part]) * (x[0, part].shape[0] / source.validated)
    return total


def _end_epoch(
    stack: Stack,
    train_loss: list[float],
    val_loss: list[float],
    protocol: Protocol,
    finished: Callable[[int, Outcome], None],
    on_epoch: Callable[[int, list[tuple[int, float]]], None] | None,
) -> Stack:
    """Note the losses, keep the best weights, and let the members that stop leave the stack."""
    staying = []
    for i, progress in enumerate(stack.progress):
        diverged = not (math.isfinite(train_loss[i]) and math.isfinite(val_loss[i]))
        if progress.add(train_loss[i], val_loss[i]):
            for name, values in stack.parameters.items():
                stack.best[name][i] = values.detach()[i]
        if diverged or stack.epoch >= protocol.epochs or progress.since >= protocol.patience:
            outcome = Outcome(
                {k: v[i].cpu() for k, v in stack.best.items()},
                progress.train_loss,
                progress.val_loss,
                progress.best_epoch,
                stack.epoch - 1 if diverged else None,
            )
            finished(progress.row, outcome)
        else:
            staying.append(i)
    if on_epoch:
        on_epoch(stack.epoch, [(p.row, v) for p, v in zip(stack.progress, val_loss, strict=True)])
    return stack if len(staying) == len(stack.progress) else stack.keep(staying)
