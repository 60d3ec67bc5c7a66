"""Pictures of targets and of the training: reconstruction, budget by source, asymptotics, histories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter
from matplotlib.transforms import ScaledTranslation
from mpl_toolkits.axes_grid1 import make_axes_locatable
from numpy.typing import NDArray

from sdpipe.config.schema import Config, Ensemble, NetworkName
from sdpipe.infer.budget import central_value, lattice_error, network_error
from sdpipe.physics import units
from sdpipe.show.picture import COLOURS, STYLE, Picture
from sdpipe.show.words import OWN, named

WIDTH, HEIGHT = 6.4, 4.0
MARGINS = {"left": 0.9, "right": 0.15, "bottom": 0.55, "top": 0.35}
"""Inches around the axes of a panel. A layout engine would draw every figure three times to find them."""
PANEL, BESIDE = 0.85 * WIDTH, MARGINS["left"] + MARGINS["right"]
"""Inches: width of a panel, and what of that is beside its axes."""

DENSITY = r"$\hat\rho_\sigma(E)$"
TOTAL, STATISTICAL, CENTRAL = "#D6ECF8", "#85BBE0", "#00324F"
"""Bands of the total and the statistical error and the central value, which grey prints light, middle and dark."""
BOUNDS = "0.85"
"""The band of the bounds for rho >= 0."""
WIDEST_PULL = 4.0
WITHIN = (-WIDEST_PULL, WIDEST_PULL)
"""Pulls are shown up to this; farther ones are at the edge."""
METHOD_LINES = {"linear": (COLOURS[1], ":"), "posterior": (COLOURS[2], "-.")}
"""Colour and style of each method beside the networks."""
REFERENCE_SIZES = {"Nb": "basis size Nb", "Nrho": "samples Nρ", "network": "network"}
"""What ensembles differ in, and how figures call it."""
LINES = tuple(zip(COLOURS, ("-", "--", "-.", ":", "-", "--", "-."), strict=True))
"""Colours with a style of line each, so that grey prints tell them apart."""
SHOWN_ENERGIES = 4
LONGEST_TITLE = 35
"""Most characters of the name of a target in a title."""
SHOWN_SAMPLES = 6
"""Lines for each basis size in a picture of the training set."""


def energy(data: xr.Dataset) -> str:
    """Return the label of an axis of energies."""
    return units.label("$E$", units.unit_of(data))


Draw = Callable[[xr.Dataset, Axes], Axes]


def coloured(names: Iterable[Any], colours: Sequence[str] = COLOURS) -> Iterator[tuple[Any, str]]:
    """Return each name with its colour.

    >>> dict(coloured([8, 16], ["red", "blue"]))
    {8: 'red', 16: 'blue'}
    """
    return zip(names, cycle(colours), strict=False)


def fill(ax: Axes, E: Any, centre: Any, error: Any, colour: str, alpha: float, **options: Any) -> None:
    """Fill what lies within ``error`` of ``centre``."""
    ax.fill_between(E, centre - error, centre + error, color=colour, alpha=alpha, lw=0, **options)


def short(title: str, longest: int = LONGEST_TITLE) -> str:
    """Return a title that leaves room for sigma beside it; the middle of a long one is left out.

    >>> short("o3"), short("a" * 30 + "b" * 30)
    ('o3', 'aaaaaaaaaaaaaaaaa…bbbbbbbbbbbbbbbbb')
    """
    return title if len(title) <= longest else f"{title[: longest // 2]}…{title[-(longest // 2) :]}"


def beside(ax: Axes) -> None:
    """Put a power of ten that all numbers of the y axis share to the left of the axes, clear of the title."""
    ax.yaxis.get_offset_text().set(x=-0.02, ha="right")


def below(ax: Axes, size: str = "40%", pad: float = 0.08) -> Axes:
    """Return new axes below ``ax`` with the same x, cut from its place."""
    lower = make_axes_locatable(ax).append_axes("bottom", size=size, pad=pad, sharex=ax)
    ax.tick_params(labelbottom=False)
    return lower


def legend_above(ax: Axes, ncols: int, **options: Any) -> None:
    """Put the legend above all curves and bands, in room that is made for it."""
    rows = -(-len(ax.get_legend_handles_labels()[1]) // ncols) + ("title" in options)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.09 * rows * (high - low))
    ax.legend(loc="upper center", ncols=ncols, **options)


def statistical(budget: xr.Dataset) -> NDArray[np.float64]:
    """Return the statistical error: that of the data and of the networks in quadrature."""
    sources = [name for name in ("latt", "net") if name in budget.source]
    return np.sqrt((budget.error.sel(source=sources) ** 2).sum("source")).values


def reconstruction(budget: xr.Dataset, ax: Axes) -> Axes:
    """Draw central value, statistical and total error at one sigma, bounds for rho >= 0 where there are any, and the
    truth where it is known; in axes below them the same less the central value in units of the total error, without
    bounds and with the calibrated error.
    """
    E, central, total = budget.E.values, budget.central.values, budget.total.values
    stat, lower, unit = statistical(budget), below(ax), np.where(total > 0, total, np.inf)
    for axes, centre, scale in ((ax, central, 1.0), (lower, 0 * central, unit)):
        fill(axes, E, centre, total / scale, TOTAL, 1, label="total error")
        fill(axes, E, centre, stat / scale, STATISTICAL, 1, label="statistical error")
        axes.plot(E, centre, color=CENTRAL, lw=1.2, label="central value")
        if "truth" in budget:
            truth = budget.truth.values if axes is ax else np.clip((budget.truth - central) / unit, *WITHIN).values
            axes.plot(E, truth, color=COLOURS[1], ls="--", label="truth")
    if "calibrated" in budget:
        for sign, label in ((-1, None), (1, "calibrated error")):
            lower.plot(E, sign * budget.calibrated.values / unit, color=CENTRAL, lw=0.8, ls=":", label=label)
        lower.legend(*([[x[-1]] for x in lower.get_legend_handles_labels()]), fontsize=8, loc="upper right")
    if "lower" in budget:
        seen = ax.get_ylim()
        ax.fill_between(E, budget.lower, budget.upper, color=BOUNDS, lw=0, zorder=0.5, label="bounds, ρ ≥ 0")
        ax.set_ylim(seen)
    reach = max((float(np.nanmax(np.abs(line.get_ydata()))) for line in lower.lines), default=1.0)
    reach = min(max(1.9, 1.15 * reach), 1.05 * WIDEST_PULL)
    lower.set(xlabel=energy(budget), ylabel="/ total error", ylim=(-reach, reach))
    ax.set(ylabel=DENSITY, xlim=(E[0], E[-1]))
    beside(ax)
    legend_above(ax, 4, fontsize=8, columnspacing=1)
    return ax


def observable(combined: xr.Dataset, ax: Axes) -> Axes:
    """Draw a function of densities, see :meth:`sdpipe.analysis.joint.Joint.of`, at one sigma with both its errors."""
    E, central = combined.E.values, combined.central.values
    fill(ax, E, central, combined.total.values, TOTAL, 1, label="total error")
    fill(ax, E, central, combined.error.sel(source="latt").values, STATISTICAL, 1, label="statistical error")
    ax.plot(E, central, color=CENTRAL, lw=1.2, label="central value")
    ax.set(xlabel=energy(combined), ylabel="O(E)", xlim=(E[0], E[-1]))
    beside(ax)
    return ax


def by_source(budget: xr.Dataset, ax: Axes) -> Axes:
    """Draw each source of error, and their sum in quadrature, against E at one sigma.

    The shifts to the references are in axes below, where there are any.
    """
    shifts = [source for source in map(str, budget.source.values) if source not in OWN]
    lower = [(below(ax, "80%", 0.4), shifts)] if shifts else []
    for axes, names in ((ax, [x for x in map(str, budget.source.values) if x in OWN]), *lower):
        for source, (colour, style) in zip(names, LINES, strict=False):
            axes.plot(budget.E, budget.error.sel(source=source), color=colour, ls=style, label=named(source))
    ax.plot(budget.E, budget.total, color=COLOURS[6], lw=2, label="total")
    for axes in (ax, *(axes for axes, _ in lower)):
        axes.set(ylabel=f"error of {DENSITY}", ylim=(0, None))
        axes.legend(fontsize=8)
        beside(axes)
    (lower[0][0] if lower else ax).set_xlabel(energy(budget))
    ax.set_xlim(float(budget.E[0]), float(budget.E[-1]))
    return ax


def histories(history: xr.Dataset, ax: Axes) -> Axes:
    """Draw the validation loss of every replica at one sigma, and the baselines of each ensemble."""
    for ensemble, colour in coloured(history.ensemble.values):
        one = history.sel(ensemble=ensemble)
        ax.plot(one.epoch + 1, one.val_loss.transpose("epoch", "replica"), color=colour, lw=0.9)
        ax.plot([], [], color=colour, label=str(ensemble))
        for name, (_, style) in METHOD_LINES.items():
            ax.axhline(float(one[f"{name}_loss"]), color=colour, ls=style, lw=1)
    for name, (_, style) in METHOD_LINES.items():
        if bool(history[f"{name}_loss"].notnull().any()):
            ax.plot([], [], color=COLOURS[6], ls=style, label=f"{name} baseline")
    ax.set(xlabel="epoch", ylabel="validation MAE", yscale="log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set(major_locator=MaxNLocator(5), major_formatter=ScalarFormatter(), minor_locator=NullLocator())
    ax.legend()
    return ax


def samples(training: xr.Dataset, ax: Axes) -> Axes:
    """Draw every smeared density of a few samples at one sigma, in one colour for each basis size."""
    for Nb, colour in coloured(training.Nb.values):
        ax.plot(training.E, training.smeared.sel(Nb=Nb).transpose("E", "sample"), color=colour, lw=1, alpha=0.8)
        ax.plot([], [], color=colour, label=rf"$N_b = {Nb}$")
    ax.set(xlabel=energy(training), ylabel=DENSITY, xlim=(float(training.E[0]), float(training.E[-1])))
    ax.legend()
    return ax


def series(ensembles: Mapping[str, Ensemble], central: str) -> dict[str, list[str]]:
    """Return key -> names of the ensembles that differ from the central one in that key alone, in ascending order.

    The central ensemble is one of them. Only keys with three members or more make a series.

    >>> series({f"Nb{Nb}": Ensemble(Nb=Nb, Nrho=1000, network="arcS") for Nb in (32, 8, 16)}, "Nb32")
    {'Nb': ['Nb8', 'Nb16', 'Nb32']}
    """
    if central not in ensembles:  # there are no networks
        return {}
    rank = get_args(NetworkName).index
    sizes = {n: {"Nb": e.Nb, "Nrho": e.Nrho, "network": rank(e.network)} for n, e in ensembles.items()}
    every = {}
    for key in REFERENCE_SIZES:
        members = [n for n, s in sizes.items() if all(s[k] == sizes[central][k] for k in REFERENCE_SIZES if k != key)]
        distinct = {sizes[n][key]: n for n in members} | {sizes[central][key]: central}
        if len(distinct) >= 3:
            every[key] = [distinct[size] for size in sorted(distinct)]
    return every


@mpl.rc_context(STYLE)
def asymptotics(rho: xr.DataArray | None, budget: xr.Dataset, config: Config, title: str) -> list[Figure]:
    """Draw how the result of one target moves with each size that the config has a series in, a figure for each sigma.

    rho (sigma, ensemble, replica, boot, E) against the size at some energies, with Delta_stat; the band is the Delta_X
    of its budget, where the reference ensemble of X is in the series. The broad audience stands in for the limit
    N -> infinity (arXiv:2307.00808, sec. 5).
    """
    every = {} if rho is None else series(config.ensembles, config.budget.central)
    drawn: list[Figure] = []
    if not every:
        return drawn
    shown = np.unique(np.linspace(0, rho.sizes["E"] - 1, SHOWN_ENERGIES + 2).astype(int)[1:-1])
    for sigma in rho.sigma.values:
        one, quoted = rho.sel(sigma=sigma).astype(float), budget.sel(sigma=sigma)
        value, error = central_value(one).compute(), np.hypot(lattice_error(one), network_error(one)).compute()
        figure = Figure(figsize=(4.2 * len(every) + 1.2, 4.0), layout="constrained")
        for ax, (key, names) in zip(np.atleast_1d(figure.subplots(1, len(every))), every.items(), strict=True):
            positions = np.arange(len(names))
            source = next((x for x, name in config.budget.references.items() if name in names), None)
            for i, colour in coloured(shown):
                points, bars = (a.sel(ensemble=names).isel(E=i).values for a in (value, error))
                label = units.equation("E", float(rho.E[i]), units.unit_of(rho), 3)
                ax.errorbar(positions, points, bars, fmt="o-", ms=4, lw=1, color=colour, label=label)
                if source:
                    best, width = float(quoted.central[i]), float(quoted.error.sel(source=source)[i])
                    ax.axhspan(best - width, best + width, color=colour, alpha=0.2, lw=0)
            ax.set_xticks(positions, [str(getattr(config.ensembles[n], key)) for n in names])
            ax.set(xlabel=REFERENCE_SIZES[key], ylabel=DENSITY)
            words = f", band: {named(source)}" if source else ""
            ax.set_title(f"{units.equation('σ', sigma, units.unit_of(rho))}{words}", fontsize=9, loc="left")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        drawn.append(figure)
    return drawn


def limit(limits: xr.Dataset, ax: Axes) -> Axes:
    """Draw what ``run.extrapolate`` returns: rho_sigma(E) against sigma^2 at each energy, the fit, and its limit."""
    unit = units.unit_of(limits)
    fine = np.linspace(0, float(limits.sigma.max()) * 1.05, 60)
    for i, colour in coloured(range(min(limits.sizes["E"], len(COLOURS)))):
        one = limits.isel(E=i)
        style = {"color": colour, "ms": 4, "lw": 1}
        label = units.equation("E", float(one.E), unit, 3)
        ax.errorbar(one.sigma**2, one.central, one.calibrated, fmt="o", label=label, **style)
        ax.errorbar([0], [float(one.limit)], [float(one.error)], fmt="s", mfc="white", **style)
        ax.plot(fine**2, fine[:, None] ** one.power.values @ one.coefficients.values, color=colour, lw=1)
    ax.set(xlabel=r"$a^2 \sigma^2$" if unit == units.LATTICE else r"$\sigma^2$ [GeV$^2$]", ylabel=DENSITY)
    ax.legend(fontsize=8)
    return ax


def place_labels(figure: Figure) -> None:
    """Put the labels of all axes where the margins have room; by itself each draw would look for it."""
    for ax in figure.axes:
        left = ScaledTranslation(-0.76 * MARGINS["left"], 0, figure.dpi_scale_trans)
        down = ScaledTranslation(0, -0.64 * MARGINS["bottom"], figure.dpi_scale_trans)
        ax.yaxis.set_label_coords(0, 0.5, ax.transAxes + left)
        ax.xaxis.set_label_coords(0.5, 0, ax.transAxes + down)


def grid(
    shape: tuple[int, int],
    size: tuple[float, float],
    gaps: tuple[float, float],
    margins: Mapping[str, float] = MARGINS,
    **shared: bool,
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure with axes (row, column), each of one size, with fixed gaps and margins, all in inches.

    ``size`` is width and height of the axes, ``gaps`` what is between two columns, and between two rows; ``shared``
    says whether axes share x and y.
    """
    (rows, columns), (wide, high) = shape, size
    width = columns * wide + (columns - 1) * gaps[0] + margins["left"] + margins["right"]
    height = rows * high + (rows - 1) * gaps[1] + margins["bottom"] + margins["top"]
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    figure.subplots_adjust(
        left=margins["left"] / width, right=1 - margins["right"] / width, wspace=gaps[0] / wide,
        bottom=margins["bottom"] / height, top=1 - margins["top"] / height, hspace=gaps[1] / high,
    )  # fmt: skip
    return figure, axes


