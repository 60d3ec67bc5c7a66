"""What ``validate`` makes of predicted draws: overconfident errors are caught, correct ones pass, calibration mends."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from sdpipe.estimators.conformal import gaussian_quantile
from sdpipe.infer import coverage
from sdpipe.infer.calibration import Resolution
from sdpipe.show import validation_figures
from sdpipe.show.tables import accuracy_frame, coverage_frame, verdict_table
from sdpipe.show.validation_figures import coverage_against_level

LEVELS = (0.683, 0.954)
COUNT = 2000


def planted(honest: float, off: float = 1.0, seed: int = 1, auto: float = 1.0) -> xr.Dataset:
    """Draws that scatter by 0.01; quoted errors are ``honest`` times it.

    Those normalised by the marginal likelihood scatter ``auto`` times more, those off the prior ``off`` times.
    """
    rng = np.random.default_rng(seed)
    shape = (3, COUNT, 1, 3)
    truth = rng.standard_normal(shape)
    scatter = 0.01 * np.array([1, auto, off])[:, None, None, None]
    dims = ("family", "sample", "sigma", "E")
    per_estimator = ("family", "sample", "estimator", "sigma", "E")
    error = np.full((3, COUNT, 2, 1, 3), honest * 0.01 / np.sqrt(2))
    return xr.Dataset(
        {
            "truth": (dims, truth),
            "central": (dims, truth + scatter * rng.standard_normal(shape)),
            "estimator_central": (per_estimator, (truth + 2 * scatter * rng.standard_normal(shape))[:, :, None]),
            "estimator_error": (per_estimator, np.full(shape, 0.02)[:, :, None]),
            "error": (("family", "sample", "source", "sigma", "E"), error),
            "scale": (dims[:2], np.ones(shape[:2])),
            "noise_scale": (dims[:2], rng.uniform(0.5, 2, shape[:2])),
            "distance": (dims[:2], rng.chisquare(8, shape[:2])),
            "spread": (dims[:2], rng.chisquare(8, shape[:2])),
            "goodness_of_fit": (dims[:2], rng.uniform(0, 1, shape[:2])),
        },
        coords={
            "family": np.array(["chebyshev", "chebyshev-auto", "other"], object),
            "sample": np.arange(COUNT),
            "source": np.array(["latt", "net"], object),
            "scale_rule": np.array(["given", "auto"], object),
            "estimator": np.array(["linear"], object),
            "sigma": [0.44],
            "E": [0.5, 1.0, 1.5],
        },
    )


def measure(draws: xr.Dataset, resolution: float = 0.0) -> xr.Dataset:
    residual = resolution * np.random.default_rng(2).standard_normal((500, 1, 3))
    return coverage.measure(draws, LEVELS, 0.683, resolution=Resolution(residual, np.linspace(0.5, 2, 500)))


def verdicts(validation: xr.Dataset, family: int = 0) -> tuple[str, str]:
    """Return what the table says of the total and of the calibrated error of a family."""
    row = coverage_frame(validation, 0.683).iloc[family]
    return row["total is"], row["calibrated is"]


def test_correct_normal_errors_hold() -> None:
    v = measure(planted(1.0))
    assert verdicts(v) == ("holds", "holds")
    assert v.factor.sel(level=0.683).values == pytest.approx(1.0, abs=0.1)
    assert v.coverage.sel(family="chebyshev", level=0.954).values == pytest.approx(0.954, abs=0.015)


def test_an_overconfident_ensemble_is_caught_and_calibration_mends_it() -> None:
    v = measure(planted(0.5))
    assert verdicts(v) == ("too narrow", "holds")
    assert v.factor.sel(level=0.683).values == pytest.approx(2.0, abs=0.2)
    honest = measure(planted(1.0))
    assert v.width.sel(budget="calibrated").values == pytest.approx(
        honest.width.sel(budget="calibrated").values, rel=0.1
    )


def test_errors_too_wide_are_called_so_and_are_not_narrowed() -> None:
    v = measure(planted(2.0))
    assert verdicts(v) == ("too wide", "too wide")
    v.attrs["quoted"] = 0.683
    assert verdict_table(v).splitlines()[-1] == "too wide: the error covers more than it promises"
    assert (v.factor.sel(level=0.683) == gaussian_quantile(0.683)).all()


def test_a_family_off_the_prior_is_not_mended() -> None:
    assert verdicts(measure(planted(1.0, off=3.0)), family=2) == ("too narrow", "too narrow")


def test_the_resolution_enters_the_total_and_not_the_published_error() -> None:
    v = measure(planted(0.5), resolution=0.01 * np.sqrt(0.75))
    assert verdicts(v) == ("holds", "holds")
    coverage = v.coverage_of.sel(family="chebyshev", level=0.683).mean("sigma")
    assert float(coverage.sel(budget="published")) < 0.45
    assert list(v.source.values) == ["latt", "net", "resolution"]
    assert v.total.values == pytest.approx(np.sqrt((v.error**2).sum("source")).values, rel=1e-5)


def test_calibration_uses_one_half_of_the_prior_and_tests_on_the_rest() -> None:
    draws = planted(1.0)
    v = measure(draws)
    assert v.tested.sum("sample").values.tolist() == [COUNT // 2, COUNT // 2, COUNT]
    changed = draws.copy(deep=True)
    changed.truth[:2, COUNT // 2 :] += 5.0
    changed.truth[2] += 5.0
    assert measure(changed).factor.equals(v.factor)
    changed.truth[:2, : COUNT // 2] += 5.0
    assert (measure(changed).factor > 10 * v.factor).all()


def test_what_is_sized_by_evidence_is_calibrated_by_itself() -> None:
    v = measure(planted(1.0, auto=3.0))
    assert verdicts(v, family=0) == ("holds", "holds")
    assert verdicts(v, family=1) == ("too narrow", "holds")
    assert verdicts(v, family=2) == ("holds", "holds")
    ratio = v.factor.sel(scale_rule="auto") / v.factor.sel(scale_rule="given")
    assert ratio.sel(level=0.683).values == pytest.approx(3.0, rel=0.15)


def test_the_resolution_of_a_draw_is_in_units_of_its_truth() -> None:
    draws = planted(1.0)
    draws["scale"][1] = 4.0
    v = measure(draws, resolution=0.01)
    width = v.error.sel(source="resolution").mean(("sample", "sigma", "E"))
    assert float(width[0] / width[1]) == pytest.approx(4.0, rel=0.05)


def test_the_linear_estimator_is_judged_at_equal_coverage() -> None:
    v = measure(planted(1.0))
    inside = v.coverage_of.sel(family="chebyshev", level=0.683).mean("sigma")
    assert float(inside.sel(budget="linear")) == pytest.approx(0.683, abs=0.03)
    width = v.width.sel(family="chebyshev").mean("sigma")
    assert float(width.sel(budget="linear") / width.sel(budget="calibrated")) == pytest.approx(2, rel=0.1)
    mae = v.mae.sel(family="chebyshev").mean("sigma")
    assert float(mae.sel(estimate="linear") / mae.sel(estimate="networks")) == pytest.approx(2, rel=0.1)


def test_the_table_shows_the_coverage_of_the_linear_estimator() -> None:
    draws = planted(1.0)
    draws["estimator_central"][2, :, 0] = draws.truth[2] + 5 * (draws.estimator_central[2, :, 0] - draws.truth[2])
    v = measure(draws)
    frame = coverage_frame(v, 0.683)
    assert frame.columns[frame.columns.get_loc("calibrated %") + 1] == "linear %"
    shown = list(frame["linear %"].astype(float))
    assert shown == pytest.approx(100 * v.coverage_of.sel(budget="linear", level=0.683)[:, 0].values, abs=0.05)
    assert abs(shown[0] - 68.3) < 3
    assert shown[2] < 25


def test_the_coverage_figure_shows_the_linear_estimator_beside_the_networks() -> None:
    v = measure(planted(1.0, off=3.0))
    lines = coverage_against_level(v.isel(sigma=0), Figure().subplots()).lines
    for budget, style in (("calibrated", "-"), ("linear", "--")):
        drawn = [line for line in lines if line.get_linestyle() == style and len(line.get_xdata()) > 2]
        for line, family in zip(drawn, v.family.values, strict=True):
            at = np.interp(0.683, line.get_xdata(), line.get_ydata())
            expected = float(v.coverage_of.sel(budget=budget, family=family, level=0.683)[0])
            assert 0.683 + at == pytest.approx(expected, abs=0.01)


def test_pulls_beyond_the_histogram_are_told_and_not_drawn() -> None:
    draws = planted(1.0, off=10.0)
    draws["central"][1, 0, 0, 0] = np.nan
    v = measure(draws).isel(sigma=0)
    ax = validation_figures.pulls(v, Figure().subplots())
    shapes = [patch.get_data() for patch in ax.patches]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    for shape, label, family in zip(shapes, labels, v.family.values, strict=False):
        values = v.pull.sel(family=family).values[v.tested.sel(family=family).values]
        inside = float((np.abs(values) <= 5).mean())
        assert float((shape.values * np.diff(shape.edges)).sum()) == pytest.approx(inside)
        assert label == f"{family}: {1 - inside:.1%}"
        assert shape.values[-1] < 2 * shape.values[-2] + 0.01
    assert ax.get_legend().get_title().get_text() == "beyond ±5"
    assert labels[0] == "chebyshev: 0.0%"
    assert labels[-1] == "normal"


def many(count: int) -> xr.Dataset:
    """A validation of this many families."""
    draws = planted(1.0).isel(sample=slice(200))
    names = np.array(["chebyshev", *(f"other-{i}" for i in range(count - 1))], object)
    return measure(
        xr.concat([draws.isel(family=min(i, 1)) for i in range(count)], "family").assign_coords(family=names)
    )


@pytest.mark.parametrize("name", validation_figures.PANELS)
@pytest.mark.parametrize("count", [2, 11])
def test_every_family_has_a_panel_with_a_legend_beside_it_and_few_others(name: str, count: int) -> None:
    v = many(count)
    figure = validation_figures.columns(validation_figures.PANELS[name], v)
    figure.draw_without_rendering()
    shown = []
    for ax in figure.axes:
        box, legend = ax.get_window_extent(), ax.get_legend().get_window_extent()
        assert box.x1 <= legend.x0
        assert legend.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 - legend.height + box.height
        labels = [text.get_text().partition(":")[0] for text in ax.get_legend().get_texts()]
        named = [name for name in labels if name in v.family.values or name in v.budget.values]
        assert 1 <= len(named) <= validation_figures.MOST
        lines = [line for line in ax.lines if len(line.get_xdata()) > 2] if name != "pulls" else ax.patches
        assert len(lines) <= validation_figures.MOST + (name == "width")
        shown += named
    assert set(shown) >= set(v.budget.values if name == "width" else v.family.values)


def test_families_of_a_panel_differ_in_colour_and_style_of_line() -> None:
    ax = validation_figures.coverage_against_energy(many(11).isel(sigma=0, family=slice(4)), Figure().subplots())
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == len(lines) == 4


def test_a_long_name_of_a_family_stays_inside_the_figure() -> None:
    v = many(2).assign_coords(family=["chebyshev", "a-name-that-goes-on-and-on-and-on-and-on"])
    figure = validation_figures.columns(validation_figures.PANELS["pulls"], v)
    figure.draw_without_rendering()
    assert figure.axes[0].get_legend().get_window_extent().x1 <= figure.bbox.x1


def test_widths_are_on_a_logarithmic_axis() -> None:
    v = measure(planted(1.0, off=30.0))
    ax = validation_figures.width_and_bias(v.isel(sigma=0), Figure().subplots())
    assert ax.get_yscale() == "log"
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    for budget in v.budget.values:
        np.testing.assert_allclose(drawn[str(budget)], v.width.sel(budget=budget)[:, 0])


def test_the_cases_say_what_band_and_lines_are() -> None:
    figure = validation_figures.cases(measure(planted(1.0)), 0.44)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["calibrated error", "central value", "linear", "truth"]
    figure.draw_without_rendering()
    assert all(legend.get_window_extent().y0 > ax.get_window_extent().y1 for ax in figure.axes)


def test_an_estimate_that_is_nan_shows_in_the_table() -> None:
    draws = planted(1.0)
    draws["estimator_central"][2, 7, 0, 0, 1] = np.nan
    draws["estimator_error"][2, 7, 0, 0, 1] = np.nan
    shown = accuracy_frame(measure(draws))
    for column in ("MAE linear", "± linear"):
        assert shown[column][2] == "nan"
        assert float(shown[column][0]) > 0
    for column in ("MAE networks", "± calibrated"):
        assert all(float(cell) > 0 for cell in shown[column])
    draws["estimator_central"][0, 0, 0, 0, 1] = np.nan  # a draw that calibrates is not in the means
    assert np.isfinite(measure(draws).mae.sel(family="chebyshev")).all()


def test_flags_are_rare_for_the_prior_and_certain_far_from_it() -> None:
    draws = planted(1.0)
    draws["distance"][2] += 1000
    rate = measure(draws).flag_rate
    assert float(rate.sel(family="chebyshev")) <= 0.02
    assert float(rate.sel(family="other")) == 1.0


def test_the_band_covers_all_energies_at_once_and_integrals_have_a_factor_of_their_own() -> None:
    v = measure(planted(0.5))
    band, integrals = v.coverage_band.sel(family="chebyshev"), v.coverage_integral.sel(family="chebyshev")
    for level in LEVELS:
        assert float(band.sel(level=level).mean()) == pytest.approx(level, abs=0.04)
        assert integrals.sel(level=level).values.ravel() == pytest.approx([level] * 4, abs=0.04)
    assert (v.band_factor > v.factor.max("E")).all()
    assert float(v.coverage.sel(family="chebyshev", level=0.683).mean()) == pytest.approx(0.683, abs=0.03)


def test_flags_are_set_against_coverage() -> None:
    draws = planted(1.0, off=3.0)
    draws["distance"][2, : COUNT // 2] = 1e6
    v = measure(draws)
    other = v.coverage_flagged.sel(family="other", level=0.683)
    assert float(v.flag_rate.sel(family="other").mean()) == pytest.approx(0.5, abs=0.03)
    assert (other < 0.35).all()


def test_a_draw_that_has_nothing_at_an_energy_is_right_there() -> None:
    draws = planted(1).drop_vars(["estimator_central", "estimator_error"]).drop_dims("estimator")
    for name in ("truth", "central", "error"):
        draws[name] = draws[name].where((draws.sample >= 4) | (draws.E != 0.5), 0)
    measured = measure(draws)
    assert (measured.pull.isel(sample=slice(4)).sel(E=0.5) == 0).all()
    assert (measured.covering_level.isel(sample=slice(4)).sel(E=0.5) == 0).all()
    assert all(np.isfinite(measured[name]).all() for name in ("pull", "factor", "band_factor", "coverage"))
    assert verdicts(measured) == ("holds", "holds")
