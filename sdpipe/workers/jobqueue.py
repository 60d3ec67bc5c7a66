"""jobqueue.yaml and the jobs it describes: read and checked, shown to Slurm, submitted."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import dask
import psutil
from dask.utils import parse_bytes
from distributed import Status
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sdpipe.config.load import Origin, faults_of, read_yaml
from sdpipe.errors import ConfigError, UserError
from sdpipe.workers.pool import SETTINGS, Kind

_on_interrupt = signal.getsignal(signal.SIGINT)

from dask_jobqueue.slurm import SLURMJob  # noqa: E402

signal.signal(signal.SIGINT, _on_interrupt)  # importing dask-jobqueue makes Ctrl-C a silent exit with status 0

FILE = Path("jobqueue.yaml")

ANSWER = 30.0
"""Seconds in which a command of Slurm must answer."""

LEAST_MEMORY = 100_000_000
"""Bytes without which no worker starts."""


def seconds_of(walltime: str) -> int | None:
    """Return a time limit of Slurm in seconds, or None where it is none.

    >>> [seconds_of(text) for text in ("01:30:00", "2-00:00:00", "30", "1:30", "soon")]
    [5400, 172800, 1800, 90, None]
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", walltime.strip(), re.ASCII)
    if not match:
        return None
    days, (first, *rest) = int(match[1] or 0), [int(number) for number in match.groups()[1:] if number is not None]
    units = (3600, 60, 1) if match[1] or len(rest) == 2 else (60, 1)
    return 86400 * days + sum(n * unit for n, unit in zip((first, *rest), units, strict=False))


def _walltime(given: Any) -> Any:
    if not isinstance(given, str) or (seconds_of(given) or 0) < 60:
        raise ValueError(f'{given!r} is no time limit; allowed: a minute and more in quotes, such as "01:00:00"')
    return given


def _memory(given: str) -> str:
    try:
        size = parse_bytes(given)
    except (ValueError, OverflowError):
        raise ValueError(f"{given!r} is no size; allowed: a number and its unit, such as 8GB") from None
    if size < LEAST_MEMORY:
        raise ValueError(f"{given!r} are {size} bytes; allowed: 100MB and more, such as 8GB")
    return given


