"""The error budget of arXiv:2307.00808, sec. 5, as reductions over ensemble, replica and boot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy.special import erf

from sdpipe.errors import UserError


def central_value(rho: xr.DataArray) -> xr.DataArray:
    """Return rho(E, N) = mean over boot and replica."""
    return rho.mean(("boot", "replica"), skipna=False)


def lattice_error(rho: xr.DataArray) -> xr.DataArray:
    """Return Delta_latt = std over boot of the mean over replica."""
    return rho.mean("replica", skipna=False).std("boot", skipna=False)


def network_error(rho: xr.DataArray) -> xr.DataArray:
    """Return Delta_net = std over replica (ddof 1) of the mean over boot."""
    return rho.mean("boot", skipna=False).std("replica", ddof=1, skipna=False)


def spread(predictions: xr.Dataset) -> xr.DataArray:
    """Return the standard deviation over all networks of their mean over boot, averaged over sigma and E.

    It is 0 without networks.
    """
    if "rho" not in predictions:
        return xr.zeros_like(predictions.estimator_rho.isel(estimator=0, drop=True).mean(("boot", "sigma", "E")))
    mean = predictions.rho.mean("boot").astype(float)
    return mean.std(("ensemble", "replica")).mean(("sigma", "E"))


def significance(difference: xr.DataArray, error: xr.DataArray) -> xr.DataArray:
    """Return P = |difference| / error; 0 where the difference is 0, infinite where only the error is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(difference) / error
    return ratio.where(difference != 0, 0.0)


def signed_errors(rho: xr.DataArray, central: str, references: Mapping[str, str]) -> tuple[xr.DataArray, xr.DataArray]:
    """Return rho(E, Nmax) and its errors (source, ...), those of the references with the sign of their shift.

    rho (..., sigma, ensemble, replica, boot, E): further dimensions, such as samples, stay.

    Raises UserError when an ensemble is missing, when there is one replica only, or a prediction is not finite.
    """
    trained = [str(e) for e in rho.ensemble.values]
    absent = [e for e in (central, *references.values()) if e not in trained]
    if absent:
        raise UserError(f"budget: there is no ensemble {', '.join(absent)}; those there: {', '.join(trained)}")
    if rho.sizes["replica"] < 2:
        raise UserError("budget: the spread over replicas needs at least 2 of them")
    rho = rho.sel(ensemble=list(dict.fromkeys([central, *references.values()]))).astype(float)
    if not bool(np.isfinite(rho).all()):
        raise UserError("budget: the predictions hold values that are not finite")
    value, latt, net = central_value(rho), lattice_error(rho), network_error(rho)
    stat = np.hypot(latt, net)

    def pick(x: xr.DataArray, ensemble: str) -> xr.DataArray:
        return x.sel(ensemble=ensemble, drop=True)

    errors = {"latt": pick(latt, central), "net": pick(net, central)}
    for source, name in references.items():
        shift = pick(value, central) - pick(value, name)
        P = significance(shift, np.hypot(pick(stat, central), pick(stat, name)))
        errors[source] = shift * erf(P / np.sqrt(2))
    joined = xr.concat(errors.values(), dim="source").assign_coords(source=np.array(list(errors), object))
    return pick(value, central), joined


def total_error(error: xr.DataArray) -> xr.DataArray:
    """Return Delta_tot = sqrt(sum over sources of Delta^2)."""
    return np.sqrt((error**2).sum("source", skipna=False))


def _covariance(deviation: xr.DataArray, over: str, ddof: int) -> xr.DataArray:
    count = deviation.sizes[over] - ddof
    return xr.dot(deviation, deviation.rename(E="E2"), dim=over) / count


