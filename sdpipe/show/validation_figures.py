"""Pictures of ``validation.zarr``: do the error bars hold, where, and at what width."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdpipe.infer.calibration import band, rules_of
from sdpipe.show import figures
from sdpipe.show.figures import COLOURS, DENSITY, ENERGY, HEIGHT, MARGINS

WIDEST_PULL = 5.0

FAMILY_COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#661100",
    "#6699CC", "#AA4466",
)  # fmt: skip
"""Paul Tol's palette of twelve, which colour-blind readers can tell apart, and none of which is black or grey."""

ROW = 0.22
"""Inches that a row of a legend takes."""
NAMES = 1.0
"""Inches that slanted names of families take."""


def _families(validation: xr.Dataset) -> Iterator[tuple[str, str]]:
    return figures.coloured(map(str, validation.family.values), FAMILY_COLOURS)


def _legend_below(ax: Axes, columns: int, above: float = MARGINS["bottom"]) -> None:
    """Put the legend below the axes, ``above`` inches of labels in between, in a figure that grows by its rows."""
    rows = ceil(len(ax.get_legend_handles_labels()[1]) / columns)
    bottom = above + ROW * rows
    inside = HEIGHT - MARGINS["top"] - MARGINS["bottom"]
    height = bottom + inside + MARGINS["top"]
    ax.get_figure().set_figheight(height)
    ax.get_figure().subplots_adjust(bottom=bottom / height, top=1 - MARGINS["top"] / height)
    place = {"loc": "upper center", "bbox_to_anchor": (0.45, -above / inside), "borderaxespad": 0.0}
    ax.legend(**place, ncols=columns, fontsize=8, columnspacing=1.2)


def _tested(validation: xr.Dataset, family: str, name: str) -> np.ndarray:
    one = validation.sel(family=family)
    return one[name].values[one.tested.values]


def pulls(validation: xr.Dataset, ax: Axes) -> Axes:
    """Draw the histogram of (central - truth) / total error of each family at one sigma, and the normal density.

    The legend says which share of the pulls of each family lies beyond the histogram.
    """
    bins = np.linspace(-WIDEST_PULL, WIDEST_PULL, 51)
    for family, colour in _families(validation):
        values = _tested(validation, family, "pull").ravel()
        beyond = float(np.mean(~(np.abs(values) <= WIDEST_PULL)))
        density = np.histogram(values, bins)[0] / (values.size * (bins[1] - bins[0]))
        ax.stairs(density, bins, color=colour, lw=1.2, label=f"{family}, {beyond:.1%} beyond ±{WIDEST_PULL:g}")
    x = np.linspace(-WIDEST_PULL, WIDEST_PULL, 201)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=COLOURS[6], ls="--", label="normal")
    ax.set(xlabel="(central − truth) / total error", ylabel="density", xlim=(-WIDEST_PULL, WIDEST_PULL))
    ax.set_ylim(0, None)
    _legend_below(ax, 2)
    return ax


def coverage_against_level(validation: xr.Dataset, ax: Axes) -> Axes:
    """Draw the share of energies and draws within the calibrated error at every level, with the binomial band.

    Dashed, in the colour of the family: the same for the calibrated error of the last method.
    """
    levels = np.linspace(0.02, 0.99, 98)
    drawn = {"rank": ("-", None)}
    if "method" in validation:
        last = str(validation.method.values[-1])
        validation = validation.assign(of_method=validation.method_rank.sel({"method": last}, drop=True))
        drawn["of_method"] = ("--", 1)
        ax.plot([], [], color="0.4", ls="--", lw=1, label=last)
    for family, colour in _families(validation):
        for name, (style, width) in drawn.items():
            rank = np.sort(_tested(validation, family, name).ravel())
            share = np.searchsorted(rank, levels, side="right") / rank.size
            ax.plot(levels, share, color=colour, ls=style, lw=width, label=family if width is None else None)
    count = int(validation.tested.isel(family=0).sum())
    width = np.array([band(level, count) for level in levels])
    figures.fill(ax, levels, levels, width, "0.85", 1, label="binomial band, 3 σ")
    ax.plot(levels, levels, color=COLOURS[6], ls=":", lw=1)
    ax.set(xlabel="level", ylabel="coverage of the calibrated error", xlim=(0, 1), ylim=(0, 1.02))
    _legend_below(ax, 3)
    return ax


