"""Random numbers as a function of (seed, stage, key): the same on any worker, in any order."""

from __future__ import annotations

import zlib

import numpy as np


def seed_sequence(seed: int, stage: str, *key: int | str) -> np.random.SeedSequence:
    """Return the seed sequence of one named stream.

    Words in ``stage`` and ``key`` enter through their CRC-32, so that a stream depends on what it
    is for and never on the order in which work is done.
    """
    spawn_key = tuple(zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in (stage, *key))
    return np.random.SeedSequence(seed, spawn_key=spawn_key)


def generator(seed: int, stage: str, *key: int | str) -> np.random.Generator:
    """Return a PCG64DXSM generator for the stream (seed, stage, key).

    >>> a = generator(1, "generate", 128, 7).random()
    >>> b = generator(1, "generate", 128, 7).random()
    >>> a == b
    True
    """
    return np.random.Generator(np.random.PCG64DXSM(seed_sequence(seed, stage, *key)))


def torch_seed(seed: int, stage: str, *key: int | str) -> int:
    """Return a 63-bit seed for a ``torch.Generator`` of the stream (seed, stage, key)."""
    return int(seed_sequence(seed, stage, *key).generate_state(1, np.uint64)[0] >> 1)
