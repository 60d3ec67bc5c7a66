"""The posterior of rho_sigma(E) given C(t) in closed form: a mixture of Gaussian processes.

Its components, each Gaussian once a threshold and an amplitude alpha are fixed, and their second moments are those of
:class:`~sdpipe.estimators.prior_moments.PriorMoments`; alpha is a power of 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.estimators.prior_moments import PriorMoments
from sdpipe.estimators.protocol import Estimate, Estimator
from sdpipe.learn.audience import Audience
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise

OTHER = {"periodic": "exponential", "periodic-odd": "exponential", "exponential": "periodic"}
"""With a period, and without one: the kernel that data are held against, to tell a wrong one."""

DECISIVE = 7.0
"""Logarithm of a ratio of evidences, of a factor of 1,000, from which on a kernel is called wrong."""

AMPLITUDES = 2.0 ** np.arange(-4, 10)
"""Amplitudes alpha, in units of the one that gives correlators of the prior the size of C_latt."""

SCALED_AMPLITUDES = 2.0 ** np.arange(-2, 26)
"""The same where the unit is integrated over: a component then has |L^-1 C| on average what C_latt has.

Noise that is correlated in time is far below its diagonal in some directions. A C(t) that is not like C_latt can be
10^7 times as large as that there, and has no component that explains it where amplitudes end too early.
"""

REACH = float(np.log(len(SCALED_AMPLITUDES) / 10))
"""The log evidence, which networks see, is that for an alpha known to a factor 2^10, however far amplitudes reach."""

LARGEST_FLOOR = 30.0
"""In chi^2 the floor is at most that of the data times this: what else the components allow, no data need."""

LEAST_NOISE = 3e-3
"""No correlator has a noise scale s below this share of the one that its size would give it."""

NEGLIGIBLE = 1e-6
"""Components of a smaller posterior weight are left out."""

FAINT = 0.05
"""Directions in which components at the largest amplitude have less variance than this share of the noise, on average,
are left out where it is only asked which of them have a weight."""

BLOCK = 512
"""Correlators treated at once: bounds the memory."""


@dataclass(frozen=True, eq=False)
class PosteriorEstimate:
    """What a posterior says of correlators (..., t).

    Attributes
    ----------
    mean, sd
        Posterior mean and standard deviation of rho_sigma(E), shape (..., sigma, E).
    kinds
        Posterior probability of each kind of spectral density, shape (..., kind).
    log_evidence
        Logarithm of the probability density of L^-1 C / s, but for its factor (2 pi)^(-t/2), shape (...).
    unit, threshold
        exp<log u> and exp<log E0> in GeV, u the unit of energy: the scales that the data have. Shape (...).
    chi2, dof
        As :meth:`Posterior.goodness` returns them, shape (...); None without the response.
    features
        What a network sees of it, shape (..., feature), the same for C and c C with any c > 0 where alpha is
        integrated over. With the size g of C, m and v the mean and standard deviation of the modes of rho_sigma(E),

            asinh(m/g), log(v/g), m/v cut at 30 and divided by 10    (mode)
            kinds                                                    (kind)
            <log alpha>, <E0>, sd(E0), log(g/(s g_latt)), (log evidence + n_t/2) / 20   (1 each).

        Where the unit is integrated over, log E0 in units of ``unit`` for E0, and log(a ``unit``), sd(log u) at the end
        (1 each), so that they are the same for the same data in other units of energy. g_latt is the size of C_latt. In
        what noise they were made, and how many times n_t there are, is nowhere in them but through the posterior
        itself.
    response
        A with mean = C A: once the weights of the components are fixed at those of C, the mean is linear in C. Shape
        (..., t, column), the columns are rho_sigma(E), sigma by sigma, and then its modes; None where not asked for.
    """

    mean: Array
    sd: Array
    kinds: Array
    features: Array
    log_evidence: Array
    unit: Array
    threshold: Array
    chi2: Array | None = None
    dof: Array | None = None
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
    exactly where c is a power of 2, to rounding otherwise. Where the unit of energy is, too, they are the same for the
    same data in another unit.

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
    """

    priors: PriorMoments
    noise: Noise

    @classmethod
    def for_noise(cls, priors: PriorMoments, noise: Noise) -> Posterior:
        """Return the posterior for one covariance.

        Raises UserError where the noise has other times than the moments.
        """
        if noise.times != priors.observables.times:
            raise UserError(f"{noise.source}: times {noise.times}; the posterior has {priors.observables.times}")
        return cls(priors, noise)

    @cached_property
    def _decomposed(self) -> tuple[Array, Array, Array]:
        L = self.noise.cholesky
        U, S, Vt = np.linalg.svd(np.linalg.solve(L, self.priors.root.transpose(0, 2, 1)))
        return np.linalg.solve(L.T, U), S, Vt @ self.priors.cross

    @property
    def rotation(self) -> Array:
        """L^-T U, shape (k, t, t)."""
        return self._decomposed[0]

    @property
    def singular(self) -> Array:
        """S, shape (k, t)."""
        return self._decomposed[1]

    @property
    def cross(self) -> Array:
        """V^T X, shape (k, t, column)."""
        return self._decomposed[2]

    def __call__(self, C: ArrayLike, response: bool = False) -> PosteriorEstimate:
        """Return what the posterior says of C (..., t), with or without its response.

        Raises UserError where C has another number of times, is zero at all of them, or is not finite.
        """
        flat, shape = self._flattened(C)
        parts = [near._estimate(block, response) for block, near in self._blocks(flat)]
        return PosteriorEstimate(
            *(np.concatenate(a).reshape((*shape, *a[0].shape[1:])) for a in zip(*parts, strict=True))
        )

    def bootstrap(self, C: ArrayLike, estimate: PosteriorEstimate, samples: ArrayLike) -> tuple[Array, Array]:
        """Return mean (..., boot, sigma, E) and features (..., boot, feature) of bootstrap ``samples`` (..., boot, t).

        ``estimate`` is that of C (..., t), the mean of the data, with its response. The weights of the components, and
        with them standard deviations and all features but the modes, are those of C for every sample: noise on noise
        would make a sample look like less likely data than C is.
        """
        columns, size = self.priors.cross.shape[-1] - self.priors.modes, self.priors.size
        both = np.asarray(samples, float) @ estimate.response
        modes = self.priors.modes * np.arange(1, 4)
        features = np.repeat(estimate.features[..., None, :], both.shape[-2], axis=-2)
        m, v = both[..., columns:] / size(np.asarray(C))[..., None, None], np.exp(features[..., modes[0] : modes[1]])
        features[..., : modes[0]], features[..., modes[1] : modes[2]] = _of_modes(m, v)
        return both[..., :columns].reshape(*both.shape[:-1], *estimate.mean.shape[-2:]), features

    def resolved(self, C: ArrayLike, estimate: PosteriorEstimate) -> Array:
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
        parts = [near._covariance(block) for block, near in self._blocks(flat)]
        return np.concatenate(parts).reshape(*shape, *parts[0].shape[1:])

    def implied(self, C: ArrayLike) -> Array:
        """Return the correlator (..., t) of the posterior mean of rho(omega), for C (..., t), in the units of C.

        Within a component, with F the part of R^T R that is the floor's, which no rho makes,

            C_implied = s (L U S^2 - F L^-T U) (a^2 d / (1 + a^2 S^2)).

        Data that a rho of the prior makes are at about the distance of their noise from it. Raises UserError as a call
        does.
        """
        flat, shape = self._flattened(C)
        return np.concatenate([near._fitted(block)[0] for block, near in self._blocks(flat)]).reshape(*shape, -1)

    def other_kernel(self, C: Array) -> tuple[str, float] | None:
        """Return the kernel of ``OTHER`` and by how much the log evidence of C (t,) is larger with it.

        None where that is not more than DECISIVE, or there is no other kernel. Both evidences are of all units of
        energy and of the same noise. Nothing comes back from T - t without a period, and C(t) is flat at T/2 with one:
        data that reach there tell the two apart.

        >>> from sdpipe.physics.kernels import Kernel
        >>> from sdpipe.physics.noise import synthetic
        >>> from sdpipe.physics.spectra import peaks
        >>> grid = Observables(Kernel("periodic", 24), tuple(range(1, 13)), (0.3,), (0.5,))
        >>> C, _ = grid.split(peaks((0.4, 0.9), (0.2, 0.7)).integrals(grid))
        >>> noise = synthetic(grid.times, C, r1=1e-3, delta=0, tau=4)
        >>> Posterior.for_noise(PriorMoments.over_scales(grid), noise).other_kernel(C) is None
        True
        >>> wrong = Observables(Kernel("exponential", 24), grid.times, (0.3,), (0.5,))
        >>> Posterior.for_noise(PriorMoments.over_scales(wrong), noise).other_kernel(C)[0]
        'periodic'
        """
        o, log = self.priors.observables, []
        if o.kernel.name not in OTHER:
            return None
        other = OTHER[o.kernel.name]
        for kernel in (o.kernel, replace(o.kernel, name=other)):
            grid = Observables(kernel, o.times, o.sigma[:1], o.energies[:1])
            posterior = Posterior.for_noise(PriorMoments.over_scales(grid, floor=self.priors.floor), self.noise)
            log.append(float(posterior.log_evidence(C)))
        return (other, log[1] - log[0]) if log[1] - log[0] > DECISIVE else None

    def log_evidence(self, C: ArrayLike) -> Array:
        """Return the log evidence (...) of C (..., t) in units of its noise scale: how probable C is before the data.

        Raises UserError as a call does.
        """
        flat, shape = self._flattened(C)
        return np.concatenate([near._weighted(block).log_evidence for block, near in self._blocks(flat)]).reshape(shape)

    def goodness(self, C: ArrayLike) -> tuple[Array, Array]:
        """Return chi^2 (...) of C (..., t) about :meth:`implied`, and its degrees of freedom (...).

        The covariance is s^2 (Cov_latt + a^2 F), with F the part of R^T R that is the floor's, bounded by
        (LARGEST_FLOOR floor C)^2: data far from all components then have a large chi^2. Along each direction the
        posterior mean takes the share a^2 S^2 / (1 + a^2 S^2) of the data; over draws of a component the mean of chi^2
        is what it leaves,

            dof = sum_k [1 + a^2 (U^T L^-1 F L^-T U)_kk] / (1 + a^2 S_k^2),

        which is not whole and never zero, and chi^2 has nearly the distribution of that name. Raises UserError as a
        call does.
        """
        flat, shape = self._flattened(C)
        parts = [near._fitted(block)[1:] for block, near in self._blocks(flat)]
        chi2, dof = (np.concatenate(arrays).reshape(shape) for arrays in zip(*parts, strict=True))
        return chi2, dof

    def _blocks(self, C: Array) -> Iterator[tuple[Array, Posterior]]:
        """Yield blocks of correlators (n, t), each with the posterior that holds the components with a weight there."""
        for low in range(0, max(len(C), 1), BLOCK):
            block = C[low : low + BLOCK]
            yield block, self._near(block) if self.priors.scaled and len(block) else self

    def _near(self, C: Array) -> Posterior:
        """Return the posterior with those components alone that have a weight for one of C (n, t) or another."""
        rotation, singular, size = self._screen
        s = self._noise_scale(C)
        a2 = (SCALED_AMPLITUDES[:, None] * size[:, None, None]) ** 2
        w, _ = _weights(self.priors.weight, singular, C / s[:, None] @ rotation, a2, NEGLIGIBLE / 100)
        return Posterior(self.priors.take(np.flatnonzero(w.any(axis=(1, 2)))), self.noise)

    @cached_property
    def _screen(self) -> tuple[Array, Array, Array]:
        """A rotation (k, t, r), S (k, r), and the amplitudes (k,) of components that are of the size of C_latt.

        Directions are those r that any component has a signal in: eigenvectors of the sum of all their moments. What
        is lost in squares is below the rounding that ``floor`` stands for.
        """
        inverse = solve_triangular(self.noise.cholesky, np.eye(len(self.noise.times)), lower=True)
        whitened = inverse @ self.priors.root.transpose(0, 2, 1)
        size = self._own_size(np.sqrt(np.sum(whitened**2, axis=(1, 2))))
        signal = (SCALED_AMPLITUDES[-1] * size[:, None, None] * whitened).transpose(1, 0, 2).reshape(len(inverse), -1)
        eigenvalues, directions = np.linalg.eigh(signal @ signal.T / len(whitened))
        shown = directions[:, eigenvalues > FAINT]
        moments = shown.T @ whitened
        eigenvalues, vectors = np.linalg.eigh(moments @ moments.transpose(0, 2, 1))
        return (inverse.T @ shown) @ vectors, np.sqrt(np.maximum(eigenvalues, 0)), size

    def _own_size(self, extent: Array) -> Array:
        """Return the amplitudes of components of |L^-1 R^T| = ``extent`` that are of the size of C_latt."""
        return np.linalg.norm(solve_triangular(self.noise.cholesky, self.noise.mean, lower=True)) / extent

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
        size = self.priors.size(C) if self.priors.normalised else 1.0
        return np.maximum(np.abs(self.noise.scale(C)), LEAST_NOISE * size / self.priors.size(self.noise.mean))

    def _weighted(self, C: Array) -> _Weighted:
        """Return the weights of every component and amplitude for C (n, t)."""
        s = self._noise_scale(C)
        d = C / s[:, None] @ self.rotation
        reach = 0.0
        if self.priors.scaled:
            own, reach = self._own_size(np.linalg.norm(self.singular, axis=1)), REACH
            a2 = (SCALED_AMPLITUDES[:, None] * own[:, None, None]) ** 2
        elif self.priors.normalised:
            a2 = (AMPLITUDES[:, None] * self.priors.size(self.noise.mean))[None] ** 2
        else:
            a2 = (1 / s[None, None]) ** 2
        w, log_evidence = _weights(self.priors.weight, self.singular, d, a2, NEGLIGIBLE)
        w /= w.sum(axis=(0, 1))
        return _Weighted(s, d, a2, w, log_evidence + reach)

    def _gaussians(self, weighted: _Weighted) -> Iterator[tuple[int, _Gaussians]]:
        """Yield, for each component k, the Gaussian posteriors in units of s at the amplitudes that have a weight."""
        component, row, alpha = np.nonzero(weighted.w.transpose(0, 2, 1))
        a2 = np.broadcast_to(weighted.a2, weighted.w.shape)[component, alpha, row][:, None]
        S = self.singular[component]
        damped = a2 / (1 + a2 * S**2)
        every = (row, weighted.w[component, alpha, row][:, None], a2, damped, damped * S * weighted.d[component, row])
        ends = np.searchsorted(component, np.arange(len(weighted.w) + 1))
        for k, (first, last) in enumerate(pairwise(ends)):
            if last > first:
                yield k, _Gaussians(*(part[first:last] for part in every))

    def _estimate(self, C: Array, response: bool) -> tuple[Array, ...]:
        weighted, o = self._weighted(C), self.priors.observables
        damped, a2, _ = collapsed = self._collapsed(weighted)
        mean = self._mean(weighted, damped)
        variance = self._variance(weighted, damped, a2, mean)
        mean, sd = weighted.s[:, None] * mean, weighted.s[:, None] * np.sqrt(variance)
        kinds = weighted.w.sum(axis=1).T @ (self.priors.kind[:, None] == np.arange(self.priors.kinds))
        columns, shape = len(o.sigma) * len(o.energies), (len(C), len(o.sigma), len(o.energies))
        features = self._features(weighted, self.priors.size(C), mean[:, columns:], sd[:, columns:], kinds)
        component = weighted.w.sum(axis=1).T
        scales = [np.exp(component @ np.log(x)) for x in (self.priors.unit, self.priors.unit * self.priors.E0)]
        parts = (
            mean[:, :columns].reshape(shape),
            sd[:, :columns].reshape(shape),
            kinds,
            features,
            weighted.log_evidence,
            *scales,
        )
        if not response:
            return parts
        goodness = self._goodness(C, self._implied(weighted, damped), weighted, collapsed)
        return *parts, *goodness, self._response(weighted, damped)

    def _collapsed(self, weighted: _Weighted) -> tuple[Array, Array, Array]:
        """Return sums over alpha of w / (1 + a^2 S^2) times a^2, of w a^2, and of w / (1 + a^2 S^2) summed over t.

        Shapes (k, n, t), (k, n, 1) and (k, n).
        """
        a2 = weighted.a2[..., None]
        left = 1 / (1 + a2 * self.singular[:, None, None] ** 2)
        each = np.concatenate(
            [a2 * left, np.broadcast_to(a2, (*left.shape[:3], 1)), left.sum(axis=-1, keepdims=True)], axis=-1
        )
        if a2.shape[2] == 1:
            total = weighted.w.transpose(0, 2, 1) @ each[:, :, 0]
        else:
            total = np.sum(weighted.w[..., None] * each, axis=1)  # of the one alpha that there is then
        return total[..., :-2], total[..., -2:-1], total[..., -1]

    def _mean(self, weighted: _Weighted, damped: Array) -> Array:
        """Return the mean (n, column) in units of s."""
        return _summed(weighted, damped * self.singular[:, None] * weighted.d, self.cross)

    def _variance(self, weighted: _Weighted, damped: Array, a2: Array, mean: Array) -> Array:
        """Return the variance (n, column) in units of s^2, within components and between them."""
        each = np.concatenate([self.cross**2, self.priors.rest_variance[:, None]], axis=1)
        variance = _summed(weighted, np.concatenate([damped, a2], axis=-1), each)
        for k, g in self._gaussians(weighted):
            deviation = g.coefficients @ self.cross[k]
            deviation -= mean[g.row]
            g.add_to(variance, np.square(deviation, out=deviation))
        return variance

    def _response(self, weighted: _Weighted, damped: Array) -> Array:
        """Return A (n, t, column) with mean = C A at fixed weights."""
        _, n, columns = self.cross.shape
        total, gain = np.zeros((len(weighted.s), n, columns)), damped * self.singular[:, None]
        for k, w in enumerate(weighted.w):
            rows = np.flatnonzero(w.any(axis=0))
            total[rows] += (self.rotation[k] * gain[k, rows, None]) @ self.cross[k]
        return total

    def _features(self, weighted: _Weighted, size: Array, mean: Array, sd: Array, kinds: Array) -> Array:
        """Return the features (n, feature) from the size (n,), and mean and standard deviation of the modes."""
        m, v, component, priors = mean / size[:, None], sd / size[:, None], weighted.w.sum(axis=1).T, self.priors
        alphas = SCALED_AMPLITUDES if priors.scaled else AMPLITUDES if priors.normalised else [1.0]
        if priors.scaled:
            unit, spread = _mean_and_sd(component, np.log(priors.observables.kernel.spacing * priors.unit))
            E0, width = _mean_and_sd(component, np.log(priors.observables.kernel.spacing * priors.unit * priors.E0))
            scales, more = [E0 - unit, width], [unit, spread]
        else:
            scales, more = [*_mean_and_sd(component, priors.E0)], []
        numbers = [
            weighted.w.sum(axis=0).T @ np.log(alphas),
            *scales,
            np.log(size / (weighted.s * priors.size(self.noise.mean))),
            (weighted.log_evidence + len(self.noise.times) / 2) / 20,
            *more,
        ]
        modes, ratios = _of_modes(m, v)
        return np.hstack([modes, np.log(v), ratios, kinds, np.stack(numbers, axis=1)])

    def _fitted(self, C: Array) -> tuple[Array, Array, Array]:
        """Return the implied correlators (n, t) of C (n, t), chi^2 about them and its degrees of freedom (n,)."""
        weighted = self._weighted(C)
        collapsed = self._collapsed(weighted)
        implied = self._implied(weighted, collapsed[0])
        return implied, *self._goodness(C, implied, weighted, collapsed)

    def _implied(self, weighted: _Weighted, damped: Array) -> Array:
        """Return the implied correlators (n, t)."""
        clean = self.noise.covariance @ self.rotation * self.singular[:, None] ** 2
        clean -= self._floor[:, :, None] * self.rotation
        return weighted.s[:, None] * _summed(weighted, damped * weighted.d, clean.transpose(0, 2, 1))

    @cached_property
    def _floor(self) -> Array:
        """The diagonal (k, t) of F, what the floor adds to <C C^T>."""
        return self.priors.floor**2 / (1 + self.priors.floor**2) * np.sum(self.priors.root**2, axis=1)

    def _goodness(
        self, C: Array, implied: Array, weighted: _Weighted, collapsed: tuple[Array, Array, Array]
    ) -> tuple[Array, Array]:
        """Return chi^2 (n,) of C (n, t) about the ``implied`` ones (n, t), and its degrees of freedom (n,)."""
        (damped, a2, left), s = collapsed, weighted.s[:, None]
        most, off = (LARGEST_FLOOR * self.priors.floor * C / s) ** 2, (C - implied) / s
        floor = np.minimum(np.sum(a2 * self._floor[:, None], axis=0), most)[:, :, None] * np.eye(off.shape[1])
        chi2 = np.einsum("nt,nt->n", off, np.linalg.solve(self.noise.covariance + floor, off[..., None])[..., 0])
        along = np.einsum("kt,ktj->kj", self._floor, self.rotation**2)
        return chi2, left.sum(axis=0) + np.einsum("knj,kj->n", damped, along)

    def _covariance(self, C: Array) -> Array:
        weighted, (sigmas, E) = self._weighted(C), self.priors.rest.shape[1:3]
        mean, covariance = self._mean(weighted, self._collapsed(weighted)[0]), np.zeros((len(C), sigmas, E, E))
        for k, g in self._gaussians(weighted):
            deviation = g.coefficients @ self.cross[k] - mean[g.row]
            for i in range(sigmas):
                block = slice(i * E, (i + 1) * E)
                X, off = np.sqrt(g.damped)[:, :, None] * self.cross[k, :, block], deviation[:, block]
                within = X.transpose(0, 2, 1) @ X + g.a2[:, :, None] * self.priors.rest[k, i]
                g.add_to(covariance[:, i], within + off[:, :, None] * off[:, None, :])
        return weighted.s[:, None, None, None] ** 2 * covariance


