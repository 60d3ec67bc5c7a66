"""The pipeline on a real Slurm: same results, healing, no orphans, nobody let in.

All in one file: files of tests go to several processes, and this machine has one Slurm.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from sdpipe.config.load import load_config
from sdpipe.disk.layout import Layout
from sdpipe.disk.receipts import sha256
from sdpipe.learn.trained import load
from sdpipe.pipeline import stacks
from sdpipe.pipeline.pieces import every_network
from sdpipe.pipeline.state import State
from tests.fixtures import HANGING, Outcome
from tests.slurm.conftest import Bench, Slurm, chunks, config_text, wait_for

pytestmark = pytest.mark.slurm

LONG = 600_000
"""Samples a set that keep three workers busy for some seconds."""

EPOCHS = "training.epochs=60"
"""So many that a training is still at work when a fault comes."""


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a local ``generate`` of ``LONG`` samples."""
    directory = tmp_path_factory.mktemp("local")
    (directory / "config.yaml").write_text(config_text(LONG))
    arguments = ["generate", "config.yaml", "cluster.cpu=local", "--run", "a"]
    subprocess.run([sys.executable, "-m", "sdpipe", *arguments], cwd=directory, check=True, timeout=HANGING)
    return directory / "a"


@pytest.fixture(scope="module")
def long_chunks(long_run: Path) -> dict[str, str]:
    """The chunks of ``long_run``."""
    return chunks(long_run)


@pytest.fixture(scope="module")
def short_life(long_run: Path) -> float:
    """Seconds in which one worker starts, imports and makes some blocks but never all: three, and those in which
    all local workers get from the first block to the last."""
    return 3 + working(long_run)


def working(run: Path) -> float:
    """Return the seconds from the first block of a run to the last."""
    done = [f.stat().st_mtime for f in (run / ".sdpipe/receipts/generate").glob("generate-*.json")]
    return max(done) - min(done)


def test_whole_pipeline_on_two_pools_equals_a_local_generate(bench: Bench) -> None:
    bench.write(jobs=2)
    code, out, err = bench.run("run", "config.yaml", "--run", "a")
    assert code == 0, err
    assert "o3, with calibrated error" in out
    assert re.search(r"dashboard: http://127\.0\.0\.1:\d+/status .*ssh -N -L", err)
    assert "training on the CPU" in err
    code, _, err = bench.run("generate", "config.yaml", "cluster.cpu=local", "--run", "local")
    assert code == 0, err
    assert chunks(bench.directory / "a") == chunks(bench.directory / "local")
    assert len(list((bench.directory / "a/networks").glob("*.npz"))) == 4
    logs = [f.name for f in (bench.directory / "a/logs").iterdir()]
    assert any(re.fullmatch(r"cpu-\d+\.err", n) for n in logs)
    assert any(re.fullmatch(r"gpu-\d+\.err", n) for n in logs)
    assert {"dask-generate.html", "dask-train.html", "dask-predict.html"} <= set(logs)
    assert xr.open_zarr(bench.directory / "a/predictions.zarr/o3", consolidated=False).rho.notnull().all()
    assert not bench.slurm.jobs()
    assert not list(bench.directory.glob("a/.sdpipe/tls/*"))


def test_generate_survives_cancelled_jobs_and_a_crashed_node(
    bench: Bench, slurm: Slurm, long_chunks: dict[str, str]
) -> None:
    bench.write(Nrho=LONG)
    process = bench.start("generate", "config.yaml", "--run", "a")
    wait_for(lambda: len(slurm.jobs("R")) == 3 and bench.done_blocks("a") >= 1, "three jobs at work")
    slurm.command("scancel", slurm.jobs("R")[0])
    done = bench.done_blocks("a")
    wait_for(lambda: bench.done_blocks("a") > done, "work after the cancelled job")
    node = slurm.command("squeue", "-h", "-t", "R", "-o", "%N").split()[0]
    slurm.crash_node(node)
    try:
        code, _, err = bench.finish(process)
    finally:
        slurm.restore_node(node)
    assert code == 0, err
    assert chunks(bench.directory / "a") == long_chunks
    wait_for(slurm.idle, "the crashed node back")


