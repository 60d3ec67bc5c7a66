"""The most probable rho >= 0 under a Gaussian prior, in closed form but for which of its parts are zero.

With rho(omega) = sum_i w_i delta(omega - omega_i) on a fine grid of cells d omega_i, and Cov = L L^T,

    min_{w >= 0} |L^-1 (C - K w) / s|^2 + sum_i w_i^2 / sd_i^2,    rho_sigma(E) = sum_i w_i f_sigma(omega_i, E),
    1 / sd_i^2 = 1 / (alpha^2 d omega_i omega_i^-q) + 1 / top_i^2,
    top_i = min_t [|C(t)| + 2 sd C(t)] / b_T(t, omega_i).

The prior is white noise, whose alpha is that of the largest evidence without the constraint, as in HLT by marginal
likelihood. But no weight can be above ``top`` where none is negative, since all of them add to C(t): the prior knows
that, too, or else energies below the lowest state, where b_T is larger by orders of magnitude, would decide over alpha.

At the minimum w = sd max(0, B^T r) with B = L^-1 K sd / s and the residual r, so that there are no more unknowns than
times, and Newton's method finds in some steps which w are zero. It is the non-negative least squares of C. L. Lawson
and R. J. Hanson, Solving Least Squares Problems, Prentice-Hall 1974, chapter 23, with a row for each w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.lapack import dgeqrf, dpotrf, dpotrs, dtrtrs
from scipy.optimize import minimize_scalar, nnls

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.estimators.protocol import Estimate, Estimator
from sdpipe.learn.audience import Audience
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import IMPOSSIBLE, Noise, chi2_p_value

CANDIDATES = 4000
"""Energies of which the grid of a correlator is made, geometric."""

ENDS = (0.2, 25.0)
"""The lowest is the first over the longest time; the highest is this far above the highest E, over the shortest."""

SHIFT = 1.0
"""Cells are so small that a state anywhere in one changes no C(t) by more than this share of its error."""

WIDEST = (0.1, 0.25)
"""Width of a cell in units of its energy and, where the smearing lives, of the smallest sigma."""

SMALLER = 7.0
"""How far below the least top the search for log alpha begins."""

UNSEEN = 1e-3
"""Directions of the data in which the prior has less than this share of the noise are left out."""

STEPS = 2000
"""Most steps of Newton's method: some ten for a continuum, some hundred for a few states known to many digits.

Data that no rho >= 0 is near to have no end: then those x are zero that are zero in the fit of the data alone."""

HURRIED = 50
"""Most steps for :meth:`Positive.hurried`."""

DEPENDENT = 1e-4
"""From this share of its square on that a column has beside those before it Cholesky's R is as good as that of Q R."""

JOINING = 16
"""So many x join in at once in the fit of the data alone."""


@dataclass(frozen=True, eq=False)
class Density:
    """rho_sigma(E) of the most probable rho >= 0 for correlators (..., t); arrays (..., sigma, E).

    Attributes
    ----------
    mean
        rho_sigma(E).
    statistical
        Error from that of C(t), as long as the same w are zero.
    systematic
        What the data leave open of those w that are not zero.
    chi2
        |L^-1 (C - K w) / s|^2, without the term of the prior, shape (...).
    penalty
        That term, |w / sd|^2, shape (...).
    samples
        rho_sigma(E) of bootstrap samples, shape (..., boot, sigma, E), where there were any.
    """

    mean: Array
    statistical: Array
    systematic: Array
    chi2: Array
    penalty: Array
    samples: Array | None = None

    @property
    def error(self) -> Array:
        """Both errors in quadrature; that w are zero is taken for certain, so that it is to be calibrated."""
        return np.hypot(self.statistical, self.systematic)


def least_chi2(kernel: Kernel, noise: Noise, C: Array, count: int | None) -> tuple[float, bool]:
    """Return the smallest chi^2 that any rho >= 0 has for one C (t,), and whether that explains the data.

    The covariance of the noise was estimated from ``count`` configurations. Raises UserError as a call of
    :class:`Positive` does.
    """
    energy = (1 / kernel.spacing,)
    chi2 = Positive.for_noise(Observables(kernel, noise.times, energy, energy), noise).least_chi2(C)
    return float(chi2), bool(chi2_p_value(chi2, np.array(C.size), count) >= IMPOSSIBLE)


