"""Figures are pictures of the right things; ``run.plot`` draws them on axes at the sigma that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from matplotlib import image
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.config.schema import Config, Ensemble
from sdpipe.errors import UserError
from sdpipe.run import Run
from sdpipe.show import figures, picture
from tests.fixtures import REPOSITORY

if TYPE_CHECKING:
    from tests.fixtures import Finished


@pytest.fixture
def run(finished: Finished) -> Iterator[Run]:
    yield sdpipe.open_run(finished.root)
    plt.close("all")


@pytest.fixture
def budget(run: Run) -> xr.Dataset:
    return run.budget["o3"].load()


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


SVG = "{http://www.w3.org/2000/svg}"


def test_figures_are_one_svg_for_each_picture_with_words_and_text_as_text(run: Run) -> None:
    kinds = [f"{name}-{kind}" for name in run.config.targets for kind in ("reconstruction", "budget", "methods")]
    kinds += [f"validation-{kind}" for kind in ("pulls", "coverage", "coverage-energy", "width", "cases")]
    expected = {f"{kind}-sigma{i}" for kind in (*kinds, "history") for i in range(len(run.config.smearing.sigma))}
    expected |= {f"{name}-{what}" for name in run.config.targets for what in ("correlator", "effective-mass")}
    files = list(run.layout.figures.iterdir())
    assert {path.name for path in files} == {f"{stem}.svg" for stem in expected}
    roots = {path.stem: ElementTree.parse(path).getroot() for path in files}
    for stem, root in roots.items():
        width, height = (float(root.get(side).removesuffix("pt")) for side in ("width", "height"))
        assert 300 < width < 500, stem
        assert 150 < height < 800, stem
        assert sum(1 for text in root.iter(f"{SVG}text") if "".join(text.itertext()).strip()) > 5, stem
    words = [root.get("aria-label") for root in roots.values()]
    assert len(set(words)) == len(words)
    ids = [element.get("id") for root in roots.values() for element in root.iter() if element.get("id")]
    assert len(set(ids)) == len(ids) > 1000, "pictures on one page share no id"


def test_a_picture_is_written_and_escaped_the_same_each_time(tmp_path: Path) -> None:
    def drawn() -> str:
        figure = Figure()
        figure.subplots().set(title="a < b", ylabel=figures.DENSITY)
        return picture.write(picture.Picture("one", figure, 'a < b & "c"'), tmp_path).read_text(encoding="utf-8")

    svg = drawn()
    assert svg == drawn()
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'a < b & "c"'
    assert "a < b" in ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")]
    fonts = [style for text in root.iter() if "font-family" in (style := text.get("style", ""))]
    assert fonts
    assert all("Verdana" in style and "sans-serif" in style for style in fonts)
    assert str(picture.embedded(svg)).startswith("<svg ")


def test_pictures_come_as_png_and_pdf_too(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Run, "budget", {"o3": run.budget["o3"]})
    files = run.plot.save(tmp_path / "new" / "png")
    drawn = [path.stem for path in run.layout.figures.iterdir() if path.stem.startswith(("history", "val", "o3"))]
    assert sorted(path.name for path in files) == sorted(f"{stem}.png" for stem in drawn)
    pixels = image.imread(tmp_path / "new" / "png" / "o3-reconstruction-sigma0.png")[..., :3]
    for colour in (figures.CENTRAL, "#ffffff"):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(pixels - wanted).max(axis=-1) < 0.01).sum() > 100, colour
    with pytest.raises(UserError, match="format: 'gif' is not allowed; allowed: png, pdf"):
        run.plot.save(tmp_path, "gif")


def both(budget: xr.Dataset) -> list[Axes]:
    """Return the axes of a reconstruction and those below them."""
    figure = Figure()
    figures.reconstruction(budget, figure.subplots())
    return figure.axes


def test_a_reconstruction_shows_truth_and_both_bands(budget: xr.Dataset) -> None:
    one = budget.isel(sigma=0)
    ax, _ = both(one)
    labels = ["total error", "statistical error", "central value", "truth"]
    assert legend(ax) == labels
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(drawn["central value"], one.central)
    np.testing.assert_array_equal(drawn["truth"], one.truth)
    assert legend(both(one.drop_vars(["truth", "pull"]))[0]) == labels[:-1]


def test_below_a_reconstruction_is_what_the_lines_hide_in_units_of_the_total_error(budget: xr.Dataset) -> None:
    one = budget.isel(sigma=0)
    drawn = {line.get_label(): line.get_ydata() for line in both(one)[1].lines}
    pull = (one.truth - one.central) / one.total
    np.testing.assert_allclose(drawn["truth"], np.clip(pull, -figures.WIDEST_PULL, figures.WIDEST_PULL))
    np.testing.assert_allclose(drawn["calibrated error"], one.calibrated / one.total)
    assert len(both(one.drop_vars("calibrated"))) == 2
    one["total"] = 0 * one.total
    assert all(np.isfinite(line.get_ydata()).all() for line in both(one)[1].lines if line.get_label() == "truth")


def test_a_reconstruction_has_the_band_of_the_bounds_and_wide_ones_do_not_flatten_it(budget: xr.Dataset) -> None:
    one = budget.isel(sigma=0).drop_vars(["lower", "upper"], errors="ignore")
    (without, ax), reach = Figure().subplots(1, 2), 1000 * float(budget.central.max())
    figures.reconstruction(one, without)
    figures.reconstruction(one.assign(lower=-reach + 0 * one.central, upper=reach + 0 * one.central), ax)
    assert "bounds, ρ ≥ 0" in legend(ax)
    assert "bounds, ρ ≥ 0" not in legend(without)
    (low, high), (bottom, top) = ax.get_ylim(), without.get_ylim()
    assert low == pytest.approx(bottom)
    assert high < 1.2 * top  # their name takes one more row of the legend


def test_bands_and_central_value_differ_in_grey() -> None:
    from matplotlib.colors import to_rgb

    grey = [np.dot(to_rgb(c), (0.299, 0.587, 0.114)) for c in ("white", figures.TOTAL, figures.STATISTICAL)]
    grey += [np.dot(to_rgb(figures.CENTRAL), (0.299, 0.587, 0.114))]
    assert min(-np.diff(grey)) > 0.08


def test_a_budget_shows_every_source_and_their_sum(budget: xr.Dataset) -> None:
    figure = Figure()
    figures.by_source(budget.isel(sigma=1), figure.subplots())
    upper, lower = figure.axes
    assert legend(upper) == ["noise of the data", "spread of the networks", "left open by the data", "total"]
    assert legend(lower) == ["shift by basis size", "shift by number of samples"]
    squares = sum(line.get_ydata() ** 2 for line in (*upper.lines[:-1], *lower.lines))
    np.testing.assert_allclose(upper.lines[-1].get_ydata() ** 2, squares)


@pytest.mark.parametrize("draw", [figures.reconstruction, figures.by_source])
def test_a_power_of_ten_stands_clear_of_titles_and_of_the_panel_above(budget: xr.Dataset, draw: figures.Draw) -> None:
    names = ["central", "error", "total", "calibrated", "truth"]
    figure = figures.panels(draw, budget.assign(1e-7 * budget[names]), "o3")
    figure.draw_without_rendering()
    words = [ax.get_title(loc="left") for ax in figure.axes]
    titles = [(None, text) for text in figure.findobj(Text) if text.get_text() in words and text.get_text()]
    for ax in figure.axes:
        low, high = ax.get_ylim()
        ticks = zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
        titles += [(ax, label) for value, label in ticks if low <= value <= high]
    powers = [(ax, power) for ax in figure.axes if (power := ax.yaxis.get_offset_text()).get_text()]
    assert len(powers) >= 2
    for ax, power in powers:
        box = power.get_window_extent()
        assert box.x0 >= 0
        assert not any(box.overlaps(text.get_window_extent()) for of, text in titles if of is not ax)


def test_histories_show_every_replica_and_both_baselines(run: Run) -> None:
    history = run.history.isel(sigma=0).load()
    drawn = {tuple(line.get_ydata()) for line in figures.histories(history, Figure().subplots()).lines}
    losses = history.val_loss.transpose(..., "epoch").values.reshape(-1, history.sizes["epoch"])
    assert {tuple(loss) for loss in losses} <= drawn
    for baseline in (history.linear_loss, history.posterior_loss):
        assert {(loss, loss) for loss in baseline.values} <= drawn


def test_panels_are_one_for_each_sigma(budget: xr.Dataset) -> None:
    for some in (budget, budget.isel(sigma=[1])):
        figure = figures.panels(figures.reconstruction, some, "o3")
        titles = [title for ax in figure.axes if (title := ax.get_title(loc="left"))]
        assert titles == [f"o3, a σ = {s:g}" for s in some.sigma.values]


@pytest.mark.parametrize(
    ("unit", "axis", "title"), [("GeV", "$E$ [GeV]", "σ = 0.44 GeV"), ("1/a", "$a E$", "a σ = 0.44")]
)
def test_axes_and_titles_are_in_the_unit_of_the_run(budget: xr.Dataset, unit: str, axis: str, title: str) -> None:
    assert (budget.E.units, budget.sigma.units) == ("1/a", "1/a")
    for name in ("E", "sigma"):
        budget[name].attrs["units"] = unit
    figure = figures.panels(figures.reconstruction, budget.isel(sigma=[0]), "o3")
    assert figure.axes[-1].get_xlabel() == axis
    assert figure.axes[0].get_title(loc="left") == f"o3, {title}"


# --- asymptotics ---------------------------------------------------------------------------------------------

AUDIENCE = {
    name: Ensemble(Nb=Nb, Nrho=Nrho, network="arcL")
    for name, Nb, Nrho in (("big", 64, 4000), ("b16", 16, 4000), ("b32", 32, 4000), ("few", 64, 1000), ("x", 16, 1000))
}


@pytest.fixture
def shipped() -> Config:
    return load_config(REPOSITORY / "configs" / "asymptotics.yaml")


@pytest.fixture
def config(shipped: Config) -> Config:
    budget = shipped.budget.model_copy(update={"central": "big", "references": {"b": "b16"}})
    return shipped.model_copy(update={"ensembles": AUDIENCE, "budget": budget})


@pytest.fixture
def rho() -> xr.DataArray:
    return xr.DataArray(
        1 + 0.1 * np.random.default_rng(1).standard_normal((1, 5, 3, 20, 6)),
        dims=("sigma", "ensemble", "replica", "boot", "E"),
        coords={"sigma": [0.44], "ensemble": np.array(list(AUDIENCE), object), "E": np.linspace(0.5, 2, 6)},
    )


def test_a_series_differs_from_the_central_ensemble_in_one_size(shipped: Config) -> None:
    assert figures.series(AUDIENCE, "big") == {"Nb": ["b16", "b32", "big"]}
    assert figures.series(shipped.ensembles, shipped.budget.central) == {
        "Nb": ["Nb8", "Nref_b", "Nb32", "Nmax"],
        "Nrho": ["Nrho5k", "Nref_rho", "Nrho20k", "Nmax"],
        "network": ["Nref_n", "medium", "Nmax"],
    }


def test_asymptotics_show_values_and_the_quoted_band(rho: xr.DataArray, config: Config) -> None:
    budget = sdpipe.error_budget(rho, "big", {"b": "b16"})
    (figure,) = figures.asymptotics(rho, budget, config, "o3 (flagged)")
    assert figure.get_suptitle() == "o3 (flagged)"
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["16", "32", "64"]
    drawn = [container[0].get_ydata() for container in ax.containers]
    values = rho.mean(("replica", "boot")).sel(ensemble=["b16", "b32", "big"], sigma=0.44)
    for i, points in zip((1, 2, 3, 4), drawn, strict=True):
        np.testing.assert_allclose(np.array(points, float), values.isel(E=i).values)
    width = float(budget.error.sel(source="b", sigma=0.44)[1])
    assert np.isclose(ax.patches[0].get_height(), 2 * width)
    figure.draw_without_rendering()
    (names,) = figure.legends
    assert len(names.get_texts()) == 4
    assert not names.get_window_extent().overlaps(ax.get_window_extent())


# --- run.plot ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"), [("reconstruction", ("o3",)), ("budget", ("o3",)), ("history", ()), ("samples", ())]
)
def test_a_plot_is_on_new_axes_or_on_those_given(run: Run, name: str, arguments: tuple[str, ...]) -> None:
    style = dict(plt.rcParams)
    ax = getattr(run.plot, name)(*arguments)
    assert dict(plt.rcParams) == style
    assert ax.get_legend().get_title().get_text() == r"$a \sigma = 0.44$"
    assert ax.get_title() == ""
    assert ax.figure.axes[-1].get_xlabel() == ("epoch" if name == "history" else "$a E$")
    assert ax.get_ylabel()
    _, (left, right) = plt.subplots(1, 2)
    assert getattr(run.plot, name)(*arguments, sigma=0.63, ax=right) is right
    assert right.get_legend().get_title().get_text() == r"$a \sigma = 0.63$"
    assert not left.has_data()


def test_the_lines_are_those_of_the_run(run: Run) -> None:
    peaks, training = run.budget["peaks"], run.training
    drawn = run.plot.reconstruction("peaks", sigma=0.63).lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, peaks.central.isel(sigma=1))
    np.testing.assert_array_equal(run.plot.budget("peaks").lines[-1].get_ydata(), peaks.total.isel(sigma=0))
    drawn = run.plot.samples().lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, training.smeared.isel(Nb=0, sample=0, sigma=0))


def test_what_is_not_there_is_refused_and_what_is_there_named(run: Run) -> None:
    with pytest.raises(UserError, match="there is no budget of rest; those there: o3, delta_tanh, peaks, prior"):
        run.plot.reconstruction("rest")
    with pytest.raises(UserError, match=r"no sigma = 0\.5; those there: 0\.44, 0\.63"):
        run.plot.history(sigma=0.5)
    with pytest.raises(UserError, match=r"no sigma = mine; those there: 0\.44, 0\.63"):
        run.plot.samples("mine")


@pytest.mark.parametrize("name", ["reconstruction", "budget"])
def test_a_flag_stands_in_the_title(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    flagged = run.budget["peaks"].assign_attrs(flags=["off the prior"])
    monkeypatch.setattr(Run, "budget", {"peaks": flagged, "o3": run.budget["o3"].assign_attrs(flags=[])})
    assert getattr(run.plot, name)("peaks").get_title(loc="left") == "peaks (flagged)"
    assert getattr(run.plot, name)("o3").get_title(loc="left") == ""
