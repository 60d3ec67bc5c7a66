"""From ``training.zarr`` to what one stack is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdpipe.disk import store
from sdpipe.learn.feeds import Chunk, TrainingSet
from sdpipe.learn.linear import Inputs, InputTransform, LinearEstimator, Moments
from sdpipe.learn.training import Protocol
from sdpipe.physics import rng
from sdpipe.physics.noise import Noise
from sdpipe.physics.samples import is_validation


@dataclass(frozen=True, eq=False)
class Fitted:
    """A training set of one ensemble and sigma, with the closed-form parts fitted on its training samples.

    The losses are mean absolute errors on the validation samples: of the linear estimator, and of predicting the mean
    of the training targets. ``typical`` is the median of |C(t_ref)| over the training samples.
    """

    data: TrainingSet
    moments: Moments
    transform: InputTransform
    linear: LinearEstimator
    linear_loss: float
    mean_loss: float
    typical: float


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

    Input transform and linear estimator see training samples only. Validation noise is one fixed draw for each sample,
    the same for every replica and sigma of the ensemble. With ``stream`` the samples stay on disk, to be read chunk by
    chunk: the same transforms and validation data.
    """
    stored = store.read(path).sel(Nb=Nb).isel(sample=slice(Nrho), sigma=sigma_index)
    sizes = stored.correlator.variable.chunksizes["sample"] if stream else (Nrho,)
    ranges = [slice(low, high) for low, high in pairwise(np.cumsum([0, *sizes]).tolist())]
    validates = [is_validation(np.arange(r.start, r.stop)) for r in ranges]
    rows, held_out = (tuple(int(np.sum(v == k)) for v in validates) for k in (False, True))
    copies = stored.sizes.get("copy", 0) if "noisy" in stored else 0

    def from_store(i: int) -> tuple[NDArray, NDArray, NDArray | None]:
        # Not through the worker's own Dask client: chunks are read from a thread that is none of its tasks.
        part = stored.isel(sample=ranges[i]).compute(scheduler="synchronous")
        return part.correlator.values, part.smeared.values, part.noisy.values if copies else None

    samples = cache(from_store) if len(ranges) == 1 else from_store

    def to_train_on() -> Iterator[tuple[NDArray, NDArray]]:
        for i, val in enumerate(validates):
            correlator, target, _ = samples(i)
            yield correlator[~val], target[~val]

    moments = Moments.of(to_train_on, noise)
    transform = InputTransform.fit(moments, inputs)
    linear = LinearEstimator.fit(moments, transform)
    reference = np.concatenate([np.abs(correlator[:, noise.reference]) for correlator, _ in to_train_on()])
    white_to_inputs = noise.cholesky.T @ transform.matrix
    white = rng.generator(seed, "validation noise", ensemble).standard_normal((sum(held_out), len(noise.times)))
    white_of = np.split(white, np.cumsum(held_out)[:-1])

    def read(i: int) -> Chunk:
        (correlator, target, noisy), val = samples(i), validates[i]
        x, scales = transform(correlator), noise.scale(correlator.astype(float))
        return Chunk(
            x=x[~val].astype(np.float32),
            s=scales[~val].astype(np.float32),
            y=target[~val],
            x_val=(x[val] + scales[val, None] * (white_of[i] @ white_to_inputs)).astype(np.float32),
            y_val=target[val],
            stored=transform(noisy[~val]).astype(np.float32) if noisy is not None else None,
        )

    held = [read(0)] if len(ranges) == 1 else []
    outputs = moments.target_mean.size
    data = TrainingSet(
        read=held.__getitem__ if held else read,
        rows=rows,
        held_out=held_out,
        copies=copies,
        noise=white_to_inputs,
        weight=linear.weight if protocol.residual else np.zeros_like(linear.weight),
        offset=linear.offset if protocol.residual else np.zeros(outputs),
        scale=linear.residual if protocol.residual else np.ones(outputs),
    )
    parts = (data.read(i) for i in range(len(ranges)))
    both = [(np.abs(linear(p.x_val) - p.y_val).sum(), np.abs(moments.target_mean - p.y_val).sum()) for p in parts]
    linear_loss, mean_loss = (float(total / (sum(held_out) * outputs)) for total in np.sum(both, axis=0))
    return Fitted(data, moments, transform, linear, linear_loss, mean_loss, float(np.median(reference)))
