"""What a stack is fed: shuffled, noisy inputs of every member, from memory or chunk by chunk from a reader.

PyTorch and NumPy only. Data order and noise of a member are functions of (seed, member, epoch), never of
who else is in the stack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from sdpipe.physics import rng

VALIDATION_ROWS = 4096
"""Validation samples in one forward pass."""

BUFFER_CHUNKS = 4
"""Chunks that are shuffled together when training data are streamed."""

T = TypeVar("T")
Read = TypeVar("Read")


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
class Streamed:
    """The same, too large for memory: ``read(i)`` returns chunk i as a ``Data`` of its own.

    ``rows`` (chunk,) and ``validation`` (chunk,) are its numbers of training and validation samples; ``copies``
    is the number of stored noisy copies, zero where there are none. ``read`` is called from another thread.
    """

    read: Callable[[int], Data]
    rows: tuple[int, ...]
    validation: tuple[int, ...]
    copies: int
    noise: NDArray
    weight: NDArray
    offset: NDArray
    scale: NDArray


@dataclass(frozen=True)
class Member:
    """One network of a stack: which entry of the data it is trained on, and its own random stream."""

    data: int
    stream: tuple[int | str, ...]


def stacked(data: list[Data] | list[Streamed], name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Stack one array of several data sets on the device."""
    return torch.stack([torch.as_tensor(getattr(d, name), dtype=dtype) for d in data]).to(device)


@dataclass(frozen=True)
class _Buffer:
    """Samples on the device that are shuffled together: x (data, n, t), s (data, n), y (data n, E), stored.

    ``parts`` are its chunks, each with the key of its noise; ``key`` is that of its order.
    """

    x: Tensor
    s: Tensor
    y: Tensor
    stored: Tensor | None
    parts: list[tuple[tuple[int, ...], slice]]
    key: tuple[int, ...]


