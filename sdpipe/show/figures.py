"""Pictures from labelled data: reconstruction, budget by source, training histories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "sdpipe",
}
WIDTH, HEIGHT = 6.4, 4.0
MARGINS = {"left": 0.9, "right": 0.15, "bottom": 0.55, "top": 0.35}
"""Inches around the axes of a panel. A layout engine would draw every figure three times to find them."""

SOURCES = {"latt": "lattice data", "net": "networks", "resolution": "resolution"}


def reconstruction(budget: xr.Dataset, ax: Axes) -> Axes:
    """Draw central value, statistical and total band at one sigma, and the truth where it is known."""
    E, central = budget.E.values, budget.central.values
    stat = np.hypot(budget.error.sel(source="latt"), budget.error.sel(source="net")).values
    total = budget.total.values
    ax.fill_between(E, central - total, central + total, color=COLOURS[5], alpha=0.45, lw=0, label="total error")
    ax.fill_between(E, central - stat, central + stat, color=COLOURS[0], alpha=0.55, lw=0, label="statistical error")
    ax.plot(E, central, color=COLOURS[0], label="central value")
    if "calibrated" in budget:
        for sign in (-1, 1):
            edge = central + sign * budget.calibrated.values
            ax.plot(E, edge, color=COLOURS[0], lw=0.8, label="calibrated error" if sign > 0 else None)
    if "linear" in budget:
        _linear(budget, ax)
    if "truth" in budget:
        ax.plot(E, budget.truth, color=COLOURS[6], ls="--", label="truth")
    ax.set(xlabel=r"$E$ [GeV]", ylabel=r"$\hat\rho_\sigma(E)$", xlim=(E[0], E[-1]))
    ax.legend()
    return ax


def _linear(budget: xr.Dataset, ax: Axes) -> None:
    """Draw the linear estimator with its own error, calibrated where that is known."""
    calibrated = "linear_calibrated" in budget
    error = (budget.linear_calibrated if calibrated else budget.linear_error).values
    low, high, label = budget.linear.values - error, budget.linear.values + error, "linear, "
    label += "calibrated error" if calibrated else "its error"
    ax.fill_between(budget.E, low, high, color=COLOURS[1], alpha=0.2, lw=0, zorder=0.9, label=label)
    ax.plot(budget.E, budget.linear, color=COLOURS[1], ls=":", label="linear estimator")


def by_source(budget: xr.Dataset, ax: Axes) -> Axes:
    """Draw each source of error, and their sum in quadrature, against E at one sigma."""
    for source in budget.source.values:
        label = SOURCES.get(str(source), f"systematic: {source}")
        ax.plot(budget.E, budget.error.sel(source=source), label=label)
    ax.plot(budget.E, budget.total, color=COLOURS[6], lw=2, label="total")
    ax.set(xlabel=r"$E$ [GeV]", ylabel=r"error of $\hat\rho_\sigma(E)$", ylim=(0, None))
    ax.set_xlim(float(budget.E[0]), float(budget.E[-1]))
    ax.legend()
    return ax


def histories(history: xr.Dataset, ax: Axes) -> Axes:
    """Draw the validation loss of every replica at one sigma, and the linear baseline of each ensemble."""
    for ensemble, colour in zip(history.ensemble.values, COLOURS * len(history.ensemble), strict=False):
        one = history.sel(ensemble=ensemble)
        ax.plot(one.epoch + 1, one.val_loss.transpose("epoch", "replica"), color=colour, lw=0.9)
        ax.plot([], [], color=colour, label=str(ensemble))
        ax.axhline(float(one.linear_loss), color=colour, ls=":", lw=1)
    ax.plot([], [], color=COLOURS[6], ls=":", label="linear baseline")
    ax.set(xlabel="epoch", ylabel="validation MAE", yscale="log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set(major_locator=MaxNLocator(5), major_formatter=ScalarFormatter(), minor_locator=NullLocator())
    ax.legend()
    return ax


def samples(training: xr.Dataset, ax: Axes) -> Axes:
    """Draw every smeared density of a few samples at one sigma, in one colour for each basis size."""
    for Nb, colour in zip(training.Nb.values, COLOURS * len(training.Nb), strict=False):
        ax.plot(training.E, training.smeared.sel(Nb=Nb).transpose("E", "sample"), color=colour, lw=1, alpha=0.8)
        ax.plot([], [], color=colour, label=rf"$N_b = {Nb}$")
    ax.set(xlabel=r"$E$ [GeV]", ylabel=r"$\hat\rho_\sigma(E)$", xlim=(float(training.E[0]), float(training.E[-1])))
    ax.legend()
    return ax


def panels(draw: Callable[[xr.Dataset, Axes], Axes], data: xr.Dataset, title: str = "") -> Figure:
    """Return a figure with one panel for each sigma."""
    with mpl.rc_context(STYLE):
        sigmas, one = data.sigma.values, WIDTH * 0.85
        width, between = one * len(sigmas), MARGINS["left"] + MARGINS["right"]
        figure = Figure(figsize=(width, HEIGHT))
        figure.subplots_adjust(
            left=MARGINS["left"] / width, right=1 - MARGINS["right"] / width, wspace=between / (one - between),
            bottom=MARGINS["bottom"] / HEIGHT, top=1 - MARGINS["top"] / HEIGHT,
        )  # fmt: skip
        for ax, sigma in zip(np.atleast_1d(figure.subplots(1, len(sigmas))), sigmas, strict=True):
            draw(data.sel(sigma=sigma), ax)
            ax.set_title(f"{title}  σ = {sigma:g} GeV".strip(), fontsize=10, loc="left")
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG in one step and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with mpl.rc_context(STYLE):
        figure.savefig(partial, format="png", dpi=150)
    return partial.replace(path)


def title_of(name: str, flags: Sequence[str]) -> str:
    """Return what every picture of a target is called.

    >>> title_of("o3", []), title_of("o3", ["out of distribution"])
    ('o3', 'o3 (flagged)')
    """
    return f"{name} (flagged)" if flags else name


def draw_target(directory: Path, name: str, budget: xr.Dataset) -> list[Path]:
    """Draw reconstruction and budget of one target, the title saying whether it is flagged; return the files."""
    title = title_of(name, budget.attrs["flags"])
    return [
        save(panels(reconstruction, budget, title), directory / f"{name}-reconstruction.png"),
        save(panels(by_source, budget, title), directory / f"{name}-budget.png"),
    ]


def draw_history(directory: Path, history: xr.Dataset) -> list[Path]:
    """Draw the training histories; return the file."""
    return [save(panels(histories, history), directory / "history.png")]
