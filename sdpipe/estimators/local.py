"""What networks see at one sigma and one energy: numbers that no kernel, no lattice and no unit of energy is in.

The posterior is that which integrates over the unit of energy (:meth:`PriorMoments.over_scales`); beside it stand the
most probable rho >= 0 for two priors. Networks correct the mean of that posterior in units of its standard deviation,
at any sigma and any energy: there is no grid between whose points they interpolate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from sdpipe.arrays import Array
from sdpipe.estimators.positive import Density, Positive
from sdpipe.estimators.posterior import Posterior, PosteriorEstimate
from sdpipe.estimators.prior_moments import SCALED_LEVELS, PriorMoments
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise

EXPONENTS = (0.0, 2.0)
"""q of the priors omega^-q of the positive solutions."""

SMALLEST = 1e-4
"""Ratios of errors count as no smaller than that."""

LARGEST = 30.0
"""No feature is larger."""

AT_ENERGY = 4 * len(EXPONENTS) + 11
"""Features that differ from energy to energy."""

OF_POSTERIOR = (-7, -6, -5, -3, -2, -1)
"""Which features of the posterior are here, too: all that do not belong to modes, but for the size of C_latt."""

FEATURES = AT_ENERGY + 5 + (1 + len(SCALED_LEVELS)) + len(OF_POSTERIOR) + 2 * len(EXPONENTS)
"""How many features there are."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What :class:`Local` returns for correlators (..., t) with bootstrap samples (..., boot, t).

    Attributes
    ----------
    mean
        Posterior mean of the samples at the weights of their correlator, shape (..., boot, sigma, E).
    sd
        Standard deviation of the posterior, shape (..., sigma, E).
    features
        Shape (..., boot, sigma, E, feature).
    estimate
        The posterior of the correlators, with its response.
    """

    mean: Array
    sd: Array
    features: Array
    estimate: PosteriorEstimate


@dataclass(frozen=True, eq=False)
class Local:
    """Features for one (observables, noise).

    With mean m and standard deviation s of the posterior, positive solutions M_q with their error b_q and its
    statistical part c_q, the scales u and E0 that the data have, the first and the last time t_1 and t_n in units of
    1/energy, they are at each (sigma, E)

        asinh((M_q - m)/s), log(b_q/s), log(c_q/s), asinh(M_q/s)         for each q
        asinh((M_0 - M_2)/s), asinh(m/s)
        log(sigma/u), log(sigma t_n), E/(3 u), log((E + 0.3 sigma)/u), (E - E0)/sigma, log(E0/u), log(u t_1),
        log(u t_n), E/(5 sigma)

    and at all of them log(1 + chi^2/n) of the posterior, log n, the logarithms of the relative error at the first time
    and of the smallest one, the kinds and ``OF_POSTERIOR`` of the features of the posterior, log(1 + x/n) of chi^2 and
    of the penalty of each positive solution, and (chi_0^2 - chi^2)/sqrt n.

    In bootstrap samples m and M_q are those of the sample, and everything else is that of their correlator.

    >>> from sdpipe.physics.kernels import Kernel
    >>> from sdpipe.physics.noise import synthetic
    >>> from sdpipe.physics.spectra import peaks
    >>> def seen(a):
    ...     grid = Observables(Kernel("periodic", 32, a), tuple(range(1, 17)), (0.3 / a,), (0.5 / a, 1.0 / a))
    ...     C, _ = grid.split(peaks((0.4 / a, 0.9 / a), (0.6 / a, 1.3 / a)).integrals(grid))
    ...     return Local.for_noise(grid, synthetic(grid.times, C, r1=1e-3, delta=0, tau=4))(C, C[None])
    >>> bool(np.allclose(seen(1.0).features, seen(0.05).features, atol=1e-6))
    True

    Attributes
    ----------
    posterior
        Over all units of energy.
    positive
        The most probable rho >= 0, of which there is one for each of ``EXPONENTS``.
    """

    posterior: Posterior
    positive: Positive

    @classmethod
    def for_noise(cls, observables: Observables, noise: Noise) -> Local:
        """Return the features for one grid and one noise."""
        return cls.around(Posterior.for_noise(PriorMoments.over_scales(observables, floor=noise.floor), noise))

    @classmethod
    def around(cls, posterior: Posterior) -> Local:
        """Return the features of a posterior over all units of energy."""
        return cls(posterior, Positive.for_noise(posterior.priors.observables, posterior.noise).hurried())

    def __call__(self, C: ArrayLike, samples: ArrayLike) -> Seen:
        """Return what networks see of C (..., t) with bootstrap ``samples`` (..., boot, t) around it.

        Raises UserError as the posterior does.
        """
        C, samples = np.asarray(C, float), np.asarray(samples, float)
        estimate = self.posterior(C, response=True)
        mean, _ = self.posterior.bootstrap(C, estimate, samples)
        return Seen(mean, estimate.sd, self.features(C, samples, estimate, mean, estimate.chi2), estimate)

    def features(self, C: Array, samples: Array, estimate: PosteriorEstimate, mean: Array, chi2: Array) -> Array:
        """Return the features alone, where ``estimate``, its ``mean`` of samples and ``chi2`` are known."""
        solutions = self.positive.for_priors(C, samples, EXPONENTS)
        at_energy = self._at_energy(estimate, mean, solutions)
        everywhere = self._everywhere(C, estimate, chi2, solutions, at_energy.shape[:-1])
        features = np.concatenate([at_energy, everywhere], axis=-1)
        return np.nan_to_num(features.clip(-LARGEST, LARGEST))

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """The first and the last time, in units of 1/energy."""
        kernel, times = self.posterior.priors.observables.kernel, self.posterior.priors.observables.times
        return kernel.spacing * times[0], kernel.spacing * times[-1]

    def _at_energy(self, estimate: PosteriorEstimate, mean: Array, solutions: list[Density]) -> Array:
        """Return what differs from energy to energy, shape (..., boot, sigma, E, feature)."""
        o = self.posterior.priors.observables
        sigma, E = np.array(o.sigma)[:, None], np.array(o.energies)
        s = np.maximum(estimate.sd, np.finfo(float).tiny)[..., None, :, :]
        u, E0 = (x[..., None, None, None] for x in (estimate.unit, estimate.threshold))
        first, last = self._ends
        parts = []
        for M in solutions:
            errors = [np.log(np.maximum(b[..., None, :, :] / s, SMALLEST)) for b in (M.error, M.statistical)]
            parts += [np.arcsinh((M.samples - mean) / s), *errors, np.arcsinh(M.samples / s)]
        parts += [np.arcsinh((solutions[0].samples - solutions[1].samples) / s), np.arcsinh(mean / s)]
        parts += [np.log(sigma / u), np.log(sigma * last), E / u / 3, np.log((E + 0.3 * sigma) / u)]
        parts += [((E - E0) / sigma).clip(-6, 10), np.log(E0 / u), np.log(u * first), np.log(u * last)]
        parts += [(E / sigma).clip(0, 20) / 5]
        return np.stack([np.broadcast_to(part, mean.shape) for part in parts], axis=-1)

    def _everywhere(
        self, C: Array, estimate: PosteriorEstimate, chi2: Array, solutions: list[Density], shape: tuple[int, ...]
    ) -> Array:
        """Return what is the same at all energies, of shape (..., boot, sigma, E), with an axis of features."""
        noise, n = self.posterior.noise, C.shape[-1]
        error = np.sqrt(np.diag(noise.covariance)) * np.abs(noise.scale(C))[..., None]
        relative = error / np.maximum(np.abs(C), 1e-3 * error)
        parts = [np.log1p(chi2 / n), np.full(chi2.shape, np.log(n)), np.log(relative[..., 0]), np.log(relative.min(-1))]
        parts += [*np.moveaxis(estimate.kinds, -1, 0), *np.moveaxis(estimate.features[..., OF_POSTERIOR], -1, 0)]
        parts += [np.log1p(x / n) for M in solutions for x in (M.chi2, M.penalty)]
        parts += [(solutions[0].chi2 - chi2) / np.sqrt(n)]
        each = np.stack([part.clip(-LARGEST / 2, LARGEST / 2) for part in parts], axis=-1)
        return np.broadcast_to(each[..., None, None, None, :], (*shape, each.shape[-1]))
