"""Runs with HLT and bounds beside the networks: what their stores hold, and what says when they cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.disk.layout import Layout
from sdpipe.errors import UserError
from sdpipe.estimators.bounds import Bounds
from sdpipe.estimators.hlt_solution import HLT, joint_covariance
from sdpipe.physics.smearing import Cauchy, Function, Gaussian, HalfNorm, Tail
from sdpipe.pipeline.made_from import MadeFrom
from sdpipe.problem.inputs import Inputs
from sdpipe.run import Run
from tests.fixtures import TINY, Outcome

ALL = "methods=[linear, posterior, hlt, bounds]"
POSITIVE = ("spectra.positive=true", "spectra.mixture={chebyshev: 1, smooth: 1}")


@pytest.fixture(scope="module")
def run(in_process: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny run with every method, and a target that is negative, which no rho >= 0 explains."""
    directory = tmp_path_factory.mktemp("methods")
    signed = "  signed: {kind: peaks, amplitudes: [-1.0], masses: [0.7]}"
    text = TINY.replace("  prior: {kind: chebyshev, Nb: 16}", signed)
    assert "signed" in text
    (directory / "tiny.yaml").write_text(text)
    arguments = (ALL, *POSITIVE, "--run", "run", "-q")
    outcome = in_process("run", "tiny.yaml", *arguments, cwd=directory)
    assert outcome.status == 0, outcome.err
    return sdpipe.open_run(directory / "run")


def test_hlt_is_an_estimate_with_bootstrap_samples_error_and_covariance(run: Run) -> None:
    found, problem = run.predictions["peaks"].load(), Inputs(run.config).problem
    C = found.correlator.mean("boot").values
    hlt = HLT.for_noise(problem.observables, problem.noise.at_scale(C), 0.2)
    expected = hlt.bootstrap(found.correlator.values)
    own = {"estimator": "hlt"}
    rho = found.estimator_rho.sel(own).transpose("boot", "sigma", "E")
    np.testing.assert_allclose(rho, expected.samples, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.estimator_error.sel(own), hlt(C).error, rtol=1e-6)
    widths = np.sqrt(np.diagonal(found.estimator_covariance.sel(own).values, axis1=1, axis2=2))
    np.testing.assert_allclose(widths, found.estimator_error.sel(own), rtol=1e-6)


def test_hlt_is_calibrated_as_the_others_are(run: Run) -> None:
    validation, budget, own = run.validation.load(), run.budget["peaks"].load(), {"estimator": "hlt"}
    assert list(budget.estimator.values) == ["linear", "posterior", "hlt"]
    assert "hlt" in validation.estimator
    q = validation.estimator_factor.sel(own | {"level": 0.683, "scale_rule": "given"})
    expected = (q * budget.estimator_error.sel(own)).transpose("sigma", "E")
    np.testing.assert_allclose(budget.estimator_calibrated.sel(own), expected, rtol=1e-6)
    prior = validation.coverage_of.sel(budget="hlt", level=0.683).isel(family=0)
    assert ((prior > 0.5) & (prior < 0.95)).all()  # of 60 draws, calibrated on as many


def test_bounds_hold_the_truth_and_are_no_estimator(run: Run) -> None:
    problem = Inputs(run.config).problem
    for name in ("o3", "delta_tanh", "peaks"):
        found, budget = run.predictions[name].load(), run.budget[name].load()
        assert "bounds" not in found.estimator
        assert "bounds" not in run.validation.budget
        assert ((budget.lower < budget.truth) & (budget.truth < budget.upper)).all()
        assert budget.attrs["chi2_min"] < 8
        if name == "peaks":
            C = found.correlator.mean("boot").values
            bounds = Bounds.for_noise(problem.observables, problem.noise.at_scale(C), 0.2, 0.683)
            np.testing.assert_allclose(found.upper, bounds(C).upper, rtol=1e-6)


def test_where_no_density_is_positive_bounds_are_nan_and_said_in_words(run: Run) -> None:
    budget = run.budget["signed"].load()
    assert np.isnan(budget.lower).all()
    assert np.isnan(budget.upper).all()
    assert budget.attrs["chi2_min"] > 100
    assert any(flag.startswith("bounds: no spectral density rho >= 0 agrees") for flag in budget.attrs["flags"])


def test_a_central_value_outside_the_bounds_is_flagged_where_rho_is_positive(run: Run) -> None:
    predictor = sdpipe.open_run(run.layout.root)._predictor
    assert (predictor.positive, predictor.level) == (True, 0.683)
    for name in ("o3", "delta_tanh", "peaks"):
        budget = run.budget[name].load()
        outside = ((budget.central < budget.lower) | (budget.central > budget.upper)).sum().item()
        said = [flag for flag in budget.attrs["flags"] if "central value is outside" in flag]
        assert len(said) == (outside > 0)
        assert all(f"at {outside} of 16 points" in flag for flag in said)


def test_a_correlator_from_python_has_the_same_budget(run: Run) -> None:
    stored = run.budget["peaks"].load()
    judged = sdpipe.judge(run, run.predictions["peaks"].correlator, scale=1.0)
    np.testing.assert_allclose(judged.upper, stored.upper, rtol=1e-6)
    np.testing.assert_allclose(judged.estimator_central, stored.estimator_central, rtol=1e-5, atol=1e-6)


