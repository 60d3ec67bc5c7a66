"""Stacks that do not fit the memory of their device train in parts, data that do not fit are streamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from sdpipe.config.load import load_config
from sdpipe.disk.receipts import sha256
from sdpipe.learn import memory, trained
from sdpipe.pipeline import training_tasks

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome, SerialPool

NEED = memory.need(400_000, 16, 47, 1, 256)


def test_members_that_do_not_fit_side_by_side_are_left_for_later() -> None:
    for together in (1, 3, 19, 20):
        for more in (0, NEED.member - 1):
            parts = memory.cut([0] * 20, NEED, NEED.data + together * NEED.member + more)
            assert [p.stop - p.start for p in parts[:-1]] == [together] * len(parts[:-1])
            assert [i for p in parts for i in range(20)[p]] == list(range(20))
    assert memory.cut([0, 0], NEED, 0) == [slice(0, 1), slice(1, 2)]


def test_a_stack_over_several_sets_is_cut_where_they_do_not_fit_together() -> None:
    sets, both = [0, 0, 1, 1, 2, 2], 2 * NEED.data + 4 * NEED.member
    assert memory.cut(sets, NEED, both) == [slice(0, 4), slice(4, 6)]
    assert memory.cut(sets, NEED, both - 1)[0] == slice(0, 3)
    assert memory.cut(sets, NEED, 3 * NEED.data + 6 * NEED.member) == [slice(0, 6)]


def test_need_grows_with_the_set_and_its_copies_unless_it_is_streamed() -> None:
    assert memory.need(40_000_000, 16, 47, 1, 256).data == 100 * NEED.data
    assert all(more > less for more, less in zip(memory.need(400_000, 16, 47, 20, 256), NEED, strict=True))
    assert memory.streamed(40_000_000, 43_008) == memory.streamed(400_000_000, 43_008) == 8 * 43_008
    assert memory.streamed(1200, 43_008) == 1200


def test_workers_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (700, 1000))
    assert [memory.available(torch.device("cuda"), 10**6, n) for n in (1, 2, 5)] == [420, 300, 120]
    assert memory.available(torch.device("cuda"), 100, 1) == memory.available(torch.device("cpu"), 100, 5) == 60


def networks(root: Path) -> dict[str, trained.Network]:
    return {path.stem: trained.load(path, sha256(path)) for path in sorted((root / "networks").glob("*.npz"))}


def train_anew(cli: Callable[..., Outcome], root: Path) -> tuple[str, dict[str, trained.Network]]:
    """Train the networks of a run directory anew; return what was said, and the networks."""
    shutil.rmtree(root / "networks")
    outcome = cli("train", root)
    assert outcome.status == 0, outcome.err
    return outcome.err, networks(root)


def test_a_stack_too_large_for_memory_trains_in_parts_to_the_same_networks_and_says_so(
    cli: Callable[..., Outcome], serial: SerialPool, finished: Finished, finished_copy: Path
) -> None:
    need = training_tasks._need(load_config(finished_copy), 1200)
    serial.memory = int((need.data + 1.5 * need.member) / memory.MEMORY_SHARE)
    said, parts = train_anew(cli, finished_copy)
    assert "train-Nmax-0.44-r0+7: 8 networks do not fit" in said
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
