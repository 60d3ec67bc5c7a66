"""Blocks of mock data: (prior, block, seed) -> arrays. Knows no Zarr."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sdpipe.physics import rng
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.quadrature import ThresholdQuadrature
from sdpipe.physics.spectra import RNG_BLOCK, ChebyshevPrior

Array = NDArray[np.float64]

BATCH = 8 * RNG_BLOCK
"""Samples integrated at once: bounds the memory, and fixes the rounding whatever the block they are asked in."""

VALIDATION_EVERY = 5
"""One sample in five validates, four train: 80/20, by sample, the same at every Nrho."""


@dataclass(frozen=True)
class Samples:
    """Clean correlators C (sample, t), smeared densities (sample, sigma, E), thresholds E0 (sample,) in GeV."""

    correlator: Array
    smeared: Array
    threshold: Array


@lru_cache(maxsize=8)
def _quadrature(prior: ChebyshevPrior, observables: Observables) -> ThresholdQuadrature:
    return prior.quadrature(observables)


def generate(
    prior: ChebyshevPrior, observables: Observables, seed: int, start: int, stop: int, stream: str = "generate"
) -> Samples:
    """Return samples start..stop-1 of ``stream``, a function of the arguments alone."""
    quadrature = _quadrature(prior, observables)
    integrals, thresholds = np.empty((stop - start, observables.count)), np.empty(stop - start)
    for low in range(start // BATCH * BATCH, stop, BATCH):
        c, E0 = prior.draw(seed, stream, low, low + BATCH)
        wanted = slice(max(start - low, 0), min(stop - low, BATCH))
        rows = slice(low + wanted.start - start, low + wanted.stop - start)
        integrals[rows] = quadrature(c, E0)[wanted]
        thresholds[rows] = E0[wanted]
    return Samples(*observables.split(integrals), thresholds)


def noisy_copies(correlator: Array, noise: Noise, copies: int, seed: int, Nb: int, start: int) -> Array:
    """Return stored noisy copies (sample, copy, t) of the clean samples that begin at index ``start``.

    ``start`` must be a multiple of RNG_BLOCK; copy k of sample i is a function of (seed, Nb, i, k) alone.
    """
    noisy = np.empty((len(correlator), copies, correlator.shape[1]), np.float32)
    for low in range(0, len(correlator), RNG_BLOCK):
        block = correlator[low : low + RNG_BLOCK]
        stream = rng.generator(seed, "noise copies", Nb, (start + low) // RNG_BLOCK)
        z = rng.normals(stream, (len(block), copies, block.shape[1]))
        noisy[low : low + RNG_BLOCK] = noise.added(block, z)
    return noisy


def is_validation(samples: Array) -> NDArray[np.bool_]:
    """Return which sample indices validate: every fifth, so that the two parts are disjoint and nested."""
    return np.asarray(samples) % VALIDATION_EVERY == VALIDATION_EVERY - 1
