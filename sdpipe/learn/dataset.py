"""From ``training.zarr`` to what networks are trained on: samples read, closed-form parts fitted, chunks made."""

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
from sdpipe.learn.moments import CUT, FEATURES, InputKind, InputTransform, LinearEstimator, Moments
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
    targets. Where networks correct the posterior the targets of ``data`` are in units of its standard deviation.
    """

    data: TrainingSet
    transform: InputTransform
    linear: LinearEstimator
    linear_loss: float
    posterior_loss: float
    mean_loss: float


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples of one chunk as they are stored: C (n, t), y (n, E), and where there are any noisy C (n, copy, t), and
    features (n, copy, [E,] feature), mean and sd (n, copy, E) of the posterior for them."""

    correlator: NDArray
    target: NDArray
    noisy: NDArray | None = None
    features: NDArray | None = None
    mean: NDArray | None = None
    sd: NDArray | None = None

    @classmethod
    def from_store(cls, data: xr.Dataset) -> _Part:
        """Return the arrays of a part of ``training.zarr``, those with sigma and E with both side by side."""
        arrays = {name: values.values for name, values in data.data_vars.items()}
        for name in ("smeared", "posterior_mean", "posterior_sd"):
            if name in arrays:
                arrays[name] = arrays[name].reshape(*arrays[name].shape[:-2], -1)
        names = ("correlator", "smeared", "noisy", "features", "posterior_mean", "posterior_sd")
        return cls(*(arrays.get(name) for name in names))

    def __getitem__(self, rows: NDArray) -> _Part:
        fields = (self.correlator, self.target, self.noisy, self.features, self.mean, self.sd)
        return _Part(*(None if values is None else values[rows] for values in fields))

    @property
    def pulls(self) -> NDArray:
        """(y - mean) / sd (n, copy, E)."""
        return (self.target[:, None] - self.mean) / self.sd


class StoredSamples:
    """The first ``Nrho`` samples at one ``Nb`` of a training store, all at once or, with ``stream``, chunk by chunk.

    Targets are rho_sigma(E) at one sigma or, where ``sigma_index`` is None, at all of them side by side. Of each chunk
    ``rows`` samples train and ``held_out`` validate; each is stored with so many noisy ``copies``.
    """

    def __init__(self, path: Path, Nb: int, Nrho: int, sigma_index: int | None, stream: bool = False) -> None:
        samples = store.read(path).sel(Nb=Nb).isel(sample=slice(Nrho))
        self._data = samples if sigma_index is None else samples.isel(sigma=[sigma_index])
        sizes = self._data.correlator.variable.chunksizes["sample"] if stream else (Nrho,)
        self._ranges = [slice(low, high) for low, high in pairwise(np.cumsum([0, *sizes]).tolist())]
        self._validates = [is_validation(np.arange(part.start, part.stop)) for part in self._ranges]
        self.rows = tuple(int(np.sum(~validates)) for validates in self._validates)
        self.held_out = tuple(int(np.sum(validates)) for validates in self._validates)
        self.copies = samples.sizes.get("copy", 0)
        self._part = self._read if len(self) > 1 else cache(self._read)  # what is streamed is not kept

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._ranges)

    def _read(self, i: int) -> _Part:
        # Not through the worker's own Dask client: chunks are read from a thread that is none of its tasks.
        return _Part.from_store(self._data.isel(sample=self._ranges[i]).compute(scheduler="synchronous"))

    def training(self, i: int) -> _Part:
        """Return the samples of chunk i that train."""
        return self._part(i)[~self._validates[i]]

    def validation(self, i: int) -> _Part:
        """Return the samples of chunk i that validate."""
        return self._part(i)[self._validates[i]]

    def all_training(self) -> Iterator[_Part]:
        """Yield the samples that train, chunk by chunk."""
        return map(self.training, range(len(self)))


@dataclass(frozen=True)
class _Correlators:
    """Inputs are C(t), transformed, with noise that is drawn in training or was stored.

    ``posterior`` returns its mean (n, E) for noisy C (n, t), where there is one.
    """

    transform: InputTransform
    noise: Noise
    posterior: Callable[[NDArray], NDArray] | None

    def chunk(self, training: _Part, held: _Part, white: NDArray) -> Chunk:
        """Return a chunk from its training and its validation samples, with white noise (m, deviates) for these."""
        clean, noise = training.correlator.astype(float), self.noise
        return Chunk(
            x=self.transform(clean).astype(np.float32),
            s=noise.scale(clean).astype(np.float32),
            y=training.target,
            x_val=self.transform(noise.added(held.correlator.astype(float), white[:, None])[:, 0]).astype(np.float32),
            y_val=held.target,
            stored=self.transform(training.noisy).astype(np.float32) if training.noisy is not None else None,
            floor=(noise.floor * clean).astype(np.float32) if noise.floor else None,
        )

    def baselines(self, held: _Part, white: NDArray) -> tuple[NDArray, NDArray | float]:
        """Return noisy C (m, t), as networks are validated on, and the posterior mean (m, E) for it, NaN for none."""
        noisy = self.noise.added(held.correlator, white[:, None])[:, 0]
        return noisy, self.posterior(noisy) if self.posterior else np.nan


