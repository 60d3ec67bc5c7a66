"""jobqueue.yaml and the jobs it describes: read and checked, shown to Slurm, submitted.

The keys of a section, and what they have where nothing is said, are dask-jobqueue's own, and ``sbatch --test-only``
checks what they ask of Slurm. Here is checked what would be found out on a node only, or told in more than a line.
"""

from __future__ import annotations

import asyncio
import re
import shlex
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
import psutil
from dask.utils import parse_bytes
from distributed import Status

from sdpipe.config.load import KeyPlaces, read_yaml
from sdpipe.config.rules import Fault
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

DEFAULTS = next(defaults for defaults in dask.config.defaults if "jobqueue" in defaults)["jobqueue"]["slurm"]
"""What dask-jobqueue itself has for each key, whatever Dask's configuration says."""

KEYS = sorted(DEFAULTS.keys() - {"extra", "env-extra", "job-extra"})
"""Keys of a section, but for old names of three of them."""

SCHEDULER_KEYS = ("contact_address", "host", "interface", "port")
"""Where the scheduler listens. Its other options are not the user's: they could take TLS from it."""

KeyRule = tuple[Callable[[Any], Any], str]
"""What a value must fulfil, where an error means no; and in words what is allowed."""


def seconds_of(walltime: str) -> int:
    """Return a time limit of Slurm in seconds, 0 where it is none.

    >>> [seconds_of(text) for text in ("01:30:00", "2-00:00:00", "30", "1:30", "soon")]
    [5400, 172800, 1800, 90, 0]
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", walltime.strip(), re.ASCII)
    if not match:
        return 0
    days = int(match[1] or 0)
    numbers = [int(number) for number in match.groups()[1:] if number is not None]
    units = (3600, 60, 1) if match[1] or len(numbers) == 3 else (60, 1)
    return 86400 * days + sum(n * unit for n, unit in zip(numbers, units, strict=False))


def _is_text(given: Any) -> bool:
    return type(given) in (str, int, float) and re.sub(r"[\n\t]", "", str(given)).isprintable()


def _runs(program: str) -> bool:
    """Return whether a program is there, as far as that can be seen before variables have their values."""
    return "$" in program or shutil.which(program) is not None


def _takes_files(place: str) -> bool:
    """Return whether a directory is there or can be made, and be written: permissions alone do not tell."""
    closest = next(p for p in (Path(place), *Path(place).absolute().parents) if p.exists())
    tempfile.TemporaryDirectory(dir=closest).cleanup()
    return _is_text(place)


def _integer(least: int, most: int) -> KeyRule:
    return lambda given: type(given) is int and least <= given <= most, f"an integer from {least} to {most}"


def _rules(prologue: bool) -> dict[str, KeyRule]:
    """Return the rule of every key, by the type of its default or its own; a prologue may say what a bare name is."""
    interfaces = psutil.net_if_addrs()
    text = _is_text, "a string"
    texts = lambda given: isinstance(given, list) and all(map(_is_text, given)), 'a list of strings, such as ["--x"]'
    return {
        **{key: texts if isinstance(DEFAULTS[key], list) else text for key in KEYS},
        **dict.fromkeys(SCHEDULER_KEYS, text),
        **dict.fromkeys(("cores", "processes", "job-cpu", "death-timeout"), _integer(1, 1_000_000)),
        "port": _integer(0, 65535),
        "memory": (lambda given: parse_bytes(given) >= LEAST_MEMORY, "100MB and more, such as 8GB"),
        "walltime": (lambda given: seconds_of(given) >= 60, 'a minute and more, in quotes, such as "01:00:00"'),
        "name": (lambda given: re.fullmatch(r"[\w.+-]{1,80}", given), "up to 80 letters, digits, and _ . + -"),
        "interface": (interfaces.__contains__, f"a network interface of this machine: {', '.join(interfaces)}"),
        "shebang": (lambda given: given[:3] == "#!/" and _runs(given[2:].split()[0]), "#! and the path of a program"),
        "python": (
            lambda given: _runs(shlex.split(given)[0]) or (prologue and "/" not in given),
            "a program on this machine and on the nodes, or null for the Python that runs sdpipe",
        ),
        "log-directory": (_takes_files, "a directory that can be made and written on this machine"),
        "local-directory": (lambda given: _is_text(given) and not Path(given).is_file(), "a directory on the nodes"),
        "scheduler-options": (lambda given: isinstance(given, dict), f"the keys {', '.join(SCHEDULER_KEYS)}"),
    }


def _fulfils(rule: KeyRule, given: Any) -> bool:
    try:
        return bool(rule[0](given))
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
        return False


def _faults(job: dict[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with the keys of a section."""
    rules = _rules(prologue=bool(job.get("job-script-prologue")))
    options = job["scheduler-options"] if isinstance(job["scheduler-options"], dict) else {}
    of_job = [((key,), given, KEYS) for key, given in job.items()]
    of_scheduler = [(("scheduler-options", key), given, SCHEDULER_KEYS) for key, given in options.items()]
    for keys, given, known in [*of_job, *of_scheduler]:
        if keys[-1] not in known:
            yield keys, f"unknown key; allowed: {', '.join(known)}"
        elif not _fulfils(rules[keys[-1]], given):
            yield keys, f"{str(given)[:60]!r} is not allowed; allowed: {rules[keys[-1]][1]}"


