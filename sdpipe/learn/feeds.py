"""What a stack is fed: shuffled, noisy inputs of every member, from memory or chunk by chunk from disk.

PyTorch and NumPy only. Data order and noise of a member are functions of (seed, member, epoch), never of
who else is in the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from sdpipe.physics import rng

VALIDATION_ROWS = 4096
"""Validation samples in one forward pass."""

BUFFER_CHUNKS = 4
"""Chunks that are shuffled together."""


class TensorOptions(NamedTuple):
    """On which device tensors lie, and of which type they are; PyTorch calls that so in C++."""

    device: torch.device
    dtype: torch.dtype = torch.float32


T = TypeVar("T")
Read = TypeVar("Read")


@dataclass(frozen=True)
class Chunk:
    """Samples that are read together, in float64 or float32.

    x (n, t) clean transformed inputs; s (n,) noise scales; y (n, E) targets; x_val (m, t) noisy inputs and y_val (m, E)
    to validate on; ``stored`` (n, copies, t) noisy inputs that replace the drawn ones, where there are any; ``floor``
    (n, t) the least error of each clean C, where the noise has one; ``unit`` (m, E) the units of y_val, where they are
    not those of rho.
    """

    x: NDArray
    s: NDArray
    y: NDArray
    x_val: NDArray
    y_val: NDArray
    stored: NDArray | None = None
    floor: NDArray | None = None
    unit: NDArray | None = None


@dataclass(frozen=True)
class TrainingSet:
    """What the networks of one ensemble and one sigma are trained on.

    ``read(i)`` returns chunk i, in another thread where there are several; one that is all there is stays in memory.
    ``rows`` and ``held_out`` (chunk,) count its training and validation samples, ``copies`` the stored noisy copies of
    a sample. noise and matrix (t, t) take white noise to transformed inputs, x + s z @ noise + (floor z') @ matrix, the
    last term only with a ``matrix``. Estimates are offset + x @ weight + scale * network(x), with weight (t, E), offset
    (E,), scale (E,).
    """

    read: Callable[[int], Chunk]
    rows: tuple[int, ...]
    held_out: tuple[int, ...]
    copies: int
    noise: NDArray
    weight: NDArray
    offset: NDArray
    scale: NDArray
    matrix: NDArray | None = None


@dataclass(frozen=True)
class Member:
    """One network of a stack: which training set is its own, and its own random stream."""

    data: int
    stream: tuple[int | str, ...]


def stacked(data: list[TrainingSet] | list[Chunk], name: str, options: TensorOptions) -> Tensor:
    """Return one array of several sets, along a new first axis, on the device.

    >>> ones = Chunk(*[torch.ones(2)] * 5)
    >>> stacked([ones, ones, ones], "s", TensorOptions(torch.device("cpu"))).shape
    torch.Size([3, 2])
    """
    arrays = [torch.as_tensor(getattr(one, name), dtype=options.dtype) for one in data]
    return torch.stack(arrays).to(options.device)


@dataclass(frozen=True)
class _Buffer:
    """Samples on the device that are shuffled together: x (data, n, t), s (data, n), y (data n, E), stored, floor.

    ``parts`` are its chunks, each with the key of its noise; ``key`` is that of its order.
    """

    x: Tensor
    s: Tensor
    y: Tensor
    stored: Tensor | None
    floor: Tensor | None
    parts: list[tuple[tuple[int, ...], slice]]
    key: tuple[int, ...]


class Feed:
    """Batches of every member's own epoch, and the samples to validate on.

    A set of one chunk is kept on the device and shuffled as a whole. Of several, the next few are read while the last
    few are trained on. Their order is a function of (seed, epoch) and the same for all members, so that they share
    what is read; pairs are shuffled among BUFFER_CHUNKS chunks, by each member in its own way.
    ``pairs`` (sample, noise copy) are in an epoch, ``validated`` samples in the validation set.
    """

    def __init__(self, data: list[TrainingSet], copies: int, fresh: bool, seed: int, options: TensorOptions) -> None:
        self.data, self.rows = data, data[0].rows
        self.copies, self.fresh = data[0].copies or copies, fresh
        self.seed, self.options = seed, options
        self.noise = stacked(data, "noise", options)
        self.matrix = None if data[0].matrix is None else stacked(data, "matrix", options)
        self.pairs, self.validated = sum(self.rows) * self.copies, sum(data[0].held_out)
        self._whole: _Buffer | None = None
        self._validation: tuple[Tensor, Tensor, Tensor] | None = None
        if len(self.rows) == 1:
            chunks = self._read([0])
            self._whole = self._buffer(chunks, [0], ())
            self._validation = self._to_validate(chunks)

    def batches(self, members: list[Member], epoch: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs (member, pair, t) and targets (member, pair, E), every pair once, in each member's own order."""
        for buffer in self._buffers(epoch):
            _, n, t = buffer.x.shape
            inputs = torch.empty(len(members), n * self.copies, t, **self.options._asdict())
            rows = torch.empty(len(members), n * self.copies, device=self.options.device, dtype=torch.int64)
            for i, member in enumerate(members):
                # Order and noise have streams of their own, keyed by what the member is and not by its place in the
                # stack: a member that leaves, or a stack that is resumed, changes no random number of the others.
                generator = self._generator("order", *member.stream, epoch, *buffer.key)
                order = torch.randperm(n * self.copies, generator=generator, device=self.options.device)
                torch.index_select(self._noisy(buffer, member, epoch), 0, order, out=inputs[i])
                # Pair k is copy k % copies of sample k // copies; targets of all sets lie one after another in y.
                torch.add(order // self.copies, member.data * n, out=rows[i])
            for low in range(0, n * self.copies, batch):
                part = slice(low, low + batch)
                yield inputs[:, part], buffer.y[rows[:, part]]

    def validation(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield noisy inputs (data, m, t), targets and their units (data, m, E) to validate on, every sample once."""
        if self._validation:
            yield self._validation
            return
        for chunks in ahead(self._read, [[i] for i in range(len(self.rows))]):
            yield self._to_validate(chunks)

    def steps(self, epoch: int, batch: int) -> int:
        """Return the number of batches in an epoch."""
        return sum(-(-sum(self.rows[i] for i in group) * self.copies // batch) for group in self._groups(epoch))

    def _groups(self, epoch: int) -> list[list[int]]:
        """Return the chunks of each buffer of an epoch.

        Two levels of shuffling, chunks among buffers here and pairs within a buffer in :meth:`batches`, take the memory
        of one buffer, and every chunk is read once an epoch for all members.
        """
        order = rng.generator(self.seed, "chunk order", epoch).permutation(len(self.rows)).tolist()
        return [order[low : low + BUFFER_CHUNKS] for low in range(0, len(order), BUFFER_CHUNKS)]

    def _buffers(self, epoch: int) -> Iterator[_Buffer]:
        if self._whole:
            yield self._whole
            return
        groups = self._groups(epoch)
        for g, chunks in enumerate(ahead(self._read, groups)):
            yield self._buffer(chunks, groups[g], (g,))

    def _read(self, group: list[int]) -> list[list[Chunk]]:
        return [[d.read(i) for d in self.data] for i in group]

    def _buffer(self, chunks: list[list[Chunk]], group: list[int], key: tuple[int, ...]) -> _Buffer:
        ends = [0, *accumulate(self.rows[i] for i in group)]
        # Noise is keyed by the chunk it is for, so that fixed copies of a sample are the same in every epoch, whatever
        # chunks it is shuffled with.
        parts = [((i,) if key else (), slice(low, high)) for i, (low, high) in zip(group, pairwise(ends), strict=True)]
        stored = self._joined(chunks, "stored").flatten(1, 2) if self.data[0].copies else None
        floor = None if self.matrix is None else self._joined(chunks, "floor")
        x, s, y = (self._joined(chunks, name) for name in ("x", "s", "y"))
        return _Buffer(x, s, y.flatten(0, 1), stored, floor, parts, key)

    def _to_validate(self, chunks: list[list[Chunk]]) -> tuple[Tensor, Tensor, Tensor]:
        y = self._joined(chunks, "y_val")
        unit = torch.ones_like(y) if chunks[0][0].unit is None else self._joined(chunks, "unit")
        return self._joined(chunks, "x_val"), y, unit

    def _joined(self, chunks: list[list[Chunk]], name: str) -> Tensor:
        return torch.cat([stacked(chunk, name, self.options) for chunk in chunks], dim=1)

    def _generator(self, purpose: str, *key: int | str) -> torch.Generator:
        return torch.Generator(self.options.device).manual_seed(rng.torch_seed(self.seed, purpose, *key))

    def _noisy(self, buffer: _Buffer, member: Member, epoch: int) -> Tensor:
        """Return the noisy inputs (pair, t) of one member, copies of a sample side by side."""
        d = member.data
        if buffer.stored is not None:
            return buffer.stored[d]
        stream = (*member.stream, epoch) if self.fresh else member.stream
        noisy = []
        for key, rows in buffer.parts:
            x, s = buffer.x[d, rows, None], buffer.s[d, rows, None, None]
            generator = self._generator("noise", *stream, *key)
            shape = (x.shape[0], self.copies, x.shape[2])
            z = torch.randn(shape, generator=generator, **self.options._asdict())
            copies = x + s * (z @ self.noise[d])
            if buffer.floor is not None:
                z = torch.randn(shape, generator=generator, **self.options._asdict())
                copies = copies + (buffer.floor[d, rows, None] * z) @ self.matrix[d]
            noisy.append(copies.flatten(0, 1))
        return torch.cat(noisy)


def ahead(read: Callable[[T], Read], items: list[T]) -> Iterator[Read]:
    """Yield read(item) for every item, the next one read in a thread while the last one is used.

    >>> list(ahead(str, [1, 2, 3]))
    ['1', '2', '3']
    """
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(read, items[0])
        for item in items[1:]:
            result = following.result()
            following = pool.submit(read, item)
            yield result
        yield following.result()
