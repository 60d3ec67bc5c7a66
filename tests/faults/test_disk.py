"""Disks that are full or cannot be written: exit status 1, one line that says what is safe, and the re-run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sdpipe

if TYPE_CHECKING:
    from tests.conftest import Finished, Outcome, SerialPool

Cli = Callable[..., "Outcome"]
Mount = Callable[..., None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that mounts a file system of its own at ``tmp_path / "disk"``, with these options."""
    point = tmp_path / "disk"
    point.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a small disk needs the rights to: {done.stderr.strip()}")

    yield mount
    while os.path.ismount(point):
        subprocess.run(["umount", str(point)], check=True)


def failure(outcome: Outcome) -> str:
    """Return the last line of a command that failed with exit status 1 and no traceback."""
    assert outcome.status == 1, outcome.err
    assert "Traceback" not in outcome.err
    return outcome.err.splitlines()[-1]


@pytest.mark.parametrize("size", ["100k", "1m", "3m"])
def test_a_full_disk_is_told_and_with_room_the_same_command_goes_on(
    cli: Cli, serial: SerialPool, disk: Mount, finished: Finished, tmp_path: Path, size: str
) -> None:
    disk(f"size={size}")
    root = tmp_path / "disk" / "run"
    line = failure(cli("run", finished.config, "--run", root))
    assert line.startswith(f"error: {root}")
    assert "No space left on device" in line
    assert "safe" in line
    done = list(serial.done)
    disk("remount,size=100m")
    assert cli("run", finished.config, "--run", root).status == 0
    assert len(set(serial.done)) == len(serial.done), "work that was finished was done again"
    assert set(done) <= set(serial.done)
    assert cli("status", root, "--verify").status == 0
    for name in ("training.zarr/smeared/c/1/2/0/0", "predictions.zarr/o3/rho/c/0/0/0/0/0"):
        assert (root / name).read_bytes() == (finished.root / name).read_bytes()
    assert not list(root.rglob("*.partial"))


def test_a_read_only_run_is_looked_at_but_not_worked_in(
    cli: Cli, disk: Mount, finished: Finished, tmp_path: Path
) -> None:
    disk("size=100m")
    root = Path(shutil.copytree(finished.root, tmp_path / "disk" / "run"))
    disk("remount,ro")
    outcome = cli("run", root)
    said = [f"{root}: everything is done; nothing to do", f"report: {root / 'report.html'}"]
    assert (outcome.status, outcome.err.splitlines()) == (0, said)
    assert "total" in cli("analyze", root).out
    assert cli("status", root, "--verify").status == 0
    line = failure(cli("run", root, "bootstrap=60"))
    assert "Read-only file system" in line
    assert f"what is finished in {root} is safe" in line
    disk("remount,rw")
    assert cli("run", root, "bootstrap=60").status == 0


def test_a_directory_of_somebody_else_is_told(finished: Finished, tmp_path: Path) -> None:
    """The tests may run as root, to whom every directory is open; so this takes that right away first."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o555)
    command = [sys.executable, "-m", "sdpipe", "generate", str(finished.config), "--run", str(theirs / "run")]
    if os.getuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root without its rights needs setpriv")
        os.chown(theirs, 65534, 65534)
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    environment = {**os.environ, "PYTHONPATH": str(Path(sdpipe.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {theirs / 'run'}")
    assert "Permission denied" in line
    assert "safe" in line
