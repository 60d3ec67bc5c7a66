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
from sdpipe.learn.feeds import VALIDATION_ROWS, Feed, Member, TensorOptions, TrainingSet, stacked
from sdpipe.physics import rng

CPU = TensorOptions(torch.device("cpu"))

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
    """Return 2e-4, flat for 25 epochs, then 2e-4 / (1 + 4e-4 (e - 24)) in epoch e: arXiv:2307.00808, sec. 4.

    >>> published_rate(24.9, 200), round(published_rate(49, 200), 9)
    (0.0002, 0.00019802)
    """
    epoch = int(done)
    return 2e-4 if epoch < 25 else 2e-4 / (1 + 4e-4 * (epoch - 24))


def one_cycle_rate(done: float, epochs: int, peak: float = 3e-3) -> float:
    """Return a rate that rises from peak/10 over the first 30 % of ``epochs`` and falls to 0, both as a cosine.

    The one cycle of L. N. Smith and N. Topin, arXiv:1708.07120.

    >>> [round(one_cycle_rate(done, 10), 6) for done in (0, 3, 6.5, 10)]
    [0.0003, 0.003, 0.0015, 0.0]
    """
    # Steps are short until the moments of Adam know the gradient, and again at the end: under an L1 loss, whose
    # gradient does not shrink near the minimum, weights stay about a step away from it (docs/training.md).
    turn = 0.3 * epochs
    if done < turn:
        return peak * (0.1 + 0.9 * (1 - math.cos(math.pi * done / turn)) / 2)
    return peak * (1 + math.cos(math.pi * min((done - turn) / (epochs - turn), 1.0))) / 2


PROTOCOLS: dict[str, Protocol] = {
    "default": Protocol(20, 256, one_cycle_rate, copies=1, fresh=True, residual=True, patience=15),
    "published": Protocol(200, 32, published_rate, copies=20, fresh=False, residual=False, patience=15),
}


@dataclass(frozen=True)
class Recipe:
    """What networks of a stack have in common: their architecture, how they are trained, and the seed of it all."""

    network: str
    protocol: Protocol
    seed: int


@dataclass
class Outcome:
    """A trained network: best-epoch weights, losses of every epoch, and the epoch it diverged at, if it did."""

    parameters: Parameters
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int
    diverged: int | None = None


Finished = Callable[[int, Outcome], None]
OnEpoch = Callable[[int, list[tuple[int, float]]], None]


@dataclass
class MemberHistory:
    """Losses and the best epoch of one living member, ``row`` of those that training began with.

    ``since`` counts the epochs since the validation loss last fell by MIN_FALL, to ``reference``.
    """

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
        self.since += 1
        if val < self.reference - MIN_FALL:
            self.reference, self.since = val, 0
        if not val < self.best_loss:
            return False
        self.best_loss, self.best_epoch = val, len(self.val_loss) - 1
        return True


class Stack:
    """Weights, optimiser and histories of the living members; the first axis of every tensor is the member.

    ``best`` are the weights of each member's best epoch so far, ``epoch`` counts those that are done.
    """

    def __init__(
        self, parameters: Parameters, best: Parameters, histories: list[MemberHistory], epoch: int = 0
    ) -> None:
        self.parameters = {k: v.requires_grad_() for k, v in parameters.items()}
        self.best, self.histories, self.epoch = best, histories, epoch
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), fused=True)

    @classmethod
    def begin(cls, initial: list[Parameters], options: TensorOptions) -> Stack:
        """Return the stack of networks with these initial weights."""
        parameters = {k: v.to(**options._asdict()) for k, v in architectures.stack(initial).items()}
        best = {k: v.clone() for k, v in parameters.items()}
        return cls(parameters, best, [MemberHistory(row) for row in range(len(initial))])

    def step(self, losses: Tensor, rate: float, clip: bool = False) -> None:
        """Take one step of Adam on every member, down its own of the ``losses`` (member,).

        One backward pass through their sum is enough: no weight of a member enters the loss of another, so that its
        gradient is that of its own loss alone, as are the moments of Adam, which are kept weight by weight. The norm
        that ``clip`` bounds is taken over the weights of one member, too.
        """
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
            [self.histories[r] for r in rows],
            self.epoch,
        )
        # The moments of Adam move with the weights they are for; its count of steps, a number, is that of all.
        for old, new in zip(self.parameters.values(), smaller.parameters.values(), strict=True):
            state = self.optimizer.state[old]
            smaller.optimizer.state[new] = {k: (v[rows] if v.ndim else v).clone() for k, v in state.items()}
        return smaller