@dataclass(frozen=True)
class _Features:
    """Inputs are features of the posterior, standardised and cut; each noisy copy is a sample, and has its own target.

    Where features are local, each energy of a copy is a sample.
    """

    transform: InputTransform
    cut: float

    @classmethod
    def fit(cls, parts: Iterator[_Part], cut: float) -> _Features:
        moments = [(f.shape[0], f.sum(axis=0), (f**2).sum(axis=0)) for f in (_rows(p.features) for p in parts)]
        n, first, second = (sum(moment[i] for moment in moments) for i in range(3))
        mean = first / n
        spread = np.sqrt(np.maximum(second / n - mean**2, 0))
        return cls(InputTransform(mean, np.diag(1 / np.where(spread > 1e-6, spread, 1))), cut)

    def chunk(self, training: _Part, held: _Part, _white: NDArray) -> Chunk:
        x, x_val = self._seen(training.features), self._seen(held.features[:, :1])
        return Chunk(
            x=x,
            s=np.ones(len(x), np.float32),
            y=np.clip(training.pulls, -LARGEST_PULL, LARGEST_PULL).reshape(len(x), -1),
            x_val=x_val,
            y_val=held.pulls[:, 0].reshape(len(x_val), -1),
            stored=x[:, None],
            unit=held.sd[:, 0].reshape(len(x_val), -1),
        )

    def _seen(self, features: NDArray) -> NDArray[np.float32]:
        return self.transform(_rows(features)).clip(-self.cut, self.cut).astype(np.float32)

    def baselines(self, held: _Part, _white: NDArray) -> tuple[NDArray | None, NDArray]:
        # Where each copy has a covariance of its own no noisy C is stored, and the linear estimator has no loss.
        return None if held.noisy is None else held.noisy[:, 0], held.mean[:, 0]


def _rows(values: NDArray) -> NDArray[np.float64]:
    """Return (n, copy, ...) as (n copy, ...)."""
    return values.reshape(-1, values.shape[-1]).astype(float)


@dataclass(frozen=True)
class _Chunks:
    """Stored samples as what networks see, with one fixed draw of white noise (m, deviates) for each chunk."""

    samples: StoredSamples
    seen: _Correlators | _Features
    white: list[NDArray]

    def read(self, i: int) -> Chunk:
        return self.seen.chunk(self.samples.training(i), self.samples.validation(i), self.white[i])

    def losses(self, linear: Callable[[NDArray], NDArray], mean: NDArray) -> NDArray:
        """Return the mean absolute errors of the linear estimator, of the posterior mean and of ``mean`` (E,)."""
        sums = []
        for i, white in enumerate(self.white):
            held = self.samples.validation(i)
            noisy, posterior_mean = self.seen.baselines(held, white)
            estimates = (np.nan if noisy is None else linear(noisy), posterior_mean, mean)
            sums.append([float(np.sum(np.abs(estimate - held.target))) for estimate in estimates])
        return np.sum(sums, axis=0) / (sum(self.samples.held_out) * mean.size)


def fit(
    samples: StoredSamples,
    noise: Noise,
    inputs: InputKind,
    residual: bool,
    key: tuple[int, str],
    posterior: Callable[[NDArray], NDArray] | None = None,
) -> Fitted:
    """Fit everything in closed form, and prepare the samples for :func:`sdpipe.learn.training.train`.

    Input transform and linear estimator see training samples only; with ``residual``, networks on C(t) correct the
    linear estimator. Validation noise is one fixed draw for each sample, a function of ``key``, the seed and the name
    of the ensemble, so that it is the same for every replica and sigma; where networks correct the posterior it is that
    of the first stored copy. Where ``posterior`` is given, which returns its mean (n, E) for C (n, t), its loss is
    noted.
    """
    moments = Moments.from_samples(lambda: ((p.correlator, p.target) for p in samples.all_training()), noise)
    on_features, local = inputs in FEATURES, inputs == "local"
    linear_transform = InputTransform.fit(moments, "whiten" if on_features else inputs)
    linear = LinearEstimator.fit(moments, linear_transform)

    seed, ensemble = key
    generator = rng.generator(seed, "validation noise", ensemble)
    white = generator.standard_normal((sum(samples.held_out), noise.deviates))
    seen: _Correlators | _Features = _Correlators(linear_transform, noise, posterior)
    if on_features:
        seen = _Features.fit(samples.all_training(), CUT if local else np.inf)
    chunks = _Chunks(samples, seen, np.split(white, np.cumsum(samples.held_out)[:-1]))
    linear_loss, posterior_loss, mean_loss = chunks.losses(lambda C: linear(linear_transform(C)), moments.target_mean)

    points = moments.target_mean.size if local else 1
    outputs = moments.target_mean.size // points
    weight, offset, scale = np.zeros((seen.transform.mean.size, outputs)), np.zeros(outputs), np.ones(outputs)
    if residual and not on_features:
        weight, offset, scale = linear.weight, linear.offset, linear.residual
    data = TrainingSet(
        read=chunks.read if len(samples) > 1 else [chunks.read(0)].__getitem__,
        rows=tuple(n * samples.copies * points for n in samples.rows) if on_features else samples.rows,
        held_out=tuple(n * points for n in samples.held_out),
        copies=1 if on_features else samples.copies,  # on features each copy is a sample of its own
        noise=noise.cholesky.T @ linear_transform.matrix,
        weight=weight,
        offset=offset,
        scale=scale,
        matrix=linear_transform.matrix if noise.floor and not on_features else None,
    )
    return Fitted(
        data=data,
        transform=seen.transform,
        linear=linear,
        linear_loss=float(linear_loss),
        posterior_loss=float(posterior_loss),
        mean_loss=float(mean_loss),
    )
