"""What surrounds a network: the input transform and the best linear estimator, both in closed form.

Everything here is a function of first and second moments of the training samples, noise included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdpipe.noise import Noise

Array = NDArray[np.float64]
Inputs = Literal["whiten", "standardise"]

ROWS = 65_536


@dataclass(frozen=True)
class Moments:
    """Moments over training samples of clean C (t,) and targets y (E,), and the mean noise covariance.

    ``noise`` = <s^2> Cov_latt (t, t), ``cross`` = Cov(C, y) (t, E), ``variance`` = Var(y) (E,).
    """

    mean: Array
    covariance: Array
    noise: Array
    target_mean: Array
    cross: Array
    variance: Array

    @classmethod
    def of(cls, correlator: NDArray, target: NDArray, noise: Noise) -> Moments:
        """Return the moments of correlator (sample, t) and target (sample, E), in float64, block by block."""
        n = len(correlator)
        blocks = [slice(low, low + ROWS) for low in range(0, n, ROWS)]
        mean = sum(np.sum(correlator[b], axis=0, dtype=float) for b in blocks) / n
        target_mean = sum(np.sum(target[b], axis=0, dtype=float) for b in blocks) / n
        covariance = np.zeros((mean.size, mean.size))
        cross, variance, power = np.zeros((mean.size, target_mean.size)), np.zeros(target_mean.size), 0.0
        for b in blocks:
            c, y = correlator[b].astype(float) - mean, target[b].astype(float) - target_mean
            covariance += c.T @ c / n
            cross += c.T @ y / n
            variance += np.sum(y**2, axis=0) / n
            power += np.sum(noise.scale(correlator[b].astype(float)) ** 2) / n
        return cls(mean, covariance, power * noise.covariance, target_mean, cross, variance)


@dataclass(frozen=True)
class InputTransform:
    """Network inputs x = (C - mean) @ matrix, with mean (t,) and matrix (t, t)."""

    mean: Array
    matrix: Array

    @classmethod
    def fit(cls, moments: Moments, inputs: Inputs) -> InputTransform:
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

    ``residual`` (E,) is its standard deviation over training samples and noise.
    """

    weight: Array
    offset: Array
    residual: Array

    @classmethod
    def fit(cls, moments: Moments, transform: InputTransform) -> LinearEstimator:
        """Fit in closed form: weight = Cov(x)^-1 Cov(x, y), Cov(x) including the noise."""
        covariance = transform.matrix.T @ (moments.covariance + moments.noise) @ transform.matrix
        cross = transform.matrix.T @ moments.cross
        weight = np.linalg.solve(covariance, cross)
        residual = np.sqrt(np.maximum(moments.variance - np.sum(weight * cross, axis=0), 0))
        return cls(weight, moments.target_mean, residual)

    def __call__(self, x: Array) -> Array:
        """Return the estimate (..., E) for transformed inputs x (..., t)."""
        return x @ self.weight + self.offset