@mpl.rc_context(STYLE)
def panels(draw: Draw, data: xr.Dataset, title: str = "") -> Figure:
    """Return a figure with one panel for each sigma."""
    sigmas = data.sigma.values
    size = (PANEL - BESIDE, HEIGHT - MARGINS["bottom"] - MARGINS["top"])
    figure, axes = grid((1, len(sigmas)), size, (BESIDE, 0.0))
    for ax, sigma in zip(axes[0], sigmas, strict=True):
        draw(data.sel(sigma=sigma), ax)
        words = [short(title), units.equation("σ", sigma, units.unit_of(data))]
        ax.set_title(", ".join(filter(None, words)), fontsize=10, loc="left")
    place_labels(figure)
    return figure


def title_of(name: str, flags: Sequence[str]) -> str:
    """Return what every picture of a target is called.

    >>> title_of("o3", []), title_of("o3", ["out of distribution"])
    ('o3', 'o3 (flagged)')
    """
    return f"{name} (flagged)" if flags else name


def bands(budget: xr.Dataset) -> str:
    """Return in words what a reconstruction shows beside the central value."""
    words = "total and statistical error (light and dark band)"
    return f"{words}, truth (dashed)" if "truth" in budget else words


def quoted(budget: xr.Dataset) -> str:
    """Return the name of the error to quote: the calibrated one where there is one."""
    return "calibrated" if "calibrated" in budget else "total"


