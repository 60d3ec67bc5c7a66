"""Weak and strong scaling of generation: local workers, and Slurm jobs with ``--section NAME``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.table import Row
from benchmarks.training_sets import one_ensemble
from benchmarks.workers import generate_on, local_pool
from sdpipe.config.schema import Cluster
from sdpipe.workers.pool import Pool
from sdpipe.workers.pools import Workers
from sdpipe.workers.serial import cores

BLOCKS = 12
ROUNDS = 3

section: str | None = None
"""Section of ./jobqueue.yaml to measure on as well; set by the command line."""


@contextmanager
def _slurm(jobs: int, root: Path) -> Iterator[Pool]:
    workers = Workers(Cluster(cpu=section, jobs=jobs), root / "logs", root / "tls", lambda _: None)
    with workers, workers.pool("cpu", "benchmark", 1000) as pool:
        while len(pool.client.scheduler_info()["workers"]) < jobs * pool.sharers:
            time.sleep(0.2)
        yield pool


def _measure(where: str, pool: Pool, workers: int, root: Path) -> tuple[float, float]:
    """Return the median wall seconds of BLOCKS blocks in all, and of BLOCKS blocks for each worker."""
    config = one_ensemble(128, (workers * BLOCKS + workers + 1) * 43_008, "arcL")
    fixed = median(generate_on(pool, config, root / f"{where}-strong", BLOCKS) for _ in range(ROUNDS))
    grown = median(generate_on(pool, config, root / f"{where}-weak", BLOCKS * workers) for _ in range(ROUNDS))
    for kind in ("strong", "weak"):
        shutil.rmtree(root / f"{where}-{kind}")
    return fixed, grown


def measure(root: Path) -> list[Row]:
    """Efficiency against one worker: strong is t_1 / (n t_n) of the same blocks, weak t_1 / t_n of n times as many."""
    pools = [("local", n, local_pool(n, root)) for n in range(1, cores() + 1)]
    if section:
        pools += [(section, n, _slurm(n, root)) for n in (1, 2, 3)]
    rows, alone = [], {}
    for where, n, opened in pools:
        with opened as pool:
            fixed, grown = _measure(where, pool, n, root)
        alone.setdefault(where, fixed)
        note = f"{BLOCKS} blocks in {fixed:.2f} s, {BLOCKS * n} in {grown:.2f} s"
        rows.append(Row(f"{where}, {n} workers, strong", alone[where] / (n * fixed), "efficiency", note=note))
        rows.append(Row(f"{where}, {n} workers, weak", alone[where] / grown, "efficiency"))
    return rows
