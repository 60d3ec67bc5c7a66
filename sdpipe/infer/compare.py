"""The networks and the methods beside them, side by side: where they agree, where they do not, and which to trust."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr

from sdpipe.infer.budget import NETWORKS
from sdpipe.infer.calibration import errors_off
from sdpipe.infer.trust import SUSPICIOUS
from sdpipe.physics.noise import IMPOSSIBLE

AGREE = 2.0
"""Estimates agree where they differ by at most so many errors."""

LEAST = "hlt"
"""The estimator that takes least from a prior, at the price of a wider error."""

Reason = Literal["no_density", "all_excluded", "off_prior", "off_prior_alone", "first", "first_excluded"]
"""Why an estimate is trusted; :data:`sdpipe.show.side_by_side.WHY` has the sentences."""


def compare(budget: xr.Dataset, validation: xr.Dataset | None = None) -> xr.Dataset:
    """Return every estimate of one target with its error, the pulls between them, and which to trust.

    With the error D_i of each, calibrated where that is known,

        pull_ij = (rho_i - rho_j) / (D_i^2 + D_j^2)^(1/2).

    All estimates are made of the same data, so that pulls are smaller than those of independent results. The first is
    the one that the budget is of: the networks, where there are any.

    Parameters
    ----------
    budget
        A group of ``budget.zarr``.
    validation
        ``validation.zarr``, which says how often the error of the trusted estimate covers.

    Returns
    -------
    ``central``, ``error`` and, where it is known, ``calibrated (estimate, sigma, E)``; ``pull (estimate, other, sigma,
    E)``; ``lower`` and ``upper (sigma, E)`` of the bounds and ``truth (sigma, E)`` where they are there. Against the
    first estimate: ``apart (estimate)``, the share of all points with more than AGREE errors between them, and
    ``farthest``, ``farthest_sigma``, ``farthest_E (estimate)``, the largest \\|pull\\|, infinite where an estimate is
    NaN, and its place. ``outside (estimate)``, where there are bounds, says whether an estimate is outside them by more
    than its error somewhere; ``low`` and ``high (estimate, sigma, E)`` are the ends of its interval, cut with them.
    ``covered (family)``, where that was validated, is the share of draws and points that the
    calibrated error of the trusted estimate covers, at the attribute ``level``. The attribute ``trusted`` is the name
    of an estimate, ``bounds`` or ``none``, never of one that has no answer of its own at most points; ``reason`` says
    why, see :data:`Reason`.

    >>> point = {"sigma": [0.4], "E": [1.0]}
    >>> one, m = xr.DataArray([[1.0]], dims=("sigma", "E"), coords=point), {"estimator": ["hlt"]}
    >>> budget = xr.Dataset({"central": one, "total": 0.1 * one, "estimator_central": (1.4 * one).expand_dims(m),
    ...                      "estimator_error": (0.1 * one).expand_dims(m)}, attrs={"goodness_of_fit": 1.0})
    >>> compared = compare(budget)
    >>> round(compared.pull.sel(estimate="hlt", other="networks").item(), 2), compared.apart.values.tolist()
    (2.83, [0.0, 1.0])
    >>> compared.attrs
    {'trusted': 'networks', 'reason': 'first'}
    """
    compared = _joined(budget)
    quoted, others = compared.get("calibrated", compared.error), {"estimate": "other"}
    pull = errors_off(compared.central - compared.central.rename(others), np.hypot(quoted, quoted.rename(others)))
    pull = pull.where(compared.estimate != pull.other, 0.0)
    compared["pull"] = pull.transpose("estimate", "other", "sigma", "E")
    compared = compared.assign({name: budget[name] for name in ("lower", "upper", "truth") if name in budget})
    compared = compared.assign(_distances(compared))
    if "lower" in compared and bool(compared.lower.notnull().any()):
        quoted = compared.get("calibrated", compared.error)
        compared["outside"] = _outside(compared, quoted)
        compared["low"], compared["high"] = within_bounds(compared.central, quoted, compared.lower, compared.upper)
    compared = compared.assign_coords({axis: budget[axis] for axis in ("sigma", "E")})
    trusted, reason = _trusted(compared, budget)
    compared.attrs = {"trusted": trusted, "reason": reason}
    covered = _covered(compared, budget, validation)
    return compared if covered is None else compared.assign(covered=covered).assign_attrs(level=budget.attrs["level"])


def _joined(budget: xr.Dataset) -> xr.Dataset:
    """Return central values and errors of all estimates (estimate, sigma, E), that of the budget first."""
    first = budget.attrs.get("answered_by", NETWORKS)
    others = [str(name) for name in budget.get("estimator", xr.DataArray([])).values if name != first]
    names = xr.DataArray(np.array([first, *others], object), dims="estimate", name="estimate")

    def joined(own: str, of_others: str) -> xr.DataArray:
        arrays = [budget[own].astype(float)]
        arrays += [budget[of_others].sel(estimator=name, drop=True) for name in others]
        return xr.concat(arrays, dim=names).transpose("estimate", "sigma", "E").drop_attrs()

    joint = {"central": joined("central", "estimator_central"), "error": joined("total", "estimator_error")}
    if "calibrated" in budget and (not others or "estimator_calibrated" in budget):
        joint["calibrated"] = joined("calibrated", "estimator_calibrated")
    return xr.Dataset(joint)


def _distances(compared: xr.Dataset) -> dict[str, Any]:
    """Return how far each estimate is from the first, and where it is farthest; NaN is infinitely far."""
    pull = np.abs(compared.pull.isel(other=0).transpose("estimate", "sigma", "E").values)
    pull = np.where(np.isnan(pull), np.inf, pull)
    count = len(pull)
    sigma, E = np.unravel_index(pull.reshape(count, -1).argmax(axis=1), pull.shape[1:])
    return {
        "apart": ("estimate", (pull > AGREE).mean(axis=(1, 2))),
        "farthest": ("estimate", pull[range(count), sigma, E]),
        "farthest_sigma": ("estimate", compared.sigma.values[sigma]),
        "farthest_E": ("estimate", compared.E.values[E]),
    }


def within_bounds(
    central: xr.DataArray, error: xr.DataArray, lower: xr.DataArray, upper: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the ends of central -/+ error, cut with the bounds for rho >= 0 where these reach into it."""
    low, high = central - error, central + error
    meet = (low <= upper) & (high >= lower)
    return low.where(~meet, np.maximum(low, lower)), high.where(~meet, np.minimum(high, upper))


