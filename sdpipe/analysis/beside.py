"""Experiment or theory beside a run: a density smeared as the run smears, with its covariance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from sdpipe.analysis.answers import Answers, answer
from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.infer.budget import squared
from sdpipe.infer.least_squares import whitening
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import chi2_p_value
from sdpipe.physics.quadrature import first_edges, nodes_and_weights
from sdpipe.physics.spectra import Spectrum

AnyDensity = Callable[[Array], ArrayLike] | xr.DataArray | xr.Dataset | Sequence[ArrayLike]


def smeared(rho: AnyDensity, run: Answers, threshold: float = 0.0, breaks: Sequence[float] = ()) -> xr.Dataset:
    """Return a density smeared with the smearing, sigma and energies of a run.

        rho_sigma(E) = int d omega f_sigma(omega, E) rho(omega),    Cov = W Cov_rho W^T

    Parameters
    ----------
    rho
        A function rho(omega), zero below ``threshold`` and not smooth at ``breaks``; a table ``(omega, rho)``,
        ``(omega, rho, error)`` or ``(omega, rho, covariance)``, linear between its energies and zero outside of them;
        or xarray: an array with the dimension ``omega``, or a dataset of ``rho`` with ``error`` or ``covariance``.
        Errors without a covariance are taken as uncorrelated. omega is in the unit of energy of the run.
    run
        An open run, whose config says how to smear.
    threshold, breaks
        Of a function.

    Returns ``central``, ``error (sigma, E)`` and ``covariance (sigma, E, sigma2, E2)``, 0 where ``rho`` has no error.
    Raises UserError for another ``rho``, values that are not finite, energies that do not ascend, and shapes that do
    not fit.

    >>> run = sdpipe.open_run("runs/quickstart")
    >>> flat = sdpipe.smeared(([0.0, 50.0], [1.0, 1.0]), run)
    >>> float(flat.central.sel(sigma=0.44, E=2.3).round(6))
    1.0
    """
    grid = run.config.observables
    if callable(rho) and not isinstance(rho, xr.DataArray | xr.Dataset):
        integrals = Spectrum(continuum=_checked(rho), threshold=threshold, breaks=tuple(breaks)).integrals(grid)
        values = grid.split(integrals)[1].ravel()
        covariance = np.zeros((values.size, values.size))
    else:
        omega, table, error = _table(rho)
        W = _weights(omega, grid)
        values, covariance = W @ table, W @ error @ W.T
    shape, units = (len(grid.sigma), len(grid.energies)), grid.units
    dims, unit = ("sigma", "E"), {"units": grid.kernel.unit}
    width = np.sqrt(np.maximum(np.diag(covariance), 0))
    return xr.Dataset(
        {
            "central": (dims, values.reshape(shape), {"units": units, "long_name": "density beside, smeared"}),
            "error": (dims, width.reshape(shape), {"units": units, "long_name": "its error"}),
            "covariance": ((*dims, "sigma2", "E2"), covariance.reshape(2 * shape), {"units": squared(units)}),
        },
        {name: (name, list(getattr(grid, of)), unit) for name, of in _COORDINATES.items()},
    )


_COORDINATES = {"sigma": "sigma", "E": "energies", "sigma2": "sigma", "E2": "energies"}


def _checked(rho: Callable[[Array], ArrayLike]) -> Callable[[Array], Array]:
    def values(omega: Array) -> Array:
        checked = np.broadcast_to(np.asarray(rho(omega), float), omega.shape)
        if not np.isfinite(checked).all():
            raise UserError(f"rho is not finite at omega = {omega[~np.isfinite(checked)][0]:g}")
        return checked

    return values


def _table(rho: xr.DataArray | xr.Dataset | Sequence[ArrayLike]) -> tuple[Array, Array, Array]:
    """Return omega (n,), rho (n,) and its covariance (n, n)."""
    allowed = "allowed: a function, (omega, rho[, error or covariance]), or xarray with the dimension omega"
    if isinstance(rho, xr.DataArray):
        rho = rho.to_dataset(name="rho")
    try:
        if isinstance(rho, xr.Dataset):
            parts = [rho.omega.values, rho["rho"].values, *(rho[n].values for n in ("covariance", "error") if n in rho)]
        else:
            parts = list(rho)
        omega, values, *given = (np.asarray(part, float) for part in parts)
        error = given[0] if given else np.zeros(len(omega))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"rho: {type(rho).__name__} is not a density; {allowed}") from None
    covariance = np.diag(error**2) if error.ndim == 1 else error
    if omega.ndim != 1 or len(omega) < 2 or values.shape != omega.shape or covariance.shape != 2 * omega.shape:
        raise UserError(f"rho: shapes {omega.shape}, {values.shape}, {error.shape} do not fit each other; {allowed}")
    if not all(np.isfinite(a).all() for a in (omega, values, covariance)) or (np.diff(omega) <= 0).any():
        raise UserError("rho: all values must be finite, and omega must ascend")
    return omega, values, covariance


def _weights(omega: Array, grid: Observables) -> Array:
    """Return W (sigma E, n) with int f rho = W rho for a rho that is linear between its energies (n,)."""
    edges = first_edges(grid, omega[0], omega[-1])
    nodes, weights = nodes_and_weights(np.union1d(edges, omega))
    x = nodes.ravel()
    columns = grid.columns(x)[:, len(grid.times) :] * weights.ravel()[:, None]
    right = np.clip(np.searchsorted(omega, x), 1, len(omega) - 1)
    share = (x - omega[right - 1]) / (omega[right] - omega[right - 1])
    W = np.zeros((len(omega), columns.shape[1]))
    np.add.at(W, right - 1, (1 - share)[:, None] * columns)
    np.add.at(W, right, share[:, None] * columns)
    return W.T


def pull(run: Answers, target: str, beside: xr.Dataset) -> xr.Dataset:
    """Return how far a run is from what :func:`smeared` returns: the pull at each E, and chi^2 over all.

        pull = (rho - rho_beside) / sqrt(error^2 + error_beside^2),    chi^2 = d^T (Cov + Cov_beside)^-1 d

    in the directions that the covariance determines. Returns ``pull (sigma, E)``, and for each sigma, ``chi2``,
    ``freedom`` and ``p_value (sigma)``. Raises UserError where ``beside`` is on another grid.
    """
    one = answer(run, target)
    whole = {"central", "covariance"} <= set(beside)
    if not whole or beside.central.shape != one.central.shape or not np.allclose(beside.E, one.E):
        raise UserError("beside: needed: what sdpipe.smeared(rho, run) returns for this run")
    n = one.central.size
    V, off = one.covariance + beside.covariance.values.reshape(n, n), one.central - beside.central.values
    chi2, freedom = [], []
    for j in range(len(one.sigma)):
        rows = slice(j * len(one.E), (j + 1) * len(one.E))
        W = whitening(V[rows, rows])
        chi2.append(float(np.sum((W @ off[j]) ** 2)))
        freedom.append(len(W))
    width = np.hypot(one.error, beside.error.values)
    return xr.Dataset(
        {
            "pull": (("sigma", "E"), off / width, {"units": "1", "long_name": "(rho - beside) / error of both"}),
            "chi2": ("sigma", chi2),
            "freedom": ("sigma", freedom),
            "p_value": ("sigma", chi2_p_value(np.array(chi2), np.array(freedom))),
        },
        {name: beside[name] for name in ("sigma", "E")},
    )