def test_a_hung_worker_is_dropped_and_replaced(bench: Bench, slurm: Slurm, long_chunks: dict[str, str]) -> None:
    bench.write(Nrho=LONG, jobs=1, edit=lambda text: text + "distributed.scheduler.worker-ttl: 6s\n")
    process = bench.start("generate", "config.yaml", "--run", "a")
    wait_for(lambda: bench.done_blocks("a") >= 1, "a block done")
    hung = slurm.jobs("R")[0]
    slurm.signal_job(hung, signal.SIGSTOP)
    code, _, err = bench.finish(process)
    assert code == 0, err
    assert chunks(bench.directory / "a") == long_chunks
    assert len(list((bench.directory / "a/logs").glob("cpu-*.err"))) > 1


def test_work_goes_on_after_slurmctld_was_away(
    bench: Bench, slurm: Slurm, long_chunks: dict[str, str], record_property
) -> None:
    """The only worker dies meanwhile, so that nothing goes on before another job is submitted."""
    bench.write(Nrho=LONG, jobs=1)
    process = bench.start("generate", "config.yaml", "--run", "a")
    wait_for(lambda: bench.done_blocks("a") >= 1, "a block done")
    (job,) = slurm.jobs("R")
    slurm.stop_controller()
    try:
        slurm.signal_job(job, signal.SIGKILL)
        said = next((line for line in process.stderr if "asking Slurm again until it answers" in line), "")
    finally:
        slurm.command("slurmctld")
    begun, done = time.monotonic(), bench.done_blocks("a")
    assert said.startswith("slurm-cpu: ")
    wait_for(lambda: bench.done_blocks("a") > done, "work after slurmctld came back")
    record_property("seconds from slurmctld to work", time.monotonic() - begun)
    code, _, err = bench.finish(process)
    assert code == 0, err
    assert "asking Slurm again" not in err
    assert chunks(bench.directory / "a") == long_chunks


def test_a_cancelled_pending_job_is_replaced(bench: Bench, slurm: Slurm) -> None:
    bench.write(jobs=2)
    slurm.command("scontrol", "update", "PartitionName=cpu", "State=DOWN")
    try:
        process = bench.start("generate", "config.yaml", "--run", "a")
        wait_for(lambda: len(slurm.jobs("PD")) == 2, "two pending jobs")
        before = set(slurm.jobs("PD"))
        slurm.command("scancel", *before)
        wait_for(lambda: len(set(slurm.jobs("PD")) - before) == 2, "their replacements")
    finally:
        slurm.command("scontrol", "update", "PartitionName=cpu", "State=UP")
    code, _, err = bench.finish(process)
    assert code == 0, err


def test_walltime_shorter_than_the_work_takes_several_generations_of_workers(
    bench: Bench, long_chunks: dict[str, str], short_life: float
) -> None:
    """Where one generation was enough, since the machine was busier before, the next has half of the time that took."""

    def short_lives(text: str) -> str:
        line = f'worker-extra-args: ["--lifetime", "{life:.1f}s"]'
        return text.replace("death-timeout: 15", f"death-timeout: 15\n    {line}", 1)

    life, jobs = short_life, 0
    for name in ("a", "b"):
        bench.write(Nrho=LONG, jobs=1, edit=short_lives)
        code, _, err = bench.run("generate", "config.yaml", "--run", name)
        assert code == 0, err
        assert chunks(bench.directory / name) == long_chunks
        jobs = len({f.stem for f in (bench.directory / name / "logs").glob("cpu-*.err")})
        if jobs > 1:
            break
        life = 3 + working(bench.directory / name) / 2
    assert jobs > 1


def test_a_driver_that_ends_leaves_no_job_and_the_next_run_goes_on(
    bench: Bench, slurm: Slurm, long_chunks: dict[str, str]
) -> None:
    receipts: dict[Path, int] = {}
    for how, jobs in ((signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGKILL, 1)):
        bench.write(Nrho=LONG, jobs=jobs)
        process, kept = bench.start("generate", "config.yaml", "--run", "a"), len(receipts)
        wait_for(lambda kept=kept: bench.done_blocks("a") > kept, "another block done")
        os.kill(process.pid, how)
        code, _, err = bench.finish(process)
        assert code == (-9 if how == signal.SIGKILL else 130), err
        wait_for(lambda: not slurm.jobs(), "an empty queue")
        done = (bench.directory / "a/.sdpipe/receipts/generate").glob("*.json")
        receipts = {f: receipts.get(f, f.stat().st_mtime_ns) for f in done}
        assert len(receipts) > kept
    code, _, err = bench.run("generate", "config.yaml", "--run", "a")
    assert code == 0, err
    assert all(f.stat().st_mtime_ns == before for f, before in receipts.items()), "a finished block was made twice"
    assert chunks(bench.directory / "a") == long_chunks


