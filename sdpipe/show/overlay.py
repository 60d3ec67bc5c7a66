"""Further curves in a figure: another run, a limit, an experiment, a bound, a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from sdpipe.errors import UserError
from sdpipe.show.picture import COLOURS, STYLE

Curve = xr.Dataset | Callable[[Any], ArrayLike] | Sequence[ArrayLike]

ERRORS = ("calibrated", "total", "error")
"""Names of an error, the first that is there is drawn."""


@mpl.rc_context(STYLE)
def overlay(ax: Axes, curve: Curve, label: str, sigma: float | None = None, colour: str | None = None) -> Axes:
    """Draw one more curve on axes that have some, and a line for it in their legend; return the axes.

    ``curve`` is what a budget, :func:`sdpipe.combine` or :func:`sdpipe.smeared` hold, ``central`` with its error, drawn
    at one ``sigma`` (the first where it is not given); a band, ``lower`` and ``upper``, such as :meth:`Run.band`
    returns; a function of E; or (E, values) or (E, values, errors). The range of energies stays, and so does the style
    of the session. Raises UserError for anything else, and for a sigma that the curve does not have.

    >>> ax = overlay(sdpipe.open_run("runs/quickstart").plot.reconstruction("o3"), lambda E: 0.1 * E, "a line")
    >>> ax.get_legend().get_texts()[-1].get_text()
    'a line'
    """
    drawn = len(ax.get_legend_handles_labels()[1])
    colour = colour or COLOURS[1 + drawn % (len(COLOURS) - 1)]
    x, y = ax.get_xlim(), ax.get_ylim()
    if isinstance(curve, xr.Dataset):
        _dataset(ax, _at(curve, sigma), label, colour)
    elif callable(curve):
        E = np.linspace(*x, 400)
        ax.plot(E, np.broadcast_to(np.asarray(curve(E), float), E.shape), color=colour, label=label)
    else:
        _table(ax, curve, label, colour)
    ax.set(xlim=x, ylim=(min(y[0], ax.get_ylim()[0]), max(y[1], ax.get_ylim()[1])))
    ax.legend(**_of_legend(ax))
    return ax


def _of_legend(ax: Axes) -> dict[str, Any]:
    """Return title and font of the legend that axes have, nothing where they have none."""
    if (legend := ax.get_legend()) is None:
        return {}
    font = {"prop": legend.get_texts()[0].get_fontproperties()} if legend.get_texts() else {}
    return {
        "title": legend.get_title().get_text(),
        "title_fontproperties": legend.get_title().get_fontproperties(),
    } | font


def _at(curve: xr.Dataset, sigma: float | None) -> xr.Dataset:
    if "sigma" not in curve.dims:
        return curve
    sigmas = curve.sigma.values
    match = np.flatnonzero(np.isclose(sigmas, sigmas[0] if sigma is None else sigma, rtol=1e-6))
    if not match.size:
        raise UserError(f"overlay: no sigma = {sigma}; those there: {', '.join(f'{s:g}' for s in sigmas)}")
    return curve.isel(sigma=match[0])


def _dataset(ax: Axes, curve: xr.Dataset, label: str, colour: str) -> None:
    if {"lower", "upper"} <= set(curve.data_vars) and "central" not in curve:
        ax.fill_between(
            curve.E.values, curve.lower.values, curve.upper.values, color=colour, alpha=0.15, lw=0, label=label
        )
        return
    if "central" not in curve:
        words = f"a Dataset of {', '.join(map(str, curve.data_vars)) or 'nothing'}"
        raise UserError(f"overlay: {words}; needed: central with its error, or lower and upper")
    name = next((name for name in ERRORS if name in curve and curve[name].dims == curve.central.dims), None)
    error = None if name is None else curve[name].values
    ax.errorbar(curve.E.values, curve.central.values, error, fmt=".-", ms=3, lw=1, color=colour, label=label)


def _table(ax: Axes, curve: Sequence[ArrayLike], label: str, colour: str) -> None:
    try:
        E, values, *errors = (np.asarray(part, float) for part in curve)
        ax.errorbar(E, values, *errors, fmt=".-" if errors else "-", ms=3, lw=1, color=colour, label=label)
    except (TypeError, ValueError):
        allowed = "a Dataset, a function of E, (E, values), (E, values, errors)"
        raise UserError(f"overlay: {type(curve).__name__} is not allowed; allowed: {allowed}") from None
