"""jobqueue.yaml: the shipped file, defaults for what is left out, Dask's own configuration, faults, job scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpipe.errors import ConfigError, UserError
from sdpipe.workers import jobqueue
from sdpipe.workers.jobqueue import PoolSection
from tests.faults.conftest import FULL

SHIPPED = Path(__file__).parents[2] / "jobqueue.yaml"

Read = Callable[..., PoolSection]


def mine(keys: str) -> str:
    """Return a jobqueue.yaml with one section that says how much it asks for, and ``keys``."""
    return "jobqueue:\n  mine:\n    cores: 1\n    memory: 1GB\n    " + keys


@pytest.mark.parametrize(("name", "kind"), [("slurm-cpu", "cpu"), ("slurm-gpu", "gpu")])
def test_the_shipped_sections_give_a_job_script(section: Read, name: str, kind: str) -> None:
    script = jobqueue.job_script(section(SHIPPED.read_text(), name, kind))
    assert f"#SBATCH -p {kind}" in script
    assert ("#SBATCH --gres=gpu:1" in script) == ("--resources GPU=1" in script) == (kind == "gpu")
    assert "#SBATCH --no-requeue" in script
    assert "--lifetime" in script


def test_what_is_left_out_has_dask_jobqueues_default(section: Read) -> None:
    short = section("jobqueue: {mine: {cores: 3, memory: 2GB}}")
    assert short.job["death-timeout"] == dask.config.get("jobqueue.slurm.death-timeout")
    assert short.job["walltime"] == dask.config.get("jobqueue.slurm.walltime")
    assert (short.processes, short.threads) == (3, 1)
    assert section("jobqueue: {mine: {cores: 3, memory: 2GB}}", kind="gpu").threads == 3


def test_workers_leave_before_the_walltime_unless_the_section_says_when(section: Read) -> None:
    words = jobqueue.job_script(section(mine('walltime: "01:00:00"'))).split()
    lifetime, stagger = (int(words[words.index(k) + 1][:-1]) for k in ("--lifetime", "--lifetime-stagger"))
    assert 1800 < lifetime + stagger < 3600
    assert jobqueue.job_script(section(mine("worker-extra-args: [--lifetime, 5m]"))).count("--lifetime") == 1


def test_dasks_own_configuration_counts_and_the_file_wins(section: Read) -> None:
    with dask.config.set({"jobqueue.mine": {"cores": 2, "memory": "1GB", "queue": "elsewhere", "account": "a"}}):
        assert section(None).job["queue"] == "elsewhere"
        merged = section("jobqueue: {mine: {queue: here}}").job
    assert (merged["queue"], merged["account"], merged["cores"]) == ("here", "a", 2)
    with (
        dask.config.set({"jobqueue.mine": {"cores": "many", "memory": "1GB"}}),
        pytest.raises(UserError, match=r"^Dask's configuration: jobqueue\.mine\.cores: 'many' .*; allowed: an integer"),
    ):
        section("jobqueue: {}")


def test_null_anywhere_stands_for_dask_jobqueues_default(section: Read) -> None:
    nulls = {"worker-extra-args": None, "scheduler-options": None, "name": None}
    with dask.config.set({"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **nulls}}):
        short = section(mine("job-script-prologue: null"))
        assert (short.job["name"], short.job["job-script-prologue"]) == ("dask-worker", [])
        assert "distributed.cli.dask_worker" in jobqueue.job_script(short)


def test_keys_may_be_spelled_with_underscores(section: Read) -> None:
    assert section(mine("job_extra_directives: [--qos=short]")).job["job-extra-directives"] == ["--qos=short"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jobqueue: {other: {cores: 1}}", "cluster.cpu: .* no section 'mine' in jobqueue.yaml; allowed: local, other"),
        (None, "no section 'mine' in /.*/jobqueue.yaml: this file is not there; allowed: local"),
        ("jobqueue: {mine: {memory: 1GB}}", ":1: jobqueue.mine.cores: this key is missing"),
        (mine("quueue: x"), ":5: jobqueue.mine.quueue: unknown key; allowed: account, cores, .*, worker-extra-args"),
        (mine("extra: [x]"), ":5: jobqueue.mine.extra: unknown key; allowed: "),
        (mine("queue: [a]"), ":5: jobqueue.mine.queue: .*; allowed: a string"),
        (mine('queue: "a\\0"'), ":5: jobqueue.mine.queue: .*; allowed: a string"),
        ("jobqueue: {mine: {cores: many, memory: 1GB}}", ":1: jobqueue.mine.cores: 'many' .*; allowed: an integer"),
        ("jobqueue: {mine: {cores: yes, memory: 1GB}}", ":1: jobqueue.mine.cores: 'True' .*; allowed: an integer"),
        ("jobqueue: {mine: {cores: 1, memory: lots}}", "memory: 'lots' .*; allowed: 100MB and more, such as 8GB"),
        ("jobqueue: {mine: {cores: 1, memory: 0}}", "memory: '0' .*; allowed: 100MB and more"),
        ("jobqueue: {mine: {cores: 1, memory: 1e999GB}}", "memory: '1e999GB' .*; allowed: 100MB"),
        (mine("processes: 2"), ":5: jobqueue.mine.processes: 2 must not be above cores .1."),
        (mine("walltime: soon"), "walltime: 'soon' .*; allowed: .*01:00:00"),
        (mine("walltime: 0"), "walltime: '0' .*; allowed: a minute and more, in quotes"),
        (mine("walltime: 10:00:00"), "walltime: '36000' .*; allowed: a minute and more, in quotes"),
        (mine("name: a/b"), "name: 'a/b' .*; allowed: up to 80 letters"),
        (mine("interface: nope0"), "interface: 'nope0' .*; allowed: a network interface of this machine: .*lo"),
        (mine("death-timeout: soon"), ":5: jobqueue.mine.death-timeout: 'soon' .*; allowed: an integer"),
        (mine("log-directory: FILE"), ":5: jobqueue.mine.log-directory: 'FILE' .*; allowed: a directory"),
        (mine("log-directory: FILE/logs"), ":5: jobqueue.mine.log-directory: 'FILE/logs' .*; allowed: a directory"),
        (mine("log-directory: /proc/logs"), ":5: jobqueue.mine.log-directory: '/proc/logs' .*; allowed: a directory"),
        (mine("local-directory: FILE"), ":5: jobqueue.mine.local-directory: 'FILE' .*; allowed: a directory"),
        (mine("shebang: bash"), ":5: jobqueue.mine.shebang: 'bash' .*; allowed: #! and the path of a program"),
        (mine("shebang: '#!/nope'"), ":5: jobqueue.mine.shebang: '#!/nope' .*; allowed: #! and the path"),
        (mine("shebang: '#!/etc/passwd'"), ":5: jobqueue.mine.shebang: '#!/etc/passwd' .*; allowed: #! and the path"),
        (mine("python: /nope/python"), ":5: jobqueue.mine.python: '/nope/python' .*; allowed: a program on this"),
        (mine("python: '\"'"), ":5: jobqueue.mine.python: .*; allowed: a program on this machine"),
        (mine("python: no-such-python"), ":5: jobqueue.mine.python: .*; allowed: a program on this machine"),
        (mine("job-script-prologue: module load"), ":5: jobqueue.mine.job-script-prologue: .*; allowed: a list of"),
        (mine("worker-extra-args: '--x'"), ":5: jobqueue.mine.worker-extra-args: .*; allowed: a list of strings"),
        (mine("job-extra-directives: 5"), ":5: jobqueue.mine.job-extra-directives: '5' .*; allowed: a list of strings"),
        (mine("job-extra-directives: [[]]"), ":5: jobqueue.mine.job-extra-directives: .*; allowed: a list of strings"),
        (mine("scheduler-options: {protocol: tcp}"), ":5: jobqueue.mine.scheduler-options.protocol: unknown key"),
        (mine("scheduler-options: {port: -1}"), ":5: jobqueue.mine.scheduler-options.port: .*; allowed: an integer"),
        (mine("scheduler-options: 5"), ":5: jobqueue.mine.scheduler-options: '5' .*; allowed: the keys contact_"),
        ("jobqueue: {mine: 5}", ":1: jobqueue.mine: must hold keys"),
        ("jobqueue: 5", ":1: jobqueue: must hold keys"),
        ("jobqeue: {mine: {}}", ":1: jobqeue: unknown key"),
        ("distributed: 5", ":1: distributed: must hold keys"),
        ("jobqueue: [", r"jobqueue.yaml:\d+: not valid YAML"),
        ("jobqueue: " + "[" * 5000, "jobqueue.yaml:1: not valid YAML"),
        ("just words", "must hold KEY: VALUE sections; needed: jobqueue"),
        (b"jobqueue: \xff", "jobqueue.yaml:1: not a text file in UTF-8"),
    ],
)
def test_a_fault_is_named_in_one_line(section: Read, tmp_path: Path, text: str | bytes | None, words: str) -> None:
    (tmp_path / "FILE").touch()
    with pytest.raises(UserError, match=words) as caught:
        section(text)
    assert len(caught.value.faults) == 1
    assert len(str(caught.value).splitlines()) == 1


def test_a_directory_is_no_jobqueue_yaml(section: Read, tmp_path: Path) -> None:
    (tmp_path / "jobqueue.yaml").mkdir()
    with pytest.raises(UserError, match=r"^jobqueue.yaml: cannot be read: Is a directory$"):
        section(None)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()) | st.just({"a": 1})


@settings(max_examples=1000 if FULL else 100, deadline=None)
@given(st.sampled_from(jobqueue.KEYS), VALUES)
def test_any_value_is_refused_or_gives_a_job_script(key: str, value: object) -> None:
    with dask.config.set({"jobqueue.any": {"cores": 1, "memory": "1GB", key: value}}):
        try:
            found = jobqueue.read_section("any", "cpu", Path("logs"))
        except UserError as error:
            assert key in str(error)  # noqa: PT017
        else:
            assert "distributed" in jobqueue.job_script(found) or key == "worker-command"


def test_without_sbatch_the_pool_is_refused(section: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no sbatch on this machine"):
        jobqueue.preflight(section(mine("queue: x")))
