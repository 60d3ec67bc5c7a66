"""What a training takes in memory, rounded up, and how it is cut to fit. PyTorch only."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch

from sdpipe.learn.feeds import BUFFER_CHUNKS, VALIDATION_ROWS

MEMORY_SHARE = 0.6
"""Part of the memory of a worker or a device that a training may plan with; the rest is for libraries and waste."""


class Need(NamedTuple):
    """Bytes of a training set, and of each network that is trained on it."""

    data: int
    member: int


def need(samples: int, inputs: int, outputs: int, copies: int, batch: int) -> Need:
    """Return what a set of ``samples`` takes that is trained on in ``copies`` noisy copies, ``batch`` pairs per step.

    In numbers of 4 bytes: the set is there five times, as read, as trained on, and in double precision in between; a
    network has its own epoch of inputs, and keeps up to 256 numbers of each pair in a step for every time (arcL).

    >>> need(400_000, 16, 47, 1, 256)
    Need(data=632000000, member=118308864)
    """
    data = 5 * samples * (inputs * (1 + copies) + outputs)
    member = inputs * (2 * samples * copies + 256 * max(3 * batch, VALIDATION_ROWS))
    return Need(4 * data, 4 * member)


def streamed(samples: int, chunk: int) -> int:
    """Return how many samples of a set are in memory at once where it is streamed: those trained on and those read."""
    return min(2 * BUFFER_CHUNKS * chunk, samples)


def available(device: torch.device, worker: int, sharers: int) -> int:
    """Return the bytes that a stack may take, where ``sharers`` workers of ``worker`` bytes each use a GPU, if any.

    >>> available(torch.device("cpu"), 10_000_000_000, 2)
    6000000000
    """
    if device.type != "cuda":
        return int(MEMORY_SHARE * worker)
    free, total = torch.cuda.mem_get_info(device)
    return int(MEMORY_SHARE * min(worker, free, total / sharers))


def cut(sets: Sequence[Hashable], need: Need, room: int) -> list[slice]:
    """Return the parts of a stack that are trained one after another, so that each fits ``room`` bytes.

    ``sets`` says for each member which training set it uses. One network at a time is the least there is.

    >>> cut(["a", "a", "b"], Need(data=100, member=10), 230), cut(["a", "a", "b"], Need(data=100, member=10), 229)
    ([slice(0, 3, None)], [slice(0, 2, None), slice(2, 3, None)])
    """
    parts: list[slice] = []
    low = 0
    for high in range(2, len(sets) + 1):
        if len(set(sets[low:high])) * need.data + (high - low) * need.member > room:
            parts.append(slice(low, high - 1))
            low = high - 1
    return [*parts, slice(low, len(sets))]
