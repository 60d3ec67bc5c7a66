"""Files are read in a process of their own, which has little memory and time: nothing else bounds what bytes unpack to.

The process gets the bytes of a file, and returns numbers and words. Both ways go as plain data, one line of JSON and
then bytes, so that nothing is unpickled. It is a fresh interpreter: a fork would copy locks that other threads hold
(Dask, PyTorch, HDF5), and multiprocessing would run the user's script once more.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from sdpipe.correlators.record import Record, Snapshot
from sdpipe.errors import RunError, UserError

MOST_MEMORY = 180_000_000
"""Bytes that reading a file may take, beside its own size and the libraries that read it."""


MOST_SECONDS = 8
"""Seconds of computing that reading a file may take; ten times as many may pass."""


READY = b"ready\n"
"""What the process says when it has its libraries and its limits, and whatever ends it comes from the file."""


ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""Threads take memory, each for itself, which would come out of that of the file."""


START = "import sys; sys.path[:] = sys.argv[1:]; from sdpipe.correlators.child import main; main()"
"""What the process runs; its modules are those of this one, and never those of the directory in which it runs."""


PIPE_BYTES = 2**20
"""How much the system takes at a time from one process for the other."""


ARRAYS = ("samples", "mean", "covariance", "errors", "times")
"""Fields of a Record that are arrays of float64."""


def read(snapshot: Snapshot, dataset: str | None, libraries: Sequence[str]) -> Record:
    """Return the correlator ``dataset`` in the bytes of a file, as :func:`sdpipe.correlators.formats.parse` does.

    ``libraries`` are modules that its reader needs, or is in.

    Raises UserError for what the reader refuses, for more than MOST_MEMORY or MOST_SECONDS, and where the bytes crash
    the library that reads them; RunError where no process can be started.
    """
    home = str(Path(__file__).parents[2])
    paths = [home, *(entry for entry in sys.path if Path(entry).is_absolute())]
    command = [sys.executable, "-P", "-W", "ignore", "-c", START, *paths]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    try:
        process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, pipesize=PIPE_BYTES, **pipes)
    except OSError as error:
        raise _cannot_start(snapshot.path, str(error)) from None
    with process:
        try:
            with suppress(BrokenPipeError):  # it ended early: what it said before is looked at below
                send_request(process.stdin, snapshot, dataset, libraries)
            with suppress(BrokenPipeError):
                process.stdin.close()
            answer, messages = process.stdout.read(), process.stderr.read()
        except BaseException:
            process.kill()
            raise
    if not answer.startswith(READY):
        raise _cannot_start(snapshot.path, messages.decode(errors="replace").strip().rpartition("\n")[2])
    if process.returncode:
        raise UserError(f"{snapshot.path}: {_death(-process.returncode)}")
    return _record(answer[len(READY) :])


def _cannot_start(path: Path, why: str) -> RunError:
    return RunError(f"{sys.executable}: cannot start a process that reads {path}: {why or 'it ends without a word'}")


def _death(number: int) -> str:
    """Say why a process ended that a signal, or an error of its own, ended."""
    if number in (signal.SIGXCPU, signal.SIGALRM):
        return f"takes more than {MOST_SECONDS} s to read; allowed: up to that; it is damaged, or to be binned first"
    return f"damaged: it crashes the library that reads it ({signal.strsignal(number) if number > 0 else 'error'})"


# --- what goes from one process to the other -----------------------------------------------------------------


def send_request(stream: IO[bytes], snapshot: Snapshot, dataset: str | None, libraries: Sequence[str]) -> None:
    """Write which correlator is to be read, what its reader imports, and the bytes of its file."""
    sizes = {name: len(content) for name, content in snapshot.files.items()}
    request = {"path": str(snapshot.path), "dataset": dataset, "libraries": libraries, "sizes": sizes}
    _write_line(stream, request)
    for content in snapshot.files.values():
        stream.write(content)


def receive_request(stream: IO[bytes]) -> tuple[Snapshot, str | None, list[str]]:
    """Read what :func:`send_request` wrote."""
    head = json.loads(stream.readline())
    files = {name: stream.read(size) for name, size in head["sizes"].items()}
    return Snapshot(Path(head["path"]), "", files), head["dataset"], head["libraries"]


def send_record(stream: IO[bytes], record: Record) -> None:
    """Write a record: words, shapes and the order of the axes in memory, then the numbers of each array."""
    arrays = {name: getattr(record, name) for name in ARRAYS if getattr(record, name) is not None}
    shapes = {name: (a.shape, "F" if a.flags.f_contiguous else "C") for name, a in arrays.items()}
    stored = np.dtype(record.stored).str
    _write_line(stream, {"where": record.where, "said": record.said, "stored": stored, "arrays": shapes})
    for name, (_, order) in shapes.items():
        stream.write(arrays[name].ravel(order).data)


def send_faults(stream: IO[bytes], error: UserError) -> None:
    """Write why a file is refused."""
    _write_line(stream, {"faults": error.faults, "key": error.key})


def _record(answer: bytes) -> Record:
    """Return the record in an answer; raise UserError where the file is refused."""
    position = answer.index(b"\n") + 1
    head = json.loads(answer[:position])
    if "faults" in head:
        raise UserError(*head["faults"], key=head["key"])
    arrays = {}
    for name, (shape, order) in head["arrays"].items():
        # A copy is aligned, and free of the other bytes.
        numbers = np.frombuffer(answer, float, int(np.prod(shape)), position).copy()
        arrays[name] = numbers.reshape(shape, order=order)
        position += numbers.nbytes
    return Record(head["where"], said=head["said"], stored=np.dtype(head["stored"]), **arrays)


def _write_line(stream: IO[bytes], words: dict[str, Any]) -> None:
    stream.write(json.dumps(words).encode() + b"\n")
