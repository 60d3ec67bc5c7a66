"""Limits from several ensembles: known truths, exact algebra, refusals."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sdpipe
from sdpipe.analysis import averaging
from sdpipe.analysis.answers import answer
from sdpipe.analysis.averaging import models
from sdpipe.analysis.combine import design_of, in_turn, limit_of, together
from sdpipe.errors import UserError
from sdpipe.infer.least_squares import fit
from sdpipe.physics import rng

if TYPE_CHECKING:
    from sdpipe.run import Run
    from tests.fixtures import Finished

DRAWS = 400
A2, ML = np.repeat([0.04, 0.08, 0.12], 2), np.tile([3.5, 5.0], 3)
DESIGN = np.stack([np.ones(6), A2, A2**2, np.exp(-ML)], axis=1)
NOISE, COMMON = 0.002 * np.array([1.5, 1.5, 1, 1, 0.7, 0.7]), 0.004
SOURCES = {"latt": np.diag(NOISE**2), "unresolved": np.full((6, 6), COMMON**2)}
NAMES = [f"ensemble {i}" for i in range(6)]


def mocks(a4: float) -> np.ndarray:
    """Three spacings at two volumes, limit 1, effects of a^2, a^4 and the volume: (draw, ensemble)."""
    g = rng.generator(1, "mock limits")
    noise = NOISE * g.standard_normal((DRAWS, 6)) + COMMON * g.standard_normal((DRAWS, 1))
    return DESIGN @ np.array([1.0, -1.5, a4, 1.0]) + noise


def inside(limit: averaging.Average, widths: float) -> float:
    return float(np.mean(np.abs(limit.central - 1) < widths * limit.total))


@pytest.mark.parametrize("a4", [0.0, 2.0, 6.0, 8.0])
def test_a_fit_of_all_terms_covers_the_continuum(a4: float) -> None:
    every = [averaging.Model((0, 1, 2, 3), tuple(range(6)))]
    limit = averaging.average(mocks(a4), SOURCES, DESIGN, every, NAMES)
    assert abs(inside(limit, 1) - 0.683) <= 0.05
    assert abs(inside(limit, 2) - 0.954) <= 0.03


@pytest.mark.parametrize("a4", [6.0, 8.0])
def test_an_average_covers_and_is_as_good_as_the_best_model_by_hindsight(a4: float) -> None:
    limit = averaging.average(mocks(a4), SOURCES, DESIGN, models(DESIGN, range(6), 0), NAMES)
    assert abs(inside(limit, 1) - 0.683) <= 0.05
    assert abs(inside(limit, 2) - 0.954) <= 0.03
    best = np.sqrt(np.mean((limit.value - 1) ** 2, axis=-1)).min()
    assert np.sqrt(np.mean((limit.central - 1) ** 2)) <= 1.1 * best


def test_a_fit_is_that_of_the_textbook() -> None:
    g = np.random.default_rng(2)
    root = g.standard_normal((6, 6))
    V, y = root @ root.T + np.eye(6), g.standard_normal(6)
    found, W = fit(DESIGN, V, NAMES), np.linalg.inv(V)
    covariance = np.linalg.inv(DESIGN.T @ W @ DESIGN)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-7)
    np.testing.assert_allclose(found(y), covariance @ DESIGN.T @ W @ y, rtol=1e-7)
    residual = y - DESIGN @ found(y)
    np.testing.assert_allclose(found.chi2(y), residual @ W @ residual, rtol=1e-9)


def test_the_covariance_of_limits_has_their_errors_on_its_diagonal() -> None:
    """400 draws as if they were energies: independent ones have no covariance."""
    y = mocks(6.0)[:5]
    limit = averaging.average(y, SOURCES, DESIGN, models(DESIGN, range(6), 1), NAMES)
    V = sum(SOURCES.values())
    between = np.einsum("pq,ij->piqj", np.eye(5), V)
    covariance = limit.covariance(between) + limit.spread
    np.testing.assert_allclose(np.diag(covariance), limit.total**2, rtol=1e-9)
    assert np.linalg.eigvalsh(covariance)[0] > 0


def test_a_covariance_that_is_not_definite_says_the_direction() -> None:
    with pytest.raises(
        UserError, match=r"not positive definite.*direction.*ensemble 0.*ensemble 1|ensemble 1.*ensemble 0"
    ):
        fit(np.ones((2, 1)), np.ones((2, 2)), NAMES)


# --- of runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return sdpipe.open_run(finished.root)


POINTS = [{"a": a, "factor": 1 - 0.8 * a**2} for a in (0.2, 0.3, 0.4, 0.5)]
"""What takes one run to four ensembles whose density has a known effect of a^2."""


def test_a_limit_of_runs_is_that_of_their_densities(run: Run) -> None:
    limit = sdpipe.combine([run] * 4, "o3", points=POINTS, average=False)
    expected = run.budget["o3"].central.values
    np.testing.assert_allclose(limit.central, expected, rtol=1e-6)
    n = limit.central.size
    covariance = limit.covariance.values.reshape(n, n)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), limit.total.values.ravel(), rtol=1e-9)
    np.testing.assert_allclose(np.sqrt((limit.error**2).sum("source")), limit.total, rtol=1e-9)
    assert np.linalg.eigvalsh(covariance)[0] > -1e-12 * covariance.max()
    coefficient = limit.coefficients.sel(term="a2").isel(model=0)
    np.testing.assert_allclose(coefficient, -0.8 * expected, rtol=1e-6)
    np.testing.assert_allclose(limit.samples.mean("boot"), expected, rtol=1e-4)
    assert limit.model.values.tolist() == ["1 + a2"]


def test_an_error_that_is_common_does_not_shrink_with_more_ensembles(run: Run) -> None:
    points = [{"a": 0.1}] * 4
    limit = sdpipe.combine([run] * 4, "o3", (), points=points)
    budget = run.budget["o3"]
    unresolved = np.sqrt(np.maximum(budget.calibrated**2 - run_noise(run) ** 2, 0))
    np.testing.assert_allclose(limit.error.sel(source="unresolved"), unresolved, rtol=1e-5)  # of 32-bit numbers
    np.testing.assert_allclose(limit.independent_total, budget.calibrated / 2, rtol=1e-6)


def run_noise(run: Run) -> np.ndarray:
    return run.budget["o3"].error.sel(source="latt", drop=True)


def test_a_common_bootstrap_is_combined_sample_by_sample(run: Run) -> None:
    targets = ["o3", "delta_tanh", "peaks", "prior"]
    limit = sdpipe.combine([run] * 4, targets, points=POINTS, common=("latt", "unresolved"), average=False)
    np.testing.assert_allclose(limit.error.sel(source="latt"), limit.samples.std("boot"), rtol=1e-6)
    with pytest.raises(UserError, match=r"not positive definite.*direction .*tiny \(0\), sigma 0.44"):
        sdpipe.combine([run] * 4, "o3", points=POINTS, common=("latt", "unresolved"))


def test_sigma_and_a_go_to_zero_in_one_fit_or_in_turn(run: Run) -> None:
    limit = sdpipe.combine([run] * 4, "o3", ("a2", "sigma2"), points=POINTS, average=False)
    assert limit.sigma.values.tolist() == [0.0]
    assert limit.order.values.tolist() == ["sigma last", "sigma first"]
    assert (limit.p_value < 0.01).any(), "the widths of this run are not on a line in sigma^2 at every energy"


def test_all_orders_agree_where_the_density_is_that_of_the_terms(run: Run) -> None:
    one = answer(run, "o3")
    exact = 1 + 0.1 * one.E - 0.5 * one.sigma[:, None] ** 2
    points = [{"a": a} for a in (0.1, 0.2, 0.3)]
    data = together([replace(one, central=exact + 0.7 * p["a"] ** 2) for p in points], points, ("unresolved",))
    design, labels = design_of(data, ("a2", "sigma2"))
    limit, turn = limit_of(data, design, labels), in_turn(data, design)
    np.testing.assert_allclose(limit.central.values[0], 1 + 0.1 * one.E, rtol=1e-6)
    np.testing.assert_allclose(turn.in_turn.values, np.tile(1 + 0.1 * one.E, (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(limit.chi2, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"runs": 0}, "no runs"),
        ({"runs": 1}, "1 ensembles do not determine 2 coefficients"),
        ({"points": [{}]}, "3 runs and 1 points"),
        ({"terms": ("a3x",)}, "'a3x' is not allowed"),
        ({"terms": ("exp(-mL)",)}, r"exp\(-mL\) needs 'mL'"),
        ({"terms": ("a2", "a2")}, "they must differ"),
        ({"average": False}, "a2 is .* at every ensemble; needed: points that differ in it"),
        ({"points": [0.3, 0.4, 0.5]}, "points: 0.3 is not allowed; allowed: numbers by name"),
        ({"points": [{"a": "x"}] * 3}, "points: {'a': 'x'} is not allowed"),
        ({"points": [{"a": np.nan}] * 3}, "a2 is not finite at every ensemble"),
        ({"terms": (lambda _: "x",)}, "terms: <lambda> cannot be computed"),
        ({"terms": (lambda x: x["a"] / 0,)}, "terms: <lambda> cannot be computed"),
        ({"common": ("net",)}, "common: net not allowed"),
        ({"target": "nothing"}, "there is no budget of nothing"),
        ({"target": None}, "name the target; those there: o3"),
    ],
)
def test_what_cannot_be_combined_is_refused(run: Run, changed: dict[str, Any], words: str) -> None:
    runs = [run] * changed.pop("runs", 3)
    with pytest.raises(UserError, match=words):
        sdpipe.combine(runs, **{"target": "o3", **changed})


def test_what_are_no_runs_is_refused(run: Run) -> None:
    for runs in (run, "runs/quickstart", ["runs/quickstart"]):
        for call in (sdpipe.combine, sdpipe.joint):
            with pytest.raises(UserError, match=r"runs: \w+ is not allowed; allowed: a list of sdpipe.open_run"):
                call(runs)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sigma", np.array([0.44, 0.7]), r"sigma \(0.44, 0.63\) in tiny, \(0.44, 0.7\) in tiny"),
        ("units", "GeV", "units of rho 1 in tiny, GeV in tiny"),
        ("E", np.linspace(3, 4, 8), "no energy is common to all of them: tiny 0.2..2.3; tiny 3..4"),
    ],
)
def test_runs_of_another_quantity_are_refused_by_what_differs(run: Run, key: str, value: Any, words: str) -> None:
    one = answer(run, "o3")
    with pytest.raises(UserError, match=words):
        together([one, replace(one, **{key: value})], POINTS[:2], ())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("kernel", "periodic", r"kernel \w+ in tiny, periodic in other; allowed: the same in all"),
        (
            "smearing",
            SimpleNamespace(kind="cauchy", parameters={}),
            r"smearing \('gaussian', {}\) in tiny, \('cauchy', ",
        ),
    ],
)
def test_runs_of_another_kernel_or_smearing_are_refused(run: Run, key: str, value: Any, words: str) -> None:
    one = answer(run, "o3")
    same = {"kernel": run.config.kernel, "smearing": run.config.smearing, "name": "other"}
    other = SimpleNamespace(config=SimpleNamespace(**same | {key: value}))
    with pytest.raises(UserError, match=words):
        together([one, replace(one, run=other)], POINTS[:2], ())


def test_energies_that_not_all_have_are_left_out(run: Run) -> None:
    one = answer(run, "o3")
    data = together([one, one.rows([1, 3, 4])], POINTS[:2], ())
    np.testing.assert_array_equal(data.answers[0].E, one.E[[1, 3, 4]])
    np.testing.assert_array_equal(data.y[0] / data.points[0]["factor"], one.central[:, [1, 3, 4]])
