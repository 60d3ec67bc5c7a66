"""The best linear estimator of the training set, with the covariance that it leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.estimators.protocol import Estimate, Estimator
from sdpipe.learn.audience import Audience


class Linear(Estimator):
    """rho = offset + (C - mean) A, whose covariance at noise scale s is U + s^2 V.

    U is what C(t) without noise does not resolve, V = A^T Cov_latt A that of the noise; see
    :class:`~sdpipe.learn.moments.LinearEstimator`. Raises UserError where there are no draws to fit it to.
    """

    summary = "the best linear estimator of the central training set"
    fitted = True

    def __init__(self, audience: Audience) -> None:
        if audience.statistics is None:
            raise UserError("linear: there are no draws of the prior with this smearing that it could be fitted to")
        self.statistics, self.noise = audience.statistics, audience.noise
        A = np.moveaxis(self.statistics.linear_weight, 1, 0)
        self.of_noise = A.transpose(0, 2, 1) @ self.noise.covariance @ A

    def __call__(self, C: ArrayLike) -> Array:
        """Return rho_sigma(E), shape (..., sigma, E), for C (..., t)."""
        fit, flat = self.statistics, np.asarray(C, float)
        A = fit.linear_weight.reshape(len(fit.linear_weight), -1)
        return ((flat - fit.mean) @ A + fit.linear_offset.ravel()).reshape(*flat.shape[:-1], *fit.linear_offset.shape)

    def estimate(self, C: ArrayLike, samples: ArrayLike | None = None) -> Estimate:
        """Return the estimate with the root of the diagonal of its covariance."""
        unresolved, noise = (
            np.diagonal(c, axis1=1, axis2=2) for c in (self.statistics.linear_unresolved, self.of_noise)
        )
        error = np.sqrt(unresolved + self.noise.scale(np.asarray(C, float))[..., None, None] ** 2 * noise)
        mean = self(C)
        return Estimate(mean, error, None if samples is None else self(samples))

    def covariance(self, C: ArrayLike) -> Array:
        """Return U + s^2 V (sigma, E, E) for C (t,)."""
        return self.statistics.linear_unresolved + self.noise.scale(np.asarray(C, float)) ** 2 * self.of_noise
