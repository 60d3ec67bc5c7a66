"""Results leave for fits with other observables, and correlators of other packages come in."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.errors import UserError
from sdpipe.infer.export import as_gvars, as_obs, correlated
from sdpipe.pipeline.tasks import load_audience
from tests.fixtures import Finished

SIGMA, E = [0.3, 0.5], [0.4, 0.8, 1.2]
RHO = 0.7 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
"""Correlation between the six numbers that errors are drawn with."""


def made(draws: int = 8000) -> xr.Dataset:
    z = np.random.default_rng(1).multivariate_normal(np.zeros(6), RHO, draws).reshape(1, draws, 2, 3)
    dims, coords = ("family", "sample", "sigma", "E"), {"sigma": SIGMA, "E": E, "scale_rule": ["given"]}
    validation = xr.Dataset({"pull": (dims, z)}, coords)
    validation["tested"] = (dims[:2], np.zeros((1, draws), bool))
    width = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    budget = xr.Dataset({"central": (dims[2:], 1 + width), "calibrated": (dims[2:], width)}, validation.coords)
    budget.central.attrs["units"] = "GeV"
    return correlated(budget.assign_attrs(level=0.683, flags=["doubtful"]), validation, "given")


def test_the_covariance_has_the_calibrated_errors_and_the_correlations_of_the_draws() -> None:
    one = made()
    error = one.error.values.ravel()
    covariance = one.covariance.values.reshape(6, 6)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), error)
    np.testing.assert_allclose(covariance / np.outer(error, error), RHO, atol=0.04)
    assert [one[name].attrs["units"] for name in ("central", "error", "covariance")] == ["GeV", "GeV", "(GeV)^2"]
    assert (one.covariance.dims, one.attrs["flags"]) == (("sigma", "E", "sigma2", "E2"), ["doubtful"])


def test_gvars_and_obs_hold_the_same_numbers() -> None:
    one, gvar = made(), pytest.importorskip("gvar")
    wanted = one.covariance.values.reshape(6, 6)
    values = as_gvars(one)
    np.testing.assert_allclose(gvar.mean(values), one.central.values)
    np.testing.assert_allclose(gvar.evalcov(values).reshape(6, 6), wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pe = pytest.importorskip("pyerrors", exc_type=ImportError)
    obs = as_obs(one, "run_target").ravel()
    assert [o.value for o in obs] == one.central.values.ravel().tolist()
    for o in obs:
        o.gamma_method()
    np.testing.assert_allclose(pe.covariance(obs), wanted)
    both = obs[0] + obs[5]
    both.gamma_method()
    assert both.dvalue == pytest.approx(np.sqrt(wanted[0, 0] + wanted[5, 5] + 2 * wanted[0, 5]))


def test_fewer_draws_than_numbers_have_a_covariance_that_can_be_fitted() -> None:
    covariance = made(draws=6).covariance.values.reshape(6, 6)
    assert np.linalg.eigvalsh(covariance)[0] > 0


@pytest.mark.parametrize("export", ["to_gvar", "to_pyerrors"])
def test_a_list_in_place_of_a_name_is_refused_with_what_to_write(finished: Finished, export: str) -> None:
    with pytest.raises(UserError, match=r"\['o3'\] is no name of a target; .* as in to_gvar\('a', 'b'\)"):
        getattr(sdpipe.open_run(finished.root), export)(["o3"])


def test_a_correlator_of_another_package_gives_what_its_covariance_gives(finished: Finished) -> None:
    run, gvar = sdpipe.open_run(finished.root), pytest.importorskip("gvar")
    noise = load_audience(run.layout).noise
    wanted = sdpipe.judge(run, of(noise.mean, noise.covariance, list(noise.times), run.config.lattice.period))
    C = gvar.gvar(noise.mean, noise.covariance)
    found = sdpipe.judge(run, C)
    np.testing.assert_allclose(found.central, wanted.central, rtol=1e-6)
    np.testing.assert_allclose(found.calibrated, wanted.calibrated, rtol=1e-6)
    assert sdpipe.predict(run, C).dims == ("sigma", "ensemble", "replica", "boot", "E")


def of(mean: np.ndarray, covariance: np.ndarray, times: list[int], period: int) -> xr.Dataset:
    """Return the correlator as read from a pair of arrays."""
    pair = {"mean": mean, "cov": covariance}
    return sdpipe.read_correlator(pair, first=times[0], period=period, error="mean")


def test_a_corr_of_pyerrors_is_reconstructed_and_kept(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pe = pytest.importorskip("pyerrors", exc_type=ImportError)
    t, g = np.arange(24), np.random.default_rng(2)
    C = np.exp(-0.5 * t) + np.exp(-0.5 * (24 - t)) + 0.3 * (np.exp(-1.1 * t) + np.exp(-1.1 * (24 - t)))
    noise = g.multivariate_normal(np.zeros(24), 0.5 ** np.abs(np.subtract.outer(t, t)), 120)
    noise = (noise + noise[:, -t]) / 2
    corr = pe.Corr([pe.Obs([C[i] * (1 + 0.01 * noise[:, i])], ["A1"]) for i in t])
    few = ("validation={samples: 60, levels: [0.683], families: {}, bootstrap: 2}", "bootstrap=20", "energies.count=6")
    run = sdpipe.reconstruct(corr, *few, run=tmp_path / "run")
    assert (run.config.lattice.period, run.config.kernel) == (24, "periodic")
    assert run.predictions["array"].correlator.attrs["resampling"] == "configurations"
    assert run.budget["array"].calibrated.dims == ("sigma", "E")
