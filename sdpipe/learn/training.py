"""Train a stack of networks side by side: PyTorch and NumPy only, no Dask, no YAML, no Zarr.

A stack holds networks of one architecture and one training-set size. They share each batched matrix
product and nothing else: initial weights, data order, noise, loss, optimiser state and stopping epoch of
a replica are functions of its own seed, so it follows the trajectory that it has when trained alone.
Every random number is a function of (seed, member, epoch): a killed training resumes to the same weights.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sdpipe.disk.files import read_sealed, write_sealed
from sdpipe.errors import DamageError
from sdpipe.learn import architectures
from sdpipe.learn.architectures import Parameters
from sdpipe.learn.feeds import VALIDATION_ROWS, Feed, Member, TrainingSet, stacked
from sdpipe.physics import rng

CLIP = 5.0
"""Largest norm of the gradient of a network with an error head, whose loss falls steeply where the error is small."""

MIN_FALL = 1e-5
"""A validation loss that falls by less does not count as progress for early stopping."""


@dataclass(frozen=True)
class Protocol:
    """How a network is trained: at most ``epochs``, in steps of ``batch`` pairs (sample, noise copy).

    ``rate`` is the learning rate of Adam as a function of (epochs done, as a real number; ``epochs``). An epoch has
    ``copies`` noise copies of each sample, with ``fresh`` drawn anew in every epoch. With ``residual`` the network
    corrects the linear estimator, in units of its residual; without, it predicts rho itself. With a ``head`` it gives
    an error b, too, and its loss is |y - rho|/b + ln b in place of |y - rho|. Training stops after ``patience`` epochs
    without a fall of the validation loss, the mean absolute error with or without a head, by MIN_FALL.
    """

    epochs: int
    batch: int
    rate: Callable[[float, int], float]
    copies: int
    fresh: bool
    residual: bool
    patience: int
    head: bool = False


def published_rate(done: float, _epochs: int) -> float:
    """Return 2e-4, flat for 25 epochs, then 2e-4 / (1 + 4e-4 (e - 24)): arXiv:2307.00808, sec. 4.

    >>> published_rate(24.9, 200), round(published_rate(49, 200), 9)
    (0.0002, 0.00019802)
    """
    epoch = int(done)
    return 2e-4 if epoch < 25 else 2e-4 / (1 + 4e-4 * (epoch - 24))


def one_cycle_rate(done: float, epochs: int, peak: float = 3e-3) -> float:
    """Return a rate that rises from peak/10 over the first 30 % of ``epochs`` and falls to 0, both as a cosine.

    >>> [round(one_cycle_rate(done, 10), 6) for done in (0, 3, 6.5, 10)]
    [0.0003, 0.003, 0.0015, 0.0]
    """
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


Finished = Callable[[int, Outcome], None]


@dataclass
class Progress:
    """Losses and the best epoch of one living member, ``row`` of those that training began with."""

    row: int
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = -1
    reference: float = math.inf
    since: int = 0

    def add(self, train: float, val: float) -> bool:
        """Note the losses of an epoch; return whether it is the best so far."""
        self.train_loss.append(train)
        self.val_loss.append(val)
        fell = val < self.reference - MIN_FALL
        self.reference, self.since = (val, 0) if fell else (self.reference, self.since + 1)
        if not val < self.best_loss:
            return False
        self.best_loss, self.best_epoch = val, len(self.val_loss) - 1
        return True


class Stack:
    """Weights, optimiser and progress of the living members; the first axis of every tensor is the member."""

    def __init__(self, parameters: Parameters, best: Parameters, progress: list[Progress], epoch: int = 0) -> None:
        self.parameters = {k: v.requires_grad_() for k, v in parameters.items()}
        self.best, self.progress, self.epoch = best, progress, epoch
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), fused=True)

    @classmethod
    def begin(cls, initial: list[Parameters], device: torch.device, dtype: torch.dtype) -> Stack:
        """Return the stack of networks with these initial weights."""
        parameters = {k: v.to(device, dtype) for k, v in architectures.stack(initial).items()}
        best = {k: v.clone() for k, v in parameters.items()}
        return cls(parameters, best, [Progress(row) for row in range(len(initial))])

    def step(self, losses: Tensor, rate: float, clip: bool = False) -> None:
        """Take one step of Adam on every member; the sum of their losses keeps their gradients apart."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        if clip:
            squares = sum(v.grad.square().sum(dim=(1, 2)) for v in self.parameters.values())
            for v in self.parameters.values():
                v.grad *= (CLIP / squares.sqrt()).clamp(max=1)[:, None, None]
        self.optimizer.step()

    def keep(self, rows: list[int]) -> Stack:
        """Return the stack of the members at ``rows``, with their own weights and optimiser state."""
        smaller = Stack(
            {k: v.detach()[rows].clone() for k, v in self.parameters.items()},
            {k: v[rows].clone() for k, v in self.best.items()},
            [self.progress[r] for r in rows],
            self.epoch,
        )
        for old, new in zip(self.parameters.values(), smaller.parameters.values(), strict=True):
            state = self.optimizer.state[old]
            smaller.optimizer.state[new] = {k: (v[rows] if v.ndim else v).clone() for k, v in state.items()}
        return smaller

    def save(self, path: Path, identity: str) -> None:
        """Write everything that training goes on from, in one step."""
        state = {
            "identity": identity,
            "epoch": self.epoch,
            "parameters": {k: v.detach() for k, v in self.parameters.items()},
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "progress": [asdict(p) for p in self.progress],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_sealed(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, identity: str, device: torch.device) -> Stack | None:
        """Return the stack saved at ``path``, or None where there is none of this identity, or a damaged one."""
        try:
            state = torch.load(io.BytesIO(read_sealed(path)), map_location=device, weights_only=True)
        except (FileNotFoundError, DamageError):
            return None
        if state["identity"] != identity:
            return None
        stack = cls(state["parameters"], state["best"], [Progress(**p) for p in state["progress"]], state["epoch"])
        stack.optimizer.load_state_dict(state["optimizer"])
        return stack


class _Estimator:
    """offset + x @ weight + scale * network(x) for every member at once."""

    def __init__(
        self, data: list[TrainingSet], members: list[Member], head: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        mine, self.head = [data[m.data] for m in members], head
        self.weight, offset, scale = (stacked(mine, name, device, dtype) for name in ("weight", "offset", "scale"))
        self.offset, self.scale = offset.unsqueeze(1), scale.unsqueeze(1)

    def losses(self, p: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and absolute error (member, pair, E) of x (member, pair, t) against y (member, pair, E)."""
        linear, made = torch.baddbmm(self.offset, x, self.weight), architectures.forward(p, x)
        if not self.head:
            error = (y - linear - self.scale * made).abs()
            return error, error
        value, log_error = architectures.split(made)
        error = (y - linear - self.scale * value).abs()
        return error / self.scale * torch.exp(-log_error) + log_error, error


def device_for(wanted: str) -> torch.device:
    """Return the device of ``training.device``: auto takes a GPU where PyTorch sees one.

    >>> device_for("cpu")
    device(type='cpu')
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def train(
    network: str,
    data: list[TrainingSet],
    members: list[Member],
    protocol: Protocol,
    seed: int,
    finished: Finished,
    *,
    state: Path | None = None,
    identity: str = "",
    on_epoch: Callable[[int, list[tuple[int, float]]], None] | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train the ``members`` of one stack, networks of one architecture, to the end.

    ``data`` are training sets of one size, cut into chunks alike, that ``Member.data`` points into; every random number
    is a function of ``seed``, the member's stream and the epoch. Losses are means over pairs and energies.
    ``finished(i, outcome)`` is called when member i stops; one whose loss is not finite leaves the stack with
    ``Outcome.diverged`` set to that epoch, and the others go on. ``on_epoch(epochs, [(i, validation loss)])`` is called
    after each epoch. The file ``state`` holds the unfinished stack after each epoch; training goes on from it where it
    has this ``identity``.

    >>> from sdpipe.learn.feeds import Chunk
    >>> x, y, one = torch.linspace(-1, 1, 64).reshape(16, 4), torch.zeros(16, 3), torch.ones(16)
    >>> read = {0: Chunk(x, one, y, x, y)}.get
    >>> data = TrainingSet(read, (16,), (16,), 0, 0.01 * torch.eye(4), torch.zeros(4, 3), torch.zeros(3), torch.ones(3))
    >>> done, members = {}, [Member(0, ("example", replica)) for replica in range(2)]
    >>> train("arcS", [data], members, PROTOCOLS["default"], 1, done.__setitem__)
    >>> [len(done[i].val_loss) for i in range(2)]
    [20, 20]
    """
    device = device or torch.device("cpu")
    stack = Stack.load(state, identity, device) if state else None
    if stack is None:
        seeds, shape = [rng.torch_seed(seed, "weights", *m.stream) for m in members], data[0].weight.shape
        sizes = shape[0], shape[1] * (2 if protocol.head else 1)
        stack = Stack.begin([architectures.initialise(network, *sizes, s) for s in seeds], device, dtype)
    source = Feed(data, protocol.copies, protocol.fresh, seed, device, dtype)
    while stack.progress:
        living = [members[p.row] for p in stack.progress]
        estimator = _Estimator(data, living, protocol.head, device, dtype)
        total = torch.zeros(len(living), device=device, dtype=dtype)
        steps = source.steps(stack.epoch, protocol.batch)
        for i, (x, y) in enumerate(source.batches(living, stack.epoch, protocol.batch)):
            losses, errors = (v.mean(dim=(1, 2)) for v in estimator.losses(stack.parameters, x, y))
            stack.step(losses, protocol.rate(stack.epoch + i / steps, protocol.epochs), clip=protocol.head)
            total += errors.detach() * (x.shape[1] / source.pairs)
        val = _validate(estimator, stack.parameters, source, [m.data for m in living])
        stack.epoch += 1
        there, losses = stack.progress, val.tolist()
        stack = _end_epoch(stack, total.tolist(), losses, protocol, finished)
        if on_epoch:
            on_epoch(stack.epoch, [(p.row, loss) for p, loss in zip(there, losses, strict=True)])
        if state and stack.progress:
            stack.save(state, identity)
    if state:
        state.unlink(missing_ok=True)


def _validate(estimator: _Estimator, p: Parameters, source: Feed, rows: list[int]) -> Tensor:
    total = torch.zeros(len(rows), device=source.device, dtype=source.dtype)
    with torch.no_grad():
        for x, y, unit in source.validation():
            for low in range(0, x.shape[1], VALIDATION_ROWS):
                part = slice(low, low + VALIDATION_ROWS)
                _, errors = estimator.losses(p, x[rows, part], y[rows, part])
                total += (errors * unit[rows, part]).mean(dim=(1, 2)) * (x[0, part].shape[0] / source.validated)
    return total


def _end_epoch(
    stack: Stack, train_loss: list[float], val_loss: list[float], protocol: Protocol, finished: Finished
) -> Stack:
    """Note the losses, keep the best weights, and let the members that stop leave the stack."""
    staying = []
    for i, progress in enumerate(stack.progress):
        diverged = not (math.isfinite(train_loss[i]) and math.isfinite(val_loss[i]))
        if progress.add(train_loss[i], val_loss[i]):
            for name, values in stack.parameters.items():
                stack.best[name][i] = values.detach()[i]
        if diverged or stack.epoch >= protocol.epochs or progress.since >= protocol.patience:
            weights, at = {k: v[i].cpu().clone() for k, v in stack.best.items()}, stack.epoch - 1 if diverged else None
            finished(progress.row, Outcome(weights, progress.train_loss, progress.val_loss, progress.best_epoch, at))
        else:
            staying.append(i)
    return stack if len(staying) == len(stack.progress) else stack.keep(staying)
