"""What a block costs the driver, and the block size that keeps 1,000 workers busy: a model."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.table import Row
from benchmarks.workers import local_pool
from sdpipe.workers.serial import Task

BLOCKS, WORKERS = 10_000, 1000


def nothing(_: int) -> None:
    """Do nothing."""


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
    ]  # fmt: skip
