"""What surrounds a network: the input transform and the best linear estimator, both in closed form.

Everything here is a function of first and second moments of the training samples, noise included:

>>> from sdpipe.physics.noise import synthetic
>>> C = np.random.default_rng(1).standard_normal((500, 3))
>>> noise = synthetic((1, 2, 3), np.ones(3), r1=1e-3, delta=0.0, tau=1.0)
>>> moments = Moments.from_samples(lambda: [(C, 2 * C[:, :1])], noise)
>>> transform = InputTransform.fit(moments, "whiten")
>>> np.allclose(LinearEstimator.fit(moments, transform)(transform(C)), 2 * C[:, :1], atol=1e-3)
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdpipe.arrays import Array
from sdpipe.physics.noise import Noise

InputKind = Literal["whiten", "standardise", "posterior", "local"]

FEATURES = ("posterior", "local")
"""Inputs that are features of the closed-form posterior, which the networks correct."""

CUT = 6.0
"""Networks see local features cut at so many standard deviations from their mean over the training draws."""

MOMENT_ROWS = 65_536

ROUNDING = float(np.finfo(np.float32).eps)
"""Relative error of a stored clean C(t): what is smaller than that, no estimator can be fitted to."""


@dataclass(frozen=True)
class Moments:
    """Moments over training samples of clean C (t,) and targets y (E,), and the mean noise covariance.

    ``covariance`` (t, t) is Cov(C) + diag(floor^2 <C^2>), with the relative floor of the noise, or ROUNDING where that
    is larger: C is stored in single precision, and lattice noise may be far below that at late times, where Cov(C)
    alone is singular to rounding. ``noise`` = <s^2> Cov_latt (t, t),
    ``cross`` = Cov(C, y) (t, E), ``target_covariance`` = Cov(y) (E, E).
    """

    mean: Array
    covariance: Array
    noise: Array
    target_mean: Array
    cross: Array
    target_covariance: Array

    @classmethod
    def from_samples(cls, parts: Callable[[], Iterable[tuple[NDArray, NDArray]]], noise: Noise) -> Moments:
        """Return the moments in float64 of every C (sample, t) and y (sample, E) in ``parts()``, called twice."""
        n, mean, target_mean = 0, np.float64(0), np.float64(0)
        for c, y in _blocks(parts()):
            n, mean, target_mean = n + len(c), mean + c.sum(axis=0), target_mean + y.sum(axis=0)
        mean, target_mean = mean / n, target_mean / n
        covariance = np.zeros((mean.size, mean.size))
        cross, power = np.zeros((mean.size, target_mean.size)), 0.0
        target_covariance = np.zeros((target_mean.size, target_mean.size))
        for C, y in _blocks(parts()):
            c, dy = C - mean, y - target_mean
            covariance += c.T @ c / n
            cross += c.T @ dy / n
            target_covariance += dy.T @ dy / n
            power += np.sum(noise.scale(C) ** 2) / n
        floor = max(noise.floor, ROUNDING)
        covariance += np.diag(floor**2 * (np.diag(covariance) + mean**2))
        return cls(mean, covariance, power * noise.covariance, target_mean, cross, target_covariance)


def _blocks(parts: Iterable[tuple[NDArray, NDArray]]) -> Iterator[tuple[Array, Array]]:
    """Cut parts into blocks of MOMENT_ROWS, in float64: bounds the memory."""
    for correlator, target in parts:
        for low in range(0, len(correlator), MOMENT_ROWS):
            yield correlator[low : low + MOMENT_ROWS].astype(float), target[low : low + MOMENT_ROWS].astype(float)


@dataclass(frozen=True)
class InputTransform:
    """Network inputs x = (C - mean) @ matrix, with mean (t,) and matrix (t, t)."""

    mean: Array
    matrix: Array

    @classmethod
    def fit(cls, moments: Moments, inputs: InputKind) -> InputTransform:
        """Fit the transform.

        ``standardise``: C'(t) = (C(t) - mu(t)) / gamma(t), mean and standard deviation of clean C   (45-47).
        ``whiten``: rotate C' to the eigenvectors of the covariance of noisy C' and divide by the roots of
        its eigenvalues, so that the noisy inputs have unit covariance.
        """
        gamma = np.sqrt(np.diag(moments.covariance))
        if inputs == "standardise":
            return cls(moments.mean, np.diag(1 / gamma))
        eigenvalues, vectors = np.linalg.eigh((moments.covariance + moments.noise) / np.outer(gamma, gamma))
        eigenvalues = np.maximum(eigenvalues, gamma.size * np.finfo(float).eps * eigenvalues[-1])
        return cls(moments.mean, vectors / np.sqrt(eigenvalues) / gamma[:, None])

    def __call__(self, correlator: NDArray) -> Array:
        """Transform correlators (..., t)."""
        return (np.asarray(correlator, float) - self.mean) @ self.matrix


@dataclass(frozen=True)
class LinearEstimator:
    """The linear minimum-mean-square-error estimator rho_lin = x @ weight + offset, on transformed inputs x.

    ``residual`` (E,) is its standard deviation over training samples and noise, ``unresolved`` (E, E) the covariance
    of y - rho_lin over noise-free training samples. Given the noise scale s its posterior covariance is
    unresolved + s^2 A Cov_latt A^T, A = (matrix weight)^T.
    """

    weight: Array
    offset: Array
    residual: Array
    unresolved: Array

    @classmethod
    def fit(cls, moments: Moments, transform: InputTransform) -> LinearEstimator:
        """Fit in closed form: weight = Cov(x)^-1 Cov(x, y), Cov(x) including the noise."""
        covariance = transform.matrix.T @ (moments.covariance + moments.noise) @ transform.matrix
        cross = transform.matrix.T @ moments.cross
        weight = np.linalg.solve(covariance, cross)
        posterior = moments.target_covariance - weight.T @ cross
        to_rho = transform.matrix @ weight
        unresolved = posterior - to_rho.T @ moments.noise @ to_rho
        return cls(weight, moments.target_mean, np.sqrt(np.maximum(np.diag(posterior), 0)), unresolved)

    def __call__(self, x: Array) -> Array:
        """Return the estimate (..., E) for transformed inputs x (..., t)."""
        return x @ self.weight + self.offset