class _Estimates:
    """offset + x @ weight + scale * network(x) for every member at once."""

    def __init__(self, data: list[TrainingSet], members: list[Member], head: bool, options: TensorOptions) -> None:
        sets = [data[member.data] for member in members]
        self.head = head
        self.weight = stacked(sets, "weight", options)
        self.offset = stacked(sets, "offset", options).unsqueeze(1)
        self.scale = stacked(sets, "scale", options).unsqueeze(1)

    def losses(self, p: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and absolute error (member, pair, E) of x (member, pair, t) against y (member, pair, E)."""
        linear = torch.baddbmm(self.offset, x, self.weight)
        output = architectures.forward(p, x)
        if not self.head:
            error = (y - linear - self.scale * output).abs()
            return error, error
        value, log_error = architectures.split(output)
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


@dataclass(frozen=True)
class Unfinished:
    """The file that holds a stack after each epoch until all of it is trained, for training to go on from.

    ``identity`` says what it is a stack of: a file with another one is not gone on from.
    """

    path: Path
    identity: str

    def save(self, stack: Stack) -> None:
        """Write all that training goes on from, in one step; a stack of which no member is left is not kept."""
        if not stack.histories:
            self.path.unlink(missing_ok=True)
            return
        state = {
            "identity": self.identity,
            "epoch": stack.epoch,
            "parameters": {k: v.detach() for k, v in stack.parameters.items()},
            "best": stack.best,
            "optimizer": stack.optimizer.state_dict(),
            "histories": [asdict(history) for history in stack.histories],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_sealed(self.path, buffer.getvalue())

    def load(self, device: torch.device) -> Stack | None:
        """Return the stack that was saved, or None where there is none of this identity, or a damaged one."""
        try:
            state = torch.load(io.BytesIO(read_sealed(self.path)), map_location=device, weights_only=True)
        except (FileNotFoundError, DamageError):
            return None
        if state["identity"] != self.identity:
            return None
        histories = [MemberHistory(**history) for history in state["histories"]]
        stack = Stack(state["parameters"], state["best"], histories, state["epoch"])
        stack.optimizer.load_state_dict(state["optimizer"])
        return stack


def train(
    recipe: Recipe,
    data: list[TrainingSet],
    members: list[Member],
    finished: Finished,
    *,
    on_epoch: OnEpoch = lambda _epochs, _losses: None,
    unfinished: Unfinished | None = None,
    options: TensorOptions = CPU,
) -> None:
    """Train the ``members`` of one stack, networks of one architecture, to the end.

    ``data`` are training sets of one size, cut into chunks alike, that ``Member.data`` points into; every random number
    is a function of the seed, the member's stream and the epoch. Losses are means over pairs and energies.
    ``finished(i, outcome)`` is called when member i stops; one whose loss is not finite leaves the stack with
    ``Outcome.diverged`` set to that epoch, and the others go on. ``on_epoch(epochs, [(i, validation loss)])`` is called
    after each epoch. Training goes on from what ``unfinished`` holds, to the same weights as without an interruption.

    >>> from sdpipe.learn.feeds import Chunk
    >>> x, y, one = torch.linspace(-1, 1, 64).reshape(16, 4), torch.zeros(16, 3), torch.ones(16)
    >>> read = {0: Chunk(x, one, y, x, y)}.get
    >>> data = TrainingSet(read, (16,), (16,), 0, 0.01 * torch.eye(4), torch.zeros(4, 3), torch.zeros(3), torch.ones(3))
    >>> outcomes, members = {}, [Member(0, ("example", replica)) for replica in range(2)]
    >>> train(Recipe("arcS", PROTOCOLS["default"], seed=1), [data], members, outcomes.__setitem__)
    >>> [len(outcomes[i].val_loss) for i in range(2)]
    [20, 20]
    """
    protocol = recipe.protocol
    stack = unfinished.load(options.device) if unfinished else None
    if stack is None:
        stack = _begin(recipe, data[0], members, options)
    feed = Feed(data, protocol.copies, protocol.fresh, recipe.seed, options)
    while stack.histories:
        rows = [history.row for history in stack.histories]
        living = [members[row] for row in rows]
        estimates = _Estimates(data, living, protocol.head, options)
        train_loss = _run_epoch(stack, estimates, feed, living, protocol)
        val_loss = _validate(estimates, stack.parameters, feed, [member.data for member in living])
        stack.epoch += 1
        stack = _end_epoch(stack, train_loss, val_loss, protocol, finished)
        on_epoch(stack.epoch, list(zip(rows, val_loss, strict=True)))
        if unfinished:
            unfinished.save(stack)


def _begin(recipe: Recipe, data: TrainingSet, members: list[Member], options: TensorOptions) -> Stack:
    inputs, outputs = data.weight.shape
    outputs = 2 * outputs if recipe.protocol.head else outputs
    seeds = [rng.torch_seed(recipe.seed, "weights", *member.stream) for member in members]
    return Stack.begin([architectures.initialise(recipe.network, inputs, outputs, seed) for seed in seeds], options)


def _run_epoch(
    stack: Stack, estimates: _Estimates, feed: Feed, living: list[Member], protocol: Protocol
) -> list[float]:
    """Show every living member each pair once, in steps; return the mean absolute error of each over these steps."""
    total = torch.zeros(len(living), **feed.options._asdict())
    steps = feed.steps(stack.epoch, protocol.batch)
    for i, (x, y) in enumerate(feed.batches(living, stack.epoch, protocol.batch)):
        losses, errors = (v.mean(dim=(1, 2)) for v in estimates.losses(stack.parameters, x, y))
        stack.step(losses, protocol.rate(stack.epoch + i / steps, protocol.epochs), clip=protocol.head)
        total += errors.detach() * (x.shape[1] / feed.pairs)  # the last batch may be smaller, and counts as less
    return total.tolist()


def _validate(estimates: _Estimates, p: Parameters, feed: Feed, sets: list[int]) -> list[float]:
    """Return the mean absolute error of each member on the validation samples of its set."""
    total = torch.zeros(len(sets), **feed.options._asdict())
    with torch.no_grad():
        for x, y, unit in feed.validation():
            for low in range(0, x.shape[1], VALIDATION_ROWS):
                part = slice(low, low + VALIDATION_ROWS)
                _, errors = estimates.losses(p, x[sets, part], y[sets, part])
                total += (errors * unit[sets, part]).mean(dim=(1, 2)) * (x[0, part].shape[0] / feed.validated)
    return total.tolist()


def _end_epoch(
    stack: Stack, train_loss: list[float], val_loss: list[float], protocol: Protocol, finished: Finished
) -> Stack:
    """Note the losses, keep the best weights, and let the members that stop leave the stack."""
    staying = []
    for i, history in enumerate(stack.histories):
        diverged = not (math.isfinite(train_loss[i]) and math.isfinite(val_loss[i]))
        if history.add(train_loss[i], val_loss[i]):
            for name, values in stack.parameters.items():
                stack.best[name][i] = values.detach()[i]
        if diverged or stack.epoch >= protocol.epochs or history.since >= protocol.patience:
            weights = {name: values[i].cpu().clone() for name, values in stack.best.items()}
            last = stack.epoch - 1 if diverged else None
            finished(history.row, Outcome(weights, history.train_loss, history.val_loss, history.best_epoch, last))
        else:
            staying.append(i)
    return stack if len(staying) == len(stack.histories) else stack.keep(staying)
