"""What a training takes in memory, and how it is cut to fit: estimates, rounded up. PyTorch and NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sdpipe.learn import networks
from sdpipe.learn.feeds import BUFFER_CHUNKS, VALIDATION_ROWS

SHARE = 0.6
"""Part of the memory of a worker or a device that a training may plan with; the rest is for libraries and waste."""

LIBRARIES = 350_000_000
"""Bytes that a worker takes before it has any data."""

SINGLE = 4


@dataclass(frozen=True)
class Need:
    """Bytes of one stack: data that its members share, and what each of them adds.

    Parameters
    ----------
    network, inputs, outputs
        Architecture, number of times and of energies.
    samples, chunk
        Samples of the set, and of one chunk of the store.
    copies, batch
        Noise copies of a sample in an epoch, and pairs in a step.
    kept
        Whether copies are kept from epoch to epoch.
    stored
        Whether copies are read from the store.
    """

    network: str
    inputs: int
    outputs: int
    samples: int
    chunk: int
    copies: int
    batch: int
    kept: bool
    stored: bool

    def data(self, stream: bool) -> int:
        """Return the bytes of the samples, while they are prepared, and of one member's noise while it is drawn."""
        copies = self.copies if self.stored else 0
        # Single precision as read and as trained on, and double precision in between.
        sample = SINGLE * (6 * self.inputs + 3 * self.outputs + 4 * copies * self.inputs)
        held = min(2 * BUFFER_CHUNKS * self.chunk, self.samples) if stream else self.samples
        return held * sample + 3 * self._pairs(stream) * self.inputs * SINGLE

    def member(self, stream: bool) -> int:
        """Return the bytes of one member: its epoch in its own order, weights with optimiser, activations."""
        weights = 6 * networks.parameter_count(self.network, self.inputs, self.outputs)
        kept = 1 if self.kept and not self.stored and not stream else 0
        epoch = self._pairs(stream) * ((1 + kept) * self.inputs + 4)
        rows = max(3 * self.batch, VALIDATION_ROWS)
        return SINGLE * (weights + epoch + rows * networks.activations(self.network, self.inputs, self.outputs))

    def _pairs(self, stream: bool) -> int:
        return (min(BUFFER_CHUNKS * self.chunk, self.samples) if stream else self.samples) * self.copies


def available(device: torch.device, worker: int, sharers: int) -> int:
    """Return the bytes a stack may take on a device, where ``sharers`` workers of ``worker`` bytes each use a GPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(SHARE * min(free, total / sharers))
    return int(SHARE * max(worker - LIBRARIES, 0))


def cut(need: Need, sets: list[int], host: int, device: int) -> tuple[bool, list[slice]]:
    """Return whether to stream the data from disk, and the parts of a stack, trained one after another.

    ``sets`` says for each member which training set it uses. Sets must fit the ``host`` that reads them, and with
    the members of a part the ``device`` (bytes); a stack of one whose data are streamed is the least there is.

    >>> need = Need("arcS", 16, 47, 400_000, 40_000, 1, 256, False, False)
    >>> cut(need, [0, 0, 1], 10**10, 10**10), cut(need, [0, 0, 1], 8 * 10**8, 10**10)
    ((False, [slice(0, 3, None)]), (False, [slice(0, 2, None), slice(2, 3, None)]))
    >>> cut(need, [0] * 5, 10**9, 450_000_000), cut(need, [0] * 5, 10**8, 10**10)
    ((True, [slice(0, 3, None), slice(3, 5, None)]), (True, [slice(0, 5, None)]))
    """
    stream = need.data(False) > host or need.data(False) + need.member(False) > device
    parts, low = [], 0
    for high in range(1, len(sets) + 1):
        members, different = high - low, len(set(sets[low:high]))
        data = different * need.data(stream)
        too_much_to_read = different > 1 and data > host
        if too_much_to_read or (members > 1 and data + members * need.member(stream) > device):
            parts.append(slice(low, high - 1))
            low = high - 1
    return stream, [*parts, slice(low, len(sets))]
