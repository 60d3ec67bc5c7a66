"""Generation by real workers: one against two, and the memory they need for small and large sets."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from benchmarks.commands import arguments
from benchmarks.table import Limit, Row
from benchmarks.training_sets import empty_run, one_ensemble
from sdpipe.config.schema import Cluster, Config, to_yaml
from sdpipe.disk.layout import Layout
from sdpipe.pipeline.tasks import generate_block
from sdpipe.workers.pool import Pool
from sdpipe.workers.pools import Workers
from sdpipe.workers.serial import Task

SMALL, LARGE = 400_000, 4_000_000


@contextmanager
def local_pool(count: int, root: Path) -> Iterator[Pool]:
    """Start a pool of ``count`` processes of this machine."""
    workers = Workers(Cluster(), root, root / "tls", lambda _: None)
    with workers, workers.pool("cpu", "benchmark", count) as pool:
        yield pool


def generate_on(pool: Pool, config: Config, root: Path, blocks: int) -> float:
    """Return the wall seconds of some blocks on a pool whose workers have already made one each."""
    tasks = [Task(f"{root.name}-{piece.name}", (*at, piece)) for *at, piece in empty_run(config, root)]
    workers = sum(pool.client.nthreads().values())
    list(pool.map(generate_block, tasks[:workers]))
    begun = time.perf_counter()
    list(pool.map(generate_block, tasks[workers : workers + blocks]))
    return time.perf_counter() - begun


def peak_memory(config: Config, root: Path) -> tuple[float, float]:
    """Generate as a user would; return the largest memory of one worker and of all processes together, in GB."""
    shutil.rmtree(root, ignore_errors=True)
    file = root.with_suffix(".yaml")
    file.write_text(to_yaml(config))
    driver = subprocess.Popen(arguments("generate", file, Layout(root)))
    process, one, together = psutil.Process(driver.pid), 0, 0
    while driver.poll() is None:
        sizes = []
        for child in process.children(recursive=True):
            try:
                sizes.append(child.memory_info().rss)
            except psutil.Error:
                continue
        one, together = max([one, *sizes]), max(together, sum(sizes))
        time.sleep(0.1)
    if driver.returncode:
        raise RuntimeError(f"sdpipe generate ended with {driver.returncode}")
    shutil.rmtree(root)
    return one / 1e9, together / 1e9


def measure(root: Path) -> list[Row]:
    """Peak memory at two sizes, and the wall time of the same blocks on one worker and on two, turn by turn."""
    memory = {n: peak_memory(one_ensemble(128, n, "arcL"), root / f"memory-{n}") for n in (SMALL, LARGE)}
    config, ratios = one_ensemble(128, 20 * 43_008, "arcL"), []
    with (
        local_pool(1, root / "one") as one,
        local_pool(2, root / "two") as two,
    ):
        for _ in range(5):
            times = [generate_on(pool, config, root / "workers", 10) for pool in (one, two)]
            ratios.append(times[0] / times[1])
    shutil.rmtree(root / "workers")
    rows = [
        Row(
            f"peak memory of a worker at Nrho = {n:,}", memory[n][0], "GB", None, (Limit("ours", "≤", 1),), True,
            f"workers together {memory[n][1]:.2f} GB",
        )
        for n in memory
    ]  # fmt: skip
    note = "wall time of the same ten blocks, pools started beforehand, median of five turns"
    return [*rows, Row("two workers over one", median(ratios), "x", None, (Limit("ours", "≥", 1.8),), note=note)]
