"""The stages together: bit-identical stores, resumed training, and what is made anew when inputs change."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.disk.layout import Layout
from sdpipe.learn import trained, training
from sdpipe.learn.audience import Audience
from sdpipe.pipeline import tasks
from sdpipe.pipeline.tasks import load_audience
from sdpipe.workers import pools
from tests.fixtures import HANGING, Finished, hashes

if TYPE_CHECKING:
    from tests.fixtures import Outcome, SerialPool

Cli = Callable[..., "Outcome"]
Snapshot = Callable[[Path], dict[str, str]]

ONE_CORE = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from sdpipe.__main__ import main; "
ONE_CORE += "sys.exit(main())"
"""The command line on one processor, so with one worker of one thread."""


def chunks(store: Path) -> dict[str, str]:
    """Return the hashes of the files of a store but for their metadata, which hold the time of creation."""
    return {name: found for name, found in hashes(store).items() if not name.endswith("zarr.json")}


def load_network(path: Path) -> trained.Network:
    """Read a checkpoint whatever its bytes are."""
    return trained.load(path, hashlib.sha256(path.read_bytes()).hexdigest())


def networks(root: Path) -> dict[str, trained.Network]:
    """Return every network of a run directory."""
    return {path.stem: load_network(path) for path in sorted((root / "networks").glob("*.npz"))}


def assert_same_network(a: trained.Network, b: trained.Network) -> None:
    assert (a.train_loss, a.val_loss, a.best_epoch) == (b.train_loss, b.val_loss, b.best_epoch)
    assert a.parameters.keys() == b.parameters.keys()
    assert all(np.array_equal(a.parameters[k], b.parameters[k]) for k in a.parameters)


def assert_like_network(a: trained.Network, b: trained.Network) -> None:
    """Fail where two networks differ by more than rounding makes of who trained beside them."""
    assert (a.ensemble, a.sigma, a.replica, a.config_hash) == (b.ensemble, b.sigma, b.replica, b.config_hash)
    assert a.linear_loss == b.linear_loss
    assert a.val_loss == pytest.approx(b.val_loss, rel=1e-3)
    assert a.train_loss == pytest.approx(b.train_loss, rel=1e-3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, shell: Cli) -> Finished:
    """The tiny config run to the end as a user would, with workers. Not to be written to."""
    directory = tmp_path_factory.mktemp("by-workers")
    config = directory / "tiny.yaml"
    config.write_text(tiny_text)
    outcome = shell("-m", "sdpipe", "run", config, cwd=directory)
    assert outcome.status == 0, outcome.err
    return Finished(directory / "runs" / "tiny", config, outcome)


# --- generate ------------------------------------------------------------------------------------------------


def test_training_set_does_not_depend_on_order_or_interruption(
    cli: Cli, serial: SerialPool, finished: Finished, tmp_path: Path
) -> None:
    serial.backwards, serial.fail_after = True, 4
    assert cli("generate", finished.config, "--run", tmp_path / "run").status == 130
    assert len(list((tmp_path / "run" / ".sdpipe/receipts/generate").glob("generate-*"))) == 4
    serial.backwards, serial.fail_after = False, None
    assert cli("generate", finished.config, "--run", tmp_path / "run").status == 0
    made = chunks(tmp_path / "run" / "training.zarr")
    assert len(made) > 3 * 6
    assert made == chunks(finished.root / "training.zarr")


def test_training_set_does_not_depend_on_the_number_of_workers(
    shell: Cli, finished: Finished, finished_copy: Path, tmp_path: Path
) -> None:
    store = finished_copy / "training.zarr"
    for block in ("generate-Nb8-0001", "generate-Nb16-0002"):
        (finished_copy / ".sdpipe/receipts/generate" / f"{block}.json").unlink()
    for lost in ("correlator/c/0/1/0", "smeared/c/1/2/0/0"):
        (store / lost).write_bytes(b"half a chu")
    outcome = shell("-c", ONE_CORE, "generate", finished_copy, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "generate: 6/6" in outcome.err
    assert chunks(store) == chunks(finished.root / "training.zarr")


def test_where_the_driver_is_slow_a_task_makes_several_blocks(
    cli: Cli, serial: SerialPool, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "cores", lambda: 3)
    monkeypatch.setattr(pools, "DRIVER", 1.0)
    outcome = cli("generate", finished.config, "--run", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert serial.done == ["generate-Nb8-0000", "generate-Nb8-0002", "generate-Nb16-0001"]
    assert "generate: 6/6" in outcome.err
    assert chunks(tmp_path / "run" / "training.zarr") == chunks(finished.root / "training.zarr")


def test_a_smaller_training_set_is_the_beginning_of_a_larger_one(cli: Cli, finished: Finished, tmp_path: Path) -> None:
    size = 700
    ensembles = [f"ensembles.{name}.Nrho=400" for name in ("Nmax", "Nref_b", "Nref_rho")]
    run = tmp_path / "run"
    assert cli("generate", finished.config, f"spectra.Nrho={size}", *ensembles, "--run", run).status == 0
    smaller, larger = (xr.open_zarr(r / "training.zarr", consolidated=False) for r in (run, finished.root))
    assert smaller.sizes["sample"] == size
    xr.testing.assert_identical(smaller.drop_attrs().load(), larger.isel(sample=slice(size)).drop_attrs().load())


def test_stored_noise_copies_do_not_depend_on_how_they_were_made(
    cli: Cli, serial: SerialPool, finished: Finished, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert cli("generate", finished.config, "noise.copies=3", "--run", a).status == 0
    serial.backwards = True
    assert cli("generate", finished.config, "noise.copies=3", "--run", b).status == 0
    assert chunks(a / "training.zarr") == chunks(b / "training.zarr")
    data = xr.open_zarr(a / "training.zarr", consolidated=False)
    assert data.noisy.dims == ("Nb", "sample", "copy", "t")
    relative = ((data.noisy - data.correlator) / data.correlator.isel(t=0)).isel(t=0).values
    assert relative.std() == pytest.approx(1e-3, rel=0.05)
    assert np.unique(relative).size > 0.99 * relative.size


SHARES = {"chebyshev": 60, "smooth": 15, "levels": 24, "states": 24}
MIXED = [f"spectra.mixture={SHARES}", "spectra.Nrho=1230", "spectra.positive=true"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, shell: Cli) -> Path:
    """A training set of the mixture, made by as many workers as there are cores."""
    directory = tmp_path_factory.mktemp("mixed")
    (directory / "tiny.yaml").write_text(tiny_text)
    outcome = shell("-m", "sdpipe", "generate", "tiny.yaml", *MIXED, "--run", "run", cwd=directory)
    assert outcome.status == 0, outcome.err
    return directory / "run"


def test_blocks_of_other_versions_are_kept_and_said_in_one_line(
    cli: Cli, serial: SerialPool, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial.fail_after = 2
    with monkeypatch.context() as older:
        older.setattr(tasks, "VERSIONS", {"numpy": "1.0", "sdpipe": "0.0"})
        assert cli("generate", tiny_config, "--run", tmp_path / "run").status == 130
    serial.fail_after = None
    told = cli("generate", tiny_config, "--run", tmp_path / "run")
    assert told.status == 0
    (line,) = [line for line in told.err.splitlines() if "warning" in line]
    assert line == (
        f"warning: generate: 2 blocks are by sdpipe 0.0 with NumPy 1.0, the others by sdpipe {sdpipe.__version__} with "
        f"NumPy {np.__version__}; last bits may differ between them"
    )
    assert len(serial.done) == 6
    assert "warning" not in cli("generate", tiny_config, "--run", tmp_path / "run").err


def test_what_a_worker_was_writing_that_died_is_gone_at_the_end(
    cli: Cli, serial: SerialPool, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, map_all, left = tmp_path / "run", serial.map, []

    def dies(*arguments: Any) -> Iterator[tuple[str, Any]]:
        for result in map_all(*arguments):
            left.append(root / "training.zarr" / f"{result[0]}.{uuid.uuid4().hex}.partial")  # as Zarr does
            left[-1].write_text("half of a chunk")
            yield result

    monkeypatch.setattr(serial, "map", dies)
    assert cli("generate", tiny_config, "--run", root).status == 0
    assert len(left) == 6
    assert list(root.rglob("*.partial")) == []


def test_a_mixture_does_not_depend_on_workers_order_or_interruption(
    cli: Cli, serial: SerialPool, tiny_config: Path, mixed: Path, tmp_path: Path
) -> None:
    reordered = f"spectra.mixture={dict(reversed(SHARES.items()))}"
    serial.backwards, serial.fail_after = True, 3
    assert cli("generate", tiny_config, *MIXED, "--run", tmp_path / "run").status == 130
    serial.backwards, serial.fail_after = False, None
    assert cli("generate", tiny_config, *MIXED, reordered, "--run", tmp_path / "run").status == 0
    assert len(serial.done) == len(set(serial.done)), "no block twice"
    assert chunks(tmp_path / "run" / "training.zarr") == chunks(mixed / "training.zarr")


def test_the_training_set_says_which_component_each_sample_is(mixed: Path) -> None:
    data = xr.open_zarr(mixed / "training.zarr", consolidated=False).load()
    component = data.component
    assert (component.dims, component.dtype) == (("Nb", "sample"), np.uint8)
    meanings = dict(zip(component.flag_meanings.split(), component.flag_values, strict=True))
    assert meanings == {"chebyshev": 0, "levels": 1, "smooth": 2, "states": 3}
    for validates in (False, True):
        part = component[:, data.validation.values == validates]
        for name, value in meanings.items():
            expected = part.sizes["sample"] * SHARES[name] / 123
            assert (np.abs((part == value).sum("sample") - expected) <= 1.5).all()
    assert (data.correlator > 0).all()
    assert (data.smeared > 0).all()
    same = (data.smeared[0] == data.smeared[1]).all(("sigma", "E"))
    np.testing.assert_array_equal(same, component[0] != meanings["chebyshev"])


def test_a_smaller_mixture_is_the_beginning_of_a_larger_one(cli: Cli, mixed: Path, tmp_path: Path) -> None:
    ensembles = [f"ensembles.{name}.Nrho=400" for name in ("Nmax", "Nref_b", "Nref_rho")]
    run, size = tmp_path / "run", 700
    assert cli("generate", mixed, f"spectra.Nrho={size}", *ensembles, "--run", run).status == 0
    smaller, larger = (xr.open_zarr(r / "training.zarr", consolidated=False) for r in (run, mixed))
    xr.testing.assert_identical(smaller.drop_attrs().load(), larger.isel(sample=slice(size)).drop_attrs().load())


# --- train ---------------------------------------------------------------------------------------------------


def test_the_split_is_recorded_disjoint_and_by_sample(finished: Finished) -> None:
    data = xr.open_zarr(finished.root / "training.zarr", consolidated=False)
    validation = data.validation.values
    assert validation.dtype == bool
    assert validation.mean() == pytest.approx(0.2)
    correlators = data.correlator.isel(Nb=0).values
    training = {row.tobytes() for row in correlators[~validation]}
    assert len(training) == (~validation).sum()
    assert training.isdisjoint(row.tobytes() for row in correlators[validation])


def test_history_holds_every_network_and_the_linear_baseline(finished: Finished) -> None:
    history = xr.open_zarr(finished.root / "history.zarr", consolidated=False).load()
    config = load_config(finished.root)
    sizes = {"ensemble": 3, "sigma": 2, "replica": 2, "epoch": 2}
    assert dict(history.sizes) == sizes
    assert history.train_loss.dims == history.val_loss.dims == tuple(sizes)
    assert history.linear_loss.dims == ("ensemble", "sigma")
    assert list(history.ensemble.values) == list(config.ensembles)
    assert list(history.sigma.values) == config.smearing.sigma
    assert bool((history.linear_loss > 0).all())
    for name, network in networks(finished.root).items():
        at = {"ensemble": network.ensemble, "sigma": network.sigma, "replica": network.replica}
        assert history.val_loss.sel(at).values.tolist() == network.val_loss, name
        assert float(history.linear_loss.sel(ensemble=network.ensemble, sigma=network.sigma)) == network.linear_loss
        assert int(history.best_epoch.sel(at)) == network.best_epoch == int(np.argmin(network.val_loss))


def test_networks_are_self_sufficient_and_differ(finished: Finished) -> None:
    config, loaded = load_config(finished.root), networks(finished.root)
    assert len(loaded) == 12
    audience = load_audience(Layout(finished.root))
    assert audience.observables == config.observables
    for network in loaded.values():
        assert network.audience == audience.identity
        assert network.architecture == config.ensembles[network.ensemble].network
    weights = [network.parameters["dense.weight"] for network in loaded.values()]
    assert all(not np.array_equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


LONG = [
    "spectra.Nb=[16]",
    "smearing.sigma=[0.44]",
    "ensembles={Nmax: {Nb: 16, Nrho: 1200, network: arcS}}",
    "budget.references={}",
    "training={replicas: 2, epochs: 12, batch: 16}",
]
"""Overrides of the tiny config for one stack that trains long enough to be killed."""

WIDE = [*LONG, "smearing.sigma=[0.44, 0.63]"]
"""The same for one stack over both sigma."""


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Return the first true value of ``condition``, looked at while ``process`` runs."""
    end = time.monotonic() + HANGING
    while not (value := condition()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)
    return value


