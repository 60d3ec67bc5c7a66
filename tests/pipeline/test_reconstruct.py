"""From a correlator file to an answer without training: what follows from the data, and what is refused."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import sdpipe
import sdpipe.errors
from sdpipe.config.load import config_of, load_config
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.spectra import delta_tanh, peaks
from sdpipe.problem.inputs import Inputs
from sdpipe.problem.suggest import suggest
from tests.fixtures import HANGING, TINY, Outcome

Cli = Callable[..., Outcome]
T, N = 24, 200
SMALL = ("validation.samples=60", "validation.levels=[0.683]", "bootstrap=40", "energies.count=12")


def configurations(path: Path, scale: float = 1.0, spacing: float = 1.0, relative: float = 2e-2) -> Path:
    """Write correlated configurations over a whole period whose spectral density is known."""
    grid = Observables(Kernel("periodic", T, spacing), tuple(range(1, T)), (0.44,), (1.0,))
    C = np.concatenate([[2.0], grid.split(delta_tanh().integrals(grid))[0]])
    t = np.minimum(np.arange(T), T - np.arange(T))
    correlation = np.exp(-np.abs(t[:, None] - t) / 2.0) + 1e-3 * np.eye(T)
    z = np.random.default_rng(3).multivariate_normal(np.zeros(T), correlation, N)
    np.save(path, scale * C * (1 + relative * z))
    return path


@pytest.fixture(scope="module")
def run(shell: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[sdpipe.run.Run, Outcome]:
    directory = tmp_path_factory.mktemp("reconstruct")
    configurations(directory / "mine.npy")
    outcome = shell("-m", "sdpipe", "reconstruct", "mine.npy", *SMALL, cwd=directory)
    assert outcome.status == 0, outcome.err
    return sdpipe.open_run(directory / "runs" / "mine"), outcome


def test_period_times_sigma_and_energies_follow_from_the_data_and_are_said(run) -> None:
    run, outcome = run
    assert (run.config.kernel, run.config.lattice.period, run.config.lattice.times) == ("periodic", T, (1, T // 2))
    for said in ("kernel: periodic, lattice.period: 24", "lattice.times: [1, 12]", "smearing.sigma:", "energies:"):
        assert said in outcome.err
    assert "goodness of fit" in outcome.err
    assert "m_eff" not in outcome.err, "the table of C(t) comes with check, or -v"
    assert run.config.training.audience == "shipped"


def test_nothing_is_trained_and_little_is_written(run) -> None:
    run, _ = run
    assert not run.layout.training.exists()
    assert [s["stage"] for s in run.layout.sessions()] == ["train", "predict", "validate", "analyze", "report"]
    assert run.layout.report.exists()
    size = sum(f.stat().st_size for f in run.layout.root.rglob("*") if f.is_file())
    assert size < 20_000_000


def test_only_the_normalisation_that_is_used_is_calibrated(run) -> None:
    run, _ = run
    assert run.validation.family.values.tolist() == ["mixture-auto"]
    assert run.validation.scale_rule.values.tolist() == ["auto"]
    samples = run.predictions["mine"].correlator
    again = sdpipe.judge(run, samples)
    np.testing.assert_allclose(again.calibrated, run.budget["mine"].calibrated, rtol=0.05)
    with pytest.raises(sdpipe.errors.UserError, match="this run calibrates what is normalised by: auto"):
        sdpipe.judge(run, samples, scale=2.0)


def test_a_correlator_that_falls_otherwise_than_that_of_the_run_is_flagged_where_it_is_judged(run) -> None:
    run, _ = run
    samples = run.predictions["mine"].correlator.load()
    assert sdpipe.judge(run, 3 * samples).attrs["flags"] == run.budget["mine"].attrs["flags"]
    flags = sdpipe.judge(run, samples * np.exp(0.3 * samples.t)).attrs["flags"]
    assert any("the calibrated error promises nothing here" in f and "C(t) over that of the run" in f for f in flags)


def test_the_truth_lies_within_the_errors(run) -> None:
    run, _ = run
    budget = run.budget["mine"].load()
    grid = Observables(Kernel("periodic", T), (1, 2), tuple(budget.sigma.values), tuple(budget.E.values))
    truth = grid.split(delta_tanh().integrals(grid))[1]
    pull = (budget.central.transpose("sigma", "E") - truth) / budget.calibrated.transpose("sigma", "E")
    assert float((np.abs(pull) < 1).mean()) > 0.5
    assert float(np.abs(pull).max()) < 3


def test_the_same_data_in_other_units_give_the_same_answer(cli: Cli, tmp_path: Path) -> None:
    found = []
    for name, spacing in (("one", 1.0), ("other", 4.0)):
        # C(t) of kernel periodic is in GeV; with a four times as large every energy is a quarter.
        (tmp_path / name).mkdir()
        file = configurations(tmp_path / name / "mine.npy", scale=1 / spacing)
        keys = [f"lattice.spacing={spacing}", f"smearing.sigma=[{0.44 / spacing}]"]
        keys += [f"energies={{min: {0.4 / spacing}, max: {1.6 / spacing}, count: 7}}", *SMALL[:3]]
        outcome = cli("reconstruct", file, *keys, "--run", tmp_path / name / "run")
        assert outcome.status == 0, outcome.err
        found.append(sdpipe.open_run(tmp_path / name / "run").budget["mine"].load())
    for name in ("central", "total", "calibrated"):
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-3, err_msg=name)


def test_sigma_energies_and_unit_are_in_the_units_of_the_spacing(tmp_path: Path) -> None:
    one = suggest(configurations(tmp_path / "a.npy")).config
    other = suggest(configurations(tmp_path / "b.npy"), ["lattice.spacing=8"]).config
    assert other["spectra"]["unit"] == pytest.approx(one["spectra"]["unit"] / 8)
    assert other["smearing"]["sigma"] == pytest.approx([s / 8 for s in one["smearing"]["sigma"]], rel=1e-2)
    assert other["energies"]["max"] == pytest.approx(one["energies"]["max"] / 8, rel=1e-2)


def test_data_of_which_rho_is_known_to_be_positive(cli: Cli, tmp_path: Path) -> None:
    known = config_of(suggest(configurations(tmp_path / "a.npy"), ["spectra.positive=true"]).config, "a.npy")
    assert known.spectra.positive
    assert "signed" not in known.spectra.mixture
    assert "bounds" in known.methods
    early = cli("reconstruct", tmp_path / "a.npy", "spectra.positive=true", "lattice.times=[0, 12]", "--dry-run")
    assert "C(0) of this kernel has no limit on the energies in it" in early.fault
    negative = configurations(tmp_path / "b.npy", scale=-1.0)
    assert cli("check", negative).status == 0
    outcome = cli("reconstruct", negative, "spectra.positive=true", "--run", tmp_path / "run")
    assert outcome.status == 2
    assert "spectra.positive: no rho >= 0 explains these data, whose chi2 is at least" in outcome.fault
    assert not (tmp_path / "run").exists()


def test_data_that_fall_over_many_decades_have_one_answer_by_every_method(tmp_path: Path) -> None:
    grid = Observables(Kernel("exponential", 64), tuple(range(1, 25)), (0.4,), (2.2,))
    C = grid.split(peaks((300.0, 400.0, 900.0), (2.15, 2.9, 4.1)).integrals(grid))[0]
    noise = synthetic(grid.times, C, 2e-3, 0.05, 3.0)
    samples = noise.draw(C, 400, np.random.default_rng(5)) + np.zeros(24)
    assert C[0] / C[-1] > 1e20
    keys = ["kernel=exponential", "lattice.first=1", "methods=[posterior, hlt, positive]", *SMALL[:3]]
    run = sdpipe.reconstruct(samples, *keys, "smearing.sigma=[0.4]", run=tmp_path / "run")
    assert run.config.energies.min < 2.15 - 0.4 < 2.15 + 0.8 < run.config.energies.max
    compared = run.compare("array")
    low = compared.E < 2.5
    assert float(np.abs(compared.pull.sel(other="networks")[..., low]).max()) < 4
    assert run.budget["array"].attrs["goodness_of_fit"] > 0.001
    assert not [flag for flag in run.budget["array"].attrs["flags"] if "errors of both away" in flag]


def test_draws_are_like_the_data_where_these_are_all_that_is_reconstructed(tmp_path: Path) -> None:
    suggestion = suggest(configurations(tmp_path / "mine.npy"), [])
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(suggestion.config))

    def unlike(*keys: str) -> float:
        problem = Inputs(load_config(file, keys)).problem
        C, _ = problem.draw("mixture-auto", 0, 50)
        return float(np.median(problem.noise.unlike(C)))

    assert unlike() < 0.5 * unlike("targets={o3: {kind: o3}}")


def test_a_steep_table_without_correlations_has_errors_that_say_something(tmp_path: Path) -> None:
    kernel, t = Kernel("periodic", 32), np.arange(1, 17)
    grid = Observables(kernel, tuple(t.tolist()), (1.0,), (1.0,))
    truth = peaks((1.5, 20.0, 60.0), (2.7, 5.0, 8.0))
    C, _ = grid.split(truth.integrals(grid))
    error = 0.005 * C * np.exp(0.04 * t)
    noisy = C + error * np.random.default_rng(5).standard_normal(t.size)
    np.savetxt(tmp_path / "steep.txt", np.column_stack([t, noisy, error]), fmt="%d %.12e %.6e")
    keys = ("validation.samples=200", "bootstrap=40", "lattice.period=32", "error=mean", "covariance=diagonal")
    run = sdpipe.reconstruct(tmp_path / "steep.txt", *keys, run=tmp_path / "run")
    budget = run.budget["steep"].load()
    grid = Observables(kernel, (1, 2), tuple(budget.sigma.values), tuple(budget.E.values))
    rho = grid.split(truth.integrals(grid))[1]
    assert float(budget.calibrated.mean()) < 0.3 * np.abs(rho).max()
    pulls = np.abs(budget.central.transpose("sigma", "E").values - rho) / budget.calibrated.values
    assert (pulls < 2).mean() > 0.9


def test_a_dozen_configurations_are_shrunk_and_hold_the_lowest_state(tmp_path: Path) -> None:
    grid = Observables(Kernel("periodic", 64), tuple(range(64)), (0.1,), (0.2,))
    C = grid.split(peaks((1.0, 1.0, 2.0), (0.15, 0.7, 1.4)).integrals(grid))[0]
    t = np.minimum(np.arange(64), 64 - np.arange(64))
    noise = np.random.default_rng(2).multivariate_normal(np.zeros(64), np.exp(-np.abs(t[:, None] - t) / 20.0), 13)
    np.save(tmp_path / "few.npy", C * (1 + 0.2 * noise))
    suggestion = suggest(tmp_path / "few.npy")
    assert suggestion.config["lattice"]["times"] == [1, 32]
    assert suggestion.config["noise"]["covariance"] == "shrink"
    assert any(
        line.endswith("13 independent configurations are fewer than two for each of 32 times")
        for line in suggestion.why
    )
    energies = suggestion.config["energies"]
    assert energies["min"] < 0.15 < energies["max"]
    cut = suggest(tmp_path / "few.npy", ["covariance=full"])
    assert "the first 6 whose errors are below 30 %, no more than half of 13 independent" in " ".join(cut.why)


def test_the_first_line_says_the_covariance_that_is_used_and_why_the_rule(cli: Cli, tmp_path: Path) -> None:
    t, g = np.arange(33), np.random.default_rng(4)
    noise = 0.9 ** np.abs(t[:, None] - t)
    C = np.cosh(0.2 * (t - 32)) / np.cosh(6.4)
    np.save(tmp_path / "x.npy", C * (1 + 0.1 * g.multivariate_normal(np.zeros(33), noise, 40)))
    told = cli("check", tmp_path / "x.npy", "lattice.period=64").out
    assert told.splitlines()[0].endswith(
        "covariance shrink, which hides from chi2 and the goodness of fit what the full one would show"
    )
    found = re.search(
        r"shrink, since (\d+) independent configurations are fewer than two for each of (\d+) times", told
    )
    assert int(found[1]) < 2 * int(found[2])


DATA = Path(__file__).parents[3] / "shared" / "data" / "openqxd-matrix.h5"


@pytest.mark.skipif(not DATA.exists(), reason="the openQxD correlators are not there")
def test_the_lowest_states_of_real_correlators_are_inside_of_the_window(tmp_path: Path) -> None:
    with h5py.File(DATA) as file:
        pion, steep = file["pion"][()], file["matrix"][:, 0, 0, 1:31]
    np.save(tmp_path / "pion.npy", pion)
    np.save(tmp_path / "steep.npy", steep)
    for name, mass, keys in (("pion", 0.13, []), ("steep", 2.1525, ["kernel=exponential", "lattice.first=1"])):
        found = suggest(tmp_path / f"{name}.npy", keys)
        energies, sigma = found.config["energies"], found.config["smearing"]["sigma"]
        assert energies["min"] < mass < energies["max"] - 2 * min(sigma), name
        assert max(sigma) < 2 * mass, name


def test_check_writes_nothing_and_says_the_same(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = configurations(tmp_path / "mine.npy")
    outcome = cli("check", file)
    assert outcome.status == 0, outcome.err
    assert list(tmp_path.iterdir()) == [file]
    for said in ("200 configurations", "tau_int", "m_eff", "signal/noise", "goodness of fit", "smearing.sigma:"):
        assert said in outcome.out
    *_, keys, following = outcome.out.split("\n\n")
    assert yaml.safe_load(keys)["lattice"]["times"] == [1, 12]
    assert following == f"next: sdpipe reconstruct {file}\n"


def test_check_says_how_near_a_density_without_negative_parts_comes(cli: Cli, tmp_path: Path) -> None:
    t, g = np.arange(1, 17), np.random.default_rng(4)
    for sign, explained in ((1, True), (-1, False)):
        C = np.exp(-0.5 * t) + sign * 0.6 * np.exp(-0.8 * t)
        path = tmp_path / f"{explained}.txt"
        np.savetxt(path, np.column_stack([t, C * (1 + 1e-3 * g.standard_normal(t.size)), 1e-3 * C]))
        said = cli("check", path, "kernel=exponential").out
        chi2 = float(re.search(r"chi2 = ([\d.]+) at 16 times for the nearest rho >= 0", said)[1])
        assert (chi2 < 32, "rho >= 0: none explains these data" in said) == (explained, not explained)
        assert "no spectral density explains" not in said, "one of either sign does"


def test_check_says_how_many_times_its_table_leaves_out(cli: Cli, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "long.txt", [[t, np.exp(-0.05 * t), 0.001 * np.exp(-0.05 * t)] for t in range(1, 41)])
    assert "\nshown: 24 of 40 times\n" in cli("check", tmp_path / "long.txt", "kernel=exponential").out


def test_check_and_a_dry_run_look_at_the_correlators_of_a_config(cli: Cli, tmp_path: Path) -> None:
    file = configurations(tmp_path / "mine.npy")
    target = f"targets={{mine: {{kind: correlator, path: {file}}}}}"
    (tmp_path / "c.yaml").write_text(TINY.replace("period: 16", f"period: {T}").replace("vector", "periodic"))
    for command in (("check",), ("run", "--dry-run")):
        outcome = cli(command[0], tmp_path / "c.yaml", target, *command[1:])
        assert outcome.status == 0, outcome.err
        assert "m_eff" in outcome.out
    assert "neither noise nor any target" in cli("check", tmp_path / "c.yaml").out


def test_a_config_takes_prior_and_ensembles_of_the_shipped_audience(
    cli: Cli, tiny_config: Path, tmp_path: Path
) -> None:
    outcome = cli("run", tiny_config, "training.audience=shipped", "--run", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    config = sdpipe.open_run(tmp_path / "run").config
    assert (config.budget.central, config.training.inputs) == ("Nmax", "local")
    assert "levels" in config.spectra.mixture
    again = cli("run", tmp_path / "run")
    assert "nothing to do" in again.err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["smearing.sigma=[0]"], "command line: smearing.sigma.0: input should be greater than"),
        (["energies={min: -1, max: 9, count: 5}"], "command line: energies.min: input should be greater than"),
        (["energies={min: 50, max: 60, count: 5}"], "energies.min: 50: C(t) from t = 1 on knows nothing above 8.5"),
        (["smearing.sigma=[0.4, 40]"], "smearing.sigma: 40: C(t) from t = 1 on knows nothing above 8.5"),
        (["lattice.times=[1, 4]"], "lattice.times: 4 slices; the shipped audience needs 6 or more"),
        (["kernel=cosine", "lattice.period=24"], "kernel"),
        (["wrong=1"], "command line: wrong: unknown key"),
        (["lattice.perod=24"], "command line: lattice.perod: unknown key; did you mean period?"),
        (["covariance=none"], "command line: covariance: input should be 'full', 'shrink' or 'diagonal'"),
        (["bin=abc"], "command line: bin: input should be a valid integer"),
        (["lattice.times=5"], "command line: lattice.times: input should be a valid tuple"),
        (["spectra.unit=0.5"], "command line: spectra.unit: no longer needed, all units are integrated over"),
        (["energies=5"], "command line: energies: input should be a valid dictionary"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, keys: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = configurations(tmp_path / "mine.npy")
    for command in ("check", "reconstruct"):
        outcome = cli(command, file, *keys)
        assert (outcome.status, outcome.out) == (2, "")
        (fault,) = outcome.faults
        assert said in fault
        assert list(tmp_path.iterdir()) == [file]


def test_a_pool_that_is_not_there_is_a_fault_of_its_key(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("reconstruct", configurations(tmp_path / "mine.npy"), "cluster.cpu=nosuch", "--run", tmp_path / "r")
    assert outcome.status == 2
    assert "error: cluster.cpu: there is no section 'nosuch'" in outcome.err
    assert not (tmp_path / "r").exists()


def test_an_array_is_kept_in_the_run_that_is_made_of_it(tmp_path: Path) -> None:
    samples = np.load(configurations(tmp_path / "mine.npy"))
    (tmp_path / "run.npy").write_bytes(b"something else")
    run = sdpipe.reconstruct(samples, *SMALL, run=tmp_path / "run")
    assert (tmp_path / "run.npy").read_bytes() == b"something else"
    assert np.array_equal(np.load(run.config.targets["array"].path)["samples"], samples)
    assert run.config.targets["array"].path.is_relative_to(tmp_path / "run")
    with pytest.raises(sdpipe.errors.UserError, match=r"must be .configurations, times"):
        sdpipe.reconstruct(samples[0], run=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def errors_alone(path: Path, last: int = T - 1) -> Path:
    """Write columns t C err of a known spectral density."""
    C = np.load(configurations(path.with_suffix(".npy")))
    path.with_suffix(".npy").unlink()
    np.savetxt(path, np.column_stack([np.arange(T), C.mean(axis=0), C.std(axis=0, ddof=1) / N**0.5])[: last + 1])
    return path


def test_what_a_table_of_errors_can_only_mean_is_taken_and_said(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("check", errors_alone(tmp_path / "mine.txt"))
    assert outcome.status == 0, outcome.err
    assert "error: mean; for those of one configuration, which are larger, error=sample configurations=n" in outcome.out
    assert "covariance: diagonal, since errors alone do not say how times are correlated" in outcome.out
    config = suggest(tmp_path / "mine.txt").config
    for section in (config["noise"], config["targets"]["mine"]):
        assert (section["error"], section["covariance"]) == ("mean", "diagonal")
    given = suggest(tmp_path / "mine.txt", ["error=sample", f"configurations={N}"])
    assert given.config["noise"]["error"] == "sample"
    assert not any("error:" in line for line in given.why)
    whole = cli("check", tmp_path / "mine.txt", "covariance=full")
    assert "errors without their correlation between times" in whole.fault


def test_one_refusal_names_all_that_is_missing(cli: Cli, tmp_path: Path) -> None:
    half = errors_alone(tmp_path / "half.txt", T // 2)
    assert (
        f"t = 0..12 are no whole period: say lattice.period=T, {T} if the last one is T/2"
        in cli("reconstruct", half).fault
    )
    assert cli("check", half, f"lattice.period={T}").status == 0
    C = np.load(configurations(tmp_path / "mine.npy"))[:, : T // 2 + 1]
    np.savez(tmp_path / "both.npz", mean=C.mean(axis=0), cov=np.cov(C.T) / N)
    period, error = cli("reconstruct", tmp_path / "both.npz").faults
    assert f"13 time slices are no whole period: say lattice.period=T, {T} if the last one is T/2, or" in period
    assert "and lattice.first, the t of the first one, unless" in period
    assert "say error=mean, or error=sample configurations=n" in error
    assert cli("check", tmp_path / "both.npz", f"lattice.period={T}", "error=mean").status == 0


def test_a_first_slice_that_is_assumed_is_said_and_one_that_is_given_counts(cli: Cli, tmp_path: Path) -> None:
    file, said = tmp_path / "half.npy", "lattice.first: 0, since the file does not say which slice is the first"
    np.save(file, np.load(configurations(tmp_path / "mine.npy"))[:, : T // 2 + 1])
    assert said in cli("check", file, f"lattice.period={T}").out
    assert said not in cli("check", file, f"lattice.period={T}", "lattice.first=0").out
    assert f"say lattice.period=T, {T + 2} if the last one is T/2" in cli("check", file, "lattice.first=1").fault


def test_no_period_is_said_of_a_kernel_without_one(cli: Cli, tmp_path: Path) -> None:
    file = errors_alone(tmp_path / "mine.txt", T // 2)
    assert "kernel exponential, lattice units: t = 0..12" in cli("check", file, "kernel=exponential").out
    assert f"kernel periodic, T = {T}, lattice units: t = 0..12" in cli("check", file, f"lattice.period={T}").out


def test_check_doubts_a_covariance_of_configurations_that_is_taken_for_that_of_the_mean(
    cli: Cli, tmp_path: Path
) -> None:
    samples = np.load(configurations(tmp_path / "mine.npy"))
    np.savez(tmp_path / "x.npz", mean=samples.mean(axis=0), cov=np.cov(samples.T))
    words = "data scatter less than their errors allow"
    assert words in cli("check", tmp_path / "x.npz", "error=mean").out
    assert words not in cli("check", tmp_path / "x.npz", "error=sample", f"configurations={N}").out


@pytest.mark.parametrize("key", ["wrong=1", "spectra.unit=1", "cluster.cpu=nosuch"])
def test_an_array_is_not_kept_where_a_key_is_refused(tmp_path: Path, key: str) -> None:
    samples = np.load(configurations(tmp_path / "mine.npy"))
    with pytest.raises(sdpipe.errors.UserError):
        sdpipe.reconstruct(samples, *SMALL, key, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_noise_that_hides_everything_is_refused(cli: Cli, tmp_path: Path) -> None:
    file = configurations(tmp_path / "mine.npy", relative=150)
    outcome = cli("reconstruct", file, f"lattice.period={T}", "--run", tmp_path / "r")
    assert outcome.status == 2
    words = f"have an error below 30 %; needed: 6 or more (it was read as {N} configurations of {T} times)"
    assert words in outcome.faults[0]
    assert not (tmp_path / "r").exists()


def test_a_slice_that_is_off_and_a_damaged_configuration_are_named_by_check_and_flagged(
    cli: Cli, tmp_path: Path
) -> None:
    samples = np.load(configurations(tmp_path / "mine.npy"))
    samples[:, [5, T - 5]] *= 1.04
    samples[17] *= 3
    np.save(tmp_path / "bad.npy", samples)
    told = cli("check", tmp_path / "bad.npy").out
    outcome = cli("reconstruct", tmp_path / "bad.npy", *SMALL, "--run", tmp_path / "r")
    assert outcome.status == 0, outcome.err
    (budget,) = sdpipe.open_run(tmp_path / "r").budget.values()
    for words in ("configuration 17, counted from 0, up to", "t = 5 is off by "):
        assert f"doubtful: {words}" in told.replace(f"{tmp_path / 'bad.npy'}: ", "")
        assert any(words in flag for flag in budget.attrs["flags"])
    assert told.splitlines()[-1].startswith("next: no density explains these data: see to kernel, period, first slice")


def test_a_table_whose_columns_are_swapped_is_refused_with_a_question(cli: Cli, tmp_path: Path) -> None:
    t = np.arange(2, 18)
    C = np.exp(-0.4 * t)
    np.savetxt(tmp_path / "swapped.txt", np.column_stack([t, 1e-2 * C, C]))
    keys = ("kernel=exponential", "error=mean", "covariance=diagonal")
    fault = cli("check", tmp_path / "swapped.txt", *keys).fault
    assert "every error is larger than its C(t): are the columns t, C(t), error?" in fault


def test_check_says_what_would_help_where_no_sigma_is_resolved(tmp_path: Path) -> None:
    why = suggest(configurations(tmp_path / "mine.npy", relative=1.5), [f"lattice.period={T}"]).why
    assert any(line.startswith("smearing.sigma") and line.endswith("smaller errors would help") for line in why)
    why = suggest(configurations(tmp_path / "fine.npy"), [f"lattice.period={T}"]).why
    assert not any("would help" in line for line in why)


def test_noise_beyond_the_trained_range_is_flagged_with_by_how_much(cli: Cli, tmp_path: Path) -> None:
    file = configurations(tmp_path / "mine.npy", relative=0.9)
    outcome = cli("reconstruct", file, f"lattice.period={T}", *SMALL, "--run", tmp_path / "r")
    assert outcome.status == 0, outcome.err
    assert "times the largest that the shipped audience was trained with (3e-05 to 0.03)" in outcome.err


def test_half_a_period_needs_a_word(cli: Cli, tmp_path: Path) -> None:
    t = np.arange(1, 13)
    np.savetxt(tmp_path / "mine.txt", np.stack([t, np.exp(-0.5 * t), 0.01 * np.exp(-0.5 * t)], axis=1))
    outcome = cli("reconstruct", tmp_path / "mine.txt", "error=mean", "covariance=diagonal", "--run", tmp_path / "r")
    assert outcome.status == 2
    assert "say lattice.period=T" in outcome.faults[0]


@pytest.mark.parametrize("begins", [0, 1])
def test_a_period_that_is_counted_from_one_is_refused_with_the_line_that_counts_from_zero(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: int
) -> None:
    """Either t = 1 is t = 0, or t = T is, as the largest C(t) says."""
    monkeypatch.chdir(tmp_path)
    x = np.load(configurations(tmp_path / "x.npy"))
    error = x.std(axis=0) / np.sqrt(N)
    rows = np.column_stack([np.roll(v, -begins) for v in (x.mean(axis=0), error)])
    np.savetxt("t.txt", np.c_[np.arange(1, T + 1), rows], fmt="%d %.17g %.17g", header="t C err")
    for key in ([], [f"lattice.period={T}"]):
        fault = cli("check", "t.txt", *key).fault
        assert (
            f"t = 1..{T}, and a period of {T} is t = 0..{T - 1}; C(t) is largest at t = {T if begins else 1}" in fault
        )
    command = fault.partition("in a text by ")[2].replace("FILE", "t.txt")
    subprocess.run(command, shell=True, check=True, timeout=HANGING)
    told = cli("check", "x.txt").out
    assert f"kernel periodic, T = {T}, lattice units: t = 0..{T // 2}" in told
    assert "doubtful" not in told
    fault = cli("check", "x.npy", f"lattice.period={T}", "lattice.first=1").fault
    assert "let slices begin at 0, say lattice.first=0" in fault


def test_symmetric_slices_of_an_unusual_number_are_not_taken_for_a_period(cli: Cli, tmp_path: Path) -> None:
    """t = 10..53 of T = 64 looks as T = 44 does: C(44 - t) = C(t)."""
    t, g = np.arange(64), np.random.default_rng(3)
    C = np.exp(-0.3 * t) + np.exp(-0.3 * (64 - t))
    samples = C * (1 + 0.02 * g.standard_normal((100, 1)) + 0.01 * g.standard_normal((100, 64)))
    np.save(tmp_path / "part.npy", samples[:, 10:54])
    assert (
        "44 time slices are symmetric, but few lattices have T = 44: say lattice.period and lattice.first"
        in cli("check", tmp_path / "part.npy").fault
    )
    told = cli("check", tmp_path / "part.npy", "lattice.period=64", "lattice.first=10")
    assert "T = 64" in told.out
    assert cli("check", tmp_path / "part.npy", "lattice.period=44").status == 0


def test_files_of_one_configuration_each_are_refused_with_the_line_that_joins_them(cli: Cli, tmp_path: Path) -> None:
    for i in range(3):
        np.savetxt(tmp_path / f"pion.{i}.dat", np.column_stack([np.arange(8), np.exp(-np.arange(8.0)), np.zeros(8)]))
    line = "numpy.save('x.npy', [numpy.loadtxt(f)[:, 1] for f in sorted(sorted(glob.glob('{}')), key=len)])"
    assert "3 match; " in (fault := cli("check", tmp_path / "pion.*.dat").fault)
    assert line.format(tmp_path / "pion.*.dat") in fault
    assert line.format("PATTERN") in cli("check", tmp_path / "pion.0.dat").fault


def test_a_kernel_with_a_period_where_there_is_none_or_without_one_is_flagged(cli: Cli, tmp_path: Path) -> None:
    t, g = np.arange(T // 2 + 1), np.random.default_rng(6)
    noise = 1 + 0.02 * g.standard_normal((N, 1)) + 0.01 * g.standard_normal((N, T // 2 + 1))
    periodic = (np.exp(-0.3 * t) + np.exp(-0.3 * (T - t)) + np.exp(-0.8 * t)) * noise
    np.save(tmp_path / "periodic.npy", periodic)
    np.save(tmp_path / "open.npy", (np.exp(-0.3 * t) + np.exp(-0.8 * t)) * noise)
    period, open_ = [f"lattice.period={T}"], ["kernel=exponential", "lattice.first=0"]
    words = "times more probable with"
    for name, right, wrong in (("periodic", period, open_), ("open", open_, period)):
        assert words not in cli("check", tmp_path / f"{name}.npy", *right).out
        assert f"{words} " in cli("check", tmp_path / f"{name}.npy", *wrong).out
    outcome = cli("reconstruct", tmp_path / "periodic.npy", *open_, *SMALL, "--run", tmp_path / "r")
    assert outcome.status == 0, outcome.err
    assert "kernel, period or first slice are wrong" in outcome.err


@pytest.mark.skipif(not DATA.exists(), reason="the openQxD correlators are not there")
def test_a_steep_real_correlator_has_the_density_of_its_known_levels(tmp_path: Path) -> None:
    element = ("dataset=matrix", "component=[0,0]", "kernel=exponential", "lattice.first=0", "lattice.times=[1,24]")
    asked = ("smearing.sigma=[0.2]", "energies={min: 1.49, max: 2.81, count: 13}", "validation.samples=400")
    run = sdpipe.reconstruct(DATA, *element, *asked, run=tmp_path / "run")
    (budget,) = (run.budget[name].load().sel(sigma=0.2) for name in run.budget)
    for E, known in ((1.93, 252), (2.15, 498)):
        found = budget.sel(E=E, method="nearest")
        assert abs(found.central - known) < 2 * found.calibrated < 0.05 * known
    assert not budget.attrs["flags"]
