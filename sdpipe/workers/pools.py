"""Which pool of workers a stage runs on: processes of this machine, or Slurm jobs.

Dask takes half a second to import, so that only a pool that starts imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from sdpipe.config.schema import Cluster, Config
from sdpipe.errors import RunError
from sdpipe.workers.serial import Serial, cores, memory_limit

if TYPE_CHECKING:
    from sdpipe.workers.pool import Kind, Pool


OWN = ("local", "serial")
"""Pools of this machine; any other is a section of jobqueue.yaml."""

PER_CORE = 2
"""Parts of a training for each core of this machine: costs are estimates, and whoever is done first takes the next."""

DRIVER = 5.2e-3
"""Seconds that the driver takes for one task, whatever is in it (docs/performance.md)."""


def each_task(pieces: int, seconds: float, workers: int) -> int:
    """Return how many pieces of so many seconds one task takes, so that the driver keeps all workers busy.

    W workers whose tasks last b seconds ask the driver for W/b tasks a second, so that b must be ``DRIVER`` W or more;
    there are never fewer tasks than workers.

    >>> each_task(38, 0.22, 4), each_task(100_000, 0.22, 1000), each_task(38, 0.22, 1000)
    (1, 24, 1)
    """
    return max(1, min(ceil(DRIVER * workers / seconds), pieces // workers))


def most_workers(config: Config, kind: Kind, logs: Path) -> int:
    """Return how many workers a pool may have."""
    name = getattr(config.cluster, kind)
    if name in OWN:
        return cores()
    from sdpipe.workers.jobqueue import read_section

    return config.cluster.jobs * read_section(name, kind, logs).processes


def trainers(config: Config, logs: Path) -> int:
    """Return how many equal parts training is cut into, so that no worker is idle.

    One where a GPU of this machine trains everything: it takes hardly longer for a step of many networks than for that
    of a few. Else one for each worker. A core of this machine counts as ``PER_CORE``.
    """
    if config.cluster.gpu not in OWN:
        return most_workers(config, "gpu", logs)
    from sdpipe.learn.training import device_for

    return 1 if device_for(config.training.device).type == "cuda" else PER_CORE * cores()


class Workers(ExitStack):
    """The workers of one command, until it ends.

    Processes of this machine go from stage to stage where as many are wanted. ``logs`` takes Dask's performance report
    of each stage and the output of jobs, ``tls`` the certificates of Slurm pools; ``say`` shows a line to the user, and
    ``watch`` is that of :class:`Pool`.
    """

    def __init__(
        self,
        cluster: Cluster,
        logs: Path,
        tls: Path,
        say: Callable[[str], None],
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._cluster, self._logs, self._tls, self._say, self._watch = cluster, logs, tls, say, watch
        self._count = 0

    @contextmanager
    def pool(self, kind: Kind, stage: str, tasks: int) -> Iterator[Pool | Serial]:
        """Start the ``kind`` of pool that a stage uses, with no more workers than tasks.

        Raises RunError where its workers stop answering, as they do under load.
        """
        try:
            with self._pool(kind, stage, tasks) as pool:
                yield pool
        except OSError as error:
            if error.errno is not None:  # of a file; those of Dask's connections have no number
                raise
            raise RunError(
                f"{getattr(self._cluster, kind)}: the workers do not answer ({str(error) or type(error).__name__}), as "
                "under heavy load; what is finished is safe; the same command goes on from there"
            ) from error

    @contextmanager
    def _pool(self, kind: Kind, stage: str, tasks: int) -> Iterator[Pool | Serial]:
        name = getattr(self._cluster, kind)
        log = self._logs / f"dask-{stage}.html"
        if name == "serial":
            yield Serial(self._watch)
        elif name == "local":
            from sdpipe.workers.pool import Pool, local_workers, recorded

            count = min(cores(), tasks)
            if count != self._count:
                self.close()
                self._client, self._count = self.enter_context(local_workers(count, self._say)), count
            with recorded(log):
                yield Pool(self._client, cores() // count, count, self._watch, ready=0 if kind == "gpu" else 1)
        else:
            from sdpipe.workers.jobqueue import read_section
            from sdpipe.workers.slurm import slurm_pool

            section = read_section(name, kind, self._logs)
            with slurm_pool(section, tasks, self._cluster.jobs, self._tls, log, self._say, self._watch) as pool:
                yield pool


def check_pools(config: Config, kinds: Iterable[Kind], logs: Path) -> list[str]:
    """Let Slurm check the job scripts of these pools; return them.

    Raises ConfigError with Slurm's own words where it refuses one.
    """
    scripts = {}
    for kind in kinds:
        name = getattr(config.cluster, kind)
        if name not in OWN and name not in scripts:
            from sdpipe.workers.jobqueue import preflight, read_section

            scripts[name] = preflight(read_section(name, kind, logs))
    return list(scripts.values())


def memory(config: Config, kind: Kind | None, logs: Path) -> int:
    """Return the bytes that a worker of a pool may use or, without ``kind``, the driver."""
    name = getattr(config.cluster, kind) if kind else "local"
    if name in OWN:
        return memory_limit() // (cores() if kind and name == "local" else 1)
    from sdpipe.workers.jobqueue import read_section

    return read_section(name, kind, logs).memory
