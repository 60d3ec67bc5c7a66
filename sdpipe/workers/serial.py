"""Tasks, and the pool that is the driver itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """One call of a function: its name, as the dashboard shows it, and its arguments."""

    name: str
    args: tuple[Any, ...]


def cores() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class Serial:
    """The driver as the only worker, without a process to start: so many of its tasks at a time are ``sharers``.

    ``watch`` is called between tasks.
    """

    watch: Callable[[], None]
    sharers: int = 1

    @property
    def threads(self) -> int:
        """How many processors a task may use."""
        return cores() // self.sharers

    def map(
        self,
        function: Callable[..., Any],
        tasks: list[Task],
        on_message: Callable[[dict[str, Any]], None] | None = None,  # noqa: ARG002 - no task of this pool sends any
    ) -> Iterator[tuple[str, Any]]:
        """Yield (name, result) of each task, in their order; no other begins after one that failed."""
        with ThreadPoolExecutor(self.sharers) as pool:
            results = [(task.name, pool.submit(function, *task.args)) for task in tasks]
            try:
                for name, result in results:
                    self.watch()
                    yield name, result.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
