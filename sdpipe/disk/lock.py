"""One driver at a time in a run directory: who is at work there, and whether it still lives.

The lock is one file, written under a name of its own and linked into place: of several drivers only one can do that,
on network file systems too, see O_EXCL in open(2). A driver that this process can see lives as long as its process;
of any other only the user can say that it is dead.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import BaseModel, ConfigDict, Field

from sdpipe.disk.files import partial, read
from sdpipe.errors import RunError, UserError


class Driver(BaseModel):
    """A process that works, or worked, in a run directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    boot: str
    """Id of the machine's boot, after which process ids mean something else."""
    namespace: str
    """Of process ids: each container on a machine has its own."""
    pid: Annotated[int, Field(ge=0, lt=2**31)]
    started: int
    """Start of the process in clock ticks since boot, which setting the clock does not move."""
    since: str

    def is_near(self) -> bool:
        """Return whether this process would see that one: both are of one host, boot and namespace."""
        return _here().items() <= self.model_dump().items()

    def may_live(self) -> bool:
        """Return False only where it is sure that the process has ended."""
        if not self.is_near():
            return True
        if not psutil.pid_exists(self.pid):
            return False
        try:
            state, started = _process(self.pid)
        except OSError:  # another user's, on a machine that hides them
            return True
        return state not in "ZX" and started == self.started

    def __str__(self) -> str:
        return f"sdpipe on {self.host}, pid {self.pid}, since {self.since}"


UNKNOWN = Driver(host="a host not known", boot="", namespace="", pid=0, started=0, since="a time not known")
"""The driver that a damaged lock stands for."""


def _here() -> dict[str, str]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"host": socket.gethostname(), "boot": boot, "namespace": str(Path("/proc/self/ns/pid").readlink())}


def _process(pid: int) -> tuple[str, int]:
    """Return the state of a process, and its start in clock ticks since boot: proc(5), fields 3 and 22 of stat."""
    facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return facts[0], int(facts[19])


def this_process() -> Driver:
    """Return the driver that this process is."""
    pid, now = os.getpid(), datetime.now(UTC)
    return Driver(**_here(), pid=pid, started=_process(pid)[1], since=now.isoformat(timespec="seconds"))


def _driver(content: bytes) -> Driver:
    try:
        return Driver.model_validate_json(content)
    except ValueError:
        return UNKNOWN


def holder(path: Path) -> Driver | None:
    """Return the driver that the lock ``path`` names, living or dead, or None where there is no lock."""
    try:
        return _driver(_content(path))
    except FileNotFoundError:
        return None


def _content(path: Path) -> bytes:
    """Return the bytes of a lock; raises UserError where it is none, such as a pipe in somebody else's run."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file; remove it where no sdpipe is at work")
    return read(path)


@dataclass(frozen=True)
class Lock:
    """The lock of the run directory ``root``, held by this process; ``content`` is what it wrote."""

    path: Path
    root: Path
    content: bytes

    def check(self) -> None:
        """Raise RunError where the lock is lost: with the run directory, or to another driver."""
        try:
            lost = self.path.read_bytes() != self.content
        except FileNotFoundError:
            lost = True
        except OSError:  # a file server that is away for a moment has given the lock to nobody
            return
        if lost and not self.root.exists():
            raise deleted(self.root)
        if lost:
            raise RunError(f"{self.root}: another sdpipe has taken over; this one has stopped")

    def take(self) -> bool:
        """Put the lock into place where there is none; return whether that was done."""
        with partial(self.path) as own:
            own.write_bytes(self.content)
            with suppress(FileExistsError, FileNotFoundError):
                os.link(own, self.path)
            with suppress(FileNotFoundError):  # swept away by the driver at work
                taken = own.stat().st_nlink == 2  # whatever link said: a file server's answer may get lost
                own.unlink()
                return taken
        return False


def _remove(path: Path, content: bytes) -> None:
    """Remove the lock that has this ``content``; one that takes its place meanwhile is put back."""
    with suppress(FileNotFoundError), partial(path) as aside:
        if path.read_bytes() == content:
            path.rename(aside)
            if aside.read_bytes() != content:
                with suppress(FileExistsError):
                    os.link(aside, path)
            aside.unlink()


def _judge(other: Driver, path: Path, root: Path, take_over: bool) -> str:
    """Return what to say on going on in place of ``other``; raise UserError where it lives, or might."""
    if not other.may_live():
        return f"{root}: {other}, has died; going on in its place"
    if other.is_near():
        raise UserError(f"{root}: in use by {other}; wait until it is done, or end it")
    if take_over:
        return f"{root}: taking over from {other}"
    doubt = f"{path} is damaged" if other == UNKNOWN else "it cannot be told from here whether that lives"
    raise UserError(f"{root}: in use by {other}; {doubt}; if it does not, add --take-over to go on in its place")


@contextmanager
def held(path: Path, root: Path, take_over: bool, say: Callable[[str], None]) -> Iterator[Lock]:
    """Be the one driver of ``root``, with the lock ``path``.

    Raises UserError where another driver lives, or where it might and ``take_over`` does not say that it is dead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = Lock(path, root, this_process().model_dump_json().encode())
    while not mine.take():
        with suppress(FileNotFoundError):  # it has just left
            content = _content(path)
            say(_judge(_driver(content), path, root, take_over))
            _remove(path, content)
    try:
        yield mine
    finally:
        _remove(path, mine.content)


def deleted(root: Path) -> RunError:
    """Say in one line that a run directory is gone, and what is safe."""
    return RunError(f"{root}: deleted while sdpipe was at work in it; no other file was touched; run it again")


def failure(root: Path, error: OSError) -> RunError:
    """Say in one line what went wrong with the files of a run directory, and what is safe."""
    reason, file = error.strerror or str(error) or type(error).__name__, error.filename or root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{file}: {reason}; what is finished in {root} is safe; make room, then run the same again")
    return RunError(f"{file}: {reason}; what is finished in {root} is safe; the same command goes on from there")