class ClosedForm(Estimator):
    """The posterior mean with its standard deviation, which networks also correct."""

    summary = "mean and error of the closed-form posterior"

    def __init__(self, audience: Audience) -> None:
        grid, floor = audience.observables, audience.noise.floor
        if audience.scaled:
            moments = PriorMoments.over_scales(grid, floor=floor)
        else:
            moments = PriorMoments.from_prior(audience.prior, grid, floor=floor)
        self.posterior = Posterior.for_noise(moments, audience.noise)
        self._known: tuple[Array, PosteriorEstimate] | None = None
        self._last: tuple[PosteriorEstimate, Array, Array, Array] | None = None

    def of(self, C: Array) -> PosteriorEstimate:
        """Return the posterior of C (..., t) with its response.

        That of the last call is kept, since networks, the estimator and what checks the data ask for the same.
        """
        if self._known is None or self._known[0] is not C:
            self._known = (C, self.posterior(C, response=True))
        return self._known[1]

    def with_features(self, C: Array, samples: Array) -> tuple[PosteriorEstimate, Array, Array]:
        """Return :meth:`of` C (..., t), and mean and features of its bootstrap ``samples`` (..., boot, t)."""
        estimate = self.of(C)
        if self._last is None or self._last[0] is not estimate or self._last[1] is not samples:
            self._last = (estimate, samples, *self.posterior.bootstrap(C, estimate, samples))
        return estimate, *self._last[2:]

    def goodness(self, C: Array) -> tuple[Array, Array]:
        """Return chi^2 and degrees of freedom :meth:`of` C (..., t)."""
        estimate = self.of(C)
        return estimate.chi2, estimate.dof

    def estimate(self, C: ArrayLike, samples: ArrayLike | None = None) -> Estimate:
        """Return mean and standard deviation; the weights of the components are those of C for every sample."""
        if samples is None:
            posterior, mean = self.posterior(C), None
        else:
            posterior, mean, _ = self.with_features(C, samples)
        return Estimate(posterior.mean, posterior.sd, mean)

    def covariance(self, C: ArrayLike) -> Array:
        """Return the posterior covariance (sigma, E, E) between energies for C (t,)."""
        return self.posterior.covariance(C)


