"""Files and figures for a paper."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import h5py
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import sdpipe
from sdpipe.analysis.paper import write
from sdpipe.errors import UserError
from sdpipe.show.limit_figure import limits
from sdpipe.show.paper_figure import WIDTHS

if TYPE_CHECKING:
    from pathlib import Path

    from sdpipe.run import Run
    from tests.fixtures import Finished


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return sdpipe.open_run(finished.root)


@pytest.fixture(scope="module")
def limit(run: Run) -> xr.Dataset:
    return sdpipe.combine([run] * 3, "o3", points=[{"a": 0.3}, {"a": 0.4}, {"a": 0.5}])


def test_hdf5_holds_every_number_with_its_units(run: Run, tmp_path: Path) -> None:
    path, budget = run.save("o3", tmp_path / "o3.h5"), run.budget["o3"].load()
    with h5py.File(path) as file:
        assert set(file) >= {"central", "error", "total", "calibrated", "covariance", "sigma", "E", "source"}
        assert file["error"].attrs["dims"] == "source, sigma, E"
        assert file["E"].attrs["units"] == "1/a"
        assert file.attrs["made_by"] == f"sdpipe {sdpipe.__version__}"
        np.testing.assert_array_equal(file["covariance"][:], budget.covariance)
        np.testing.assert_array_equal(file["error"][:], budget.error)
        assert [name.decode() for name in file["source"][:]] == budget.source.values.tolist()


def test_netcdf_holds_the_same_and_opens_with_its_labels(run: Run, tmp_path: Path) -> None:
    budget = run.budget["o3"].load()
    with xr.open_dataset(run.save("o3", tmp_path / "o3.nc"), engine="h5netcdf") as data:
        xr.testing.assert_equal(data, budget)
        assert data.E.attrs["units"] == "1/a"
        assert data.attrs["made_by"] == f"sdpipe {sdpipe.__version__}"
        assert data.attrs["flags"] == "; ".join(budget.attrs["flags"])


def test_a_limit_is_written_as_netcdf(limit: xr.Dataset, tmp_path: Path) -> None:
    with xr.open_dataset(write(limit, tmp_path / "limit.nc", {}), engine="h5netcdf") as data:
        np.testing.assert_array_equal(data.covariance, limit.covariance)
        assert data.model.values.tolist() == limit.model.values.tolist()


def test_hepdata_holds_energies_values_and_errors_by_source(run: Run, tmp_path: Path) -> None:
    table, budget = yaml.safe_load(run.save("o3", tmp_path / "o3.yaml").read_text()), run.budget["o3"].load()
    (energies,) = table["independent_variables"]
    assert [one["value"] for one in energies["values"]] == budget.E.values.tolist()
    assert len(table["dependent_variables"]) == budget.sizes["sigma"]
    first = table["dependent_variables"][1]["values"][3]
    assert first["value"] == float(budget.central[1, 3])
    labels = {error["label"]: error["symerror"] for error in first["errors"]}
    assert labels["latt"] == float(budget.error.sel(source="latt")[1, 3])
    assert labels["total, calibrated"] == float(budget.calibrated[1, 3])


def test_a_limit_is_written_like_a_budget_and_another_format_is_refused(limit: xr.Dataset, tmp_path: Path) -> None:
    with h5py.File(write(limit, tmp_path / "limit.h5", {"made_by": "me"})) as file:
        np.testing.assert_array_equal(file["covariance"][:], limit.covariance)
        assert file["model"][1].decode() == "1 + a2"
    assert "1 + a2" not in write(limit, tmp_path / "limit.yaml", {}).read_text()
    with pytest.raises(UserError, match=r"\.txt is not allowed; allowed: \.h5, \.nc, \.yaml"):
        write(limit, tmp_path / "limit.txt", {})
    assert not (tmp_path / "limit.txt").exists()


@pytest.mark.parametrize("width", ["column", "page"])
def test_limits_are_drawn_in_both_widths_and_nothing_of_the_session_changes(
    limit: xr.Dataset, width: str, tmp_path: Path
) -> None:
    before = dict(mpl.rcParams)
    figure = limits(limit, [0.5, 1.1], "a2", 0.63, width, {"font.size": 7})
    figure.savefig(tmp_path / "limit.pdf")
    assert dict(mpl.rcParams) == before
    assert figure.get_size_inches()[0] == WIDTHS[width]
    assert len(figure.axes) == 2
    canvas, boxes = FigureCanvasAgg(figure), []
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in figure.axes:
        ticks = [t.get_window_extent(renderer) for t in ax.get_xticklabels() if t.get_visible() and t.get_text()]
        inside = [b for b in ticks if ax.bbox.x0 - 1 <= (b.x0 + b.x1) / 2 <= ax.bbox.x1 + 1]
        assert all(one.x1 < other.x0 for one, other in pairwise(inside))
        words = [text for text in ax.get_children() if isinstance(text, Text) and text.get_text()]
        words += [*ax.get_legend().get_texts(), ax.xaxis.label, ax.yaxis.label]
        boxes += [*inside, *(text.get_window_extent(renderer) for text in words)]
    assert not [(one, other) for i, one in enumerate(boxes) for other in boxes[:i] if one.overlaps(other)]


def test_a_run_draws_a_limit_against_its_first_term_at_four_energies(run: Run, limit: xr.Dataset) -> None:
    figure = run.plot.combined(limit, sigma=0.63, width="column")
    assert len(figure.axes) == 4
    assert {ax.get_xlabel() for ax in figure.axes} == {"$a^{2}$"}
    points = figure.axes[0].containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(points, limit.data.sel(width=0.63).isel(E=0))
    with pytest.raises(UserError, match="without terms has nothing to be drawn against"):
        run.plot.combined(limit.isel(term=[0]))


def test_what_a_limit_does_not_have_is_not_drawn(limit: xr.Dataset) -> None:
    for arguments, words in (
        (([0.5], "a4"), "'a4' is not allowed; allowed: a2"),
        (([0.55], "a2"), "not energies of the limit"),
        (([0.5], "a2", 0.5), "sigma = 0.5; those there: 0.44, 0.63"),
        (([0.5], "a2", None, "wide"), "'wide' is not allowed; allowed: inches, from 1 on, column, page"),
    ):
        with pytest.raises(UserError, match=words):
            limits(limit, *arguments)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("width", ["column", "page"])
def test_no_two_words_of_a_density_for_a_paper_are_in_one_place(
    run: Run, width: str, lower: bool, tmp_path: Path
) -> None:
    before = dict(mpl.rcParams)
    figure = run.plot.paper("o3", 0.63, width=width, lower=lower, beside={"a line": lambda E: 0.1 * E})
    figure.savefig(tmp_path / "density.pdf")
    assert dict(mpl.rcParams) == before
    assert figure.get_size_inches()[0] == WIDTHS[width]
    assert len(figure.axes) == 1 + lower
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = []
    for ax in figure.axes:
        legend = ax.get_legend()
        words = [*(legend.get_texts() if legend else ()), ax.yaxis.label]
        words += [ax.xaxis.label] if ax is figure.axes[-1] else []
        boxes += [text.get_window_extent(renderer) for text in words]
        seen = [t.get_window_extent(renderer) for t in ax.get_yticklabels() if t.get_text()]
        boxes += [box for box in seen if ax.bbox.y0 <= (box.y0 + box.y1) / 2 <= ax.bbox.y1]
        seen = [t.get_window_extent(renderer) for t in ax.get_xticklabels() if ax is figure.axes[-1]]
        boxes += [box for box in seen if ax.bbox.x0 <= (box.x0 + box.x1) / 2 <= ax.bbox.x1]
    assert len(boxes) > 12
    assert not [(one, other) for i, one in enumerate(boxes) for other in boxes[:i] if one.overlaps(other)]


def test_words_colours_and_fonts_of_a_density_are_arguments(run: Run) -> None:
    labels = {"central": "this work", "stat": "", "y": "R(E)"}
    figure = run.plot.paper("o3", width=5, height=3, labels=labels, colours=("r", "g", "b"), style={"font.size": 11})
    (ax,) = figure.axes
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "this work" in names
    assert "statistical error" not in names
    assert (ax.get_ylabel(), ax.yaxis.label.get_size()) == ("R(E)", 11)
    assert ax.get_lines()[0].get_color() == "r"
    for how, words in (
        ({"width": "wide"}, "width: 'wide' is not allowed; allowed: inches, from 1 on, column, page"),
        ({"width": None}, "width: None is not allowed"),
        ({"height": -2}, "height: -2 is not allowed; allowed: inches, above 0"),
        ({"colours": ("r",)}, "colours: 1 are given; needed: 3"),
        ({"labels": {"z": ""}}, "labels: z not allowed; allowed: x, y, central"),
    ):
        with pytest.raises(UserError, match=words):
            run.plot.paper("o3", **how)


def test_a_density_beside_is_drawn_with_its_error(run: Run) -> None:
    ax = run.plot.reconstruction("o3", beside=sdpipe.smeared(([0.0, 50.0], [1.0, 1.0], [0.1, 0.1]), run))
    assert "beside" in [text.get_text() for text in ax.get_legend().get_texts()]
