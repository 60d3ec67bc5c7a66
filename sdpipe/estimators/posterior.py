"""The posterior of rho_sigma(E) given C(t) in closed form: a mixture of Gaussian processes.

Once a threshold E0 and an amplitude alpha are fixed, each kind of spectral density is Gaussian. With independent z of
mean 0 and variance 1, and energies in GeV,

    Chebyshev   rho = theta(omega - E0) alpha sum_{n=1}^{Nb-1} z_n n^(-1-epsilon) [T_n(x(omega)) - T_n(x(E0))] / sqrt 3
    levels      rho = theta(omega - E0) alpha [z_0 + z(omega)],  <z(omega) z(omega')> = omega^(-q) delta(omega - omega')

The first has the moments of :class:`~sdpipe.physics.spectra.ChebyshevPrior`. The second is a flat continuum under
independent levels, which the more resemble isolated states at low energies the larger q is. E0 is uniform as in that
prior, at Gauss-Legendre nodes; alpha is a power of 2, and q is 2, 4 or 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike, NDArray

from sdpipe.errors import UserError
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import FLOOR, Noise
from sdpipe.physics.quadrature import ThresholdQuadrature, nodes_and_weights
from sdpipe.physics.spectra import ChebyshevPrior

Array = NDArray[np.float64]

LEVELS = (2, 4, 6)
"""The exponents q of levels."""

AMPLITUDES = 2.0 ** np.arange(-4, 10)
"""Amplitudes alpha, in units of the one that gives correlators of the prior the size of C_latt."""

MODES = 12
"""Most principal components of rho_sigma(E) that the features are about."""

RESOLVED = 1e-12
"""Principal components whose variance is below this share of the largest are rounding."""

LEAST_NOISE = 3e-3
"""No correlator has a noise scale s below this share of the one that its size would give it."""

NEGLIGIBLE = 1e-6
"""Components of a smaller posterior weight are left out."""

MOST_TIMES = 256
"""Time slices that a posterior can have: it holds a matrix of them for each of its components."""

BLOCK = 512
"""Correlators treated at once: bounds the memory."""


@dataclass(frozen=True, eq=False)
class PriorMoments:
    """Second moments of C(t) and rho_sigma(E) in every Gaussian component, at alpha = 1.

    A component is a kind of spectral density with one threshold. Its factorised moments are

        <C C^T> = R^T R,    <C rho^T> = R^T X,    <rho rho^T> = X^T X + Y.

    C(t) carries a relative error ``floor``, independent at every time, which adds floor^2 <C(t)^2> to the diagonal of
    the first: where the signal-to-noise ratio is above 1/floor, the numbers themselves are not that good.

    Attributes
    ----------
    observables
        Kernel, times, sigma and energies.
    modes
        How many modes there are.
    sized
        Whether alpha is integrated over in units of the correlator's own size, or is 1.
    kind, E0, weight
        Kind of each component, 0 for Chebyshev, then those of ``LEVELS``; threshold; prior probability; shape (k,).
    root, cross
        R (k, t, t) and X (k, t, column); the columns are rho_sigma(E), sigma by sigma, and then modes: the first
        ``MODES`` principal components of rho_sigma(E) over the Chebyshev prior, fewer where sigma is large, of
        variance 1 there.
    rest, rest_variance
        The blocks of Y at one sigma, shape (k, sigma, E, E), and the diagonal of Y, shape (k, column).
    rms
        Root mean square of C(t) over the Chebyshev prior, shape (t,).
    floor
        Relative error of C(t).
    """

    observables: Observables
    modes: int
    sized: bool
    kind: NDArray[np.intp]
    E0: Array
    weight: Array
    root: Array
    cross: Array
    rest: Array
    rest_variance: Array
    rms: Array
    floor: float

    @classmethod
    @lru_cache(maxsize=8)
    def from_prior(
        cls,
        prior: ChebyshevPrior,
        observables: Observables,
        hierarchical: bool = True,
        nodes: int = 24,
        floor: float = FLOOR,
        seen: Observables | None = None,
    ) -> PriorMoments:
        """Return the moments of ``nodes`` components of each kind; those of the last calls are kept.

        Parameters
        ----------
        prior
            Its Nb, E0, epsilon and omega_max.
        observables
            Kernel, times, sigma and energies.
        hierarchical
            Whether there are levels beside the Chebyshev series, all kinds equally likely, and an amplitude that is
            integrated over. Otherwise the posterior is the Bayes limit of the prior.
        nodes
            Number of thresholds.
        floor
            Relative error of C(t).
        seen
            The same kernel and times, with the sigma and energies that the modes are those of; by default they are
            those of ``observables``.

        Raises UserError for fewer than two times.
        """
        if len(observables.times) < 2:
            raise UserError(f"a posterior needs two times or more; there are {len(observables.times)}", key="times")
        if prior.unit != 1:
            inside = [None if grid is None else grid.in_units(prior.unit) for grid in (observables, seen)]
            made = cls.from_prior(replace(prior, unit=1.0), inside[0], hierarchical, nodes, floor, inside[1])
            larger = prior.unit**observables.kernel.power
            return replace(made, observables=observables, root=larger * made.root, rms=larger * made.rms)
        low, high = prior.E0
        x, w = legendre.leggauss(nodes)
        E0 = low + (high - low) * (x + 1) / 2
        grids = [observables, *([] if seen is None else [seen])]
        quadratures = [prior.quadrature(grid) for grid in grids]
        n, count = len(observables.times), observables.count
        series = _once(n, [_chebyshev(prior, quadrature, E0) for quadrature in quadratures])
        pooled = (np.sqrt(w / 2)[:, None, None] * series).reshape(-1, series.shape[-1])
        shown = slice(n if seen is None else count, None)
        eigenvalues, vectors = np.linalg.eigh(pooled[:, shown].T @ pooled[:, shown])
        resolved = np.flatnonzero(eigenvalues > RESOLVED * eigenvalues[-1])[: -MODES - 1 : -1]
        vectors = vectors[:, resolved]  # of either sign: let the largest component be positive
        vectors = vectors * np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0))
        modes = vectors / np.sqrt(eigenvalues[resolved])
        factors = list(series)
        edges = np.unique(np.concatenate([quadrature.edges for quadrature in quadratures]))
        for q in LEVELS if hierarchical else ():
            factors += _levels(q, lambda omega: _once(n, [grid.columns(omega) for grid in grids]), edges, E0)
        reduced = [_reduce(F[:, :count], F[:, shown] @ modes, observables, floor) for F in factors]
        kinds = len(factors) // nodes
        return cls(
            observables,
            modes.shape[1],
            hierarchical,
            np.repeat(np.arange(kinds), nodes),
            np.tile(E0, kinds),
            np.tile(w / 2, kinds) / kinds,
            *(np.stack(arrays) for arrays in zip(*reduced, strict=True)),
            np.sqrt(np.sum(pooled[:, :n] ** 2, axis=0)),
            floor,
        )

    @property
    def features(self) -> int:
        """How many features an :class:`Estimate` has."""
        return 3 * self.modes + int(self.kind.max()) + 1 + 5

    def size(self, C: Array) -> Array:
        """Return the size (...) of C (..., t), its root mean square over t in units of ``rms``."""
        return np.sqrt(np.mean((C / self.rms) ** 2, axis=-1))


def _chebyshev(prior: ChebyshevPrior, quadrature: ThresholdQuadrature, E0: Array) -> Array:
    """Return the integrals (E0, n, column) of the terms of the series above each E0."""
    n = np.arange(1, prior.Nb)
    c = np.zeros((len(E0), n.size, prior.Nb))
    c[:, n - 1, n] = n ** -(1 + prior.epsilon) / np.sqrt(3)
    return quadrature(c.reshape(-1, prior.Nb), np.repeat(E0, n.size)).reshape(len(E0), n.size, -1)


def _once(times: int, parts: list[Array]) -> Array:
    """Return columns (..., column) of grids that have their first columns, those of ``times`` times, in common."""
    return np.concatenate([parts[0], *(part[..., times:] for part in parts[1:])], axis=-1)


def _levels(q: int, columns: Callable[[Array], Array], edges: Array, E0: Array) -> list[Array]:
    """Return for each E0, ascending, rows (row, column) with the moments of levels and continuum above it.

    F^T F = int d omega omega^(-q) K K^T + k k^T,    k = int d omega K,

    K the ``columns``, by a quadrature on panels between ``edges``, from the highest E0 down.
    """
    edges = np.union1d(edges, E0)
    cuts = [*np.searchsorted(edges, E0), len(edges) - 1]
    count = columns(E0[:1]).shape[1]
    rows, flat, factors = np.empty((0, count)), np.zeros(count), []
    for first, last in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
        omega, w = (a.ravel() for a in nodes_and_weights(edges[first : last + 1]))
        K = columns(omega)
        flat = flat + w @ K
        rows = np.linalg.qr(np.vstack([rows, np.sqrt(w * omega**-q)[:, None] * K]), mode="r")
        factors.append(np.vstack([rows, flat]))
    return factors[::-1]


def _reduce(F: Array, modes: Array, observables: Observables, floor: float) -> tuple[Array, Array, Array, Array]:
    """Return R, X, the blocks of Y and its diagonal, of moments with the factors F (row, column), modes (row, mode)."""
    n, shape = len(observables.times), (len(observables.sigma), len(observables.energies))
    C = np.vstack([F[:, :n], floor * np.diag(np.sqrt(np.sum(F[:, :n] ** 2, axis=0)))])
    rho = np.hstack([F[:, n:], modes])
    rho = np.vstack([rho, np.zeros((n, rho.shape[1]))])
    Q, R = np.linalg.qr(C)
    X = Q.T @ rho
    rest = rho - Q @ X
    columns = rest[:, : shape[0] * shape[1]].reshape(-1, *shape)
    Y = np.einsum("rse,rsf->sef", columns, columns, optimize=True)
    return R, X, Y, np.sum(rest**2, axis=0)


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

    >>> from sdpipe.physics.kernels import Kernel
    >>> from sdpipe.physics.noise import synthetic
    >>> from sdpipe.physics.spectra import delta_tanh
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
