"""The process that reads one file, see :mod:`sdpipe.correlators.apart`: no other module imports this one."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from sdpipe.correlators import apart, formats
from sdpipe.correlators.record import Record, Snapshot
from sdpipe.errors import UserError


def main() -> None:
    """Read a request from standard input, and write the answer to standard output."""
    answer = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what libraries print is no answer
    snapshot, dataset, libraries = apart.receive_request(sys.stdin.buffer)
    for name in libraries:
        with suppress(ImportError):  # the reader says what to install
            import_module(name)
    answer.write(apart.READY)
    answer.flush()
    os.dup2(nowhere, 2)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_CPU, int(time.process_time()) + 1 + apart.MOST_SECONDS)
    signal.alarm(10 * apart.MOST_SECONDS)  # for a library that waits for ever, without computing
    try:
        apart.send_record(answer, read(snapshot, dataset))
    except UserError as error:
        apart.send_faults(answer, error)
    answer.flush()
    os._exit(0)  # without the clearing up of libraries, which takes as long as their start


def read(snapshot: Snapshot, dataset: str | None = None) -> Record:
    """Return what :func:`sdpipe.correlators.formats.parse_here` reads, in little memory.

    Raises UserError as that does, and for a file that needs more, whatever the libraries make of that.
    """
    try:
        with _little_memory():
            return formats.parse_here(snapshot, dataset)
    except UserError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MemoryError):
            cause = cause.__context__
        if cause is None:
            raise
        words = f"takes more than {apart.MOST_MEMORY / 1e6:.0f} MB to read, beside its size; allowed: up to that"
        raise UserError(f"{snapshot.path}: {words}; it is damaged, or to be binned first") from None


@contextmanager
def _little_memory() -> Iterator[None]:
    """Let this process have MOST_MEMORY beside what it has.

    RLIMIT_DATA counts what is a process's own, as /proc says it: the heap, and what is mapped for large arrays, but no
    code of libraries, nor address space that nobody uses.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    _set(resource.RLIMIT_DATA, pages * resource.getpagesize() + apart.MOST_MEMORY)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _set(what: int, most: int) -> None:
    """Set a limit of this process, to less where the user's own is less."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