def test_stability_plots_are_kept_of_two_energies_and_made_of_any(run: Run) -> None:
    found, report = run.predictions["o3"].load(), run.layout.report.read_text()
    anew, two = run.stability("o3"), run.stability("o3", E=[1.1, 0.5])
    np.testing.assert_allclose(anew.scan_mean, found.scan_mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(anew.estimator_error[0], found.estimator_error.sel(estimator="hlt"), rtol=1e-6)
    assert list(two.E_scan.values) == [1.1, 0.5]
    assert run.plot.stability("o3", sigma=0.63, E=1.1).get_xlabel() == "λ′"
    assert report.count("Stability of HLT of") == 2 * len(run.config.targets)
    assert all(run.compare(name).attrs["says"] in report for name in ("o3", "signed"))
    with pytest.raises(UserError, match=r"not energies of the run; the nearest are 0\.5"):
        run.stability("o3", E=0.52)


def test_another_smearing_needs_no_training(run: Run) -> None:
    found = run.predictions["peaks"].load()
    same = run.smear("peaks", Gaussian(), bounds=True)
    stored = found.estimator_rho.sel(estimator=["posterior", "hlt"]).mean("boot")
    assert list(same.estimator.values) == ["posterior", "hlt", "positive"]
    same = same.sel(estimator=["posterior", "hlt"])
    np.testing.assert_allclose(same.central, stored.transpose("estimator", "sigma", "E"), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(same.error, found.estimator_error.sel(estimator=["posterior", "hlt"]), rtol=1e-6)
    np.testing.assert_allclose(same.upper, found.upper, rtol=1e-6)
    E, sigma = same.E.values, same.sigma.values[:, None]
    own = Function(lambda E, w, s: np.exp(-((w - E) ** 2) / s**2), Tail(np.inf))
    for smearing in (own, Cauchy("im")):
        truth = sum(A * smearing(E, M, sigma) for A, M in ((0.5, 0.7), (0.25, 1.4)))
        other = run.smear("peaks", smearing, bounds=smearing is own)
        assert (np.abs(other.central.sel(estimator="hlt") - truth) < 3 * other.error.sel(estimator="hlt")).all()
        if smearing is own:
            assert ((other.lower < truth) & (truth < other.upper)).all()


def test_samples_of_several_smearings_have_a_joint_covariance(run: Run) -> None:
    """HalfNorm is a multiple of the Gaussian at each E and sigma: its noise is that multiple."""
    kinds = [run.smear("peaks", f) for f in (Gaussian(), HalfNorm(), Cauchy("im"))]
    E, sigma = kinds[0].E.values, kinds[0].sigma.values[:, None]
    ratio = HalfNorm()(E, 1.0, sigma) / Gaussian()(E, 1.0, sigma)
    for method in ("posterior", "hlt"):
        one, other, far = (k.samples.sel(estimator=method).values for k in kinds)
        assert one.shape == (run.config.bootstrap, 2, 8)
        np.testing.assert_allclose(one.mean(axis=0), kinds[0].central.sel(estimator=method), rtol=1e-6, atol=1e-9)
        own, of_far, between = (joint_covariance(*pair) for pair in ((one, one), (far, far), (one, far)))
        np.testing.assert_allclose(joint_covariance(one, other), own * ratio, rtol=1e-5, atol=1e-6 * own.max())
        errors = [np.sqrt(np.einsum("sese->se", c)) for c in (own, of_far)]
        correlation = between / (errors[0][:, :, None, None] * errors[1])
        assert 0.9 < np.abs(correlation).max() < 1 + 1e-9


@pytest.mark.parametrize(
    ("smearing", "bounds", "words"),
    [
        (Cauchy("re"), False, "its integral over a density that does not fall diverges"),
        (Cauchy("im"), True, "no bound"),
    ],
)
def test_a_smearing_that_falls_too_slowly_is_refused(run: Run, smearing, bounds, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run.smear("peaks", smearing, bounds)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda _E, omega, _s: 0 * omega + np.nan, "gives nan at omega"),
        (lambda E, omega, s: (omega - E) + 1j * s, "complex values"),
    ],
)
def test_a_function_that_is_no_smearing_is_told_in_one_line(run: Run, f, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run.smear("peaks", Function(f, Tail(5.0)))
    assert len(caught.value.faults) == 1


def test_bounds_change_predictions_alone(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    plain, more, other = (
        MadeFrom(Inputs(load_config(path, keys)), Layout(tmp_path))
        for keys in ([], ["methods=[linear, posterior, bounds]"], [ALL])
    )
    assert (plain.networks, plain.draws) == (more.networks, more.draws)
    assert plain.networks == other.networks
    assert plain.draws != other.draws
    assert plain.predictions["o3"] != more.predictions["o3"]


@pytest.mark.parametrize("command", ["run", "predict"])
def test_without_the_solver_nothing_is_begun(cli, tiny_config: Path, monkeypatch, command: str) -> None:
    monkeypatch.setitem(sys.modules, "clarabel", None)
    fault = cli(command, tiny_config, ALL, "--run", tiny_config.parent / "run").fault
    assert "methods: bounds need the solver clarabel; install it: pip install 'sdpipe[bounds]'" in fault
    assert not (tiny_config.parent / "run").exists()
