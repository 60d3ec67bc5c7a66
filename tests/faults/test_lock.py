"""Two drivers on one run directory: one works, the other is told who."""

from __future__ import annotations

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
    from tests.fixtures import Finished, Outcome

Cli = Callable[..., "Outcome"]

SINCE = "2026-11-22T10:00:00+00:00"


def leave(root: Path, **facts: object) -> Path:
    """Leave the lock of a driver: of this process, but for ``facts``."""
    file = root / ".sdpipe" / "driver.json"
    file.write_text(lock.this_process().model_copy(update={"since": SINCE, **facts}).model_dump_json())
    return file


def locked(root: Path) -> bool:
    return (root / ".sdpipe" / "driver.json").exists()


def test_a_living_driver_keeps_others_out_and_says_who_it_is(cli: Cli, finished_copy: Path) -> None:
    file = leave(finished_copy)
    before = file.read_bytes()
    for arguments in (("run",), ("report",), ("generate", "--take-over")):
        fault = cli(arguments[0], finished_copy, *arguments[1:]).fault
        assert f"{finished_copy}: in use by sdpipe on {socket.gethostname()}, pid {os.getpid()}, since {SINCE}" in fault
    assert file.read_bytes() == before


def test_a_run_is_looked_at_while_a_driver_is_at_work(cli: Cli, finished_copy: Path) -> None:
    leave(finished_copy)
    assert cli("status", finished_copy).status == 0
    assert cli("status", finished_copy, "--verify").status == 0
    assert cli("run", finished_copy, "--dry-run").status == 0
    assert sdpipe.open_run(finished_copy).budget["o3"].total.notnull().all()


@pytest.mark.parametrize("facts", [{"pid": 2**22 + 1}, {"started": 1}], ids=["no process", "another process"])
def test_a_dead_driver_is_replaced_and_said_so(cli: Cli, finished_copy: Path, facts: dict) -> None:
    leave(finished_copy, **facts)
    outcome = cli("run", finished_copy)
    assert outcome.status == 0
    assert "has died; going on in its place" in outcome.err
    assert not locked(finished_copy)


@pytest.mark.parametrize("key", ["host", "boot", "namespace", None], ids=str)
def test_where_it_is_in_doubt_whether_a_driver_lives_only_the_user_can_tell(
    cli: Cli, finished_copy: Path, key: str | None
) -> None:
    """Of another host, or one that may be another; in another container; of a damaged lock."""
    file = leave(finished_copy, pid=2**22 + 1, **({key: "another"} if key else {}))
    if key is None:
        file.write_text("{")
    assert lock.holder(file).may_live()
    fault = cli("run", finished_copy).fault
    assert "in use by sdpipe on " in fault
    assert "if it does not, add --take-over" in fault
    outcome = cli("run", finished_copy, "--take-over")
    assert (outcome.status, locked(finished_copy)) == (0, False)
    assert "taking over from sdpipe on " in outcome.err


def test_a_zombie_is_dead(finished_copy: Path) -> None:
    process = subprocess.Popen(["sleep", "1000"])
    file = leave(finished_copy, pid=process.pid, started=lock._process(process.pid)[1])
    assert lock.holder(file).may_live()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not lock.holder(file).may_live()
    process.wait()


CONTENDER = """
import sys
from pathlib import Path
from sdpipe.disk import lock
from sdpipe.errors import UserError
sys.stdin.readline()
try:
    with lock.held(Path("driver.json"), Path.cwd(), False, lambda words: None) as mine:
        print("held", flush=True)
        sys.stdin.readline()
        mine.check()
except UserError as error:
    print("refused", flush=True)
"""


def test_of_drivers_that_start_together_one_takes_the_place_of_a_dead_one(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / ".sdpipe").mkdir()
    leave(tmp_path, started=1).rename(tmp_path / "driver.json")
    contenders = [start(["-c", CONTENDER], tmp_path, stdin=subprocess.PIPE) for _ in range(4)]
    for process in contenders:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline().strip() for process in contenders]
    assert sorted(said) == ["held", "refused", "refused", "refused"]
    assert [process.communicate("go\n")[1] for process in contenders] == [""] * 4
    assert [p.name for p in tmp_path.iterdir()] == [".sdpipe"]


@pytest.fixture
def at_work(launch: Callable[..., subprocess.Popen[str]], finished: Finished, tmp_path: Path):
    """A driver that has begun a training of hours."""
    root = tmp_path / "long"
    shutil.copytree(finished.root, root)
    for name in ("networks", "history.zarr", "predictions.zarr", "budget.zarr", ".sdpipe/receipts/train"):
        shutil.rmtree(root / name)
    for name in ("config.yaml", "receipts/claim/config.json"):  # what it was made from, which may not be edited
        (root / ".sdpipe" / name).unlink()
    config = root / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 100000").replace("batch: null", "batch: 1"))
    process = launch("train", root)
    assert wait_for(lambda: list((root / ".sdpipe" / "unfinished").glob("*.pt")), process), process.communicate()
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
    assert list((root / ".sdpipe" / "unfinished").glob("*.pt"))
    assert not locked(root)


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
    assert not locked(tmp_path / "run")


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_a_signal_while_workers_end_leaves_a_finished_stage(
    launch: Callable[..., subprocess.Popen[str]], cli: Cli, small: Path, tmp_path: Path, how: str
) -> None:
    root = tmp_path / "run"
    process = launch("generate", small, "--run", root)
    assert wait_for((root / "logs" / "dask-generate.html").exists, process)
    err = interrupt(process, how)
    assert "Traceback" not in err
    assert not locked(root)
    outcome = cli("generate", root)
    assert outcome.status == 0
    assert "nothing to do" in outcome.err


@pytest.mark.parametrize("how", ["another", "gone"])
def test_a_driver_that_was_taken_for_dead_stops_and_leaves_the_other_alone(at_work, how: str) -> None:
    root, process = at_work
    if how == "another":
        leave(root, host="node17")
    else:
        (root / ".sdpipe" / "driver.json").unlink()
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"error: {root}: another sdpipe has taken over; this one has stopped" in err
    assert locked(root) == (how == "another")


def test_a_run_directory_that_is_deleted_under_a_stage(at_work) -> None:
    root, process = at_work
    root.rename(root.with_name("moved"))
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"error: {root}: deleted while sdpipe was at work in it" in err
    assert "Traceback" not in err
