"""A smeared density as one vector of correlated numbers, for fits and combinations with other observables."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.correlators.record import optional
from sdpipe.infer.budget import squared
from sdpipe.infer.calibration import calibrating, correlation
from sdpipe.physics.units import unit_of


def correlated(budget: xr.Dataset, validation: xr.Dataset, rule: str) -> xr.Dataset:
    """Return ``central``, ``error (sigma, E)`` and ``covariance (sigma, E, sigma2, E2)`` of one target.

        covariance = D R D,    D = diag(calibrated),

    R the correlation between all sigma and energies of the pulls of the draws of ``validation.zarr`` that calibrate
    this ``scale_rule``. The calibrated error counts as one standard deviation. Attributes: ``level``,
    and ``flags``, what speaks against the result.
    """
    pulls = calibrating(validation, rule).pull.transpose("sample", "sigma", "E").values.astype(float)
    flat = pulls.reshape(len(pulls), -1)
    units = budget.central.attrs.get("units", "1")
    result = budget[["central"]].assign(error=budget.calibrated).transpose("sigma", "E").drop_attrs(deep=True)
    width = result.error.values.ravel()
    covariance = width[:, None] * correlation(flat) * width
    covariance = (covariance + covariance.T) / 2  # to the last bit, which pyerrors asks for
    result["covariance"] = (("sigma", "E", "sigma2", "E2"), covariance.reshape(2 * result.error.shape))
    words = {
        "central": "smeared spectral density",
        "error": f"total error scaled to coverage {budget.attrs['level']:g}",
        "covariance": "covariance between sigma and energies",
    }
    for name, long_name in words.items():
        result[name].attrs = {"units": squared(units) if name == "covariance" else units, "long_name": long_name}
    result = result.assign_coords(sigma2=result.sigma.values, E2=result.E.values)
    for name in result.coords:
        result[name].attrs["units"] = unit_of(budget)
    return result.assign_attrs(level=budget.attrs["level"], flags=budget.attrs["flags"])


def as_gvars(density: xr.Dataset) -> NDArray[Any]:
    """Return what :func:`correlated` returns as gvars (sigma, E); raises UserError where gvar is not installed."""
    gvar, shape = optional("gvar", "to_gvar"), density.central.shape
    values = gvar.gvar(density.central.values.ravel(), density.covariance.values.reshape(2 * (density.central.size,)))
    return values.reshape(shape)


def as_obs(density: xr.Dataset, name: str) -> NDArray[Any]:
    """Return the same as pyerrors Obs (sigma, E), whose covariance has this ``name``; raises UserError likewise.

    Other Obs made under the name are taken for the same numbers: a name belongs to one target of one run.
    """
    pyerrors, shape = optional("pyerrors", "to_pyerrors"), density.central.shape
    covariance = density.covariance.values.reshape(2 * (density.central.size,))
    values = pyerrors.cov_Obs(density.central.values.ravel().tolist(), covariance, name)
    return np.array(values, dtype=object).reshape(shape)
