"""The picture and the paragraph of the estimates side by side."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from sdpipe.errors import UserError
from sdpipe.infer.compare import Reason, compare
from sdpipe.run import open_run
from sdpipe.show.side_by_side import WHY, WIDEST_PULL, estimates, paragraph
from tests.fixtures import Finished


def compared(lower: float | None = None) -> xr.Dataset:
    E = np.linspace(0.2, 2.2, 41)
    one = xr.DataArray(np.ones((1, 41)), dims=("sigma", "E"), coords={"sigma": [0.4], "E": E})
    methods = xr.DataArray(np.array(["posterior", "hlt"], object), dims="estimator", name="estimator")
    budget = {"central": one, "total": 0.1 * one, "truth": one}
    budget["estimator_central"] = xr.concat([one + 0.1, one - 5], dim=methods)
    budget["estimator_error"] = xr.concat([0.1 * one, 0.2 * one], dim=methods)
    if lower is not None:
        budget |= {"lower": lower * one, "upper": 2 * one}
    return compare(xr.Dataset(budget, attrs={"goodness_of_fit": 1.0}))


def test_it_has_points_and_pulls_of_each_method_and_no_crowd_of_curves() -> None:
    figure = Figure()
    ax = estimates(compared().isel(sigma=0), figure.subplots())
    assert ax.get_legend_handles_labels()[1] == ["networks", "truth", "posterior", "hlt"]
    above, below = figure.axes
    assert above is ax
    pulls = [line.get_ydata() for line in below.get_lines() if line.get_marker() not in ("", "None")]
    assert len(pulls) == 2
    assert all(12 <= len(p) <= 22 for p in pulls)
    assert pulls[0] == pytest.approx(np.full(len(pulls[0]), 0.1 / np.hypot(0.1, 0.1)))
    assert (pulls[1] == -WIDEST_PULL).all()


def test_bounds_are_a_band() -> None:
    ax = estimates(compared(0.5).isel(sigma=0), Figure().subplots())
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.5, 2.0)
    assert "bounds, ρ ≥ 0" in ax.get_legend_handles_labels()[1]


def test_the_paragraph_names_who_differs_where_and_what_the_bounds_exclude() -> None:
    said = paragraph(compared())
    assert said.startswith("The posterior agrees with the networks within 2 errors everywhere; HLT differs from the")
    assert "by more than 2 errors at 100% of all points, most at E = 0.2 GeV, σ = 0.4 GeV, by 22.4. " in said
    assert said.endswith("Trust the networks, chosen before the data were seen.")
    said = paragraph(compared(0.5))
    assert "The bounds exclude HLT somewhere, errors included: if ρ ≥ 0, that is wrong there. " in said
    assert said.endswith("Trust the networks, chosen before the data were seen.")


def test_an_estimate_without_a_value_is_told() -> None:
    data = compared().drop_vars("farthest").assign(farthest=("estimate", [0.0, 0.1, np.inf]))
    assert "most at E = 0.2 GeV, σ = 0.4 GeV, where it has no value." in paragraph(data)


def test_every_reason_has_one_sentence() -> None:
    assert tuple(WHY) == get_args(Reason)
    filled = [why.format(trusted="hlt", first="networks") for why in WHY.values()]
    assert len(set(filled)) == len(WHY)
    assert all(sentence.endswith(".") and "  " not in sentence for sentence in filled)


def test_the_paragraph_ends_with_how_often_the_error_covers() -> None:
    data = compared().assign(covered=("family", [0.7, 0.66])).assign_coords(family=["prior", "o3"])
    said = paragraph(data.assign_attrs(level=0.683))
    assert said.endswith("its error, calibrated to 68.3%, covers 66% to 70% of the truth, least on o3.")


def test_a_run_draws_and_compares_a_target(finished: Finished) -> None:
    run = open_run(finished.root)
    assert run.plot.methods("o3", sigma=0.63).get_title() == ""
    found, budget = run.compare("o3"), run.budget["o3"].load()
    assert list(found.estimate.values) == ["networks", "linear", "posterior"]
    np.testing.assert_array_equal(found.calibrated.sel(estimate="networks"), budget.calibrated)
    np.testing.assert_allclose(found.central.sel(estimate="linear"), budget.estimator_central.sel(estimator="linear"))
    assert "families of the validation" in found.attrs["says"]
    with pytest.raises(UserError, match="there is no budget of o4; those there: o3"):
        run.compare("o4")


def test_a_run_goes_to_zero_width(finished: Finished) -> None:
    run = open_run(finished.root)
    every, two = run.extrapolate("o3"), run.extrapolate("o3", E=[0.5, 1.1])
    assert every.limit.dims == ("E",)
    assert list(two.E.values) == [0.5, 1.1]
    np.testing.assert_array_equal(two.error, every.error.sel(E=[0.5, 1.1]))
    s, rho = run.config.smearing.sigma, two.central.values  # two widths, two powers: a straight line in sigma^2
    line = (rho[0] * s[1] ** 2 - rho[1] * s[0] ** 2) / (s[1] ** 2 - s[0] ** 2)
    np.testing.assert_allclose(two.limit, line)
    np.testing.assert_allclose(np.diagonal(two.covariance.values).T, two.calibrated**2)
    ax = run.plot.limit("o3", E=0.5)
    assert ax.get_legend_handles_labels()[1] == ["a E = 0.5"]
    assert len(run.plot.limit("o3").get_legend_handles_labels()[1]) == 4
    for arguments, words in (
        ({"E": 0.6}, "the nearest are 0.5"),
        ({"powers": (0, 2, 4)}, "2 values of sigma do not determine 3 coefficients"),
    ):
        with pytest.raises(UserError, match=words):
            run.extrapolate("o3", **arguments)
