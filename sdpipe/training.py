"""Train a stack of replicas side by side: PyTorch and NumPy only, no Dask, no YAML, no Zarr.

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
from numpy.typing import NDArray
from torch import Tensor

from sdpipe import networks, rng
from sdpipe.networks import Parameters
from sdpipe.stacks import Progress, Stack

VALIDATION_ROWS = 4096


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


@dataclass(frozen=True)
class Data:
    """What the networks of one ensemble and one sigma are trained on, as float64 or float32 arrays.

    x (n, t) clean transformed inputs; s (n,) noise scales; y (n, E) targets; noise (t, t) takes white noise z
    to transformed inputs, x + s z @ noise; x_val (m, t) noisy inputs and y_val (m, E) to validate on;
    estimates are offset + x @ weight + scale * network(x). ``stored`` (n, copies, t) are noisy inputs that
    replace the drawn ones.
    """

    x: NDArray
    s: NDArray
    y: NDArray
    noise: NDArray
    x_val: NDArray
    y_val: NDArray
    weight: NDArray
    offset: NDArray
    scale: NDArray
    stored: NDArray | None = None


@dataclass(frozen=True)
class Member:
    """One network of a stack: which entry of the data it is trained on, and its own random stream."""

    data: int
    stream: tuple[int | str, ...]


@dataclass
class Outcome:
    """A trained network: best-epoch weights, losses of every epoch, and the epoch it diverged at, if it did."""

    parameters: Parameters
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int
    diverged: int | None = None


def _tensor(data: list[Data], name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Stack one array of several data sets on the device."""
    return torch.stack([torch.as_tensor(getattr(d, name), dtype=dtype) for d in data]).to(device)


class _Stream:
    """The shuffled, noisy inputs of each member, one epoch at a time, on the device."""

    def __init__(self, data: list[Data], protocol: Protocol, seed: int, device: torch.device, dtype: torch.dtype):
        self.x, self.s, self.y, self.noise = (_tensor(data, name, device, dtype) for name in ("x", "s", "y", "noise"))
        self.stored = None if data[0].stored is None else _tensor(data, "stored", device, dtype).flatten(1, 2)
        self.copies = data[0].stored.shape[1] if data[0].stored is not None else protocol.copies
        self.fresh, self.seed = protocol.fresh and self.stored is None, seed
        self.pairs = self.x.shape[1] * self.copies
        self._fixed: dict[Member, Tensor] = {}

    def _generator(self, purpose: str, *key: int | str) -> torch.Generator:
        return torch.Generator(self.x.device).manual_seed(rng.torch_seed(self.seed, purpose, *key))

    def _noisy(self, member: Member, generator: torch.Generator) -> Tensor:
        n, t = self.x.shape[1:]
        z = torch.randn(n, self.copies, t, generator=generator, device=self.x.device, dtype=self.x.dtype)
        d = member.data
        return (self.x[d, :, None] + self.s[d, :, None, None] * (z @ self.noise[d])).flatten(0, 1)

    def epoch(self, members: list[Member], epoch: int) -> tuple[Tensor, Tensor]:
        """Return inputs (member, pair, t) in the order of this epoch, and the row of ``y`` of each."""
        inputs, rows = [], []
        for m in members:
            order = torch.randperm(
                self.pairs, generator=self._generator("order", *m.stream, epoch), device=self.x.device
            )
            if self.stored is not None:
                noisy = self.stored[m.data]
            elif self.fresh:
                noisy = self._noisy(m, self._generator("noise", *m.stream, epoch))
            else:
                if m not in self._fixed:
                    self._fixed[m] = self._noisy(m, self._generator("noise", *m.stream))
                noisy = self._fixed[m]
            inputs.append(noisy[order])
            rows.append(m.data * self.x.shape[1] + order // self.copies)
        return torch.stack(inputs), torch.stack(rows)


class _Estimator:
    """offset + x @ weight + scale * network(x) for every member at once."""

    def __init__(self, data: list[Data], members: list[Member], device: torch.device, dtype: torch.dtype):
        mine = [data[m.data] for m in members]
        self.weight, offset, scale = (_tensor(mine, name, device, dtype) for name in ("weight", "offset", "scale"))
        self.offset, self.scale = offset.unsqueeze(1), scale.unsqueeze(1)

    def loss(self, p: Parameters, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean absolute error (member,) of x (member, pair, t) against y (member, pair, E)."""
        linear = torch.baddbmm(self.offset, x, self.weight)
        return (y - linear - self.scale * networks.forward(p, x)).abs().mean(dim=(1, 2))


def _new_stack(
    network: str, data: list[Data], members: list[Member], seed: int, device: torch.device, dtype: torch.dtype
) -> Stack:
    inputs, outputs = data[0].x.shape[1], data[0].y.shape[1]
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
    data: list[Data],
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
        Training sets, all of one size; ``Member.data`` points into this list.
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
    stream = _Stream(data, protocol, seed, device, dtype)
    targets = stream.y.flatten(0, 1)
    validation = [_tensor(data, name, device, dtype) for name in ("x_val", "y_val")]
    steps = -(-stream.pairs // protocol.batch)
    while stack.progress:
        living = [members[p.row] for p in stack.progress]
        estimator = _Estimator(data, living, device, dtype)
        inputs, rows = stream.epoch(living, stack.epoch)
        total = torch.zeros(len(living), device=device, dtype=dtype)
        for i in range(steps):
            batch = slice(i * protocol.batch, (i + 1) * protocol.batch)
            losses = estimator.loss(stack.parameters, inputs[:, batch], targets[rows[:, batch]])
            stack.step(losses, protocol.rate(stack.epoch + i / steps, protocol.epochs))
            total += losses.detach() * (rows[:, batch].shape[1] / stream.pairs)
        val = _validate(estimator, stack.parameters, validation, [m.data for m in living])
        stack.epoch += 1
        stack = _end_epoch(stack, total.tolist(), val.tolist(), protocol, finished, on_epoch)
        if state and stack.progress:
            stack.save(state, identity)
    if state:
        state.unlink(missing_ok=True)


def _validate(estimator: _Estimator, p: Parameters, validation: list[Tensor], rows: list[int]) -> Tensor:
    x, y = validation
    total = torch.zeros(len(rows), device=x.device, dtype=x.dtype)
    with torch.no_grad():
        for low in range(0, x.shape[1], VALIDATION_ROWS):
            part = slice(low, low + VALIDATION_ROWS)
            total += estimator.loss(p, x[rows, part], y[rows, part]) * (x[0, part].shape[0] / x.shape[1])
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
