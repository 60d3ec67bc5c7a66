"""A tiny run, finished once and shared, and ways to run the command line on it.

Most tests call the command line in this process, with the pool of workers replaced by one that takes its
tasks one by one: the stages are the same, without the seconds it takes to start worker processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import astuple, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import settings

import sdpipe
from sdpipe import __main__ as command_line
from sdpipe.disk.receipts import sha256
from sdpipe.pipeline import results
from sdpipe.workers import pool as running
from sdpipe.workers import pools
from sdpipe.workers import serial as serial_workers
from sdpipe.workers.serial import Task

os.environ.update({"MKL_CBWR": "AUTO,STRICT"})  # as in a worker, so that networks are the same to the last bit

settings.register_profile("the same in every run", derandomize=True)
if os.environ.get("SDPIPE_FAULTS") != "full":
    settings.load_profile("the same in every run")

REPOSITORY = Path(__file__).resolve().parents[1]

HANGING = 800.0
"""Seconds after which another process hangs: what lasts longest took 190 on the slowest machine. In 900 pytest ends."""

TINY = """\
# Every stage and every kind of mock target, in seconds.
name: tiny
seed: 1
lattice: {period: 16, times: [1, 8], spacing: 1.0}
kernel: vector
smearing:
  kind: gaussian
  sigma: [0.44, 0.63]
energies: {min: 0.2, max: 2.3, count: 8}
spectra: {Nb: [8, 16], Nrho: 1200}
noise: {kind: synthetic, r1: 1.0e-3, tau: 4.0}
ensembles:
  Nmax:     {Nb: 16, Nrho: 1200, network: arcS}
  Nref_b:   {Nb: 8,  Nrho: 1200, network: arcS}
  Nref_rho: {Nb: 16, Nrho: 400,  network: arcS}
budget:
  central: Nmax
  references: {b: Nref_b, rho: Nref_rho}
training: {replicas: 2, epochs: 2}
targets:
  o3: {kind: o3, threshold: 1.0}
  delta_tanh: {kind: delta_tanh}
  peaks: {kind: peaks, amplitudes: [0.5, 0.25], masses: [0.7, 1.4]}
  prior: {kind: chebyshev, Nb: 16}
bootstrap: 50
validation: {samples: 120, bootstrap: 4, levels: [0.683, 0.954], families: {o3: {kind: o3}}}
"""

ONE_TARGET = "targets={o3: {kind: o3, threshold: 1.0}}"
"""Of the tiny config: the figures of four are most of the time of what is made anew."""


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def faults(self) -> list[str]:
        """Lines of stderr, each of which must be one fault."""
        lines = self.err.splitlines()
        assert self.status == 2, self.err
        assert lines, "exit status 2 without a word"
        assert all(line.startswith("error: ") for line in lines), self.err
        assert self.out == ""
        return lines

    @property
    def fault(self) -> str:
        """The one fault there is."""
        faults = self.faults
        assert len(faults) == 1, self.err
        return faults[0]


@dataclass
class SerialPool:
    """Takes tasks one by one in this process; ``done`` and ``messages`` hold what went through it.

    Networks are put into stacks for so many ``workers``, of whom each has ``memory`` bytes; ``backwards`` reverses the
    order of tasks; ``fail_after`` raises KeyboardInterrupt after so many of them.
    """

    threads: int = 1
    forks: int = 1
    sharers: int = 1
    workers: int = 1
    memory: int = 10**10
    backwards: bool = False
    fail_after: int | None = None
    done: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    on_message: Callable[[dict[str, Any]], None] | None = None

    def report(self, **message: Any) -> None:
        self.messages.append(message)
        if self.on_message:
            self.on_message(message)

    def map(
        self,
        function: Callable[..., Any],
        tasks: list[Task],
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        self.on_message = on_message
        for task in reversed(tasks) if self.backwards else tasks:
            if self.fail_after is not None and len(self.done) >= self.fail_after:
                raise KeyboardInterrupt
            result = function(*task.args)
            self.done.append(task.name)
            yield task.name, result


def _environment() -> dict[str, str]:
    """Return an environment in which another process finds the package that is tested."""
    return {**os.environ, "PYTHONPATH": str(Path(sdpipe.__file__).parents[1])}


def _start(arguments: list[str], cwd: Path, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=_environment(), **pipes, **options)


def hashes(directory: Path) -> dict[str, str]:
    """Return file -> SHA-256 of its content: of contents that differ pytest writes out every byte on a CI."""
    return {str(p.relative_to(directory)): sha256(p) for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The tiny config."""
    return TINY


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """A file with the tiny config."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny config with each of the given pieces of text replaced."""

    def write(*replacements: tuple[str, str]) -> Path:
        text = TINY
        for old, new in replacements:
            assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
            text = text.replace(old, new)
        path = tmp_path / "config-under-test.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, str]]:
    """Return a function: directory -> {file: hash of its content}."""
    return hashes


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts Python with these arguments, in a process of its own."""
    return _start


@pytest.fixture(scope="session")
def shell(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Outcome]:
    """Return a function that runs Python with these arguments to the end, in a process of its own."""

    def run(*arguments: str | Path, cwd: Path) -> Outcome:
        with start([str(a) for a in arguments], cwd) as process:
            try:
                out, err = process.communicate(timeout=HANGING)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Outcome(process.returncode, out, err)

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: steps of tiny networks are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def undivided() -> Iterator[None]:
    """Let no task of this process divide itself: forks of a process this large take more time than they save."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (serial_workers, results):
            patch.setattr(module, "cores", lambda: 1)
        yield


