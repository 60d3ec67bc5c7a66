"""Figures for a paper: limits of several ensembles, one panel for each energy, in the widths of journals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sdpipe.errors import UserError
from sdpipe.physics import units
from sdpipe.show.figures import SHOWN_ENERGIES
from sdpipe.show.paper_figure import SMALL, inches_of
from sdpipe.show.picture import COLOURS, STYLE

HEIGHT = 2.4
"""Inches of a panel."""


def limits(
    limit: xr.Dataset,
    E: Sequence[float] | None = None,
    term: str | None = None,
    sigma: float | None = None,
    width: float | str = "page",
    style: Mapping[str, Any] | None = None,
) -> Figure:
    """Draw what :func:`sdpipe.combine` returns against one of its terms, the first where none is given.

    There is a panel for each energy, for four of them where none are given.

    Points are the ensembles with their errors, lines the fits of every model, as strong as its weight, the other terms
    taken off the points by the model of largest weight; the band at 0 is the limit. ``width`` is in inches, ``column``
    or ``page``; ``style`` are matplotlib's parameters, such as ``{"font.size": 8}``, for this figure alone. Save it
    with ``figure.savefig("limit.pdf")``. Raises UserError for energies, a term or a sigma that are not there.

    >>> run = sdpipe.open_run("runs/quickstart")
    >>> limit = sdpipe.combine([run] * 3, "o3", points=[{"a": 0.3}, {"a": 0.4}, {"a": 0.5}])
    >>> len(limits(limit, [0.2, 0.5], "a2", width="column").axes)
    2
    """
    terms = list(map(str, limit.term.values[1:]))
    if not terms:
        raise UserError("a limit without terms has nothing to be drawn against")
    term = terms[0] if term is None else term
    if term not in terms:
        raise UserError(f"term: {term!r} is not allowed; allowed: {', '.join(terms)}")
    inches = inches_of(width)
    every = -(-limit.sizes["E"] // SHOWN_ENERGIES)
    E = limit.E.values[::every] if E is None else E
    rows = [int(np.abs(limit.E.values - e).argmin()) for e in E]
    if not len(rows) or not np.allclose(limit.E.values[rows], list(E), rtol=1e-6):
        raise UserError(f"E = {list(E)}: not energies of the limit; those there: {limit.E.values.tolist()}")
    sigmas = limit.sigma.values
    j = 0 if sigma is None else int(np.abs(sigmas - sigma).argmin())
    if sigma is not None and not np.isclose(sigmas[j], sigma):
        raise UserError(f"sigma = {sigma}; those there: {', '.join(f'{s:g}' for s in sigmas)}")
    across = max(1, min(len(rows), round(inches / 3.4)))
    down = -(-len(rows) // across)
    with mpl.rc_context({**STYLE, **SMALL, **(style or {})}):
        figure = Figure(figsize=(inches, HEIGHT * down), layout="constrained")
        for ax, row in zip(figure.subplots(down, across, squeeze=False).ravel(), rows, strict=False):
            _panel(ax, limit.isel(E=row, E2=row), term, j)
    return figure


def _panel(ax: Any, limit: xr.Dataset, term: str, j: int) -> None:
    k = limit.term.values.tolist().index(term)
    chosen = limit.isel(sigma=j, sigma2=j)
    widths = [j] if limit.sizes["sigma"] == limit.sizes["width"] else range(limit.sizes["width"])
    best = int(np.argmax(chosen.weight.values))
    c = np.nan_to_num(chosen.coefficients.values)
    for colour, i in zip(COLOURS[1:], widths, strict=False):
        D = limit.design.isel(width=i).values
        others = [n for n in range(1, len(c[best])) if n != k]
        y = limit.data.isel(width=i).values - D[:, others] @ c[best, others]
        label = units.equation(r"$\sigma$", float(limit.width[i]), units.unit_of(limit))
        ax.errorbar(D[:, k], y, limit.data_error.isel(width=i), fmt="o", ms=3, color=colour, label=label)
    x = np.linspace(0, float(limit.design.values[..., k].max()) * 1.05, 50)
    for m, weight in enumerate(chosen.weight.values):
        ax.plot(x, c[m, 0] + c[m, k] * x, color="0.2", lw=1, alpha=float(np.clip(weight, 0.05, 1)))
    ax.errorbar([0], [float(chosen.central)], [float(chosen.total)], fmt="s", ms=4, color=COLOURS[0], label="limit")
    ax.set_xlabel(_words(term))
    ax.set_ylabel(r"$\hat\rho_\sigma$")
    ax.set_title(units.equation("$E$", float(limit.E), units.unit_of(limit)), fontsize="medium", loc="left")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, ncols=2, columnspacing=1)


def _words(term: str) -> str:
    """Return a term as an axis calls it.

    >>> _words("a2"), _words("exp(-mL)"), _words("pion")
    ('$a^{2}$', '$e^{-mL}$', 'pion')
    """
    if term == "exp(-mL)":
        return "$e^{-mL}$"
    match = re.fullmatch(r"(a|sigma)([1-9]?)", term)
    name = {"a": "a", "sigma": r"\sigma"}
    return f"${name[match[1]]}^{{{match[2]}}}$".replace("^{}", "") if match else term
