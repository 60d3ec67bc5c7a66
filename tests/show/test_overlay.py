"""Further curves in a figure: what is drawn, and what stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.errors import UserError
from sdpipe.show.overlay import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sdpipe.run import Run
    from tests.fixtures import Finished


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return sdpipe.open_run(finished.root)


def labels(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_curves_of_every_kind_are_in_the_legend_and_the_session_is_as_it_was(run: Run) -> None:
    before = dict(mpl.rcParams)
    ax = run.plot.reconstruction("o3", 0.63)
    title, there, limits = ax.get_legend().get_title().get_text(), labels(ax), ax.get_xlim()
    budget = run.budget["peaks"].load()
    band = xr.Dataset({"lower": -budget.total, "upper": budget.total})
    E = budget.E.values
    run.plot.overlay(ax, budget, "peaks", 0.63)
    run.plot.overlay(ax, band, "band", 0.63)
    run.plot.overlay(ax, lambda E: 0.2 + 0 * E, "model")
    run.plot.overlay(ax, (E, 0.1 * E), "line")
    run.plot.overlay(ax, (E, 0.1 * E, 0.01 * E), "points", colour="red")
    assert labels(ax) == [*there[: len(there)], *(x for x in labels(ax) if x not in there)]
    assert set(labels(ax)) == {*there, "peaks", "band", "model", "line", "points"}
    assert ax.get_legend().get_title().get_text() == title
    assert ax.get_xlim() == limits
    assert dict(mpl.rcParams) == before


def test_the_curve_is_that_of_its_sigma_with_the_calibrated_error(run: Run) -> None:
    budget = run.budget["peaks"].load()
    ax = overlay(run.plot.reconstruction("o3"), budget, "peaks", 0.63)
    bars = next(c for c in ax.containers if c.get_label() == "peaks")
    np.testing.assert_allclose(bars.lines[0].get_ydata(), budget.central.sel(sigma=0.63))
    (segments,) = (collection.get_segments() for collection in bars.lines[2])
    height = np.array([s[1][1] - s[0][1] for s in segments], float)
    np.testing.assert_allclose(height, 2 * budget.calibrated.sel(sigma=0.63).values, rtol=1e-6)


def test_curves_that_are_drawn_after_each_other_differ_in_colour(run: Run) -> None:
    ax = run.plot.reconstruction("o3")
    for name in ("one", "two"):
        overlay(ax, (np.array([0.5, 1.0]), np.array([0.1, 0.2])), name)
    colours = [c.lines[0].get_color() for c in ax.containers if c.get_label() in ("one", "two")]
    assert len(set(colours)) == 2


@pytest.mark.parametrize(
    ("curve", "sigma", "words"),
    [
        (xr.Dataset({"x": ("E", [1.0])}, {"E": [1.0]}), None, "a Dataset of x; needed: central with its error"),
        ("text", None, "str is not allowed; allowed: a Dataset"),
        (([1.0], [1.0, 2.0]), None, "is not allowed"),
        (None, 0.5, r"no sigma = 0.5; those there: 0.44, 0.63"),
    ],
)
def test_what_is_no_curve_is_refused(run: Run, curve: object, sigma: float | None, words: str) -> None:
    ax = run.plot.reconstruction("o3")
    with pytest.raises(UserError, match=words):
        overlay(ax, run.budget["peaks"] if curve is None else curve, "x", sigma)
