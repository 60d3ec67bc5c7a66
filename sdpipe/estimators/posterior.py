"""The posterior of rho_sigma(E) given C(t) in closed form: a mixture of Gaussian processes.

Its components, each Gaussian once a threshold and an amplitude alpha are fixed, and their second moments are those of
:class:`~sdpipe.estimators.prior_moments.PriorMoments`; alpha is a power of 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdpipe.errors import UserError
from sdpipe.estimators.prior_moments import PriorMoments
from sdpipe.physics.noise import Noise

Array = NDArray[np.float64]

AMPLITUDES = 2.0 ** np.arange(-4, 10)
"""Amplitudes alpha, in units of the one that gives correlators of the prior the size of C_latt."""

LEAST_NOISE = 3e-3
"""No correlator has a noise scale s below this share of the one that its size would give it."""

NEGLIGIBLE = 1e-6
"""Components of a smaller posterior weight are left out."""

MOST_TIMES = 256
"""Time slices that a posterior can have: it holds a matrix of them for each of its components."""

BLOCK = 512
"""Correlators treated at once: bounds the memory."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a posterior says of correlators (..., t).

    Attributes
    ----------
    mean, sd
        Posterior mean and standard deviation of rho_sigma(E), shape (..., sigma, E).
    kinds
        Posterior probability of each kind of spectral density, shape (..., kind).
    features
        What a network sees of it, shape (..., feature), the same for C and c C with any c > 0 where alpha is
        integrated over. With the size g of C, m and v the mean and standard deviation of the modes of rho_sigma(E),

            asinh(m/g), log(v/g), m/v cut at 30 and divided by 10    (mode)
            kinds                                                    (kind)
            <log alpha>, <E0>, sd(E0), log(g/(s g_latt)), (log evidence + n_t/2) / 20   (1 each).

        g_latt is the size of C_latt. In what noise they were made, and how many times n_t there are, is nowhere in them
        but through the posterior itself.
    response
        A with mean = C A: once the weights of the components are fixed at those of C, the mean is linear in C. Shape
        (..., t, column), the columns are rho_sigma(E), sigma by sigma, and then its modes; None where not asked for.
    """

    mean: Array
    sd: Array
    kinds: Array
    features: Array
    response: Array | None = None


@dataclass(frozen=True, eq=False)
class Posterior:
    """The posterior of rho_sigma(E) given noisy C(t) of one covariance, C = clean C + s L z, L L^T = Cov_latt.

    With L^-1 R^T = U S V^T in each component k, and amplitude a = alpha / s,

        d = U^T L^-1 C / s,    mean = s X^T V (a^2 S d / (1 + a^2 S^2)),
        covariance = s^2 a^2 [X^T V (1 + a^2 S^2)^-1 V^T X + Y],
        log w = log prior - sum_t [log(1 + a^2 S^2) + d^2 / (1 + a^2 S^2)] / 2,

    and mean and covariance of the mixture with weights w: within components and between them. Where alpha is
    integrated over, a takes the same values for every correlator, so that predictions for c C are c times those for C:
    exactly where c is a power of 2, to rounding otherwise.

    >>> from sdpipe.physics.kernels import Kernel, Observables
    >>> from sdpipe.physics.noise import synthetic
    >>> from sdpipe.physics.spectra import ChebyshevPrior, delta_tanh
    >>> grid = Observables(Kernel("vector", 32), tuple(range(1, 17)), (0.44, 0.63), (0.5, 1.0, 1.5))
    >>> C, truth = grid.split(delta_tanh().integrals(grid))
    >>> noise = synthetic(grid.times, C, r1=1e-3, delta=0, tau=4)
    >>> estimate = Posterior.for_noise(PriorMoments.from_prior(ChebyshevPrior(64), grid), noise)(C)
    >>> bool((abs(estimate.mean - truth) < 2 * estimate.sd).all())
    True

    Attributes
    ----------
    priors, noise
        Moments of the components; the noise.
    rotation
        L^-T U, shape (k, t, t).
    singular
        S, shape (k, t).
    cross
        V^T X, shape (k, t, column).
    """

    priors: PriorMoments
    noise: Noise
    rotation: Array
    singular: Array
    cross: Array

    @classmethod
    def for_noise(cls, priors: PriorMoments, noise: Noise) -> Posterior:
        """Return the posterior for one covariance.

        Raises UserError where the noise has other times than the moments.
        """
        if noise.times != priors.observables.times:
            raise UserError(f"{noise.source}: times {noise.times}; the posterior has {priors.observables.times}")
        L = noise.cholesky
        U, S, Vt = np.linalg.svd(np.linalg.solve(L, priors.root.transpose(0, 2, 1)))
        return cls(priors, noise, np.linalg.solve(L.T, U), S, Vt @ priors.cross)

    def __call__(self, C: ArrayLike, response: bool = False) -> Estimate:
        """Return what the posterior says of C (..., t), with or without its response.

        Raises UserError where C has another number of times, is zero at all of them, or is not finite.
        """
        flat, shape = self._flattened(C)
        parts = [self._estimate(flat[low : low + BLOCK], response) for low in range(0, max(len(flat), 1), BLOCK)]
        return Estimate(*(np.concatenate(a).reshape(*shape, *a[0].shape[1:]) for a in zip(*parts, strict=True)))

    def bootstrap(self, C: ArrayLike, estimate: Estimate, samples: ArrayLike) -> tuple[Array, Array]:
        """Return mean (..., boot, sigma, E) and features (..., boot, feature) of bootstrap ``samples`` (..., boot, t).

        ``estimate`` is that of C (..., t), the mean of the data, with its response. The weights of the components, and
        with them standard deviations and all features but the modes, are those of C for every sample: noise on noise
        would make a sample look like less likely data than C is.
        """
        columns, size = self.cross.shape[-1] - self.priors.modes, self.priors.size
        both = np.asarray(samples, float) @ estimate.response
        modes = self.priors.modes * np.arange(1, 4)
        features = np.repeat(estimate.features[..., None, :], both.shape[-2], axis=-2)
        m, v = both[..., columns:] / size(np.asarray(C))[..., None, None], np.exp(features[..., modes[0] : modes[1]])
        features[..., : modes[0]], features[..., modes[1] : modes[2]] = _of_modes(m, v)
        return both[..., :columns].reshape(*both.shape[:-1], *estimate.mean.shape[-2:]), features

    def resolved(self, C: ArrayLike, estimate: Estimate) -> Array:
        """Return the covariance (..., sigma, E, E) of the mean under the noise s L z of C (..., t), at fixed weights.

            A^T s^2 Cov_latt A,    A the response of ``estimate``

        What is left of the posterior covariance is what the data do not resolve; it is positive semi-definite.
        """
        o = self.priors.observables
        A = estimate.response[..., : len(o.sigma) * len(o.energies)]
        A = A.reshape(*A.shape[:-1], len(o.sigma), len(o.energies))
        s = self._noise_scale(np.asarray(C, float))[..., None, None]
        L = np.einsum("ut,...use->...tse", self.noise.cholesky, A) * s[..., None]
        return np.einsum("...tse,...tsf->...sef", L, L)

    def covariance(self, C: ArrayLike) -> Array:
        """Return the posterior covariance between energies, shape (..., sigma, E, E), for C (..., t).

        Its diagonal is the square of the standard deviation. Raises UserError as a call does.
        """
        flat, shape = self._flattened(C)
        parts = [self._covariance(flat[low : low + BLOCK]) for low in range(0, max(len(flat), 1), BLOCK)]
        return np.concatenate(parts).reshape(*shape, *parts[0].shape[1:])

    def implied(self, C: ArrayLike) -> Array:
        """Return the correlator (..., t) of the posterior mean of rho(omega), for C (..., t), in the units of C.

        Within a component, with F the part of R^T R that is the floor's, which no rho makes,

            C_implied = s (L U S^2 - F L^-T U) (a^2 d / (1 + a^2 S^2)).

        Data that a rho of the prior makes are at about the distance of their noise from it. Raises UserError as a call
        does.
        """
        flat, shape = self._flattened(C)
        parts = [self._implied(flat[low : low + BLOCK]) for low in range(0, max(len(flat), 1), BLOCK)]
        return np.concatenate(parts).reshape(*shape, -1)

    def _flattened(self, C: ArrayLike) -> tuple[Array, tuple[int, ...]]:
        C, n = np.asarray(C, float), len(self.noise.times)
        if C.shape[-1:] != (n,):
            raise UserError(f"correlators of shape {C.shape}; the posterior takes (..., {n})")
        if not np.isfinite(C).all():
            raise UserError("correlators hold values that are not finite")
        if not C.any(axis=-1).all():
            raise UserError("a correlator is zero at every time; it has no posterior")
        return C.reshape(-1, n), C.shape[:-1]

    def _noise_scale(self, C: Array) -> Array:
        """Return s = |C(t_ref) / C_latt(t_ref)| (...), or the least that the size of C (..., t) allows."""
        size = self.priors.size(C) if self.priors.sized else 1.0
        return np.maximum(np.abs(self.noise.scale(C)), LEAST_NOISE * size / self.priors.size(self.noise.mean))

    def _weighted(self, C: Array) -> _Weighted:
        """Return the weights of every component and amplitude for C (n, t)."""
        s = self._noise_scale(C)
        d = C / s[:, None] @ self.rotation
        a2 = (AMPLITUDES[:, None] * self.priors.size(self.noise.mean) if self.priors.sized else 1 / s[None]) ** 2
        variance = 1 + a2[:, :, None] * self.singular[:, None, None] ** 2  # (k, alpha, n or 1, t)
        if self.priors.sized:
            chi2 = (1 / variance[:, :, 0]) @ (d**2).transpose(0, 2, 1)
        else:
            chi2 = np.sum(d[:, None] ** 2 / variance, axis=-1)
        log_w = np.log(self.priors.weight / len(a2))[:, None, None] - (np.log(variance).sum(axis=-1) + chi2) / 2
        top = log_w.max(axis=(0, 1))
        w = np.exp(log_w - top)
        log_evidence = top + np.log(w.sum(axis=(0, 1)))
        w[w < NEGLIGIBLE * w.sum(axis=(0, 1))] = 0
        w /= w.sum(axis=(0, 1))
        return _Weighted(s, d, np.broadcast_to(a2, w.shape[1:]), w, log_evidence)

    def _gaussians(self, at: _Weighted) -> Iterator[tuple[int, _Gaussians]]:
        """Yield, for each component k, the Gaussian posteriors in units of s at the amplitudes that have a weight."""
        for k, w in enumerate(at.w):
            row, alpha = np.nonzero(w.T)
            a2 = at.a2[alpha, row][:, None]
            damped = a2 / (1 + a2 * self.singular[k] ** 2)
            mean = damped * self.singular[k] * at.d[k, row] @ self.cross[k]
            yield k, _Gaussians(row, w[alpha, row][:, None], a2, damped, mean)

    def _estimate(self, C: Array, response: bool) -> tuple[Array, ...]:
        at, o = self._weighted(C), self.priors.observables
        gaussians = list(self._gaussians(at))
        mean, variance = np.zeros((2, len(C), self.cross.shape[-1]))
        for _, g in gaussians:
            g.add_to(mean, g.mean)
        for k, g in gaussians:
            within = g.damped @ self.cross[k] ** 2 + g.a2 * self.priors.rest_variance[k]
            g.add_to(variance, within + (g.mean - mean[g.row]) ** 2)
        mean, sd = at.s[:, None] * mean, at.s[:, None] * np.sqrt(variance)
        kinds = at.w.sum(axis=1).T @ (self.priors.kind[:, None] == np.unique(self.priors.kind))
        columns, shape = len(o.sigma) * len(o.energies), (len(C), len(o.sigma), len(o.energies))
        features = self._features(at, self.priors.size(C), mean[:, columns:], sd[:, columns:], kinds)
        made = mean[:, :columns].reshape(shape), sd[:, :columns].reshape(shape), kinds, features
        return (*made, self._response(gaussians, len(C))) if response else made

    def _response(self, gaussians: list[tuple[int, _Gaussians]], count: int) -> Array:
        """Return A (n, t, column) with mean = C A at fixed weights."""
        total = np.zeros((count, self.cross.shape[1], self.cross.shape[-1]))
        for k, g in gaussians:
            gain = np.zeros((count, self.cross.shape[1]))
            g.add_to(gain, g.damped * self.singular[k])
            rows = np.unique(g.row)
            total[rows] += (self.rotation[k] * gain[rows, None]) @ self.cross[k]
        return total

    def _features(self, at: _Weighted, size: Array, mean: Array, sd: Array, kinds: Array) -> Array:
        """Return the features (n, feature) from the size (n,), and mean and standard deviation of the modes."""
        m, v, component = mean / size[:, None], sd / size[:, None], at.w.sum(axis=1).T
        E0 = component @ self.priors.E0
        numbers = [
            at.w.sum(axis=0).T @ np.log(AMPLITUDES if self.priors.sized else [1.0]),
            E0,
            np.sqrt(np.sum(component * (self.priors.E0 - E0[:, None]) ** 2, axis=1)),
            np.log(size / (at.s * self.priors.size(self.noise.mean))),
            (at.log_evidence + len(self.noise.times) / 2) / 20,
        ]
        modes, ratios = _of_modes(m, v)
        return np.hstack([modes, np.log(v), ratios, kinds, np.stack(numbers, axis=1)])

    def _implied(self, C: Array) -> Array:
        at, made, share = self._weighted(C), np.zeros(C.shape), self.priors.floor**2 / (1 + self.priors.floor**2)
        for k, g in self._gaussians(at):
            clean = self.noise.covariance @ self.rotation[k] * self.singular[k] ** 2
            clean -= share * np.sum(self.priors.root[k] ** 2, axis=0)[:, None] * self.rotation[k]
            g.add_to(made, g.damped * at.d[k, g.row] @ clean.T)
        return at.s[:, None] * made

    def _covariance(self, C: Array) -> Array:
        at, (sigmas, E) = self._weighted(C), self.priors.rest.shape[1:3]
        gaussians = list(self._gaussians(at))
        mean, covariance = np.zeros((len(C), self.cross.shape[-1])), np.zeros((len(C), sigmas, E, E))
        for _, g in gaussians:
            g.add_to(mean, g.mean)
        for k, g in gaussians:
            deviation = g.mean - mean[g.row]
            for i in range(sigmas):
                block = slice(i * E, (i + 1) * E)
                X, off = np.sqrt(g.damped)[:, :, None] * self.cross[k, :, block], deviation[:, block]
                within = X.transpose(0, 2, 1) @ X + g.a2[:, :, None] * self.priors.rest[k, i]
                g.add_to(covariance[:, i], within + off[:, :, None] * off[:, None, :])
        return at.s[:, None, None, None] ** 2 * covariance


def _of_modes(m: Array, v: Array) -> tuple[Array, Array]:
    """Return the features of modes with mean m and standard deviation v, relative to the size of C."""
    return np.arcsinh(m), np.clip(m / v, -30, 30) / 10


@dataclass(frozen=True, eq=False)
class _Weighted:
    """Noise scales s (n,), data d (k, n, t), squared amplitudes a^2 and weights w (k, alpha, n), log evidence (n,)."""

    s: Array
    d: Array
    a2: Array
    w: Array
    log_evidence: Array


@dataclass(frozen=True, eq=False)
class _Gaussians:
    """Gaussian posteriors of one component, in the order of the correlators that they belong to.

    Correlator ``row`` (g,), its weight and a^2 (g, 1), a^2 / (1 + a^2 S^2) (g, t), mean (g, column).
    """

    row: NDArray[np.intp]
    weight: Array
    a2: Array
    damped: Array
    mean: Array

    def add_to(self, total: Array, values: Array) -> None:
        """Add the weighted sum of ``values`` (g, ...) over the Gaussians of each correlator to ``total`` (n, ...)."""
        if self.row.size:
            first = np.flatnonzero(np.diff(self.row, prepend=-1))
            weight = self.weight.reshape(-1, *[1] * (values.ndim - 1))
            total[self.row[first]] += np.add.reduceat(weight * values, first, axis=0)
