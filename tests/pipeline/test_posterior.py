"""Runs whose networks correct the closed-form posterior, with and without an error of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.estimators.local import FEATURES, Local
from sdpipe.learn.architectures import parameter_count
from sdpipe.pipeline.tasks import network_shape
from sdpipe.problem.inputs import Inputs
from sdpipe.problem.problem import families
from sdpipe.run import Run
from tests.fixtures import TINY, Outcome

MIXTURE = "spectra.mixture={chebyshev: 2, smooth: 1, levels: 1, states: 1, signed: 1}"
POSTERIOR = (MIXTURE, "training.inputs=posterior", "ensembles.Nmax.network=mlpS")


def made(in_process: Callable[..., Outcome], directory: Path, *overrides: str) -> Run:
    config = directory / "tiny.yaml"
    config.write_text(TINY)
    outcome = in_process("run", config, *POSTERIOR, *overrides, "--run", "run", "-q", cwd=directory)
    assert outcome.status == 0, outcome.err
    return sdpipe.open_run(directory / "run")


@pytest.fixture(scope="module")
def run(in_process: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(in_process, tmp_path_factory.mktemp("posterior"))


@pytest.fixture(scope="module")
def with_head(in_process: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(in_process, tmp_path_factory.mktemp("head"), "training.head=scale")


@pytest.fixture(scope="module")
def local(in_process: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("local")
    few = "ensembles={Nmax: {Nb: 16, Nrho: 256, network: mlpXS}, Nref_b: {Nb: 8, Nrho: 256, network: mlpXS}}"
    budget = "budget={central: Nmax, references: {b: Nref_b}}"
    training = "training={inputs: local, head: scale, replicas: 2, epochs: 4}"
    return made(in_process, directory, few, budget, "spectra.Nrho=256", training)


def test_the_training_set_holds_what_networks_see_at_each_energy(local: Run) -> None:
    problem, part = Inputs(local.config).problem, local.training.isel(Nb=0, sample=slice(5)).load()
    noisy = part.noisy.values
    seen = Local.for_noise(problem.observables, problem.noise)(noisy, noisy[..., None, :])
    assert part.features.dims == ("sample", "copy", "sigma", "E", "feature")
    assert part.sizes["feature"] == FEATURES
    for name, expected in (("features", seen.features), ("posterior_mean", seen.mean)):
        np.testing.assert_allclose(part[name], expected[:, :, 0], rtol=1e-2, atol=2e-2, err_msg=name)
    np.testing.assert_allclose(part.posterior_sd, seen.sd, rtol=1e-4)


def test_one_network_serves_every_sigma_and_energy_and_gives_an_error(local: Run) -> None:
    assert {n.sigma for n in local.networks} == {None}
    assert {n.parameters["output.weight"].shape[-1] for n in local.networks} == {2}
    found = local.predictions["o3"].load()
    off = np.abs(found.rho.sel(ensemble="Nmax") - found.estimator_rho.sel(estimator="posterior"))
    sd = found.estimator_error.sel(estimator="posterior")
    assert 0 < float((off / sd).mean()) < 2
    assert bool((found.scale > 0).all())
    assert (local.history.val_loss.min("epoch") < 1.5 * local.history.posterior_loss).all()


@pytest.mark.parametrize("which", ["run", "with_head", "local"])
def test_a_plan_counts_the_parameters_of_networks(which: str, request: pytest.FixtureRequest) -> None:
    trained = request.getfixturevalue(which)
    network = next(n for n in trained.networks if n.ensemble == "Nmax")
    count = parameter_count(network.architecture, *network_shape(trained.config))
    assert count == sum(values.size for values in network.parameters.values())


def test_judging_networks_of_one_energy_gives_their_budget(local: Run) -> None:
    budget = sdpipe.judge(local, local.predictions["o3"].correlator, scale=1.0)
    stored = local.budget["o3"].load()
    for name in ("central", "total", "error"):
        np.testing.assert_allclose(budget[name], stored[name], rtol=1e-4, atol=1e-9, err_msg=name)


def test_the_training_set_holds_what_the_posterior_says_of_each_noisy_copy(run: Run) -> None:
    posterior, part = Inputs(run.config).problem.posterior, run.training.isel(Nb=0, sample=slice(40)).load()
    said = posterior(part.noisy.values)
    for name, expected in (("features", said.features), ("posterior_mean", said.mean), ("posterior_sd", said.sd)):
        np.testing.assert_allclose(part[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_history_has_the_bar_of_the_posterior_on_the_same_samples(run: Run) -> None:
    validates = run.training.isel(sample=run.training.validation.values).sel(Nb=16).load()
    expected = np.abs(validates.posterior_mean.isel(copy=0) - validates.smeared).mean(("sample", "E"))
    np.testing.assert_allclose(run.history.posterior_loss.sel(ensemble="Nmax"), expected, rtol=1e-4)
    assert (run.history.val_loss.min("epoch") < 2 * run.history.posterior_loss).all()


def test_a_network_corrects_the_mean_in_units_of_the_standard_deviation(run: Run) -> None:
    found = run.predictions["o3"].load()
    off = np.abs(found.rho.sel(ensemble="Nmax") - found.estimator_rho.sel(estimator="posterior"))
    sd = found.estimator_error.sel(estimator="posterior")
    assert float((off / sd).max()) < 10
    assert float((off / sd).mean()) < 1


def test_the_resolution_is_what_the_posterior_leaves_beside_the_noise(run: Run) -> None:
    found, budget = run.predictions["o3"].load(), run.budget["o3"].load()
    width = np.sqrt(np.diagonal(found.resolution.values, axis1=1, axis2=2))
    np.testing.assert_allclose(budget.error.sel(source="resolution"), width)
    np.testing.assert_allclose(budget.total**2, (budget.error**2).sum("source"))
    np.testing.assert_allclose(np.diagonal(budget.covariance.values, axis1=1, axis2=2), budget.total**2, rtol=1e-6)
    latt = found.estimator_rho.sel(estimator="posterior").std("boot")
    sd = found.estimator_error.sel(estimator="posterior")
    np.testing.assert_allclose(np.hypot(latt, width), sd, rtol=0.25)


@pytest.mark.parametrize("c", [2.0**-20, 2.0**20])
def test_a_correlator_c_times_as_large_has_a_density_exactly_so_many_times_as_large(run: Run, c: float) -> None:
    samples = run.predictions["delta_tanh"].correlator.values
    one, other = (sdpipe.predict(run, s, scale=1.0) for s in (samples, c * samples))
    np.testing.assert_array_equal(other, c * one)


def test_networks_give_an_error_of_their_own(with_head: Run) -> None:
    found, budget = with_head.predictions["o3"].load(), with_head.budget["o3"].load()
    assert found.scale.dims == found.rho.dims
    assert bool((found.scale > 0).all())
    assert [s for s in budget.source.values if s in ("scale", "resolution")] == ["scale"]
    own = found.scale.sel(ensemble="Nmax").mean(("replica", "boot")).astype(float)
    latt = budget.error.sel(source="latt")
    expected = np.sqrt(np.maximum(own**2 - latt**2, 0) + (0.5 * found.unresolved) ** 2)
    np.testing.assert_allclose(budget.error.sel(source="scale"), expected, rtol=1e-5)
    np.testing.assert_allclose(np.diagonal(budget.covariance.values, axis1=1, axis2=2), budget.total**2, rtol=1e-6)
    assert "scale" in with_head.integral("o3", lambda E: E).source


@pytest.mark.parametrize("target", ["o3", "delta_tanh"])
def test_judging_the_data_of_a_target_gives_its_budget(run: Run, target: str) -> None:
    budget = sdpipe.judge(run, run.predictions[target].correlator, scale=1.0)
    stored = run.budget[target].load()
    # the bootstrap is around the same mean; a mock target is kept as large as given
    assert set(budget.attrs) - {"level"} <= set(stored.attrs) | {"p_value"}
    for name in ("central", "total", "error", "estimator_central", "estimator_error"):
        np.testing.assert_allclose(budget[name], stored[name], rtol=1e-4, atol=1e-9, err_msg=name)
    assert set(stored) - {"truth", "pull"} == set(budget)


def test_what_calibrates_what_was_tuned_and_what_tests_are_different_draws(run: Run) -> None:
    problem = Inputs(run.config).problem
    first, auto = run.config.priors.values()
    assert (first, auto) == ("mixture", "mixture-auto")
    assert list(families(run.config))[:3] == [first, auto, "o3"]
    training = run.training.correlator.sel(Nb=16).values[:200, 0]
    drawn = {stream: problem.draw(first, 0, 100, stream)[0][:, 0] for stream in ("validation", "resolution", "tuning")}
    drawn["training"] = training
    values = np.concatenate([np.round(v / np.abs(v), 0) * np.abs(v) for v in drawn.values()])
    assert len(np.unique(values.astype(np.float32))) == values.size


def test_every_component_is_in_the_draws_that_calibrate(run: Run) -> None:
    C, rho = Inputs(run.config).problem.draw("mixture", 0, 200)
    assert np.mean(C[:, 0] < 0) > 0.02  # Chebyshev and signed
    assert np.mean((rho > 0).all(axis=(1, 2))) > 0.4  # smooth, levels, states


def test_the_prior_of_the_paper_calibrates_where_it_is_the_prior(tiny_config: Path) -> None:
    assert load_config(tiny_config).priors == {"given": "chebyshev", "auto": "chebyshev-auto"}
