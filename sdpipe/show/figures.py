"""Pictures from labelled data: reconstruction, budget by source, asymptotics, training; and ``run.plot``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol, get_args

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter
from matplotlib.transforms import ScaledTranslation
from mpl_toolkits.axes_grid1 import make_axes_locatable

from sdpipe.config.schema import Config, Ensemble, NetworkName
from sdpipe.disk.files import partial
from sdpipe.errors import UserError
from sdpipe.infer.budget import central_value, lattice_error, network_error
from sdpipe.physics import units

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "legend.frameon": False,
    "axes.titley": 1.0,
    "axes.formatter.limits": (-3, 4),
    "svg.fonttype": "path",
    "svg.hashsalt": "sdpipe",
}
WIDTH, HEIGHT = 6.4, 4.0
MARGINS = {"left": 0.9, "right": 0.15, "bottom": 0.55, "top": 0.35}
"""Inches around the axes of a panel. A layout engine would draw every figure three times to find them."""

DENSITY = r"$\hat\rho_\sigma(E)$"
SOURCES = {"latt": "lattice data", "net": "networks", "resolution": "resolution", "scale": "scale"}
TOTAL, STATISTICAL, CENTRAL = "#D6ECF8", "#85BBE0", "#00324F"
"""Bands of the total and the statistical error and the central value, which grey prints light, middle and dark."""
BOUNDS = "0.85"
"""The band of the bounds for rho >= 0."""
WIDEST_PULL = 4.0
WITHIN = (-WIDEST_PULL, WIDEST_PULL)
"""Pulls are shown up to this; farther ones are at the edge."""
METHOD_LINES = {"linear": (COLOURS[1], ":"), "posterior": (COLOURS[2], "-.")}
"""Colour and style of each method beside the networks."""
SIZES = {"Nb": "basis size Nb", "Nrho": "samples Nρ", "network": "network"}
"""What ensembles differ in, and how figures call it."""
LINES = tuple(zip(COLOURS, ("-", "--", "-.", ":", "-", "--", "-."), strict=True))
"""Colours with a style of line each, so that grey prints tell them apart."""
SHOWN_ENERGIES = 4
LONGEST = 35
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


def short(title: str, longest: int = LONGEST) -> str:
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
    made = make_axes_locatable(ax).append_axes("bottom", size=size, pad=pad, sharex=ax)
    ax.tick_params(labelbottom=False)
    return made


def reconstruction(budget: xr.Dataset, ax: Axes) -> Axes:
    """Draw central value, statistical and total error at one sigma, bounds for rho >= 0 where there are any, and the
    truth where it is known; in axes below them the same less the central value in units of the total error, without
    bounds and with the calibrated error.
    """
    E, central, total = budget.E.values, budget.central.values, budget.total.values
    stat = np.hypot(budget.error.sel(source="latt"), budget.error.sel(source="net")).values
    lower, unit = below(ax), np.where(total > 0, total, np.inf)
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
    ax.legend()
    return ax


def by_source(budget: xr.Dataset, ax: Axes) -> Axes:
    """Draw each source of error, and their sum in quadrature, against E at one sigma.

    The shifts to the references are in axes below, where there are any.
    """
    shifts = [source for source in map(str, budget.source.values) if source not in SOURCES]
    lower = [(below(ax, "80%", 0.4), shifts)] if shifts else []
    for axes, names in ((ax, [x for x in map(str, budget.source.values) if x in SOURCES]), *lower):
        for source, (colour, style) in zip(names, LINES, strict=False):
            label = SOURCES.get(source, f"systematic: {source}")
            axes.plot(budget.E, budget.error.sel(source=source), color=colour, ls=style, label=label)
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
    rank = get_args(NetworkName).index
    sizes = {n: {"Nb": e.Nb, "Nrho": e.Nrho, "network": rank(e.network)} for n, e in ensembles.items()}
    found = {}
    for key in SIZES:
        members = [n for n, s in sizes.items() if all(s[k] == sizes[central][k] for k in SIZES if k != key)]
        distinct = {sizes[n][key]: n for n in members} | {sizes[central][key]: central}
        if len(distinct) >= 3:
            found[key] = [distinct[size] for size in sorted(distinct)]
    return found


@mpl.rc_context(STYLE)
def asymptotics(rho: xr.DataArray, budget: xr.Dataset, config: Config, title: str) -> list[Figure]:
    """Draw how the result of one target moves with each size that the config has a series in, a figure for each sigma.

    rho (sigma, ensemble, replica, boot, E) against the size at some energies, with Delta_stat; the band is the Delta_X
    of its budget, where the reference ensemble of X is in the series. The broad audience stands in for the limit
    N -> infinity (arXiv:2307.00808, sec. 5).
    """
    every, drawn = series(config.ensembles, config.budget.central), []
    shown = np.unique(np.linspace(0, rho.sizes["E"] - 1, SHOWN_ENERGIES + 2).astype(int)[1:-1])
    for sigma in rho.sigma.values if every else ():
        one, quoted = rho.sel(sigma=sigma).astype(float), budget.sel(sigma=sigma)
        value, error = central_value(one).compute(), np.hypot(lattice_error(one), network_error(one)).compute()
        figure = Figure(figsize=(4.2 * len(every) + 1.2, 4.0), layout="constrained")
        for ax, (key, names) in zip(np.atleast_1d(figure.subplots(1, len(every))), every.items(), strict=True):
            at = np.arange(len(names))
            source = next((x for x, name in config.budget.references.items() if name in names), None)
            for i, colour in coloured(shown):
                points, bars = (a.sel(ensemble=names).isel(E=i).values for a in (value, error))
                label = units.equation("E", float(rho.E[i]), units.unit_of(rho), 3)
                ax.errorbar(at, points, bars, fmt="o-", ms=4, lw=1, color=colour, label=label)
                if source:
                    best, width = float(quoted.central[i]), float(quoted.error.sel(source=source)[i])
                    ax.axhspan(best - width, best + width, color=colour, alpha=0.2, lw=0)
            ax.set_xticks(at, [str(getattr(config.ensembles[n], key)) for n in names])
            ax.set(xlabel=SIZES[key], ylabel=DENSITY)
            words = f", band: systematic {source}" if source else ""
            ax.set_title(f"{units.equation('σ', sigma, units.unit_of(rho))}{words}", fontsize=9, loc="left")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        drawn.append(figure)
    return drawn


def place_labels(figure: Figure) -> None:
    """Put the labels of all axes where the margins have room; by itself each draw would look for it."""
    for ax in figure.axes:
        left = ScaledTranslation(-0.76 * MARGINS["left"], 0, figure.dpi_scale_trans)
        down = ScaledTranslation(0, -0.64 * MARGINS["bottom"], figure.dpi_scale_trans)
        ax.yaxis.set_label_coords(0, 0.5, ax.transAxes + left)
        ax.xaxis.set_label_coords(0.5, 0, ax.transAxes + down)


@mpl.rc_context(STYLE)
def panels(draw: Draw, data: xr.Dataset, title: str = "") -> Figure:
    """Return a figure with one panel for each sigma."""
    sigmas, one = data.sigma.values, WIDTH * 0.85
    width, between = one * len(sigmas), MARGINS["left"] + MARGINS["right"]
    figure = Figure(figsize=(width, HEIGHT))
    figure.subplots_adjust(
        left=MARGINS["left"] / width, right=1 - MARGINS["right"] / width, wspace=between / (one - between),
        bottom=MARGINS["bottom"] / HEIGHT, top=1 - MARGINS["top"] / HEIGHT,
    )  # fmt: skip
    for ax, sigma in zip(np.atleast_1d(figure.subplots(1, len(sigmas))), sigmas, strict=True):
        draw(data.sel(sigma=sigma), ax)
        ax.set_title(
            f"{short(title)}  {units.equation('σ', sigma, units.unit_of(data))}".strip(), fontsize=10, loc="left"
        )
    place_labels(figure)
    return figure


@mpl.rc_context(STYLE)
def save(figure: Figure, path: Path) -> Path:
    """Write a PNG in one step and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=150)
        return unfinished.replace(path)


