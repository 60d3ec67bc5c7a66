"""From training.zarr to what one stack is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdpipe.disk import store
from sdpipe.learn.feeds import Data, Streamed
from sdpipe.learn.linear import Inputs, InputTransform, LinearEstimator, Moments
from sdpipe.learn.training import Protocol
from sdpipe.physics import rng
from sdpipe.physics.noise import Noise
from sdpipe.physics.samples import is_validation


@dataclass(frozen=True, eq=False)
class Fitted:
    """Training data of one ensemble and sigma, with the closed-form parts fitted on its training samples."""

    data: Data | Streamed
    moments: Moments
    transform: InputTransform
    linear: LinearEstimator
    linear_loss: float
    mean_loss: float
    typical: float


class _Samples:
    """Clean correlators (n, t), targets (n, E) and stored copies (n, copy, t) of one Nb and sigma, in ranges.

    With ``stream`` the ranges are the chunks of the store, read when they are asked for; without, there is
    one range, all of it, read once.
    """

    def __init__(self, path: Path, Nb: int, Nrho: int, sigma_index: int, stream: bool) -> None:
        self.part = store.read(path).sel(Nb=Nb).isel(sample=slice(Nrho), sigma=sigma_index)
        sizes = self.part.correlator.variable.chunksizes["sample"] if stream else (Nrho,)
        ends = np.cumsum([0, *sizes]).tolist()
        self.ranges = [slice(*ends[i : i + 2]) for i in range(len(sizes))]
        self.validates = [is_validation(np.arange(r.start, r.stop)) for r in self.ranges]
        self.copies = self.part.sizes.get("copy", 0) if "noisy" in self.part else 0
        self._whole = None if stream else self._load(0)

    def _load(self, i: int) -> tuple[NDArray, NDArray, NDArray | None]:
        # Not through the worker's own Dask client: chunks are read from a thread that is none of its tasks.
        part = self.part.isel(sample=self.ranges[i]).compute(scheduler="synchronous")
        return part.correlator.values, part.smeared.values, part.noisy.values if self.copies else None

    def __getitem__(self, i: int) -> tuple[NDArray, NDArray, NDArray | None]:
        return self._whole or self._load(i)

    def training(self) -> Iterator[tuple[NDArray, NDArray]]:
        """Yield correlators and targets of the training samples, range by range."""
        for i, validates in enumerate(self.validates):
            correlator, target, _ = self[i]
            yield correlator[~validates], target[~validates]


def load(
    path: Path,
    Nb: int,
    Nrho: int,
    sigma_index: int,
    noise: Noise,
    inputs: Inputs,
    protocol: Protocol,
    seed: int,
    ensemble: str,
    stream: bool = False,
) -> Fitted:
    """Read the first ``Nrho`` samples at ``Nb`` and prepare them for :func:`sdpipe.learn.training.train`.

    Input transform and linear estimator see training samples only. Validation noise is one fixed draw a
    sample, the same for every replica and sigma of the ensemble, and the linear loss is taken on it, as is
    ``mean_loss``, that of predicting the mean of the training targets. With
    ``stream`` the samples stay on disk, to be read chunk by chunk: the same transforms and validation data.
    """
    samples = _Samples(path, Nb, Nrho, sigma_index, stream)
    moments = Moments.over(samples.training, noise)
    transform = InputTransform.fit(moments, inputs)
    linear = LinearEstimator.fit(moments, transform)
    white_to_inputs = noise.cholesky.T @ transform.matrix
    outputs = moments.target_mean.size
    weight = linear.weight if protocol.residual else np.zeros_like(linear.weight)
    offset = linear.offset if protocol.residual else np.zeros(outputs)
    scale = linear.residual if protocol.residual else np.ones(outputs)
    validation_noise = _ValidationNoise(seed, ensemble, [int(v.sum()) for v in samples.validates], len(noise.times))

    def read(i: int) -> Data:
        (correlator, target, noisy), val = samples[i], samples.validates[i]
        x, scales = transform(correlator), noise.scale(correlator.astype(float))
        return Data(
            x=x[~val].astype(np.float32),
            s=scales[~val].astype(np.float32),
            y=target[~val],
            noise=white_to_inputs,
            x_val=(x[val] + scales[val, None] * (validation_noise[i] @ white_to_inputs)).astype(np.float32),
            y_val=target[val],
            weight=weight,
            offset=offset,
            scale=scale,
            stored=transform(noisy[~val]).astype(np.float32) if noisy is not None else None,
        )

    reference = np.concatenate([np.abs(correlator[:, noise.reference]) for correlator, _ in samples.training()])
    rows, held_out = (tuple(int(np.sum(v == k)) for v in samples.validates) for k in (False, True))
    chunks = Streamed(read, rows, held_out, samples.copies, white_to_inputs, weight, offset, scale)
    data = chunks if stream else read(0)
    parts = (read(i) for i in range(len(rows))) if stream else (data,)
    both = [(np.abs(linear(p.x_val) - p.y_val).sum(), np.abs(moments.target_mean - p.y_val).sum()) for p in parts]
    linear_loss, mean_loss = (float(total / (sum(held_out) * outputs)) for total in np.sum(both, axis=0))
    return Fitted(data, moments, transform, linear, linear_loss, mean_loss, float(np.median(reference)))


class _ValidationNoise:
    """White noise (m, t) for the validation samples of each chunk: one stream, however it is cut."""

    def __init__(self, seed: int, ensemble: str, counts: list[int], times: int) -> None:
        self.key, self.counts, self.times = (seed, "validation noise", ensemble), counts, times
        generator, self.states = rng.generator(*self.key), []
        for count in counts:
            self.states.append(generator.bit_generator.state)
            if len(counts) > 1:
                generator.standard_normal((count, times))

    def __getitem__(self, i: int) -> NDArray:
        generator = rng.generator(*self.key)
        generator.bit_generator.state = self.states[i]
        return generator.standard_normal((self.counts[i], self.times))
