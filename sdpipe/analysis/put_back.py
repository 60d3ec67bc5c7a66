"""Known states put back into the density of what they leave, sample by sample."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sdpipe.arrays import Array
from sdpipe.physics.kernels import Observables
from sdpipe.physics.smearing import Smearing


def restored(predictions: xr.Dataset, A: Array, M: Array, grid: Observables) -> xr.Dataset:
    """Return predictions of what is left with the states put back, sample by sample, and what was put back.

        rho_sigma(E) = rho'_sigma(E) + sum_k A_k f_sigma(M_k, E)

    A and M are (boot, state). The samples of networks and estimators are those of the sum, and errors that hold noise
    are wider by as much as its noise is, so that a budget has the errors of A and M and their correlation with the
    data. Added are ``state_amplitude`` and ``state_mass (state, boot)``; ``correlator`` and ``implied`` stay those of
    what is left.
    """
    result, back = predictions.copy(), smeared_states(A, M, grid, grid.smearing)
    dims, coords = ("boot", "sigma", "E"), {name: predictions[name] for name in ("boot", "sigma", "E")}
    added = xr.DataArray(back, dims=dims, coords=coords)
    for name, error in (("rho", "scale"), ("estimator_rho", "estimator_error")):
        if name not in result:
            continue
        rho = predictions[name].astype(float)
        whole = rho + added
        result[name] = whole.transpose(*predictions[name].dims).astype(predictions[name].dtype)
        result[name].attrs = predictions[name].attrs
        if error in result:
            wider = whole.var("boot") - rho.var("boot")
            squared = np.maximum(predictions[error].astype(float) ** 2 + wider, 0)
            result[error] = np.sqrt(squared).transpose(*predictions[error].dims).assign_attrs(predictions[error].attrs)
    if "estimator_covariance" in result:
        samples = [predictions.estimator_rho.sel(estimator=x).transpose(*dims).values for x in result.estimator.values]
        wider = np.stack([_second(x + back) - _second(x.astype(float)) for x in samples])
        wide = xr.DataArray(wider, dims=("estimator", "sigma", "E", "E2"))
        covariance = result.estimator_covariance
        result["estimator_covariance"] = (covariance + wide).assign_attrs(covariance.attrs)
    for name in ("lower", "upper"):
        if name in result:
            result[name] = (result[name] + added.mean("boot")).assign_attrs(predictions[name].attrs)
    if "scan_mean" in result:
        near = added.mean("boot").sel(E=result.E_scan.values, method="nearest").rename(E="E_scan")
        shifted = result.scan_mean + near.assign_coords(E_scan=result.E_scan)
        result["scan_mean"] = shifted.transpose(*predictions.scan_mean.dims).assign_attrs(predictions.scan_mean.attrs)
    for name, values, units in (("state_amplitude", A, "1"), ("state_mass", M, grid.kernel.unit)):
        words = {"units": units, "long_name": f"{name.removeprefix('state_')} of a state taken off and put back"}
        result[name] = (("state", "boot"), values.T, words)
    return result


def with_states(smeared: xr.Dataset, prediction: xr.Dataset, grid: Observables, smearing: Smearing) -> xr.Dataset:
    """Return another smearing of what is left of one target with the states that were taken off it put back.

    ``smeared`` is that of :meth:`sdpipe.infer.predict.Predictor.smear`, ``prediction`` says which states there are.
    """
    if "state_mass" not in prediction:
        return smeared
    A, M = (prediction[name].transpose("boot", "state").values for name in ("state_amplitude", "state_mass"))
    back = xr.DataArray(smeared_states(A, M, grid, smearing), dims=("boot", "sigma", "E"))
    result, samples = smeared.copy(), smeared.samples + back
    wider = samples.var("boot") - smeared.samples.var("boot")
    result["samples"] = samples.transpose(*smeared.samples.dims)
    result["error"] = np.sqrt(np.maximum(smeared.error**2 + wider, 0))
    for name in ("central", "lower", "upper"):
        if name in result:
            result[name] = smeared[name] + back.mean("boot")
    for name in result.data_vars:
        result[name].attrs = smeared[name].attrs
    return result


def smeared_states(A: Array, M: Array, grid: Observables, smearing: Smearing) -> Array:
    """Return sum_k A_k f_sigma(M_k, E), (boot, sigma, E), for A and M (boot, state)."""
    E, sigma = np.array(grid.energies), np.array(grid.sigma)
    return np.einsum("bk,bkse->bse", A, smearing(E, M[:, :, None, None], sigma[:, None]))


def put_back(budget: xr.Dataset, samples: Array, A: Array, M: Array, grid: Observables) -> xr.Dataset:
    """Return the budget of what is left with the states put back, sample by sample.

        C'(t) = C(t) - sum_k A_k b_T(t, M_k),    rho_sigma(E) = rho'_sigma(E) + sum_k A_k f_sigma(M_k, E)

    (as in arXiv:2604.26381). ``samples`` (boot, sigma, E) are those of rho', with the same bootstrap as A and M (boot,
    state). The noise, and with it every error, is that of the sum: the errors of A and M and their correlation with the
    data are in it. Returns ``central``, ``total``, ``calibrated (sigma, E)``, ``error (source, sigma, E)``,
    ``covariance (sigma, E, E2)`` and ``samples (boot, sigma, E)``, with the attributes of the budget.
    """
    back = smeared_states(A, M, grid, grid.smearing)
    wider = _second(samples + back) - _second(samples)
    result = (
        budget[[n for n in ("central", "error", "total", "calibrated", "covariance") if n in budget]]
        .load()
        .copy(deep=True)
    )
    result["central"] = result.central + back.mean(axis=0)
    own = np.diagonal(wider, axis1=1, axis2=2)
    for name in ("total", "calibrated"):
        if name in result:
            result[name] = np.sqrt(np.maximum(result[name] ** 2 + own, 0)).assign_attrs(budget[name].attrs)
    result["covariance"] = result.covariance + wider
    result.error.loc[{"source": "latt"}] = (samples + back).std(axis=0)
    result["samples"] = (("boot", "sigma", "E"), samples + back)
    return result.assign_attrs(budget.attrs)


def _second(samples: Array) -> Array:
    """Return the covariance (sigma, E, E) of samples (boot, sigma, E)."""
    off = samples - samples.mean(axis=0)
    return np.einsum("bse,bsf->sef", off, off) / len(off)