def _interface(given: str) -> str:
    there = psutil.net_if_addrs()
    if given not in there:
        raise ValueError(f"{given!r} is no network interface of this machine; allowed here: {', '.join(there)}")
    return given


Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Interface = Annotated[str, AfterValidator(_interface)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class SchedulerOptions(_Keys):
    """Where the scheduler listens."""

    host: str | None = None
    interface: Interface | None = None
    port: Annotated[int, Field(strict=True, ge=0, lt=65536)] = 0
    contact_address: str | None = None


class Job(_Keys):
    """What one job of a pool asks for and runs: the keys of dask-jobqueue, spelled with hyphens."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))

    cores: Count
    memory: Annotated[str, AfterValidator(_memory)]
    processes: Count | None = None
    walltime: Annotated[str, BeforeValidator(_walltime)] | None = None
    name: Annotated[str, Field(pattern=r"^[\w.+-]+$", max_length=80)] = "dask-worker"
    queue: str | None = None
    account: str | None = None
    interface: Interface | None = None
    death_timeout: Count = 60
    python: str | None = None
    local_directory: str | None = None
    shared_temp_directory: str | None = None
    log_directory: str | None = None
    worker_command: str = "distributed.cli.dask_worker"
    worker_extra_args: list[str] = []
    shebang: str = "#!/usr/bin/env bash"
    job_cpu: Count | None = None
    job_mem: str | None = None
    job_script_prologue: list[str] = []
    job_extra_directives: list[str] = []
    job_directives_skip: list[str] = []
    scheduler_options: SchedulerOptions = SchedulerOptions()

    @model_validator(mode="after")
    def _fits(self) -> Job:
        if (self.processes or 1) > self.cores:
            raise ValueError(f"processes: {self.processes} must not be above cores ({self.cores})")
        return self


class _File(BaseModel):
    """jobqueue.yaml: its sections, and any key of Dask's configuration."""

    model_config = ConfigDict(extra="allow")

    jobqueue: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _known(self) -> _File:
        for key, value in self.model_extra.items():
            try:
                holds_keys = isinstance(dask.config.get(key), dict)
            except KeyError:
                raise ValueError(f"{key}: unknown key; allowed: jobqueue, and keys of Dask's configuration") from None
            if holds_keys != isinstance(value, dict):
                raise ValueError(f"{key}: must hold {'keys' if holds_keys else 'a value, no keys'}")
        return self


@dataclass(frozen=True)
class Section:
    """One section of jobqueue.yaml for one kind of pool, and the keys of Dask's configuration beside it."""

    name: str
    kind: Kind
    job: Job
    logs: Path
    dask: dict[str, Any]

    @property
    def gpu(self) -> bool:
        return self.kind == "gpu"

    @property
    def processes(self) -> int:
        """Workers in one job."""
        return self.job.processes or (1 if self.gpu else self.job.cores)

    @property
    def threads(self) -> int:
        """Processors of one worker."""
        return self.job.cores // self.processes

    def log(self, job_id: str) -> Path:
        """Return the file that holds what a job wrote to stderr."""
        return self.logs / f"{self.job.name}-{job_id}.err"

    def _arguments(self) -> list[str]:
        """Return the arguments of a worker, which leaves before the walltime ends its job, not all at one time."""
        arguments = [*self.job.worker_extra_args]
        if self.job.walltime and "--lifetime" not in arguments:
            seconds = seconds_of(self.job.walltime)
            margin = min(300, seconds // 5)
            arguments += ["--lifetime", f"{seconds - 3 * margin // 2}s", "--lifetime-stagger", f"{margin // 2}s"]
        if self.gpu and "--resources" not in arguments:
            arguments += ["--resources", "GPU=1", "--nthreads", "1"]
        return [*arguments, "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]

    @contextmanager
    def configured(self) -> Iterator[None]:
        """Let Dask and dask-jobqueue work with these settings."""
        exports = [f"export DASK_{k.upper().replace('-', '_').replace('.', '__')}={v}" for k, v in SETTINGS.items()]
        settings = {
            **self.job.model_dump(by_alias=True),
            "processes": self.processes,
            "worker-extra-args": self._arguments(),
            "job-extra-directives": [*self.job.job_extra_directives, "--no-requeue"],
            "job-script-prologue": [*self.job.job_script_prologue, *exports],
            "log-directory": str(self.logs),
            "scheduler-options": {
                **self.job.scheduler_options.model_dump(exclude_defaults=True),
                "dashboard_address": "127.0.0.1:0",
            },
        }
        everything = {**dict.fromkeys(dask.config.get("jobqueue.slurm")), **settings}
        with dask.config.set({**SETTINGS, **self.dask, f"jobqueue.{self.name}": everything}):
            yield


def read_section(name: str, kind: Kind, logs: Path) -> Section:
    """Return the section ``name`` of ./jobqueue.yaml, over Dask's own configuration, over dask-jobqueue's defaults.

    The output of jobs goes to ``logs`` unless the section says otherwise.

    Raises UserError with file and line of everything in the section that cannot be used, and ConfigError where there is
    no such section.
    """
    try:
        raw, node = read_yaml(FILE, "jobqueue")
    except FileNotFoundError:
        raw, node = {}, None
    except OSError as error:
        raise UserError(f"{FILE}: cannot be read: {error.strerror}") from None
    origin = Origin(FILE, node, [])
    try:
        file = _File.model_validate(raw)
    except ValidationError as error:
        raise UserError(*origin.describe(faults_of(error, raw))) from None
    known = dask.config.get("jobqueue")
    if name not in {**known, **file.jobqueue}:
        mine = sorted({*file.jobqueue, *(n for n in known if n.startswith("slurm"))})
        where = FILE if node else f"{FILE.absolute()}: this file is not there"
        raise ConfigError(
            (("cluster", kind), f"there is no section {name!r} in {where}; allowed: local, {', '.join(mine)}")
        )
    chosen = {**known["slurm"], **known.get(name, {}), **file.jobqueue.get(name, {})}
    chosen = {key.replace("_", "-"): value for key, value in chosen.items() if value is not None}
    try:
        job = Job.model_validate(chosen)
    except ValidationError as error:
        faults = [(("jobqueue", name, *keys), words) for keys, words in faults_of(error, chosen)]
        if name in file.jobqueue:
            raise UserError(*origin.describe(faults)) from None
        raise UserError(*(f"Dask's configuration: {'.'.join(map(str, k))}: {words}" for k, words in faults)) from None
    return Section(name, kind, job, Path(job.log_directory or logs), file.model_extra)


class SlurmError(RuntimeError):
    """A command of Slurm that failed or did not answer."""


def command(name: str, *arguments: str) -> str:
    """Return what a command of Slurm prints."""
    try:
        done = subprocess.run([name, *arguments], capture_output=True, text=True, timeout=ANSWER, check=False)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{name} has not answered for {ANSWER:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{name}: {error.strerror}") from None
    if done.returncode != 0:
        words = "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
        raise SlurmError(words or f"{name} failed with exit status {done.returncode}")
    return done.stdout


def job_script(section: Section) -> str:
    """Return the script of a job of this pool, but for the address of the scheduler."""
    with section.configured(), tempfile.TemporaryDirectory() as scratch:
        job = SLURMJob("tls://SCHEDULER:PORT", name=section.name, config_name=section.name, log_directory=scratch)
        return job.job_script().replace(scratch, str(section.logs))


def preflight(section: Section) -> str:
    """Let Slurm check the job script without submitting it; return it, or raise ConfigError with Slurm's own words."""
    key = ("cluster", section.kind)
    if shutil.which("sbatch") is None:
        raise ConfigError((key, f"{section.name}: there is no sbatch on this machine; allowed here: local"))
    text = job_script(section)
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
        script.write(text)
        script.flush()
        try:
            command("sbatch", "--test-only", script.name)
        except SlurmError as error:
            raise ConfigError((key, f"{FILE}: {section.name}: Slurm refuses the job: {error}")) from None
    return text


class SubmittedJob(SLURMJob):
    """A job whose submission may fail: it then has no id, and ``refusal`` says why."""

    refusal = ""

    @staticmethod
    async def _call(words: list[str], **_: Any) -> str:
        return await asyncio.to_thread(command, *words)

    async def start(self) -> None:
        try:
            await super().start()
        except (SlurmError, ValueError) as error:
            self.refusal, self.status = str(error), Status.running

    async def close(self) -> None:
        await super().close()
        self.status = Status.closed
