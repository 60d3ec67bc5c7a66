"""One function of many things, in processes forked off this one: they have its memory, so that results alone are sent.

Threads would take turns at Python's lock; new processes would import and load again what this one has.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from sdpipe.errors import RunError

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def forked(function: Callable[[Thing], Result], things: Sequence[Thing], processes: int) -> list[Result]:
    """Return function(x) for each x, in their order, by as many processes at once.

    Where one is enough, and in what is itself a process of another one, that is this one. What a process changes is
    lost with it, but for its results. All end with this process, however it ends, and where one of them fails: its
    exception is raised here, and says in a note where it was. Raises RunError where one of them is killed.

    >>> forked(abs, [-1, 2, -3], processes=2)
    [1, 2, 3]
    """
    count = min(processes, len(things))
    if count < 2 or multiprocessing.parent_process():
        return [function(x) for x in things]
    results: dict[int, list[Result]] = {}
    started: list[BaseProcess] = []
    try:
        lines = {}
        for i in range(count):
            process, line = _started(function, things[i::count])
            started.append(process)
            lines[line] = i
        while lines:
            for line in wait(list(lines)):
                results[lines.pop(line)] = _received(line)
    finally:
        for process in started:
            process.kill()
            process.join()
    return [results[i % count][i // count] for i in range(len(things))]


def _started(function: Callable[[Thing], Result], things: Sequence[Thing]) -> tuple[BaseProcess, Connection]:
    """Start a process that sends the results for some things; return it, and where they come from."""
    context = multiprocessing.get_context("fork")
    line, other_end = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, things, other_end), daemon=True)
    signals = {signal.SIGINT, signal.SIGTERM}  # those of this process would be raised in the new one, too
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        with warnings.catch_warnings():  # of other threads: none of them holds what the new process computes with
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    other_end.close()
    return process, line


def _work(function: Callable[[Thing], Result], things: Sequence[Thing], line: Connection) -> None:
    """Send (results, None, None), or (None, exception, where it was), and end, earlier where the parent ends."""
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # not what draws bars on a terminal
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = [function(x) for x in things], None, None
    except Exception as error:
        answer = None, error, "".join(traceback.format_tb(error.__traceback__)).rstrip()
    line.send(answer)


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _received(line: Connection) -> list:
    """Return what a process sends; raise its exception, and RunError where it ended without a word."""
    try:
        results, error, where = line.recv()
    except EOFError:
        raise RunError(
            "a process of this command was killed, as they are when memory runs out; what is finished is safe; the "
            "same command goes on from there"
        ) from None
    if error is not None:
        error.add_note(where)
        raise error
    return results
