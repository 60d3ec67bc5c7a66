"""``validate`` and what follows from it, on a finished run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.disk.layout import Layout
from sdpipe.pipeline.state import State
from sdpipe.pipeline.tasks import load_predictor
from sdpipe.problem.inputs import Inputs
from sdpipe.problem.problem import families
from tests.fixtures import ONE_TARGET, Finished, Outcome, SerialPool


@pytest.fixture(scope="module")
def validation(finished: Finished) -> xr.Dataset:
    return xr.open_zarr(finished.root / "validation.zarr", consolidated=False).load()


def test_the_store_is_that_of_the_contract(validation: xr.Dataset) -> None:
    assert validation.pull.dims == ("family", "sample", "sigma", "E")
    assert validation.coverage.dims == ("family", "sigma", "level")
    assert validation.family.values.tolist() == ["chebyshev", "chebyshev-auto", "o3"]
    assert validation.level.values.tolist() == [0.683, 0.954]
    assert validation.source.values.tolist() == ["latt", "net", "b", "rho", "resolution"]
    assert all(v.attrs["long_name"] and v.attrs["units"] for v in validation.data_vars.values())


def test_stored_quantities_agree_with_each_other(validation: xr.Dataset) -> None:
    v = validation.astype(float)
    np.testing.assert_allclose(v.total, np.sqrt((v.error**2).sum("source")), rtol=1e-4)
    np.testing.assert_allclose(v.pull, (v.central - v.truth) / v.total, rtol=1e-3, atol=1e-4)
    rules = xr.DataArray(["given", "auto", "given"], dims="family")
    inside = (np.abs(v.pull) <= v.factor.sel(scale_rule=rules)).where(validation.tested).mean(("sample", "E"))
    np.testing.assert_allclose(validation.coverage, inside.transpose("family", "sigma", "level"), atol=2e-3)
    assert validation.tested.sum("sample").values.tolist() == [60, 60, 120]


def test_draws_are_no_training_samples_and_known_exactly(finished: Finished, validation: xr.Dataset) -> None:
    problem = Inputs(load_config(finished.root)).problem
    clean, truth = problem.draw("o3", 3, 5)
    np.testing.assert_allclose(validation.truth.sel(family="o3").isel(sample=slice(3, 5)), truth, rtol=1e-5, atol=1e-7)
    trained = sdpipe.open_run(finished.root).training.correlator.values
    prior, _ = problem.draw("chebyshev", 0, 50)
    assert clean.shape[1] == trained.shape[-1]
    assert not np.isin(prior[:, 0].astype(np.float32), trained[..., 0]).any()


def test_the_budget_has_the_resolution_and_is_calibrated(finished: Finished, validation: xr.Dataset) -> None:
    for budget in sdpipe.open_run(finished.root).budget.values():
        assert budget.source.values.tolist() == ["latt", "net", "b", "rho", "resolution"]
        np.testing.assert_allclose(budget.total, np.sqrt((budget.error**2).sum("source")), rtol=1e-6)
        q = validation.factor.sel(level=0.683, scale_rule="given", drop=True)
        np.testing.assert_allclose(budget.calibrated, budget.total * q, rtol=1e-5)
        variance = np.diagonal(budget.covariance.values, axis1=1, axis2=2)
        np.testing.assert_allclose(variance, budget.total.values**2, rtol=1e-5)
        assert np.linalg.eigvalsh(budget.covariance.values).min() > -1e-12
        assert 0 < budget.attrs["p_value"] <= 1


def test_the_error_of_the_linear_estimator_is_calibrated_like_that_of_the_networks(
    finished: Finished, validation: xr.Dataset
) -> None:
    factor = validation.estimator_factor.sel(level=0.683, scale_rule="given", drop=True)
    assert (factor > 0).all()
    for budget in sdpipe.open_run(finished.root).budget.values():
        np.testing.assert_allclose(budget.estimator_calibrated, factor * budget.estimator_error, rtol=1e-5)


def test_estimators_lie_beside_the_trained_ensembles_with_their_own_error(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    found, budget = run.predictions["prior"], run.budget["prior"]
    assert found.rho.ensemble.values.tolist() == ["Nmax", "Nref_b", "Nref_rho"]
    assert found.estimator_rho.dims == ("estimator", "sigma", "boot", "E")
    assert found.estimator.values.tolist() == ["linear", "posterior"]
    linear, own = found.estimator_rho.sel(estimator="linear"), budget.sel(estimator="linear")
    np.testing.assert_allclose(own.estimator_central, linear.astype(float).mean("boot"), rtol=1e-6)
    assert (own.estimator_error.values >= linear.std("boot").values * 0.5).all()


def test_the_published_budget_needs_no_validation(finished_copy: Path, cli: Callable[..., Outcome]) -> None:
    before = sdpipe.open_run(finished_copy).budget["o3"].load()
    outcome = cli("analyze", finished_copy, ONE_TARGET, "budget.calibration=none")
    assert outcome.status == 0
    budget = sdpipe.open_run(finished_copy).budget["o3"]
    assert budget.source.values.tolist() == ["latt", "net", "b", "rho"]
    assert "calibrated" not in budget
    assert (budget.total < before.total).all()
    np.testing.assert_allclose(budget.error, before.error.isel(source=slice(4)))


def test_calibration_without_validation_is_refused(finished_copy: Path, cli: Callable[..., Outcome]) -> None:
    fault = cli("analyze", finished_copy, "validation.samples=130").fault
    assert "validation.zarr: not done: validation (stale)" in fault
    assert "sdpipe validate" in fault
    assert "budget.calibration=none" in fault


def test_another_level_needs_no_new_draws(finished_copy: Path, cli: Callable[..., Outcome], serial: SerialPool) -> None:
    for more in ([], ["--dry-run"]):
        fault = cli("analyze", finished_copy, "budget.level=0.9", *more).fault
        assert f"run: sdpipe validate {finished_copy} with the same config and overrides" in fault
    assert cli("validate", finished_copy, "budget.level=0.9").status == 0
    assert serial.done == []
    assert cli("analyze", finished_copy, ONE_TARGET, "budget.level=0.9").status == 0
    assert sdpipe.open_run(finished_copy).budget["o3"].attrs["level"] == 0.9


def test_too_few_draws_to_flag_anything_are_told(finished: Finished) -> None:
    assert "warning: validate: 120 draws per family are too few to flag" in finished.outcome.err


def test_validate_is_a_resume_and_prints_its_table(finished_copy: Path, cli: Callable[..., Outcome]) -> None:
    again = cli("validate", finished_copy)
    assert again.status == 0
    assert "nothing to do" in again.err
    assert [line.split()[0] for line in again.out.splitlines()[2:5]] == ["chebyshev", "chebyshev-auto", "o3"]


def test_validation_does_not_depend_on_the_targets(finished: Finished) -> None:
    one, two = load_config(finished.root), load_config(finished.root, ["targets={o3: {kind: o3, threshold: 0.5}}"])
    made = [State(config, Layout(finished.root)).identities for config in (one, two)]
    assert made[0].validation == made[1].validation
    assert made[0].predictions != made[1].predictions


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        (
            "validation.samples=20",
            "validation.samples",
            "at least 42 are needed, half of them to calibrate; or leave it out of validation.levels",
        ),
        ("budget.level=0.997", "validation.samples", "or lower budget.level"),
        ("budget.level=1.5", "budget.level", "less than 1"),
        ("validation.levels=[]", "validation.levels", "at least 1"),
        ("validation.families.r={kind: resonance, mass: [0.5, 9]}", "validation.families.r.mass", "energy range"),
        ("validation.families.r={kind: resonance, mass: [0.9, 0.5]}", "validation.families.r.mass", "not be above"),
        ("validation.families.o3.threshold=[0.5, 2.9]", "validation.families.o3.threshold", "energy range"),
        ("validation.families.r={kind: resonance, width: [5, 9]}", "r.width", "to 2.1 (energies.max - energies.min)"),
        ("validation.families.o3.threshold=[0.001, 0.002]", "o3.threshold", "0.2 (energies.min) to 2.3 (energies.max)"),
        ("validation.families.p={kind: peaks, mass: [0.001, 0.01]}", "p.mass", "allowed: 0.2 (energies.min) to 2.3"),
        ("validation.families.p={kind: delta_tanh, mass: [2, 2.3]}", "p.mass", "to 1.3 (halfway from"),
        ("validation.families.p={kind: peaks, count: [9, 5]}", "validation.families.p.count", "not be above"),
        ("validation.families.v={kind: finite_volume, threshold: [0.5, 2.9]}", "v.threshold", "to 2.3 (energies.max)"),
        ("validation.families.v={kind: finite_volume, size: [4, 1000]}", "v.size.1", "less than or equal to 100"),
        ("validation.families.v={kind: finite_volume, size: [9, 4]}", "v.size", "not be above"),
        ("validation.families.s={kind: sign_changing, mass: [0.5, 2]}", "s.mass", "to 1.3 (halfway from"),
        (
            "validation.families.s={kind: sign_changing, width: [5, 9]}",
            "s.width",
            "to 2.1 (energies.max - energies.min)",
        ),
        ("validation.families.f={kind: few_states, mass: [0.5, 2]}", "f.mass", "to 1.3 (halfway from"),
        ("validation.families.f={kind: few_states, width: [1, 2]}", "f.width", "unknown key"),
        ("validation.families.x={kind: glueball}", "validation.families.x", "kind"),
        ("validation.families.chebyshev={kind: o3}", "validation.families.chebyshev", "always there"),
        ("budget.references.resolution=Nref_b", "budget.references.resolution", "a meaning of its own"),
        ("ensembles.linear={Nb: 8, Nrho: 400, network: arcS}", "ensembles.linear", "name of a method"),
    ],
)
def test_bad_input(cli: Callable[..., Outcome], tiny_config: Path, override: str, key: str, words: str) -> None:
    fault = cli("validate", tiny_config, override).fault
    assert key in fault
    assert words in fault


def test_draws_sized_by_evidence_go_through_the_rule_of_real_data(finished: Finished, validation: xr.Dataset) -> None:
    assert (validation["scale"].sel(family=["chebyshev", "o3"]) == 1).all()
    scale = validation["scale"].sel(family="chebyshev-auto")
    assert scale.std() > 0.1
    assert 0.5 < scale.median() < 2
    same = validation.truth.sel(family="chebyshev-auto"), validation.truth.sel(family="chebyshev")
    np.testing.assert_array_equal(*same)
    config = load_config(finished.root)
    predictor = load_predictor(config, Layout(finished.root))
    clean, _ = Inputs(config).problem.draw("chebyshev", 0, 20)
    expected = [predictor.amplitude(C) for C in clean]  # up to the noise of the draw
    np.testing.assert_allclose(scale.values[:20], expected, rtol=0.25)


def test_real_data_are_calibrated_and_judged_by_draws_that_were_sized_as_they_are(
    finished_copy: Path, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    run = sdpipe.open_run(finished_copy)
    boots = run.predictions["o3"].correlator.load()
    table = np.stack([boots.t.values, 7.0 * boots.mean("boot").values, 7.0 * boots.std("boot").values], axis=1)
    np.savetxt(tmp_path / "mine.txt", table)
    mine = "targets.mine={kind: correlator, path: %s, error: mean, covariance: diagonal}" % (tmp_path / "mine.txt")
    for stage in ("predict", "analyze"):
        assert cli(stage, finished_copy, mine).status == 0
    run = sdpipe.open_run(finished_copy)
    stored, budget, validation = run.predictions["mine"], run.budget["mine"], run.validation
    assert stored.attrs["scale_rule"] == "auto"
    q = validation.factor.sel(level=0.683, scale_rule="auto", drop=True)
    np.testing.assert_allclose(budget.calibrated, budget.total * q, rtol=1e-5)
    data = sdpipe.read_correlator(tmp_path / "mine.txt", error="mean", covariance="diagonal", period=16, times=(1, 8))
    with pytest.warns(UserWarning, match="the variance of its noise"):
        rho = sdpipe.predict(run, data)
    for name in ("scale", "noise_scale", "distance", "chi2", "goodness_of_fit"):
        assert rho.attrs[name] == pytest.approx(stored.attrs[name], rel=1e-6)
    assert rho.attrs["p_value"] == pytest.approx(budget.attrs["p_value"], abs=0.15)  # of 15 draws


def test_a_correlator_from_python_is_judged_as_a_target_is(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    good = run.predictions["o3"].correlator.load()
    oscillating = good * (1 + 0.05 * (-1.0) ** good.t)
    with pytest.warns(UserWarning, match="no spectral density explains the data"):
        rho = sdpipe.predict(run, oscillating)
    assert rho.attrs["goodness_of_fit"] < 1e-3
    assert [flag for flag in rho.attrs["flags"] if flag.startswith("no spectral density")]


@pytest.mark.parametrize(
    "family",
    [
        "{kind: o3, threshold: [0.05, 1.3]}",
        "{kind: resonance, mass: [0.05, 2.3], width: [0.01, 2]}",
        "{kind: peaks, mass: [0.075, 2.3]}",
        "{kind: delta_tanh, mass: [0.075, 1.1875]}",
        "{kind: finite_volume, threshold: [0.05, 1.3], size: [1, 100]}",
        "{kind: sign_changing, mass: [0.075, 1.1875], width: [0.01, 2]}",
        "{kind: few_states, mass: [0.075, 1.1875]}",
    ],
)
def test_families_as_wide_as_the_standard_ones_are_accepted(tiny_config: Path, family: str) -> None:
    """Thresholds of the prior below all energies: what follows the prior may be there, too."""
    load_config(tiny_config, ["spectra.E0=[0.05, 1.3]", f"validation.families.mine={family}"])


def test_densities_of_either_sign_test_where_rho_is_not_known_to_be_positive(tiny_config: Path) -> None:
    for positive in (False, True):
        keys = ["spectra.mixture={chebyshev: 1, states: 1}", f"spectra.positive={positive}", "validation.families=null"]
        problem = Inputs(load_config(tiny_config, keys)).problem
        assert ("sign_changing" in families(problem.config)) is not positive
    _, truth = Inputs(load_config(tiny_config, ["validation.families=null"])).problem.draw("sign_changing", 0, 50)
    assert (truth < 0).any(axis=(1, 2)).mean() > 0.3


def test_every_standard_family_tests_networks_that_were_taught_with_the_mixture(
    cli: Callable[..., Outcome], tiny_config: Path, tmp_path: Path
) -> None:
    shares = {"chebyshev": 60, "smooth": 15, "levels": 24, "states": 24}
    overrides = [f"spectra.mixture={shares}", "spectra.positive=true", "validation.families=null"]
    outcome = cli("run", tiny_config, *overrides, "--run", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    run = sdpipe.open_run(tmp_path / "run")
    held_out = ["o3", "resonance", "peaks", "delta_tanh", "finite_volume", "few_states"]
    prior = ["mixture", "mixture-auto", "chebyshev", "chebyshev-Nb8", "chebyshev-Nb32"]
    v = run.validation.load()
    assert v.family.values.tolist() == prior + held_out
    assert all(f"\n{name} " in outcome.out for name in held_out)
    assert np.isfinite(v.error).all()
    assert np.isfinite(v.central).all()
    signs = (v.truth < 0).any(("sigma", "E")).mean("sample")
    assert (signs == 0).all(), "a positive prior, and positive families"
    problem = Inputs(run.config).problem
    for family in held_out:
        _, truth = problem.draw(family, 118, 120)
        np.testing.assert_allclose(v.truth.sel(family=family).isel(sample=slice(118, 120)), truth, rtol=1e-5, atol=1e-7)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "chebyshev 48.8%, smooth 12.2%, levels 19.5%, states 19.5%; none negative" in page
    assert "Here threshold 0.2 … 1.3 in lattice units, size 4 … 12." in page


def test_lost_figures_are_drawn_anew_and_keep_no_analysis_waiting(
    finished_copy: Path, cli: Callable[..., Outcome]
) -> None:
    drawn = sorted((finished_copy / "figures").glob("validation*.svg"))
    for path in drawn:
        path.unlink()
    assert cli("predict", finished_copy, "targets.o3.threshold=0.9").status == 0
    assert cli("analyze", finished_copy).status == 0
    assert cli("validate", finished_copy).status == 0
    assert drawn
    assert all(path.exists() for path in drawn)
