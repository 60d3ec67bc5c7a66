"""The bound of Cauchy and Schwarz on densities off the diagonal of a matrix of correlators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from sdpipe.config.schema import Config
from sdpipe.config.sources import CorrelatorTarget
from sdpipe.errors import UserError
from sdpipe.infer.trust import Flag
from sdpipe.physics.kernels import Observables
from sdpipe.physics.units import unit_of

BEYOND = 3.0
"""Errors by which |rho_ij| may be above its bound before it is flagged."""


def diagonal(config: Config, target: str) -> tuple[str, str] | None:
    """Return the targets of a config that are (i, i) and (j, j) of the matrix of which ``target`` is (i, j).

    None where it is no element off a diagonal, or one of the two is not a target.
    """
    section = config.targets[target]
    if not isinstance(section, CorrelatorTarget) or not section.source.crossed:
        return None
    others = {name: s.source for name, s in config.targets.items() if isinstance(s, CorrelatorTarget)}
    wanted = [replace(section.source, component=(k, k)) for k in section.source.component]
    same = [next((name for name, s in others.items() if _alike(s, one)), None) for one in wanted]
    return None if None in same else (same[0], same[1])


def _alike(one: object, other: object) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in ("path", "dataset", "component", "gevp"))


def nowhere_negative(grid: Observables) -> bool:
    """Return whether f_sigma(omega, E) >= 0 at 400 omega up to 10 sigma beyond twice the highest energy."""
    omega = np.linspace(0, 2 * grid.energies[-1] + 10 * max(grid.sigma), 401)[1:]
    return min(float(np.min(grid.smearing(E, omega, s))) for s in grid.sigma for E in grid.energies) >= 0


def band(config: Config, budget: Mapping[str, xr.Dataset], target: str) -> xr.Dataset:
    """Return how far one density off the diagonal of a matrix may be from 0, and how far beyond that it is.

        |rho_ij(E)| <= B(E) = sqrt(rho_ii(E) rho_jj(E)),    pull = (|rho_ij| - B) / sqrt(e_ij^2 + e_B^2)

    which holds for smeared densities where f_sigma >= 0, since a density in i and j is a positive matrix
    (arXiv:2508.01377). B + e_B is that of rho_ii and rho_jj each at the upper end of its error, negative central values
    counting as 0. Errors are calibrated where they are, else the total. Returns ``lower``, ``upper``, -B and B,
    ``bound_error`` and ``pull (sigma, E)``; the attribute ``says`` is a flag for the largest pull above BEYOND.

    Raises UserError for a target that is no element off a diagonal, where a diagonal element is no target with a
    budget, and for a smearing that is negative somewhere.
    """
    names = diagonal(config, target) if target in config.targets else None
    present = [name for name in (target, *(names or ())) if name in budget]
    if names is None or len(present) < 3:
        words = "needed: a budget of component [i, j] and of [i, i] and [j, j] of the same matrix"
        raise UserError(f"{config.name}: {target}: no band; {words}; those there: {', '.join(budget) or 'none'}")
    grid = config.observables
    if not nowhere_negative(grid):
        raise UserError(f"{config.name}: smearing {grid.smearing.name} is negative somewhere: there is no such bound")
    cross, first, second = (budget[name].load() for name in present)
    errors = [one.get("calibrated", one.total) for one in (cross, first, second)]
    low = [np.maximum(one.central, 0) for one in (first, second)]
    bound = np.sqrt(low[0] * low[1])
    wider = np.sqrt((low[0] + errors[1]) * (low[1] + errors[2])) - bound
    pull = (np.abs(cross.central) - bound) / np.sqrt(errors[0] ** 2 + wider**2)
    units = {"units": cross.central.attrs.get("units", "1")}
    bounds = xr.Dataset({"lower": -bound, "upper": bound, "bound_error": wider, "pull": pull})
    bounds = bounds.transpose("sigma", "E").drop_vars(set(bounds.coords) - {"sigma", "E"})
    for name in ("lower", "upper", "bound_error"):
        bounds[name].attrs = {**units, "long_name": "bound of Cauchy and Schwarz"}
    bounds["pull"].attrs = {"units": "1", "long_name": "|rho_ij| beyond its bound, in errors"}
    return bounds.assign_attrs(diagonal=list(names), says=_beyond(bounds, names))


def _beyond(bounds: xr.Dataset, names: tuple[str, str]) -> list[Flag]:
    worst = bounds.pull.isel(bounds.pull.argmax(["sigma", "E"]))
    if float(worst) <= BEYOND:
        return []
    where = {"sigma": float(worst.sigma), "E": float(worst.E), "unit": unit_of(bounds)}
    return [Flag("beyond_its_bound", {"errors": float(worst), "diagonal": list(names), **where})]
