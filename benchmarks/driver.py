"""What a block costs the driver, with 2 workers and with many, and the block size that keeps 1,000 busy: a model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from distributed import Client, LocalCluster

from benchmarks.table import Row
from benchmarks.workers import local_pool
from sdpipe.workers.pool import Pool
from sdpipe.workers.serial import Task

BLOCKS, WORKERS = 10_000, 1000
MANY, EACH = (50, 200, 500), 8
"""Numbers of workers in one process, and the blocks that each of them gets."""


def nothing(_: int) -> None:
    """Do nothing."""


@contextmanager
def in_one_process(workers: int) -> Iterator[Pool]:
    """Start workers that are threads of this process, as scheduler and driver are: all cost is processor time of it.

    They have no limit of memory, of which each would have a part that the whole process passes.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(n_workers=workers, **options) as cluster, Client(cluster) as client:
        yield Pool(client, 1, 1, lambda: None, ready=1)


def with_many(workers: int) -> list[Row]:
    """Measure processor time and memory of blocks that do nothing and of blocks that sleep for 0.2 s."""
    process, rows = psutil.Process(), []
    before = process.memory_info().rss
    with in_one_process(workers) as pool:
        for name, function, argument in (("do nothing", nothing, 0), ("take 0.2 s", time.sleep, 0.2)):
            tasks = [Task(f"{name}-{i}", (argument,)) for i in range(EACH * workers)]
            begun, used = time.perf_counter(), time.process_time()
            count = sum(1 for _ in pool.map(function, tasks))
            used, wall = 1e3 * (time.process_time() - used) / count, time.perf_counter() - begun
            label = f"{workers} workers, blocks that {name}"
            rows.append(
                Row(f"{label}: processor time of scheduler, driver and workers", used, "ms/block", smaller=True)
            )
            rows.append(Row(f"{label}: handed out", count / wall, "blocks/s"))
        memory = (process.memory_info().rss - before) / workers / 1e6
    return [
        *rows,
        Row(f"{workers} workers: memory of scheduler, driver and workers", memory, "MB/worker", smaller=True),
    ]


def measure(root: Path) -> list[Row]:
    """Time 10,000 blocks that do nothing, on as many workers as there are cores."""
    with local_pool(2, root) as pool:
        list(pool.map(nothing, [Task(f"warm-{i}", (i,)) for i in range(100)]))
        begun = time.perf_counter()
        count = sum(1 for _ in pool.map(nothing, [Task(f"block-{i}", (i,)) for i in range(BLOCKS)]))
        cost = (time.perf_counter() - begun) / count
    return [
        Row("driver, one of 10,000 no-op blocks", 1e3 * cost, "ms/block", smaller=True),
        Row(
            f"model: shortest block that keeps {WORKERS:,} workers busy", WORKERS * cost, "s", smaller=True,
            note=f"the driver hands out one block in {1e3 * cost:.2f} ms whatever is in it; W workers with blocks of "
            f"b seconds ask for W / b blocks per second, so b must be at least {1e3 * cost:.2f} ms x W",
        ),
        *(row for workers in MANY for row in with_many(workers)),
    ]  # fmt: skip