def _outside(compared: xr.Dataset, error: xr.DataArray) -> xr.DataArray:
    """Return whether each estimate is outside the bounds by more than its error somewhere, (estimate,)."""
    below, above = compared.central + error < compared.lower, compared.central - error > compared.upper
    return (below | above).any(("sigma", "E"))


def _trusted(compared: xr.Dataset, budget: xr.Dataset) -> tuple[str, Reason]:
    """Return which estimate to trust, and why: the first of these questions that decides it.

    The first estimate is chosen before the data are seen. To choose the smallest error afterwards, or the estimate that
    assumes least where they differ, is worse on draws of known truth (``benchmarks/trust.py``).
    """
    names = [str(name) for name in compared.estimate.values]
    if budget.attrs["goodness_of_fit"] < IMPOSSIBLE:
        return "none", "no_density"
    outside = compared.outside.values if "outside" in compared else np.zeros(len(names), bool)
    silent = budget.attrs.get("silent", [])
    allowed = [name for name, out in zip(names, outside, strict=True) if not out and name not in silent]
    without_prior = "bounds" if "outside" in compared else "none"
    if not allowed:
        return without_prior, "all_excluded"
    if budget.attrs.get("p_value", 1.0) < SUSPICIOUS:
        return (LEAST, "off_prior") if LEAST in allowed else (without_prior, "off_prior_alone")
    if names[0] in allowed:
        return names[0], "first"
    return LEAST if LEAST in allowed else allowed[0], "first_excluded"


def _covered(compared: xr.Dataset, budget: xr.Dataset, validation: xr.Dataset | None) -> xr.DataArray | None:
    """Return how often the calibrated error of the trusted estimate covers, (family,), where that was validated."""
    trusted = compared.attrs["trusted"]
    name = "calibrated" if trusted == compared.estimate.values[0] else trusted
    if validation is None or name not in validation.budget:
        return None
    return validation.coverage_of.sel(budget=name, level=budget.attrs["level"], drop=True).mean("sigma")
