"""Methods side by side: every estimate of one target with its error, and below them the pulls from the networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes

from sdpipe.estimators import ESTIMATORS
from sdpipe.infer.compare import AGREE
from sdpipe.physics import units
from sdpipe.physics.units import equation
from sdpipe.show import figures
from sdpipe.show.figures import DENSITY, WIDEST_PULL, fill
from sdpipe.show.picture import COLOURS, Picture

MARKERS = "osD^vPX"
"""Markers of the estimators, in the order of their registry; each has a colour to it."""


def point(name: str) -> tuple[str, str]:
    """Return marker and colour of an estimator.

    >>> point("linear"), point("hlt")
    (('o', '#D55E00'), ('D', '#CC79A7'))
    """
    i = list(ESTIMATORS).index(name) if name in ESTIMATORS else len(ESTIMATORS)
    return MARKERS[i % len(MARKERS)], COLOURS[1 + i % (len(COLOURS) - 2)]


SHOWN = 16
"""About how many energies a method is shown at."""

CAPTION = Markup(
    "{}: networks (line, band: calibrated error, or total) and the methods beside them (points with their own error, "
    "calibrated where that is known); grey, bounds for ρ ≥ 0 at all energies at once; dashed, truth. Below: difference "
    "from the networks over both errors in quadrature."
)


def estimates(compared: xr.Dataset, ax: Axes) -> Axes:
    """Draw what :func:`~sdpipe.infer.compare.compare` returns at one sigma, with the pulls in axes below ``ax``."""
    E, quoted = compared.E.values, compared.get("calibrated", compared.error)
    below = figures.below(ax)
    lead = str(compared.estimate.values[0])
    every, one = max(1, round(E.size / SHOWN)), compared.central.sel(estimate=lead)
    if "lower" in compared:
        band = {"color": figures.BOUNDS, "lw": 0, "zorder": 0.5, "label": "bounds, ρ ≥ 0"}
        ax.fill_between(E, compared.lower, compared.upper, **band)
    fill(ax, E, one.values, quoted.sel(estimate=lead).values, COLOURS[5], 0.45)
    ax.plot(E, one, color=COLOURS[0], label=lead)
    names = [name for name in map(str, compared.estimate.values) if name != lead]
    step = float(E[-1] - E[0]) / 120
    for i, name in enumerate(names):
        (marker, colour), rows = point(name), slice(every // 2, None, every)
        at, x = compared.sel(estimate=name).isel(E=rows), E[rows] + step * (i - (len(names) - 1) / 2)
        bars = quoted.sel(estimate=name).isel(E=rows)
        style = {"fmt": marker, "ms": 3, "lw": 1, "color": colour}
        ax.errorbar(x, at.central, bars, label=name, **style)
        below.plot(x, np.clip(at.pull.sel(other=lead), -WIDEST_PULL, WIDEST_PULL), marker, ms=3, color=colour)
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


def pictures(name: str, compared: xr.Dataset, title: str) -> Iterator[Picture]:
    """Draw all estimates of one target, a picture for each sigma."""
    for i, sigma in enumerate(compared.sigma.values):
        place = f"{title} at {equation('σ', sigma, units.unit_of(compared))}"
        words = f"Estimates of {place} by networks and each method, and their pulls"
        yield Picture(f"{name}-methods-sigma{i}", figures.panels(estimates, compared.isel(sigma=[i]), title), words)
