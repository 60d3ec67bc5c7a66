"""What a correlator is, before anything is computed from it: errors, effective mass, correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdpipe.arrays import Array
from sdpipe.correlators import statistics
from sdpipe.correlators.correlator import Correlator
from sdpipe.physics.kernels import Kernel

KNOWN_MASS = 0.1
"""Relative error of an effective mass from which on it says nothing of the lowest state."""

FALLING = 1.5
"""A late effective mass is at most that many times the lowest energy, unless something is wrong."""


def effective_mass(C: Array, covariance: Array, kernel: Kernel) -> tuple[Array, Array]:
    """Return the effective mass (t,) of C (t,) at neighbouring slices in GeV, and its error; NaN where there is none.

        a m(t) = log[C(t) / C(t + 1)]                              without images, the last one NaN
        a m(t) = arcosh[(C(t - 1) + C(t + 1)) / (2 C(t))]          with images at T - t, the first and the last one NaN

    A single state, C ~ exp(-m t) or cosh or sinh of m (t - T/2), has its mass at every t. The error is linear in that
    of C.

    >>> C = np.cosh(0.5 * (np.arange(5.0) - 4))
    >>> effective_mass(C, 1e-6 * np.eye(5), Kernel("periodic", 8))[0][1:4].round(12).tolist()
    [0.5, 0.5, 0.5]
    """
    mass, error = np.full((2, len(C)), np.nan)
    with np.errstate(all="ignore"):
        if kernel.parity:
            x = (C[:-2] + C[2:]) / (2 * C[1:-1])
            mass[1:-1], slope, rows = np.arccosh(x), 1 / np.sqrt(x**2 - 1), np.arange(1, len(C) - 1)
            gradient = np.zeros((len(rows), len(C)))
            for step, value in ((-1, 1 / (2 * C[1:-1])), (0, -x / C[1:-1]), (1, 1 / (2 * C[1:-1]))):
                gradient[np.arange(len(rows)), rows + step] = slope * value
        else:
            mass[:-1], rows = np.log(C[:-1] / C[1:]), np.arange(len(C) - 1)
            gradient = np.zeros((len(rows), len(C)))
            gradient[rows, rows], gradient[rows, rows + 1] = 1 / C[:-1], -1 / C[1:]
        error[rows] = np.sqrt(np.einsum("it,tu,iu->i", gradient, covariance, gradient))
    error[~np.isfinite(mass)] = np.nan
    return mass / kernel.spacing, error / kernel.spacing


def resampled(correlator: Correlator, kernel: Kernel, linear: Array) -> Array:
    """Return the error (t,) of the effective mass from the samples of a correlator, NaN where it has none.

    That of bootstrap means is their standard deviation; that of bins of configurations is the jackknife's,

        error^2 = (n - 1)/n sum_i (m_i - <m>)^2,    m_i without bin i,

    times what the errors of C(t) are larger by than those of the bins. Neighbouring times of few configurations are
    correlated, which a covariance that only a larger number of them determines does not know. Where a sample has no
    mass, the ``linear`` error stays.
    """
    samples = correlator.samples
    if correlator.dim == "boot":
        masses, weight, larger = samples, 1 / len(samples), 1.0
    else:
        bins = statistics.binned(samples, correlator.facts["correlation_bin"])
        n = len(bins)
        masses, weight = (bins.sum(axis=0) - bins) / (n - 1), (n - 1) / n
        own = np.sqrt(np.diag(statistics.covariance_of_mean(bins)))
        larger = np.sqrt(np.diag(correlator.covariance)) / own
    unknown = np.eye(samples.shape[1])
    values = np.stack([effective_mass(C, unknown, kernel)[0] for C in masses])
    error = larger * np.sqrt(weight * np.sum((values - values.mean(axis=0)) ** 2, axis=0))
    return np.where(np.isfinite(error), error, linear)


@dataclass(frozen=True, eq=False)
class Survey:
    """A correlator looked at.

    Attributes
    ----------
    correlator, kernel
        The data, at all of their times, and the kernel that they are taken to have.
    relative
        Relative error (t,) of C(t).
    mass, mass_error
        Effective mass (t,) and its error in GeV, see :func:`effective_mass`.
    eigenvalues
        Those of the correlation matrix, ascending (t,).
    """

    correlator: Correlator
    kernel: Kernel
    relative: Array
    mass: Array
    mass_error: Array
    eigenvalues: Array

    @classmethod
    def from_correlator(cls, correlator: Correlator, kernel: Kernel) -> Survey:
        """Look at a correlator."""
        error = np.sqrt(np.diag(correlator.covariance))
        mass, mass_error = effective_mass(correlator.mean, correlator.covariance, kernel)
        if correlator.samples is not None:
            mass_error = resampled(correlator, kernel, mass_error)
        eigenvalues = np.linalg.eigvalsh(correlator.covariance / np.outer(error, error))
        return cls(correlator, kernel, error / np.abs(correlator.mean), mass, mass_error, eigenvalues)

    @property
    def late_mass(self) -> float | None:
        """The effective mass in GeV at the latest time at which it is known to KNOWN_MASS; None where at no time.

        It is about that of the lowest state.
        """
        with np.errstate(invalid="ignore"):
            known = np.flatnonzero((self.mass > 0) & (self.mass_error < KNOWN_MASS * self.mass))
        return float(self.mass[known[-1]]) if known.size else None

    def doubts(self, E0: tuple[float, float]) -> list[str]:
        """Return what is doubtful where the spectral density is said to begin within ``E0``, in GeV.

        The effective mass of a positive one is never below where it begins, and late ones are not far above.
        """
        mass = self.late_mass
        if mass is None or E0[0] <= mass <= FALLING * E0[1]:
            return []
        return [
            f"doubtful: the effective mass falls to {mass:.3g}, and spectra.E0 is {E0[0]:g} to {E0[1]:g}: are "
            "lattice.spacing and spectra.E0 right?"
        ]

    def usable(self, largest: float) -> tuple[int, int] | None:
        """Return first and last of the longest run of times t >= 1 whose relative error is below ``largest``."""
        times, best = np.array(self.correlator.times), None
        good = (self.relative < largest) & (times > 0)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
        for low, high in zip(edges[::2], edges[1::2] - 1, strict=True):
            if best is None or high - low > best[1] - best[0]:
                best = low, high
        return None if best is None else (int(times[best[0]]), int(times[best[1]]))
