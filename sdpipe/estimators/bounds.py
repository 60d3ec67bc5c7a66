"""Bounds on rho_sigma(E) that hold for every rho >= 0 that the data allow, without a prior.

    upper(E) = max { int f rho : rho >= 0, |L^-1 (C - int b rho)|^2 <= r^2 },   Cov = L L^T,

where r^2 is the quantile of chi^2 with n_t degrees of freedom: with the probability of ``level`` the truth is among
these rho, and then inside the bounds at all E, sigma and smearings at once ("strict bounds": P. B. Stark, Inference in
infinite dimensional inverse problems, Technical Report 261, Berkeley 1990; M. Kuusela and P. B. Stark,
arXiv:1512.00905). The dual is a second-order cone programme,

    upper(E) = min_h { d.h + r |h| : sum_k h_k Q_k(omega) >= f(omega) for all omega >= E0 },  d = L^-1 C,  Q = L^-1 b,

and any h that obeys the constraints gives a bound that is valid, if not the best. So the constraints are imposed on a
grid, those most violated between its points are added and the programme is solved anew; what violation is left, at
maxima that are refined in the continuum, is repaired by adding a kernel b_T(t, omega) > 0, whose cost is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack, solve_triangular
from scipy.sparse import csc_matrix
from scipy.special import chdtri

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.estimators.protocol import Bounded
from sdpipe.learn.audience import Audience
from sdpipe.physics.kernels import Observables, to_digits
from sdpipe.physics.noise import Noise

STEP = 0.15
"""Distance of constraints, in units of the smallest sigma."""

FINER = 8
"""How much finer the grid is on which violations are looked for."""

KEPT = 1e-4
"""Directions of h whose signal is below this share of their noise for the typical density are left out."""

ROUNDS = 10
"""Most times that violated constraints are added."""

NEGLIGIBLE = 2e-3
"""No more are added when the repair costs less than this share of r |h|."""

WIDEST = 1e5
"""Largest |h|: bounds wider than about this times the typical density are not found."""

REPAIR = 0.05
"""A bound is certified when its repair costs less than this share of half the distance between the bounds."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Strict bounds for one (observables, noise, E0, level).

    >>> from sdpipe.physics.kernels import Kernel
    >>> from sdpipe.physics.noise import synthetic
    >>> from sdpipe.physics.spectra import o3
    >>> grid = Observables(Kernel("vector", 32), tuple(range(1, 17)), (0.44,), (0.5, 1.5))
    >>> C, truth = grid.split(o3(1.0).integrals(grid))
    >>> at = Bounds.for_noise(grid, synthetic(grid.times, C, r1=1e-3, delta=0, tau=4), E0=0.2)(C)
    >>> bool((at.lower < truth).all() and (truth < at.upper).all()), bool(at.certified.all())
    (True, True)

    Attributes
    ----------
    observables, noise, E0, level
        As given.
    rotation
        d = C rotation, shape (t, k).
    size
        Signal over noise of each direction for the typical density, shape (k,).
    typical
        The unit of rho, a flat density that gives C_latt its size: median over t of |C_latt(t)| / int b_T(t, omega).
    omega, fine
        Grids of the constraints and of the search for violations in GeV.
    """

    observables: Observables
    noise: Noise
    E0: float
    level: float
    rotation: Array
    size: Array
    typical: float
    omega: Array
    fine: Array

    @classmethod
    def for_noise(cls, observables: Observables, noise: Noise, E0: float = 0.0, level: float = 0.683) -> Bounds:
        """Return the programme for densities that are zero below E0 in GeV.

        Raises UserError without clarabel, where the noise has other times, and where no bound is finite: E0 is 0 and
        b_T(t, 0) is 0, or the smearing falls more slowly than C(t) or diverges at 0.
        """
        solver()
        o = observables
        if noise.times != o.times:
            raise UserError(f"{noise.source}: times {noise.times}; the bounds have {o.times}")
        if not 0 < level < 1:
            raise UserError(f"level is {level:g}; it must be between 0 and 1", key="level")
        if E0 < 0 or (E0 == 0 and (o.kernel.vanishes or o.smearing.pole)):
            raise UserError(
                f"E0 is {E0:g}: densities at omega = 0 are not seen in C(t), so that no bound is finite; "
                "it must be above 0, below every threshold that rho may have",
                key="E0",
            )
        if not o.bounded:
            raise UserError(
                f"smearing {o.smearing.name} falls more slowly than C(t) at its earliest time: no bound is finite; "
                "allowed: a smaller sigma, or a smearing that falls faster"
            )
        omega, fine = _grid(o, E0, STEP), _grid(o, E0, STEP / FINER)
        L = noise.cholesky
        b, width = o.kernel(np.array(o.times), omega[:-1, None]), np.gradient(omega[:-1])
        typical = float(np.median(np.abs(noise.mean) / (width @ b)))
        b = b * np.sqrt(width)[:, None]
        S, _, V, work, _, info = lapack.dgejsv(
            np.asfortranarray(solve_triangular(L, b.T, lower=True).T), joba=0, jobu=0, jobv=0
        )
        if info:
            raise RuntimeError(f"dgejsv: info = {info}")
        S = S * (work[0] / work[1]) / np.sqrt(o.kernel.spacing)
        kept = max(1, int(np.sum(S * typical > KEPT)))
        return cls(
            o,
            noise,
            E0,
            level,
            solve_triangular(L.T, V[:, :kept], lower=False),
            S[:kept] * typical,
            typical,
            omega,
            fine,
        )

    def rows(self, omega: Array) -> Array:
        """Return typical Q_k(omega) / b_T(t_0, omega), shape (omega, k); t_0 is the time of the slowest decay.

        The last of a grid is infinite: there the ratio is 1 for t_0, and 0 for all other times.
        """
        o, t = self.observables, np.array(self.observables.times)
        finite = np.minimum(omega, self.fine[-2])
        first, shift = self._first, o.kernel.slowest_decay(t)
        b = o.kernel(t, finite[:, None], shift=shift) / o.kernel(t[first], finite, shift=shift)[:, None]
        b[np.isinf(omega)] = np.arange(len(t)) == first
        return b @ self.rotation * self.typical

    def targets(self, omega: Array, sigma: Array | None = None, E: Array | None = None) -> Array:
        """Return f(omega) / b_T(t_0, omega), shape (omega, sigma, E), by default on the grids; 0 at infinity."""
        o = self.observables
        finite, shift = np.minimum(omega, self.fine[-2]), o.kernel.slowest_decay(o.times)
        sigma = np.array(o.sigma)[:, None] if sigma is None else sigma
        E = np.array(o.energies) if E is None else E
        grown = o.smearing.grown(E, finite[:, None, None], sigma, o.kernel.spacing * shift)
        f = grown / o.kernel(o.times[self._first], finite, shift=shift)[:, None, None]
        f[np.isinf(omega)] = 0
        return f

    def _target_at(self, i: int, j: int) -> Callable[[Array], Array]:
        """Return f(omega) / b_T(t_0, omega) at one sigma and E, as a function of omega (omega,)."""
        sigma, E = np.array([[self.observables.sigma[i]]]), np.array([self.observables.energies[j]])
        return lambda omega: self.targets(omega, sigma, E)[:, 0, 0]

    def __call__(self, C: ArrayLike) -> Bounded:
        """Return the bounds of one correlator C (t,), whose noise is s L z, s = C(t_ref) / C_latt(t_ref).

        Raises UserError where C has another number of times, is not finite, or is zero at t_ref.
        """
        C, o = np.asarray(C, float), self.observables
        if C.shape != (len(o.times),):
            raise UserError(f"a correlator of shape {C.shape}; bounds take ({len(o.times)},)")
        if not np.isfinite(C).all():
            raise UserError("the correlator holds values that are not finite")
        s = float(np.abs(self.noise.scale(C)))
        if s == 0:
            raise UserError("the correlator is zero at t_ref; its noise has no scale")
        d, quantile = C @ self.rotation / s, float(chdtri(len(o.times), 1 - self.level))
        _, least, support = self._solved(_Programme(d, 0.0, np.zeros(len(self.fine)), 1, _zero), np.empty(0))
        chi2_min = least**2
        shape = (len(o.sigma), len(o.energies))
        bounds, cost = np.full((2, *shape), np.nan), np.full((2, *shape), np.nan)
        excluded = bool(chi2_min > quantile)
        near = [support, support]
        for i, j in np.ndindex(*shape) if not excluded else ():
            for k, sign in enumerate((-1, 1)):
                p = _Programme(d, np.sqrt(quantile), self._fine_targets[:, i, j], sign, self._target_at(i, j))
                cost[k, i, j], bounds[k, i, j], added = self._solved(p, near[k])
                near[k] = np.union1d(support, added)
        half = (bounds[1] - bounds[0]) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            repair = cost.max(axis=0) / half
            certified = np.isfinite(repair) & (repair < REPAIR) & (half > 0)
        bounds[:, ~certified] = np.nan
        unit = s * self.typical
        return Bounded(unit * bounds[0], unit * bounds[1], certified, chi2_min, quantile, excluded, repair)

    @cached_property
    def _first(self) -> int:
        t, T = np.array(self.observables.times), self.observables.kernel.period
        return int(np.argmin(np.minimum(t, T - t) if self.observables.kernel.parity else t))

    @cached_property
    def _beside(self) -> Array:
        """Where constraints are added beside a violated one, in GeV."""
        step = STEP / FINER * min(self.observables.sigma)
        return step * np.array([-4.0, -2.0, -1.0, 1.0, 2.0, 4.0])

    @cached_property
    def _scale(self) -> Array:
        """Unknowns are h times this."""
        return np.maximum(self.size, 1.0)

    @cached_property
    def _fine_rows(self) -> Array:
        return self.rows(self.fine)

    @cached_property
    def _fine_targets(self) -> Array:
        return self.targets(self.fine)

    @cached_property
    def _coarse(self) -> NDArray[np.intp]:
        """Rows of the fine grid with which a programme begins."""
        return np.unique(np.append(np.searchsorted(self.fine, self.omega), len(self.fine) - 1))

    @cached_property
    def _helpers(self) -> Array:
        """The kernels b_T(t, omega) themselves as h, shape (t, k), those that are positive everywhere."""
        helpers = self.noise.covariance @ self.rotation
        positive = (self._fine_rows @ helpers.T).min(axis=0) > 0
        return helpers[positive]

    def _solved(self, p: _Programme, start: Array) -> tuple[float, float, Array]:
        """Return what the repair cost, the bound, NaN where there is none, and the energies of constraints added.

        ``start`` are energies of constraints to begin with beside the grid. Where r is 0, return the smallest distance
        chi of the data from any rho >= 0 instead.
        """
        D, rows, y, sign = self._scale, self._fine_rows, p.fine, p.sign
        norm, added = np.linalg.norm(rows / D, axis=1), [start]
        A, b = rows[self._coarse] / D / norm[self._coarse, None], y[self._coarse] / norm[self._coarse]
        if len(start):
            A, b = _joined(A, b, self.rows(start) / D, p.target(start))
        best = (np.inf, np.nan)
        for attempt in range(ROUNDS):
            solution = _cone(p.d / D, p.r, 1 / D, sign * A, sign * b, sign, WIDEST if p.r else 1.0)
            if solution is None:
                break
            h = solution / D
            gap = sign * (y - rows @ h) / norm
            omega = self._refined(_maxima(gap), h, p)
            best = min(best, self._repaired(h, p, omega))
            if best[0] < NEGLIGIBLE * (p.r * np.linalg.norm(h) if p.r else 1.0):
                break
            over = omega[sign * (p.target(omega) - self.rows(omega) @ h) > 0]
            omega = np.union1d(over, (over[:, None] + self._beside * 4.0**-attempt).ravel())
            omega = omega[omega >= self.E0]
            A, b = _joined(A, b, self.rows(omega) / D, p.target(omega))
            added.append(over)
        return (*(best if np.isfinite(best[1]) else (np.nan, np.nan)), np.concatenate(added[1:] or added))

    def _refined(self, peaks: NDArray[np.intp], h: Array, p: _Programme) -> Array:
        """Return where the violation is largest beside ``peaks`` of the fine grid, by golden section."""
        inner = peaks[peaks < len(self.fine) - 2]
        if not len(inner):
            return self.fine[peaks]
        low, high, golden = self.fine[np.maximum(inner - 1, 0)], self.fine[inner + 1], (np.sqrt(5) - 1) / 2
        high = np.where(np.isinf(high), self.fine[inner], high)

        def gap(omega: Array) -> Array:
            return p.sign * (p.target(omega) - self.rows(omega) @ h)

        for _ in range(24):
            x, y = high - golden * (high - low), low + golden * (high - low)
            left = gap(x) > gap(y)
            low, high = np.where(left, low, x), np.where(left, y, high)
        return np.concatenate([(low + high) / 2, self.fine[peaks[peaks >= len(self.fine) - 2]]])

    def _repaired(self, h: Array, p: _Programme, omega: Array) -> tuple[float, float]:
        """Return the cost of making h obey every constraint, on the fine grid and at ``omega``, and the bound.

        See :meth:`_solved`; infinite and NaN where no kernel can do it.
        """
        rows, y = np.vstack([self._fine_rows, self.rows(omega)]), np.append(p.fine, p.target(omega))
        rounding = 4e-16 * np.abs(rows) @ np.abs(h)
        gap = np.maximum(p.sign * (y - rows @ h) + rounding, 0)
        before, best = self._value(h, p), np.inf
        for helper in self._helpers:
            lift = rows @ helper
            if lift.min() > 0:
                best = min(best, self._value(h + p.sign * (gap / lift).max() * helper, p))
        if not np.isfinite(best):
            return np.inf, np.nan
        return best - before, p.sign * best if p.r else max(0.0, -best)

    @staticmethod
    def _value(h: Array, p: _Programme) -> float:
        """Return what is minimised: sign d.h + r |h|, or d.h / max(|h|, 1) where r is 0."""
        size = float(np.linalg.norm(h))
        return float(p.sign * p.d @ h + p.r * size) if p.r else float(p.d @ h) / max(size, 1.0)


@dataclass(frozen=True, eq=False)
class _Programme:
    """min sign d.h + r |h| subject to sign rows h >= sign f; r = 0: min d.h subject to rows h >= 0, |h| <= 1."""

    d: Array
    r: float
    fine: Array
    sign: int
    target: Callable[[Array], Array]


def _zero(omega: Array) -> Array:
    return np.zeros(len(omega))


def _joined(A: Array, b: Array, rows: Array, targets: Array) -> tuple[Array, Array]:
    """Return the constraints A x >= b with others below them, whose rows are made of length 1."""
    size = np.linalg.norm(rows, axis=1)
    return np.vstack([A, rows / size[:, None]]), np.append(b, targets / size)


def solver() -> Any:
    """Return clarabel.

    Raises UserError where it is not installed.
    """
    try:
        import clarabel
    except ImportError:
        raise UserError("bounds need the solver clarabel; install it: pip install 'sdpipe[bounds]'") from None
    return clarabel


def _cone(d: Array, r: float, metric: Array, A: Array, b: Array, sign: int, most: float) -> Array | None:
    """Return x of min sign d.x + r |metric x| subject to A x >= b, |metric x| <= most; None where the solver fails.

    Where r is 0 the sign is left out.
    """
    clarabel, (n, m) = solver(), A.shape
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_iter, settings.max_threads = False, 200, 1
    settings.tol_infeas_abs = settings.tol_infeas_rel = 1e-15
    G = np.zeros((n + m + 2, m + 1))
    G[:n, :m], G[n, m], G[n + 1, m], G[n + 2 :, :m] = -A, 1, -1, -np.diag(metric)
    right = np.concatenate([-b, [most, 0], np.zeros(m)])
    cones = [clarabel.NonnegativeConeT(n + 1), clarabel.SecondOrderConeT(m + 1)]
    cost = np.append(d * (sign if r else 1), r)
    empty = csc_matrix((m + 1, m + 1))
    solution = clarabel.DefaultSolver(empty, cost, csc_matrix(G), right, cones, settings).solve()
    if str(solution.status) not in ("Solved", "AlmostSolved"):
        return None
    return np.array(solution.x)[:m]


def _maxima(gap: Array) -> NDArray[np.intp]:
    """Return the indices of local maxima, ends included."""
    padded = np.concatenate([[-np.inf], gap, [-np.inf]])
    return np.flatnonzero((gap >= padded[:-2]) & (gap >= padded[2:]))


def _grid(observables: Observables, E0: float, step: float) -> Array:
    """Return energies from E0 up, ``step`` sigma apart where the smearing lives, then growing; the last is infinite.

    They are found in lattice units, so that the same data in other units have the same constraints.
    """
    o, spacing = observables.in_lattice_units, observables.kernel.spacing
    E0 = E0 if spacing == 1 else to_digits(spacing * E0)
    step = step * min(o.sigma)
    t = np.sort(np.array(o.times, float))
    if o.kernel.parity:
        t = np.sort(np.minimum(t, o.kernel.period - t))
    apart = float(np.diff(np.unique(t))[:1].sum()) or 1.0
    far = max(
        min(n, 60 / (tail.rate - t[0])) if np.isfinite(tail.rate) else n
        for s in o.sigma
        for tail in [o.smearing.tail(s)]
        for n in [tail.length(s)]
    )
    top = max(o.energies) + max(far, 8 * max(o.sigma))
    end = max(top, E0 + 45 / apart)
    points, width = [np.arange(max(E0, 1e-9), top, step)], step
    tail_points = [float(points[0][-1])]
    while tail_points[-1] < end:
        width = min(width * 1.15, max(step, 0.25))
        tail_points.append(tail_points[-1] + width)
    return np.concatenate([points[0], tail_points[1:], [np.inf]]) / spacing


class StrictBounds:
    """:class:`Bounds` of the correlator at hand as an interval: zero below the lowest threshold of the audience."""

    summary = "strict bounds for rho >= 0 at all energies at once"

    def __init__(self, audience: Audience, level: float) -> None:
        self.audience, self.level = audience, level

    def bounds(self, C: ArrayLike) -> Bounded:
        """Return the bounds of one C (t,), with the noise that it has at its size."""
        audience, C = self.audience, np.asarray(C, float)
        return Bounds.for_noise(audience.observables, audience.noise.at_scale(C), audience.threshold, self.level)(C)
