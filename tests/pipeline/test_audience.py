"""Which networks train side by side, how they are cut for the workers there are, and what they then are."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from sdpipe.config.load import load_config
from sdpipe.disk.layout import Layout
from sdpipe.learn import memory
from sdpipe.pipeline import stacks, training_tasks
from sdpipe.pipeline.pieces import every_network
from sdpipe.pipeline.state import State
from tests.pipeline.test_pipeline import assert_like_network, assert_same_network, networks

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome, SerialPool

Cli = Callable[..., "Outcome"]

WIDE = ["train-Nmax-0.44-r0+7", "train-Nref_rho-0.44-r0+3"]
"""Stacks of the tiny run for one worker: two ensembles of 1200 samples, one of 400, each with two sigma and two
replicas."""


@pytest.fixture
def wide(cli: Cli, serial: SerialPool, tiny_config: Path, tmp_path: Path) -> Path:
    """A run whose networks were trained in one stack for each size."""
    root = tmp_path / "wide"
    assert cli("generate", tiny_config, "--run", root).status == 0
    serial.done.clear()
    assert cli("train", root).status == 0
    assert serial.done == WIDE
    return root


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8, 100])
def test_stacks_hold_every_network_once_and_keep_workers_equally_long_at_work(repository: Path, workers: int) -> None:
    """Of the broad audience of the paper: 20 arcL and 10 arcS of 400,000 samples, 10 arcL of 25,000."""
    config = load_config(repository / "configs" / "broad-audience-T32.yaml")
    every = every_network(config)
    cut = stacks.cut(config, every, workers)
    assert Counter(network for stack in cut for network in stack) == Counter(every)
    kinds = [{(config.ensembles[n.ensemble].network, config.ensembles[n.ensemble].Nrho) for n in s} for s in cut]
    assert {len(kind) for kind in kinds} == {1}
    assert len(cut) <= workers + 2
    cost = [sum(stacks.COST[a] * Nrho for a, Nrho in kind) * len(s) for kind, s in zip(kinds, cut, strict=True)]
    dearest = 4 * 400_000
    assert max(cost) <= sum(cost) / workers + dearest
    if workers == 1:
        assert [len(stack) for stack in cut] == [20, 10, 10]
    if workers == 100:
        assert {len(s) for kind, s in zip(kinds, cut, strict=True) if kind == {("arcL", 400_000)}} == {1}


def test_networks_do_not_depend_on_who_is_beside_them_but_for_rounding(wide: Path, finished: Finished) -> None:
    """The finished run was cut for the cores of this machine."""
    ours, theirs = networks(wide), networks(finished.root)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert_like_network(ours[name], theirs[name])


def test_a_lost_network_is_trained_alone_and_the_others_stay(cli: Cli, serial: SerialPool, wide: Path) -> None:
    before, lost = networks(wide), "Nref_b-sigma1-replica000"
    (wide / "networks" / f"{lost}.npz").unlink()
    serial.done.clear()
    assert cli("train", wide).status == 0
    assert serial.done == ["train-Nref_b-0.63-r0"]
    after = networks(wide)
    assert_like_network(after.pop(lost), before.pop(lost))
    for name in before:
        assert_same_network(after[name], before[name])


def test_new_replicas_train_beside_each_other_only(cli: Cli, serial: SerialPool, wide: Path) -> None:
    before = networks(wide)
    serial.done.clear()
    assert cli("train", wide, "training.replicas=3").status == 0
    assert serial.done == ["train-Nmax-0.44-r2+3", "train-Nref_rho-0.44-r2+1"]
    after = networks(wide)
    assert len(after) == 18
    for name in before:
        assert_same_network(after[name], before[name])


def test_a_training_that_was_interrupted_goes_on_in_the_same_stacks_for_other_workers(
    cli: Cli, serial: SerialPool, wide: Path, tiny_config: Path, tmp_path: Path
) -> None:
    root = tmp_path / "interrupted"
    assert cli("generate", tiny_config, "--run", root).status == 0
    serial.fail_after = len(serial.done) + 1
    assert cli("train", root).status == 130
    assert Layout(root).stacks.exists()
    serial.fail_after, serial.workers = None, 8
    serial.done.clear()
    assert cli("train", root).status == 0
    assert serial.done == WIDE[1:]
    assert not Layout(root).unfinished.exists()
    ours, theirs = networks(root), networks(wide)
    for name in theirs:
        assert_same_network(ours[name], theirs[name])


def test_a_network_that_is_lost_before_its_stack_is_done_is_trained_again_with_it(
    cli: Cli, serial: SerialPool, wide: Path
) -> None:
    before = networks(wide)
    state = State(load_config(wide), Layout(wide))
    stacks.note(state.layout, stacks.plan(state.identities, state.layout, every_network(state.config), workers=1))
    lost = "Nref_rho-sigma0-replica001"
    (wide / "networks" / f"{lost}.npz").unlink()
    serial.done.clear()
    assert cli("train", wide).status == 0
    assert serial.done == WIDE[1:]
    assert_same_network(networks(wide)[lost], before[lost])


def test_a_note_of_stacks_that_is_damaged_is_named_and_the_training_is_cut_anew(
    cli: Cli, serial: SerialPool, tiny_config: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    assert cli("generate", tiny_config, "--run", root).status == 0
    layout = Layout(root)
    layout.unfinished.mkdir()
    layout.stacks.write_text("[]")
    assert f"{layout.stacks}: damaged" in cli("status", root, "--verify").err
    layout.stacks.write_text("[]")
    serial.done.clear()
    assert cli("train", root).status == 0
    assert serial.done == WIDE


def test_a_wide_stack_that_does_not_fit_is_cut_and_says_so(cli: Cli, serial: SerialPool, wide: Path) -> None:
    need = training_tasks._need(load_config(wide), 1200)
    serial.memory = int((2 * need.data + 4.5 * need.member) / memory.MEMORY_SHARE)
    before = networks(wide)
    for path in (wide / "networks").glob("*.npz"):
        path.unlink()
    outcome = cli("train", wide)
    assert outcome.status == 0, outcome.err
    assert f"{WIDE[0]}: 8 networks do not fit" in outcome.err
    assert "training 4 at a time" in outcome.err
    after = networks(wide)
    assert after.keys() == before.keys()
    for name in before:
        assert_like_network(after[name], before[name])


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
