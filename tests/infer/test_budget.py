"""The error budget of arXiv:2307.00808, sec. 5, against its formulas written out in NumPy."""

import math
import re

import numpy as np
import pytest
import xarray as xr

from sdpipe.errors import UserError
from sdpipe.infer.budget import error_budget
from sdpipe.show.tables import budget_frame
from sdpipe.show.words import named

ENSEMBLES = ["Nmax", "Nref_b", "Nref_n", "Nref_rho"]
REFERENCES = {"b": "Nref_b", "n": "Nref_n", "rho": "Nref_rho"}
SIGMA, E = [0.44, 0.63], [0.2, 0.7, 1.2, 1.7, 2.2]
R, B = 4, 30


@pytest.fixture
def rho():
    """Predictions whose ensembles, replicas and boots scatter, with systematic shifts of either sign."""
    rng = np.random.default_rng(3)
    shape = (len(SIGMA), len(ENSEMBLES), R, B, len(E))
    values = np.sin(np.array(E)) + 0.02 * rng.standard_normal(shape)
    values += 0.05 * rng.standard_normal((*shape[:3], 1, shape[-1]))
    values += 0.08 * rng.standard_normal((*shape[:2], 1, 1, shape[-1]))
    return xr.DataArray(
        values.astype(np.float32),
        dims=("sigma", "ensemble", "replica", "boot", "E"),
        coords={
            "sigma": SIGMA,
            "ensemble": np.array(ENSEMBLES, object),
            "replica": range(R),
            "boot": range(B),
            "E": E,
        },
    )


@pytest.fixture
def truth():
    return xr.DataArray(np.tile(np.sin(E), (2, 1)) + 0.01, dims=("sigma", "E"), coords={"sigma": SIGMA, "E": E})


def by_hand(r):
    """The budget of predictions r[ensemble][replica][boot] at one sigma and energy."""
    value, latt, net = [], [], []
    for ensemble in r:
        over_replicas = [sum(ensemble[k][b] for k in range(R)) / R for b in range(B)]
        over_boots = [sum(ensemble[k]) / B for k in range(R)]
        mean = sum(over_boots) / R
        value.append(mean)
        latt.append(math.sqrt(sum((v - mean) ** 2 for v in over_replicas) / B))
        net.append(math.sqrt(sum((v - mean) ** 2 for v in over_boots) / (R - 1)))
    stat = [math.hypot(a, b) for a, b in zip(latt, net, strict=True)]
    errors = [latt[0], net[0]]
    for x in (1, 2, 3):
        shift = abs(value[0] - value[x])
        P = shift / math.sqrt(stat[0] ** 2 + stat[x] ** 2)
        errors.append(shift * math.erf(P / math.sqrt(2)))
    return value[0], errors, math.sqrt(sum(e**2 for e in errors))


def test_every_error_is_its_formula(rho, truth):
    budget = error_budget(rho, "Nmax", REFERENCES, truth)
    assert budget.source.values.tolist() == ["latt", "net", "b", "n", "rho"]
    assert budget.error.dims == ("source", "sigma", "E")
    for s in range(2):
        for e in range(5):
            central, errors, total = by_hand(rho.values[s, ..., e].astype(float).tolist())
            assert budget.central[s, e].item() == pytest.approx(central, rel=1e-10)
            assert budget.error[:, s, e].values == pytest.approx(errors, rel=1e-8)
            assert budget.total[s, e].item() == pytest.approx(total, rel=1e-8)
            pull = (central - truth[s, e].item()) / total
            assert budget.pull[s, e].item() == pytest.approx(pull, rel=1e-7)
            assert budget.truth[s, e].item() == truth[s, e].item()


def test_any_ensemble_may_be_central(rho):
    budget = error_budget(rho, "Nref_n", {"size": "Nmax"})
    assert budget.source.values.tolist() == ["latt", "net", "size"]
    order = [2, 0, 1, 3]
    central, errors, _ = by_hand(rho.values[1, order, ..., 3].astype(float).tolist())
    assert budget.central[1, 3].item() == pytest.approx(central, rel=1e-10)
    assert budget.error[:, 1, 3].values == pytest.approx(errors[:3], rel=1e-8)


