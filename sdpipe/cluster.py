"""Pools of workers: run a function over named tasks. The only module that imports dask.distributed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed, get_worker, performance_report

TOPIC = "sdpipe"

SETTINGS = {
    # The default returns freed memory to the system at once: half the time of training went into page faults.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**30,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**30,
    "distributed.scheduler.allowed-failures": 20,
    "distributed.worker.daemon": True,
    "distributed.admin.log-format": "%(name)s: %(message)s",
    "distributed.diagnostics.nvml": False,
}


@dataclass(frozen=True)
class Task:
    """One call of a function: its name, as the dashboard shows it, and its arguments."""

    name: str
    args: tuple[Any, ...]


def cores() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0))


def report(**message: Any) -> None:
    """Send a message from inside a task to the driver."""
    get_worker().log_event(TOPIC, message)


class Pool:
    """A Dask client with a window of submitted tasks."""

    def __init__(self, client: Client, workers: int, resources: dict[str, int] | None = None) -> None:
        self.client, self.workers, self.resources = client, workers, resources

    @property
    def dashboard(self) -> str:
        """Address of the dashboard."""
        return self.client.dashboard_link

    def map(
        self,
        function: Callable[..., Any],
        tasks: list[Task],
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield (name, result) as tasks finish; a few more than there are workers are submitted at a time.

        Tasks must be idempotent: one that was on a lost worker runs again. An exception of a task is raised
        here, and the others are cancelled.
        """
        if on_message:
            self.client.subscribe_topic(TOPIC, lambda event: on_message(event[1]))
        waiting = list(reversed(tasks))
        running = as_completed([])
        names = {}

        def submit() -> None:
            task = waiting.pop()
            future = self.client.submit(
                function, *task.args, key=task.name, pure=False, resources=self.resources, priority=len(waiting)
            )
            names[future] = task.name
            running.add(future)

        for _ in range(min(self.workers + 1, len(waiting))):
            submit()
        try:
            for future in running:
                name, result = names.pop(future), future.result()
                future.release()
                if waiting:
                    submit()
                yield name, result
        finally:
            if names:
                self.client.cancel(list(names), force=True)
            if on_message:
                self.client.unsubscribe_topic(TOPIC)


@contextmanager
def local_pool(workers: int, log: Path, say: Callable[[str], None]) -> Iterator[Pool]:
    """Start ``workers`` processes on this machine, reached through 127.0.0.1 only."""
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        pool = Pool(client, workers)
        say(f"dashboard: {pool.dashboard}")
        log.parent.mkdir(parents=True, exist_ok=True)
        with performance_report(filename=str(log)):
            yield pool
