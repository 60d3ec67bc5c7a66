"""Stability plots of HLT: does rho_sigma(E) stay where it is as lambda falls, whatever alpha?"""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdpipe.physics.units import equation, unit_of
from sdpipe.show import figures
from sdpipe.show.figures import BESIDE, DENSITY, PANEL
from sdpipe.show.picture import COLOURS, STYLE, Picture

CAPTION = Markup(
    "{}: the panels show HLT against λ′ = λ/(1 − λ) for several α, with its statistical error. On the right the "
    "smearing is not reached, on the left noise wins: a result to trust is on a plateau that is the same for every α. "
    "The dotted line is λ′ by {} for the first α, which is quoted; the grey band is its result with its error."
)

LOWEST_SHOWN = 1e-4
"""The picture begins at this multiple of the lambda' that is chosen."""

RULE_WORDS = {
    "evidence": "the largest marginal likelihood",
    "plateau": "its plateau",
    "balance": "the balance of both errors",
    "hand": "hand (hlt.lambda)",
}
"""What chooses lambda, in words."""

HIGH, BETWEEN = 2.2, 0.9
"""Inches: height of the axes of one energy, and what is between two."""


def scan(scans: xr.Dataset, ax: Axes) -> Axes:
    """Draw the scans at one sigma and one energy of a group of ``predictions.zarr`` with HLT."""
    for alpha, colour in figures.coloured(scans.alpha.values, COLOURS[:3]):
        one = scans.sel(alpha=alpha)
        keep = slice(None, None, 2)
        x, y = scans["lambda"].values[keep], one.scan_mean.values[keep]
        ax.errorbar(x, y, one.scan_error.values[keep], fmt=".", ms=3, lw=0.8, color=colour, label=f"α = {alpha:g}")
    chosen, lambdas = float(scans.scan_chosen.isel(alpha=0)), scans["lambda"].values
    ax.axvline(chosen, color="0.4", ls=":", lw=1)
    own = {"estimator": "hlt"}
    centre, error = (float(scans[name].sel(own)) for name in ("estimator_central", "estimator_error"))
    ax.axhspan(centre - error, centre + error, color="0.85", lw=0, zorder=0.5)
    size = max(_size(scans), 3 * error)
    ax.set(xscale="log", xlabel="λ′", ylabel=DENSITY, ylim=(centre - size, centre + size))
    ax.set_xlim(max(LOWEST_SHOWN * chosen, lambdas.min()), lambdas.max())
    ax.legend(fontsize=8)
    return ax


def _size(scans: xr.Dataset) -> float:
    """Return the half height of the picture: six errors at the lambda that is chosen."""
    one = scans.isel(alpha=0)
    i = np.abs(np.log(one["lambda"] / one.scan_chosen).values).argmin()
    return 6 * float(one.scan_error[i])


@mpl.rc_context(STYLE)
def figure(scans: xr.Dataset, title: str) -> Figure:
    """Return a figure of one sigma with a panel for each energy, one below the other."""
    unit = unit_of(scans)
    figure, axes = figures.grid((scans.sizes["E_scan"], 1), (PANEL - BESIDE, HIGH), (0.0, BETWEEN))
    for ax, E in zip(axes[:, 0], scans.E_scan.values, strict=True):
        scan(at(scans, float(E)), ax)
        words = [figures.short(title), equation("σ", float(scans.sigma), unit), equation("E", E, unit, 3)]
        ax.set_title(", ".join(words), fontsize=10, loc="left")
    figures.place_labels(figure)
    return figure


def at(scans: xr.Dataset, E: float) -> xr.Dataset:
    """Return the scans at one energy, with estimate and error there."""
    return scans.sel(E_scan=E, E=E)


def pictures(name: str, predictions: xr.Dataset, budget: xr.Dataset, title: str) -> Iterator[Picture]:
    """Draw the stability plots of one target, one for each sigma; none where HLT is not among the methods."""
    if "scan_mean" not in predictions:
        return
    names = ["scan_mean", "scan_error", "scan_misfit", "scan_noise", "scan_chosen"]
    scans = predictions[names].load().assign(budget[["estimator_central", "estimator_error"]])
    for i, sigma in enumerate(scans.sigma.values):
        words = f"Stability of HLT of {title} at {equation('σ', sigma, unit_of(scans))} against λ′, at two energies"
        yield Picture(f"{name}-stability-sigma{i}", figure(scans.isel(sigma=i), title), words)


def caption(predictions: xr.Dataset, title: str) -> Markup:
    """Return what the stability plots of one target show."""
    rule = predictions.scan_chosen.attrs["long_name"].rpartition(" ")[2]
    return CAPTION.format(title, RULE_WORDS.get(rule, rule))
