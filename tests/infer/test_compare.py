"""Estimates side by side: pulls, and a paragraph that says what agrees and which to trust."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sdpipe.infer.compare import compare

E = [0.5, 1.0, 1.5]


def budget(shifts: dict[str, float], errors: dict[str, float], **attrs: float) -> xr.Dataset:
    """Return networks that say 1 ± 0.1 at three energies, and methods moved by so many of these errors."""
    flat = xr.DataArray(np.ones((1, 3)), dims=("sigma", "E"), coords={"sigma": [0.4], "E": E})
    methods = xr.DataArray(np.array(list(shifts), object), dims="estimator", name="estimator")
    moved = [flat + xr.DataArray([0, 0.1 * x, 0], dims="E") for x in shifts.values()]
    own = [flat * errors[name] for name in shifts]
    parts = {"central": flat, "total": 0.05 * flat, "calibrated": 0.1 * flat}
    parts["estimator_central"] = xr.concat(moved, dim=methods)
    parts["estimator_error"] = parts["estimator_calibrated"] = xr.concat(own, dim=methods)
    return xr.Dataset(parts).assign_attrs({"back_check": 1.0, "level": 0.683} | attrs)


def bounded(made: xr.Dataset, lower: float, upper: float) -> xr.Dataset:
    return made.assign(lower=0 * made.central + lower, upper=0 * made.central + upper)


def test_pulls_are_differences_over_both_errors() -> None:
    found = compare(budget({"posterior": 3, "hlt": -1}, {"posterior": 0.1, "hlt": 0.2}))
    assert found.pull.sel(estimate="posterior", other="networks").values == pytest.approx(
        np.array([[0, 0.3 / np.hypot(0.1, 0.1), 0]])
    )
    assert found.pull.sel(estimate="hlt", other="posterior").values == pytest.approx(
        np.array([[0, -0.4 / np.hypot(0.1, 0.2), 0]])
    )
    assert (found.pull == -found.pull.transpose("other", "estimate", "sigma", "E").values).all()
    assert (found.error.sel(estimate="networks") == 0.05).all()


def test_where_all_agree_the_smallest_calibrated_error_is_trusted() -> None:
    found = compare(budget({"posterior": 0.5, "hlt": 1}, {"posterior": 0.05, "hlt": 0.2}))
    assert found.attrs["trusted"] == "posterior"
    assert found.attrs["says"].startswith("Posterior and hlt agree with the networks within 2 errors everywhere.")


def test_where_they_differ_the_one_that_assumes_least_is_trusted_and_the_place_is_named() -> None:
    found = compare(budget({"posterior": 4, "hlt": 1}, {"posterior": 0.1, "hlt": 0.3}))
    assert found.attrs["trusted"] == "hlt"
    assert "posterior differs from the networks by more than 2 errors at 33% of all points" in found.attrs["says"]
    assert "most at E = 1 GeV, σ = 0.4 GeV, by 2.8" in found.attrs["says"]


def test_what_the_bounds_exclude_is_not_trusted() -> None:
    data = budget({"hlt": 4}, {"hlt": 0.1})
    found = compare(bounded(data, 0.5, 1.2))
    assert found.attrs["trusted"] == "networks"
    assert "errors included: hlt; if ρ ≥ 0, that is wrong somewhere" in found.attrs["says"]
    assert compare(bounded(data, 2.0, 3.0)).attrs["trusted"] == "bounds"
    assert "promise nothing" in compare(bounded(data, np.nan, np.nan)).attrs["says"]


@pytest.mark.parametrize(
    ("attrs", "trusted", "words"),
    [
        ({"p_value": 0.001}, "hlt", "unlike the prior"),
        ({"back_check": 1e-5}, "none", "no spectral density explains the data"),
        ({"back_check": 1e-5, "p_value": 0.001}, "none", "no spectral density explains the data"),
    ],
)
def test_data_that_no_prior_or_no_density_makes_are_told(attrs, trusted, words) -> None:
    found = compare(budget({"posterior": 0, "hlt": 0}, {"posterior": 0.1, "hlt": 0.3}, **attrs))
    assert found.attrs["trusted"] == trusted
    assert words in found.attrs["says"].replace("No", "no")


def test_without_methods_the_networks_stand_alone() -> None:
    alone = budget({"hlt": 0}, {"hlt": 1}).drop_dims("estimator")
    found = compare(alone)
    assert found.attrs["trusted"] == "networks"
    assert found.attrs["says"].startswith("There is no method beside the networks.")
