"""Masses and residues: isolated levels fitted to rho_sigma(E) with its covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

NODES = 64
"""Of the rule that smears the rest."""


@dataclass(frozen=True, eq=False)
class FittedLevels:
    """Levels in ascending order of mass.

    Attributes
    ----------
    mass, amplitude
        M_k and A_k, (level,).
    covariance
        (2 level, 2 level), masses first.
    rest
        Threshold and height of the rest, where one was asked for.
    density
        What is fitted, rho_sigma(E) of these levels and the rest, at all (sigma, E).
    chi2, freedom
        chi^2 of the fit and its degrees of freedom.
    """

    mass: Array
    amplitude: Array
    covariance: Array
    rest: tuple[float, float] | None
    density: Array
    chi2: float
    freedom: int

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
        x, w = np.polynomial.legendre.leggauss(NODES)
        half = (max(self.E.max() + 9 * self.sigma.max(), threshold + 1e-9) - threshold) / 2
        omega = threshold + half * (x + 1)
        return self.smearing(self.E[:, None], omega, self.sigma[:, None]) @ (half * w)

    def linear(self, shape: Array) -> Array:
        """Return the amplitudes that fit best at these masses."""
        return np.linalg.lstsq(self.columns(shape), self.z, rcond=None)[0]

    def residual(self, shape: Array) -> Array:
        """Return the residual at the best amplitudes, whose derivative is that of chi^2 (variable projection)."""
        X = self.columns(shape)
        return self.z - X @ np.linalg.lstsq(X, self.z, rcond=None)[0]

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
    low, high = max(E[0] - sigma[-1], 1e-9), E[-1] + sigma[-1]
    solution = least_squares(
        problem.residual, np.clip(shape, low * 1.001, high * 0.999), bounds=(low, high), xtol=1e-10
    )
    order = np.argsort(solution.x[:count])
    shape = np.concatenate([solution.x[:count][order], solution.x[count:]])
    linear = problem.linear(shape)
    covariance = _of_parameters(problem, np.concatenate([shape, linear]))
    n = count + rest
    rows = [*range(count), *range(n, n + count)]
    above = (float(shape[-1]), float(linear[-1])) if rest else None
    chi2 = float(2 * solution.cost)
    density, freedom = problem.smeared(shape) @ linear, len(whiten) - parameters
    return FittedLevels(shape[:count], linear[:count], covariance[np.ix_(rows, rows)], above, density, chi2, freedom)


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
    return np.linalg.pinv((J / size).T @ (J / size), hermitian=True) / np.outer(size, size)


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
            at = np.array([[np.interp(M, one.E, row) for row in values] for M in fitted.mass])
            result[name] = (("level", "sigma"), width * at, of_amplitude)
    return result