class Feed(ABC):
    """Batches of every member's own epoch, and the samples to validate on.

    ``pairs`` (sample, noise copy) are in an epoch, ``validated`` samples in the validation set.
    """

    pairs: int
    validated: int

    def __init__(
        self,
        data: list[Data] | list[Streamed],
        copies: int,
        fresh: bool,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype, self.seed, self.copies, self.fresh = device, dtype, seed, copies, fresh
        self.noise = stacked(data, "noise", device, dtype)

    @abstractmethod
    def buffers(self, epoch: int) -> Iterator[_Buffer]:
        """Yield everything there is to train on, once."""

    @abstractmethod
    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield noisy inputs (data, m, t) and targets (data, m, E) to validate on, once."""

    @abstractmethod
    def steps(self, epoch: int, batch: int) -> int:
        """Return the number of batches in an epoch."""

    def batches(self, members: list[Member], epoch: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs (member, pair, t) and targets (member, pair, E), every pair once, in each member's own order."""
        for buffer in self.buffers(epoch):
            n, t = buffer.x.shape[1:]
            inputs = torch.empty(len(members), n * self.copies, t, device=self.device, dtype=self.dtype)
            rows = torch.empty(len(members), n * self.copies, device=self.device, dtype=torch.int64)
            for i, m in enumerate(members):
                generator = self._generator("order", *m.stream, epoch, *buffer.key)
                order = torch.randperm(n * self.copies, generator=generator, device=self.device)
                torch.index_select(self._noisy(buffer, m, epoch), 0, order, out=inputs[i])
                torch.add(order // self.copies, m.data * n, out=rows[i])
            for low in range(0, n * self.copies, batch):
                part = slice(low, low + batch)
                yield inputs[:, part], buffer.y[rows[:, part]]

    def _generator(self, purpose: str, *key: int | str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(rng.torch_seed(self.seed, purpose, *key))

    def _noisy(self, buffer: _Buffer, member: Member, epoch: int) -> Tensor:
        """Return the noisy inputs (pair, t) of one member, copies of a sample side by side."""
        if buffer.stored is not None:
            return buffer.stored[member.data]
        d, stream = member.data, (*member.stream, epoch) if self.fresh else member.stream
        drawn = []
        for key, rows in buffer.parts:
            x, s = buffer.x[d, rows, None], buffer.s[d, rows, None, None]
            generator = self._generator("noise", *stream, *key)
            shape = (x.shape[0], self.copies, x.shape[2])
            z = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
            drawn.append((x + s * (z @ self.noise[d])).flatten(0, 1))
        return drawn[0] if len(drawn) == 1 else torch.cat(drawn)


class InMemory(Feed):
    """Everything on the device, shuffled as a whole."""

    def __init__(
        self, data: list[Data], copies: int, fresh: bool, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        held = data[0].stored
        super().__init__(data, copies if held is None else held.shape[1], fresh, seed, device, dtype)
        x, s, y, x_val, y_val = (stacked(data, name, device, dtype) for name in ("x", "s", "y", "x_val", "y_val"))
        stored = None if held is None else stacked(data, "stored", device, dtype).flatten(1, 2)
        self.whole = _Buffer(x, s, y.flatten(0, 1), stored, [((), slice(None))], ())
        self.to_validate = x_val, y_val
        self.pairs, self.validated = x.shape[1] * self.copies, x_val.shape[1]
        self._fixed: dict[Member, Tensor] = {}

    def buffers(self, _epoch: int) -> Iterator[_Buffer]:
        yield self.whole

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.to_validate

    def steps(self, _epoch: int, batch: int) -> int:
        return -(-self.pairs // batch)

    def _noisy(self, buffer: _Buffer, member: Member, epoch: int) -> Tensor:
        """Draw the copies of a protocol that does not change them once only."""
        if self.fresh or buffer.stored is not None:
            return super()._noisy(buffer, member, epoch)
        if member not in self._fixed:
            self._fixed[member] = super()._noisy(buffer, member, epoch)
        return self._fixed[member]


class FromChunks(Feed):
    """Chunks in an order that is new in every epoch, the next few read while the last few are trained on.

    The order of chunks is a function of (seed, epoch) and the same for all members, so that they share what
    is read; pairs are shuffled among BUFFER_CHUNKS chunks, by each member in its own way.
    """

    def __init__(
        self, data: list[Streamed], copies: int, fresh: bool, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(data, data[0].copies or copies, fresh, seed, device, dtype)
        self.data, self.rows = data, data[0].rows
        self.pairs, self.validated = sum(self.rows) * self.copies, sum(data[0].validation)

    def _groups(self, epoch: int) -> list[list[int]]:
        order = rng.generator(self.seed, "chunk order", epoch).permutation(len(self.rows)).tolist()
        return [order[low : low + BUFFER_CHUNKS] for low in range(0, len(order), BUFFER_CHUNKS)]

    def _tensor(self, chunks: list[list[Data]], name: str) -> Tensor:
        return torch.cat([stacked(chunk, name, self.device, self.dtype) for chunk in chunks], dim=1)

    def _read(self, group: list[int]) -> list[list[Data]]:
        return [[d.read(i) for d in self.data] for i in group]

    def buffers(self, epoch: int) -> Iterator[_Buffer]:
        groups = self._groups(epoch)
        for g, chunks in enumerate(ahead(self._read, groups)):
            ends = torch.tensor([0, *(self.rows[i] for i in groups[g])]).cumsum(0).tolist()
            parts = [((i,), slice(*ends[k : k + 2])) for k, i in enumerate(groups[g])]
            stored = self._tensor(chunks, "stored").flatten(1, 2) if self.data[0].copies else None
            x, s, y = (self._tensor(chunks, name) for name in ("x", "s", "y"))
            yield _Buffer(x, s, y.flatten(0, 1), stored, parts, (g,))

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chunks in ahead(self._read, [[i] for i in range(len(self.rows))]):
            yield self._tensor(chunks, "x_val"), self._tensor(chunks, "y_val")

    def steps(self, epoch: int, batch: int) -> int:
        return sum(-(-sum(self.rows[i] for i in group) * self.copies // batch) for group in self._groups(epoch))


def ahead(read: Callable[[T], Read], items: list[T]) -> Iterator[Read]:
    """Yield read(item) for every item, the next one read in a thread while the last one is used.

    >>> list(ahead(str, [1, 2, 3]))
    ['1', '2', '3']
    """
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(read, items[0])
        for item in items[1:]:
            result, following = following.result(), pool.submit(read, item)
            yield result
        yield following.result()


def feed(
    data: list[Data] | list[Streamed], copies: int, fresh: bool, seed: int, device: torch.device, dtype: torch.dtype
) -> Feed:
    """Return the feed of a stack whose data are all in memory, or all streamed."""
    kind = FromChunks if isinstance(data[0], Streamed) else InMemory
    return kind(data, copies, fresh, seed, device, dtype)
