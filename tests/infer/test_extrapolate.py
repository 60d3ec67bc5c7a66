"""sigma -> 0: polynomials are found, errors are those of repeated data, and a smooth density has even powers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sdpipe.errors import UserError
from sdpipe.infer.extrapolate import extrapolate, limits
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.spectra import Spectrum

SIGMA = np.array([0.15, 0.2, 0.3, 0.4, 0.5])
COV = 1e-4 * np.outer(SIGMA, SIGMA) ** -0.5 * np.exp(-np.abs(SIGMA[:, None] - SIGMA) / 0.2)


@pytest.mark.parametrize("powers", [(0,), (0, 2), (0, 2, 4), (0, 1, 2)])
def test_polynomials_are_found(powers) -> None:
    c = np.arange(1.0, len(powers) + 1)
    values = sum(a * SIGMA**p for a, p in zip(c, powers, strict=True))
    limit = extrapolate(SIGMA, values, COV, powers)
    assert limit.coefficients == pytest.approx(c, rel=1e-9)
    assert limit.chi2 == pytest.approx(0, abs=1e-15)
    assert limit.freedom == 5 - len(powers)
    assert limit(SIGMA) == pytest.approx(values)


def test_errors_and_chi2_are_those_of_repeated_data() -> None:
    generator, L = np.random.default_rng(1), np.linalg.cholesky(COV)
    limits = [extrapolate(SIGMA, 1 + SIGMA**2 + L @ generator.standard_normal(5), COV) for _ in range(2000)]
    assert np.std([x.value for x in limits]) == pytest.approx(limits[0].error, rel=0.05)
    assert np.mean([x.value for x in limits]) == pytest.approx(1, abs=4 * limits[0].error / 2000**0.5)
    assert np.mean([x.chi2 for x in limits]) == pytest.approx(3, rel=0.05)
    assert np.mean([x.p_value < 0.1 for x in limits]) == pytest.approx(0.1, abs=0.03)
    assert np.sqrt(limits[0].covariance[0, 0]) == pytest.approx(limits[0].error)


def test_a_smooth_density_has_half_its_second_derivative_as_coefficient() -> None:
    sigma = (0.04, 0.06, 0.08, 0.1)
    grid = Observables(Kernel("exponential", 32), (2, 3), sigma, (1.5,))
    _, rho = grid.split(Spectrum(continuum=lambda w: np.sin(w) + 2, threshold=0.0).integrals(grid))
    limit = extrapolate(sigma, rho[:, 0], 1e-12 * np.eye(4), (0, 2, 4))
    assert limit.value == pytest.approx(np.sin(1.5) + 2, rel=1e-7)
    assert limit.coefficients[1] == pytest.approx(-np.sin(1.5) / 2, rel=1e-3)


def test_faults_are_named() -> None:
    y = np.ones(5)
    for arguments, words in [
        ((SIGMA, y[:4], COV), "do not fit"),
        ((SIGMA, y * np.nan, COV), "finite"),
        ((SIGMA[:1], y[:1], COV[:1, :1]), "do not determine"),
        ((SIGMA * 0, y, COV), "positive, and differ"),
        ((SIGMA, y, np.ones((5, 5))), "not positive definite"),
        ((SIGMA, y, COV, (2, 4)), "begin with 0"),
    ]:
        with pytest.raises(UserError, match=words):
            extrapolate(*arguments)
    assert np.isnan(extrapolate(SIGMA[:2], y[:2], COV[:2, :2]).p_value)


def test_the_limits_of_a_budget_have_the_correlations_of_the_draws_that_calibrate() -> None:
    generator, E = np.random.default_rng(2), [0.5, 1.0]
    L = np.linalg.cholesky(COV / np.sqrt(np.outer(np.diag(COV), np.diag(COV))))
    scores = (generator.standard_normal((2, 4000, 2, 5)) @ L.T).transpose(0, 1, 3, 2)  # correlated between widths
    coords = {"sigma": SIGMA, "E": E}
    draws = xr.Dataset({"pull": (("family", "sample", "sigma", "E"), scores)}, coords)
    draws["tested"] = ("sample", np.arange(4000) >= 3000)
    draws["pull"] = draws.pull.where(~draws.tested, 1e6)  # those that test are not looked at
    width = np.sqrt(np.diag(COV))[:, None] * np.array([1, 3])
    values = 1 + 0.5 * SIGMA[:, None] ** 2 * np.array([1, -1])
    budget = xr.Dataset({"central": (("sigma", "E"), values), "calibrated": (("sigma", "E"), width)}, coords)
    draws["tested"] = draws.tested.expand_dims(family=2)
    draws = draws.assign_coords(scale_rule=["given", "auto"])
    found = limits(budget, draws, "given")
    assert found.limit.values == pytest.approx([1, 1])
    assert found.coefficients.values == pytest.approx(np.array([[1, 1], [0.5, -0.5]]))
    assert found.covariance.isel(E=0).values == pytest.approx(COV, rel=0.15, abs=0.05 * COV.max())
    assert found.error.values == pytest.approx(np.array([1, 3]) * extrapolate(SIGMA, values[:, 0], COV).error, rel=0.1)
    assert found.attrs["freedom"] == 3
