"""Which networks train side by side: replicas of one ensemble and sigma, or all of one architecture and size."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from sdpipe.config.load import load_config
from sdpipe.learn import memory
from sdpipe.pipeline import tasks
from tests.pipeline.test_pipeline import load_network

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome, SerialPool

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
        a, b = (load_network(root / "networks" / f"{name}.pt") for root in (wide, finished.root))
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
    need = tasks._need(load_config(wide), 1200)
    serial.memory = int((2 * need.data + 4.5 * need.member) / memory.SHARE)
    for path in (wide / "networks").glob("*.pt"):
        path.unlink()
    before = sorted(path.stem for path in (wide / ".sdpipe/receipts/train").glob("N*.json"))
    outcome = cli("train", wide)
    assert outcome.status == 0, outcome.err
    assert f"{WIDE[0]}: 8 networks do not fit" in outcome.err
    assert "training 4 at a time" in outcome.err
    assert sorted(files(wide)) == before


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
