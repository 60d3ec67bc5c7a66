"""Masses and residues: isolated levels fitted to rho_sigma(E) with its covariance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from scipy.optimize import least_squares

from sdpipe.analysis.answers import Answer, Answers, answer
from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.infer.least_squares import whitening
from sdpipe.infer.trust import Flag
from sdpipe.physics.noise import chi2_p_value
from sdpipe.physics.smearing import Smearing

FLOOR = 1e-3
"""Share of the largest |rho| that no number of a run is taken for better than: tails of a peak say it to more digits
than the estimators that made them are accurate to."""

APART = 2.0
"""Errors of M_2 - M_1 that it must be larger than, for two levels to be told apart."""

UNLIKELY = 0.01
"""p-value below which levels do not describe a density."""

FIRST = 1 / 16
"""First step to the end of an interval of chi^2, in units of the smallest sigma or of the amplitude."""
WIDENINGS = 12
"""How often the step is doubled at most until the end is passed."""
HALVINGS = 6
"""How often it is halved then."""

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
"""The rule on [-1, 1] that smears the rest."""


@dataclass(frozen=True, eq=False)
class FittedLevels:
    """Levels in ascending order of mass.

    Attributes
    ----------
    mass, amplitude
        M_k and A_k, (level,).
    parameters
        Masses, threshold, amplitudes and height, as the problem has them.
    problem
        What was fitted.
    rest
        Threshold and height of the rest, where one was asked for.
    density
        What is fitted, rho_sigma(E) of these levels and the rest, at all (sigma, E).
    chi2, freedom
        chi^2 of the fit and its degrees of freedom.
    """

    mass: Array
    amplitude: Array
    parameters: Array
    problem: _Problem
    rest: tuple[float, float] | None
    density: Array
    chi2: float
    freedom: int

    @cached_property
    def covariance(self) -> Array:
        """Covariance of masses and amplitudes, (2 level, 2 level), masses first.

        Errors are half of the interval in which chi^2 is at most one above its least value, all else fitted anew: a
        rest that begins at a level leaves chi^2 far from a parabola. Correlations are those of the parabola.
        """
        n, first = len(self.mass), len(self.mass) + self.problem.rest
        rows = [*range(n), *range(first, first + n)]
        V = _of_parameters(self.problem, self.parameters)[np.ix_(rows, rows)]
        linear = np.sqrt(np.diag(V))
        profiled = [_profiled(self.problem, self.parameters, k, e) for k, e in zip(rows, linear, strict=True)]
        size = np.where(linear > 0, linear, 1)
        correlation = V / np.outer(size, size)
        np.fill_diagonal(correlation, 1)
        return correlation * np.outer(profiled, profiled)

    @property
    def together(self) -> list[int]:
        """Which levels k cannot be told from level k + 1: nearer than 2 errors of their difference."""
        n, V = len(self.mass), self.covariance
        apart = np.diff(self.mass)
        error = [np.sqrt(max(V[k, k] + V[k + 1, k + 1] - 2 * V[k, k + 1], 0)) for k in range(n - 1)]
        return [k for k in range(n - 1) if not apart[k] > APART * error[k]]


@dataclass(frozen=True, eq=False)
class _Problem:
    """Whitened data z and the smearing at all (sigma, E) of them."""

    sigma: Array
    E: Array
    smearing: Smearing
    whiten: Array
    z: Array
    count: int
    rest: bool

    @property
    def within(self) -> tuple[float, float]:
        """Where masses and thresholds may lie: the energies that are fitted, and the largest sigma beyond."""
        return max(self.E.min() - self.sigma.max(), 1e-9), self.E.max() + self.sigma.max()

    def columns(self, shape: Array) -> Array:
        """Return what :meth:`smeared` does, whitened, (direction, linear parameter)."""
        return self.whiten @ self.smeared(shape)

    def smeared(self, shape: Array) -> Array:
        """Return S_sigma(E, M_k), and the smeared rest above its threshold, (sigma E, linear parameter)."""
        masses = shape[: self.count]
        parts = [self.smearing(self.E[:, None], masses, self.sigma[:, None])]
        if self.rest:
            parts.append(self.smeared_rest(shape[-1])[:, None])
        return np.concatenate(parts, axis=1)

    def smeared_rest(self, threshold: float) -> Array:
        """Return int_threshold^end S_sigma(E, omega) d omega; the end is nine widths above all energies."""
        half = (max(self.E.max() + 9 * self.sigma.max(), threshold + 1e-9) - threshold) / 2
        omega = threshold + half * (NODES + 1)
        return self.smearing(self.E[:, None], omega, self.sigma[:, None]) @ (half * WEIGHTS)

    def linear(self, shape: Array) -> Array:
        """Return the amplitudes that fit best at these masses."""
        return np.linalg.lstsq(self.columns(shape), self.z, rcond=None)[0]

    def residual(self, shape: Array, held: int | None = None, value: float = 0.0) -> Array:
        """Return the residual at the best amplitudes, whose derivative is that of chi^2 (variable projection).

        Amplitude ``held``, where it is given, has this ``value``.
        """
        X, z = self.columns(shape), self.z
        if held is not None:
            X, z = np.delete(X, held, axis=1), z - value * X[:, held]
        return z - X @ np.linalg.lstsq(X, z, rcond=None)[0]

    def whole(self, parameters: Array) -> Array:
        """Return the residual for masses and amplitudes, (shape, linear)."""
        n = self.count + self.rest
        return self.z - self.columns(parameters[:n]) @ parameters[n:]


def fit_levels(
    sigma: Array, E: Array, values: Array, covariance: Array, smearing: Smearing, count: int = 1, rest: bool = False
) -> FittedLevels:
    """Return the levels that fit rho_sigma(E) best.

        rho_sigma(E) = sum_k A_k S_sigma(E, M_k) [+ h int_w^inf S_sigma(E, omega) d omega]

    with the least chi^2 under the ``covariance`` (sigma E, sigma E) of ``values`` (sigma, E), in the directions that it
    determines. A_k and h are linear and are eliminated (G. H. Golub, V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413);
    masses start where one more level improves chi^2 most. Raises UserError where there are too few data, and where
    ``count`` is not 1 or more.

    >>> from sdpipe.physics.smearing import GAUSSIAN
    >>> sigma, E = np.array([0.3, 0.4]), np.linspace(0.2, 2, 10)
    >>> exact = 2 * GAUSSIAN(E, 0.8, sigma[:, None])
    >>> one = fit_levels(sigma, E, exact, 1e-4 * np.eye(20), GAUSSIAN)
    >>> one.mass.round(6).tolist(), one.amplitude.round(6).tolist(), one.freedom
    ([0.8], [2.0], 18)
    """
    if not isinstance(count, int) or count < 1:
        raise UserError(f"count: {count} is not allowed; allowed: 1 or more")
    error = np.sqrt(np.diag(covariance))
    if not (error > 0).all() or not np.isfinite(values).all():
        raise UserError("levels need finite values with errors above 0")
    whiten = whitening(covariance)
    parameters = 2 * (count + rest)
    if len(whiten) <= parameters:
        raise UserError(f"{len(whiten)} directions of rho do not determine {parameters} parameters of {count} levels")
    grid = np.repeat(sigma, len(E)), np.tile(E, len(sigma))
    problem = _Problem(*grid, smearing, whiten, whiten @ values.ravel(), count, rest)
    shape = _start(problem, E)
    low, high = problem.within
    start = np.clip(shape, low * 1.001, high * 0.999)
    solution = least_squares(problem.residual, start, bounds=(low, high), xtol=1e-10)
    order = np.argsort(solution.x[:count])
    shape = np.concatenate([solution.x[:count][order], solution.x[count:]])
    linear = problem.linear(shape)
    above = (float(shape[-1]), float(linear[-1])) if rest else None
    chi2 = float(2 * solution.cost)
    density, freedom = problem.smeared(shape) @ linear, len(whiten) - parameters
    found = np.concatenate([shape, linear])
    return FittedLevels(shape[:count], linear[:count], found, problem, above, density, chi2, freedom)


def _start(problem: _Problem, E: Array) -> Array:
    """Return masses to start from: each further one where it improves chi^2 most, the rest half a range above them."""
    masses: list[float] = []
    for k in range(problem.count):
        one = _Problem(problem.sigma, problem.E, problem.smearing, problem.whiten, problem.z, k + 1, rest=False)
        tried = [np.array([*masses, M]) for M in np.linspace(E[0], E[-1], 4 * len(E)) if M > 0 and M not in masses]
        masses = list(tried[int(np.argmin([np.sum(one.residual(t) ** 2) for t in tried]))])
    return np.array([*masses, (max(masses) + E[-1]) / 2] if problem.rest else masses)


def _of_parameters(problem: _Problem, parameters: Array) -> Array:
    """Return the covariance of all parameters, (J^T J)^-1, J by central differences."""
    steps = 1e-6 * np.maximum(np.abs(parameters), 1e-3)
    J = np.stack(
        [
            (problem.whole(parameters + h * e) - problem.whole(parameters - h * e)) / (2 * h)
            for h, e in zip(steps, np.eye(len(parameters)), strict=True)
        ],
        axis=1,
    )
    size = np.linalg.norm(J, axis=0)
    size = np.where(size > 0, size, 1)  # the threshold of a rest without height changes nothing
    return np.linalg.pinv((J / size).T @ (J / size), hermitian=True) / np.outer(size, size)


def _profiled(problem: _Problem, parameters: Array, k: int, linear: float) -> float:
    """Return half of the interval of parameter k in which chi^2 is at most one above its least value.

    It ends where masses may not lie. ``linear``, the error by the parabola, is only the length of the first step.
    """
    count = problem.count + problem.rest
    best, bounds = parameters[:count], problem.within
    allowed = np.sum(problem.whole(parameters) ** 2) + 1
    limits = bounds if k < count else (-np.inf, np.inf)

    def fits(value: float) -> bool:
        """Return whether the least chi^2 with the parameter at this value is allowed."""
        nonlocal start

        def residual(free: Array) -> Array:
            return (
                problem.residual(np.insert(free, k, value)) if k < count else problem.residual(free, k - count, value)
            )

        if not len(start):
            return bool(np.sum(residual(start) ** 2) <= allowed)
        fit = least_squares(residual, start, bounds=bounds, xtol=1e-6)
        if 2 * fit.cost > allowed:
            return False
        start = fit.x
        return True

    first = FIRST * (problem.sigma.min() if k < count else np.abs(parameters[count:]).max())
    first = linear if 0 < linear < first else first
    ends = []
    for step, limit in zip((-first, first), limits, strict=True):
        start = np.delete(best, k) if k < count else best
        ends.append(_end(fits, parameters[k], step, limit))
    return (ends[1] - ends[0]) / 2


def _end(fits: Callable[[float], bool], at: float, step: float, limit: float) -> float:
    """Return where values from ``at`` on no longer fit, in steps that double, and then halve."""

    def allowed(value: float) -> bool:
        return (limit - value) * step > 0 and fits(value)

    for _ in range(WIDENINGS):
        if not allowed(at + step):
            break
        at += step
        step *= 2
    for _ in range(HALVINGS):
        step /= 2
        if allowed(at + step):
            at += step
    return at


def levels(
    run: Answers, target: str | None = None, count: int = 1, *, E: Sequence[float] | None = None, rest: bool = False
) -> xr.Dataset:
    """Return masses and residues of ``count`` levels of one target, as :func:`fit_levels` finds them.

    ``E`` is a range (lowest, highest) of energies to fit, all of them where it is not given; ``rest`` adds a constant
    density above a threshold that is fitted. Returns ``mass``, ``mass_error``, ``amplitude``, ``amplitude_error
    (level)``, ``covariance (parameter, parameter2)``, ``central (sigma, E)``, the density of the fit, which
    ``run.plot.overlay`` draws, and, for a Gaussian smearing, ``isolated``, ``isolated_error
    (level, sigma)``, sqrt(2 pi) sigma rho_sigma(M), which is the amplitude of a state without neighbours within sigma.
    Attributes: ``chi2``, ``freedom``, ``p_value``, ``threshold`` and ``height`` of the rest, and ``says``: flags of
    levels that cannot be told apart, and of a bad fit. Raises UserError as :func:`fit_levels` does, where there is no
    calibrated budget of the target, and for a range without energies.

    What lies above the energies that are fitted reaches down by some sigma: fit ``rest``, or energies below it.
    """
    one = answer(run, target)
    if E is not None:
        rows = np.flatnonzero((min(E) <= one.E) & (max(E) >= one.E))
        if not len(rows):
            raise UserError(f"E: no energy of the run lies within {min(E):g}..{max(E):g}")
        one = one.rows(rows)
    smearing = run.config.smearing.function
    floor = (FLOOR * np.abs(one.central).max()) ** 2 * np.eye(one.central.size)
    fitted = fit_levels(one.sigma, one.E, one.central, one.covariance + floor, smearing, count, rest)
    return _labelled(one, fitted, smearing)


def _labelled(one: Answer, fitted: FittedLevels, smearing: Smearing) -> xr.Dataset:
    n, error = len(fitted.mass), np.sqrt(np.diag(fitted.covariance))
    of_mass, of_amplitude = {"units": one.unit}, {"units": f"{one.units} {one.unit}".removeprefix("1 ")}
    p = float(chi2_p_value(fitted.chi2, fitted.freedom)) if fitted.freedom else np.nan
    says = [Flag("levels_together", {"levels": [k, k + 1], "errors": APART}) for k in fitted.together]
    if p < UNLIKELY:
        says.append(Flag("not_these_levels", {"chi2": fitted.chi2, "freedom": fitted.freedom, "p": p}))
    result = xr.Dataset(
        {
            "mass": ("level", fitted.mass, of_mass),
            "mass_error": ("level", error[:n], of_mass),
            "amplitude": ("level", fitted.amplitude, of_amplitude),
            "amplitude_error": ("level", error[n:], of_amplitude),
            "covariance": (("parameter", "parameter2"), fitted.covariance),
            "central": (("sigma", "E"), fitted.density.reshape(one.central.shape), {"units": one.units}),
        },
        {
            "level": np.arange(n),
            "parameter": [f"{x}{k}" for x in "MA" for k in range(n)],
            "sigma": ("sigma", one.sigma, of_mass),
            "E": ("E", one.E, of_mass),
        },
        {"chi2": fitted.chi2, "freedom": fitted.freedom, "p_value": p, "says": says},
    )
    if fitted.rest is not None:
        result = result.assign_attrs(threshold=fitted.rest[0], height=fitted.rest[1])
    if smearing.name == "gaussian":
        width = np.sqrt(2 * np.pi) * one.sigma
        for name, values in (("isolated", one.central), ("isolated_error", one.error)):
            interpolated = np.array([[np.interp(M, one.E, row) for row in values] for M in fitted.mass])
            result[name] = (("level", "sigma"), width * interpolated, of_amplitude)
    return result