@dataclass(frozen=True, eq=False)
class Positive:
    """The method for one (observables, noise, q).

    >>> from sdpipe.physics.kernels import Kernel
    >>> from sdpipe.physics.noise import synthetic
    >>> from sdpipe.physics.spectra import peaks
    >>> grid = Observables(Kernel("periodic", 32), tuple(range(1, 17)), (0.3,), (0.5, 1.0, 1.5))
    >>> C, truth = grid.split(peaks((0.4, 0.9), (0.6, 1.3)).integrals(grid))
    >>> positive = Positive.for_noise(grid, synthetic(grid.times, C, r1=1e-3, delta=0, tau=4))
    >>> bool((abs(positive(C).mean - truth) < 0.02 * truth.max()).all()), bool(positive.least_chi2(C) < 1)
    (True, True)

    Attributes
    ----------
    observables, noise, exponent
        As given.
    omega
        Candidates for the grid, in lattice units, shape (omega,).
    kernels, smearing
        b_T(t, omega) in lattice units, shape (t, omega), and f_sigma(omega, E), shape (column, omega), sigma by sigma.
    steps
        Most steps of Newton's method.
    """

    observables: Observables
    noise: Noise
    exponent: float
    omega: Array
    kernels: Array
    smearing: Array
    steps: int = STEPS

    @classmethod
    def for_noise(cls, observables: Observables, noise: Noise, exponent: float = 0.0) -> Positive:
        """Return the method for one exponent q of the prior.

        Raises UserError where the noise has other times.
        """
        if noise.times != observables.times:
            raise UserError(f"{noise.source}: times {noise.times}; the method positive has {observables.times}")
        o = observables.in_lattice_units
        lowest = ENDS[0] / o.fastest_decay
        highest = max(o.energies) + ENDS[1] / o.kernel.slowest_decay(o.times)
        omega = np.geomspace(lowest, highest, CANDIDATES)
        columns = o.columns(omega).T
        n = len(o.times)
        return cls(observables, noise, exponent, omega, np.ascontiguousarray(columns[:n]), columns[n:])

    @cached_property
    def inverse(self) -> Array:
        """1/|b_T(t, omega)|, shape (t, omega), infinite where it is no number above 0."""
        with np.errstate(divide="ignore", over="ignore"):
            return 1 / np.abs(self.kernels)

    @cached_property
    def bending(self) -> Array:
        """t^2 |b_T(t, omega)|, the second derivative of the kernel but for what the rest of its period adds."""
        return np.abs(self.kernels) * np.square(self.observables.in_lattice_units.times)[:, None]

    def __call__(self, C: ArrayLike) -> Density:
        """Return the answer for independent correlators C (..., t).

        Their noise is s L z, s = C(t_ref) / C_latt(t_ref), with its floor. Raises UserError where C has another number
        of times, is not finite or is zero at t_ref.
        """
        parts = [self._density(self._solved(self._cells(c))) for c in self._checked(C)]
        return _stacked(parts, np.shape(C)[:-1])

    def bootstrap(self, C: ArrayLike) -> Density:
        """Return the answer for the mean of C (boot, t), its samples, and as statistical error their deviation.

        In samples the same w are zero as in the mean, so that they are linear in C. Raises UserError as a call does.
        """
        C = np.asarray(C, float)
        density = self.around(C.mean(axis=0), C)
        return replace(density, statistical=density.samples.std(axis=0))

    def around(self, centre: ArrayLike, C: ArrayLike) -> Density:
        """Return the answer for each ``centre`` (..., t), with samples C (..., boot, t) around it.

        ``samples (..., boot, sigma, E)`` have the zeros of their centre. Raises UserError as a call does.
        """
        return self.for_priors(centre, C, (self.exponent,))[0]

    def hurried(self) -> Positive:
        """Return the method that stops after HURRIED steps, for many correlators that are to be roughly right."""
        return replace(self, steps=HURRIED)

    def for_priors(self, centre: ArrayLike, C: ArrayLike, exponents: Sequence[float]) -> list[Density]:
        """Return what :meth:`around` does for each q of ``exponents``, on the same grids."""
        flat = self._checked(centre)
        each = np.asarray(C, float).reshape(len(flat), -1, flat.shape[-1])
        solvers, parts = [replace(self, exponent=q) for q in exponents], []
        for c, samples in zip(flat, each, strict=True):
            cells, inside = self._cells(c), None
            for solver in solvers:
                solution = solver._solved(cells, inside)
                inside = solution.inside
                parts.append(self._density(solution, samples))
        return [_stacked(parts[i :: len(solvers)], np.shape(centre)[:-1]) for i in range(len(solvers))]

    def covariance(self, C: ArrayLike) -> Array:
        """Return the covariance, both errors in one, shape (..., sigma, E, sigma, E), for C (..., t).

        Its diagonal is the square of :attr:`Density.error`. Raises UserError as a call does.
        """
        shape = (len(self.observables.sigma), len(self.observables.energies))
        covariance = np.stack([self._solved(self._cells(c)).covariance for c in self._checked(C)])
        return covariance.reshape(*np.shape(C)[:-1], *shape, *shape)

    def least_chi2(self, C: ArrayLike) -> Array:
        """Return the smallest chi^2 (...) that any rho >= 0 has for C (..., t): whether one explains the data.

        Raises UserError as a call does.
        """
        least = [nnls(x.K * x.top, x.y, maxiter=10 * CANDIDATES)[1] ** 2 for x in map(self._cells, self._checked(C))]
        return np.reshape(least, np.shape(C)[:-1])

    def _checked(self, C: ArrayLike) -> Array:
        C = np.asarray(C, float)
        n = len(self.noise.times)
        if C.shape[-1:] != (n,):
            raise UserError(f"correlators of shape {C.shape}; the method positive takes (..., {n})")
        if not np.isfinite(C).all():
            raise UserError("correlators hold values that are not finite")
        if not self.noise.scale(C).all():
            raise UserError("a correlator is zero at t_ref; its noise has no scale")
        return C.reshape(-1, n)

    def _cells(self, C: Array) -> _Cells:
        """Return the grid for one C (t,): so fine that no C(t) says where in its cell a state is."""
        o, noise = self.observables.in_lattice_units, self.noise.at_scale(C)
        unit = self.observables.kernel.spacing**o.kernel.power
        s = np.abs(noise.scale(C))
        c = unit * C / s
        L = unit * noise.cholesky
        error = np.linalg.norm(L, axis=1)
        top = np.min((np.abs(c) + 2 * error)[:, None] * self.inverse, axis=0)
        width = WIDEST[0] * self.omega
        lives = (self.omega > min(o.energies) - 5 * max(o.sigma)) & (self.omega < max(o.energies) + 5 * max(o.sigma))
        width[lives] = np.minimum(width[lives], WIDEST[1] * min(o.sigma))
        moved = top * np.max(self.bending / error[:, None], axis=0)
        width = np.minimum(width, np.sqrt(8 * SHIFT / np.maximum(moved, 1e-300)))
        number = np.concatenate([[0], np.cumsum(np.diff(self.omega) * (1 / width[1:] + 1 / width[:-1]) / 2)])
        chosen = np.flatnonzero(np.diff(np.floor(number), prepend=-1))
        edges = self.omega[chosen]
        edges = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
        whitened = [dtrtrs(L, x, lower=1)[0] for x in (self.kernels[:, chosen], c)]
        return _Cells(float(s), chosen, self.omega[chosen], np.diff(edges), top[chosen], *whitened, L / unit)

    def _solved(self, cells: _Cells, start: NDArray[np.bool_] | None = None) -> _Solution:
        """Return the minimum on the grid of one C (t,); the search begins with only w at ``start`` (i,) not zero."""
        profile = np.sqrt(cells.width * cells.omega**-self.exponent)
        sd = cells.sd(cells.best_alpha(profile) * profile)
        B = cells.K * sd
        U, S = _directions(B)
        Vt = (U / S).T @ B
        x, R = _nonnegative(S, Vt, U.T @ cells.y, self.steps, start)
        inside = x > 0
        f = self.smearing[:, cells.chosen[inside]] * sd[inside]
        overlap = f @ Vt[:, inside].T
        gain = _solved_by(R, overlap.T).T
        response = cells.to_data(U @ (gain / S).T).T
        left = cells.y - cells.K @ (sd * x)
        noise = cells.s * gain / S
        parts = (cells.s * f, cells.s * overlap, cells.s * gain)
        return _Solution(parts[0] @ x[inside], response, noise, *parts, float(left @ left), float(x @ x), inside)

    def _density(self, solution: _Solution, samples: Array | None = None) -> Density:
        shape = (len(self.observables.sigma), len(self.observables.energies))
        statistical = np.sum(solution.noise**2, axis=1)
        systematic = np.maximum(solution.variance - statistical, 0)
        parts = (solution.mean, np.sqrt(statistical), np.sqrt(systematic))
        of_samples = None if samples is None else (samples @ solution.response.T).reshape(-1, *shape)
        chi2, penalty = np.array(solution.chi2), np.array(solution.penalty)
        return Density(*(part.reshape(shape) for part in parts), chi2, penalty, of_samples)


