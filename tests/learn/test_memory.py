"""Stacks that do not fit the memory of their device train in parts, data that do not fit are streamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from sdpipe.config.load import load_config
from sdpipe.learn import memory, trained
from sdpipe.pipeline.audience import stack_need
from sdpipe.pipeline.pieces import NetworkId, StackTask

if TYPE_CHECKING:
    from tests.conftest import Finished, Outcome, SerialPool

NEED = memory.Need("arcL", 16, 47, 400_000, 43_008, 1, 256, False, False)
ROOM = 10**12


def test_a_stack_that_fits_stays_whole_and_in_memory() -> None:
    assert memory.cut(NEED, [0] * 20, ROOM, ROOM) == (False, [slice(0, 20)])


def test_members_that_do_not_fit_are_left_for_later() -> None:
    for together in (1, 3, 19):
        room = NEED.data(False) + together * NEED.member(False)
        for given in (room, room + NEED.member(False) - 1):
            stream, parts = memory.cut(NEED, [0] * 20, ROOM, given)
            assert not stream
            assert [p.stop - p.start for p in parts[:-1]] == [together] * len(parts[:-1])
            assert [i for p in parts for i in range(20)[p]] == list(range(20))


def test_a_stack_over_several_sets_is_cut_where_they_do_not_fit_together() -> None:
    sets = [0, 0, 1, 1, 2, 2]
    both = 2 * NEED.data(False) + 4 * NEED.member(False)
    halves = (False, [slice(0, 4), slice(4, 6)])
    assert memory.cut(NEED, sets, ROOM, both) == halves
    assert memory.cut(NEED, sets, 2 * NEED.data(False), ROOM) == halves
    assert memory.cut(NEED, sets, 3 * NEED.data(False), ROOM) == (False, [slice(0, 6)])
    assert memory.cut(NEED, sets, ROOM, both - 1)[1][0] == slice(0, 3)


def test_data_that_do_not_fit_host_or_device_are_streamed() -> None:
    assert memory.cut(NEED, [0, 0], NEED.data(False) - 1, ROOM) == (True, [slice(0, 2)])
    assert memory.cut(NEED, [0, 0], ROOM, NEED.data(False) + NEED.member(False) - 1)[0]
    assert memory.cut(NEED, [0, 0], 0, 0) == (True, [slice(0, 1), slice(1, 2)])


def test_the_need_of_a_stream_does_not_grow_with_the_set() -> None:
    larger = replace(NEED, samples=100 * NEED.samples)
    assert larger.data(True) == NEED.data(True)
    assert larger.member(True) == NEED.member(True)
    assert larger.data(False) == pytest.approx(100 * NEED.data(False), rel=1e-6)


def test_noise_copies_that_are_kept_or_stored_take_memory() -> None:
    drawn = replace(NEED, copies=20)
    assert replace(drawn, kept=True).member(False) > drawn.member(False)
    assert replace(drawn, stored=True).data(False) > drawn.data(False)


def test_a_part_of_the_memory_is_left_to_others() -> None:
    assert memory.available(torch.device("cpu"), memory.LIBRARIES + 1000, 3) == 600
    assert memory.available(torch.device("cpu"), 1000, 3) == 0


def networks(root: Path) -> dict[str, trained.Network]:
    return {path.stem: trained.load(path) for path in sorted((root / "networks").glob("*.pt"))}


def train_anew(cli: Callable[..., Outcome], root: Path) -> tuple[str, dict[str, trained.Network]]:
    """Train the networks of a run directory anew; return what was said, and the networks."""
    shutil.rmtree(root / "networks")
    outcome = cli("train", root)
    assert outcome.status == 0, outcome.err
    return outcome.err, networks(root)


def test_a_stack_too_large_for_memory_trains_in_parts_to_the_same_networks_and_says_so(
    cli: Callable[..., Outcome], serial: SerialPool, finished: Finished, finished_copy: Path
) -> None:
    need = stack_need(load_config(finished_copy), StackTask("", (NetworkId("Nmax", 0, 0),), ()))
    serial.memory = memory.LIBRARIES + int((need.data(False) + 1.5 * need.member(False)) / memory.SHARE)
    said, parts = train_anew(cli, finished_copy)
    assert "train-Nmax-0.44-r0-1: 2 networks do not fit" in said
    assert "training 1 at a time" in said
    assert "streaming" not in said
    whole = networks(finished.root)
    assert parts.keys() == whole.keys()
    for name, network in parts.items():
        assert network.val_loss == pytest.approx(whole[name].val_loss, rel=1e-3)


def test_a_set_too_large_for_memory_is_streamed_to_networks_as_good_and_it_says_so(
    cli: Callable[..., Outcome], serial: SerialPool, finished: Finished, finished_copy: Path
) -> None:
    serial.memory = 1
    said, ours = train_anew(cli, finished_copy)
    assert "Nrho = 1200 does not fit" in said
    assert "streaming it from training.zarr" in said
    whole = networks(finished.root)
    assert ours.keys() == whole.keys()
    for name, network in ours.items():
        assert network.linear_loss == pytest.approx(whole[name].linear_loss, rel=1e-5)
        np.testing.assert_allclose(network.matrix, whole[name].matrix, rtol=1e-6)
    ratio = [min(ours[n].val_loss) / min(whole[n].val_loss) for n in whole]
    assert np.mean(ratio) == pytest.approx(1, abs=0.1)
