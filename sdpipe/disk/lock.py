"""One driver at a time in a run directory: who is at work there, and whether it still lives.

A driver writes a file of its own first and looks for those of others afterwards, so that of two that start
together at least one sees the other. On this host a driver lives as long as its process; on another host
as long as its file is touched every few seconds, by the clock of the file server.
"""

from __future__ import annotations

import _thread
import errno
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from sdpipe.disk.files import write_text
from sdpipe.errors import RunError, UserError

HEARTBEAT = 2.0
"""Seconds between two signs of life."""

SILENCE = 60.0
"""Seconds without a sign of life after which a driver on another host may be taken for dead."""


@dataclass(frozen=True)
class Driver:
    """A process that works, or worked, in a run directory."""

    file: Path
    host: str
    pid: int
    started: float
    since: str
    touched: float

    def lives_here(self) -> bool:
        """Return whether it is a living process of this host."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 2
            return self.host == socket.gethostname() and same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def may_live(self) -> bool:
        """Return whether it lives here, or is of another host and so might."""
        return self.host != socket.gethostname() or self.lives_here()

    def __str__(self) -> str:
        return f"sdpipe on {self.host}, pid {self.pid}, since {self.since}"


def drivers(directory: Path) -> list[Driver]:
    """Return every driver that has left its file in ``directory``, living or dead."""
    found = []
    for file in sorted(directory.glob("*.json")):
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            found.append(Driver(file, **told, touched=file.stat().st_mtime))
        except (FileNotFoundError, ValueError, TypeError):  # it has just left, or the file is damaged
            continue
    return found


def _judge(other: Driver, now: float, root: Path, take_over: bool) -> str:
    """Return what to say about a dead driver; raise UserError where it lives, or might."""
    if other.host == socket.gethostname():
        if other.lives_here():
            raise UserError(f"{root}: in use by {other}; wait until it is done, or end it")
        return f"{root}: {other}, has died; going on in its place"
    silence = now - other.touched
    if silence < SILENCE:
        raise UserError(f"{root}: in use by {other}; wait until it is done, or end it there")
    if not take_over:
        raise UserError(
            f"{root}: in use by {other}, which has given no sign of life for {silence:.0f} s; "
            "if it is dead, add --take-over to go on in its place"
        )
    return f"{root}: {other}, is silent for {silence:.0f} s; taking over"


@contextmanager
def held(directory: Path, root: Path, take_over: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Be the one driver of ``root``, with the files of drivers in ``directory``.

    Raises UserError where another holds it, and RunError as soon as the own file is gone: the run directory was
    deleted, or another driver has taken over.
    """
    directory.mkdir(parents=True, exist_ok=True)
    mine = directory / f"{uuid.uuid4().hex}.json"
    process = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    write_text(mine, json.dumps({**process, "since": datetime.now(UTC).isoformat(timespec="seconds")}))
    ended, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            try:
                os.utime(mine)
            except FileNotFoundError:
                lost.set()
                _thread.interrupt_main()
                return
            except OSError:
                continue

    thread = threading.Thread(target=beat, daemon=True)
    try:
        for other in drivers(directory):
            if other.file != mine:
                say(_judge(other, mine.stat().st_mtime, root, take_over))
                other.file.unlink(missing_ok=True)
        thread.start()
        yield
    except KeyboardInterrupt:
        if lost.is_set() and root.exists():
            raise RunError(f"{root}: another sdpipe has taken over; this one has stopped") from None
        if lost.is_set():
            raise deleted(root) from None
        raise
    finally:
        ended.set()
        mine.unlink(missing_ok=True)


def deleted(root: Path) -> RunError:
    """Say in one line that a run directory is gone, and what is safe."""
    return RunError(f"{root}: deleted while sdpipe was at work in it; no other file was touched; run it again")


def failure(root: Path, error: OSError) -> RunError:
    """Say in one line what went wrong with the files of a run directory, and what is safe."""
    reason, file = error.strerror or str(error), error.filename or root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{file}: {reason}; what is finished in {root} is safe; make room, then run the same again")
    return RunError(f"{file}: {reason}; what is finished in {root} is safe; the same command goes on from there")