class MostProbable(Estimator):
    """:class:`Positive` with white noise as the prior, q = 0, for the noise of an audience."""

    summary = "the most probable rho >= 0"

    def __init__(self, audience: Audience) -> None:
        self.positive = Positive.for_noise(audience.observables, audience.noise)

    def estimate(self, C: ArrayLike, samples: ArrayLike | None = None) -> Estimate:
        """Return rho with both errors; samples have the zeros of their C."""
        C = np.asarray(C, float)
        density = self.positive.around(C, C[..., None, :] if samples is None else samples)
        return Estimate(density.mean, density.error, None if samples is None else density.samples)

    def covariance(self, C: ArrayLike) -> Array:
        """Return the covariance (sigma, E, E), both errors in one, for C (t,)."""
        return np.einsum("sesf->sef", self.positive.covariance(C))


@dataclass(frozen=True, eq=False)
class _Solution:
    """Mean (column,), its response (column, t) to C, the noise N (column, r) in it, chi^2, penalty.

    Its covariance is f f^T - ``overlap`` ``gain``^T, that of noise alone N N^T; f (column, weight), both others
    (column, r). ``inside`` (i,) says which weights are not zero.
    """

    mean: Array
    response: Array
    noise: Array
    f: Array
    overlap: Array
    gain: Array
    chi2: float
    penalty: float
    inside: NDArray[np.bool_]

    @property
    def covariance(self) -> Array:
        """Covariance (column, column), both errors in one."""
        return self.f @ self.f.T - self.overlap @ self.gain.T

    @property
    def variance(self) -> Array:
        """Its diagonal (column,)."""
        return np.einsum("ci,ci->c", self.f, self.f) - np.einsum("cr,cr->c", self.overlap, self.gain)


