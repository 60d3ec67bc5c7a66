"""Blocks of mock data: (prior, block, seed) -> arrays. Knows no Zarr."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdpipe.arrays import Array
from sdpipe.physics import rng
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.prior import Mixture
from sdpipe.physics.spectra import RNG_BLOCK, ChebyshevPrior

VALIDATION_EVERY = 5
"""One sample in five validates, four train: 80/20, by sample, the same at every Nrho."""


@dataclass(frozen=True)
class Samples:
    """Clean correlators C (sample, t), smeared densities (sample, sigma, E), thresholds E0 (sample,) in GeV.

    ``component`` (sample,) is the place of each sample's component among the shares of the mixture.
    """

    correlator: Array
    smeared: Array
    threshold: Array
    component: NDArray[np.uint8]


def generate(
    prior: ChebyshevPrior | Mixture,
    observables: Observables,
    seed: int,
    start: int,
    stop: int,
    stream: str = "generate",
) -> Samples:
    """Return samples start..stop-1 of ``stream``, a function of the arguments alone.

    A Chebyshev prior is the mixture of that component alone.
    """
    mixture = Mixture({"chebyshev": 1}, prior) if isinstance(prior, ChebyshevPrior) else prior
    which, number = assign(mixture, start, stop)
    integrals, thresholds, unit = (
        np.empty((stop - start, observables.count)),
        np.empty(stop - start),
        mixture.prior.unit,
    )
    inside = observables.in_units(unit)
    for k, component in enumerate(mixture.components):
        rows = np.flatnonzero(which == k)
        if rows.size:
            first, last = number[rows[0]], number[rows[-1]]
            integrals[rows], thresholds[rows] = component.integrals(inside, seed, stream, first, last + 1)
    correlator, smeared = observables.split(integrals)
    return Samples(unit**observables.kernel.power * correlator, smeared, unit * thresholds, which)


def assign(mixture: Mixture, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return for samples start..stop-1 the place of their component, and which sample of that component they are.

    Training and validation samples are dealt out each by themselves, so that both have the shares of the mixture.
    """
    sample = np.arange(start, stop)
    validation = is_validation(sample)
    validates = sample // VALIDATION_EVERY
    trains = sample - validates
    own, other = np.where(validation, (validates, trains), (trains, validates))
    before = mixture.counts(own)
    which = np.argmax(mixture.counts(own + 1) - before, axis=-1)
    number = np.take_along_axis(before + mixture.counts(other), which[:, None], axis=-1)[:, 0]
    return which.astype(np.uint8), number


def noisy_copies(correlator: Array, noise: Noise, copies: int, seed: int, Nb: int, start: int) -> Array:
    """Return stored noisy copies (sample, copy, t) of the clean samples that begin at index ``start``.

    ``start`` must be a multiple of RNG_BLOCK; copy k of sample i is a function of (seed, Nb, i, k) alone.
    """
    noisy = np.empty((len(correlator), copies, correlator.shape[1]), np.float32)
    for low in range(0, len(correlator), RNG_BLOCK):
        block = correlator[low : low + RNG_BLOCK]
        stream = rng.generator(seed, "noise copies", Nb, (start + low) // RNG_BLOCK)
        z = rng.normals(stream, (len(block), copies, noise.deviates))
        noisy[low : low + RNG_BLOCK] = noise.added(block, z)
    return noisy


def is_validation(samples: Array) -> NDArray[np.bool_]:
    """Return which sample indices validate: every fifth, so that the two parts are disjoint and nested."""
    return np.asarray(samples) % VALIDATION_EVERY == VALIDATION_EVERY - 1