@pytest.fixture
def here(bench: Bench, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Return a function that runs ``sdpipe`` in this process, where no job is to be submitted."""
    monkeypatch.chdir(bench.directory)
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, bench.slurm.environment[name])
    return cli


def test_a_job_that_slurm_refuses_is_a_fault_in_its_own_words_and_nothing_is_written(
    bench: Bench, here: Callable[..., Outcome]
) -> None:
    bench.write(edit=lambda text: text.replace("queue: cpu", "queue: nowhere"))
    fault = here("generate", "config.yaml", "--run", "a").fault
    assert "invalid partition" in fault.lower()
    assert fault.startswith("error: config.yaml:18: cluster.cpu: jobqueue.yaml: slurm-cpu: Slurm refuses the job: ")
    assert not (bench.directory / "a").exists()


@pytest.mark.parametrize(
    ("directive", "words"),
    [("--gres=gpu:7", "gpu"), ("--mem=900G", "memory"), ("--cpus-per-task=64", "configuration is not available")],
)
def test_resources_that_no_node_has_are_refused(
    bench: Bench, here: Callable[..., Outcome], directive: str, words: str
) -> None:
    bench.write(edit=lambda text: text.replace('["--gres=gpu:1"]', f'["--gres=gpu:1", "{directive}"]'))
    fault = here("run", "config.yaml", "--run", "a").fault
    assert fault.startswith("error: config.yaml:18: cluster.gpu: jobqueue.yaml: slurm-gpu: Slurm refuses the job: ")
    assert words in fault.lower() or "not available" in fault
    assert not (bench.directory / "a").exists()


def test_a_failing_prologue_gives_up_with_the_end_of_the_log(bench: Bench) -> None:
    def fail(text: str) -> str:
        line = "job-script-prologue: ['echo module cuda not found >&2; exit 1']"
        return text.replace("death-timeout: 15", f"death-timeout: 15\n    {line}", 1)

    bench.write(jobs=1, edit=fail)
    code, _, err = bench.run("generate", "config.yaml", "--run", "a")
    assert code == 1
    assert "module cuda not found" in err
    assert "Traceback" not in err


def test_dry_run_prints_the_job_script_and_writes_nothing(bench: Bench, here: Callable[..., Outcome]) -> None:
    outcome = here("run", "config.yaml", "--run", "a", "--dry-run")
    assert outcome.status == 0, outcome.err
    assert "#SBATCH -p cpu" in outcome.out
    assert "#SBATCH --gres=gpu:1" in outcome.out
    assert "--lifetime" in outcome.out
    assert not (bench.directory / "a").exists()


INTRUDER = """
import os, sys
from distributed import Client
for address in sys.argv[1:]:
    try:
        with Client(address, timeout=5) as client:
            print("IN", client.run_on_scheduler(os.getpid))
    except Exception as error:
        print("OUT", type(error).__name__)
"""


def test_without_the_certificate_nobody_runs_code_on_the_scheduler(bench: Bench, slurm: Slurm) -> None:
    bench.write(Nrho=LONG, jobs=1)
    process = bench.start("generate", "config.yaml", "--run", "a")
    wait_for(lambda: bench.done_blocks("a") >= 1, "a block done")
    slurm.signal_job(slurm.jobs("R")[0], signal.SIGSTOP)  # the scheduler is there until it is interrupted
    certificates = list((bench.directory / "a/.sdpipe/tls").glob("*/*.pem"))
    assert len(certificates) == 3
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in certificates)
    assert all(stat.S_IMODE(f.parent.stat().st_mode) == 0o700 for f in certificates)
    address = _scheduler(bench.directory / "a/logs")
    addresses = [re.sub("^tls", protocol, address) for protocol in ("tcp", "tls")]
    done = subprocess.run(
        [sys.executable, "-c", INTRUDER, *addresses],
        capture_output=True, text=True, timeout=HANGING, check=False,
    )  # fmt: skip
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["OUT", "OUT"], done.stdout + done.stderr
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    bench.finish(process)


def _scheduler(logs: Path) -> str:
    text = "".join(f.read_text() for f in logs.glob("cpu-*.err"))
    return re.search(r"Registered to:\s+(tls://\S+)", text).group(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, in_process: Callable[..., Outcome]) -> Path:
    """A run that was trained on this machine, and beside it, as ``generated``, one that is to be trained.

    Both hold the same note of which networks train side by side, so that their sums are rounded alike.
    """
    directory = tmp_path_factory.mktemp("trained")
    (directory / "config.yaml").write_text(config_text())
    local = ("cluster.cpu=local", "cluster.gpu=local")
    for stage in ("generate", "train"):
        outcome = in_process(stage, "config.yaml", EPOCHS, *local, "--run", "a", cwd=directory)
        assert outcome.status == 0, outcome.err
        if stage == "generate":
            state = State(load_config(directory / "a"), Layout(directory / "a"))
            stacks.note(
                state.layout, stacks.plan(state.identities, state.layout, every_network(state.config), workers=1)
            )
            shutil.copytree(directory / "a", directory / "generated")
    return directory / "a"


LIFE = 30
"""Seconds after which a worker leaves before its walltime."""


@pytest.mark.parametrize(
    "fault", ["scancel", "node down", "walltime", "worker leaves before the walltime", "driver and job killed"]
)
def test_training_goes_on_after_a_fault_and_ends_with_the_same_networks(
    bench: Bench, slurm: Slurm, trained: Path, fault: str
) -> None:
    def leaving(text: str) -> str:
        line = f'worker-extra-args: ["--lifetime", "$(cat {life})s"]'
        return text.replace("death-timeout: 15", f"death-timeout: 15\n    {line}")

    life = bench.directory / "life"  # of a job that starts now
    life.write_text(str(LIFE))
    bench.write(jobs=1, edit=leaving if "leaves" in fault else lambda text: text)
    run, train = bench.directory / "a", ("train", "config.yaml", EPOCHS, "--run", "a")
    shutil.copytree(trained.with_name("generated"), run)
    process = bench.start(*train)
    wait_for(lambda: bool(list((run / ".sdpipe/unfinished").glob("*.pt"))), "an unfinished stack on disk")
    (job,) = slurm.jobs("R")
    slurm.signal_job(job, signal.SIGSTOP)  # no fault comes too late
    stopped = time.monotonic()
    done = len(list((run / ".sdpipe/receipts/train").glob("*.json")))
    if fault == "scancel":
        _, table, _ = bench.run("status", "a")
        assert re.search(r"(Nmax|Nref_b)-0\.44-r\d +\d+/60 ", table)
        slurm.command("scancel", job)
    elif fault == "node down":
        node = slurm.command("squeue", "-h", "-t", "R", "-o", "%N").split()[0]
        slurm.crash_node(node)
        slurm.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=crashed")  # as Slurm does later
        wait_for(lambda: "down" in slurm.command("sinfo", "-h", "-n", node, "-o", "%T"), "the node down")
        slurm.restore_node(node)
    elif fault == "walltime":
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        slurm.command("scontrol", "update", f"JobId={job}", f"EndTime={now}")
        wait_for(lambda: "JobState=TIMEOUT" in slurm.command("scontrol", "show", "job", job), "the end of its time")
    elif fault == "worker leaves before the walltime":
        life.write_text("3600")
        wait_for(lambda: time.monotonic() - stopped > LIFE, "the end of a life, which began before")
        slurm.signal_job(job, signal.SIGCONT)
        wait_for(lambda: job not in slurm.jobs(), "the worker to leave")
    else:
        os.kill(process.pid, signal.SIGKILL)
        slurm.command("scancel", job)
        assert bench.finish(process)[0] == -signal.SIGKILL
        wait_for(lambda: not slurm.jobs(), "an empty queue")
        process = bench.start(*train)
    code, _, err = bench.finish(process)
    assert code == 0, err
    assert done < 4, "the fault came too late"
    here, there = ({f.name: _learned(f) for f in (r / "networks").glob("*.npz")} for r in (trained, run))
    assert len(there) == 4
    assert here == there
    xr.testing.assert_equal(*(xr.open_zarr(r / "history.zarr", consolidated=False).load() for r in (trained, run)))
    wait_for(slurm.idle, "every node back")


def _learned(path: Path) -> tuple[object, ...]:
    network = load(path, sha256(path))
    weights = {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in network.parameters.items()}
    return weights, network.train_loss, network.val_loss, network.best_epoch