def target_pictures(name: str, rho: xr.DataArray | None, budget: xr.Dataset, config: Config) -> Iterator[Picture]:
    """Draw reconstruction, budget and asymptotics of one target, one of each for each sigma."""
    title, unit = title_of(name, budget.attrs["flags"]), units.unit_of(budget)
    for i, sigma in enumerate(budget.sigma.values):
        panel, one = budget.isel(sigma=[i]), budget.isel(sigma=i)
        place = f"of {title} at {units.equation('σ', sigma, unit)}"
        top = one.isel(E=int(np.abs(one.central).argmax("E")))
        words = (
            f"Reconstructed density {place}: central value, {bands(budget)}; its largest value is {top.central:.3g} ± "
            f"{top[quoted(one)]:.2g} ({quoted(one)}) at {units.equation('E', float(top.E), unit, 3)}"
        )
        yield Picture(f"{name}-reconstruction-sigma{i}", panels(reconstruction, panel, title), words)
        largest = one.error.max("E")
        words = ", ".join(f"{named(str(x))} {float(largest.sel(source=x)):.2g}" for x in one.source.values)
        words = f"Errors {place} by source against E; the largest of each: {words}"
        yield Picture(f"{name}-budget-sigma{i}", panels(by_source, panel, title), words)
    for i, figure in enumerate(asymptotics(rho, budget, config, title)):
        sigma = units.equation("σ", float(budget.sigma[i]), unit)
        words = f"Reconstructed density of {title} against the sizes of the audience at {sigma}"
        yield Picture(f"{name}-asymptotics-sigma{i}", figure, words)


def history_pictures(history: xr.Dataset) -> Iterator[Picture]:
    """Draw the training histories, a picture for each sigma."""
    for i, sigma in enumerate(history.sigma.values):
        one, unit = history.isel(sigma=[i]), units.unit_of(history)
        best = float((one.val_loss.min("epoch").mean("replica") / one.linear_loss).min())
        words = f"Validation error of every network at {units.equation('σ', sigma, unit)} against the epoch, "
        words += "with the baselines"
        words += f"; the best ensemble ends at {best:.3g} of its linear baseline" if np.isfinite(best) else ""
        yield Picture(f"history-sigma{i}", panels(histories, one), words)