@dataclass(frozen=True)
class PoolSection:
    """One section of jobqueue.yaml for one kind of pool, and the keys of Dask's configuration beside it.

    ``job`` holds the keys that have a value, spelled with hyphens as dask-jobqueue does.
    """

    name: str
    kind: Kind
    job: dict[str, Any]
    logs: Path
    dask: dict[str, Any]

    @property
    def gpu(self) -> bool:
        return self.kind == "gpu"

    @property
    def processes(self) -> int:
        """Workers in one job."""
        return self.job.get("processes") or (1 if self.gpu else self.job["cores"])

    @property
    def threads(self) -> int:
        """Processors of one worker."""
        return self.job["cores"] // self.processes

    @property
    def memory(self) -> int:
        """Bytes of one worker."""
        return parse_bytes(self.job["memory"]) // self.processes

    def log(self, job_id: str) -> Path:
        """Return the file that holds what a job wrote to stderr."""
        return self.logs / f"{self.job['name']}-{job_id}.err"

    def _arguments(self) -> list[str]:
        """Return the arguments of a worker, which leaves before the walltime ends its job, not all at one time."""
        arguments = [*self.job["worker-extra-args"]]
        if "walltime" in self.job and "--lifetime" not in arguments:
            seconds = seconds_of(self.job["walltime"])
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
            **dict.fromkeys(DEFAULTS),
            **self.job,
            "processes": self.processes,
            "worker-extra-args": self._arguments(),
            "job-extra-directives": [*self.job["job-extra-directives"], "--no-requeue"],
            "job-script-prologue": [*self.job["job-script-prologue"], *exports],
            "log-directory": str(self.logs),
            "scheduler-options": {**self.job["scheduler-options"], "dashboard_address": "127.0.0.1:0"},
        }
        with dask.config.set({**SETTINGS, **self.dask, f"jobqueue.{self.name}": settings}):
            yield


def read_section(name: str, kind: Kind, logs: Path) -> PoolSection:
    """Return the section ``name`` of ./jobqueue.yaml, over Dask's own configuration, over dask-jobqueue's defaults.

    The output of jobs goes to ``logs`` unless the section says otherwise.

    Raises UserError with file and line of everything in the section that cannot be used, and ConfigError where there is
    no such section.
    """
    sections, others, origin = _read_file()
    known = dask.config.get("jobqueue")
    if name not in {**known, **sections}:
        mine = sorted({*sections, *(n for n in known if n.startswith("slurm"))})
        where = FILE if origin.node else f"{FILE.absolute()}: this file is not there"
        raise ConfigError(
            (("cluster", kind), f"there is no section {name!r} in {where}; allowed: local, {', '.join(mine)}")
        )
    given = {**known["slurm"], **known.get(name, {}), **sections.get(name, {})}
    spelled = {key.replace("_", "-"): value for key, value in given.items()}
    set_by_user = {key: value for key, value in spelled.items() if value is not None}
    job = {key: value for key, value in {**DEFAULTS, **set_by_user}.items() if value is not None}
    faults = [((key,), "this key is missing") for key in ("cores", "memory") if key not in job] + list(_faults(job))
    if not faults and job.get("processes", 1) > job["cores"]:
        faults = [(("processes",), f"{job['processes']} must not be above cores ({job['cores']})")]
    if faults and name in sections:
        raise UserError(*origin.describe((("jobqueue", name, *keys), words) for keys, words in faults))
    if faults:
        raise UserError(*(f"Dask's configuration: jobqueue.{name}.{'.'.join(k)}: {words}" for k, words in faults))
    return PoolSection(name, kind, job, Path(job.get("log-directory", logs)), others)


def _read_file() -> tuple[dict[str, dict[str, Any]], dict[str, Any], KeyPlaces]:
    """Return the sections of jobqueue.yaml, the keys of Dask's configuration beside them, and where each comes from."""
    try:
        raw, node = read_yaml(FILE, "jobqueue")
    except FileNotFoundError:
        raw, node = {}, None
    except OSError as error:
        raise UserError(f"{FILE}: cannot be read: {error.strerror}") from None
    faults, origin = [], KeyPlaces(FILE, node, [])
    for key, value in raw.items():
        try:
            holds_keys = isinstance(dask.config.get(key), dict)
        except KeyError:
            faults.append(((key,), "unknown key; allowed: jobqueue, and keys of Dask's configuration"))
            continue
        if holds_keys != isinstance(value, dict):
            faults.append(((key,), "must hold keys" if holds_keys else "must hold a value, no keys"))
    sections = raw.pop("jobqueue", {})
    if not faults:
        faults = [(("jobqueue", n), "must hold keys") for n, keys in sections.items() if not isinstance(keys, dict)]
    if faults:
        raise UserError(*origin.describe(faults))
    return sections, raw, origin


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


def job_script(section: PoolSection) -> str:
    """Return the script of a job of this pool, but for the address of the scheduler."""
    with section.configured(), tempfile.TemporaryDirectory() as scratch:
        job = SLURMJob("tls://SCHEDULER:PORT", name=section.name, config_name=section.name, log_directory=scratch)
        return job.job_script().replace(scratch, str(section.logs))


def preflight(section: PoolSection) -> str:
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
