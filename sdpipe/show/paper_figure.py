"""A density as a figure for a paper: in the widths of journals, with fonts, words and colours of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sdpipe.errors import UserError
from sdpipe.physics import units
from sdpipe.show import figures
from sdpipe.show.overlay import Curve, overlay
from sdpipe.show.picture import COLOURS, STYLE

WIDTHS = {"column": 3.4, "page": 7.0}
"""Inches: one column of a journal, and both."""

SMALL = {"font.size": 8, "legend.fontsize": 7, "legend.title_fontsize": 7}
"""Fonts of a figure that is as wide as a column."""

NARROW = 5.0
"""Inches below which a legend has two columns."""

WORDS = {
    "x": "",
    "y": figures.DENSITY,
    "central": "central value",
    "total": "total error",
    "stat": "statistical error",
    "truth": "truth",
    "lower": "/ error",
}
"""What a figure says, by the keys that ``labels`` takes; x is E with its unit."""


def inches_of(width: float | str) -> float:
    """Return a width in inches; raise UserError for a name that is none of WIDTHS, and for less than an inch.

    >>> inches_of("column"), inches_of(5)
    (3.4, 5.0)
    """
    if isinstance(width, str) and width in WIDTHS:
        return WIDTHS[width]
    if not isinstance(width, Real) or not width >= 1:
        raise UserError(f"width: {width!r} is not allowed; allowed: inches, from 1 on, {', '.join(WIDTHS)}")
    return float(width)


def density(
    budget: xr.Dataset,
    width: float | str = "column",
    height: float | None = None,
    lower: bool = False,
    labels: Mapping[str, str] | None = None,
    colours: Sequence[str] = (figures.CENTRAL, figures.STATISTICAL, figures.TOTAL),
    beside: Mapping[str, Curve] | None = None,
    style: Mapping[str, Any] | None = None,
) -> Figure:
    """Draw one budget at one sigma: central value with its statistical and its calibrated error, or the total without.

    Parameters
    ----------
    budget
        Of one target at one sigma, see :attr:`sdpipe.run.Run.budget`.
    width, height
        In inches; of the width also ``column`` and ``page``. By default a figure is 0.72 times as high as a column.
    lower
        Whether the same is drawn less the central value, in units of the error, in a panel below.
    labels
        Words instead of those of WORDS, by their keys; an entry without any, "", is left out of the legend.
    colours
        Of the central value and the two errors.
    beside
        Further curves by their words, each one that :func:`sdpipe.show.overlay.overlay` draws.
    style
        Matplotlib's parameters, such as ``{"font.family": "serif"}``, for this figure alone.

    Returns the figure, which ``figure.savefig("density.pdf")`` writes; the legend has a place of its own. Raises
    UserError for a width or a label that is not allowed.
    """
    if unknown := [key for key in labels or {} if key not in WORDS]:
        raise UserError(f"labels: {', '.join(unknown)} not allowed; allowed: {', '.join(WORDS)}")
    if len(colours) != 3:
        raise UserError(f"colours: {len(colours)} are given; needed: 3, of the central value and the two errors")
    if height is not None and not (isinstance(height, Real) and height > 0):
        raise UserError(f"height: {height!r} is not allowed; allowed: inches, above 0")
    words = {**WORDS, "x": figures.energy(budget), **(labels or {})}
    across = inches_of(width)
    with mpl.rc_context({**STYLE, **SMALL, **(style or {})}):
        size = (across, height or 0.72 * WIDTHS["column"] * (1.35 if lower else 1))
        figure = Figure(figsize=size, layout="constrained")
        ratios = {"height_ratios": [2.5, 1]} if lower else {}
        panels = figure.subplots(2 if lower else 1, 1, sharex=True, squeeze=False, **ratios)[:, 0]
        _draw(panels, budget, words, colours)
        for label, curve in (beside or {}).items():
            overlay(panels[0], curve, label, float(budget.sigma))
        title = units.equation(r"$\sigma$", float(budget.sigma), units.unit_of(budget))
        figures.legend_above(panels[0], 2 if across < NARROW else 4, title=title)
    return figure


def _draw(panels: Sequence[Axes], budget: xr.Dataset, words: Mapping[str, str], colours: Sequence[str]) -> None:
    E, central = budget.E.values, budget.central.values
    total = (budget.calibrated if "calibrated" in budget else budget.total).values
    stat = figures.statistical(budget)
    unit = np.where(total > 0, total, np.inf)
    for ax, centre, scale in zip(panels, (central, 0 * central), (np.ones(len(E)), unit), strict=False):
        figures.fill(ax, E, centre, total / scale, colours[2], 1, label=words["total"] or None)
        figures.fill(ax, E, centre, stat / scale, colours[1], 1, label=words["stat"] or None)
        ax.plot(E, centre, color=colours[0], lw=1, label=words["central"] or None)
        if "truth" in budget:
            truth = centre + (budget.truth.values - central) / scale
            ax.plot(E, truth, color=COLOURS[1], ls="--", lw=1, label=words["truth"] or None)
        ax.yaxis.set_major_locator(MaxNLocator(5))
    panels[0].set(ylabel=words["y"], xlim=(E[0], E[-1]))
    panels[-1].set_xlabel(words["x"])
    panels[-1].xaxis.set_major_locator(MaxNLocator(6))
    if len(panels) > 1:
        panels[1].set(ylabel=words["lower"], ylim=(-2.5, 2.5))
