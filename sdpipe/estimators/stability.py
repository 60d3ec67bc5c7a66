"""What a stability plot of HLT shows: rho_sigma(E) against lambda for several alpha, and which lambda is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.estimators.hlt import HLT

ENERGIES = 2
"""Energies that are kept of each target and width."""


def kept(count: int) -> list[int]:
    """Return which of ``count`` energies are kept: a third and two thirds of the way up.

    >>> kept(47), kept(2)
    ([15, 31], [0, 1])
    """
    return [count * (k + 1) // (ENERGIES + 1) for k in range(ENERGIES)]


def stability(hlts: Sequence[HLT], C: NDArray[np.float64], rows: Sequence[int], factor: float = 1.0) -> xr.Dataset:
    """Return the scans of one correlator ``factor`` times C, shape (t,), at some of the energies.

    ``hlts`` differ in alpha alone. Returns ``scan_mean``, ``scan_error``, ``scan_misfit`` (A/A[0]) and ``scan_noise``
    (B), each (alpha, sigma, E_scan, lambda) against lambda' = lambda / (1 - lambda), and ``scan_chosen (alpha, sigma,
    E_scan)``, the lambda' that each chooses by its rule. The floor of the noise enters as that of this correlator.
    """
    rows, at = list(rows), [hlt.floored(C) for hlt in hlts]
    scans = [hlt.scan(C) for hlt in at]
    dims, first, rule = ("alpha", "sigma", "E_scan", "lambda"), hlts[0].observables, hlts[0].rule

    def stacked(name: str, unit: float = 1.0) -> NDArray[np.float64]:
        return np.stack([getattr(scan, name)[:, rows] for scan in scans]) / unit

    chosen = np.stack([(hlt(C).mu / hlt.unit)[:, rows] for hlt in at])
    unit, units = first.kernel.unit, first.units
    made = {
        "scan_mean": (dims, stacked("mean", factor), units, "HLT against lambda'"),
        "scan_error": (dims, stacked("error", abs(factor)), units, "its statistical error"),
        "scan_misfit": (dims, stacked("misfit"), "1", "A/A[0]"),
        "scan_noise": (dims, stacked("noise"), "1", "B"),
        "scan_chosen": (dims[:3], chosen, "1", f"lambda' by {rule}"),
    }
    coords = {
        "alpha": [hlt.alpha for hlt in hlts],
        "sigma": ("sigma", list(first.sigma), {"units": unit}),
        "E_scan": ("E_scan", [first.energies[i] for i in rows], {"units": unit}),
        "lambda": scans[0].lambdas,
    }
    return xr.Dataset({k: (d, v, {"units": u, "long_name": w}) for k, (d, v, u, w) in made.items()}, coords)
