"""What is swept in a run directory: what killed processes of sdpipe left, and nothing that is somebody's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdpipe.disk import files, store
from sdpipe.disk.layout import Layout

if TYPE_CHECKING:
    from tests.fixtures import Outcome

Cli = Callable[..., "Outcome"]
Snapshot = Callable[[Path], dict[str, str]]

OWN = (
    "thesis.partial",
    "backup.zarr.replaced/zarr.json",
    ".thesis.tex.0123456789abcdef0123456789abcdef.partial",
    "mine.zarr/x.partial",
    "mine.zarr/old.replaced/c",
    "figures/o3.partial",
    "figures/talk.png",
    "networks/mine.partial",
    "training.zarr/x.partial",
    "budget.zarr/o3.replaced/zarr.json",
    "predictions.zarr/o3-of-may.partial/zarr.json",
)
"""Files of the user, in a run directory, that have the endings of what sdpipe is writing or lie where it writes."""


@pytest.fixture
def littered(finished_copy: Path) -> Path:
    """A finished run with the user's own files in it."""
    for name in OWN:
        (finished_copy / name).parent.mkdir(exist_ok=True)
        (finished_copy / name).write_text("three years of work")
    return finished_copy


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized as a component of a Zarr hierarchy")
@pytest.mark.parametrize("changes", [[], ["bootstrap=51", "training.replicas=3"]], ids=["nothing to do", "all anew"])
def test_files_of_the_user_stay(cli: Cli, littered: Path, changes: list[str]) -> None:
    assert cli("run", littered, *changes).status == 0
    assert [name for name in OWN if (littered / name).read_text() != "three years of work"] == []


def test_a_verbose_status_lists_what_is_not_of_sdpipe(cli: Cli, littered: Path) -> None:
    (line,) = [line for line in cli("status", littered, "-v").out.splitlines() if line.startswith("not of sdpipe")]
    tops = [name if "/" not in name or name.split("/")[0] in ("figures", "networks") else "" for name in OWN]
    expected = {name for name in tops if name} | {"backup.zarr.replaced", "mine.zarr", "training.zarr/x.partial"}
    expected |= {"budget.zarr/o3.replaced", "predictions.zarr/o3-of-may.partial"}
    assert line == f"not of sdpipe, left alone: {', '.join(sorted(expected, key=Path))}"
    assert "not of sdpipe" not in cli("status", littered).out


def test_a_verbose_status_of_a_run_alone_lists_nothing(cli: Cli, finished_copy: Path) -> None:
    assert "not of sdpipe" not in cli("status", finished_copy, "-v").out


def test_a_group_of_the_user_in_a_store_of_targets_stays(cli: Cli, finished_copy: Path) -> None:
    kept = finished_copy / "budget.zarr" / "o3-of-may"
    (finished_copy / "budget.zarr" / "o3").rename(kept)
    config = finished_copy / "config.yaml"
    config.write_text(config.read_text().replace("  peaks:\n", "  others:\n"))
    assert cli("run", finished_copy).status == 0
    assert kept.is_dir()
    assert not (finished_copy / "budget.zarr" / "peaks").exists()
    assert (finished_copy / "budget.zarr" / "o3").is_dir()


def test_what_killed_processes_left_is_swept_and_what_they_replaced_is_put_back(
    cli: Cli, finished_copy: Path, snapshot: Snapshot
) -> None:
    before, layout = snapshot(finished_copy), Layout(finished_copy)
    for place in (layout.root, layout.figures, layout.networks, layout.training / "smeared", layout.receipts.directory):
        for name in (f".x.{uuid.uuid4().hex}.partial", f"zarr.{uuid.uuid4().hex}.partial"):
            (place / name).write_text("half")
    aside = layout.budget / f".o3.{uuid.uuid4().hex}.replaced"
    (layout.budget / "o3").rename(aside)
    finished = layout.budget / f".peaks.{uuid.uuid4().hex}.replaced"
    store.write_dataset(finished, store.load(layout.budget / "peaks"), {})
    assert cli("run", finished_copy).status == 0
    assert snapshot(finished_copy) == before


def test_a_damaged_file_that_is_set_aside_is_swept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files.set_aside(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
