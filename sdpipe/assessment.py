"""The budget of one target with what ``validate`` knows: resolution, calibration, in or out of distribution."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from sdpipe.budget import LINEAR, error_budget, spread
from sdpipe.calibration import Resolution
from sdpipe.typicality import SUSPICIOUS, Reference


def resolution_of(validation: xr.Dataset) -> Resolution:
    """Return the residuals that ``validation.zarr`` holds."""
    return Resolution(validation.residual.values.astype(float), validation.residual_scale.values)


def reference_of(validation: xr.Dataset) -> Reference:
    """Return the draws that ``validation.zarr`` compares with: those of the prior that calibrate."""
    prior = validation.isel(family=0)
    chosen = ~prior.tested.values
    return Reference(*(prior[k].values[chosen].astype(float) for k in ("noise_scale", "distance", "spread")))


def unresolved(predictions: xr.Dataset, validation: xr.Dataset) -> xr.DataArray:
    """Return the covariance (sigma, E, E2) of what the data of one target cannot resolve, source ``resolution``."""
    covariance = resolution_of(validation).covariance(predictions.attrs["noise_scale"])
    grid = {"sigma": predictions.sigma, "E": predictions.E}
    return xr.DataArray(covariance / predictions.attrs["scale"] ** 2, dims=("sigma", "E", "E2"), coords=grid)


def p_value_of(predictions: xr.Dataset, validation: xr.Dataset) -> float:
    """Return the p-value of one target under the prior, see :meth:`sdpipe.typicality.Reference.p_value`."""
    scale, noise_scale, distance = (predictions.attrs[k] for k in ("scale", "noise_scale", "distance"))
    return reference_of(validation).p_value(noise_scale, distance, scale * float(spread(predictions.rho)))


def flags_of(predictions: xr.Dataset, p_value: float | None) -> list[str]:
    """Return what speaks against the budget of one target: the flags of its data, and its ``p_value`` if it is low."""
    flags = list(predictions.attrs["flags"])
    if p_value is not None and p_value < SUSPICIOUS:
        flags.append(
            f"out of distribution: p = {p_value:.3g} that the training set holds such a correlator; "
            "the calibrated error promises nothing here"
        )
    return flags


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
        As in :func:`~sdpipe.budget.error_budget`.
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
        q = validation.sel(level=level, drop=True)
        calibrated = budget.total * q.factor.astype(float)
        budget["calibrated"] = calibrated.assign_attrs(units="1", long_name=f"total error scaled to coverage {level:g}")
        calibrated = budget.linear_error * q.linear_factor.astype(float)
        budget["linear_calibrated"] = calibrated.assign_attrs(
            units="1", long_name=f"linear error at coverage {level:g}"
        )
        budget.attrs |= {"level": level, "p_value": p_value_of(predictions, validation)}
    budget.attrs["flags"] = flags_of(predictions, budget.attrs.get("p_value"))
    return budget