@dataclass(frozen=True, eq=False)
class _Cells:
    """The grid of one correlator, in lattice units and in units of its noise scale s.

    Which candidates are ``chosen`` (i,), omega, d omega and top (i,), L^-1 K (t, i), y = L^-1 C / s (t,), L.
    """

    s: float
    chosen: NDArray[np.intp]
    omega: Array
    width: Array
    top: Array
    K: Array
    y: Array
    L: Array

    def sd(self, size: Array) -> Array:
        """Return the standard deviations (i,) of a prior of that size, alpha (d omega omega^-q)^(1/2)."""
        return 1 / np.sqrt(1 / np.square(size) + 1 / np.square(self.top))

    @cached_property
    def seen(self) -> tuple[Array, Array]:
        """L^-1 K and y in the directions of the data that the largest prior has a signal in."""
        U, _ = _directions(self.K * self.top)
        return U.T @ self.K, U.T @ self.y

    def best_alpha(self, profile: Array) -> float:
        """Return alpha of the largest evidence, -[log det(1 + B B^T) + y (1 + B B^T)^-1 y] / 2.

        It falls from where too small an alpha does not fit the data to where all sd are ``top``.
        """
        K, z = self.seen
        ends = np.log(self.top / profile)
        own, least = profile**-2, self.top**-2
        best = minimize_scalar(
            lambda log_alpha: _loss(K, 1 / (np.exp(-2 * log_alpha) * own + least), z),
            bounds=(ends.min() - SMALLER, ends.max()),
            method="bounded",
            options={"xatol": 0.01},
        )
        return float(np.exp(best.x))

    def to_data(self, x: Array) -> Array:
        """Return L^-T x in units of 1/C."""
        return dtrtrs(self.L, x, lower=1, trans=1)[0]


def _directions(B: Array) -> tuple[Array, Array]:
    """Return the left singular vectors (t, r) of B (t, i) and its singular values (r,), those above UNSEEN.

    They are those of R of B^T = Q R, which is much smaller.
    """
    R, *_ = dgeqrf(B.T)
    U, S, _ = np.linalg.svd(np.triu(R[: len(B)]).T)
    return U[:, S > UNSEEN], S[S > UNSEEN]


def _loss(K: Array, variance: Array, z: Array) -> float:
    """Return log det(1 + G) + z (1 + G)^-1 z with G = K variance K^T."""
    L, _ = dpotrf((K * variance) @ K.T + np.eye(len(z)), lower=1)
    v, _ = dtrtrs(L, z, lower=1)
    return float(v @ v + 2 * np.log(L.diagonal()).sum())


