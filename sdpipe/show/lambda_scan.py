"""Stability plots of HLT: does rho_sigma(E) stay where it is as lambda falls, whatever alpha?"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdpipe.physics.units import equation, unit_of
from sdpipe.show import figures
from sdpipe.show.figures import COLOURS, DENSITY
from sdpipe.show.page import parts, picture

CAPTION = Markup(
    "{}: HLT against λ′ = λ/(1 − λ) for several α, with its statistical error. From the right, where the smearing is "
    "not reached, to the left, where noise wins: a result to trust is on a plateau that is the same for every α. "
    "Dotted: λ′ by {} for the first α, which is quoted; grey: its result with its error."
)


BELOW = 1e-4
"""The picture begins at this multiple of the lambda' that is chosen."""


def scan(found: xr.Dataset, ax: Axes) -> Axes:
    """Draw the scans at one sigma and one energy of a group of ``predictions.zarr`` with HLT."""
    for alpha, colour in figures.coloured(found.alpha.values, COLOURS[:3]):
        one = found.sel(alpha=alpha)
        keep = slice(None, None, 2)
        x, y = found["lambda"].values[keep], one.scan_mean.values[keep]
        ax.errorbar(x, y, one.scan_error.values[keep], fmt=".", ms=3, lw=0.8, color=colour, label=f"α = {alpha:g}")
    chosen, lambdas = float(found.scan_chosen.isel(alpha=0)), found["lambda"].values
    ax.axvline(chosen, color="0.4", ls=":", lw=1)
    own = {"method": "hlt"}
    centre, error = (float(found[name].sel(own)) for name in ("method_central", "method_error"))
    ax.axhspan(centre - error, centre + error, color="0.85", lw=0, zorder=0.5)
    size = max(_size(found), 3 * error)
    ax.set(xscale="log", xlabel="λ′", ylabel=DENSITY, ylim=(centre - size, centre + size))
    ax.set_xlim(max(BELOW * chosen, lambdas.min()), lambdas.max())
    ax.legend(fontsize=8)
    return ax


def _size(found: xr.Dataset) -> float:
    """Return the half height of the picture: six errors at the lambda that is chosen."""
    one = found.isel(alpha=0)
    i = np.abs(np.log(one["lambda"] / one.scan_chosen).values).argmin()
    return 6 * float(one.scan_error[i])


@mpl.rc_context(figures.STYLE)
def figure(found: xr.Dataset, title: str) -> Figure:
    """Return a figure of one sigma with a panel for each energy."""
    count, unit = found.sizes["E_scan"], unit_of(found)
    made = Figure(figsize=(figures.WIDTH * 0.8 * count, figures.HEIGHT), layout="constrained")
    for ax, E in zip(np.atleast_1d(made.subplots(1, count)), found.E_scan.values, strict=True):
        scan(at(found, float(E)), ax)
        words = ", ".join([equation("σ", float(found.sigma), unit), equation("E", E, unit, 3)])
        ax.set_title(f"{title}  {words}", fontsize=10, loc="left")
    return made


def at(found: xr.Dataset, E: float) -> xr.Dataset:
    """Return the scans at one energy, with estimate and error there."""
    return found.sel(E_scan=E, E=E)


def blocks(predictions: xr.Dataset, budget: xr.Dataset, title: str) -> list[Markup]:
    """Return the stability plots of one target for the report, none where HLT is not among the methods."""
    if "scan_mean" not in predictions:
        return []
    names = ("scan_mean", "scan_error", "scan_misfit", "scan_noise", "scan_chosen")
    rule = predictions.scan_chosen.attrs["long_name"].rpartition(" ")[2]
    found = predictions[list(names)].load().assign(budget[["method_central", "method_error"]])
    pictures = [
        picture(
            figure(found.sel(sigma=sigma), title),
            f"Stability of HLT of {title} at {equation('σ', sigma, unit_of(found))} against λ′, at two energies",
        )
        for sigma in found.sigma.values
    ]
    return [parts.gallery(pictures, CAPTION.format(title, rule))]
