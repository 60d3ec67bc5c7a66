"""Data files: each is read once per command, and what is made of it is of the bytes that were read."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import yaml

import sdpipe
from sdpipe.disk.receipts import sha256
from sdpipe.pipeline import tasks, training_tasks
from tests.pipeline.test_pipeline import LONG, assert_same_network, chunks, networks

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome

Cli = Callable[..., "Outcome"]

OPENED, CLOSED = 0x20, 0x18
"""Events of inotify(7)."""


@contextmanager
def opens(path: Path) -> Iterator[list[int]]:
    """Count how often any process, in any language, opens a file: the one entry of the list when the block ends."""
    libc, count = ctypes.CDLL(None, use_errno=True), list[int]()
    queue = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert queue >= 0
    try:
        # Closing is watched so that two opens in a row stay two events.
        assert libc.inotify_add_watch(queue, os.fsencode(path), OPENED | CLOSED) >= 0
        yield count
        try:
            events = os.read(queue, 2**20)
        except BlockingIOError:
            events = b""
        count.append(sum(bool(mask & OPENED) for _, mask, _, _ in struct.iter_unpack("iIII", events)))
    finally:
        os.close(queue)


def states(cli: Cli, root: Path) -> dict[str, str]:
    return {s["name"]: s["state"] for s in json.loads(cli("status", root, "--json").out)["stages"]}


@pytest.fixture
def data(write_hdf5: Callable[..., Path], configurations: np.ndarray) -> Path:
    """A file of two correlators."""
    return write_hdf5("data.h5", {"x": configurations, "y": 1.5 * configurations})


@pytest.fixture
def move_at(
    data: Path, write_hdf5: Callable[..., Path], configurations: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ModuleType, str], None]:
    """Let another file be moved to the place of ``data`` when a task begins."""
    other = write_hdf5("other.h5", {"x": 2 * configurations[::-1, ::-1] + 0.01, "y": configurations})

    def move_at(module: ModuleType, name: str) -> None:
        task = getattr(module, name)

        def after_a_move(*arguments: object) -> object:
            if other.exists():
                other.rename(data)
            return task(*arguments)

        monkeypatch.setattr(module, name, after_a_move)

    return move_at


def test_a_target_whose_file_is_replaced_meanwhile_is_of_what_was_read(
    cli: Cli,
    finished: Finished,
    finished_copy: Path,
    tmp_path: Path,
    data: Path,
    move_at: Callable[[ModuleType, str], None],
) -> None:
    target, read = f"targets.mine={{kind: correlator, path: {data}, dataset: x}}", sha256(data)
    root, undisturbed = finished_copy, Path(shutil.copytree(finished.root, tmp_path / "undisturbed"))
    assert cli("run", undisturbed, target).status == 0
    move_at(tasks, "predict_target")
    assert cli("run", root, target).status == 0
    assert sha256(data) != read
    made = chunks(root / "predictions.zarr/mine")
    assert made == chunks(undisturbed / "predictions.zarr/mine")
    run = sdpipe.open_run(root)
    with pytest.warns(UserWarning, match="mine was made from other inputs"):
        assert run.predictions["mine"].correlator.attrs["sha256"] == read
    page = (root / "report.html").read_text()
    assert read[:16] in page
    assert sha256(data)[:16] not in page
    told = states(cli, root)
    assert {name for name, state in told.items() if state == "stale"} == {"predict", "analyze", "report"}
    assert "predictions.zarr: not done: mine (stale)" in cli("analyze", root).fault
    outcome = cli("run", root)
    assert "predict: the inputs of mine have changed; making them anew" in outcome.err
    assert set(states(cli, root).values()) == {"done"}
    assert chunks(root / "predictions.zarr/mine") != made


def test_networks_whose_noise_is_replaced_meanwhile_are_of_what_was_read(
    cli: Cli, tiny_config: Path, tmp_path: Path, data: Path, move_at: Callable[[ModuleType, str], None]
) -> None:
    noise = f"noise={{kind: correlator, path: {data}, dataset: x}}"
    roots = [tmp_path / name for name in ("undisturbed", "disturbed")]
    short = [*LONG, "training={replicas: 2, epochs: 1}", "kernel=periodic", noise]
    for root in roots:
        assert cli("generate", tiny_config, *short, "--run", root).status == 0
    assert cli("train", roots[0]).status == 0
    move_at(training_tasks, "train_stack")
    assert cli("train", roots[1]).status == 0
    a, b = map(networks, roots)
    assert len(a) == 2
    for name, network in a.items():
        assert_same_network(network, b[name])
        assert network.config_hash == b[name].config_hash
    assert states(cli, roots[1])["train"] == "stale"
    assert "Nmax-sigma0-replica000 (stale)" in cli("predict", roots[1]).fault
    assert cli("train", roots[1]).status == 0
    assert states(cli, roots[1])["train"] == "done"


def test_a_target_whose_slices_begin_at_one_is_added_to_a_finished_run(
    cli: Cli, finished_copy: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", sdpipe.open_run(finished_copy).predictions["o3"].correlator.values)
    target = f"targets.mine={{kind: correlator, path: {tmp_path / 'x.npy'}, resampling: bootstrap}}"
    fault = cli("predict", finished_copy, target).fault
    assert "lattice.first: " in fault
    assert "8 time slices, neither T = 16 nor T/2 + 1, and the file does not say which" in fault
    outcome = cli("predict", finished_copy, target, "lattice.first=1")
    assert outcome.status == 0, outcome.err
    run = sdpipe.open_run(finished_copy)
    mine, o3 = (run.predictions[name].correlator for name in ("mine", "o3"))
    np.testing.assert_allclose(mine, o3, rtol=1e-6)
    assert states(cli, finished_copy)["train"] == "done"
    assert cli("predict", finished_copy, "lattice.first=0").status == 2


def test_a_command_opens_a_data_file_once(shell: Cli, tiny_config: Path, tmp_path: Path, data: Path) -> None:
    """Noise and two targets are in one file; drivers and workers are processes of their own."""
    root = tmp_path / "run"
    targets = ", ".join(f"{name}: {{kind: correlator, path: {data}, dataset: {name}}}" for name in "xy")
    noise = f"noise={{kind: correlator, path: {data}, dataset: x, copies: 1}}"
    short = [*LONG, "training={replicas: 2, epochs: 1}", "kernel=periodic", noise, f"targets={{{targets}}}"]
    for arguments in (("run", tiny_config, *short, "--run", root), ("run", root), ("status", root)):
        with opens(data) as count:
            outcome = shell("-m", "sdpipe", *arguments, cwd=tmp_path)
        assert outcome.status == 0, outcome.err
        assert count == [1], arguments


def test_many_targets_in_a_large_file_are_looked_at_with_one_read(
    cli: Cli, finished_copy: Path, tmp_path: Path
) -> None:
    path, values = tmp_path / "large.h5", np.random.default_rng(1).standard_normal((12_500, 200))
    with h5py.File(path, "w") as file:
        file["x"] = values
    assert path.stat().st_size > 20e6
    config = finished_copy / "config.yaml"
    sections = yaml.safe_load(config.read_text())
    sections["targets"] |= {f"x{i}": {"kind": "correlator", "path": str(path), "dataset": "x"} for i in range(200)}
    config.write_text(yaml.safe_dump(sections))
    with opens(path) as count:
        stages = json.loads(cli("status", finished_copy, "--json").out)["stages"]
    assert count == [1]
    (predict,) = (s for s in stages if s["name"] == "predict")
    assert (predict["state"], predict["done"], predict["total"]) == ("unfinished", 4, 204)
