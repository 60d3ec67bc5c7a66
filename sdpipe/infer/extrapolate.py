"""The limit sigma -> 0 of rho_sigma(E), from a list of sigma and the covariance between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.infer.calibration import calibrating, correlation
from sdpipe.infer.least_squares import fit
from sdpipe.physics.noise import chi2_p_value
from sdpipe.physics.units import unit_of


@dataclass(frozen=True, eq=False)
class Limit:
    """The extrapolation to sigma = 0.

    Attributes
    ----------
    value, error
        rho(E) = c_0 and its error.
    coefficients, covariance
        c_p in the order of ``powers``, shape (power,), and their covariance.
    powers
        Powers of sigma.
    chi2, freedom
        chi^2 of the fit and its degrees of freedom.
    """

    value: float
    error: float
    coefficients: Array
    covariance: Array
    powers: tuple[int, ...]
    chi2: float
    freedom: int

    @property
    def p_value(self) -> float:
        """Probability of a larger chi^2; NaN without degrees of freedom."""
        return float(chi2_p_value(self.chi2, self.freedom)) if self.freedom else np.nan

    def __call__(self, sigma: ArrayLike) -> Array:
        """Return the fitted curve at ``sigma`` in GeV."""
        return _design(np.asarray(sigma, float), self.powers) @ self.coefficients


def extrapolate(sigma: ArrayLike, values: ArrayLike, covariance: ArrayLike, powers: tuple[int, ...] = (0, 2)) -> Limit:
    """Return the limit of rho_sigma(E) at one E by a correlated fit in powers of sigma.

        rho_sigma(E) = sum_p c_p sigma^p,    min chi^2 = r^T Cov^-1 r,    r_i = rho_i - sum_p c_p sigma_i^p

    A smearing that is even about E, as the Gaussian is, has even powers alone where rho is smooth at E: c_2 is half
    of rho''(E) (J. Bulava et al., arXiv:2111.12774; a Taylor series of rho). At the edges of rho there is none.

    Parameters
    ----------
    sigma
        Widths in GeV, shape (sigma,).
    values, covariance
        rho_sigma(E), shape (sigma,), and its covariance between widths, shape (sigma, sigma).
    powers
        Powers of sigma, the first 0: (0, 2) or (0, 2, 4); for smearings that are not even also odd ones.

    >>> s = np.array([0.2, 0.3, 0.4, 0.5])
    >>> limit = extrapolate(s, 1.5 - 0.7 * s**2, 1e-4 * (0.5 + 0.5 * np.eye(4)))
    >>> round(limit.value, 6), limit.freedom
    (1.5, 2)

    Raises UserError for shapes that do not fit, values that are not finite, fewer widths than powers, widths that are
    equal or not positive, or a covariance that is not positive definite.
    """
    s, y, cov = (np.asarray(a, float) for a in (sigma, values, covariance))
    n = len(s) if s.ndim == 1 else 0
    if n == 0 or y.shape != (n,) or cov.shape != (n, n):
        raise UserError(f"sigma {s.shape}, values {y.shape} and covariance {cov.shape} do not fit each other")
    if not all(np.isfinite(a).all() for a in (s, y, cov)):
        raise UserError("sigma, values and covariance must be finite")
    if powers[:1] != (0,) or len(set(powers)) < len(powers) or min(powers) < 0:
        raise UserError(f"powers {powers}; they must begin with 0, and differ")
    if (s <= 0).any() or len(np.unique(s)) < n:
        raise UserError(f"sigma {s.tolist()}; they must be positive, and differ")
    if n < len(powers):
        raise UserError(f"{n} values of sigma do not determine {len(powers)} coefficients", key="sigma")
    law = fit(_design(s, powers), cov, [f"sigma = {width:g}" for width in s])
    c, error = law(y), float(np.sqrt(law.covariance[0, 0]))
    return Limit(float(c[0]), error, c, law.covariance, powers, float(law.chi2(y)), law.freedom)


def limits(budget: xr.Dataset, validation: xr.Dataset, rule: str, powers: tuple[int, ...] = (0, 2)) -> xr.Dataset:
    """Return the limit sigma -> 0 of the networks at every energy of one budget, by :func:`extrapolate`.

    The covariance between widths is D R D, D = diag(calibrated) and R the correlation between widths of the
    pulls of the draws of ``validation.zarr`` that calibrate this ``scale_rule``.

    Returns ``limit``, ``error``, ``chi2``, ``p_value (E)``, ``coefficients (power, E)``, ``covariance (sigma, sigma2,
    E)`` and what was fitted, ``central`` and ``calibrated (sigma, E)``; the attribute ``freedom`` is the degrees of
    freedom. Raises UserError as :func:`extrapolate` does.
    """
    pulls = calibrating(validation, rule).pull.sel(E=budget.E).transpose("sample", "E", "sigma").values.astype(float)
    central, width = (budget[name].transpose("E", "sigma").values for name in ("central", "calibrated"))
    covariance = width[:, :, None] * correlation(pulls) * width[:, None, :]
    fits = [extrapolate(budget.sigma.values, y, c, powers) for y, c in zip(central, covariance, strict=True)]
    words = {
        "limit": "spectral density, sigma -> 0",
        "error": "its error",
        "chi2": "chi^2 of the fit",
        "p_value": "p-value",
    }
    result, units = budget[["central", "calibrated"]].drop_attrs(), budget.central.attrs.get("units", "1")
    for name, value in zip(words, ("value", "error", "chi2", "p_value"), strict=True):
        attrs = {"units": units if name in ("limit", "error") else "1", "long_name": words[name]}
        result[name] = ("E", [getattr(fit, value) for fit in fits], attrs)
    result["coefficients"] = (("power", "E"), np.stack([fit.coefficients for fit in fits], axis=1))
    result["covariance"] = (("sigma", "sigma2", "E"), np.moveaxis(covariance, 0, -1))
    result = result.assign_coords(power=list(powers), sigma2=budget.sigma.values).assign_attrs(freedom=fits[0].freedom)
    for name in ("sigma", "sigma2", "E"):
        result[name].attrs["units"] = unit_of(budget)
    return result


def _design(sigma: Array, powers: tuple[int, ...]) -> Array:
    return sigma[..., None] ** np.array(powers, float)
