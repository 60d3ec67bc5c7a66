"""From ``training.zarr`` to what one stack is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.disk import store
from sdpipe.learn.feeds import Chunk, TrainingSet
from sdpipe.learn.moments import Inputs, InputTransform, LinearEstimator, Moments
from sdpipe.learn.training import Protocol
from sdpipe.physics import rng
from sdpipe.physics.noise import Noise
from sdpipe.physics.samples import is_validation

LARGEST_PULL = 30.0
"""Networks are not trained towards a truth that is farther from the posterior mean, in its standard deviations."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A training set of one ensemble and sigma, with the closed-form parts fitted on its training samples.

    ``transform`` is that of the networks' inputs. The losses are mean absolute errors on the validation samples: of the
    linear estimator, of the posterior mean, NaN where there is none, and of predicting the mean of the training
    targets. With inputs ``posterior`` the targets of ``data`` are in units of the posterior's standard deviation.
    ``typical`` is the median of |C(t_ref)| over the training samples.
    """

    data: TrainingSet
    moments: Moments
    transform: InputTransform
    linear: LinearEstimator
    linear_transform: InputTransform
    linear_loss: float
    posterior_loss: float
    mean_loss: float
    typical: float


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples of one chunk as they are stored: C (n, t), y (n, E), and where there are any noisy C (n, copy, t), and
    features (n, copy, feature), mean and sd (n, copy, E) of the posterior for them."""

    correlator: NDArray
    target: NDArray
    noisy: NDArray | None = None
    features: NDArray | None = None
    mean: NDArray | None = None
    sd: NDArray | None = None

    @classmethod
    def of(cls, data: xr.Dataset) -> _Part:
        names = ("correlator", "smeared", "noisy", "features", "posterior_mean", "posterior_sd")
        arrays = [data[name].values if name in data else None for name in names]
        for i in (1, 4, 5):
            if arrays[i] is not None:
                arrays[i] = arrays[i].reshape(*arrays[i].shape[:-2], -1)
        return cls(*arrays)

    def __getitem__(self, rows: NDArray) -> _Part:
        arrays = (self.correlator, self.target, self.noisy, self.features, self.mean, self.sd)
        return _Part(*(None if a is None else a[rows] for a in arrays))

    @property
    def pulls(self) -> NDArray:
        """(y - mean) / sd (n, copy, E)."""
        return (self.target[:, None] - self.mean) / self.sd


