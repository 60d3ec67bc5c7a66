"""Pictures of ``validation.zarr``: do the error bars hold, where, and at what width."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdpipe.estimators import ESTIMATORS
from sdpipe.infer.calibration import band, rules_of
from sdpipe.physics import units
from sdpipe.show import figures
from sdpipe.show.figures import DENSITY, LINES, MARGINS, PANEL
from sdpipe.show.picture import COLOURS, STYLE, Picture

HISTOGRAM_PULL = 5.0

MOST = 4
"""Most families, or errors, in one panel."""
ROW, BETWEEN, BESIDE = 1.8, 0.15, 1.85
"""Inches: height of a panel, what is between two, and what a legend beside one takes."""
CASE, CASE_GAPS = (2.4, 1.75), (0.6, 0.4)
"""Inches: width and height of the axes of one draw, and what is between two, either way."""
SLANTED_NAMES = 0.9
"""Inches below the last panel where its labels are slanted names of families."""
LONGEST_FAMILY = 15
"""Most characters of the name of a family in a legend."""


def _point(budget: str) -> tuple[str, str]:
    """Return marker and colour of the width of one error."""
    errors = ["published", "total", "calibrated", *ESTIMATORS]
    i = errors.index(budget) if budget in errors else len(errors)
    return "osD^vPX"[i % 7], COLOURS[i % 6]


def _families(validation: xr.Dataset) -> Iterator[tuple[str, tuple[str, str]]]:
    """Return each family with its colour and style of line."""
    return zip(map(str, validation.family.values), LINES, strict=False)


def _name(family: str) -> str:
    return figures.short(family, LONGEST_FAMILY)


def _legend_beside(ax: Axes, title: str | None = None) -> None:
    place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.0}
    ax.legend(**place, fontsize=8, title=title, title_fontsize=8, alignment="left", handlelength=1.6)


def _tested(validation: xr.Dataset, family: str, name: str) -> np.ndarray:
    one = validation.sel(family=family)
    return one[name].values[one.tested.values]


def _band(validation: xr.Dataset, levels: np.ndarray) -> np.ndarray:
    """Return the binomial band of the family with the fewest draws at each level."""
    count = int(validation.tested.sum("sample").min())
    return np.array([band(float(level), count) for level in levels])


def pulls(validation: xr.Dataset, ax: Axes) -> Axes:
    """Draw the histogram of (central - truth) / total error of each family at one sigma, and the normal density.

    The legend says which share of the pulls of each family lies beyond the histogram.
    """
    bins = np.linspace(-HISTOGRAM_PULL, HISTOGRAM_PULL, 51)
    for family, (colour, style) in _families(validation):
        values = _tested(validation, family, "pull").ravel()
        beyond = float(np.mean(~(np.abs(values) <= HISTOGRAM_PULL)))
        density = np.histogram(values, bins)[0] / (values.size * (bins[1] - bins[0]))
        ax.stairs(density, bins, color=colour, ls=style, lw=1.2, label=f"{_name(family)}: {beyond:.1%}")
    x = np.linspace(-HISTOGRAM_PULL, HISTOGRAM_PULL, 201)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color="0.5", lw=1, label="normal")
    ax.set(xlabel="(central − truth) / total error", ylabel="density", xlim=(-HISTOGRAM_PULL, HISTOGRAM_PULL))
    _legend_beside(ax, f"beyond ±{HISTOGRAM_PULL:g}")
    return ax


def coverage_against_level(validation: xr.Dataset, ax: Axes) -> Axes:
    """Draw the share of energies and draws within the calibrated error, less its level, at every level, and the band.

    Dashed, in the colour of the family: the same for the calibrated error of the last method.
    """
    levels = np.linspace(0.02, 0.99, 98)
    figures.fill(ax, levels, 0 * levels, _band(validation, levels), "0.85", 1, label="binomial band, 3 σ")
    ax.axhline(0, color="0.5", lw=1)
    drawn = {"covering_level": "-"}
    if "estimator" in validation:
        last = str(validation.estimator.values[-1])
        validation = validation.assign(of_method=validation.estimator_covering_level.sel(estimator=last, drop=True))
        drawn["of_method"] = "--"
        ax.plot([], [], color="0.4", ls="--", lw=1, label=last)
    for family, (colour, _) in _families(validation):
        for name, style in drawn.items():
            rank = np.sort(_tested(validation, family, name).ravel())
            share = np.searchsorted(rank, levels, side="right") / rank.size
            label = _name(family) if name == "covering_level" else None
            ax.plot(levels, share - levels, color=colour, ls=style, lw=1.2, label=label)
    ax.set(xlabel="level of the calibrated error", ylabel="coverage − level", xlim=(0, 1))
    _legend_beside(ax)
    return ax


def coverage_against_energy(validation: xr.Dataset, ax: Axes) -> Axes:
    """Draw the coverage of the calibrated error at the quoted level against E, and its binomial band."""
    level, E = float(validation.attrs["quoted"]), validation.E.values
    width = _band(validation, np.array([level]))
    figures.fill(ax, E[[0, -1]], level, width, "0.85", 1, label="binomial band, 3 σ")
    ax.axhline(level, color="0.5", lw=1)
    for family, (colour, style) in _families(validation):
        inside = validation.coverage_E.sel(family=family, level=level)
        ax.plot(E, inside, color=colour, ls=style, lw=1.2, label=_name(family))
    ax.set(xlabel=figures.energy(validation), ylabel=f"coverage at {level:g}", xlim=(E[0], E[-1]))
    _legend_beside(ax)
    return ax


def width_and_bias(validation: xr.Dataset, ax: Axes) -> Axes:
    """Draw, for each family, mean half widths of the errors and the root mean square bias over energies."""
    names = list(map(_name, map(str, validation.family.values)))
    positions, errors = np.arange(len(names)), list(map(str, validation.budget.values))
    for i, budget in enumerate(errors):
        (marker, colour), width = _point(str(budget)), validation.width.sel(budget=budget)
        ax.plot(positions + 0.2 * (i - (len(errors) - 1) / 2), width, marker, ms=4, color=colour, label=budget)
    if "bias" in validation:
        bias = np.sqrt((validation.bias**2).mean("E"))
        ax.plot(positions, bias, "k_", ms=12, mew=2, label="bias (rms over E)")
    ax.set(ylabel=f"error of {DENSITY}", yscale="log")
    ax.grid(axis="y", color="0.9")
    ax.set_xticks(positions, names, rotation=40, ha="right", fontsize=8)
    _legend_beside(ax, "mean half width")
    return ax


def _by_family(validation: xr.Dataset, most: int = MOST) -> list[xr.Dataset]:
    """Return parts of the validation with this many families at most."""
    return [validation.isel(family=slice(i, i + most)) for i in range(0, validation.sizes["family"], most)]


def _with_method(validation: xr.Dataset) -> list[xr.Dataset]:
    """Return parts with half as many families where a method is drawn beside the networks."""
    return _by_family(validation, MOST // 2 if "estimator" in validation else MOST)


def _by_error(validation: xr.Dataset) -> list[xr.Dataset]:
    """Return the part with the errors of the networks and the bias, and that with the errors of the methods."""
    methods = list(map(str, validation.estimator.values)) if "estimator" in validation else []
    own = [name for name in map(str, validation.budget.values) if name not in methods]
    parts = [validation.sel(budget=own)]
    if methods:
        parts.append(validation.sel(budget=["calibrated", *methods]).drop_vars("bias"))
    return parts


class Panels(NamedTuple):
    """What draws a panel at one sigma, what splits a validation into those of a column, and what they show in words."""

    draw: figures.Draw
    split: Callable[[xr.Dataset], list[xr.Dataset]]
    says: str
    bottom: float = MARGINS["bottom"]


PANELS = {
    "pulls": Panels(
        pulls, _by_family, "Histogram of (central − truth) / total error of each family, with the normal density"
    ),
    "coverage": Panels(
        coverage_against_level,
        _with_method,
        "Coverage of the calibrated error less its level, with the binomial band; dashed: the last method",
    ),
    "coverage-energy": Panels(
        coverage_against_energy, _by_family, "Coverage of the calibrated error at level {level:g} against E"
    ),
    "width": Panels(width_and_bias, _by_error, "Mean half width of each error, and the bias, by family", SLANTED_NAMES),
}
"""Name of the file, after ``validation-``, and a column of panels for each sigma."""


@mpl.rc_context(STYLE)
def columns(panels: Panels, validation: xr.Dataset) -> Figure:
    """Return a figure with a column of panels for each sigma, all on the same axes."""
    parts, sigmas = panels.split(validation), validation.sigma.values
    margins = MARGINS | {"right": BESIDE, "bottom": panels.bottom}
    beside = MARGINS["left"] + BESIDE
    size, gaps = (PANEL - beside, ROW), (beside, BETWEEN)
    figure, axes = figures.grid((len(parts), len(sigmas)), size, gaps, margins, sharex=True, sharey=True)
    for row, part in zip(axes, parts, strict=True):
        for ax, sigma in zip(row, sigmas, strict=True):
            panels.draw(part.sel(sigma=sigma), ax)
            ax.label_outer()
    for ax, sigma in zip(axes[0], sigmas, strict=True):
        ax.set_title(units.equation("σ", sigma, units.unit_of(validation)), fontsize=10, loc="left")
    figures.place_labels(figure)
    return figure


@mpl.rc_context(STYLE)
def cases(validation: xr.Dataset, sigma: float) -> Figure:
    """Draw, for each family, the tested draws with the smallest and the largest rms pull at one sigma.

    Beside the networks is the posterior or, where there is none, the linear estimator.
    """
    names = list(map(str, validation.family.values))
    methods = set(validation.estimator.values) if "estimator" in validation else set()
    method = next((name for name in reversed(figures.METHOD_LINES) if name in methods), None)
    factors, rules = validation.factor.sel(level=validation.attrs["quoted"], sigma=sigma).values, rules_of(validation)
    figure, axes = figures.grid((len(names), 2), CASE, CASE_GAPS, MARGINS | {"top": 0.65}, sharex=True)
    for row, name, rule in zip(axes, names, rules, strict=True):
        one = validation.sel(family=name, sigma=sigma).isel(sample=validation.tested.sel(family=name).values)
        order = np.argsort((one.pull**2).mean("E").values)
        for ax, index, which in zip(row, (order[0], order[-1]), ("best", "worst"), strict=True):
            draw = one.isel(sample=index)
            _case(draw, draw.total.values * factors[rule], method, ax)
            flagged = ", flagged" if bool(draw.flagged) else ""
            ax.set_title(f"{_name(name)}: {which}{flagged}", fontsize=9, loc="left")
        row[0].set_ylabel(DENSITY)
    for ax in axes[-1]:
        ax.set_xlabel(figures.energy(validation))
    figures.place_labels(figure)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper left", ncols=4, fontsize=8)
    return figure


def _case(draw: xr.Dataset, error: np.ndarray, method: str | None, ax: Axes) -> None:
    """Draw what is known of one draw: its truth, the networks with their calibrated error, and the method."""
    figures.fill(ax, draw.E, draw.central, error, COLOURS[5], 0.5, label="calibrated error")
    ax.plot(draw.E, draw.central, color=COLOURS[0], label="central value")
    if method:
        colour, style = figures.METHOD_LINES[method]
        central = draw.estimator_central.sel(estimator=method)
        ax.plot(draw.E, central, color=colour, lw=1, ls=style, label=method)
    ax.plot(draw.E, draw.truth, color=COLOURS[6], ls="--", lw=1, label="truth")
    figures.beside(ax)


def pictures(validation: xr.Dataset) -> Iterator[Picture]:
    """Draw the validation: each column of PANELS, and the cases, at each sigma."""
    level = float(validation.attrs["quoted"])
    for i, sigma in enumerate(validation.sigma.values):
        place = f" at {units.equation('σ', sigma, units.unit_of(validation))}"
        for name, shown in PANELS.items():
            figure = columns(shown, validation.isel(sigma=[i]))
            yield Picture(f"validation-{name}-sigma{i}", figure, shown.says.format(level=level) + place)
        words = f"Best and worst draw of each family{place}"
        yield Picture(f"validation-cases-sigma{i}", cases(validation, float(sigma)), words)