def _nonnegative(
    S: Array, Vt: Array, z: Array, steps: int, start: NDArray[np.bool_] | None = None
) -> tuple[Array, Array]:
    """Return x = max(0, V u) with u / S^2 + V^T x = z / S, and R of R^T R = S^-2 + the V^T V of those that are not 0.

    x minimises |z - S V^T x|^2 + |x|^2 for x >= 0. It is the minimum of the convex function |u / S|^2 / 2 + |x|^2 / 2
    - z u / S, of Newton's method with the exact minimum along each step: the function is quadratic between points where
    an x becomes 0.
    """
    right, weight = z / S, S**-2
    u = right / (1 + weight) if start is None else _step(weight, Vt[:, start], right)[0]
    p = u @ Vt
    for _ in range(steps):
        inside = p > 0
        new, R = _step(weight, Vt[:, np.flatnonzero(inside)], right)
        ahead = new @ Vt
        if ((ahead > 0) == inside).all():
            return np.maximum(ahead, 0), R
        change = new - u
        length = _length(p, ahead, (weight * u - right) @ change, weight @ change**2)
        u, p = (new, ahead) if length == 1 else (u + length * change, p + length * (ahead - p))
    inside = _nearest(S[:, None] * Vt, z, np.flatnonzero(p > 0))
    u, R = _step(weight, Vt[:, inside], right)
    x = np.zeros(Vt.shape[1])
    x[inside] = np.maximum(u @ Vt[:, inside], 0)
    return x, R


def _step(weight: Array, Vt: Array, right: Array) -> tuple[Array, Array]:
    """Return u of (weight + V^T V) u = right, refined once, and R of R^T R = weight + V^T V."""
    moments = Vt @ Vt.T + np.diag(weight)
    R, fault = dpotrf(moments)
    if fault or (R.diagonal() ** 2 < DEPENDENT * moments.diagonal()).any():
        R = np.triu(dgeqrf(np.vstack([Vt.T, np.diag(np.sqrt(weight))]))[0][: len(right)])
    u = _solved_by(R, right)
    return u + _solved_by(R, right - weight * u - Vt @ (u @ Vt)), R


def _solved_by(R: Array, right: Array) -> Array:
    """Return the solution of R^T R x = right; LAPACK itself, since the checks of SciPy and NumPy take much longer."""
    return dpotrs(R, right)[0]


def _length(p: Array, ahead: Array, linear: float, square: float) -> float:
    """Return x in [0, 1] at the minimum of |max(0, p + x (ahead - p))|^2 / 2 + linear x + square x^2 / 2.

    Between the x at which one of these becomes zero its slope is a + b x.
    """
    inside, step = p > 0, ahead - p
    if np.maximum(ahead, 0) @ step + linear + square <= 0:
        return 1.0
    crossing = np.flatnonzero(inside != (ahead > 0))
    zero = -p[crossing] / step[crossing]
    order = np.argsort(zero)
    p_then, step_then = p[crossing[order]], step[crossing[order]]
    enters = np.sign(step_then)
    a = np.maximum(p, 0) @ step + linear + np.cumsum(np.concatenate([[0], enters * p_then * step_then]))
    b = inside @ step**2 + square + np.cumsum(np.concatenate([[0], enters * step_then**2]))
    k = np.argmax(a + b * np.concatenate([zero[order], [1]]) > 0)
    return float(min(max(-a[k] / b[k], 0), 1))


def _nearest(A: Array, z: Array, near: Array) -> Array:
    """Return which x are above 0 where |z - A x| has its minimum for x >= 0, from a guess which are ``near`` it.

    Those of the largest gradient join in as long as that makes |z - A x| smaller.
    """
    found, least, gradient = near, np.inf, z @ A
    while True:
        some = np.union1d(found, np.argsort(gradient)[-JOINING:])
        x, distance = nnls(A[:, some], z, maxiter=10 * CANDIDATES)
        if distance >= least:
            return found
        found, least = some[x > 0], distance
        gradient = (z - A[:, found] @ x[x > 0]) @ A


def _stacked(parts: list[Density], shape: tuple[int, ...]) -> Density:
    """Return all densities in one, of shape (...)."""
    stacked = {}
    for name in (f.name for f in fields(Density)):
        values = [getattr(part, name) for part in parts]
        if values[0] is not None:
            stacked[name] = np.stack(values).reshape(shape + values[0].shape)
    return Density(**stacked)
