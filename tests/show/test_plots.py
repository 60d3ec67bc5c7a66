"""``run.plot`` draws on matplotlib axes, new or given, at the sigma that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import sdpipe
from sdpipe.errors import UserError
from sdpipe.run import Run

if TYPE_CHECKING:
    from tests.conftest import Finished

CALLS = [("reconstruction", ("o3",)), ("budget", ("o3",)), ("history", ()), ("samples", ())]
ENERGY = r"$E$ [GeV]"


@pytest.fixture
def run(finished: Finished) -> Iterator[Run]:
    yield sdpipe.open_run(finished.root)
    plt.close("all")


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_a_plot_is_on_new_axes_or_on_those_given(run: Run, name: str, arguments: tuple[str, ...]) -> None:
    ax = getattr(run.plot, name)(*arguments)
    assert isinstance(ax, Axes)
    assert ax.get_legend().get_title().get_text() == r"$\sigma = 0.44$ GeV"
    assert ax.get_title() == ""
    assert ax.get_xlabel() == ("epoch" if name == "history" else ENERGY)
    assert ax.get_ylabel()
    _, (left, right) = plt.subplots(1, 2)
    assert getattr(run.plot, name)(*arguments, sigma=0.63, ax=right) is right
    assert right.get_legend().get_title().get_text() == r"$\sigma = 0.63$ GeV"
    assert not left.has_data()


def test_the_lines_are_those_of_the_run(run: Run) -> None:
    np.testing.assert_array_equal(
        run.plot.reconstruction("peaks", sigma=0.63).lines[0].get_ydata(), run.budget["peaks"].central.isel(sigma=1)
    )
    np.testing.assert_array_equal(
        run.plot.budget("peaks").lines[-1].get_ydata(), run.budget["peaks"].total.isel(sigma=0)
    )
    drawn = [line.get_ydata() for line in run.plot.samples().lines]
    np.testing.assert_array_equal(drawn[0], run.training.smeared.isel(Nb=0, sample=0, sigma=0))


def test_the_style_of_the_user_is_left_alone(run: Run) -> None:
    before = dict(plt.rcParams)
    run.plot.history()
    assert dict(plt.rcParams) == before


def test_what_is_not_there_is_refused_and_what_is_there_named(run: Run) -> None:
    with pytest.raises(UserError, match="there is no budget of rest; those there: o3, delta_tanh, peaks, prior"):
        run.plot.reconstruction("rest")
    with pytest.raises(UserError, match=r"no sigma = 0\.5 GeV; those there: 0\.44, 0\.63"):
        run.plot.history(sigma=0.5)
    with pytest.raises(UserError, match=r"no sigma = mine GeV; those there: 0\.44, 0\.63"):
        run.plot.samples("mine")


@pytest.mark.parametrize("name", ["reconstruction", "budget"])
def test_a_flag_stands_in_the_title(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    flagged = run.budget["peaks"].assign_attrs(flags=["off the prior"])
    monkeypatch.setattr(Run, "budget", {"peaks": flagged, "o3": run.budget["o3"].assign_attrs(flags=[])})
    assert getattr(run.plot, name)("peaks").get_title(loc="left") == "peaks (flagged)"
    assert getattr(run.plot, name)("o3").get_title(loc="left") == ""
