"""The budget of one target with what ``validate`` knows: resolution, calibration, in or out of distribution."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from sdpipe.infer.budget import LINEAR, error_budget, spread
from sdpipe.infer.calibration import RULES, Resolution
from sdpipe.infer.typicality import SUSPICIOUS, Reference, smallest_p_value


def resolution_of(validation: xr.Dataset) -> Resolution:
    """Return the residuals that ``validation.zarr`` holds."""
    return Resolution(validation.residual.values.astype(float), validation.residual_scale.values)


def rule_of(predictions: xr.Dataset) -> str:
    """Return how the data of one target were sized, one of ``RULES``."""
    return str(predictions.attrs.get("scale_rule", RULES[0]))


def reference_of(validation: xr.Dataset, rule: str) -> Reference:
    """Return the draws that ``validation.zarr`` compares with: those of the prior that calibrate what has this rule."""
    prior = validation.isel(family=RULES.index(rule))
    chosen = ~prior.tested.values
    return Reference(*(prior[k].values[chosen].astype(float) for k in ("noise_scale", "distance", "spread")))


def unresolved(predictions: xr.Dataset, validation: xr.Dataset) -> xr.DataArray:
    """Return the covariance (sigma, E, E2) of what the data of one target cannot resolve, source ``resolution``."""
    covariance = resolution_of(validation).covariance(predictions.attrs["noise_scale"])
    grid = {"sigma": predictions.sigma, "E": predictions.E}
    return xr.DataArray(covariance / predictions.attrs["scale"] ** 2, dims=("sigma", "E", "E2"), coords=grid)


def judge(predictions: xr.Dataset, validation: xr.Dataset | None) -> tuple[float | None, list[str]]:
    """Return the p-value of one target under the prior, None without ``validation``, and all that speaks against it.

    See :meth:`sdpipe.infer.typicality.Reference.p_value`.
    """
    flags = list(predictions.attrs["flags"])
    if validation is None:
        return None, flags
    reference = reference_of(validation, rule_of(predictions))
    scale, noise_scale, distance = (predictions.attrs[k] for k in ("scale", "noise_scale", "distance"))
    p_value = reference.p_value(noise_scale, distance, scale * float(spread(predictions.rho)))
    if p_value < SUSPICIOUS:
        sign = "=" if p_value > smallest_p_value(len(reference.distance)) else "<="
        flags.append(
            f"out of distribution: p {sign} {p_value:.3g} that the training set holds such a correlator; "
            "the calibrated error promises nothing here"
        )
    return p_value, flags


def assess(
    predictions: xr.Dataset,
    central: str,
    references: Mapping[str, str],
    validation: xr.Dataset | None = None,
    level: float = 0.683,
) -> xr.Dataset:
    """Return the error budget of one target as ``budget.zarr`` holds it.

    Parameters
    ----------
    predictions
        A group of ``predictions.zarr``.
    central, references
        As in :func:`~sdpipe.infer.budget.error_budget`.
    validation
        ``validation.zarr``. With it the budget has the source ``resolution``, ``calibrated`` = q total (sigma, E) with
        the conformal factor q at ``level``, the same for the linear estimator, and a p-value under the prior.
        Without it the budget is the published one.
    """
    resolution = None if validation is None else unresolved(predictions, validation)
    budget = error_budget(predictions.rho, central, references, predictions.get("truth"), resolution)
    linear = predictions.rho.sel(ensemble=LINEAR, drop=True).isel(replica=0, drop=True).mean("boot").astype(float)
    budget["linear"] = linear.assign_attrs(units="1", long_name="estimate of the best linear estimator")
    variance = np.diagonal(predictions.linear_covariance.values, axis1=1, axis2=2)
    budget["linear_error"] = (("sigma", "E"), np.sqrt(variance), {"units": "1", "long_name": "its posterior error"})
    budget.attrs = {k: predictions.attrs[k] for k in ("scale", "noise_scale", "chi2", "dof", "back_check")}
    if validation is not None:
        q = validation.sel(level=level, scale_rule=rule_of(predictions), drop=True)
        calibrated = budget.total * q.factor.astype(float)
        budget["calibrated"] = calibrated.assign_attrs(units="1", long_name=f"total error scaled to coverage {level:g}")
        calibrated = budget.linear_error * q.linear_factor.astype(float)
        budget["linear_calibrated"] = calibrated.assign_attrs(
            units="1", long_name=f"linear error at coverage {level:g}"
        )
        budget.attrs["level"] = level
    p_value, budget.attrs["flags"] = judge(predictions, validation)
    return budget if p_value is None else budget.assign_attrs(p_value=p_value)
