"""Slurm's commands as shell scripts that run jobs on this machine, and that fail when told to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdpipe.workers import pool, slurm
from sdpipe.workers.jobqueue import PoolSection, read_section

COMMANDS = {
    "sbatch": """\
[ "$1" = --test-only ] && exit 0
cp "$1" $DIR/$$.sh
setsid sh -c "bash $DIR/$$.sh; rm -f $DIR/$$.sh" >$DIR/$$.log 2>&1 </dev/null &
echo $! >$DIR/$$.pid
echo "Submitted batch job $$"
""",
    "squeue": "cd $DIR; ls *.sh 2>/dev/null | sed 's/.sh$//'",
    "scancel": "[ -e $DIR/$1.sh ] && kill -- -$(cat $DIR/$1.pid); rm -f $DIR/$1.sh",
    "scontrol": "echo JobState=FAILED",
}

FAILING = """\
#!/bin/sh
DIR={directory}
n=$(cat $DIR/{name}.fails 2>/dev/null || echo 0)
if [ $n -gt 0 ]; then echo $((n - 1)) >$DIR/{name}.fails; {fault}; fi
"""


class FakeSlurm:
    """Commands on the PATH; :meth:`fail` says which of them do not work."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in COMMANDS:
            self.fail(name, 0)

    def fail(self, name: str, times: int, fault: str = "echo no answer >&2; exit 1") -> None:
        """Let a command fail so many times."""
        (self.directory / f"{name}.fails").write_text(str(times))
        script = self.directory / name
        script.write_text(FAILING.format(directory=self.directory, name=name, fault=fault) + COMMANDS[name])
        script.chmod(0o755)

    def jobs(self) -> list[str]:
        """Return the ids of jobs in the queue."""
        return [script.stem for script in self.directory.glob("*.sh")]


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """Slurm's commands, and a pool that looks often at them."""
    directory = tmp_path / "slurm"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    for module, constant in ((pool, "TEND_EVERY"), (slurm, "TEND_EVERY"), (pool, "LOOK_EVERY")):
        monkeypatch.setattr(module, constant, 0.1)
    commands = FakeSlurm(directory)
    yield commands
    assert commands.jobs() == [], "a job was left in the queue"


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PoolSection]:
    """Return a function that writes jobqueue.yaml and reads one section of it."""
    monkeypatch.chdir(tmp_path)

    def read(text: str | bytes | None, name: str = "mine", kind: pool.Kind = "cpu") -> PoolSection:
        if text is not None:
            (tmp_path / "jobqueue.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_section(name, kind, tmp_path / "logs")

    return read
