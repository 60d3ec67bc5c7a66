"""Networks belong to one noise: which other noise they are told apart from, and in which directions it matters."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.config import problem
from sdpipe.config.load import load_config
from sdpipe.config.sections import CorrelatorNoise
from sdpipe.correlators.statistics import bootstrap, covariance_of_mean
from sdpipe.errors import UserError
from sdpipe.infer import guard

if TYPE_CHECKING:
    from tests.conftest import Finished, Outcome

Cli = Callable[..., "Outcome"]

t = np.arange(1, 9)
TRAINING = 1e-6 * np.exp(-np.abs(t[:, None] - t) / 4)
RESPONSE = np.random.default_rng(0).standard_normal((8, 30)) * np.exp(-0.8 * t)[:, None]


# --- the comparison ------------------------------------------------------------------------------------------


def test_equal_noise_has_ratios_of_one() -> None:
    ratios, directions = guard.noise_ratios(RESPONSE, TRAINING, TRAINING)
    assert ratios == pytest.approx(np.ones(len(ratios)))
    assert directions.shape == (8, len(ratios))
    assert 1 <= len(ratios) < 8


def test_the_directions_carry_nearly_all_noise_of_the_prediction() -> None:
    """C -> C A turns noise L z into variance sum of squares of L^T A; projected on w_k it keeps SHARE of it."""
    factor = np.linalg.cholesky(TRAINING)
    ratios, directions = guard.noise_ratios(RESPONSE, TRAINING, TRAINING)
    kept = np.sum((directions.T @ RESPONSE) ** 2) / np.sum((factor.T @ RESPONSE) ** 2)
    assert guard.SHARE <= kept <= 1
    fewer = np.linalg.svd(factor.T @ RESPONSE)[1][: len(ratios) - 1]
    assert np.sum(fewer**2) < guard.SHARE * np.sum((factor.T @ RESPONSE) ** 2)


def test_larger_noise_is_seen_with_its_factor_and_direction() -> None:
    assert guard.noise_ratios(RESPONSE, TRAINING, 3 * TRAINING)[0] == pytest.approx(3)
    ratios, directions = guard.noise_ratios(RESPONSE, TRAINING, TRAINING)
    v = directions[:, 0]
    more = TRAINING + 4 * np.outer(v, v)
    ratios, found = guard.noise_ratios(RESPONSE, TRAINING, more)
    assert ratios[-1] == pytest.approx(5)
    assert ratios[:-1] == pytest.approx(np.ones(len(ratios) - 1))
    assert np.abs(found[:, -1]) == pytest.approx(np.abs(v))


def test_noise_where_the_prediction_does_not_listen_does_not_matter() -> None:
    """The prediction uses t = 1, 2 alone; at t = 5 .. 8 the noise is a hundred times larger."""
    response = np.zeros((8, 2))
    response[:2] = [[1, 2], [3, 4]]
    other = TRAINING.copy()
    other[np.arange(4, 8), np.arange(4, 8)] += 1e-4
    ratios, _ = guard.noise_ratios(response, TRAINING, other)
    assert ratios == pytest.approx(np.ones(len(ratios)), abs=1e-9)


def test_a_covariance_known_from_225_configurations_is_not_flagged_for_its_fluctuations() -> None:
    rng, factor = np.random.default_rng(4), np.linalg.cholesky(TRAINING)
    for _ in range(50):
        draws = [covariance_of_mean(rng.standard_normal((225, 8)) @ factor.T) for _ in range(2)]
        ratios, _ = guard.noise_ratios(RESPONSE, *draws)
        assert ratios.min() > 1 / guard.FACTOR
        assert ratios.max() < guard.FACTOR


def test_the_remedy_is_a_command_that_the_shell_and_the_config_understand(tmp_path: Path, tiny_config: Path) -> None:
    path = tmp_path / "it's mine.h5"
    command = shlex.split(guard.remedy("runs/x", "mine", {"path": str(path), "dataset": "a: b", "bin": 2}))
    assert command[:4] == ["retrain:", "sdpipe", "run", "runs/x"]
    assert command[-2:] == ["--run", "runs/x-mine"]
    noise = load_config(tiny_config, [command[4]]).noise
    assert isinstance(noise, CorrelatorNoise)
    assert (noise.path, noise.dataset, noise.bin) == (path, "a: b", 2)


# --- on a trained run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def like_training(finished: Finished) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the mean, t = 1 .. 8, of the o3 target with the noise of the training."""
    run = sdpipe.open_run(finished.root)
    network = run.networks[0]
    C = run.predictions["o3"].correlator.mean("boot").values
    return C, network.covariance * (C[0] / network.lattice_mean[0]) ** 2


