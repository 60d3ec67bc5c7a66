"""Lattice noise: C_noisy = C + s L z with L L^T = Cov_latt and s = C(t_ref) / C_latt(t_ref).  (44)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdpipe.arrays import Array
from sdpipe.errors import UserError

IMPOSSIBLE = 1e-3
"""p-value of the goodness of fit below which no spectral density explains the data."""
Treatment = Literal["full", "shrink", "diagonal"]

CLOSEST = 0.98
"""Largest correlation of neighbouring times that the covariance of few samples is shrunk to."""

FLOOR = 1e-6
"""Relative error of every C(t) beside its noise, unless said otherwise: no data are taken for better than that."""

SIZES = (1e-100, 1e100)
"""Allowed sizes of C(t_ref): squares of its errors then neither overflow nor lose digits."""

SINGLE = (1e-30, 1e30)
"""Allowed sizes of what networks see of it: they compute in 32 bits."""


def check_size(C: Array, times: Sequence[int], source: str, allowed: tuple[float, float] = SIZES) -> None:
    """Raise UserError where C (t,) at t_ref is smaller or larger in size than ``allowed``, or any value is larger.

    >>> check_size(np.array([1e-30, 1e-40]), (1, 2), "example")
    """
    low, high = allowed
    i = reference(times)
    if not abs(C[i]) < low:
        i = int(np.argmax(np.abs(C)))
    if not low <= abs(C[i]) <= high:
        raise UserError(f"{source}: C(t = {times[i]}) = {C[i]:.3g}; allowed: {low:g} to {high:g} in size")


def reference(times: Sequence[int]) -> int:
    """Return the index of t_ref: t = 1, or the first slice where 1 is not among them."""
    return times.index(1) if 1 in times else 0


@dataclass(frozen=True, eq=False)
class Noise:
    """Mean C_latt(t) and covariance Cov_latt(t, t') of one lattice correlator.

    Parameters
    ----------
    times
        Time slices in lattice units.
    mean
        C_latt, shape (t,).
    covariance
        Cov_latt of that mean, shape (t, t), symmetric and positive definite.
    source
        Where the numbers come from, named in every fault.
    flags
        What is doubtful about them.
    floor
        Smallest relative error of a noisy copy, independent at every time: the covariance of copies of C is
        s^2 Cov_latt(t, t') + (floor C(t))^2 delta_tt'.

    Raises
    ------
    UserError
        When the covariance has the wrong shape, is not symmetric or not positive definite, or when
        C_latt(t_ref) is zero or of a size outside of SIZES.
    """

    times: tuple[int, ...]
    mean: Array
    covariance: Array
    source: str
    flags: tuple[str, ...] = ()
    floor: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.times)
        if self.mean.shape != (n,) or self.covariance.shape != (n, n):
            raise UserError(f"{self.source}: covariance {self.covariance.shape} does not fit {n} times")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise UserError(f"{self.source}: mean and covariance must be finite")
        check_covariance(self.covariance, self.times, self.source)
        if self.mean[self.reference] == 0:
            raise UserError(f"{self.source}: C_latt is zero at t_ref = {self.times[self.reference]}")
        check_size(self.mean, self.times, self.source)

    @property
    def reference(self) -> int:
        """Index of t_ref, see :func:`reference`."""
        return reference(self.times)

    @cached_property
    def cholesky(self) -> Array:
        """L with L L^T = Cov_latt, lower triangular."""
        return cholesky(self.covariance)

    def scale(self, C: Array) -> Array:
        """Return s = C(t_ref) / C_latt(t_ref), shape (...), for C (..., t)."""
        return C[..., self.reference] / self.mean[self.reference]

    def at_scale(self, C: Array) -> Noise:
        """Return the noise of one C (t,) without a floor: Cov_latt(t, t') + (floor C(t) / s)^2 delta_tt'."""
        if not self.floor:
            return self
        floor = np.diag((self.floor * C / self.scale(C)) ** 2)
        return replace(self, covariance=self.covariance + floor, floor=0.0)

    def unlike(self, C: Array) -> Array:
        """Return by how much the logarithm of C (n, t) differs from that of C_latt at its worst time, shape (n,).

            max_t |log (max(C(t) / s C_latt(t), 0) + e(t)) / (1 + e(t))|

        e(t) is the relative error of C_latt: what is smaller than the noise is all the same.
        """
        e = np.sqrt(np.diag(self.covariance)) / np.abs(self.mean)
        relative = np.maximum(C / (np.abs(self.scale(C))[:, None] * self.mean), 0)
        return np.abs(np.log((relative + e) / (1 + e))).max(axis=1)

    @property
    def deviates(self) -> int:
        """Number of standard normal deviates in a noisy copy: one a time, and with a floor another one."""
        return len(self.times) * (2 if self.floor else 1)

    def draw(self, C: Array, count: int, generator: np.random.Generator) -> Array:
        """Return ``count`` noisy copies of each correlator: C (..., t) -> (..., count, t)."""
        return self.added(C, generator.standard_normal((*C.shape[:-1], count, self.deviates)))

    def added(self, C: Array, z: NDArray) -> NDArray:
        """Return C + s L z, and with a floor + floor C z', for C (..., t) and (z, z') (..., count, deviates).

        The precision is that of z.
        """
        n = len(self.times)
        noisy = (z[..., :n].reshape(-1, n) @ self.cholesky.T.astype(z.dtype)).reshape(*z.shape[:-1], n)
        noisy *= self.scale(C)[..., None, None].astype(z.dtype)
        noisy += C[..., None, :].astype(z.dtype)
        if self.floor:
            noisy += (self.floor * C[..., None, :]).astype(z.dtype) * z[..., n:]
        return noisy


def cholesky(covariance: Array) -> Array:
    """Return L with L L^T = V (n, n), lower triangular; computed on the scale of the correlation matrix."""
    error = np.sqrt(np.diag(covariance))
    return error[:, None] * np.linalg.cholesky(covariance / np.outer(error, error))


def check_covariance(
    covariance: Array, times: tuple[int, ...], source: str, definite: bool = True, rounding: float = 0.0
) -> None:
    """Raise UserError where a covariance is not symmetric or not positive definite.

    With ``definite`` false, zero eigenvalues are allowed, as for data at t and T - t that were made equal.
    ``rounding`` is how large an eigenvalue of the correlation matrix can be from rounding alone, where the numbers
    were stored with less precision than they have here.
    """
    variance, n = np.diag(covariance), len(covariance)
    rounding = max(rounding, n * np.finfo(float).eps)
    if variance.min() < 0 or (definite and variance.min() == 0):
        t = times[int(np.argmin(variance))]
        raise UserError(f"{source}: variance {variance.min():.3g} at t = {t}; it must be positive")
    error = np.sqrt(np.where(variance > 0, variance, 1))
    correlation = covariance / np.outer(error, error)
    if np.abs(correlation - correlation.T).max() > 1e-8:
        raise UserError(f"{source}: the covariance is not symmetric")
    lowest = np.linalg.eigvalsh(correlation)[0]
    if lowest <= (rounding if definite else -max(1e-8 * n, rounding)):
        needed = "definite" if definite else "semi-definite"
        raise UserError(
            f"{source}: the covariance is not positive {needed} (lowest eigenvalue of the correlation matrix "
            f"{lowest:.3g}, of which rounding can make {rounding:.2g}); allowed remedies: "
            "covariance: shrink (needs configurations) or diagonal, or fewer times",
            key="covariance",
        )


def treat(
    covariance: Array, treatment: Treatment, source: str, samples: Array | None = None, count: int | None = None
) -> Array:
    """Return the covariance as it is, its diagonal, or what few samples say of it, :func:`shrunk`.

    ``samples`` (cfg, t) are what ``covariance``, that of their mean, was estimated from; ``count`` is how many
    configurations there were behind it, where that is known and ``samples`` are not these.

    Raises UserError when the full covariance has fewer samples or configurations than times, or when a shrinkage
    is asked for without samples.
    """
    if treatment == "diagonal":
        return np.diag(np.diag(covariance))
    if treatment == "shrink":
        if samples is None:
            raise UserError(
                f"{source}: covariance: shrink needs samples; a covariance alone cannot be shrunk", key="covariance"
            )
        return shrunk(covariance, samples)
    for n, what, remedy in (
        (None if samples is None else len(samples), "samples", "covariance: shrink or diagonal"),
        (count, "configurations", "covariance: diagonal"),
    ):
        if n is not None and n <= len(covariance):
            raise UserError(
                f"{source}: {n} {what} do not determine a covariance of {len(covariance)} times; "
                f"allowed remedies: {remedy}, or fewer times",
                key="covariance",
            )
    return covariance


def shrunk(covariance: Array, samples: Array) -> Array:
    """Return the covariance (t, t) of the mean of few ``samples`` (n, t), which do not determine it.

        Cov(t, t') = e(t) e(t') [(1 - lambda) R(t, t') + lambda r^|t - t'|]

    R is the correlation, r its mean between neighbouring times, and lambda by Ledoit and Wolf. Towards a diagonal the
    noise would average out over the times, which correlated noise does not do. A fit would follow the times whose
    errors are underestimated: so log e is that of the samples, drawn towards a polynomial in t with six times for each
    power, four at most: wholly where its mean squared distance d^2 is as of noise, which is 1/(2n - 2), and by
    4/(2n - 2)/d^2 where it is more than four times as large.
    """
    n, x = len(samples), (samples - samples.mean(axis=0)) / samples.std(axis=0, ddof=1)
    quoted = np.sqrt(np.diag(covariance))
    R, index = covariance / np.outer(quoted, quoted), np.arange(len(quoted))
    neighbours = np.clip(np.diag(R, 1).sum() / max(len(R) - 1, 1), 0, CLOSEST)
    target = neighbours ** np.abs(index[:, None] - index)
    intensity = ledoit_wolf(x, target)
    log_e, degree = np.log(quoted), max(0, min(4, len(index) // 6))
    distance = np.polyval(np.polyfit(index, log_e, degree), index) - log_e
    drawn = min(1.0, 2 / (n - 1) / max(float(np.mean(distance**2)), 1e-300))
    e = quoted * np.exp(drawn * distance)
    return ((1 - intensity) * R + intensity * target) * np.outer(e, e)


def ledoit_wolf(x: Array, target: Array) -> float:
    """Return the optimal shrinkage intensity of the covariance of centred samples x (n, t) to a multiple of a target.

    O. Ledoit and M. Wolf, J. Multivariate Anal. 88 (2004) 365, eqs. (8)-(14), whose target (t, t) is 1.
    """
    n, p = x.shape
    covariance = x.T @ x / n
    distance = np.sum((covariance - np.trace(covariance) / p * target) ** 2)
    fourth = np.sum((x**2).T @ (x**2)) / n - np.sum(covariance**2)
    return float(np.clip(fourth / n / distance, 0, 1))


def chi2_p_value(chi2: ArrayLike, dof: ArrayLike, samples: int | None = None) -> Array:
    """Return the probability of a chi^2 at least as large; 1 where there are no degrees of freedom.

    A covariance that was estimated from n ``samples`` makes chi^2 larger: chi^2 (n - d) / (d (n - 1)) then has the
    F distribution with d and n - d degrees of freedom (Hotelling, Ann. Math. Stat. 2 (1931) 360). d must be below n.

    >>> chi2_p_value(np.array([2.0, 0.0]), np.array([2, 0])).round(4).tolist()
    [0.3679, 1.0]
    """
    from scipy.special import chdtrc, fdtrc  # where it is needed, since a config is read without it

    d, chi2 = np.maximum(dof, 1), np.asarray(chi2)
    p = chdtrc(d, chi2) if samples is None else fdtrc(d, samples - d, chi2 * (samples - d) / (d * (samples - 1)))
    return np.where(np.asarray(dof) > 0, p, 1.0)


def synthetic(times: tuple[int, ...], mean: Array, r1: float, delta: float, tau: float) -> Noise:
    """Return noise of relative error r1 exp(delta (t - 1)) and correlation exp(-|t - t'| / tau) around ``mean``."""
    t = np.array(times, float)
    error = r1 * np.exp(delta * (t - 1)) * np.abs(mean)
    correlation = np.exp(-np.abs(t[:, None] - t) / tau)
    return Noise(times, mean, correlation * np.outer(error, error), "synthetic noise")
