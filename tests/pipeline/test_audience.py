"""Which networks train side by side: replicas of one ensemble and sigma, or all of one architecture and size."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from sdpipe.config.load import load_config
from sdpipe.errors import RunError
from sdpipe.learn import memory, trained
from sdpipe.pipeline.audience import stack_need
from sdpipe.pipeline.pieces import NetworkId, StackTask
from sdpipe.workers import pools
from sdpipe.workers.choice import wide_stacks

if TYPE_CHECKING:
    from tests.conftest import Finished, Outcome, SerialPool

Cli = Callable[..., "Outcome"]

WIDE = ["train-Nmax-0.44-r0-to-Nref_b-0.63-r1", "train-Nref_rho-0.44-r0-to-Nref_rho-0.63-r1"]
"""Stacks of the tiny run: two ensembles of 1200 samples, one of 400, each with two sigma and two replicas."""


@pytest.fixture
def wide(cli: Cli, serial: SerialPool, tiny_config: Path, tmp_path: Path) -> Path:
    """A run whose networks were trained in one stack for each size."""
    root = tmp_path / "wide"
    assert cli("generate", tiny_config, "training.stack=architecture", "--run", root).status == 0
    serial.done.clear()
    assert cli("train", root).status == 0
    assert serial.done == WIDE
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((root / "networks").glob("*.pt"))}


def test_networks_of_wide_stacks_are_those_of_stacks_of_replicas_but_for_rounding(
    wide: Path, finished: Finished
) -> None:
    ours, theirs = files(wide), files(finished.root)
    assert ours.keys() == theirs.keys()
    for name in ours:
        a, b = (trained.load(root / "networks" / f"{name}.pt") for root in (wide, finished.root))
        assert (a.ensemble, a.sigma, a.replica, a.config_hash) == (b.ensemble, b.sigma, b.replica, b.config_hash)
        assert a.linear_loss == b.linear_loss
        assert a.val_loss == pytest.approx(b.val_loss, rel=1e-3)
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-3)


def test_a_lost_network_is_trained_again_in_the_stack_it_was_in_to_the_same_bytes(
    cli: Cli, serial: SerialPool, wide: Path
) -> None:
    before = files(wide)
    (wide / "networks" / "Nref_b-sigma1-replica000.pt").unlink()
    serial.done.clear()
    outcome = cli("train", wide, "training.stack=replicas")
    assert outcome.status == 0, outcome.err
    assert serial.done == WIDE[:1]
    assert files(wide) == before


def test_new_replicas_join_no_stack_of_old_ones(cli: Cli, serial: SerialPool, wide: Path) -> None:
    before = files(wide)
    serial.done.clear()
    assert cli("train", wide, "training.replicas=3").status == 0
    assert serial.done == ["train-Nmax-0.44-r2-to-Nref_b-0.63-r2", "train-Nref_rho-0.44-r2-to-Nref_rho-0.63-r2"]
    after = files(wide)
    assert {name: after[name] for name in before} == before
    assert len(after) == 18


def test_a_wide_stack_that_does_not_fit_is_cut_and_says_so(cli: Cli, serial: SerialPool, wide: Path) -> None:
    need = stack_need(load_config(wide), StackTask("", (NetworkId("Nmax", 0, 0),), ()))
    serial.memory = memory.LIBRARIES + int((2 * need.data(False) + 4.5 * need.member(False)) / memory.SHARE)
    for path in (wide / "networks").glob("*.pt"):
        path.unlink()
    before = sorted(path.stem for path in (wide / ".sdpipe" / "train").glob("N*.json"))
    outcome = cli("train", wide)
    assert outcome.status == 0, outcome.err
    assert f"{WIDE[0]}: 8 networks do not fit" in outcome.err
    assert "training 4 at a time" in outcome.err
    assert sorted(files(wide)) == before


def test_a_task_that_kills_its_workers_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pools.SETTINGS, "distributed.scheduler.allowed-failures", 1)
    with (
        pytest.raises(RunError, match=r"^greedy: 2 workers died of it, .* give workers more memory$"),
        pools.local_pool(1, tmp_path / "log.html", lambda _: None) as pool,
    ):
        list(pool.map(os._exit, [pools.Task("greedy", (1,))]))


@pytest.mark.parametrize(
    ("overrides", "gpu", "expected"),
    [
        ([], False, False),
        ([], True, True),
        (["training.device=cpu"], True, False),
        (["training.replicas_per_task=1"], True, False),
        (["training.stack=replicas"], True, False),
        (["training.stack=architecture"], False, True),
        (["cluster.gpu=slurm-gpu", "cluster.jobs=1"], False, True),
        (["cluster.gpu=slurm-gpu", "cluster.jobs=8"], False, False),
    ],
)
def test_left_to_itself_a_stack_is_wide_where_one_gpu_trains_everything(
    overrides: list[str], gpu: bool, expected: bool, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert wide_stacks(load_config(tiny_config, overrides)) == expected


def test_workers_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (700, 1000))
    assert [memory.available(torch.device("cuda"), 1, n) for n in (1, 2, 5)] == [420, 300, 120]


def test_a_worker_without_the_gpu_that_is_asked_for_names_its_host(
    cli: Cli, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    assert cli("generate", tiny_config, "--run", root).status == 0
    has_gpu = [True]  # the driver sees one, the worker does not
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(has_gpu and has_gpu.pop()))
    outcome = cli("train", root, "training={device: cuda, replicas: 2, epochs: 2}")
    assert outcome.status == 1
    line = outcome.err.splitlines()[-1]
    assert line.startswith(f"error: training.device: no CUDA GPU on {socket.gethostname()}; ")
    assert f"what is finished in {root} is safe" in line
