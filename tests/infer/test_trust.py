"""Draws of the prior with its noise pass; what no prior, no spectral density or another noise makes is seen."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.config.sources import CorrelatorNoise
from sdpipe.correlators.statistics import bootstrap, covariance_of_mean
from sdpipe.errors import UserError
from sdpipe.infer import trust
from sdpipe.infer.trust import PriorOfData, Reference, judge
from sdpipe.learn.moments import Moments
from sdpipe.physics import samples
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import IMPOSSIBLE, Noise, chi2_p_value, synthetic
from sdpipe.physics.spectra import ChebyshevPrior, o3, peaks
from sdpipe.pipeline.tasks import load_audience
from sdpipe.problem.inputs import Inputs
from sdpipe.show import flags

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome

Cli = Callable[..., "Outcome"]

DATA = Path(__file__).parents[3] / "shared" / "data" / "etas-Ds.h5"
TIMES = tuple(range(1, 17))
E = tuple(np.linspace(0.2, 2.0, 5))
PRIOR = ChebyshevPrior(32)
KERNEL = Kernel("vector", 32)


def grid(period: int = 32, times: tuple[int, ...] = TIMES, kernel: str = "vector") -> Observables:
    return Observables(Kernel(kernel, period), times, (0.44,), E)


def correlator_of(spectrum, observables: Observables) -> np.ndarray:
    return observables.split(spectrum.integrals(observables))[0]


@pytest.fixture(scope="module")
def noise() -> Noise:
    return synthetic(TIMES, correlator_of(o3(), grid()), 1e-3, 0.0, 4.0)


def drawn(noise: Noise, observables: Observables, count: int, stream: str) -> np.ndarray:
    clean = samples.generate(PRIOR, observables, 1, 0, count, stream).correlator
    return noise.draw(clean, 1, np.random.default_rng(len(stream)))[:, 0]


@pytest.fixture(scope="module")
def prior(noise: Noise) -> PriorOfData:
    made = samples.generate(PRIOR, grid(), 1, 0, 8192)
    moments = Moments.from_samples(lambda: [(made.correlator, made.smeared[:, 0])], noise)
    return PriorOfData(moments.mean, moments.covariance, noise)


@pytest.fixture(scope="module")
def reference(prior: PriorOfData, noise: Noise) -> Reference:
    data = drawn(noise, grid(), 2000, "reference")
    return Reference(noise.scale(data), prior.distance(data), np.ones(2000))


def flag_rate(prior: PriorOfData, reference: Reference, data: np.ndarray) -> float:
    distances, scales = prior.distance(data), prior.noise.scale(data)
    values = [reference.p_value(s, d, 0.5) for s, d in zip(scales, distances, strict=True)]
    return float(np.mean(np.array(values) < 0.01))


def test_the_distance_is_the_mahalanobis_distance_with_the_noise_of_each() -> None:
    rng = np.random.default_rng(4)
    S, N = (a @ a.T for a in rng.standard_normal((2, 4, 4)))
    prior = PriorOfData(rng.standard_normal(4), S, Noise((1, 2, 3, 4), np.array([2.0, 1.0, 0.5, 0.3]), N, "random"))
    C = rng.standard_normal((20, 4))
    for c, d in zip(C, prior.distance(C), strict=True):
        inverse = np.linalg.inv(S + (c[0] / 2) ** 2 * N)
        assert d == pytest.approx((c - prior.mean) @ inverse @ (c - prior.mean), rel=1e-9)


def test_distances_of_gaussian_data_follow_chi_squared() -> None:
    rng = np.random.default_rng(5)
    unit = 10.0 ** -np.arange(0, 24, 2)
    S = 0.99 ** np.abs(np.subtract.outer(np.arange(12), np.arange(12))) * np.outer(unit, unit)
    noise = Noise(tuple(range(1, 13)), unit, 1e-6 * np.diag(unit**2), "noise")
    C = unit * (np.linalg.cholesky(S / np.outer(unit, unit)) @ rng.standard_normal((12, 4000))).T
    d2 = PriorOfData(np.zeros(12), S, noise).distance(noise.draw(C, 1, rng)[:, 0])
    assert d2.mean() == pytest.approx(12, rel=0.03)
    assert d2.var() == pytest.approx(24, rel=0.12)


def test_the_prior_raises_few_false_alarms(prior: PriorOfData, reference: Reference, noise: Noise) -> None:
    assert flag_rate(prior, reference, drawn(noise, grid(), 1000, "other draws")) <= 0.02


def test_o3_is_typical(prior: PriorOfData, reference: Reference, noise: Noise) -> None:
    C = np.stack([correlator_of(o3(threshold), grid()) for threshold in np.linspace(0.4, 1.2, 20)])
    data = noise.draw(C, 5, np.random.default_rng(3)).reshape(-1, len(TIMES))
    assert flag_rate(prior, reference, data) <= 0.02


def goodness_of_fit(noise: Noise, C: np.ndarray, kernel: Kernel = KERNEL) -> np.ndarray:
    return chi2_p_value(*trust.goodness_of_fit(kernel, noise, 0.2, np.atleast_2d(C)))


@pytest.mark.parametrize("period", [24, 28])
def test_a_wrong_period_is_seen(noise: Noise, period: int) -> None:
    wrong = correlator_of(o3(0.5), grid(period))
    right = noise.draw(correlator_of(o3(0.5), grid()), 1, np.random.default_rng(1))
    assert goodness_of_fit(noise, wrong)[0] < IMPOSSIBLE < goodness_of_fit(noise, right)[0]


def test_the_goodness_of_fit_raises_few_false_alarms(noise: Noise) -> None:
    chi2, dof = trust.goodness_of_fit(KERNEL, noise, 0.2, drawn(noise, grid(), 2000, "goodness of fit"))
    p = chi2_p_value(chi2, dof)
    assert np.mean(dof > 0) > 0.95
    assert np.mean(p < 0.01) <= 0.02
    assert np.mean(p[dof > 0] < 0.5) == pytest.approx(0.5, abs=0.06)


def test_an_oscillating_partner_is_seen_by_the_goodness_of_fit(noise: Noise) -> None:
    oscillating = correlator_of(o3(0.8), grid()) * (1 + 0.05 * (-1.0) ** np.array(TIMES))
    assert goodness_of_fit(noise, oscillating)[0] < 1e-6


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA.name} is not there")
def test_real_data_etas_is_not_flagged_and_ds_is() -> None:
    times, kernel = tuple(range(1, 33)), Kernel("periodic", 64)
    observables = Observables(kernel, times, (0.3,), E)
    data = {name: sdpipe.read_correlator(DATA, name, period=64, times=(1, 32)) for name in ("etas", "Ds")}
    noise = Noise(times, data["etas"]["mean"].values, data["etas"].covariance.values, "etas")
    made = samples.generate(PRIOR, observables, 1, 0, 8192)
    moments = Moments.from_samples(lambda: [(made.correlator, made.smeared[:, 0])], noise)
    prior = PriorOfData(moments.mean, moments.covariance, noise)
    noisy = noise.draw(made.correlator[:2000], 1, np.random.default_rng(2))[:, 0]
    reference = Reference(noise.scale(noisy), prior.distance(noisy), np.ones(2000))
    typical = float(np.median(np.abs(made.correlator[:, 0])))
    found = {}
    for name, values in data.items():
        C = values["mean"].values
        scale = prior.amplitude(C, typical)
        C = scale * C
        p = reference.p_value(float(noise.scale(C)), float(prior.distance(C[None])[0]), 0.5)
        own = Noise(times, C, scale**2 * values.covariance.values, name)
        checks = [goodness_of_fit(n, C, kernel)[0] < IMPOSSIBLE for n in (noise, own)]
        found[name] = p < 0.01, *map(bool, checks)
    assert found == {"etas": (False, False, False), "Ds": (True, True, True)}


def test_the_amplitude_does_not_depend_on_the_normalisation(prior: PriorOfData) -> None:
    C = correlator_of(o3(0.7), grid())
    typical = abs(C[0])
    assert prior.amplitude(1e6 * C, typical) * 1e6 == pytest.approx(prior.amplitude(C, typical), rel=1e-6)


def test_the_amplitude_of_prior_draws_is_near_one(prior: PriorOfData) -> None:
    clean = samples.generate(PRIOR, grid(), 1, 0, 200, "amplitude").correlator
    found = [prior.amplitude(c, abs(c[0])) for c in clean]
    assert 0.5 < np.median(found) < 2


def test_p_values_are_uniform_for_exchangeable_values() -> None:
    rng = np.random.default_rng(6)
    values, scales = rng.standard_cauchy(2000), np.exp(rng.standard_normal(2000))
    reference = Reference(scales, values, np.zeros(2000))
    p = [reference.p_value(s, v, -1.0) / 2 for v, s in zip(rng.standard_cauchy(2000), scales, strict=True)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.03)


def test_with_a_covariance_from_few_configurations_the_goodness_of_fit_still_holds(noise: Noise) -> None:
    clean = correlator_of(o3(0.5), grid())
    rng, p = np.random.default_rng(11), []
    for _ in range(200):
        configurations = noise.draw(clean, 40, rng)
        own = Noise(noise.times, configurations.mean(axis=0), np.cov(configurations, rowvar=False) / 40, "own")
        p.append(chi2_p_value(*trust.goodness_of_fit(KERNEL, own, 0.2, own.mean[None]), 40)[0])
    assert np.mean(np.array(p) < IMPOSSIBLE) <= 0.01
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.12)


def judged(
    distance: float, spread: float, count: int = 800, rule: str = "given", unlike: float = 0.5
) -> tuple[float, list[str]]:
    """Judge a target against draws with distances and spreads around 1; those with scale auto are 5 times as far."""
    rng = np.random.default_rng(5)
    around_one = rng.uniform(0.5, 1.5, (2, 2, 2 * count))
    dims = ("family", "sample")
    validation = xr.Dataset(
        {
            "noise_scale": (dims, np.ones((2, 2 * count))),
            "distance": (dims, around_one[0] * [[1.0], [5.0]]),
            "spread": (dims, around_one[1]),
            "unlike": (dims, np.ones((2, 2 * count))),
            "tested": (dims, np.arange(4 * count).reshape(2, -1) % 2 == 1),
        },
        coords={"scale_rule": np.array(["given", "auto"], object)},
    )
    values = spread * np.array([[1.0, -1.0], [1.0, -1.0]]).reshape(1, 2, 2, 1, 1)
    rho = xr.DataArray(values, dims=("sigma", "ensemble", "replica", "boot", "E"), coords={"ensemble": ["a", "b"]})
    attrs = {"flags": [], "scale": 1.0, "scale_rule": rule, "noise_scale": 1.0, "distance": distance, "unlike": unlike}
    return judge(xr.Dataset({"rho": rho}, attrs=attrs), validation)


def test_a_target_is_flagged_for_its_distance_and_for_the_spread_of_the_networks() -> None:
    p_value, none = judged(1.0, 1.0)
    assert p_value > 0.3
    assert none == []
    for off in ((10.0, 1.0), (1.0, 10.0)):
        (flag,) = flags.worded(judged(*off)[1])
        assert flag.startswith("out of distribution: p <= 0.00995 that")
    assert judged(5.0, 1.0, rule="auto")[1] == []


def test_a_correlator_unlike_all_draws_is_flagged() -> None:
    assert judged(1.0, 1.0, unlike=1.0)[1] == []
    (flag,) = flags.worded(judged(1.0, 1.0, unlike=1.1)[1])
    assert flag.startswith(
        "C(t) over that of the run is off by a factor of 3 at some time, and by no more than 2.72 in"
    )


def test_a_p_value_within_the_range_of_the_draws_is_printed_as_such() -> None:
    p_value, found = judged(1.497, 1.0, count=8000)
    (flag,) = flags.worded(found)
    assert 2 / 2001 < p_value < 0.01
    assert flag.startswith(f"out of distribution: p = {p_value:.3g} that")


def test_without_validation_only_the_data_speak_against_a_target() -> None:
    assert judge(xr.Dataset(attrs={"flags": ["noise: doubtful"]}), None) == (None, [])


# --- the noise of the training --------------------------------------------------------------------------------

t = np.arange(1, 9)
TRAINING = 1e-6 * np.exp(-np.abs(t[:, None] - t) / 4)
RESPONSE = np.random.default_rng(0).standard_normal((8, 30)) * np.exp(-0.8 * t)[:, None]


def test_equal_noise_has_ratios_of_one() -> None:
    ratios, directions = trust.noise_ratios(RESPONSE, TRAINING, TRAINING)
    assert ratios == pytest.approx(np.ones(len(ratios)))
    assert directions.shape == (8, len(ratios))
    assert 1 <= len(ratios) < 8


def test_the_directions_carry_nearly_all_noise_of_the_prediction() -> None:
    """C -> C A turns noise L z into variance sum of squares of L^T A; projected on w_k it keeps SHARE of it."""
    factor = np.linalg.cholesky(TRAINING)
    ratios, directions = trust.noise_ratios(RESPONSE, TRAINING, TRAINING)
    kept = np.sum((directions.T @ RESPONSE) ** 2) / np.sum((factor.T @ RESPONSE) ** 2)
    assert trust.LISTENED <= kept <= 1
    fewer = np.linalg.svd(factor.T @ RESPONSE)[1][: len(ratios) - 1]
    assert np.sum(fewer**2) < trust.LISTENED * np.sum((factor.T @ RESPONSE) ** 2)


def test_larger_noise_is_seen_with_its_factor_and_direction() -> None:
    assert trust.noise_ratios(RESPONSE, TRAINING, 3 * TRAINING)[0] == pytest.approx(3)
    ratios, directions = trust.noise_ratios(RESPONSE, TRAINING, TRAINING)
    v = directions[:, 0]
    more = TRAINING + 4 * np.outer(v, v)
    ratios, found = trust.noise_ratios(RESPONSE, TRAINING, more)
    assert ratios[-1] == pytest.approx(5)
    assert ratios[:-1] == pytest.approx(np.ones(len(ratios) - 1))
    assert np.abs(found[:, -1]) == pytest.approx(np.abs(v))


def test_noise_where_the_prediction_does_not_listen_does_not_matter() -> None:
    """The prediction uses t = 1, 2 alone; at t = 5 .. 8 the noise is a hundred times larger."""
    response = np.zeros((8, 2))
    response[:2] = [[1, 2], [3, 4]]
    other = TRAINING.copy()
    other[np.arange(4, 8), np.arange(4, 8)] += 1e-4
    ratios, _ = trust.noise_ratios(response, TRAINING, other)
    assert ratios == pytest.approx(np.ones(len(ratios)), abs=1e-9)


def test_a_covariance_known_from_225_configurations_is_not_flagged_for_its_fluctuations() -> None:
    rng, factor = np.random.default_rng(4), np.linalg.cholesky(TRAINING)
    for _ in range(50):
        draws = [covariance_of_mean(rng.standard_normal((225, 8)) @ factor.T) for _ in range(2)]
        ratios, _ = trust.noise_ratios(RESPONSE, *draws)
        assert ratios.min() > 1 / trust.FACTOR
        assert ratios.max() < trust.FACTOR


def test_the_remedy_is_a_command_that_the_shell_and_the_config_understand(tmp_path: Path, tiny_config: Path) -> None:
    path = tmp_path / "it's mine.h5"
    command = shlex.split(flags.remedy("runs/x", "mine", {"path": str(path), "dataset": "a: b", "bin": 2}))
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
    noise = load_audience(run.layout).noise
    C = run.predictions["o3"].correlator.mean("boot").values
    return C, noise.covariance * (C[0] / noise.mean[0]) ** 2


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
    assert predictions.correlator.attrs["correlation_bin"] == 1
    outcome = cli("analyze", finished_copy)
    assert outcome.status == 0
    assert "mine, with calibrated error" in outcome.out
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
    found = re.search(r"([\d.]+) times that of the training noise", flag)
    assert float(found[1]) == pytest.approx(factor, rel=0.3)  # the Gamma method's error of 100 configurations
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
        sdpipe.predict(finished.root, sdpipe.read_correlator(path, "x", covariance="diagonal", first=0))


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


def test_the_command_to_retrain_says_the_first_time_of_the_file(
    finished: Finished, like_training: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", configurations(like_training[0], 9 * like_training[1]))
    data = sdpipe.read_correlator(tmp_path / "x.npy", first=1)
    with pytest.warns(UserWarning, match="times that of the training noise"):
        (flag,) = sdpipe.predict(finished.root, data).attrs["flags"]
    command = shlex.split(flag[flag.index("retrain: ") :])
    assert command[-1] == "lattice.first=1"
    noise = Inputs(load_config(finished.root, [command[4], command[-1]])).problem.noise
    np.testing.assert_allclose(noise.covariance, data.covariance, rtol=1e-12)


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
    noise = Inputs(load_config(finished.root, [command[4]])).problem.noise
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


def test_samples_that_are_complex_or_of_another_length_are_refused(finished: Finished) -> None:
    with pytest.raises(UserError, match="real numbers, not complex128"):
        sdpipe.predict(finished.root, np.ones((2, 8)) + 0j)
    with pytest.raises(UserError, match=r"needed \(boot, 8\)"):
        sdpipe.predict(finished.root, np.ones((2, 7)))


def test_a_floor_tells_the_goodness_of_fit_what_late_times_are_worth() -> None:
    """A light state in noise that a heavy one set: at late times its errors are below what numbers can hold."""
    at = grid()
    C = np.stack([at.split(peaks((1.0,), (m,)).integrals(at))[0] for m in (0.3, 0.5, 0.9)])
    mean = at.split(peaks((1.0,), (1.2,)).integrals(at))[0]
    noise = replace(synthetic(at.times, mean, 1e-3, 0.0, 4.0), floor=1e-6)
    data = noise.draw(C, 100, np.random.default_rng(1)).reshape(-1, 16)
    p_value = chi2_p_value(*trust.goodness_of_fit(KERNEL, noise, 0.2, data))
    assert np.mean(p_value < 0.05) < 0.08
    blind = chi2_p_value(*trust.goodness_of_fit(KERNEL, replace(noise, floor=0.0), 0.2, data))
    assert np.mean(blind < 0.05) > 0.3


def _budget(central: float, error: float, other: float) -> xr.Dataset:
    point = {"sigma": [0.3, 0.5], "E": [0.5, 1.0, 1.5]}
    one = xr.DataArray(np.ones((2, 3)), dims=("sigma", "E"), coords=point)
    m = {"estimator": ["posterior"]}
    estimators = {"estimator_central": (other * one).expand_dims(m), "estimator_error": (error * one).expand_dims(m)}
    return xr.Dataset({"central": central * one, "total": error * one, **estimators})


def test_an_estimate_many_errors_away_is_a_flag_and_one_a_few_away_is_none() -> None:
    assert trust.contradicted(_budget(1.0, 0.1, 1.5)) == []
    (flag,) = trust.contradicted(_budget(1.0, 0.1, 3.0))
    assert (flag.code, flag.facts["estimator"]) == ("contradicted", "posterior")
    assert flag.facts["errors"] == pytest.approx(2 / (0.1 * np.sqrt(2)))
    assert "posterior is 14.14 errors of both away at sigma = 0.3, E = 0.5" in flags.worded([flag])[0]
    (nan,) = trust.contradicted(_budget(1.0, 0.1, np.nan))
    assert nan.facts["estimator"] == "posterior"


def test_errors_larger_than_the_answer_are_a_flag() -> None:
    assert trust.nothing_resolved(_budget(1.0, 0.9, 1.0)) == []
    (flag,) = trust.nothing_resolved(_budget(1.0, 2.0, 1.0))
    assert "more than 2 times the largest value" in flags.worded([flag])[0]
