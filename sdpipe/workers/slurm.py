"""A pool of Slurm jobs, through dask-jobqueue, that heals itself."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distributed import Client, Status
from distributed.security import Security

from sdpipe.errors import RunError
from sdpipe.workers.jobqueue import PoolSection, SlurmError, SubmittedJob, command
from sdpipe.workers.pool import TEND_EVERY, Pool, announce, recorded

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster

PATIENCE = 600.0
"""Seconds without a worker in which Slurm may fail before the pool gives up."""

LONGEST_PAUSE = 30.0
"""Seconds between two attempts while Slurm fails, at most."""

FAILURES = 3
"""Jobs that end before a worker of theirs connects, one after the other, before the pool gives up."""

HARMLESS = ("CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "PENDING", "RUNNING")
"""Job states that say nothing against the job script."""


@dataclass(kw_only=True)
class SlurmPool(Pool):
    """A pool that heals itself: it replaces jobs that are gone, gives up where they all fail, and releases idle ones.

    dask-jobqueue knows a job as at work from its submission until it closes it, and its ``adapt`` submits no other for
    one that has ended by itself, as with ``--lifetime`` all do before their walltime:
    https://github.com/dask/dask-jobqueue/issues/691. Here Slurm is asked which jobs it still has.

    ``_connected`` are ids of jobs of which a worker has connected, ``_failures`` counts jobs that ended before, since
    the last one that did not; Slurm is not asked again before ``_next``.
    """

    cluster: SLURMCluster
    section: PoolSection
    say: Callable[[str], None]
    _connected: set[str] = field(default_factory=set)
    _failures: int = 0
    _failing_since: float | None = None
    _next: float = 0.0

    def tend(self, unfinished: int, waiting: int) -> None:
        """Replace jobs that Slurm no longer has; release idle ones once nothing waits for them.

        While Slurm fails, the workers go on; it is asked again after ever longer pauses.
        """
        now = time.monotonic()
        if now < self._next:
            return
        try:
            self._heal(unfinished, waiting)
            self._failing_since = None
        except SlurmError as error:
            if self._failing_since is None:
                self._failing_since = now
                self.say(f"{self.section.name}: {error}; asking Slurm again until it answers")
            failing = time.monotonic() - self._failing_since
            if failing > PATIENCE and not self.cluster.scheduler.workers:
                raise RunError(
                    f"{self.section.name}: Slurm has failed for {failing / 60:.0f} minutes and no worker is left: "
                    f"{error}; what is finished is safe; the same command goes on from there"
                ) from None
            self._next = time.monotonic() + min(LONGEST_PAUSE, max(TEND_EVERY, failing))

    def _heal(self, unfinished: int, waiting: int) -> None:
        """Make the jobs that dask-jobqueue believes in those that Slurm has; raise SlurmError where that fails."""
        job_ids = {name: job.job_id for name, job in dict(self.cluster.workers).items()}
        tasks_of = self._tasks_of(job_ids)
        queued = set(command("squeue", "-h", "-o", "%A", "--me").split())
        gone = [name for name, job_id in job_ids.items() if job_id not in queued]  # one that was refused has no id
        for name in gone:
            self._judge(job_ids[name])
        # Once every unfinished task is at a worker, a job without any will get none. One whose worker is lost stays
        # wanted, and another is submitted in its place, so that an idle one need not be kept for that.
        everything_runs = not waiting and sum(tasks_of.values()) >= unfinished
        idle = [name for name, tasks in tasks_of.items() if not tasks] if everything_runs else []
        if gone or idle or set(self.cluster.worker_spec) != set(job_ids):
            self.cluster.sync(self._correct, gone, idle)
        refusals = [job.refusal for job in dict(self.cluster.workers).values() if job.refusal]
        if refusals:
            raise SlurmError(refusals[0])

    def _tasks_of(self, job_ids: dict[str, str | None]) -> dict[str, int]:
        """Return how many tasks the workers of each job have, and note which jobs have connected."""
        tasks_of = dict.fromkeys(job_ids, 0)
        for worker in list(self.cluster.scheduler.workers.values()):
            name = str(worker.name)
            if name not in job_ids:  # of several workers in a job each has a number behind the name of the job
                name = name.rpartition("-")[0]
            if name not in job_ids:
                continue
            tasks_of[name] += len(worker.processing)
            if job_ids[name] not in self._connected:
                self._connected.add(job_ids[name])
                self._failures = 0
        return tasks_of

    async def _correct(self, gone: list[str], idle: list[str]) -> None:
        """Forget the jobs that are gone, and let dask-jobqueue submit what it then lacks and close what is idle.

        ``worker_spec`` holds the jobs that are wanted and ``workers`` those that were submitted: what is in the first
        alone is submitted, what is in the second alone cancelled.
        """
        for name in gone:
            job = self.cluster.workers.pop(name, None)
            if job:
                job.status = Status.closed
        for name in idle:
            self.cluster.worker_spec.pop(name, None)
        await self.cluster._correct_state()

    def _judge(self, job_id: str | None) -> None:
        """Count a job that ended before its worker connected; give up after a few in a row."""
        if job_id is None or job_id in self._connected:
            return
        try:
            state = re.search(r"JobState=(\w+)", command("scontrol", "-o", "show", "job", job_id))
        except SlurmError:  # Slurm has forgotten it
            state = None
        if state and state[1] in HARMLESS:
            return
        self._failures += 1
        if self._failures >= FAILURES:
            log = self.section.log(job_id)
            tail = " | ".join(log.read_text(errors="replace").split("\n")[-6:]) if log.exists() else "no log"
            raise RunError(
                f"{self.section.name}: {FAILURES} jobs ended before a worker connected; what is finished is safe; "
                f"{log}: {tail.strip(' |')}"
            )


def certificates(directory: Path) -> Security:
    """Make temporary TLS certificates as files that only their owner can read."""
    temporary = Security.temporary().get_tls_config_for_role("worker")
    files = {part: directory / f"{part}.pem" for part in ("ca_file", "cert", "key")}
    for part, file in files.items():
        file.touch(mode=0o600)  # before there is anything in it to read
        file.write_text(temporary[part])
    roles = {
        f"tls_{role}_{part}": str(files[part]) for role in ("scheduler", "worker", "client") for part in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=str(files["ca_file"]), **roles)


@contextmanager
def slurm_pool(
    section: PoolSection,
    tasks: int,
    jobs: int,
    tls: Path,
    log: Path,
    say: Callable[[str], None],
    watch: Callable[[], None],
) -> Iterator[SlurmPool]:
    """Start a pool of Slurm jobs, as many as ``tasks`` keep busy and no more than ``jobs``.

    Scheduler and workers speak TLS with temporary certificates, which lie in ``tls`` (readable by the owner only)
    while the pool is there. On every way out the jobs are cancelled.
    """
    from dask_jobqueue import SLURMCluster

    for logger in ("distributed", "dask_jobqueue"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    tls.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=tls, prefix="tls-", ignore_cleanup_errors=True) as directory,
        section.configured(),
        SLURMCluster(
            config_name=section.name,
            job_cls=SubmittedJob,
            processes=section.processes,
            security=certificates(Path(directory)),
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.scale(jobs=min(jobs, -(-tasks // section.processes)))
        announce(client, say)
        with recorded(log):
            yield SlurmPool(
                client,
                section.threads,
                section.processes,
                watch,
                ready=0 if section.gpu else 1,
                resources={"GPU": 1} if section.gpu else None,
                cluster=cluster,
                section=section,
                say=say,
            )