def title_of(name: str, flags: Sequence[str]) -> str:
    """Return what every picture of a target is called.

    >>> title_of("o3", []), title_of("o3", ["out of distribution"])
    ('o3', 'o3 (flagged)')
    """
    return f"{name} (flagged)" if flags else name


def draw_target(directory: Path, name: str, rho: xr.DataArray, budget: xr.Dataset, config: Config) -> list[Path]:
    """Draw reconstruction, budget and asymptotics of one target; return the files."""
    title = title_of(name, budget.attrs["flags"])
    drawn = {"reconstruction": panels(reconstruction, budget, title), "budget": panels(by_source, budget, title)}
    drawn |= {f"asymptotics-sigma{i}": figure for i, figure in enumerate(asymptotics(rho, budget, config, title))}
    return [save(figure, directory / f"{name}-{what}.png") for what, figure in drawn.items()]


def draw_history(directory: Path, history: xr.Dataset) -> list[Path]:
    """Draw the training histories; return the file."""
    return [save(panels(histories, history), directory / "history.png")]


class Stores(Protocol):
    """What :class:`Plots` takes from a run."""

    training: xr.Dataset
    history: xr.Dataset
    budget: Mapping[str, xr.Dataset]


class Plots:
    """Every method draws at one ``sigma`` (the first of the run where it is not given) and returns the axes.

    It draws on ``ax``, or on a new figure; a title says so where the target is flagged. Raises UserError, naming those
    there, for a target or a sigma that the run does not have.

    >>> ax = sdpipe.open_run("runs/quickstart").plot.budget("o3", sigma=0.63)
    >>> ax.get_lines()[-1].get_label()
    'total'
    """

    def __init__(self, run: Stores) -> None:
        self._run = run

    def reconstruction(self, target: str, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw rho_sigma(E) with its statistical and total band, and the truth where it is known."""
        return self._draw_target(reconstruction, target, sigma, ax)

    def budget(self, target: str, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw each source of error, and the total, against E."""
        return self._draw_target(by_source, target, sigma, ax)

    def history(self, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw the validation loss of every network against the epoch, and the baselines."""
        return draw_at(histories, self._run.history, sigma, ax)

    def samples(self, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw the first few smeared densities of the training set at each basis size."""
        return draw_at(samples, self._run.training.isel(sample=slice(SHOWN_SAMPLES)), sigma, ax)

    def _draw_target(self, draw: Draw, target: str, sigma: float | None, ax: Axes | None) -> Axes:
        there = self._run.budget
        if target not in there:
            raise UserError(f"there is no budget of {target}; those there: {', '.join(there) or 'none'}")
        ax = draw_at(draw, there[target], sigma, ax)
        if flags := there[target].attrs["flags"]:
            ax.set_title(title_of(target, flags), fontsize=10, loc="left")
        return ax


@mpl.rc_context(STYLE)
def draw_at(draw: Draw, data: xr.Dataset, sigma: float | None, ax: Axes | None) -> Axes:
    """Draw at one sigma on ``ax``, or on a new figure, as :class:`Plots` says."""
    from matplotlib import pyplot as plt

    there = data.sigma.values
    wanted = np.asarray(there[0] if sigma is None else sigma)
    match = np.flatnonzero(np.isclose(there, wanted, rtol=1e-6)) if wanted.dtype.kind in "iuf" else np.array([])
    if not match.size:
        raise UserError(f"the run has no sigma = {sigma}; those there: {', '.join(f'{s:g}' for s in there)}")
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    draw(data.isel(sigma=match[0]).load(), ax)
    ax.legend(title=units.equation(r"$\sigma$", there[match[0]], units.unit_of(data)))
    return ax
