"""Bad input: exit status 2, one clear line, no traceback, and nothing written."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome

Cli = Callable[..., "Outcome"]
Write = Callable[..., Path]
Snapshot = Callable[[Path], dict[str, str]]

PERIOD = 16
TIMES = slice(1, 9)


def covariance() -> np.ndarray:
    """Return a sound covariance at t = 0 .. 15, of errors 1e-3 and correlation exp(-|t - t'| / 3)."""
    t = np.arange(PERIOD)
    return 1e-6 * np.exp(-np.abs(t[:, None] - t) / 3)


def mean() -> np.ndarray:
    """Return a sound mean at t = 0 .. 15."""
    t = np.arange(PERIOD)
    return np.exp(-0.5 * t) + np.exp(-0.5 * (PERIOD - t))


def spoilt(values: np.ndarray, at: Any, value: float) -> np.ndarray:
    values = values.copy()
    values[at] = value
    return values


def refused(cli: Cli, config: Path, *overrides: str) -> str:
    """Run the pipeline in a directory that must not appear; return the one fault."""
    run = config.parent / "run"
    before = sorted(config.parent.iterdir())
    fault = cli("run", config, *overrides, "--run", run).fault
    assert not run.exists()
    assert sorted(config.parent.iterdir()) == before
    return fault


def test_the_sound_files_of_this_module_are_accepted(
    cli: Cli, tiny_config: Path, write_hdf5: Write, configurations: np.ndarray
) -> None:
    noise = write_hdf5("noise.h5", {"octet(0)/mean": mean(), "octet(0)/cov": covariance()})
    data = write_hdf5("data.h5", {"x": configurations})
    for override in (
        f"noise={{kind: hdf5, path: {noise}}}",
        f"noise={{kind: correlator, path: {data}, dataset: x}}",
        f"targets.mine={{kind: correlator, path: {data}, dataset: x}}",
    ):
        assert cli("run", tiny_config, override, "--dry-run").status == 0


# --- the config ----------------------------------------------------------------------------------------------


def test_every_fault_of_a_config_has_its_line(cli: Cli, write_config: Write, tmp_path: Path) -> None:
    config = write_config(("seed: 1", "seed: one"), ("kernel: vector", "kernel: 3"))
    outcome = cli("run", config, "training.epoch=3", "--run", tmp_path / "run")
    keys = [line.split(": ")[2] for line in outcome.faults]
    assert sorted(keys) == ["kernel", "seed", "training.epoch"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("noise={kind: hdf5, path: ~nosuchuser/x.h5}", "noise.path", "~nosuchuser: there is no such user here"),
        (f"noise={{kind: hdf5, path: {5000 * 'x'}.h5}}", "noise.path", "allowed: at most 4095"),
        (f"noise={{kind: hdf5, path: {300 * 'x'}.h5}}", "noise.path", "cannot be read (File name too long)"),
        (f"noise={{kind: hdf5, path: {300 * 'x'}}}", "noise.path", "cannot tell the format"),
        ("spectra.Nrho=99999999999", "spectra.Nrho", "less than or equal to 10000000"),
        ("lattice={period: 100000, times: [1, 50000]}", "lattice.times", "50000 slices; allowed: at most 2048"),
        ("smearing.sigma=[1e-300]", "smearing.sigma.0", "greater than or equal to 0.0001"),
        ("smearing.sigma=[1e300]", "smearing.sigma.0", "less than or equal to 10000"),
        ("smearing.sigma=[0.0002]", "smearing.sigma.0", "allowed here: from 0.00023 on"),
        ("smearing.sigma=[0.1, 1000]", "smearing.sigma.0", "below 1e-3 of the largest sigma"),
        ("lattice.spacing=1e-300", "lattice.spacing", "greater than or equal to 0.0001"),
        ("lattice={period: 400, times: [1, 200], spacing: 100}", "lattice.spacing", "spacing * t * E0 up to 1e4"),
        ("spectra.E0=[1e-300, 1]", "spectra.E0.0", "greater than or equal to 0.0001"),
        ("spectra.mixture={chebyshev: .inf}", "spectra.mixture.chebyshev", "finite number"),
        ("spectra.mixture={chebyshev: 0, states: 0}", "spectra.mixture", "no component has a positive share; "),
        ("spectra.mixture={chebyshev: -1, states: 2}", "spectra.mixture.chebyshev", "share -1 of chebyshev"),
        ("spectra.mixture.glueballs=1", "spectra.mixture.glueballs", "allowed: chebyshev, smooth, "),
        ("spectra.mixture=states", "spectra.mixture", "dictionary"),
        ("spectra.positive=maybe", "spectra.positive", "boolean"),
        ("energies.max=1e300", "energies.max", "less than or equal to 10000"),
        ("noise.r1=1e300", "noise.r1", "less than or equal to 1000"),
        ("noise.r1=1e-300", "noise.r1", "greater than or equal to 0.000000000001"),
        ("noise.tau=1e300", "noise.tau", "less than or equal to 1000000"),
        ("noise.delta=1000", "noise.delta", "less than or equal to 10"),
        ("noise={kind: synthetic, delta: -10, r1: 1e-12}|lattice={period: 200, times: [1, 50]}", "noise.delta", "t = "),
        ("noise={kind: synthetic, covariance: shrink}", "noise.covariance", "shrink needs samples"),
        ("noise.model={kind: o3, threshold: 900}", "noise.model", "; allowed: 1e-37 to 1e+37 in size"),
        (
            "targets.x={kind: peaks, amplitudes: [1e300], masses: [1]}",
            "targets.x.amplitudes.0",
            "less than or equal to 1",
        ),
        ("targets.x={kind: peaks, amplitudes: [1], masses: [1e300]}", "targets.x.masses.0", "equal to 10000"),
        ("targets.x={kind: peaks, amplitudes: [1], masses: [1e4]}", "targets.x", "C(t = 1) = 0; allowed: 1e-37 to"),
        ("targets.x={kind: peaks, amplitudes: [0], masses: [1]}", "targets.x", "C(t = 1) = 0; allowed: 1e-37 to"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["", "dry"])
@pytest.mark.filterwarnings("error")
def test_values_beyond_what_can_be_computed(
    cli: Cli, tiny_config: Path, override: str, key: str, words: str, more: list[str]
) -> None:
    fault = refused(cli, tiny_config, *override.split("|"), *more)
    assert fault.startswith(f"error: command line: {key}: ")
    assert words in fault


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_gpu_that_is_not_there(cli: Cli, tiny_config: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fault = refused(cli, tiny_config, "training.device=cuda", *more)
    here = f"no CUDA GPU on this machine ({socket.gethostname()}); allowed here: auto, cpu"
    assert fault == f"error: command line: training.device: {here}"


def test_a_gpu_is_needed_where_networks_are_to_be_trained_only(
    cli: Cli, finished_copy: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli("run", finished_copy, "training.device=cuda").status == 0
    assert cli("generate", tiny_config, "training.device=cuda", "--dry-run").status == 0


# --- noise from mean and covariance --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "datasets", "key", "words"),
    [
        ("octet(1)", (mean(), covariance()), "group", "there is no dataset 'octet(0)'; those there: octet(1)"),
        ("octet(0)", (mean(), np.full((16, 16), 1e-6)), "covariance", "not positive definite"),
        ("octet(0)", (0 * mean(), covariance()), "path", "zero at t_ref = 1"),
    ],
)
def test_a_covariance_that_cannot_be_used(
    cli: Cli, tiny_config: Path, write_hdf5: Write, group: str, datasets: tuple[np.ndarray, ...], key: str, words: str
) -> None:
    path = write_hdf5("noise.h5", dict(zip((f"{group}/mean", f"{group}/cov"), datasets, strict=True)))
    fault = refused(cli, tiny_config, f"noise={{kind: hdf5, path: {path}, group: octet(0)}}")
    assert fault.startswith(f"error: command line: noise.{key}: {path}: ")
    assert words in fault


def test_a_group_is_asked_for_where_a_file_holds_several(cli: Cli, tiny_config: Path, write_hdf5: Write) -> None:
    several = {
        f"{group}/{name}": values for group in "ab" for name, values in (("mean", mean()), ("cov", covariance()))
    }
    path = write_hdf5("noise.h5", several)
    fault = refused(cli, tiny_config, f"noise={{kind: hdf5, path: {path}}}")
    assert "noise" in fault
    assert f"{path}: say which dataset to read; those there: a, b" in fault
    assert cli("run", tiny_config, f"noise={{kind: hdf5, path: {path}, group: b}}", "--dry-run").status == 0


def test_a_file_that_does_not_say_its_times_needs_the_first_of_them(
    cli: Cli, tiny_config: Path, write_hdf5: Write
) -> None:
    datasets = {"octet(0)/mean": mean()[1:12], "octet(0)/cov": covariance()[1:12, 1:12]}
    noise = f"noise={{kind: hdf5, path: {write_hdf5('noise.h5', datasets)}}}"
    fault = refused(cli, tiny_config, noise)
    assert f"{tiny_config}:4: lattice.first: " in fault
    assert "11 time slices, neither T = 16 nor T/2 + 1, and the file does not say which" in fault
    for first, status in ((1, 0), (2, 2)):
        assert (
            cli("run", tiny_config, noise, f"lattice.first={first}", "kernel=exponential", "--dry-run").status == status
        )


def test_a_covariance_alone_cannot_be_shrunk(cli: Cli, tiny_config: Path, write_hdf5: Write) -> None:
    path = write_hdf5("noise.h5", {"octet(0)/mean": mean(), "octet(0)/cov": covariance()})
    fault = refused(cli, tiny_config, f"noise={{kind: hdf5, path: {path}, covariance: shrink}}")
    assert "needs samples" in fault


# --- correlators, as the noise and as a target; tests/correlators has what may be wrong with their files -----


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("noise={{kind: correlator, path: {}, dataset: x}}", "noise.path"),
        ("targets.mine={{kind: correlator, path: {}, dataset: x}}", "targets.mine.path"),
        ("noise={{kind: correlator, path: {}, dataset: y}}", "noise.dataset"),
        ("noise={{kind: hdf5, path: {}, group: y}}", "noise.group"),
    ],
)
def test_a_file_of_data_is_refused_wherever_it_stands(
    cli: Cli, tiny_config: Path, write_hdf5: Write, configurations: np.ndarray, override: str, key: str
) -> None:
    path = write_hdf5("data.h5", {"x": spoilt(configurations, (3, 5), np.nan)})
    fault = refused(cli, tiny_config, override.format(path))
    assert fault.startswith(f"error: command line: {key}: {path}: ")


def test_a_fault_of_a_file_of_data_names_the_line_of_its_key(
    cli: Cli, write_config: Write, write_hdf5: Write, configurations: np.ndarray
) -> None:
    path = write_hdf5("data.h5", {"x": configurations})
    entry = f"targets:\n  mine:\n    kind: correlator\n    path: {path}\n    dataset: y\n"
    config = write_config(("targets:\n", entry))
    line = config.read_text().splitlines().index("    dataset: y") + 1
    assert refused(cli, config).startswith(f"error: {config}:{line}: targets.mine.dataset: {path}: ")


def test_a_file_of_nothing_but_a_link_is_refused_as_a_link(cli: Cli, tiny_config: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["there"] = h5py.ExternalLink("b.h5", "x")
    fault = refused(cli, tiny_config, f"targets.mine={{kind: correlator, path: {tmp_path / 'a.h5'}}}")
    assert fault.endswith(f"{tmp_path / 'a.h5'}: there: a link; the numbers must be in the file itself")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("factor", "more", "key", "words"),
    [
        (1e-120, "", "path", "C(t = 1) = 6.06e-121; allowed: 1e-100 to 1e+100 in size"),
        (1e120, "", "path", "C(t = 1) = 6.06e+119; allowed: 1e-100 to 1e+100 in size"),
        (1e20, ", scale: 1e20", "scale", "C times scale: C(t = 1) = 6.06e+39; allowed: 1e-30 to 1e+30 in size"),
    ],
)
def test_a_correlator_too_small_or_large_to_compute_with_is_refused_before_any_work(
    cli: Cli,
    tiny_config: Path,
    write_hdf5: Write,
    configurations: np.ndarray,
    factor: float,
    more: str,
    key: str,
    words: str,
) -> None:
    path = write_hdf5("data.h5", {"x": configurations * factor})
    fault = refused(cli, tiny_config, f"targets.mine={{kind: correlator, path: {path}{more}}}")
    assert fault.startswith(f"error: command line: targets.mine.{key}: ")
    assert fault.endswith(words)


@pytest.mark.filterwarnings("error")
def test_values_whose_squares_overflow_are_refused_without_a_warning(
    cli: Cli, tiny_config: Path, write_hdf5: Write, configurations: np.ndarray
) -> None:
    path = write_hdf5("data.h5", {"x": configurations * 1e308})
    fault = refused(cli, tiny_config, f"targets.mine={{kind: correlator, path: {path}}}")
    assert fault.startswith(f"error: command line: targets.mine.path: {path}: x: a value of size ")


def test_noise_from_fewer_configurations_than_times_needs_a_remedy(
    cli: Cli, tiny_config: Path, write_hdf5: Write, configurations: np.ndarray
) -> None:
    path = write_hdf5("data.h5", {"x": configurations[:6]})
    noise = f"noise={{kind: correlator, path: {path}, dataset: x, covariance: %s}}"
    fault = refused(cli, tiny_config, noise % "full")
    assert "6 samples" in fault
    assert "shrink" in fault
    for remedy in ("shrink", "diagonal"):
        assert cli("run", tiny_config, noise % remedy, "--dry-run").status == 0


def test_every_target_that_cannot_be_used_is_named(
    cli: Cli, tiny_config: Path, write_hdf5: Write, configurations: np.ndarray, tmp_path: Path
) -> None:
    path = write_hdf5("data.h5", {"x": spoilt(configurations, (3, 5), np.nan)})
    outcome = cli(
        "run",
        tiny_config,
        f"targets.mine={{kind: correlator, path: {path}, dataset: x}}",
        f"targets.other={{kind: correlator, path: {path}, dataset: y}}",
        "--run",
        tmp_path / "run",
    )
    assert len(outcome.faults) == 2
    assert all(name in fault for name, fault in zip(("targets.mine", "targets.other"), outcome.faults, strict=True))
    assert not (tmp_path / "run").exists()


# --- run directories -----------------------------------------------------------------------------------------


def refused_in(cli: Cli, snapshot: Snapshot, run: Path, *arguments: str | Path) -> str:
    """Run a command that must leave the run directory ``run`` as it is; return the one fault."""
    before = snapshot(run)
    fault = cli(*arguments).fault
    assert snapshot(run) == before
    return fault


def test_a_run_directory_of_another_config(
    cli: Cli, tiny_config: Path, finished_copy: Path, snapshot: Snapshot
) -> None:
    for stage in ("generate", "train", "predict", "analyze", "report", "run", "status"):
        fault = refused_in(cli, snapshot, finished_copy, stage, tiny_config, "seed=2", "--run", finished_copy)
        assert f"{finished_copy}: made from another config: seed was 1, is 2" in fault
    before = snapshot(finished_copy)
    both = cli("run", tiny_config, "seed=2", "kernel=periodic", "--run", finished_copy)
    assert "seed was 1, is 2; kernel was vector, is periodic; give this one another name" in both.fault
    assert snapshot(finished_copy) == before


def test_a_config_that_was_edited_in_its_run_directory_loses_no_work(
    cli: Cli, finished_copy: Path, snapshot: Snapshot
) -> None:
    config = finished_copy / "config.yaml"
    config.write_text(config.read_text().replace("seed: 1", "seed: 3"))
    for stage in ("generate", "train", "run", "status"):
        fault = refused_in(cli, snapshot, finished_copy, stage, finished_copy)
        assert f"{finished_copy}: made from another config: seed was 1, is 3" in fault
    config.write_text(config.read_text().replace("seed: 3", "seed: 1").replace("bootstrap: 50\n", "bootstrap: 51\n"))
    assert cli("predict", finished_copy).status == 0


def test_a_directory_of_something_else_is_left_alone(cli: Cli, tiny_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").write_text("three years of work")
    assert "not empty and not a run directory" in cli("run", tiny_config, "--run", run).fault
    assert [p.name for p in run.iterdir()] == ["thesis.tex"]
    assert "not a run directory" in cli("run", tiny_config, "--run", run / "thesis.tex").fault


def test_a_run_directory_that_is_named_like_a_store(cli: Cli, tiny_config: Path, tmp_path: Path) -> None:
    fault = cli("run", tiny_config, "--run", tmp_path / "x.zarr").fault
    assert fault.startswith(f"error: {tmp_path / 'x.zarr'}: a run directory must not end in .zarr")
    assert "choose another" in refused(cli, tiny_config, "name=x.zarr")
    assert not (tmp_path / "x.zarr").exists()


def test_a_run_directory_with_a_damaged_config(cli: Cli, finished_copy: Path, snapshot: Snapshot) -> None:
    (finished_copy / "config.yaml").write_text("name: [")
    assert f"{finished_copy / 'config.yaml'}:" in refused_in(cli, snapshot, finished_copy, "run", finished_copy)


@pytest.mark.parametrize(
    ("stage", "lost", "words"),
    [
        ("train", "training.zarr", "sdpipe generate"),
        ("predict", "networks", "sdpipe train"),
        ("analyze", "predictions.zarr", "sdpipe predict"),
        ("report", "budget.zarr", "sdpipe analyze"),
    ],
)
def test_a_missing_earlier_stage(
    cli: Cli, tiny_config: Path, finished_copy: Path, snapshot: Snapshot, stage: str, lost: str, words: str
) -> None:
    shutil.rmtree(finished_copy / lost)
    fault = refused_in(cli, snapshot, finished_copy, stage, finished_copy)
    assert str(finished_copy / lost) in fault
    assert "missing" in fault
    assert words in fault
    empty = tiny_config.parent / "empty"
    assert "missing" in cli(stage, tiny_config, "--run", empty).fault
    assert not empty.exists()


def test_a_store_with_missing_blocks(cli: Cli, finished_copy: Path, snapshot: Snapshot) -> None:
    (finished_copy / ".sdpipe/receipts/generate" / "generate-Nb16-0001.json").unlink()
    fault = refused_in(cli, snapshot, finished_copy, "train", finished_copy)
    assert f"{finished_copy / 'training.zarr'}: not done: generate-Nb16-0001 (missing)" in fault
    assert f"run: sdpipe generate {finished_copy}" in fault


def test_a_store_that_has_lost_a_chunk(cli: Cli, finished: Finished, finished_copy: Path, snapshot: Snapshot) -> None:
    """A chunk that is not there reads as fill values: training on them would go unnoticed."""
    lost = "smeared/c/1/1/0/0"
    (finished_copy / "training.zarr" / lost).unlink()
    (finished_copy / ".sdpipe/receipts/train" / "Nmax-sigma0-replica000.json").unlink()
    fault = refused_in(cli, snapshot, finished_copy, "train", finished_copy)
    assert "generate-Nb16-0001" in fault
    assert cli("generate", finished_copy).status == 0
    repaired = (finished_copy / "training.zarr" / lost).read_bytes()
    assert repaired == (finished.root / "training.zarr" / lost).read_bytes()


def test_a_missing_network_is_named(cli: Cli, finished_copy: Path, snapshot: Snapshot) -> None:
    (finished_copy / "networks" / "Nmax-sigma1-replica001.npz").unlink()
    fault = refused_in(cli, snapshot, finished_copy, "predict", finished_copy)
    assert f"networks: not done: Nmax-sigma1-replica001 (damaged); run: sdpipe train {finished_copy}" in fault


def test_a_damaged_network_is_named(cli: Cli, finished_copy: Path) -> None:
    path = finished_copy / "networks" / "Nmax-sigma1-replica001.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert "Nmax-sigma1-replica001 (damaged)" in cli("predict", finished_copy, "bootstrap=60").fault
    assert f"error: {path}: damaged" in cli("status", finished_copy, "--verify").err
