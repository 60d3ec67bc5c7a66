"""A pool of workers: how it maps a function over named tasks, and the one that is made of processes of this machine."""

from __future__ import annotations

import getpass
import logging
import math
import queue
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, ClassVar, Literal

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, performance_report

from sdpipe.errors import RunError
from sdpipe.workers.serial import Task, memory_limit

Kind = Literal["cpu", "gpu"]
"""Key of the config's section `cluster` that names a pool."""

TOPIC = "sdpipe"

LOOK_EVERY = 0.5
"""Seconds between two questions whether the lock is held and how many workers are connected."""

TEND_EVERY = 3.0
"""Seconds between two looks at the jobs of a pool."""

TRACKER = "ignore:resource_tracker:UserWarning"
"""Python's tracker of semaphores warns of those of workers that were ended in mid-task, which it removes."""

SETTINGS = {
    # The default returns freed memory to the system at once: half the time of training went into page faults.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**30,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**30,
    # Without it the last bits of a product depend on how many threads take part; costs a tenth of the time.
    "distributed.nanny.pre-spawn-environ.MKL_CBWR": "AUTO,STRICT",
    "distributed.scheduler.allowed-failures": 20,
    "distributed.worker.daemon": True,
    "distributed.worker.http.routes": [],  # metrics and profiles are for the scheduler, which gets them over TLS
    "distributed.diagnostics.nvml": False,
}


def report(**message: Any) -> None:
    """Send a message from inside a task to the driver."""
    get_worker().log_event(TOPIC, message)


def memory() -> int:
    """Return the bytes of memory that the worker of a task may use."""
    return get_worker().memory_manager.memory_limit or memory_limit()


@dataclass
class Pool:
    """Connected workers, and a window of tasks submitted to them.

    ``threads`` is how many processors a task may use, ``sharers`` how many workers of the pool use one machine and,
    where it has one, its GPU. With ``resources``, a worker takes one task at a time. ``watch`` is called about every
    half second while tasks run; what it raises ends them. ``ready`` is how many tasks wait at a worker for another one
    to end: none where they are long, since they would wait there while other workers have nothing to do. A worker has
    threads of its own, so that no task divides itself into more than ``forks``, one process.
    """

    client: Client
    threads: int
    sharers: int
    watch: Callable[[], None]
    ready: int
    resources: dict[str, int] | None = None
    forks: ClassVar[int] = 1

    def _window(self) -> int:
        """Return how many tasks may be submitted: all that connected workers can run, and those to be ready."""
        return max(1, sum(self.client.nthreads().values()) + self.ready)

    def _submit(self, function: Callable[..., Any], task: Task, priority: int) -> Future:
        options = {"key": task.name, "pure": False, "resources": self.resources, "priority": priority}
        return self.client.submit(function, *task.args, **options)

    def tend(self, unfinished: int, waiting: int) -> None:
        """Look after the workers: called every few seconds while tasks run."""

    def map(
        self,
        function: Callable[..., Any],
        tasks: list[Task],
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield (name, result) as tasks finish; no more are submitted at a time than the workers can run.

        Tasks must be idempotent: one that was on a lost worker runs again. An exception of a task is raised
        here, and the others are cancelled.
        """
        if on_message:
            self.client.subscribe_topic(TOPIC, lambda event: on_message(event[1]))
        waiting = list(reversed(tasks))
        running: dict[Future, str] = {}
        finished = queue.SimpleQueue[Future]()
        window, asked, tended = 0, -math.inf, time.monotonic()
        try:
            while waiting or running:
                if time.monotonic() - asked > LOOK_EVERY:  # a question to the scheduler, not for every task
                    self.watch()
                    window = self._window()
                    asked = time.monotonic()
                # A window, and not all tasks at once: the scheduler would hand them out beforehand, and a worker that
                # comes later, as a job that has waited in the queue, would find none left to take.
                while waiting and len(running) < window:
                    task = waiting.pop()
                    future = self._submit(function, task, priority=len(waiting))
                    future.add_done_callback(finished.put)
                    running[future] = task.name
                if time.monotonic() - tended > TEND_EVERY:
                    self.tend(len(running), len(waiting))
                    tended = time.monotonic()
                try:
                    future = finished.get(timeout=LOOK_EVERY)
                    result = future.result(timeout=TEND_EVERY)  # Dask fails where half a second is not enough
                except queue.Empty:
                    continue
                except TimeoutError:
                    if future.status == "error":  # the task's own, as of a file on a network
                        raise
                    finished.put(future)  # its worker was lost with the result: it runs again
                    continue
                except KilledWorker as error:
                    raise RunError(
                        f"{running[future]}: {error.allowed_failures + 1} workers died of it, one after the other, as "
                        "they do when memory runs out; what is finished is safe; give workers more memory"
                    ) from None
                name = running.pop(future)
                future.release()
                yield name, result
        finally:
            if running:
                self.client.cancel(list(running), force=True)
            if on_message:
                self.client.unsubscribe_topic(TOPIC)


def announce(client: Client, say: Callable[[str], None]) -> None:
    """Say where the dashboard of the scheduler is."""
    port = client.scheduler_info()["services"]["dashboard"]
    say(
        f"dashboard: http://127.0.0.1:{port}/status  (from elsewhere: ssh -N -L {port}:127.0.0.1:{port} "
        f"{getpass.getuser()}@{socket.gethostname()})"
    )


@contextmanager
def recorded(log: Path) -> Iterator[None]:
    """Write what the pool just started does meanwhile to ``log``, a Dask performance report."""
    log.parent.mkdir(parents=True, exist_ok=True)
    report = performance_report(filename=str(log))
    report.__enter__()
    yield  # after an interruption or a failure there is no time for it
    report.__exit__(None, None, None)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back to the end of the block: what is half started could not be closed.

    Processes that are started in it, or by its threads later, never see SIGINT: Ctrl-C in a terminal reaches all of
    them, and is for the driver, which then ends its workers.
    """
    if TRACKER not in sys.warnoptions:
        sys.warnoptions.append(TRACKER)
    resource_tracker.ensure_running()  # by itself it starts with the first worker, and unblocks SIGINT there
    came: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if came:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def local_workers(count: int, say: Callable[[str], None]) -> Iterator[Client]:
    """Start ``count`` worker processes on this machine, reached over TLS at 127.0.0.1 only."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(SETTINGS), ExitStack() as started:
        with uninterrupted():
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                security=True,  # temporary certificates, in memory: other users of this machine reach 127.0.0.1 too
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
            client = started.enter_context(Client(started.enter_context(cluster)))
        announce(client, say)
        try:
            yield client
        finally:
            with uninterrupted():
                try:
                    started.close()
                except AssertionError as error:  # Dask's own; what ended the block is what the user must see
                    say(f"local: a worker that was being started again ends with this process, not before it ({error})")