def _of_modes(m: Array, v: Array) -> tuple[Array, Array]:
    """Return the features of modes with mean m and standard deviation v, relative to the size of C."""
    return np.arcsinh(m), np.clip(m / v, -30, 30) / 10


def _weights(prior: Array, singular: Array, d: Array, a2: Array, negligible: float) -> tuple[Array, Array]:
    """Return the weights (k, alpha, n) of components, in units of the largest, and the log evidence (n,).

    ``prior`` (k,), S (k, t), d (k, n, t), a^2 (k or 1, alpha, n or 1). Those ``negligible`` beside their sum are zero.
    """
    variance = 1 + a2[..., None] * singular[:, None, None] ** 2
    if a2.shape[2] == 1:
        log_w = (-0.5 / variance[:, :, 0]) @ (d**2).transpose(0, 2, 1)
    else:
        log_w = np.sum(-0.5 * d[:, None] ** 2 / variance, axis=-1)
    log_w += np.log(prior / a2.shape[1])[:, None, None] - np.log(variance).sum(axis=-1) / 2
    top = log_w.max(axis=(0, 1))
    log_w -= top
    w = np.exp(log_w, out=log_w)
    total = w.sum(axis=(0, 1))
    w *= w >= negligible * total
    return w, top + np.log(total)