def test_covariance_has_the_total_error_on_its_diagonal_and_is_positive_semidefinite(rho):
    budget = error_budget(rho, "Nmax", REFERENCES)
    assert not {"truth", "pull"} & set(budget)
    assert budget.covariance.dims == ("sigma", "E", "E2")
    assert budget.E2.values.tolist() == E
    for cov, total in zip(budget.covariance.values, budget.total.values, strict=True):
        assert np.diag(cov) == pytest.approx(total**2, rel=1e-10)
        assert cov == pytest.approx(cov.T, rel=1e-12)
        assert np.linalg.eigvalsh(cov)[0] > -1e-12 * cov.max()


def test_covariance_is_the_sum_of_those_of_its_sources(rho):
    """Boots and replicas scatter together between energies; a systematic shift is fully correlated, with its sign."""
    r = rho.values[0].astype(float)
    over_replicas, over_boots = r[0].mean(axis=0), r[0].mean(axis=1)
    expected = np.cov(over_replicas.T, ddof=0) + np.cov(over_boots.T, ddof=1)
    budget = error_budget(rho, "Nmax", REFERENCES)
    for source, x in (("b", 1), ("n", 2), ("rho", 3)):
        shift = (r[0] - r[x]).mean(axis=(0, 1))
        signed = np.sign(shift) * budget.error.sel(source=source)[0].values
        expected += np.outer(signed, signed)
    assert budget.covariance[0].values == pytest.approx(expected, rel=1e-8, abs=1e-14)


def test_order_of_replicas_boots_and_ensembles_is_irrelevant(rho):
    budget = error_budget(rho, "Nmax", REFERENCES)
    rng = np.random.default_rng(0)
    shuffled = rho.isel(replica=rng.permutation(R), boot=rng.permutation(B), ensemble=[2, 0, 3, 1])
    again = error_budget(shuffled.transpose("E", "boot", "ensemble", "sigma", "replica"), "Nmax", REFERENCES)
    xr.testing.assert_allclose(again.transpose(*budget.dims), budget.transpose(*budget.dims), rtol=1e-10)


def test_identical_ensembles_have_no_systematic_error(rho):
    same = rho.copy(data=np.repeat(rho.values[:, :1], 4, axis=1))
    budget = error_budget(same, "Nmax", REFERENCES)
    assert not budget.error.sel(source=["b", "n", "rho"]).values.any()
    assert budget.total.values == pytest.approx(np.hypot(*budget.error.values[:2]), rel=1e-12)


def test_no_scatter_and_no_shift_is_no_error(rho):
    budget = error_budget(xr.ones_like(rho), "Nmax", REFERENCES)
    assert not budget.total.values.any()
    assert np.isfinite(budget.covariance).all()


def test_a_shift_without_any_scatter_counts_in_full(rho):
    still = xr.ones_like(rho)
    still.loc[{"ensemble": "Nref_b"}] = 1.5
    budget = error_budget(still, "Nmax", REFERENCES)
    assert budget.error.sel(source="b").values == pytest.approx(np.full((2, 5), 0.5))
    assert budget.total.values == pytest.approx(np.full((2, 5), 0.5))


