"""Pools of Slurm jobs while Slurm's commands fail, on commands that run jobs on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sdpipe.config.schema import Cluster
from sdpipe.errors import RunError
from sdpipe.workers import jobqueue, slurm
from sdpipe.workers.pools import Workers
from sdpipe.workers.serial import Task
from tests.workers.conftest import FakeSlurm

POOL = """
jobqueue:
  mine: {{cores: 1, memory: 1GB, interface: lo, python: {python}, job-script-prologue: []}}
distributed.deploy.lost-worker-timeout: 1s
"""


@pytest.fixture
def workers(fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workers, list[str]]:
    """Workers whose CPU pool is the fake Slurm, and what they say."""
    assert fake_slurm.jobs() == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobqueue.yaml").write_text(POOL.format(python=sys.executable))
    said: list[str] = []
    return Workers(Cluster(cpu="mine", jobs=1), tmp_path, tmp_path / "tls", said.append), said


def squares(workers: Workers, count: int = 3) -> dict[str, int]:
    with workers, workers.pool("cpu", "squares", count) as pool:
        return dict(pool.map(pow, [Task(str(i), (i, 2)) for i in range(count)]))


@pytest.mark.parametrize(
    ("command", "fault", "said_of_it"),
    [
        ("sbatch", "echo 'QOSMaxSubmitJobPerUserLimit' >&2; exit 1", "QOSMaxSubmitJobPerUserLimit"),
        ("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "Unable to contact"),
        ("squeue", "exec sleep 60", "squeue has not answered for 1 s"),
    ],
)
def test_work_goes_on_after_a_command_has_failed_which_is_said_once(
    workers: tuple[Workers, list[str]],
    fake_slurm: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    fault: str,
    said_of_it: str,
) -> None:
    monkeypatch.setattr(jobqueue, "ANSWER", 1.0)
    fake_slurm.fail(command, 2, fault)
    assert squares(workers[0]) == {"0": 0, "1": 1, "2": 4}
    (line,) = (line for line in workers[1] if not line.startswith("dashboard"))
    assert line.startswith("mine: ")
    assert said_of_it in line
    assert line.endswith("; asking Slurm again until it answers")


def test_a_slurm_that_fails_for_good_ends_the_run_in_one_line_that_says_what_is_safe(
    workers: tuple[Workers, list[str]], fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE", 0.5)
    fake_slurm.fail("sbatch", 1000, "echo Invalid account >&2; exit 1")
    with pytest.raises(RunError, match=r"^mine: Slurm has failed .*: Invalid account; what is finished is safe; .*$"):
        squares(workers[0])


def test_jobs_that_end_at_once_end_the_run_with_the_end_of_their_log(
    workers: tuple[Workers, list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "jobqueue.yaml"
    file.write_text(file.read_text().replace("prologue: []", "prologue: [exit 1]"))
    with pytest.raises(RunError, match=r"^mine: 3 jobs ended before a worker connected; what is finished is safe; .*"):
        squares(workers[0])