def error_budget(
    rho: xr.DataArray,
    central: str,
    references: Mapping[str, str],
    truth: xr.DataArray | None = None,
    resolution: xr.DataArray | None = None,
) -> xr.Dataset:
    """Return the central value with its statistical and systematic errors.

        rho(E)     = mean of rho(Nmax) over boot and replica
        Delta_latt = std over boot of the mean over replica
        Delta_net  = std over replica (ddof 1) of the mean over boot
        P_X        = |rho(Nmax) - rho(Nref_X)| / sqrt(Delta_stat(Nmax)^2 + Delta_stat(Nref_X)^2)
        Delta_X    = |rho(Nmax) - rho(Nref_X)| erf(P_X / sqrt 2)
        Delta_tot^2 = Delta_latt^2 + Delta_net^2 + sum_X Delta_X^2 + Delta_resolution^2

    Parameters
    ----------
    rho
        (sigma, ensemble, replica, boot, E), dimensionless.
    central
        Name of the ensemble Nmax.
    references
        Source X -> name of the ensemble Nref_X.
    truth
        (sigma, E), where it is known: adds ``truth`` and ``pull`` = (rho - truth) / Delta_tot.
    resolution
        Covariance (sigma, E, E2) of what the data cannot resolve: adds a source of error, the roots of its diagonal,
        which bears the name of this array, ``resolution`` where it has none. Without it the budget is the published
        one.

    Returns
    -------
    ``central (sigma, E)``, ``error (source, sigma, E)``, ``total (sigma, E)`` and
    ``covariance (sigma, E, E2)``, whose diagonal is total^2: each systematic shift counts as fully
    correlated between energies, with its sign.

    Raises
    ------
    UserError
        When an ensemble is missing, when there is one replica only, or a prediction is not finite.

    >>> values = np.array([[1.0, 1.2], [1.4, 1.6]]).reshape(1, 1, 2, 2, 1)
    >>> coords = {"sigma": [0.44], "ensemble": ["Nmax"], "E": [1.0]}
    >>> rho = xr.DataArray(values, dims=("sigma", "ensemble", "replica", "boot", "E"), coords=coords)
    >>> error_budget(rho, "Nmax", {}).error.round(3).values.ravel().tolist()
    [0.1, 0.283]
    """
    value, signed = signed_errors(rho, central, references)
    best = rho.sel(ensemble=central, drop=True).astype(float)
    mean_boot, mean_replica = best.mean("boot"), best.mean("replica")
    covariance = _covariance(mean_replica - mean_replica.mean("boot"), "boot", 0)
    covariance = covariance + _covariance(mean_boot - mean_boot.mean("replica"), "replica", 1)
    for name in references:
        shift = signed.sel(source=name, drop=True)
        covariance = covariance + shift * shift.rename(E="E2")
    error = np.abs(signed)
    if resolution is not None:
        source = np.array([resolution.name or "resolution"], object)
        width = np.sqrt(np.diagonal(resolution.transpose("sigma", "E", "E2").values, axis1=1, axis2=2))
        width = xr.DataArray(width, dims=("sigma", "E"), coords={"sigma": rho.sigma, "E": rho.E})
        error = xr.concat([error, width.expand_dims(source=source)], dim="source")
        covariance = covariance + resolution.drop_vars("E2", errors="ignore")
    return _labelled(value, error, covariance, rho, truth)


def _labelled(
    value: xr.DataArray, error: xr.DataArray, covariance: xr.DataArray, rho: xr.DataArray, truth: xr.DataArray | None
) -> xr.Dataset:
    """Return a budget with units and words, those of ``rho``, and the pull where the truth is known."""
    units = rho.attrs.get("units", "1")
    budget = xr.Dataset(
        {
            "central": value.assign_attrs(units=units, long_name="smeared spectral density"),
            "error": error.transpose("source", "sigma", "E").assign_attrs(units=units, long_name="error by source"),
            "total": total_error(error).assign_attrs(units=units, long_name="total error"),
            "covariance": covariance.transpose("sigma", "E", "E2").assign_attrs(
                units=squared(units), long_name="covariance between energies"
            ),
        }
    )
    budget["E2"] = ("E2", rho.E.values, rho.E.attrs)
    if truth is not None:
        budget["truth"] = truth.astype(float).assign_attrs(units=units, long_name="true smeared spectral density")
        pull = (budget.central - budget.truth) / budget.total
        budget["pull"] = pull.assign_attrs(units="1", long_name="(central - truth) / total error")
    return budget