@pytest.mark.parametrize("overrides", [LONG, WIDE], ids=["one sigma", "two"])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    cli: Cli,
    serial: SerialPool,
    start: Callable[..., subprocess.Popen[str]],
    tiny_config: Path,
    tmp_path: Path,
    overrides: list[str],
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert cli("generate", tiny_config, *overrides, "--run", straight).status == 0
    shutil.copytree(straight, killed)
    assert cli("train", straight).status == 0
    assert [m["epoch"] for m in serial.messages if m.get("task") == "train-Nmax-0.44-r0"] == list(range(1, 13))

    process = start(["-c", ONE_CORE, "train", str(killed)], tmp_path, start_new_session=True)
    try:
        (state,) = wait_for(lambda: list((killed / ".sdpipe/unfinished").glob("*.pt")), process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not list((killed / "networks").glob("*.npz"))
    assert not (killed / "history.zarr").exists()
    done = torch.load(state, weights_only=True)["epoch"]
    assert 1 <= done < 12

    serial.messages.clear()
    assert cli("train", killed).status == 0
    assert [m["epoch"] for m in serial.messages if m.get("task") == "train-Nmax-0.44-r0"] == list(range(done + 1, 13))
    a, b = networks(straight), networks(killed)
    assert a.keys() == b.keys()
    for name in a:
        assert_same_network(a[name], b[name])
    assert not list((killed / ".sdpipe/unfinished").glob("*.pt"))


def test_ctrl_c_in_mid_training_is_exit_status_130_and_keeps_the_state(
    cli: Cli, start: Callable[..., subprocess.Popen[str]], tiny_config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    hours = ("training.epochs=100000", "training.batch=1")
    assert cli("generate", tiny_config, *LONG, *hours, "--run", run).status == 0
    process = start(["-c", ONE_CORE, "train", str(run)], tmp_path, start_new_session=True)
    try:
        (state,) = wait_for(lambda: list((run / ".sdpipe/unfinished").glob("*.pt")), process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=HANGING)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if line.startswith("interrupted: ")]
    assert "Traceback" not in err
    assert torch.load(state, weights_only=True)["epoch"] >= 1


def test_a_training_that_diverges_is_exit_status_1_and_names_the_network(
    cli: Cli, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = replace(training.PROTOCOLS["default"], rate=lambda _done, _epochs: 1e30)
    monkeypatch.setitem(training.PROTOCOLS, "default", wild)
    assert cli("generate", tiny_config, *LONG, "--run", tmp_path / "run").status == 0
    outcome = cli("train", tmp_path / "run")
    assert outcome.status == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: training diverged: train-Nmax-0.44-r0 at epoch ")
    assert not (tmp_path / "run" / "history.zarr").exists()


# --- analyze -------------------------------------------------------------------------------------------------


def test_budgets_and_figures_are_tasks_of_a_pool_and_the_same_whoever_makes_them(
    cli: Cli, serial: SerialPool, finished: Finished, finished_copy: Path
) -> None:
    targets = list(xr.open_datatree(finished.root / "budget.zarr", engine="zarr", consolidated=False).children)
    assert len(targets) > 1
    assert (finished.root / "logs" / "dask-analyze.html").exists()
    for name in targets:
        (finished_copy / ".sdpipe/receipts/analyze" / f"{name}.json").unlink()
        shutil.rmtree(finished_copy / "budget.zarr" / name)
        for figure in (finished_copy / "figures").glob(f"{name}-*"):
            figure.unlink()
    serial.backwards = True
    assert cli("analyze", finished_copy).status == 0
    assert sorted(serial.done) == sorted(f"analyze-{name}" for name in targets)
    assert chunks(finished_copy / "budget.zarr") == chunks(finished.root / "budget.zarr")
    assert hashes(finished_copy / "figures") == hashes(finished.root / "figures")


# --- what changes when the config changes --------------------------------------------------------------------


def groups(store: Path) -> dict[str, dict[str, bytes]]:
    """Return target -> the files of its group."""
    return {path.name: chunks(path) for path in store.iterdir() if path.is_dir()}


def test_a_changed_target_is_predicted_anew_and_no_other(
    cli: Cli, serial: SerialPool, finished_copy: Path, snapshot: Snapshot
) -> None:
    before, stores = snapshot(finished_copy), groups(finished_copy / "predictions.zarr")
    outcome = cli("predict", finished_copy, "targets.o3.threshold=0.8")
    assert outcome.status == 0
    assert serial.done == ["predict-o3"]
    assert "predict: the inputs of o3 have changed; making them anew" in outcome.err
    assert "delta_tanh" not in outcome.err
    after = groups(finished_copy / "predictions.zarr")
    assert {name for name in after if after[name] != stores[name]} == {"o3"}
    changed = {name for name, content in snapshot(finished_copy).items() if content != before[name]}
    assert {name.split("/")[0] for name in changed} == {"config.yaml", "predictions.zarr", ".sdpipe"}
    assert load_config(finished_copy).targets["o3"].threshold == 0.8
    assert (
        f"budget.zarr: not done: o3 (stale); run: sdpipe analyze {finished_copy}" in cli("report", finished_copy).fault
    )
    budgets = groups(finished_copy / "budget.zarr")
    assert cli("analyze", finished_copy).status == 0
    after = groups(finished_copy / "budget.zarr")
    assert {name for name in after if after[name] != budgets[name]} == {"o3"}


def test_an_added_target_leaves_the_others_alone(cli: Cli, serial: SerialPool, finished_copy: Path) -> None:
    before = groups(finished_copy / "predictions.zarr")
    assert cli("predict", finished_copy, "targets.more={kind: peaks, amplitudes: [1], masses: [1]}").status == 0
    assert serial.done == ["predict-more"]
    after = groups(finished_copy / "predictions.zarr")
    assert after.keys() - before.keys() == {"more"}
    assert all(after[name] == before[name] for name in before)


def test_added_replicas_train_alone_and_enter_the_history(cli: Cli, serial: SerialPool, finished_copy: Path) -> None:
    before = chunks(finished_copy / "networks")
    assert cli("train", finished_copy, "training.replicas=3").status == 0
    assert serial.done == ["train-Nmax-0.44-r2+3", "train-Nref_rho-0.44-r2+1"]
    after = chunks(finished_copy / "networks")
    assert len([name for name in after if name.endswith(".npz")]) == 18
    assert all(after[name] == before[name] for name in before)
    assert sdpipe.open_run(finished_copy).history.sizes["replica"] == 3
    assert "predict" in cli("analyze", finished_copy).fault


def test_fewer_replicas_need_no_training_but_a_new_history(cli: Cli, serial: SerialPool, finished_copy: Path) -> None:
    assert cli("train", finished_copy, "training.replicas=3").status == 0
    serial.done.clear()
    assert cli("train", finished_copy, "training.replicas=2").status == 0
    assert serial.done == []
    assert sdpipe.open_run(finished_copy).history.sizes["replica"] == 2


def test_a_history_that_an_interruption_left_behind_is_made_anew(
    cli: Cli, finished_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_networks: list[trained.Network], _audience: Audience) -> xr.Dataset:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trained, "histories", interrupted)
        assert cli("train", finished_copy, "training.replicas=3").status == 130
    assert cli("train", finished_copy).status == 0
    assert sdpipe.open_run(finished_copy).history.sizes["replica"] == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=2", "seed was 1, is 2"),
        ("kernel=periodic", "kernel was vector, is periodic"),
        ("lattice.times=[1, 7]", "lattice.times was [1, 8], is [1, 7]"),
        ("smearing.sigma=[0.44]", "smearing.sigma was [0.44, 0.63], is [0.44]"),
        ("energies.count=9", "energies.count was 8, is 9"),
        ("spectra.Nrho=1300", "spectra.Nrho was 1200, is 1300"),
        ("noise.r1=0.01", "noise.r1 was 0.001, is 0.01"),
        ("training.epochs=3", "training.epochs was 2, is 3"),
        ("ensembles.Nref_b.network=arcM", "ensembles.Nref_b.network was arcS, is arcM"),
    ],
)
def test_a_section_that_a_run_keeps_for_life_cannot_be_changed(
    cli: Cli, finished_copy: Path, snapshot: Snapshot, override: str, words: str
) -> None:
    before = snapshot(finished_copy)
    fault = cli("run", finished_copy, override).fault
    assert words in fault
    assert str(finished_copy) in fault
    assert "--run" in fault
    assert snapshot(finished_copy) == before


def test_a_changed_noise_file_trains_anew_and_says_so(
    cli: Cli,
    serial: SerialPool,
    tiny_config: Path,
    tmp_path: Path,
    write_hdf5: Callable[..., Path],
    configurations: np.ndarray,
) -> None:
    path = write_hdf5("noise.h5", {"x": configurations})
    run = tmp_path / "run"
    overrides = [*LONG, "training={replicas: 2, epochs: 1}", f"noise={{kind: correlator, path: {path}, dataset: x}}"]
    assert cli("generate", tiny_config, *overrides, "kernel=periodic", "--run", run).status == 0
    assert cli("train", run).status == 0
    first = networks(run)
    serial.done.clear()
    assert f"{run}: everything is done; nothing to do\n" in cli("train", run).err
    with h5py.File(path, "a") as file:
        file["x"][:] = configurations[:, ::-1]
    outcome = cli("train", run)
    assert outcome.status == 0
    assert serial.done == ["train-Nmax-0.44-r0+1"]
    assert "train: the inputs of Nmax-sigma0-replica000, Nmax-sigma0-replica001 have changed" in outcome.err
    second = networks(run)
    assert all(first[n].config_hash != second[n].config_hash for n in first)
