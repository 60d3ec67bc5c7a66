"""Pictures from labelled data: reconstruction, budget by source, training histories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
SOURCES = {"latt": "lattice data", "net": "networks"}


def reconstruction(budget: xr.Dataset, ax: Axes) -> Axes:
    """Draw central value, statistical and total band at one sigma, and the truth where it is known."""
    E, central = budget.E.values, budget.central.values
    stat = np.hypot(budget.error.sel(source="latt"), budget.error.sel(source="net")).values
    total = budget.total.values
    ax.fill_between(E, central - total, central + total, color=COLOURS[5], alpha=0.45, lw=0, label="total error")
    ax.fill_between(E, central - stat, central + stat, color=COLOURS[0], alpha=0.55, lw=0, label="statistical error")
    ax.plot(E, central, color=COLOURS[0], label="central value")
    if "truth" in budget:
        ax.plot(E, budget.truth, color=COLOURS[6], ls="--", label="truth")
    ax.set(xlabel=r"$E$ [GeV]", ylabel=r"$\hat\rho_\sigma(E)$", xlim=(E[0], E[-1]))
    ax.legend()
    return ax


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
    ax.legend()
    return ax


def panels(draw: Callable[[xr.Dataset, Axes], Axes], data: xr.Dataset, title: str = "") -> Figure:
    """Return a figure with one panel for each sigma."""
    with mpl.rc_context(STYLE):
        sigmas = data.sigma.values
        figure = Figure(figsize=(WIDTH * len(sigmas) * 0.85, HEIGHT), layout="constrained")
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


def draw_target(directory: Path, name: str, budget: xr.Dataset) -> list[Path]:
    """Draw reconstruction and budget of one target; return the files."""
    return [
        save(panels(reconstruction, budget, name), directory / f"{name}-reconstruction.png"),
        save(panels(by_source, budget, name), directory / f"{name}-budget.png"),
    ]


def draw_history(directory: Path, history: xr.Dataset) -> list[Path]:
    """Draw the training histories; return the file."""
    return [save(panels(histories, history), directory / "history.png")]