def squared(units: str) -> str:
    """Return the units of a covariance.

    >>> squared("1"), squared("GeV"), squared("GeV^3")
    ('1', '(GeV)^2', '(GeV^3)^2')
    """
    return "1" if units == "1" else f"({units})^2"


NETWORKS = "networks"
"""Name of the broad audience among those who answer."""


def answered_by(predictions: xr.Dataset, central: str) -> str:
    """Return who gives the central value: the networks or, without them, the estimator ``central``."""
    return NETWORKS if "rho" in predictions else central


def lead(predictions: xr.Dataset, central: str) -> xr.DataArray:
    """Return the central value (..., sigma, E): of the ensemble ``central`` or, without networks, of that estimator."""
    if "rho" in predictions:
        return predictions.rho.sel(ensemble=central).mean(("replica", "boot"))
    return predictions.estimator_rho.sel(estimator=central).mean("boot")


def lead_errors(
    predictions: xr.Dataset, central: str, references: Mapping[str, str]
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the central value and its errors (source, ...), see :func:`signed_errors`.

    Without networks they are those of the estimator ``central``, and ``latt``, the standard deviation over boot, is the
    only source.
    """
    if "rho" in predictions:
        return signed_errors(predictions.rho, central, references)
    rho = predictions.estimator_rho.sel(estimator=central, drop=True).astype(float)
    latt = rho.std("boot", skipna=False)
    return rho.mean("boot", skipna=False), latt.expand_dims(source=np.array(["latt"], object))


def beyond_latt(predictions: xr.Dataset, central: str, latt: xr.DataArray) -> xr.DataArray:
    """Return the part of the error of the estimator ``central`` that is not that of the lattice noise.

    Delta_resolution^2 = max(error^2 - Delta_latt^2, 0)
    """
    error = predictions.estimator_error.sel(estimator=central, drop=True)
    return np.sqrt(np.maximum(error**2 - latt**2, 0))


def budget_of(
    predictions: xr.Dataset, central: str, references: Mapping[str, str], resolution: xr.DataArray | None = None
) -> xr.Dataset:
    """Return the budget of one target, and the estimators beside it.

    :func:`error_budget` of the networks with the covariance ``resolution`` of what the data cannot resolve or, without
    networks, that of the estimator ``central``: sources ``latt`` and ``resolution``, and its own covariance. Beside it
    ``estimator_central`` and ``estimator_error (estimator, sigma, E)``.
    """
    if "rho" in predictions:
        budget = error_budget(predictions.rho, central, references, predictions.get("truth"), resolution)
    else:
        budget = _estimator_budget(predictions, central)
    if "estimator" in predictions:
        units = budget.central.attrs["units"]
        estimate = predictions.estimator_rho.mean("boot").astype(float).transpose("estimator", "sigma", "E")
        budget["estimator_central"] = estimate.assign_attrs(units=units, long_name="estimate of each estimator")
        budget["estimator_error"] = predictions.estimator_error
    return budget


def _estimator_budget(predictions: xr.Dataset, central: str) -> xr.Dataset:
    """Return the budget of an estimator that answers alone."""
    value, latt = lead_errors(predictions, central, {})
    beyond = beyond_latt(predictions, central, latt.sel(source="latt", drop=True))
    error = xr.concat([latt, beyond.expand_dims(source=np.array(["resolution"], object))], dim="source")
    covariance = predictions.estimator_covariance.sel(estimator=central, drop=True)
    return _labelled(value, error, covariance, predictions.estimator_rho, predictions.get("truth"))