def load(
    path: Path,
    Nb: int,
    Nrho: int,
    sigma_index: int | None,
    noise: Noise,
    inputs: Inputs,
    protocol: Protocol,
    seed: int,
    ensemble: str,
    stream: bool = False,
    posterior: Callable[[NDArray], NDArray] | None = None,
) -> Fitted:
    """Read the first ``Nrho`` samples at ``Nb`` and prepare them for :func:`sdpipe.learn.training.train`.

    Targets are rho_sigma(E) at one sigma or, where ``sigma_index`` is None, at all of them side by side.

    Input transform and linear estimator see training samples only. Validation noise is one fixed draw for each sample,
    the same for every replica and sigma of the ensemble; with inputs ``posterior`` it is that of the first stored copy.
    With ``stream`` the samples stay on disk, to be read chunk by chunk: the same transforms and validation data. Where
    ``posterior`` is given, which returns its mean (n, sigma, E) for C (n, t), its loss is noted.
    """
    stored = store.read(path).sel(Nb=Nb).isel(sample=slice(Nrho))
    stored = stored if sigma_index is None else stored.isel(sigma=[sigma_index])
    sizes = stored.correlator.variable.chunksizes["sample"] if stream else (Nrho,)
    ranges = [slice(low, high) for low, high in pairwise(np.cumsum([0, *sizes]).tolist())]
    validates = [is_validation(np.arange(r.start, r.stop)) for r in ranges]
    rows, held_out = (tuple(int(np.sum(v == k)) for v in validates) for k in (False, True))
    copies = stored.sizes.get("copy", 0)

    def from_store(i: int) -> _Part:
        # Not through the worker's own Dask client: chunks are read from a thread that is none of its tasks.
        return _Part.of(stored.isel(sample=ranges[i]).compute(scheduler="synchronous"))

    samples = cache(from_store) if len(ranges) == 1 else from_store

    def to_train_on() -> Iterator[_Part]:
        for i, val in enumerate(validates):
            yield samples(i)[~val]

    moments = Moments.from_samples(lambda: ((part.correlator, part.target) for part in to_train_on()), noise)
    whitened = InputTransform.fit(moments, "whiten" if inputs == "posterior" else inputs)
    linear = LinearEstimator.fit(moments, whitened)
    reference = np.concatenate([np.abs(part.correlator[:, noise.reference]) for part in to_train_on()])
    white = rng.generator(seed, "validation noise", ensemble).standard_normal((sum(held_out), noise.deviates))
    white_of = np.split(white, np.cumsum(held_out)[:-1])
    outputs = moments.target_mean.size

    if inputs == "posterior":
        transform, make = _on_features(to_train_on)
        rows, copies = tuple(n * copies for n in rows), 1
        weight, offset, scale = np.zeros((transform.mean.size, outputs)), np.zeros(outputs), np.ones(outputs)
    else:
        transform, make = whitened, _on_correlators(whitened, noise)
        weight, offset, scale = np.zeros_like(linear.weight), np.zeros(outputs), np.ones(outputs)
        if protocol.residual:
            weight, offset, scale = linear.weight, linear.offset, linear.residual

    def read(i: int) -> Chunk:
        part, val = samples(i), validates[i]
        return make(part[~val], part[val], white_of[i])

    held = [read(0)] if len(ranges) == 1 else []
    data = TrainingSet(
        read=held.__getitem__ if held else read,
        rows=rows,
        held_out=held_out,
        copies=copies,
        noise=noise.cholesky.T @ whitened.matrix,
        weight=weight,
        offset=offset,
        scale=scale,
        matrix=whitened.matrix if noise.floor and inputs != "posterior" else None,
    )

    def losses(i: int) -> list[float]:
        part = samples(i)[validates[i]]
        if inputs == "posterior":
            known = part.noisy is not None  # else each copy has a covariance of its own
            guesses = [linear(whitened(part.noisy[:, 0])) if known else np.nan, moments.target_mean, part.mean[:, 0]]
            return [float(np.sum(np.abs(guess - part.target))) for guess in guesses]
        noisy = noise.added(part.correlator, white_of[i][:, None])[:, 0]
        guesses = [linear(whitened(noisy)), moments.target_mean]
        if posterior is not None:
            guesses.append(posterior(noisy)[:, sigma_index])  # networks on C(t) have one sigma
        return [float(np.sum(np.abs(guess - part.target))) for guess in guesses]

    linear_loss, mean_loss, *posterior_loss = np.sum([losses(i) for i in range(len(ranges))], axis=0) / (
        sum(held_out) * outputs
    )
    return Fitted(
        data=data,
        moments=moments,
        transform=transform,
        linear=linear,
        linear_transform=whitened,
        linear_loss=float(linear_loss),
        posterior_loss=float(*posterior_loss) if posterior_loss else float("nan"),
        mean_loss=float(mean_loss),
        typical=float(np.median(reference)),
    )


Make = Callable[[_Part, _Part, NDArray], Chunk]
"""A chunk from its training and its validation samples, with white noise (m, deviates) for these."""


def _on_correlators(transform: InputTransform, noise: Noise) -> Make:
    """Inputs are C, with noise that is drawn in training or was stored."""

    def make(part: _Part, val: _Part, white: NDArray) -> Chunk:
        clean = part.correlator.astype(float)
        return Chunk(
            x=transform(clean).astype(np.float32),
            s=noise.scale(clean).astype(np.float32),
            y=part.target,
            x_val=transform(noise.added(val.correlator.astype(float), white[:, None])[:, 0]).astype(np.float32),
            y_val=val.target,
            stored=transform(part.noisy).astype(np.float32) if part.noisy is not None else None,
            floor=(noise.floor * clean).astype(np.float32) if noise.floor else None,
        )

    return make


def _on_features(parts: Callable[[], Iterator[_Part]]) -> tuple[InputTransform, Make]:
    """Inputs are features of the posterior, standardised; each noisy copy is a sample, and has its own target."""
    moments = [(f.shape[0], f.sum(axis=0), (f**2).sum(axis=0)) for f in (_rows(p.features) for p in parts())]
    n, first, second = (sum(m[i] for m in moments) for i in range(3))
    mean = first / n
    spread = np.sqrt(np.maximum(second / n - mean**2, 0))
    transform = InputTransform(mean, np.diag(1 / np.where(spread > 1e-6, spread, 1)))

    def make(part: _Part, val: _Part, _white: NDArray) -> Chunk:
        x = transform(_rows(part.features)).astype(np.float32)
        y = np.clip(_rows(part.pulls), -LARGEST_PULL, LARGEST_PULL)
        return Chunk(
            x=x,
            s=np.ones(len(x), np.float32),
            y=y,
            x_val=transform(val.features[:, 0]).astype(np.float32),
            y_val=val.pulls[:, 0],
            stored=x[:, None],
            unit=val.sd[:, 0],
        )

    return transform, make


def _rows(values: NDArray) -> NDArray[np.float64]:
    """Return (n, copy, ...) as (n copy, ...)."""
    return values.reshape(-1, values.shape[-1]).astype(float)
