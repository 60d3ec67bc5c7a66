"""Tasks, and the pool that is the driver itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTROL_GROUP = tuple(
    Path("/sys/fs/cgroup") / name for name in ("memory/memory.limit_in_bytes", "memory.max", "memory.high")
)
"""Where versions 1 and 2 of control groups say how much memory there is."""


@dataclass(frozen=True)
class Task:
    """One call of a function: its name, as the dashboard shows it, and its arguments."""

    name: str
    args: tuple[Any, ...]


def cores() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0))


def memory_limit() -> int:
    """Return the bytes of memory that this machine, or the control group that this process is in, has."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTROL_GROUP:
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(path.read_text()))
    return min(limit for limit in limits if limit > 0)


@dataclass
class Serial:
    """The driver as the only worker: its tasks one after another.

    A task may divide itself into so many processes as ``forks`` says. ``watch`` is called between tasks.
    """

    watch: Callable[[], None]
    threads: int = 1

    @property
    def forks(self) -> int:
        """Into how many processes a task may divide itself."""
        return cores()

    def map(
        self,
        function: Callable[..., Any],
        tasks: list[Task],
        on_message: Callable[[dict[str, Any]], None] | None = None,  # noqa: ARG002 - no task of this pool sends any
    ) -> Iterator[tuple[str, Any]]:
        """Yield (name, result) of each task, in their order; no other begins after one that failed."""
        for task in tasks:
            self.watch()
            yield task.name, function(*task.args)
