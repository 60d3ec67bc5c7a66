"""Slurm pools through dask-jobqueue: jobqueue.yaml, the pre-flight check, and a pool that heals itself."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import yaml
from distributed import Client
from distributed.security import Security

from sdpipe.errors import RunError, UserError
from sdpipe.workers.pools import SETTINGS, Pool, announce, recorded

_on_interrupt = signal.getsignal(signal.SIGINT)

from dask_jobqueue import SLURMCluster  # noqa: E402
from dask_jobqueue.slurm import SLURMJob  # noqa: E402

signal.signal(signal.SIGINT, _on_interrupt)  # importing dask-jobqueue makes Ctrl-C a silent exit with status 0

FILE = Path("jobqueue.yaml")
FAILURES = 3
"""Jobs that die before a worker of theirs connects, one after the other, before the pool gives up."""

HARMLESS = ("CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "PENDING", "RUNNING")
"""Job states that say nothing against the job script."""


@dataclass(frozen=True)
class Section:
    """One pool of jobqueue.yaml: its name and its settings, complete with dask-jobqueue's defaults."""

    name: str
    settings: dict[str, Any]
    extra: dict[str, Any]

    @property
    def processes(self) -> int:
        """Workers in one job."""
        return int(self.settings["processes"])

    @property
    def threads(self) -> int:
        """Processors of one worker."""
        return max(1, int(self.settings["cores"]) // self.processes)


def _read_file() -> dict[str, Any]:
    try:
        content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        line = getattr(error, "problem_mark", None)
        raise UserError(f"{FILE}:{line.line + 1 if line else 1}: not valid YAML") from None
    if not isinstance(content, dict) or not isinstance(content.get("jobqueue", {}), dict):
        raise UserError(f"{FILE}:1: it must hold jobqueue: and below it one section for each pool")
    return content


def read_section(name: str, key: str, gpu: bool, logs: Path) -> Section:
    """Return the section ``name`` of ./jobqueue.yaml, over Dask's own configuration, over dask-jobqueue's defaults.

    Job logs go to ``logs`` unless the section says otherwise.

    Raises UserError where there is no such section, or where it has a key that dask-jobqueue does not know.
    """
    file = _read_file()
    known = dask.config.get("jobqueue", {})
    own = {**known, **file.get("jobqueue", {})}
    if name not in own or not isinstance(own[name], dict):
        mine = sorted(set(file.get("jobqueue", {})) | {n for n in known if n.startswith("slurm")})
        where = FILE if FILE.exists() else f"{FILE.absolute()}: this file is not there"
        raise UserError(f"cluster.{key}: there is no section {name!r} in {where}; allowed: local, {', '.join(mine)}")
    defaults = known["slurm"]
    chosen = {k.replace("_", "-"): v for k, v in {**known.get(name, {}), **own[name]}.items()}
    unknown = sorted(set(chosen) - set(defaults))
    if unknown:
        raise UserError(f"{FILE}: {name}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(defaults))}")
    settings = {**defaults, **chosen}
    for listed in ("worker-extra-args", "job-extra-directives", "job-script-prologue", "job-directives-skip"):
        settings[listed] = settings[listed] or []
    settings["scheduler-options"] = settings["scheduler-options"] or {}
    for needed in ("cores", "memory"):
        if settings[needed] is None:
            raise UserError(f"{FILE}: {name}: {needed}: this key is missing; it says what one job asks for")
    settings["processes"] = settings["processes"] or (1 if gpu else settings["cores"])
    settings["worker-extra-args"] = [*settings["worker-extra-args"], *_lifetime(settings, name)]
    if gpu and "--resources" not in settings["worker-extra-args"]:
        settings["worker-extra-args"] += ["--resources", "GPU=1", "--nthreads", "1"]
    settings["job-extra-directives"] = [*settings["job-extra-directives"], "--no-requeue"]
    settings["log-directory"] = settings["log-directory"] or str(logs)
    exports = [f"export DASK_{k.upper().replace('-', '_').replace('.', '__')}={v}" for k, v in SETTINGS.items()]
    settings["job-script-prologue"] = [*settings["job-script-prologue"], *exports]
    settings["scheduler-options"] = {**settings["scheduler-options"], "dashboard_address": "127.0.0.1:0"}
    return Section(name, settings, {k: v for k, v in file.items() if k != "jobqueue"})


def _seconds(walltime: str) -> int | None:
    """Return a Slurm time limit in seconds.

    >>> _seconds("01:30:00"), _seconds("2-00:00:00"), _seconds("30"), _seconds("1:30")
    (5400, 172800, 1800, 90)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", walltime.strip())
    if not match:
        return None
    days, *rest = match.groups()
    a, b, c = (None if r is None else int(r) for r in rest)
    if days is not None:
        return ((int(days) * 24 + a) * 60 + (b or 0)) * 60 + (c or 0)
    if c is not None:
        return (a * 60 + b) * 60 + c
    return a * 60 + (b or 0)


def _lifetime(settings: dict[str, Any], name: str) -> list[str]:
    """Return worker arguments that end each worker before the walltime ends its job, not all at once."""
    if "--lifetime" in settings["worker-extra-args"] or settings["walltime"] is None:
        return []
    seconds = _seconds(str(settings["walltime"]))
    if seconds is None:
        raise UserError(f"{FILE}: {name}: walltime: {settings['walltime']!r} is not a time; allowed: HH:MM:SS")
    margin = min(300, seconds // 5)
    return ["--lifetime", f"{seconds - 3 * margin // 2}s", "--lifetime-stagger", f"{margin // 2}s"]


def _squeue(*arguments: str) -> str:
    return subprocess.run(["squeue", "-h", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


@contextmanager
def _configured(section: Section) -> Iterator[None]:
    with dask.config.set({**SETTINGS, **section.extra, f"jobqueue.{section.name}": section.settings}):
        yield


def job_script(section: Section) -> str:
    """Return the script of a job of this pool, but for the address of the scheduler."""
    with _configured(section), tempfile.TemporaryDirectory() as scratch:
        job = SLURMJob("tls://SCHEDULER:PORT", name=section.name, config_name=section.name, log_directory=scratch)
        return job.job_script().replace(scratch, section.settings["log-directory"])


def preflight(section: Section, key: str) -> None:
    """Let Slurm check the job script without submitting it; raise UserError with its own words."""
    if shutil.which("sbatch") is None:
        raise UserError(f"cluster.{key}: {section.name}: there is no sbatch on this machine; allowed here: local")
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
        script.write(job_script(section))
        script.flush()
        done = subprocess.run(["sbatch", "--test-only", script.name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
        raise UserError(f"cluster.{key}: {FILE}: {section.name}: Slurm refuses the job: {words}")


class SlurmPool(Pool):
    """A pool that replaces jobs that are gone, gives up where they all fail, and releases idle ones."""

    def __init__(self, client: Client, cluster: SLURMCluster, section: Section, gpu: bool) -> None:
        super().__init__(client, section.threads, section.processes, {"GPU": 1} if gpu else None)
        self.cluster, self.section = cluster, section
        self._connected: set[str] = set()
        self._failures = 0

    def tend(self, unfinished: int, waiting: int) -> None:
        """Replace jobs that Slurm no longer has; release idle ones once nothing waits for them."""
        jobs = {name: job.job_id for name, job in self.cluster.workers.items()}
        processing = dict.fromkeys(jobs, 0)
        for worker in list(self.cluster.scheduler.workers.values()):
            name = str(worker.name)
            name = name if name in jobs else name.rpartition("-")[0]
            if name in jobs:
                processing[name] += len(worker.processing)
                if jobs[name] not in self._connected:
                    self._connected.add(jobs[name])
                    self._failures = 0
        alive = set(_squeue("-o", "%A", "--me").split())
        gone = [name for name, job_id in jobs.items() if job_id not in alive]
        for name in gone:
            self._judge(jobs[name])
        everything_runs = not waiting and sum(processing.values()) >= unfinished
        idle = [name for name, tasks in processing.items() if not tasks] if everything_runs else []
        if gone or idle or set(self.cluster.worker_spec) != set(jobs):
            self.cluster.sync(self._correct, gone, idle)

    async def _correct(self, gone: list[str], idle: list[str]) -> None:
        for name in gone:
            self.cluster.workers.pop(name, None)
        for name in idle:
            self.cluster.worker_spec.pop(name, None)
        await self.cluster._correct_state()

    def _judge(self, job_id: str) -> None:
        """Count a job that died before its worker connected; give up after a few in a row."""
        if job_id in self._connected:
            return
        done = subprocess.run(["scontrol", "-o", "show", "job", job_id], capture_output=True, text=True, check=False)
        state = re.search(r"JobState=(\w+)", done.stdout)
        if state and state.group(1) in HARMLESS:
            return
        self._failures += 1
        if self._failures >= FAILURES:
            log = Path(self.section.settings["log-directory"]) / f"{self.section.settings['name']}-{job_id}.err"
            tail = " | ".join(log.read_text(errors="replace").split("\n")[-6:]) if log.exists() else "no log"
            raise RunError(
                f"{self.section.name}: {FAILURES} jobs ended before a worker connected; what is finished is safe; "
                f"{log}: {tail.strip(' |')}"
            )


def _certificates(directory: Path) -> Security:
    """Make temporary TLS certificates as files that only their owner can read."""
    fresh = Security.temporary()
    paths = {}
    for key, value in {**fresh.get_tls_config_for_role("worker")}.items():
        if value is not None and "\n" in value:
            paths[key] = directory / f"{key}.pem"
            paths[key].touch(mode=0o600)
            paths[key].write_text(value)
    ca, cert, key = (str(paths[k]) for k in ("ca_file", "cert", "key"))
    roles = {
        f"tls_{role}_{part}": p
        for role in ("scheduler", "worker", "client")
        for part, p in (("cert", cert), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=ca, **roles)


@contextmanager
def slurm_pool(
    section: Section, tasks: int, jobs: int, gpu: bool, directory: Path, log: Path, say: Callable[[str], None]
) -> Iterator[Pool]:
    """Start a pool of Slurm jobs, as many as ``tasks`` keep busy and no more than ``jobs``.

    Scheduler and workers speak TLS with temporary certificates, which lie in ``directory`` (readable by the owner
    only) while the pool is there. On every way out the jobs are cancelled.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    logging.getLogger("dask_jobqueue").setLevel(logging.CRITICAL)
    wanted = min(jobs, -(-tasks // section.processes))
    directory.mkdir(parents=True, exist_ok=True)
    certificates = Path(tempfile.mkdtemp(dir=directory, prefix="tls-"))
    try:
        with (
            _configured(section),
            SLURMCluster(
                config_name=section.name,
                processes=section.processes,
                security=_certificates(certificates),
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            cluster.scale(jobs=wanted)
            announce(client, say)
            with recorded(log):
                yield SlurmPool(client, cluster, section, gpu)
    finally:
        shutil.rmtree(certificates, ignore_errors=True)