def test_budget_scales_with_the_predictions(rho):
    one, three = error_budget(rho, "Nmax", REFERENCES), error_budget(-3.0 * rho, "Nmax", REFERENCES)
    assert three.central.values == pytest.approx(-3 * one.central.values, rel=1e-5)
    assert three.error.values == pytest.approx(3 * one.error.values, rel=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_refused(rho, bad):
    rho[1, 2, 0, 7, 3] = bad
    with pytest.raises(UserError, match="not finite"):
        error_budget(rho, "Nmax", REFERENCES)


def test_a_missing_ensemble_is_refused_and_named(rho):
    for absent in ("Nmax", "Nref_n"):
        with pytest.raises(UserError, match=f"there is no ensemble {absent}; those there: "):
            error_budget(rho.sel(ensemble=[e for e in ENSEMBLES if e != absent]), "Nmax", REFERENCES)


def test_one_replica_is_refused(rho):
    with pytest.raises(UserError, match="at least 2"):
        error_budget(rho.isel(replica=[0]), "Nmax", REFERENCES)


def test_variables_carry_units_and_names(rho, truth):
    budget = error_budget(rho, "Nmax", REFERENCES, truth)
    for name, variable in budget.data_vars.items():
        assert variable.attrs["units"] == "1", name
        assert variable.attrs["long_name"], name


def test_a_table_shows_as_many_digits_of_small_numbers_as_of_large_ones(rho, truth) -> None:
    """Cells of a budget 10^-9 as large are the same numbers, to three digits of the error."""

    def read(budget: xr.Dataset) -> np.ndarray:
        budget["estimator_central"] = budget.central.expand_dims(estimator=["linear"])
        budget["estimator_error"] = budget.total.expand_dims(estimator=["linear"])
        return budget_frame(budget.isel(sigma=0)).values[:, 1:-1].astype(float)

    small, large = (read(error_budget(f * rho, "Nmax", REFERENCES, f * truth)) for f in (1e-9, 1.0))
    total = large[:, -4]
    np.testing.assert_allclose(1e9 * small, large, atol=0.01 * np.median(total))
    assert (small[:, -4] > 0).all()


def test_every_error_in_a_table_has_two_digits_of_its_own(rho, truth) -> None:
    """Errors that differ by powers of ten between energies: none is printed as zero, none with digits to spare."""
    by_energy = xr.DataArray([1e-6, 1e-4, 1e-2, 1.0, 150.0], dims="E", coords={"E": E})
    budget = error_budget(1.0 + by_energy * rho, "Nmax", REFERENCES, truth).isel(sigma=0)
    budget["calibrated"] = 1.1 * budget.total
    frame = budget_frame(budget)
    errors = {named(str(s)): budget.error.sel(source=s).values for s in budget.source.values}
    errors |= {name: budget[name].values for name in ("total", "calibrated")}
    for name, exact in errors.items():
        cells = list(frame[name])
        assert [f"{float(cell):.1e}" for cell in cells] == [f"{x:.1e}" for x in exact], name
        assert all(re.fullmatch(r"0|0\.0*[1-9]\d|\d\.\d(e-\d\d)?|[1-9]\d0*", cell) for cell in cells), cells


def test_a_table_of_a_budget_without_any_error_shows_zeros(rho) -> None:
    frame = budget_frame(error_budget(xr.ones_like(rho), "Nmax", REFERENCES).isel(sigma=0))
    assert set(frame["total"]) == {"0"}
    assert set(frame["central"].astype(float)) == {1.0}


def test_central_value_and_truth_show_the_digits_of_the_smallest_error(rho, truth) -> None:
    by_energy = xr.DataArray([1e-3, 0.1, 1.0, 1.0, 1.0], dims="E", coords={"E": E})
    budget = error_budget(truth + by_energy * (rho - truth), "Nmax", REFERENCES, truth).isel(sigma=0)
    first = budget_frame(budget).iloc[0].astype(float)
    pull = (first["central"] - first["truth"]) / first["total"]
    assert pull == pytest.approx(first["pull"], abs=0.05 * abs(first["pull"]) + 0.05)


def test_the_table_shows_the_error_of_the_linear_estimator_calibrated_where_it_is(rho, truth) -> None:
    budget = error_budget(rho, "Nmax", REFERENCES, truth).isel(sigma=0)
    budget["estimator_central"] = budget.central.expand_dims(estimator=["linear"])
    for name, value in (("estimator_error", "0.012"), ("estimator_calibrated", "0.034")):
        budget[name] = xr.full_like(budget.estimator_central, float(value))
        frame = budget_frame(budget)
        assert frame.columns[frame.columns.get_loc("linear") + 1] == "± linear"
        assert set(frame["± linear"]) == {value}
