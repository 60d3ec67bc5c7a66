"""Methods side by side: every estimate of one target with its error, and below them the pulls from the networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes

from sdpipe.infer.compare import AGREE, NETWORKS
from sdpipe.physics import units
from sdpipe.physics.units import equation
from sdpipe.show import figures, lambda_scan
from sdpipe.show.figures import COLOURS, DENSITY, SHOWN_ENERGIES, WIDEST_PULL, fill
from sdpipe.show.page import parts, picture

POINTS = {"linear": ("o", COLOURS[1]), "posterior": ("s", COLOURS[2]), "hlt": ("D", COLOURS[3])}
"""Marker and colour of each method."""

SHOWN = 16
"""About how many energies a method is shown at."""

CAPTION = Markup(
    "{}: networks (line, band: calibrated error, or total) and the methods beside them (points with their own error, "
    "calibrated where that is known); grey, bounds for ρ ≥ 0 at all energies at once; dashed, truth. Below: difference "
    "from the networks over both errors in quadrature."
)


class Stores(figures.Stores, Protocol):
    """What :class:`Plots` takes from a run."""

    def compare(self, target: str) -> xr.Dataset:
        """Return every estimate of one target side by side."""

    def extrapolate(self, target: str, E: float | Sequence[float] | None = None) -> xr.Dataset:
        """Return the limit sigma -> 0."""

    def stability(self, target: str, E: float | None = None) -> xr.Dataset:
        """Return HLT against lambda."""


def estimates(compared: xr.Dataset, ax: Axes) -> Axes:
    """Draw what :func:`~sdpipe.infer.compare.compare` returns at one sigma, with the pulls in axes below ``ax``."""
    E, quoted = compared.E.values, compared.get("calibrated", compared.error)
    below = figures.below(ax)
    every, one = max(1, round(E.size / SHOWN)), compared.central.sel(estimate=NETWORKS)
    if "lower" in compared:
        band = {"color": figures.BOUNDS, "lw": 0, "zorder": 0.5, "label": "bounds, ρ ≥ 0"}
        ax.fill_between(E, compared.lower, compared.upper, **band)
    fill(ax, E, one.values, quoted.sel(estimate=NETWORKS).values, COLOURS[5], 0.45)
    ax.plot(E, one, color=COLOURS[0], label=NETWORKS)
    names = [name for name in map(str, compared.estimate.values) if name != NETWORKS]
    step = float(E[-1] - E[0]) / 120
    for i, name in enumerate(names):
        (marker, colour), rows = POINTS[name], slice(every // 2, None, every)
        at, x = compared.sel(estimate=name).isel(E=rows), E[rows] + step * (i - (len(names) - 1) / 2)
        bars = quoted.sel(estimate=name).isel(E=rows)
        style = {"fmt": marker, "ms": 3, "lw": 1, "color": colour}
        ax.errorbar(x, at.central, bars, label=name, **style)
        below.plot(x, np.clip(at.pull.sel(other=NETWORKS), -WIDEST_PULL, WIDEST_PULL), marker, ms=3, color=colour)
    if "truth" in compared:
        ax.plot(E, compared.truth, color=COLOURS[6], ls="--", lw=1, label="truth")
    centre, spread = one.values, float(np.ptp(one.values)) or 1.0
    ax.set(ylabel=DENSITY, xlim=(E[0], E[-1]), ylim=(centre.min() - 0.3 * spread, centre.max() + 0.3 * spread))
    figures.beside(ax)
    for sign in (-1, 1):
        below.axhline(sign * AGREE, color="0.6", lw=0.8, ls=":")
    below.axhline(0, color=COLOURS[0], lw=1)
    below.set(xlabel=figures.energy(compared), ylabel="pull", ylim=(-WIDEST_PULL * 1.05, WIDEST_PULL * 1.05))
    ax.legend(fontsize=8)
    return ax


class Plots(figures.Plots):
    """Those of :class:`sdpipe.show.figures.Plots`, and the methods side by side."""

    def __init__(self, run: Stores) -> None:
        super().__init__(run)
        self._compared = run

    def methods(self, target: str, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw the networks and every method with their errors, and the pulls in axes below."""
        return figures.draw_at(estimates, self._compared.compare(target), sigma, ax)

    def stability(
        self, target: str, sigma: float | None = None, E: float | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draw HLT against lambda at one energy, by default the lowest of those that ``predictions.zarr`` keeps."""
        found = self._compared.stability(target, E)
        return figures.draw_at(lambda_scan.scan, lambda_scan.at(found, float(found.E_scan[0])), sigma, ax)

    def limit(self, target: str, E: float | Sequence[float] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the limit sigma -> 0 at some energies, by default four of them."""
        found = self._compared.extrapolate(target, E)
        if E is None:
            found = found.isel(E=slice(None, None, -(-found.sizes["E"] // SHOWN_ENERGIES)))
        if ax is None:
            from matplotlib import pyplot as plt

            _, ax = plt.subplots(figsize=(figures.WIDTH, figures.HEIGHT), layout="constrained")
        return limit(found, ax)


def limit(found: xr.Dataset, ax: Axes) -> Axes:
    """Draw what ``run.extrapolate`` returns: rho_sigma(E) against sigma^2 at each energy, the fit, and its limit."""
    unit = units.unit_of(found)
    fine = np.linspace(0, float(found.sigma.max()) * 1.05, 60)
    for i, colour in figures.coloured(range(min(found.sizes["E"], len(COLOURS)))):
        one = found.isel(E=i)
        style = {"color": colour, "ms": 4, "lw": 1}
        ax.errorbar(
            one.sigma**2, one.central, one.calibrated, fmt="o", label=equation("E", float(one.E), unit, 3), **style
        )
        ax.errorbar([0], [float(one.limit)], [float(one.error)], fmt="s", mfc="white", **style)
        ax.plot(fine**2, fine[:, None] ** one.power.values @ one.coefficients.values, color=colour, lw=1)
    ax.set(xlabel=r"$a^2 \sigma^2$" if unit == units.LATTICE else r"$\sigma^2$ [GeV$^2$]", ylabel=DENSITY)
    ax.legend(fontsize=8)
    return ax


def draw(directory: Path, name: str, compared: xr.Dataset, title: str) -> Path:
    """Draw all estimates of one target, a panel for each sigma; return the file."""
    return figures.save(figures.panels(estimates, compared, title), directory / f"{name}-methods.png")


def blocks(compared: xr.Dataset, title: str) -> list[Markup]:
    """Return the paragraph and the figure of one target for the report."""
    unit = units.unit_of(compared)
    pictures = [
        picture(
            figures.panels(estimates, compared.sel(sigma=[sigma]), title),
            f"Estimates of {title} at {equation('σ', sigma, unit)} by networks and each method, and their pulls",
        )
        for sigma in compared.sigma.values
    ]
    return [parts.text(compared.attrs["says"]), parts.gallery(pictures, CAPTION.format(title))]