def coverage_against_energy(validation: xr.Dataset, ax: Axes) -> Axes:
    """Draw the coverage of the calibrated error at the quoted level against E."""
    level = validation.attrs["quoted"]
    for family, colour in _families(validation):
        ax.plot(validation.E, validation.coverage_E.sel(family=family, level=level), color=colour, label=family)
    ax.axhline(level, color=COLOURS[6], ls="--", lw=1)
    ax.set(xlabel=ENERGY, ylabel=f"coverage at level {level:g}", ylim=(0, 1.02))
    _legend_below(ax, 3)
    return ax


def width_and_bias(validation: xr.Dataset, ax: Axes) -> Axes:
    """Draw, for each family, mean half widths of the errors and the root mean square bias over energies."""
    names = list(map(str, validation.family.values))
    at = np.arange(len(names))
    for i, (budget, marker) in enumerate(zip(map(str, validation.budget.values), "osD^vPX", strict=False)):
        width = validation.width.sel(budget=budget)
        ax.plot(at + 0.15 * (i - 1.5), width, marker, color=COLOURS[i], label=f"width, {budget}")
    bias = np.sqrt((validation.bias**2).mean("E"))
    ax.plot(at, bias, "k_", ms=18, mew=2, label="bias (rms over E)")
    ax.set(ylabel=f"half width of the error of {DENSITY}", yscale="log")
    ax.grid(axis="y", which="both", color="0.9")
    ax.set_xticks(at, names, rotation=30, ha="right")
    _legend_below(ax, 3, above=NAMES)
    return ax


@mpl.rc_context(figures.STYLE)
def cases(validation: xr.Dataset, sigma: float) -> Figure:
    """Draw, for each family, the tested draws with the smallest and the largest rms pull at one sigma."""
    names = list(map(str, validation.family.values))
    figure = Figure(figsize=(figures.WIDTH, 2.4 * len(names) + 0.3), layout="constrained")
    axes = figure.subplots(len(names), 2, sharex=True, squeeze=False)
    factors = validation.factor.sel(level=validation.attrs["quoted"], sigma=sigma).values
    rules = rules_of(validation)
    for i, (row, name) in enumerate(zip(axes, names, strict=True)):
        one = validation.sel(family=name, sigma=sigma).isel(sample=validation.tested.sel(family=name).values)
        order = np.argsort((one.pull**2).mean("E").values)
        for ax, index, what in zip(row, (order[0], order[-1]), ("best", "worst"), strict=True):
            draw = one.isel(sample=index)
            error = draw.total.values * factors[rules[i]]
            figures.fill(ax, draw.E, draw.central, error, COLOURS[5], 0.5, label="calibrated error")
            ax.plot(draw.E, draw.central, color=COLOURS[0], label="central value")
            for method, (colour, style) in figures.METHOD_LINES.items():
                if "method" in draw and method in draw.method:
                    ax.plot(
                        draw.E, draw.method_central.sel({"method": method}), color=colour, lw=1, ls=style, label=method
                    )
            ax.plot(draw.E, draw.truth, color=COLOURS[6], ls="--", lw=1, label="truth")
            ax.set_title(f"{name}: {what}" + (", flagged" if bool(draw.flagged) else ""), fontsize=9, loc="left")
        row[0].set_ylabel(DENSITY)
    for ax in axes[-1]:
        ax.set_xlabel(ENERGY)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=8)
    return figure


PANELS = {
    "pulls": (pulls, "Histogram of (central − truth) / total error of each family, with the normal density"),
    "coverage": (
        coverage_against_level,
        "Coverage of the calibrated error against its level, with its band; dashed: the last method",
    ),
    "coverage-energy": (coverage_against_energy, "Coverage of the calibrated error at level {level:g} against E"),
    "width": (width_and_bias, "Mean half width of each error, and the bias, by family"),
}
"""Name of the file, after ``validation-``, what draws it, a panel for each sigma, and what it shows."""


def draw_all(directory: Path, validation: xr.Dataset) -> list[Path]:
    """Draw every picture of the validation; return the files."""
    drawn = {name: figures.panels(draw, validation) for name, (draw, _) in PANELS.items()}
    drawn |= {f"cases-sigma{i}": cases(validation, float(s)) for i, s in enumerate(validation.sigma.values)}
    return [figures.save(figure, directory / f"validation-{name}.png") for name, figure in drawn.items()]
