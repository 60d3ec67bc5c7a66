"""Integrals over rho_sigma(E), such as moments, with the error budget's rules applied to the integral itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from sdpipe.errors import UserError
from sdpipe.estimators.conformal import conformal_factor
from sdpipe.infer.budget import error_budget
from sdpipe.infer.calibration import calibrating, correlation, errors_off, integral_error
from sdpipe.physics import units as unit

WeightFunction = Callable[[NDArray[np.float64]], ArrayLike]

MEANINGS = {
    "central": "integral of f(E) times the smeared spectral density",
    "error": "error by source",
    "total": "total error",
    "propagated": "total error by linear propagation of the covariance",
    "boot_values": "integral for each bootstrap sample, mean over replicas",
    "weight": "quadrature weight times f(E)",
    "truth": "integral of the true smeared density",
    "pull": "(central - truth) / total error",
}


def quadrature_weights(E: NDArray, between: tuple[float, float] | None = None) -> NDArray[np.float64]:
    """Return w (E,) with ∫_a^b g(E) dE = Σ_k w_k g(E_k) for g the cubic spline through its values at E.

    ``between`` is (a, b), in GeV as E is; without it, the integral goes over all of E. The error falls like the
    fourth power of the spacing, for a smooth g.

    >>> E = np.linspace(0, 2, 9)
    >>> float(quadrature_weights(E, (0.3, 1.7)) @ E**3) - (1.7**4 - 0.3**4) / 4 < 1e-12
    True

    Raises UserError where (a, b) does not ascend inside the range of E.
    """
    E = np.asarray(E, float)
    low, high = between or (E[0], E[-1])
    if not E[0] <= low < high <= E[-1]:
        raise UserError(f"between: {low}..{high} must ascend and lie within {E[0]}..{E[-1]}, the run's energies")
    return CubicSpline(E, np.eye(E.size)).integrate(low, high)


def integral(
    rho: xr.DataArray,
    f: WeightFunction,
    central: str,
    references: Mapping[str, str],
    truth: xr.DataArray | None = None,
    between: tuple[float, float] | None = None,
    resolution: xr.DataArray | None = None,
) -> xr.Dataset:
    """Return I = ∫_a^b f(E) rho_sigma(E) dE with its errors.

        I[ensemble, replica, boot] = Σ_k w_k f(E_k) rho[ensemble, replica, boot, E_k]

    with the weights w of :func:`~sdpipe.infer.integrals.quadrature_weights`, and then what :func:`sdpipe.error_budget`
    does with rho(E) at one E, done with I. Its arguments are those of this function, and

    f
        Function of the energies (E,) in GeV, smooth between a and b: cut with ``between``, not with a step in f.
    between
        (a, b) in GeV; without it, all energies of the run.

    Linear propagation, propagated^2 = Σ_kl w_k f(E_k) covariance(E_k, E_l) f(E_l) w_l, has the same statistical part.
    Its systematic part differs a little from ``total``: there the shift at each E is weighed with its erf before they
    are added, here the shift of I is. Δ_resolution follows linearly from the covariance ``resolution``. The conformal
    factors of single energies say nothing of an integral; :func:`~sdpipe.infer.integrals.calibrated` has its own.

    Returns ``central (sigma)``, ``error (source, sigma)``, ``total (sigma)``, ``propagated (sigma)``,
    ``boot_values (sigma, boot)``, the mean over replicas of the central ensemble for each bootstrap sample,
    ``weight (E)`` = w f, and ``truth`` and ``pull`` where the truth is known, in units of f times GeV.

    Raises UserError when f is no function, not finite or not one number for each energy, or (a, b) is not inside the
    run's energies.

    >>> dims = ("sigma", "ensemble", "replica", "boot", "E")
    >>> coords = {"ensemble": ["Nmax"], "E": np.linspace(0, 2, 9)}
    >>> rho = xr.DataArray(np.ones((1, 1, 2, 3, 9)), dims=dims, coords=coords)
    >>> integral(rho, lambda E: E, "Nmax", {}).central.round(9).values.tolist()
    [2.0]
    """
    E = rho.E.values
    weight = xr.DataArray(quadrature_weights(E, between) * _values(f, E), dims="E", coords={"E": rho.E})
    each = xr.dot(rho.astype(float), weight, dim="E")
    point = {"E": [np.nan]}
    known = None if truth is None else xr.dot(truth.astype(float), weight, dim="E").expand_dims(point)
    other = weight.rename(E="E2")
    width = None
    if resolution is not None:
        resolution = resolution.assign_coords(E2=rho.E.values)
        width = xr.dot(weight, resolution, other, dim=("E", "E2")).rename(resolution.name)
        width = width.expand_dims(point | {"E2": [np.nan]}, axis=(-2, -1))
    result = error_budget(each.expand_dims(point, axis=-1), central, references, known, width)
    result = result.drop_vars("covariance").isel(E=0, E2=0, drop=True)
    covariance = error_budget(rho, central, references, None, resolution).covariance
    result["propagated"] = np.sqrt(xr.dot(weight, covariance, other, dim=("E", "E2")))
    result["boot_values"] = each.sel(ensemble=central, drop=True).mean("replica")
    result["weight"] = weight
    units = " ".join([*filter("1".__ne__, [rho.attrs.get("units", "1")]), f"{unit.unit_of(rho)} [f]"])
    for name, meaning in MEANINGS.items():
        if name in result:
            result[name].attrs = {"units": "1" if name == "pull" else units, "long_name": meaning}
    return result


def calibrated(
    weight: xr.DataArray, total: xr.DataArray, validation: xr.Dataset, rule: str, level: float
) -> xr.DataArray:
    """Return the calibrated error (sigma) of sum_E w rho for w (E,) and the total error (sigma, E) of one target.

        q [w D R D w]^(1/2),    D = diag(total),

    R the correlation between energies of (central - truth)/total over the draws of ``validation`` that calibrate
    this ``scale_rule``, and q the conformal factor of this integral over the same draws.
    """
    draws = calibrating(validation, rule)
    error = (draws.central - draws.truth).transpose("sample", "sigma", "E").values.astype(float)
    totals, w = draws.total.transpose("sample", "sigma", "E").values.astype(float), weight.values
    R = correlation(draws.pull.transpose("sample", "sigma", "E").values.astype(float))
    q = conformal_factor(errors_off(np.abs(error @ w), integral_error(w, totals, R)), level)
    scaled = q * integral_error(w, total.transpose("sigma", "E").values.astype(float), R)
    words = {"units": f"{unit.unit_of(total)} [f]", "long_name": f"total error scaled to coverage {level:g}"}
    return xr.DataArray(scaled, dims="sigma", coords={"sigma": total.sigma}, attrs=words)


def _values(f: WeightFunction, E: NDArray) -> NDArray[np.float64]:
    """Return f(E) as one finite number for each energy; a constant is one too."""
    if not callable(f):
        raise UserError(f"f: {f!r} is not allowed; allowed: a function of the energies, such as lambda E: E**2")
    values = np.asarray(f(E))
    if values.shape not in ((), E.shape) or not np.isrealobj(values) or values.dtype.kind not in "biuf":
        raise UserError(f"f(E) has shape {values.shape} and type {values.dtype}; needed: one real number for each E")
    if not np.isfinite(values).all():
        raise UserError("f(E) is not finite at every energy of the run")
    return np.broadcast_to(values.astype(float), E.shape)
