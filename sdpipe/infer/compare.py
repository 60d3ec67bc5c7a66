"""The networks and the methods beside them, side by side: what agrees, what does not, and which to trust why."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sdpipe.infer.budget import NETWORKS
from sdpipe.infer.trust import IMPOSSIBLE, SUSPICIOUS
from sdpipe.physics import units
from sdpipe.physics.units import equation

AGREE = 2.0
"""Estimates agree where they differ by at most so many errors."""


def compare(budget: xr.Dataset, validation: xr.Dataset | None = None) -> xr.Dataset:
    """Return every estimate of one target with its error, and the pulls between them.

    With the error D_i of each, calibrated where that is known,

        pull_ij = (rho_i - rho_j) / (D_i^2 + D_j^2)^(1/2).

    All estimates are made of the same data, so that pulls are smaller than those of independent results.

    Parameters
    ----------
    budget
        A group of ``budget.zarr``.
    validation
        ``validation.zarr``, of which the paragraph says how often each error covers.

    Returns
    -------
    ``central``, ``error`` and, where it is known, ``calibrated (estimate, sigma, E)``; ``pull (estimate, other, sigma,
    E)``; ``lower`` and ``upper (sigma, E)`` of the bounds and ``truth (sigma, E)`` where they are there. The attribute
    ``says`` is the paragraph, ``trusted`` the name of the estimate it ends with, ``bounds`` or ``none``.

    >>> point = {"sigma": [0.4], "E": [1.0]}
    >>> one, m = xr.DataArray([[1.0]], dims=("sigma", "E"), coords=point), {"estimator": ["hlt"]}
    >>> budget = xr.Dataset({"central": one, "total": 0.1 * one, "estimator_central": (1.4 * one).expand_dims(m),
    ...                      "estimator_error": (0.1 * one).expand_dims(m)}, attrs={"back_check": 1.0})
    >>> side_by_side = compare(budget)
    >>> round(side_by_side.pull.sel(estimate="hlt", other="networks").item(), 2), side_by_side.attrs["trusted"]
    (2.83, 'hlt')
    """
    answer = budget.attrs.get("answered_by", NETWORKS)
    beside = budget.estimator.values if "estimator" in budget else []
    methods = [str(name) for name in beside if name != answer]
    names = xr.DataArray(np.array([answer, *methods], object), dims="estimate", name="estimate")

    def joined(own: str, of_methods: str) -> xr.DataArray:
        parts = [budget[own].astype(float)]
        parts += [budget[of_methods].sel(estimator=name, drop=True) for name in methods]
        return xr.concat(parts, dim=names).transpose("estimate", "sigma", "E").drop_attrs()

    made = xr.Dataset({"central": joined("central", "estimator_central"), "error": joined("total", "estimator_error")})
    if "calibrated" in budget and (not methods or "estimator_calibrated" in budget):
        made["calibrated"] = joined("calibrated", "estimator_calibrated")
    quoted = made.get("calibrated", made.error)
    others = {"estimate": "other"}
    made["pull"] = (made.central - made.central.rename(others)) / np.hypot(quoted, quoted.rename(others))
    made["pull"] = made.pull.where(made.estimate != made.other, 0.0).transpose("estimate", "other", "sigma", "E")
    made = made.assign({name: budget[name] for name in ("lower", "upper", "truth") if name in budget})
    trusted, why = _trusted(made, budget)
    words = [_agreement(made), _within(made), f"{why[0].upper()}{why[1:]}.", _coverage(trusted, validation, budget)]
    return made.assign_attrs(says=" ".join(filter(None, words)), trusted=trusted)


def _agreement(made: xr.Dataset) -> str:
    """Return which methods agree with the networks, and where each other one is farthest."""
    said, agreeing, unit = [], [], units.unit_of(made)
    lead = str(made.estimate.values[0])
    who = f"the {lead}" if lead == NETWORKS else lead
    for name in map(str, made.estimate.values[1:]):
        pull = np.abs(made.pull.sel(estimate=name, other=lead))
        far = pull.where(pull.notnull(), np.inf)
        if bool((far <= AGREE).all()):
            agreeing.append(name)
            continue
        at = far.isel(far.argmax(("sigma", "E")))
        said.append(
            f"{name} differs from {who} by more than {AGREE:g} errors at {float((far > AGREE).mean()):.0%} of "
            f"all points, most at {equation('E', float(at.E), unit, 3)}, {equation('σ', float(at.sigma), unit)}, by "
            f"{float(at):.1f}"
        )
    if agreeing:
        verb = "agrees" if len(agreeing) == 1 else "agree"
        listed = " and ".join(filter(None, [", ".join(agreeing[:-1]), agreeing[-1]]))
        said.insert(0, f"{listed} {verb} with {who} within {AGREE:g} errors everywhere")
    if not said:
        return f"There is no method beside {who}."
    words = "; ".join(said)
    return f"{words[0].upper()}{words[1:]}."


def _outside(made: xr.Dataset) -> xr.DataArray:
    """Return whether each estimate is outside the bounds by more than its error somewhere, (estimate,)."""
    error = made.get("calibrated", made.error)
    return ((made.central + error < made.lower) | (made.central - error > made.upper)).any(("sigma", "E"))


def _within(made: xr.Dataset) -> str:
    """Return which estimates are outside the bounds for rho >= 0."""
    if "lower" not in made or bool(made.lower.isnull().all()):
        return ""
    outside = [str(name) for name in made.estimate.values[_outside(made).values]]
    if not outside:
        return "All reach into the bounds for ρ ≥ 0 everywhere."
    return f"Outside the bounds for ρ ≥ 0, errors included: {', '.join(outside)}; if ρ ≥ 0, that is wrong somewhere."


def _trusted(made: xr.Dataset, budget: xr.Dataset) -> tuple[str, str]:
    """Return which estimate to trust, and why."""
    if budget.attrs["back_check"] < IMPOSSIBLE:
        return "none", "no spectral density explains the data, so that no estimate is to be trusted"
    left = [str(name) for name in made.estimate.values]
    if "lower" in made and bool(made.lower.notnull().any()):
        left = [name for name, out in zip(left, _outside(made).values, strict=True) if not out]
        if not left:
            return "bounds", "if ρ ≥ 0 trust the bounds alone, which need no prior"
    elif "lower" in made:
        why = "the bounds promise nothing here (see the flags), and with ρ ≥ 0 nor does any estimate; otherwise trust"
        return left[0], f"{why} the {left[0]}"
    if budget.attrs.get("p_value", 1.0) < SUSPICIOUS:
        why = "these data are unlike the prior, of which networks, linear estimator and posterior are made"
        if "hlt" in left:
            return "hlt", f"{why}; trust hlt, which takes its scale from the data"
        return ("bounds" if "lower" in made else "none"), f"{why}; no other estimate is there"
    if len(left) == 1 < made.sizes["estimate"]:
        return left[0], f"trust {left[0]}, the only one that the bounds allow"
    agree = np.abs(made.pull.sel(estimate=left, other=left)) <= AGREE
    quoted = made.get("calibrated", made.error).mean(("sigma", "E"))
    if not bool(agree.all()) and "hlt" in left:
        why = "where estimates of the same data differ the prior decides, and hlt assumes least of it, at the price of"
        return "hlt", f"{why} the wider error: trust hlt"
    best = min(left, key=lambda name: float(quoted.sel(estimate=name)))
    kind = "calibrated error" if "calibrated" in made else "error"
    if not bool(agree.all()):
        return best, f"estimates that differ depend on the prior; of these, {best} has the smallest {kind}"
    who = "they" if len(left) == made.sizes["estimate"] else "those that the bounds allow"
    return best, f"since {who} agree, trust the one with the smallest {kind}, {best}"


def _coverage(trusted: str, validation: xr.Dataset | None, budget: xr.Dataset) -> str:
    """Return how often the calibrated error of the trusted estimate covers, over the families of validation."""
    name = "calibrated" if trusted == budget.attrs.get("answered_by", NETWORKS) else trusted
    if validation is None or name not in validation.budget:
        return ""
    at = validation.coverage_of.sel(budget=name, level=budget.attrs["level"]).mean("sigma")
    worst = at.isel(family=int(at.argmin("family")))
    return (
        f"Over the families of the validation its error, calibrated to {budget.attrs['level']:.1%}, covers "
        f"{float(worst):.0%} to {float(at.max()):.0%} of the truth, least on {worst.family.values!s}."
    )