@contextmanager
def _serial() -> Iterator[SerialPool]:
    """Let stages run their tasks one by one in this process; give back how it takes signals, and its threads."""
    pool = SerialPool()

    @contextmanager
    def in_this_process(*_arguments: Any) -> Iterator[SerialPool]:
        yield pool

    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools.Workers, "pool", in_this_process)
        patch.setattr(pools, "trainers", lambda *_: pool.workers)
        patch.setattr(running, "report", pool.report)
        patch.setattr(running, "memory", lambda: pool.memory)
        yield pool
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


def _status(arguments: Iterable[str | Path]) -> int:
    """Run one command in this process; return its exit status."""
    try:
        return command_line.main([str(a) for a in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.fixture
def serial() -> Iterator[SerialPool]:
    """Let stages run their tasks one by one in this process."""
    with _serial() as pool:
        yield pool


@pytest.fixture
def cli(serial: SerialPool, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs one command in this process."""
    assert not serial.done

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        return Outcome(_status(arguments), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def in_process() -> Callable[..., Outcome]:
    """Return a function that runs one command in this process, for what several tests share; ``cli`` is for one."""

    def run(*arguments: str | Path, cwd: Path) -> Outcome:
        out, err = StringIO(), StringIO()
        with _serial(), chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            status = _status(arguments)
        return Outcome(status, out.getvalue(), err.getvalue())

    return run


@dataclass(frozen=True)
class Finished:
    """A finished run directory, the config file it was made from, and what the command said."""

    root: Path
    config: Path
    outcome: Outcome


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, in_process: Callable[..., Outcome]) -> Finished:
    """The tiny config run to the end. Not to be written to.

    It is made once; each further process of tests has a copy.
    """
    mine = tmp_path_factory.getbasetemp() / "finished"
    made = mine if "PYTEST_XDIST_WORKER" not in os.environ else mine.parents[1] / "finished"
    made.mkdir(exist_ok=True)
    with (made / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "outcome.json").exists():
            (made / "tiny.yaml").write_text(TINY)
            outcome = in_process("run", made / "tiny.yaml", cwd=made)
            assert outcome.status == 0, outcome.err
            (made / "outcome.json").write_text(json.dumps(astuple(outcome)))
    if made != mine:
        shutil.copytree(made, mine)
    status, *said = json.loads((made / "outcome.json").read_text())
    outcome = Outcome(status, *(text.replace(str(made), str(mine)) for text in said))
    return Finished(mine / "runs" / "tiny", mine / "tiny.yaml", outcome)


@pytest.fixture
def finished_copy(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished.root, tmp_path / "copy"))


@pytest.fixture
def write_hdf5(tmp_path: Path) -> Callable[..., Path]:
    """Write datasets, given as {name: values}, to an HDF5 file."""

    def write(name: str, datasets: dict[str, Any]) -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, values in datasets.items():
                file[key] = values
        return path

    return write


@pytest.fixture(scope="session")
def configurations() -> np.ndarray:
    """Mock data (configurations, t), t = 0 .. 15: C(t) = cosh of mass 0.5 with 1 % noise, period 16."""
    t = np.arange(16)
    mean = np.exp(-0.5 * t) + np.exp(-0.5 * (16 - t))
    noise = np.random.default_rng(7).standard_normal((40, 16))
    return mean * (1 + 0.01 * noise)
