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
    from tests.fixtures import Finished, Outcome, SerialPool

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
    assert "o3, with calibrated error" in cli("analyze", root).out
    assert cli("status", root, "--verify").status == 0
    line = failure(cli("run", root, "bootstrap=60"))
    assert "Read-only file system" in line
    assert f"what is finished in {root} is safe" in line
    disk("remount,rw")
    assert cli("run", root, "bootstrap=60").status == 0


def without_rights(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as one to whom not every directory is open: root, if the tests run as it, gives that away."""
    command = [sys.executable, "-m", "sdpipe", *map(str, arguments)]
    if os.getuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root without its rights needs setpriv")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    environment = {**os.environ, "PYTHONPATH": str(Path(sdpipe.__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_directory_of_somebody_else_is_told(finished: Finished, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o555)
    if os.getuid() == 0:
        os.chown(theirs, 65534, 65534)
    done = without_rights("generate", finished.config, "--run", theirs / "run")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {theirs / 'run'}")
    assert "Permission denied" in line
    assert "safe" in line


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_state_that_cannot_be_read_is_told(finished_copy: Path, command: str) -> None:
    (finished_copy / ".sdpipe").chmod(0)
    done = without_rights(command, finished_copy)
    (finished_copy / ".sdpipe").chmod(0o755)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {finished_copy / '.sdpipe'}/")
    assert f"Permission denied; what is finished in {finished_copy} is safe" in line


def test_files_that_cannot_be_read_are_all_listed(finished_copy: Path) -> None:
    names = ["training.zarr/zarr.json", "history.zarr/val_loss/c/0/0/0/0", "networks/Nmax-sigma0-replica000.npz"]
    for name in names:
        (finished_copy / name).chmod(0)
    done = without_rights("status", finished_copy, "--verify")
    told = done.stderr.splitlines()
    assert done.returncode == 2
    assert "networks" in done.stdout
    assert set(told[:-1]) == {f"error: {finished_copy / name}: cannot be read (Permission denied)" for name in names}


def test_what_is_damaged_in_the_run_of_somebody_else_is_listed(finished_copy: Path) -> None:
    file = finished_copy / "networks/Nmax-sigma0-replica000.npz"
    file.write_bytes(file.read_bytes()[:-1])
    if os.getuid() == 0:
        os.chown(file.parent, 65534, 65534)
    file.parent.chmod(0o555)
    done = without_rights("status", finished_copy, "--verify")
    file.parent.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {file}: damaged (not what its receipt says)\n")
    assert "train     damaged  11/12 networks" in done.stdout


def test_a_correlator_behind_a_closed_door_is_told_with_its_key(finished: Finished, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    target = f"targets.x={{kind: correlator, path: {closed / 'a.h5'}}}"
    done = without_rights("run", finished.root, target, "--dry-run")
    closed.chmod(0o755)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line == f"error: command line: targets.x.path: {closed / 'a.h5'}: no permission to read it"
