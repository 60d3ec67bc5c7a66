"""Known states in a config: taken off where a correlator is read, and in every answer again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sdpipe
from sdpipe.correlators.correlator import Source
from sdpipe.correlators.known import load, state
from sdpipe.correlators.states import Known, as_key
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel
from sdpipe.physics.smearing import GAUSSIAN
from sdpipe.problem.suggest import suggest

if TYPE_CHECKING:
    from sdpipe.run import Run
    from tests.fixtures import Outcome

Cli = Callable[..., "Outcome"]

KERNEL, TIMES, COUNT = Kernel("exponential", 40), np.arange(1, 21), 400
MASSES, AMPLITUDES = np.array([0.4, 1.1]), np.array([1.0, 0.6])
KEYS = ("kernel=exponential", "lattice.first=1", "smearing.sigma=[0.25]", "energies={min: 0.1, max: 1.9, count: 10}")
FEW = (
    "training.audience=none",
    "methods=[posterior, hlt]",
    "validation={samples: 60, bootstrap: 2, levels: [0.683], families: {}}",
    "bootstrap=60",
)
NUMBERS, FITTED = Known((1.0, 0.01), (0.4, 0.001)), Known(between=(10, 20))

pytestmark = pytest.mark.filterwarnings("ignore:.*draws per family are too few")


def samples() -> np.ndarray:
    """Return configurations (cfg, t) of two states, with an error of the mean of 0.1 %, correlated in t."""
    C = KERNEL(TIMES[:, None], MASSES) @ AMPLITUDES
    root = np.linalg.cholesky(np.exp(-np.abs(TIMES[:, None] - TIMES) / 4))
    return C * (1 + 0.02 * np.random.default_rng(2).standard_normal((COUNT, len(TIMES))) @ root.T)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states") / "x.npy"
    np.save(path, samples())
    return path


@pytest.fixture(scope="module")
def run(file: Path) -> Run:
    fitted = {"between": (10, 20)}
    return sdpipe.reconstruct(file, *KEYS, *FEW, run=file.parent / "run", subtract=[fitted])


def read(file: Path, *states: Known, times: tuple[int, ...] | None = None, **keys: Any) -> Any:
    from sdpipe.correlators import formats

    return load(Source(file, subtract=states, **keys), KERNEL, times, formats.snapshot(file), 1, (400, 1, "target"))


def test_what_is_left_is_the_other_state_with_the_errors_of_both(file: Path) -> None:
    whole, rest = read(file), read(file, NUMBERS)
    other = AMPLITUDES[1] * KERNEL(TIMES, MASSES[1])
    error = np.sqrt(np.diag(rest.covariance))
    assert (np.abs(rest.mean - other) < 4 * error).all()
    A, M = rest.states
    wider = np.cov(state(A, M, KERNEL, TIMES), rowvar=False)
    np.testing.assert_allclose(np.diag(rest.covariance), np.diag(whole.covariance) + np.diag(wider), rtol=0.4)
    assert rest.samples.shape == (400, len(TIMES))
    assert rest.estimated_from == whole.estimated_from


def test_a_state_fitted_to_the_same_samples_takes_its_noise_with_it(file: Path) -> None:
    whole, rest = read(file), read(file, FITTED)
    late = slice(14, 20)
    assert (np.diag(rest.covariance)[late] < 0.5 * np.diag(whole.covariance)[late]).all()
    A, M = rest.states
    np.testing.assert_allclose([A.mean(), M.mean()], [1.0, 0.4], rtol=0.01)


def test_a_fit_may_use_times_that_are_not_reconstructed(file: Path) -> None:
    early, every = read(file, FITTED, times=tuple(range(1, 9))), read(file, FITTED)
    assert early.times == tuple(range(1, 9))
    np.testing.assert_allclose(early.samples, every.samples[:, :8], rtol=1e-12)


@pytest.mark.parametrize("treatment", ["diagonal", "shrink"])
def test_the_covariance_is_treated_as_that_of_the_data(file: Path, treatment: str) -> None:
    full, treated = read(file, NUMBERS), read(file, NUMBERS, covariance=treatment)
    near = 1e-9 if treatment == "diagonal" else 0.2  # errors of few configurations are smoothed, too
    np.testing.assert_allclose(np.diag(treated.covariance), np.diag(full.covariance), rtol=near)
    ratio = treated.covariance[0, 1] / full.covariance[0, 1]
    assert ratio == 0 if treatment == "diagonal" else 0.5 < ratio < 1.5


def test_the_answer_holds_the_state_and_the_rest(run: Run) -> None:
    budget, prediction = run.budget["x"].load(), run.predictions["x"].load()
    E = budget.E.values
    truth = GAUSSIAN(E[:, None], MASSES, 0.25) @ AMPLITUDES
    assert float(np.abs((budget.central[0] - truth) / budget.calibrated[0]).max()) < 3.5
    A, M = prediction.state_amplitude.values.T, prediction.state_mass.values.T
    first = GAUSSIAN(E[:, None], M[:, None], 0.25)[..., 0] * A[:, :1]
    rest = prediction.estimator_rho.sel(estimator="posterior").isel(sigma=0).transpose("boot", "E").values - first
    assert np.abs(rest[:, E < 0.5]).max() < 0.5 * first[:, E < 0.5].max()
    whole = prediction.estimator_rho.sel(estimator="posterior").isel(sigma=0).transpose("boot", "E").values
    np.testing.assert_allclose(whole.std(axis=0), budget.error.sel(source="latt").values[0], rtol=1e-4)
    np.testing.assert_allclose(budget.total[0], np.sqrt((budget.error[:, 0] ** 2).sum("source")), rtol=1e-6)
    assert prediction.correlator.attrs["subtract"] == [{"between": [10, 20]}]
    report = run.layout.report.read_text()
    assert "1 known state taken off" in report
    assert f"A = {A.mean():.5g} ± {A.std():.2g}, M = {M.mean():.5g} ± {M.std():.2g} 1/a" in report


def test_other_smearings_hold_the_state_too(run: Run) -> None:
    again = run.smear("x", run.config.smearing.function).sel(estimator="posterior")
    stored = run.predictions["x"].estimator_rho.sel(estimator="posterior").mean("boot").transpose("sigma", "E")
    np.testing.assert_allclose(again.samples.mean("boot"), stored, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(again.central, stored, rtol=1e-2, atol=1e-3)


def test_it_is_what_taking_the_state_off_a_run_gives(run: Run, file: Path) -> None:
    whole = sdpipe.reconstruct(file, *KEYS, *FEW, run=file.parent / "whole")
    first, last = run.config.lattice.times
    known = [whole.ground_state("x", (10, 20))]
    rest = whole.subtract("x", known, file.parent / "rest", *FEW, f"lattice.times=[{first}, {last}]")
    np.testing.assert_allclose(rest.central, run.budget["x"].central, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(rest.total, run.budget["x"].total, rtol=0.05)


def test_check_shows_what_is_left(cli: Cli, file: Path) -> None:
    outcome = cli("check", file, "subtract=[{amplitude: 1.0, mass: 0.4}]", *KEYS)
    assert outcome.status == 0, outcome.err
    assert "400 configurations, tau_int" in outcome.out
    assert "; 1 known state taken off" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("1 ")]
    assert float(rows[0][4]) == pytest.approx(MASSES[1], rel=0.05)


def test_later_times_say_that_little_is_left(file: Path) -> None:
    config = suggest(file, ["subtract=[{amplitude: 1.0, mass: 0.4}]", *KEYS])
    assert any("which say that little is left there" in line for line in config.why)
    assert config.config["lattice"]["times"][1] < suggest(file, KEYS).config["lattice"]["times"][1]


def test_a_run_without_states_is_as_it_was(file: Path) -> None:
    from sdpipe.config.load import config_of
    from sdpipe.problem.inputs import Inputs

    config = config_of(suggest(file, KEYS).config, "x")
    assert not {"subtract", "gevp", "component"} & set(Inputs(config).content(config.targets["x"]))


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ("[{amplitude: 1.0}]", "a state needs amplitude and mass, or between"),
        ("[{amplitude: 1.0, mass: 0.4, between: [1, 3]}]", "a state needs amplitude and mass, or between"),
        ("[{amplitude: 1.0, mass: 4.0}]", "subtract: a mass of 4 1/a; allowed: above 0, up to pi/a = 3.142"),
        ("[{amplitude: 1.0, mass: -1}]", "a mass of -1 1/a; allowed: above 0"),
        ("[{amplitude: 1.0e-6, mass: 3.0}]", "a mass of 3 1/a changes C(t) by at most"),
        ("[{amplitude: 5.0, mass: 0.4}]", "these states are more than the data"),
        ("[{between: [30, 40]}]", "times 30..40; allowed: 3 or more within 1..20"),
        ("[{between: [10, 11]}]", "times 10..11; allowed: 3 or more within 1..20"),
        ("[{amplitude: [1.0, -0.1], mass: 0.4}]", "subtract.0.amplitude"),
    ],
)
def test_states_that_cannot_be_are_one_line(cli: Cli, file: Path, tmp_path: Path, states: str, words: str) -> None:
    outcome = cli("reconstruct", file, f"subtract={states}", *KEYS, *FEW, "--run", tmp_path / "run")
    assert outcome.status == 2
    assert any(words in fault for fault in outcome.faults)
    assert not (tmp_path / "run").exists()


def test_a_fit_within_the_times_that_are_reconstructed_is_refused(cli: Cli, file: Path, tmp_path: Path) -> None:
    keys = ("subtract=[{between: [8, 12]}]", "lattice.times=[1, 12]", *KEYS, *FEW)
    outcome = cli("reconstruct", file, *keys, "--run", tmp_path / "run")
    assert outcome.status == 2
    assert "between: [8, 12] is within lattice.times, 1..12, where its fit leaves nothing there" in outcome.fault
    assert not (tmp_path / "run").exists()


def test_states_of_a_session_become_a_key() -> None:
    gv = pytest.importorskip("gvar")
    assert as_key([(gv.gvar(1.0, 0.1), 0.5)]) == ['subtract=[{"amplitude": [1.0, 0.1], "mass": 0.5}]']
    assert as_key([]) == []
    for states, words in (([(np.ones(7), 0.5)], "samples of the same"), ([0.5], "is not allowed; allowed: ")):
        with pytest.raises(UserError, match=words):
            as_key(states)