def configurations(mean: np.ndarray, covariance: np.ndarray, n: int = 100) -> np.ndarray:
    """Return n configurations whose mean and covariance of the mean are exactly these."""
    z = np.random.default_rng(8).standard_normal((n, len(mean)))
    z -= z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    return mean + np.sqrt(n) * z @ np.linalg.cholesky(covariance).T


def write(path: Path, mean: np.ndarray, covariance: np.ndarray) -> Path:
    """Write configurations at t = 0 .. 8, folded already."""
    x = configurations(mean, covariance)
    with h5py.File(path, "w") as file:
        file["x"] = np.concatenate([x[:, :1], x], axis=1)
    return path


def test_a_target_is_added_to_a_trained_run_by_overrides(
    cli: Cli, finished_copy: Path, like_training: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = write(tmp_path / "data.h5", *like_training)
    overrides = ["targets.mine.kind=correlator", f"targets.mine.path={path}", "targets.mine.dataset=x"]
    outcome = cli("predict", finished_copy, *overrides)
    assert outcome.status == 0
    assert "warning" not in outcome.err
    assert "mine: 100 configurations, tau_int 0." in outcome.err
    run = sdpipe.open_run(finished_copy)
    predictions = run.predictions["mine"]
    assert predictions.attrs["flags"] == []
    assert predictions.correlator.attrs["path"] == str(path)
    assert predictions.correlator.attrs["configurations"] == 100
    assert predictions.correlator.attrs["bin"] == 1
    outcome = cli("analyze", finished_copy)
    assert outcome.status == 0
    assert "mine, sigma = 0.44 GeV" in outcome.out
    assert "flag" not in outcome.out
    assert cli("predict", finished_copy).err.splitlines()[0].endswith("nothing to do")


@pytest.mark.parametrize("factor", [0.1, 9.0])
def test_noise_unlike_that_of_the_training_is_flagged_everywhere(
    cli: Cli, finished_copy: Path, like_training: tuple[np.ndarray, np.ndarray], tmp_path: Path, factor: float
) -> None:
    path = write(tmp_path / "data.h5", like_training[0], factor * like_training[1])
    overrides = ["targets.mine.kind=correlator", f"targets.mine.path={path}", "targets.mine.dataset=x"]
    outcome = cli("predict", finished_copy, *overrides, "-q")
    assert outcome.status == 0
    (flag,) = sdpipe.open_run(finished_copy).predictions["mine"].attrs["flags"]
    assert f"{factor:.3g} times that of the training noise" in flag
    assert f"retrain: sdpipe run {finished_copy} 'noise={{kind: correlator, path: {path}, dataset: x}}'" in flag
    assert f"warning: mine: {flag}" in outcome.err.splitlines()
    outcome = cli("analyze", finished_copy)
    assert f"flag: {flag}" in outcome.out
    run = sdpipe.open_run(finished_copy)
    assert run.budget["mine"].attrs["flags"] == [flag]
    assert run.budget["o3"].attrs["flags"] == []


def test_predict_takes_what_read_correlator_returns(
    finished: Finished, like_training: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = write(tmp_path / "data.h5", *like_training)
    data = sdpipe.read_correlator(path, "x", period=16, times=(1, 8))
    rho = sdpipe.predict(finished.root, data, scale=1.0)
    assert rho.dims == ("sigma", "ensemble", "replica", "boot", "E")
    assert rho.sizes["boot"] == 50
    assert rho.attrs["flags"] == []
    # The same mean and noise as the target o3: the same mean prediction, and the same statistical error.
    o3 = sdpipe.open_run(finished.root).predictions["o3"].rho
    error = o3.std("boot")
    assert float(np.abs(rho.mean("boot") - o3.mean("boot")).max() / error.max()) < 1
    assert float(rho.std("boot").mean() / error.mean()) == pytest.approx(1, rel=0.3)
    with pytest.raises(UserError, match=r"at t = 0, 1, .*; the networks take 1..8: .*times=\(1, 8\), period=16"):
        sdpipe.predict(finished.root, sdpipe.read_correlator(path, "x", covariance="diagonal"))


def test_configurations_taken_for_bootstrap_samples_are_flagged(
    finished: Finished, like_training: tuple[np.ndarray, np.ndarray]
) -> None:
    """sigma in place of sigma / sqrt(n): the variance is n = 100 times too large."""
    samples = xr.DataArray(configurations(*like_training), dims=("boot", "t"), coords={"t": t})
    with pytest.warns(UserWarning, match="100 times that of the training noise"):
        rho = sdpipe.predict(str(finished.root), samples)
    assert len(rho.attrs["flags"]) == 1


def save_bootstrap(path: Path, x: np.ndarray) -> dict[str, object]:
    np.savez(path, other=x, mine=bootstrap(x, 200, 1, "mine"))
    return {"dataset": "mine", "resampling": "bootstrap", "configurations": len(x)}


def save_jackknife(path: Path, x: np.ndarray) -> dict[str, object]:
    np.savez(path, (x.sum(axis=0) - x) / (len(x) - 1))
    return {"resampling": "jackknife", "bin": 2, "covariance": "shrink"}


def save_errors(path: Path, x: np.ndarray) -> dict[str, object]:
    np.savez(path, mean=x.mean(axis=0), cov=np.cov(x.T))
    return {"error": "sample", "configurations": len(x), "covariance": "diagonal"}


@pytest.mark.parametrize("save", [save_bootstrap, save_jackknife, save_errors])
def test_the_command_to_retrain_reads_the_file_as_it_was_read(
    finished: Finished, like_training: tuple[np.ndarray, np.ndarray], tmp_path: Path, save: Callable
) -> None:
    x = configurations(like_training[0], 9 * like_training[1])
    keys = save(tmp_path / "it's mine.npz", np.concatenate([x[:, :1], x], axis=1))
    data = sdpipe.read_correlator(tmp_path / "it's mine.npz", **keys, period=16, times=(1, 8))
    with pytest.warns(UserWarning, match="times that of the training noise"):
        (flag,) = sdpipe.predict(finished.root, data).attrs["flags"]
    command = shlex.split(flag[flag.index("retrain: ") :])
    assert command[-2:] == ["--run", f"{finished.root}-mine"]
    noise = problem.lattice_noise(load_config(finished.root, [command[4]]))
    np.testing.assert_allclose(noise.covariance, data.covariance, rtol=1e-12)


def test_the_command_to_retrain_for_an_array_asks_for_a_file_of_bootstrap_samples(
    finished: Finished, like_training: tuple[np.ndarray, np.ndarray]
) -> None:
    x = configurations(*like_training)
    with pytest.warns(UserWarning, match=r"path: FILE, resampling: bootstrap}' --run .* \(FILE holds these samples\)$"):
        sdpipe.predict(finished.root, x)


def test_samples_of_a_prediction_know_the_keys_of_their_file(
    cli: Cli, finished_copy: Path, like_training: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = write(tmp_path / "data.h5", like_training[0], 9 * like_training[1])
    target = f"targets.mine={{kind: correlator, path: {path}, bin: 2}}"
    assert cli("predict", finished_copy, target, "-q").status == 0
    run = sdpipe.open_run(finished_copy)
    with pytest.warns(UserWarning, match=rf"noise={{kind: correlator, path: {path}, bin: 2}}"):
        sdpipe.predict(run, run.predictions["mine"].correlator)


def test_predict_from_a_path_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        sdpipe.predict(tmp_path / "none", np.ones((2, 8)))
    with pytest.raises(UserError, match="not a run directory"):
        sdpipe.predict(str(tmp_path), np.ones((2, 8)))


def test_samples_that_are_complex_or_of_another_length_are_refused(finished: Finished) -> None:
    with pytest.raises(UserError, match="real numbers, not complex128"):
        sdpipe.predict(finished.root, np.ones((2, 8)) + 0j)
    with pytest.raises(UserError, match=r"needed \(boot, 8\)"):
        sdpipe.predict(finished.root, np.ones((2, 7)))
