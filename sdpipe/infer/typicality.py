"""Could a correlator come from the prior with its noise, and from any spectral density at all?

C (t,) is a correlator, s = C(t_ref) / C_latt(t_ref) its noise scale, S the covariance of clean correlators of
the prior around their mean mu, N = Cov_latt that of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc

from sdpipe.physics.kernels import Kernel
from sdpipe.physics.noise import Noise

Array = NDArray[np.float64]

REACH = 10.0
"""An amplitude is looked for within this factor of the one that makes |C(t_ref)| typical of the training set."""

AMPLITUDES = 401
"""Amplitudes tried, evenly spaced in their logarithm: steps of about 1 %, far below what the data tell."""

AMPLITUDE = 10.0
"""Largest sqrt(int d omega rho^2), in sqrt(GeV), that the back-check allows; that of the prior is of order 1."""

SUSPICIOUS = 0.01
"""p-value below which a correlator counts as out of the training distribution."""

IMPOSSIBLE = 1e-3
"""p-value of the back-check below which no spectral density explains the data."""

NEIGHBOURS = 4
"""A correlator is compared with this share, 1/4, of the reference draws: those nearest in noise scale."""


@dataclass(frozen=True, eq=False)
class PriorOfData:
    """The prior of C(t) in second moments, with the lattice noise: mean mu (t,), covariance S (t, t), noise."""

    mean: Array
    covariance: Array
    noise: Noise

    def _quadratic(self, correlators: Array, noise_scales: Array) -> tuple[Array, Array]:
        """Return (C - mu)^T V^-1 (C - mu) and log det V up to a constant, (n,), V = S + s^2 N, for C (n, t), s (n,).

        In units of the standard deviations of clean C(t), which span many orders of magnitude.
        """
        unit = np.sqrt(np.diag(self.covariance))
        signal, noise = (c / np.outer(unit, unit) for c in (self.covariance, self.noise.covariance))
        V = signal + noise_scales[:, None, None] ** 2 * noise
        x = (correlators - self.mean) / unit
        return np.sum(x * np.linalg.solve(V, x[..., None])[..., 0], axis=1), np.linalg.slogdet(V)[1]

    def distance(self, correlators: Array) -> Array:
        """Return the squared Mahalanobis distance (n,) of C (n, t), each with its own noise scale.

            d^2 = (C - mu)^T (S + s^2 N)^-1 (C - mu)

        In directions that the noise hides, S << s^2 N, it counts the noise; in those of high signal the
        prior. So every direction counts as one whatever the effective rank.
        """
        return self._quadratic(correlators, self.noise.scale(correlators))[0]

    def amplitude(self, correlator: Array, typical: float) -> float:
        """Return the factor a that makes a C (t,) most likely under the prior, |a C(t_ref)| near ``typical``.

        A correlator of unknown normalisation leaves it free; the largest evidence a^t N(a C; mu, S + a^2 s^2 N),
        Gaussian in second moments, fixes it within a factor REACH.
        """
        centre = typical / abs(correlator[self.noise.reference])
        a = centre * np.geomspace(1 / REACH, REACH, AMPLITUDES)
        d2, log_det = self._quadratic(a[:, None] * correlator, a * self.noise.scale(correlator))
        return float(a[np.argmax(correlator.size * np.log(a) - (d2 + log_det) / 2)])


def nearest(scale: float, reference: Array, share: int = NEIGHBOURS) -> NDArray[np.intp]:
    """Return the indices of the ``len(reference) / share`` reference noise scales nearest to ``scale`` in |log|."""
    distance = np.abs(np.log(np.abs(reference) / abs(scale)))
    return np.argsort(distance, kind="stable")[: max(len(reference) // share, 1)]


def rank_p_value(value: float, scale: float, values: Array, scales: Array) -> float:
    """Return p = (1 + #{values >= value}) / (1 + n) among the n reference draws nearest in noise scale.

    Uniform for a value exchangeable with these, whatever their distribution; never below 1 / (1 + n).
    """
    near = values[nearest(scale, scales)]
    return float((1 + np.sum(near >= value)) / (1 + near.size))


def smallest_p_value(count: int) -> float:
    """Return the smallest p-value that ``count`` draws of a :class:`Reference` can give."""
    return 2 / (1 + max(count // NEIGHBOURS, 1))


@dataclass(frozen=True, eq=False)
class Reference:
    """Draws of the prior to compare a correlator with: noise scale, distance and spread of each, (n,).

    ``spread`` is the standard deviation over networks, averaged over sigma and E.
    """

    noise_scale: Array
    distance: Array
    spread: Array

    def p_value(self, noise_scale: float, distance: float, spread: float) -> float:
        """Return the probability that a draw of the prior with its noise is as far off in distance or spread.

        Twice the smaller of the two rank p-values (Bonferroni), at most 1.
        """
        ranks = (
            rank_p_value(value, noise_scale, values, self.noise_scale)
            for value, values in ((distance, self.distance), (spread, self.spread))
        )
        return min(1.0, 2 * min(ranks))


@dataclass(frozen=True, eq=False)
class KernelSpan:
    """What any spectral density of either sign can add to C(t): the back-check of data against the kernel.

    sigma_k and u_k are singular values and left vectors of L^-1 b_T(t, omega), L L^T = Cov_latt, with measure d omega
    on a fine logarithmic grid above ``low`` GeV. A rho of size AMPLITUDE, in the normalisation of the prior, adds at
    most r_k = AMPLITUDE sigma_k / s to the data along u_k, in standard deviations. Where r_k is below 1 they should
    hold noise alone, elsewhere no more than r_k and noise.
    """

    noise: Noise
    vectors: Array
    singular: Array

    @classmethod
    def of(cls, kernel: Kernel, noise: Noise, low: float) -> KernelSpan:
        """Return the span of ``kernel`` for energies above ``low`` GeV, seen through ``noise``."""
        omega = np.geomspace(low, 40 / kernel.spacing, 2000)
        columns = kernel(np.array(noise.times)[:, None], omega) * np.sqrt(omega * np.log(omega[1] / omega[0]))
        vectors, singular, _ = np.linalg.svd(np.linalg.solve(noise.cholesky, columns), full_matrices=False)
        return cls(noise, vectors, singular)

    def check(self, correlators: Array) -> tuple[Array, Array]:
        """Return chi^2 (n,) between C (n, t) and the nearest correlator in the span, and its degrees of freedom.

            chi^2 = sum_k max(|d_k| - r_k, 0)^2, d = u^T L^-1 C / s, with 0 for the r_k below 1

        The terms that are not zero are the degrees of freedom. Given which these are, the sum of a correlator in the
        span is no larger in distribution than a chi^2 with as many.
        """
        scales = np.abs(self.noise.scale(correlators))[:, None]
        data = np.abs(np.linalg.solve(self.noise.cholesky, correlators.T).T @ self.vectors) / scales
        reach = AMPLITUDE * self.singular / scales
        excess = np.maximum(data - np.where(reach > 1, reach, 0), 0)
        return np.sum(excess**2, axis=1), np.sum(excess > 0, axis=1)


def chi2_p_value(chi2: Array, dof: Array, samples: int | None = None) -> Array:
    """Return the probability of a chi^2 at least as large; 1 where there are no degrees of freedom.

    A covariance that was estimated from n ``samples`` makes chi^2 larger: chi^2 (n - d) / (d (n - 1)) then has the
    F distribution with d and n - d degrees of freedom (Hotelling, Ann. Math. Stat. 2 (1931) 360). d must be below n.
    """
    d = np.maximum(dof, 1)
    p = chdtrc(d, chi2) if samples is None else fdtrc(d, samples - d, chi2 * (samples - d) / (d * (samples - 1)))
    return np.where(dof > 0, p, 1.0)
