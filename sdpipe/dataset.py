"""From training.zarr to what one stack is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdpipe import rng, store
from sdpipe.noise import Noise
from sdpipe.samples import is_validation
from sdpipe.training import Data, Protocol
from sdpipe.transforms import Inputs, InputTransform, LinearEstimator, Moments


@dataclass(frozen=True, eq=False)
class Fitted:
    """Training data of one ensemble and sigma, with the closed-form parts fitted on its training samples."""

    data: Data
    transform: InputTransform
    linear: LinearEstimator
    linear_loss: float
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
) -> Fitted:
    """Read the first ``Nrho`` samples at ``Nb`` and prepare them for :func:`sdpipe.training.train`.

    Input transform and linear estimator see training samples only. Validation noise is one fixed draw a
    sample, the same for every replica and sigma of the ensemble, and the linear loss is taken on it.
    """
    part = store.read(path).sel(Nb=Nb).isel(sample=slice(Nrho), sigma=sigma_index)
    correlator, target = part.correlator.values, part.smeared.values
    validation = is_validation(np.arange(Nrho))
    moments = Moments.of(correlator[~validation], target[~validation], noise)
    transform = InputTransform.fit(moments, inputs)
    linear = LinearEstimator.fit(moments, transform)
    scales = noise.scale(correlator.astype(float))
    white_to_inputs = noise.cholesky.T @ transform.matrix
    z = rng.generator(seed, "validation noise", ensemble).standard_normal((int(validation.sum()), len(noise.times)))
    x = transform(correlator)
    x_val = x[validation] + scales[validation, None] * (z @ white_to_inputs)
    y_val = target[validation]
    stored = transform(part.noisy.values[~validation]).astype(np.float32) if "noisy" in part else None
    outputs = target.shape[1]
    data = Data(
        x=x[~validation].astype(np.float32),
        s=scales[~validation].astype(np.float32),
        y=target[~validation],
        noise=white_to_inputs,
        x_val=x_val.astype(np.float32),
        y_val=y_val,
        weight=linear.weight if protocol.residual else np.zeros_like(linear.weight),
        offset=linear.offset if protocol.residual else np.zeros(outputs),
        scale=linear.residual if protocol.residual else np.ones(outputs),
        stored=stored,
    )
    typical = float(np.median(np.abs(correlator[~validation, noise.reference])))
    return Fitted(data, transform, linear, float(np.abs(linear(x_val) - y_val).mean()), typical)
