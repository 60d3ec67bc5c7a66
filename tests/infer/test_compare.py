"""Estimates side by side: pulls, where they are apart, and which to trust for which reason."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sdpipe.infer.compare import compare

E = [0.5, 1.0, 1.5]


def budget(shifts: dict[str, float], errors: dict[str, float], **attrs: float) -> xr.Dataset:
    """Return networks that say 1 ± 0.1 at three energies, and methods moved by so many of these errors at one."""
    flat = xr.DataArray(np.ones((1, 3)), dims=("sigma", "E"), coords={"sigma": [0.4], "E": E})
    methods = xr.DataArray(np.array(list(shifts), object), dims="estimator", name="estimator")
    moved = [flat + xr.DataArray([0, 0.1 * x, 0], dims="E") for x in shifts.values()]
    own = [flat * errors[name] for name in shifts]
    parts = {"central": flat, "total": 0.05 * flat, "calibrated": 0.1 * flat}
    parts["estimator_central"] = xr.concat(moved, dim=methods)
    parts["estimator_error"] = parts["estimator_calibrated"] = xr.concat(own, dim=methods)
    return xr.Dataset(parts).assign_attrs({"goodness_of_fit": 1.0, "level": 0.683} | attrs)


def bounded(budget: xr.Dataset, lower: float, upper: float) -> xr.Dataset:
    return budget.assign(lower=0 * budget.central + lower, upper=0 * budget.central + upper)


def verdict(compared: xr.Dataset) -> tuple[str, str]:
    return compared.attrs["trusted"], compared.attrs["reason"]


def test_pulls_are_differences_over_both_errors() -> None:
    compared = compare(budget({"posterior": 3, "hlt": -1}, {"posterior": 0.1, "hlt": 0.2}))
    assert compared.pull.sel(estimate="posterior", other="networks").values == pytest.approx(
        np.array([[0, 0.3 / np.hypot(0.1, 0.1), 0]])
    )
    assert compared.pull.sel(estimate="hlt", other="posterior").values == pytest.approx(
        np.array([[0, -0.4 / np.hypot(0.1, 0.2), 0]])
    )
    assert (compared.pull == -compared.pull.transpose("other", "estimate", "sigma", "E").values).all()
    assert (compared.error.sel(estimate="networks") == 0.05).all()


def test_energies_keep_their_unit() -> None:
    data = budget({"hlt": 1}, {"hlt": 0.1})
    data.sigma.attrs["units"] = data.E.attrs["units"] = "1/a"
    compared = compare(data)
    assert compared.sigma.attrs["units"] == compared.E.attrs["units"] == "1/a"


def test_what_is_apart_is_told_with_its_place() -> None:
    compared = compare(budget({"posterior": 4, "hlt": 1}, {"posterior": 0.1, "hlt": 0.3}))
    assert compared.apart.values == pytest.approx([0, 1 / 3, 0])
    assert compared.farthest.values == pytest.approx([0, 4 / np.sqrt(2), 1 / np.sqrt(10)])
    assert compared.farthest_E.sel(estimate="posterior") == 1.0
    assert compared.farthest_sigma.sel(estimate="posterior") == 0.4


def test_an_estimate_that_is_nan_agrees_with_nothing() -> None:
    data = budget({"posterior": 0, "hlt": 0}, {"posterior": 0.1, "hlt": 0.3})
    data.estimator_central.loc[{"estimator": "posterior", "E": 1.5}] = np.nan
    compared = compare(data)
    assert compared.apart.values == pytest.approx([0, 1 / 3, 0])
    assert np.isinf(compared.farthest.sel(estimate="posterior"))
    assert compared.farthest_E.sel(estimate="posterior") == 1.5


def test_the_estimate_that_was_chosen_before_is_trusted_whether_others_agree_or_not() -> None:
    agreeing = compare(budget({"posterior": 0.5, "hlt": 1}, {"posterior": 0.05, "hlt": 0.2}))
    assert (agreeing.apart == 0).all()
    differing = compare(budget({"posterior": 4, "hlt": 1}, {"posterior": 0.05, "hlt": 0.3}))
    assert differing.apart.sel(estimate="posterior") > 0
    assert verdict(agreeing) == verdict(differing) == ("networks", "first")


def test_what_the_bounds_exclude_is_not_trusted() -> None:
    data = budget({"hlt": 4}, {"hlt": 0.1})
    compared = compare(bounded(data, 0.5, 1.2))
    assert verdict(compared) == ("networks", "first")
    assert compared.outside.values.tolist() == [False, True]
    above = budget({"posterior": 4, "hlt": 4}, {"posterior": 0.1, "hlt": 0.1})
    above = above.assign(estimator_central=above.estimator_central + 0.4)
    assert verdict(compare(bounded(above, 1.3, 2.0))) == ("hlt", "first_excluded")
    assert verdict(compare(bounded(above.sel(estimator=["posterior"]), 1.3, 2.0))) == ("posterior", "first_excluded")
    assert verdict(compare(bounded(data, 2.0, 3.0))) == ("bounds", "all_excluded")
    uncertified = compare(bounded(data, np.nan, np.nan))
    assert verdict(uncertified) == ("networks", "first")
    assert "outside" not in uncertified


def test_an_interval_is_cut_with_the_bounds_that_reach_into_it() -> None:
    compared = compare(bounded(budget({"hlt": 10}, {"hlt": 0.1}), 0.95, 1.5)).sel(E=1.0, sigma=0.4)
    ends = np.array([compared.low, compared.high]).T
    np.testing.assert_allclose(ends, [[0.95, 1.1], [1.9, 2.1]])  # what is outside of them keeps its own
    assert compared.outside.values.tolist() == [False, True]


@pytest.mark.parametrize(
    ("attrs", "trusted", "reason"),
    [
        ({"p_value": 0.001}, "hlt", "off_prior"),
        ({"goodness_of_fit": 1e-5}, "none", "no_density"),
        ({"goodness_of_fit": 1e-5, "p_value": 0.001}, "none", "no_density"),
    ],
)
def test_data_that_no_prior_or_no_density_makes_are_told(attrs, trusted, reason) -> None:
    assert verdict(compare(budget({"posterior": 0, "hlt": 0}, {"posterior": 0.1, "hlt": 0.3}, **attrs))) == (
        trusted,
        reason,
    )


def test_off_the_prior_what_comes_from_it_is_not_trusted() -> None:
    data = budget({"posterior": 0}, {"posterior": 0.1}, p_value=0.001)
    assert verdict(compare(data)) == ("none", "off_prior_alone")
    assert verdict(compare(bounded(data, 0.5, 1.5))) == ("bounds", "off_prior_alone")


def test_without_methods_the_networks_stand_alone() -> None:
    alone = budget({"hlt": 0}, {"hlt": 1}).drop_dims("estimator")
    assert verdict(compare(alone)) == ("networks", "first")


def test_without_networks_the_first_estimate_is_the_one_that_answers() -> None:
    data = budget({"posterior": 0, "hlt": 1}, {"posterior": 0.1, "hlt": 0.3}).assign_attrs(answered_by="posterior")
    compared = compare(data)
    assert compared.estimate.values.tolist() == ["posterior", "hlt"]
    assert verdict(compared) == ("posterior", "first")


def test_the_coverage_of_the_trusted_estimate_is_that_of_its_calibrated_error() -> None:
    levels, names = [0.683, 0.954], np.array(["total", "calibrated", "hlt"], object)
    shares = np.arange(24.0).reshape(3, 2, 2, 2) / 24
    coords = {"budget": names, "family": ["prior", "o3"], "sigma": [0.4, 0.6], "level": levels}
    validation = xr.Dataset({"coverage_of": (("budget", "family", "sigma", "level"), shares)}, coords)
    for silent, row in (([], 1), (["networks"], 2)):
        compared = compare(budget({"hlt": 0}, {"hlt": 0.12}).assign_attrs(silent=silent), validation)
        assert compared.covered.values == pytest.approx(shares[row, :, :, 0].mean(axis=1))
        assert compared.attrs["level"] == 0.683
    assert "covered" not in compare(budget({"hlt": 0}, {"hlt": 0.12}))


def test_an_estimate_that_does_not_give_back_the_data_is_not_trusted() -> None:
    data = budget({"posterior": 0, "hlt": 0}, {"posterior": 0.1, "hlt": 0.1}).assign_attrs(answered_by="posterior")
    assert verdict(compare(data)) == ("posterior", "first")
    assert verdict(compare(data.assign_attrs(silent=["posterior"]))) == ("hlt", "first_excluded")
    assert verdict(compare(data.assign_attrs(silent=["posterior", "hlt"]))) == ("none", "all_excluded")
