"""jobqueue.yaml: the shipped file, defaults for what is left out, Dask's own configuration, faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask
import pytest

from sdpipe.errors import UserError
from sdpipe.workers import slurm

SHIPPED = Path(__file__).parents[2] / "jobqueue.yaml"


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., slurm.Section]:
    """Return a function that writes jobqueue.yaml and reads one section of it."""
    monkeypatch.chdir(tmp_path)

    def read(text: str | None, name: str = "mine", gpu: bool = False) -> slurm.Section:
        if text is not None:
            (tmp_path / "jobqueue.yaml").write_text(text)
        return slurm.read_section(name, "gpu" if gpu else "cpu", gpu, tmp_path / "logs")

    return read


@pytest.mark.parametrize(("name", "gpu"), [("slurm-cpu", False), ("slurm-gpu", True)])
def test_the_shipped_sections_give_a_job_script(section: Callable[..., slurm.Section], name: str, gpu: bool) -> None:
    script = slurm.job_script(section(SHIPPED.read_text(), name, gpu))
    assert f"#SBATCH -p {name.removeprefix('slurm-')}" in script
    assert ("#SBATCH --gres=gpu:1" in script) == ("--resources GPU=1" in script) == gpu
    assert "#SBATCH --no-requeue" in script
    assert "--lifetime" in script


def test_what_is_left_out_has_dask_jobqueues_default(section: Callable[..., slurm.Section]) -> None:
    short = section("jobqueue: {mine: {cores: 3, memory: 2GB}}")
    assert short.settings["death-timeout"] == dask.config.get("jobqueue.slurm.death-timeout")
    assert short.settings["walltime"] == dask.config.get("jobqueue.slurm.walltime")
    assert (short.processes, short.threads) == (3, 1)
    assert section("jobqueue: {mine: {cores: 3, memory: 2GB}}", gpu=True).threads == 3


def test_workers_leave_before_the_walltime_unless_the_section_says_when(section: Callable[..., slurm.Section]) -> None:
    hour = section('jobqueue: {mine: {cores: 1, memory: 1GB, walltime: "01:00:00"}}').settings["worker-extra-args"]
    lifetime, stagger = (int(hour[hour.index(k) + 1][:-1]) for k in ("--lifetime", "--lifetime-stagger"))
    assert 1800 < lifetime + stagger < 3600
    own = 'jobqueue: {mine: {cores: 1, memory: 1GB, worker-extra-args: ["--lifetime", "5m"]}}'
    assert section(own).settings["worker-extra-args"] == ["--lifetime", "5m"]


def test_dasks_own_configuration_counts_and_the_file_wins(section: Callable[..., slurm.Section]) -> None:
    with dask.config.set({"jobqueue.mine": {"cores": 2, "memory": "1GB", "queue": "elsewhere", "account": "a"}}):
        assert section(None).settings["queue"] == "elsewhere"
        merged = section("jobqueue: {mine: {queue: here}}").settings
    assert (merged["queue"], merged["account"], merged["cores"]) == ("here", "a", 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jobqueue: {other: {cores: 1}}", "no section 'mine' in jobqueue.yaml; allowed: local, other"),
        (None, "no section 'mine' in /.*/jobqueue.yaml: this file is not there; allowed: local"),
        ("jobqueue: {mine: {cores: 1, memory: 1GB, quueue: x}}", "unknown key 'quueue'"),
        ("jobqueue: {mine: {memory: 1GB}}", "cores: this key is missing"),
        ("jobqueue: {mine: {cores: 1, memory: 1GB, walltime: soon}}", "HH:MM:SS"),
        ("jobqueue: [", r"jobqueue.yaml:\d+: not valid YAML"),
        ("just words", "must hold jobqueue:"),
    ],
)
def test_faults_are_named(section: Callable[..., slurm.Section], text: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        section(text)


def test_without_sbatch_the_pool_is_refused(
    section: Callable[..., slurm.Section], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no sbatch on this machine"):
        slurm.preflight(section("jobqueue: {mine: {cores: 1, memory: 1GB}}"), "cpu")
