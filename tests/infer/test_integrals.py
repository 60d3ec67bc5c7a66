"""Integrals over rho_sigma(E) keep their errors: exact quadrature, linear where the budget is, the budget's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.errors import UserError
from sdpipe.infer.budget import error_budget
from sdpipe.infer.integrals import integral, quadrature_weights

if TYPE_CHECKING:
    from tests.fixtures import Finished

REFERENCES = {"b": "Nref_b", "n": "Nref_n"}


@pytest.fixture
def rho() -> xr.DataArray:
    """Predictions of three ensembles that scatter and are shifted; neighbouring energies are correlated."""
    rng = np.random.default_rng(11)
    E = np.linspace(0.1, 2.5, 25)
    smooth = np.exp(-0.5 * ((E[:, None] - E) / 0.4) ** 2)
    values = np.sin(E) + 0.02 * rng.standard_normal((2, 3, 4, 60, 25)) @ smooth
    values += 0.01 * rng.standard_normal((2, 3, 4, 1, 25)) @ smooth + 0.02 * rng.standard_normal((2, 3, 1, 1, 25))
    return xr.DataArray(
        values,
        dims=("sigma", "ensemble", "replica", "boot", "E"),
        coords={"sigma": [0.44, 0.63], "ensemble": np.array(["Nmax", "Nref_b", "Nref_n"], object), "E": E},
    )


# --- quadrature ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [None, (0.1, 2.5), (0.33, 1.91)])
@pytest.mark.parametrize("power", range(4))
def test_weights_are_exact_for_cubics(between: tuple[float, float] | None, power: int) -> None:
    E = np.linspace(0.1, 2.5, 25)
    low, high = between or (0.1, 2.5)
    exact = (high ** (power + 1) - low ** (power + 1)) / (power + 1)
    assert quadrature_weights(E, between) @ E**power == pytest.approx(exact, rel=1e-12)


def test_the_error_falls_with_the_fourth_power_of_the_spacing() -> None:
    def error(count: int) -> float:
        E = np.linspace(0.1, 2.5, count)
        return abs(float(quadrature_weights(E) @ np.sin(4 * E)) - (np.cos(0.4) - np.cos(10)) / 4)

    assert error(20) / error(39) > 12


def test_two_energies_give_the_trapezoid() -> None:
    np.testing.assert_allclose(quadrature_weights(np.array([1.0, 3.0])), [1, 1])


@pytest.mark.parametrize("between", [(0.0, 1.0), (0.5, 3.0), (1.0, 0.5), (1.0, 1.0), (np.nan, 1.0)])
def test_limits_outside_the_energies_are_refused(between: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"must ascend and lie within 0\.1\.\.2\.5, the"):
        quadrature_weights(np.linspace(0.1, 2.5, 25), between)


# --- errors --------------------------------------------------------------------------------------------------


def test_the_statistical_errors_are_those_of_linear_propagation(rho: xr.DataArray) -> None:
    result = integral(rho, lambda E: E**2, "Nmax", {})
    np.testing.assert_allclose(result.total, result.propagated, rtol=1e-10)
    covariance = error_budget(rho, "Nmax", {}).covariance.values
    weights = quadrature_weights(rho.E.values) * rho.E.values**2
    np.testing.assert_allclose(result.propagated**2, np.einsum("k,skl,l->s", weights, covariance, weights))


def test_a_clear_shift_propagates_linearly_too(rho: xr.DataArray) -> None:
    """erf(P / sqrt 2) is 1 for both where every shift is many standard deviations."""
    shifted = rho + xr.DataArray([0.0, 5.0, -3.0], dims="ensemble", coords={"ensemble": rho.ensemble})
    result = integral(shifted, np.cos, "Nmax", REFERENCES)
    np.testing.assert_allclose(result.total, result.propagated, rtol=1e-6)


def test_every_error_obeys_the_rule_of_the_budget(rho: xr.DataArray) -> None:
    from scipy.special import erf

    result = integral(rho, np.cos, "Nmax", REFERENCES, between=(0.3, 2.0))
    each = rho.values @ (quadrature_weights(rho.E.values, (0.3, 2.0)) * np.cos(rho.E.values))
    value, latt = each.mean(axis=(2, 3)), each.mean(axis=2).std(axis=2)
    net = each.mean(axis=3).std(axis=2, ddof=1)
    stat = np.hypot(latt, net)
    expected = [latt[:, 0], net[:, 0]]
    for i in (1, 2):
        shift = np.abs(value[:, 0] - value[:, i])
        expected.append(shift * erf(shift / np.hypot(stat[:, 0], stat[:, i]) / np.sqrt(2)))
    assert list(result.source.values) == ["latt", "net", "b", "n"]
    np.testing.assert_allclose(result.error, expected)
    np.testing.assert_allclose(result.total, np.sqrt(np.square(expected).sum(axis=0)))
    np.testing.assert_allclose(result.central, value[:, 0])


def test_what_the_data_cannot_resolve_propagates_linearly(rho: xr.DataArray) -> None:
    shape = np.exp(-np.abs(rho.E.values[:, None] - rho.E.values))
    resolution = xr.DataArray([1e-4 * shape, 4e-4 * shape], dims=("sigma", "E", "E2"), coords={"sigma": rho.sigma})
    result = integral(rho, np.cos, "Nmax", {}, resolution=resolution)
    weights = quadrature_weights(rho.E.values) * np.cos(rho.E.values)
    np.testing.assert_allclose(result.error.sel(source="resolution") ** 2, weights @ resolution.values @ weights)
    np.testing.assert_allclose(result.total, result.propagated, rtol=1e-10)


def test_bootstrap_values_carry_the_lattice_error_and_combine(rho: xr.DataArray) -> None:
    """A ratio of moments takes its error from the ratio of their bootstrap values."""
    zeroth, first = (integral(rho, f, "Nmax", {}) for f in (lambda _: 1.0, lambda E: E))
    assert zeroth.boot_values.dims == ("sigma", "boot")
    np.testing.assert_allclose(zeroth.boot_values.mean("boot"), zeroth.central)
    np.testing.assert_allclose(zeroth.boot_values.std("boot"), zeroth.error.sel(source="latt"))
    ratio = first.boot_values / zeroth.boot_values
    assert (ratio.std("boot") < first.error.sel(source="latt") / zeroth.central).all()


@pytest.mark.parametrize("f", [lambda E: E[:3], lambda E: 1j * E, lambda E: E / 0, lambda _: "x", lambda _: None])
def test_an_f_that_is_no_number_for_each_energy_is_refused(rho: xr.DataArray, f) -> None:
    with np.errstate(all="ignore"), pytest.raises(UserError, match=r"f\(E\)"):
        integral(rho, f, "Nmax", {})


# --- on a run ------------------------------------------------------------------------------------------------


def test_a_run_integrates_its_targets(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    result, budget = run.integral("o3", lambda E: E), run.budget["o3"].load()
    assert list(result.source.values) == list(budget.source.values)
    np.testing.assert_allclose(result.pull, (result.central - result.truth) / result.total)
    np.testing.assert_allclose(result.central, (result.weight * budget.central).sum("E"))
    np.testing.assert_allclose(
        result.propagated**2, np.einsum("k,skl,l->s", result.weight, budget.covariance, result.weight)
    )
    bound = (np.abs(result.weight) * budget.error).sum("E")
    for source in ("latt", "net", "resolution"):
        assert (result.error.sel(source=source) <= bound.sel(source=source)).all()
    assert {result[name].units for name in ("central", "error", "total", "truth")} == {"1/a [f]"}
    assert result.attrs["flags"] == budget.attrs["flags"]
    assert "calibrated" in budget
    assert (result.calibrated > 0).all()
    np.testing.assert_allclose(result.total**2, (result.error**2).sum("source"))
    with pytest.raises(UserError, match="f: 1 is not allowed; allowed: a function of the energies"):
        run.integral("o3", 1)
    with pytest.raises(UserError, match="there is no prediction of rest; those there: o3, "):
        run.integral("rest", lambda E: E)


def test_an_integral_carries_the_flags_of_its_target(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    run = sdpipe.open_run(finished.root)
    doubtful = run.predictions["o3"].assign_attrs(flags=["doubtful"])
    monkeypatch.setattr(sdpipe.run.Run, "predictions", {"o3": doubtful})
    assert "doubtful" in run.integral("o3", lambda E: E).attrs["flags"]
