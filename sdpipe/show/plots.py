"""``run.plot``: the figures of a run on matplotlib axes, yours or new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt

from sdpipe.errors import UserError
from sdpipe.show import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sdpipe.run import Run

Draw = Callable[[xr.Dataset, "Axes"], "Axes"]

SAMPLES = 6
"""Lines for each basis size in a picture of the training set."""


class Plots:
    """Every method draws at one ``sigma`` (GeV; the first of the run where it is not given) and returns the axes.

    It draws on ``ax``, or on a new figure; a title says so where the target is flagged. Raises UserError, naming those
    there, for a target or a sigma that the run does not have.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def reconstruction(self, target: str, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw rho_sigma(E) with its statistical and total band, and the truth where it is known."""
        return self._draw_target(figures.reconstruction, target, sigma, ax)

    def budget(self, target: str, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw each source of error, and the total, against E."""
        return self._draw_target(figures.by_source, target, sigma, ax)

    def history(self, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw the validation loss of every network against the epoch, and the linear baselines."""
        return _draw(figures.histories, self._run.history, sigma, ax)

    def samples(self, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw the first few smeared densities of the training set at each basis size."""
        return _draw(figures.samples, self._run.training.isel(sample=slice(SAMPLES)), sigma, ax)

    def _draw_target(self, draw: Draw, target: str, sigma: float | None, ax: Axes | None) -> Axes:
        budget = _pick(self._run.budget, target, "budget")
        ax = _draw(draw, budget, sigma, ax)
        if budget.attrs["flags"]:
            ax.set_title(figures.title_of(target, budget.attrs["flags"]), fontsize=10, loc="left")
        return ax


def _pick(groups: Mapping[str, xr.Dataset], target: str, what: str) -> xr.Dataset:
    if target not in groups:
        raise UserError(f"there is no {what} of {target}; those there: {', '.join(groups) or 'none'}")
    return groups[target]


def _draw(draw: Draw, data: xr.Dataset, sigma: float | None, ax: Axes | None) -> Axes:
    there = data.sigma.values
    wanted = np.asarray(there[0] if sigma is None else sigma)
    match = np.flatnonzero(np.isclose(there, wanted, rtol=1e-6)) if wanted.dtype.kind in "iuf" else np.array([])
    if not match.size:
        raise UserError(f"the run has no sigma = {sigma} GeV; those there: {', '.join(f'{s:g}' for s in there)}")
    with mpl.rc_context(figures.STYLE):
        if ax is None:
            _, ax = plt.subplots(figsize=(figures.WIDTH, figures.HEIGHT), layout="constrained")
        draw(data.isel(sigma=match[0]).load(), ax)
        ax.legend(title=rf"$\sigma = {there[match[0]]:g}$ GeV")
    return ax
