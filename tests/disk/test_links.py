"""Links in a run directory: nothing elsewhere is written or deleted through one, but a run and a store may be one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures import ONE_TARGET

if TYPE_CHECKING:
    from tests.fixtures import Outcome, SerialPool

Cli = Callable[..., "Outcome"]
Snapshot = Callable[[Path], dict[str, str]]


def moved(path: Path, to: Path) -> Path:
    """Move a file or directory elsewhere, with rubbish beside and in it, and leave a link in its place."""
    to.mkdir(exist_ok=True)
    place = Path(shutil.move(path, to / path.name))
    path.symlink_to(place)
    return place


@pytest.mark.parametrize(
    "name",
    [
        "figures",
        "networks",
        "logs",
        ".sdpipe",
        ".sdpipe/receipts",
        ".sdpipe/sessions.txt",
        "networks/Nmax-sigma0-replica000.npz",
        "training.zarr/smeared",
        "predictions.zarr/o3",
        "budget.zarr/o3/central/c",
    ],
)
def test_nothing_is_written_or_deleted_through_a_link(
    cli: Cli, serial: SerialPool, snapshot: Snapshot, finished_copy: Path, tmp_path: Path, name: str
) -> None:
    (finished_copy / "logs").mkdir(exist_ok=True)  # as workers do
    place = moved(finished_copy / name, tmp_path / "elsewhere")
    for rubbish in ("a.partial", "a.replaced", "b.zarr.partial/c") if place.is_dir() else ():
        (place / rubbish).parent.mkdir(exist_ok=True)
        (place / rubbish).write_text("mine")
    before = snapshot(tmp_path)
    for command in (("run", "bootstrap=51"), ("run", "--dry-run"), ("status", "--verify")):
        assert f"{finished_copy / name}: a link; allowed: " in cli(command[0], finished_copy, *command[1:]).fault
    assert snapshot(tmp_path) == before
    assert serial.done == []
    assert cli("status", finished_copy).status == 0


def test_a_link_that_is_named_like_a_store_and_leads_to_none_is_refused(
    cli: Cli, finished_copy: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.partial").write_text("mine")
    (finished_copy / "other.zarr").symlink_to(tmp_path / "mine")
    assert "other.zarr: a link; allowed: " in cli("run", finished_copy).fault
    assert (tmp_path / "mine" / "a.partial").exists()


def test_the_run_and_whole_stores_may_be_links(
    cli: Cli, serial: SerialPool, finished_copy: Path, tmp_path: Path
) -> None:
    for store in [*finished_copy.glob("*.zarr"), finished_copy / ".sdpipe" / "draws.zarr"]:
        moved(store, tmp_path / "stores")
    (tmp_path / "stores" / "a.partial").write_text("mine")
    run = tmp_path / "run"
    run.symlink_to(finished_copy)
    assert cli("run", run).status == 0
    assert serial.done == []
    (finished_copy / "training.zarr/smeared/c/1/1/0/0").unlink()
    changed = ("bootstrap=51", "validation.samples=122", "training.replicas=3")
    assert cli("run", run, *changed, ONE_TARGET).status == 0
    assert "generate-Nb16-0001" in serial.done
    assert cli("status", run, "--verify").status == 0
    assert (tmp_path / "stores" / "a.partial").exists()
