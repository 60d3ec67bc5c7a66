"""Two drivers on one run directory: one works, the other is told who."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import sdpipe
from sdpipe.disk import lock
from tests.faults.conftest import wait_for

if TYPE_CHECKING:
    from tests.conftest import Finished, Outcome

Cli = Callable[..., "Outcome"]


def leave(root: Path, **facts: object) -> Path:
    """Leave the file of a driver that this process is not."""
    told = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    file = root / ".sdpipe" / "drivers" / "other.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**told, "since": "2026-11-22T10:00:00+00:00", **facts}))
    return file


def files(root: Path) -> list[str]:
    return [p.name for p in (root / ".sdpipe" / "drivers").iterdir()]


def test_a_living_driver_keeps_others_out_and_says_who_it_is(cli: Cli, finished_copy: Path) -> None:
    leave(finished_copy)
    for arguments in (("run",), ("report",), ("generate", "--take-over")):
        fault = cli(arguments[0], finished_copy, *arguments[1:]).fault
        assert f"{finished_copy}: in use by sdpipe on {socket.gethostname()}, pid {os.getpid()}" in fault
        assert "since 2026-11-22T10:00:00+00:00" in fault
    assert files(finished_copy) == ["other.json"]


def test_a_run_is_looked_at_while_a_driver_is_at_work(cli: Cli, finished_copy: Path) -> None:
    leave(finished_copy)
    assert cli("status", finished_copy).status == 0
    assert cli("status", finished_copy, "--verify").status == 0
    assert cli("run", finished_copy, "--dry-run").status == 0
    assert sdpipe.open_run(finished_copy).budget["o3"].total.notnull().all()


@pytest.mark.parametrize("facts", [{"pid": 2**22 + 1}, {"started": 1.0}], ids=["no process", "another process"])
def test_a_dead_driver_of_this_host_is_replaced_and_said_so(cli: Cli, finished_copy: Path, facts: dict) -> None:
    leave(finished_copy, **facts)
    outcome = cli("run", finished_copy)
    assert outcome.status == 0
    assert "has died; going on in its place" in outcome.err
    assert files(finished_copy) == []


def test_a_zombie_is_dead(finished_copy: Path) -> None:
    process = subprocess.Popen(["sleep", "1000"])
    started = psutil.Process(process.pid).create_time()
    leave(finished_copy, pid=process.pid, started=started)
    (driver,) = lock.drivers(finished_copy / ".sdpipe" / "drivers")
    assert driver.lives_here()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not driver.lives_here()
    process.wait()


def test_a_driver_of_another_host_lives_while_it_gives_signs_of_life(cli: Cli, finished_copy: Path) -> None:
    file = leave(finished_copy, host="node17")
    fault = cli("run", finished_copy, "--take-over").fault
    assert "in use by sdpipe on node17" in fault
    silent = time.time() - 2 * lock.SILENCE
    os.utime(file, (silent, silent))
    fault = cli("run", finished_copy).fault
    assert "no sign of life for 1" in fault
    assert "--take-over" in fault
    outcome = cli("run", finished_copy, "--take-over")
    assert (outcome.status, files(finished_copy)) == (0, [])
    assert "taking over" in outcome.err


def test_a_file_of_a_driver_that_is_damaged_keeps_nobody_out(cli: Cli, finished_copy: Path) -> None:
    leave(finished_copy).write_text("{")
    assert cli("run", finished_copy).status == 0


@pytest.fixture
def at_work(launch: Callable[..., subprocess.Popen[str]], finished: Finished, tmp_path: Path):
    """A driver that has begun a training of hours."""
    root = tmp_path / "long"
    shutil.copytree(finished.root, root)
    for name in ("networks", "history.zarr", "predictions.zarr", "budget.zarr", ".sdpipe/train"):
        shutil.rmtree(root / name)
    (root / ".sdpipe" / "config.yaml").unlink()  # what it was made from, which may not be edited
    config = root / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 100000").replace("batch: null", "batch: 1"))
    process = launch("train", root)
    assert wait_for(lambda: list((root / ".sdpipe" / "train").glob("*.pt")), process), process.communicate()
    return root, process


def test_a_second_driver_is_refused_and_the_first_goes_on(at_work, cli: Cli) -> None:
    root, process = at_work
    assert f"in use by sdpipe on {socket.gethostname()}, pid {process.pid}" in cli("train", root).fault
    assert cli("status", root).status == 0
    assert process.poll() is None


def test_sigterm_keeps_the_state_and_ends(at_work, record_property) -> None:
    root, process = at_work
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    record_property("seconds from SIGTERM to exit", time.monotonic() - begun)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("interrupted: what is finished is safe")
    assert "Traceback" not in err
    assert list((root / ".sdpipe" / "train").glob("*.pt"))
    assert files(root) == []


def interrupt(process: subprocess.Popen[str], how: str) -> str:
    """Send SIGTERM, or SIGINT as a terminal sends Ctrl-C, to every process of the group; return stderr."""
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    return process.communicate()[1]


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_a_signal_while_workers_start_is_told_in_one_line(
    launch: Callable[..., subprocess.Popen[str]], small: Path, tmp_path: Path, how: str
) -> None:
    process = launch("generate", small, "--run", tmp_path / "run")

    def starting() -> bool:
        with suppress(psutil.NoSuchProcess):  # a child that ends between two looks
            children = psutil.Process(process.pid).children(recursive=True)
            return any("spawn_main" in " ".join(c.cmdline()) for c in children)
        return False

    assert wait_for(starting, process)
    err = interrupt(process, how)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("interrupted: ")
    assert "Traceback" not in err
    assert files(tmp_path / "run") == []


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_a_signal_while_workers_end_leaves_a_finished_stage(
    launch: Callable[..., subprocess.Popen[str]], cli: Cli, small: Path, tmp_path: Path, how: str
) -> None:
    root = tmp_path / "run"
    process = launch("generate", small, "--run", root)
    assert wait_for((root / "logs" / "dask-generate.html").exists, process)
    err = interrupt(process, how)
    assert "Traceback" not in err
    assert files(root) == []
    outcome = cli("generate", root)
    assert outcome.status == 0
    assert "nothing to do" in outcome.err


def test_a_driver_that_was_taken_for_dead_stops(at_work) -> None:
    root, process = at_work
    (file,) = (root / ".sdpipe" / "drivers").iterdir()
    file.unlink()
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"error: {root}: another sdpipe has taken over; this one has stopped" in err


def test_a_run_directory_that_is_deleted_under_a_stage(at_work) -> None:
    root, process = at_work
    root.rename(root.with_name("moved"))
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"error: {root}: deleted while sdpipe was at work in it" in err
    assert "Traceback" not in err
