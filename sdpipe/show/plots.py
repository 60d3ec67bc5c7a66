"""``run.plot``: figures of a run on matplotlib axes, and all its pictures in another format than that of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdpipe.analysis.answers import Answers, only_target
from sdpipe.config.schema import Config
from sdpipe.errors import UserError
from sdpipe.infer.compare import compare
from sdpipe.physics import units
from sdpipe.show import (
    correlator_figure,
    figures,
    lambda_scan,
    limit_figure,
    paper_figure,
    side_by_side,
    validation_figures,
)
from sdpipe.show.overlay import Curve, overlay
from sdpipe.show.picture import STYLE, Picture, save

Format = Literal["png", "pdf"]


class Stores(Answers, Protocol):
    """What :class:`Plots` takes from a run."""

    training: xr.Dataset
    history: xr.Dataset

    def compare(self, target: str) -> xr.Dataset:
        """Return every estimate of one target side by side."""

    def extrapolate(self, target: str, E: float | Sequence[float] | None = None) -> xr.Dataset:
        """Return the limit sigma -> 0."""

    def stability(self, target: str, E: float | None = None) -> xr.Dataset:
        """Return HLT against lambda."""


def target_pictures(
    name: str, prediction: xr.Dataset, budget: xr.Dataset, validation: xr.Dataset | None, config: Config
) -> Iterator[Picture]:
    """Draw every picture of one target, from what ``predict``, ``analyze`` and ``validate`` say of it."""
    title = figures.title_of(name, budget.attrs["flags"])
    yield from figures.target_pictures(name, prediction.get("rho"), budget, config)
    yield from correlator_figure.pictures(name, prediction, config.observables.kernel, title)
    if "estimator" in budget:
        yield from side_by_side.pictures(name, compare(budget, validation), title)
    yield from lambda_scan.pictures(name, prediction, budget, title)


class Plots:
    """Every method draws at one ``sigma`` (the first of the run where it is not given) and returns the axes.

    It draws on ``ax``, or on a new figure; a title says so where the target is flagged. Raises UserError, naming those
    there, for a target or a sigma that the run does not have.

    >>> ax = sdpipe.open_run("runs/quickstart").plot.budget("o3", sigma=0.63)
    >>> ax.get_lines()[-1].get_label()
    'total'
    """

    def __init__(self, run: Stores) -> None:
        from matplotlib import pyplot as plt

        self._run = run
        plt.draw_if_interactive()  # turns on what makes a notebook show figures; within a style it would end with that

    def reconstruction(
        self, target: str, sigma: float | None = None, ax: Axes | None = None, beside: xr.Dataset | None = None
    ) -> Axes:
        """Draw rho_sigma(E) with its statistical and total band, and the truth where it is known.

        ``beside`` is what :func:`sdpipe.smeared` returns: it is drawn with its error, too.
        """
        ax = self._draw_target(figures.reconstruction, target, sigma, ax)
        return ax if beside is None else overlay(ax, beside, "beside", sigma)

    def paper(self, target: str, sigma: float | None = None, **how: Any) -> Figure:
        """Draw one target as a figure for a paper, see :func:`sdpipe.show.paper_figure.density`, and return the figure.

        ``how`` are its ``width`` ("column" or "page", or inches), ``height``, ``lower``, ``labels``, ``colours`` and
        ``style``.

        >>> figure = sdpipe.open_run("runs/quickstart").plot.paper("o3", width="column", labels={"truth": "exact"})
        >>> figure.get_size_inches().tolist(), figure.axes[0].get_legend_handles_labels()[1][-1]
        ([3.4, 2.448], 'exact')
        """
        return paper_figure.density(at_sigma(self._budget(target), sigma), **how)

    def overlay(
        self, ax: Axes, curve: Curve, label: str, sigma: float | None = None, colour: str | None = None
    ) -> Axes:
        """Draw one more curve on axes that have some, see :func:`sdpipe.show.overlay.overlay`."""
        return overlay(ax, curve, label, sigma, colour)

    def budget(self, target: str, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw each source of error, and the total, against E."""
        return self._draw_target(figures.by_source, target, sigma, ax)

    def methods(self, target: str, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw the networks and every method with their errors, and the pulls in axes below."""
        return draw_at(side_by_side.estimates, self._run.compare(target), sigma, ax)

    def stability(
        self, target: str, sigma: float | None = None, E: float | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draw HLT against lambda at one energy, by default the lowest of those that ``predictions.zarr`` keeps."""
        scans = self._run.stability(target, E)
        return draw_at(lambda_scan.scan, lambda_scan.at(scans, float(scans.E_scan[0])), sigma, ax)

    def limit(self, target: str, E: float | Sequence[float] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the limit sigma -> 0 at some energies, by default four of them."""
        limits = self._run.extrapolate(target, E)
        if E is None:
            limits = limits.isel(E=slice(None, None, -(-limits.sizes["E"] // figures.SHOWN_ENERGIES)))
        ax = figures.limit(limits, new_axes() if ax is None else ax)
        if limits.attrs["says"]:
            ax.set_title(figures.title_of(target, limits.attrs["says"]), fontsize=10, loc="left")
        return ax

    def combined(
        self, limit: xr.Dataset, E: Sequence[float] | None = None, term: str | None = None, **how: Any
    ) -> Figure:
        """Draw what :func:`sdpipe.combine` returns against one of its terms, and return the figure.

        ``E`` are by default four energies, ``term`` is the first; ``how`` are ``sigma``, ``width`` and ``style``, see
        :func:`sdpipe.show.limit_figure.limits`.

        >>> run = sdpipe.open_run("runs/quickstart")
        >>> limit = sdpipe.combine([run] * 3, "o3", points=[{"a": 0.3}, {"a": 0.4}, {"a": 0.5}])
        >>> len(run.plot.combined(limit, width="column").axes)
        4
        """
        return limit_figure.limits(limit, E, term, **how)

    def joint(self, found: xr.Dataset, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw a function of several densities, which :meth:`sdpipe.analysis.joint.Joint.of` returns, with its errors.

        Raises UserError where it is not one of sigma and E.
        """
        if not {"sigma", "E"} <= set(found.central.dims):
            raise UserError("joint: needed: what Joint.of returns of a function (sigma, E), such as lambda V, A: V / A")
        return draw_at(figures.observable, found, sigma, ax)

    def history(self, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw the validation loss of every network against the epoch, and the baselines."""
        return draw_at(figures.histories, self._run.history, sigma, ax)

    def samples(self, sigma: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw the first few smeared densities of the training set at each basis size."""
        return draw_at(figures.samples, self._run.training.isel(sample=slice(figures.SHOWN_SAMPLES)), sigma, ax)

    def save(
        self,
        directory: str | Path,
        format: Format = "png",  # noqa: A002
        target: str | None = None,
    ) -> list[Path]:
        """Write the pictures of the run, or those of one ``target`` alone, as PNG or PDF, and return the files.

        They are those that ``figures/`` holds as SVG and, where there are more than 50 targets, those of each.
        Raises UserError for another format, and where there is no budget of the target.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as place:
        ...     sdpipe.open_run("runs/quickstart").plot.save(place, "pdf")[0].name
        'history-sigma0.pdf'
        """
        if format not in get_args(Format):
            raise UserError(f"format: {format!r} is not allowed; allowed: {', '.join(get_args(Format))}")
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        return [save(picture.figure, directory / f"{picture.name}.{format}") for picture in self._pictures(target)]

    def _pictures(self, target: str | None) -> Iterator[Picture]:
        """Draw what ``train``, ``validate`` and ``analyze`` draw, or what they draw of one target."""
        run = self._run
        validation = run.validation.load() if run.config.budget.calibration == "conformal" else None
        if run.config.origin.networks and target is None:
            yield from figures.history_pictures(run.history.load())
        if validation is not None and target is None:
            yield from validation_figures.pictures(validation)
        for name in run.budget if target is None else [target]:
            budget = self._budget(name).load()
            yield from target_pictures(name, run.predictions[name], budget, validation, run.config)

    def _budget(self, target: str) -> xr.Dataset:
        return self._run.budget[only_target(self._run, target)]

    def _draw_target(self, draw: figures.Draw, target: str, sigma: float | None, ax: Axes | None) -> Axes:
        budget = self._budget(target)
        ax = draw_at(draw, budget, sigma, ax)
        if flags := budget.attrs["flags"]:
            ax.set_title(figures.title_of(target, flags), fontsize=10, loc="left")
        return ax


def new_axes() -> Axes:
    """Return axes on a new figure, which a notebook then shows."""
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(figures.WIDTH, figures.HEIGHT), layout="constrained")[1]


@mpl.rc_context(STYLE)
def draw_at(draw: figures.Draw, data: xr.Dataset, sigma: float | None, ax: Axes | None) -> Axes:
    """Draw at one sigma on ``ax``, or on a new figure, as :class:`Plots` says."""
    one = at_sigma(data, sigma)
    ax = new_axes() if ax is None else ax
    draw(one, ax)
    ax.legend(title=units.equation(r"$\sigma$", one.sigma.values, units.unit_of(data)))
    return ax


def at_sigma(data: xr.Dataset, sigma: float | None) -> xr.Dataset:
    """Return data at one sigma, the first where it is not given; raise UserError for one that is not there."""
    sigmas = data.sigma.values
    wanted = np.asarray(sigmas[0] if sigma is None else sigma)
    match = np.flatnonzero(np.isclose(sigmas, wanted, rtol=1e-6)) if wanted.dtype.kind in "iuf" else np.array([])
    if not match.size:
        raise UserError(f"the run has no sigma = {sigma}; those there: {', '.join(f'{s:g}' for s in sigmas)}")
    return data.isel(sigma=match[0]).load()