def _summed(weighted: _Weighted, values: Array, columns: Array) -> Array:
    """Return the sum (n, column) over components of values (k, n, t) times columns (k, t, column).

    Few components have a weight for a correlator: the others are left out.
    """
    total = np.zeros((values.shape[1], columns.shape[-1]))
    for k, has_weight in enumerate(weighted.w.any(axis=1)):
        rows = np.flatnonzero(has_weight)
        if rows.size:
            total[rows] += values[k, rows] @ columns[k]
    return total


def _mean_and_sd(weight: Array, x: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation (n,) of x (k,) with weights (n, k)."""
    mean = weight @ x
    return mean, np.sqrt(np.sum(weight * (x - mean[:, None]) ** 2, axis=1))


@dataclass(frozen=True, eq=False)
class _Weighted:
    """Noise scales s (n,), data d (k, n, t), squared amplitudes a^2 (k or 1, alpha, n or 1), weights w (k, alpha, n),
    log evidence (n,).
    """

    s: Array
    d: Array
    a2: Array
    w: Array
    log_evidence: Array


@dataclass(frozen=True, eq=False)
class _Gaussians:
    """Gaussian posteriors of one component, in the order of the correlators that they belong to.

    Correlator ``row`` (g,), its weight and a^2 (g, 1), a^2 / (1 + a^2 S^2) (g, t), and the coefficients (g, t) of V^T X
    in the mean.
    """

    row: NDArray[np.intp]
    weight: Array
    a2: Array
    damped: Array
    coefficients: Array

    def add_to(self, total: Array, values: Array) -> None:
        """Add the weighted sum of ``values`` (g, ...) over the Gaussians of each correlator to ``total`` (n, ...)."""
        if self.row.size:
            first = np.flatnonzero(np.concatenate([[True], self.row[1:] != self.row[:-1]]))
            weight = self.weight.reshape(-1, *[1] * (values.ndim - 1))
            total[self.row[first]] += np.add.reduceat(weight * values, first, axis=0)
