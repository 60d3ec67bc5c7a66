"""A real Slurm on loopback for the tests marked ``slurm``: slurmctld, munged and one slurmd a virtual node."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.fixtures import HANGING, hashes

CPU_NODES, GPU_NODES, GPUS = 3, 1, 2
CORES, MEGABYTES = 4, 16000
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
SEARCH = os.environ["PATH"] + os.pathsep + "/usr/sbin"

CONFIG = """
ClusterName=sdpipe-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={dir}/munge.sock
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=10
KillWait=2
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
NodeName=cpu[1-{cpus}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{cpu_first}-{cpu_last}] CPUs={cores} RealMemory={mb}
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={gpu_port} CPUs={cores} RealMemory={mb} Gres=gpu:{gpus}
PartitionName=cpu Nodes=cpu[1-{cpus}] Default=YES MaxTime=60 State=UP
PartitionName=gpu Nodes=gpu1 MaxTime=60 State=UP
"""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = HANGING) -> None:
    """Poll until ``condition`` holds; fail with ``what`` where it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


@dataclass
class Slurm:
    """The running Slurm: commands, nodes, and how to crash one."""

    directory: Path
    environment: dict[str, str]
    nodes: list[str]
    processes: list[int] = field(default_factory=list)

    def command(self, *arguments: str) -> str:
        """Run a Slurm command and return what it prints."""
        options = {"capture_output": True, "text": True, "check": True, "timeout": HANGING}
        return subprocess.run(arguments, env=self.environment, **options).stdout

    def jobs(self, state: str | None = None) -> list[str]:
        """Return the ids of the jobs in the queue, or of those in one state (R, PD, ...)."""
        lines = [line.split() for line in self.command("squeue", "-h", "-o", "%A %t").splitlines()]
        return [job for job, t in lines if state in (None, t)]

    def start_node(self, node: str) -> None:
        """Start the slurmd of one node."""
        (self.directory / f"spool-{node}").mkdir(exist_ok=True)
        self.command("slurmd", "-N", node)

    def _processes_of(self, jobs: list[str]) -> list[int]:
        """Return the processes of jobs of this Slurm; a machine may have another, with jobs of the same number."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            ours = environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
            if ours and environment.get("SLURM_JOB_ID") in jobs:
                found.append(process.pid)
        return found

    def signal_job(self, job: str, number: signal.Signals) -> None:
        """Send a signal to every process of a job."""
        for pid in self._processes_of([job]):
            os.kill(pid, number)

    def stop_controller(self) -> None:
        """End slurmctld; ``slurm.command("slurmctld")`` starts it again."""
        controller = psutil.Process(int((self.directory / "slurmctld.pid").read_text()))
        controller.terminate()
        psutil.wait_procs([controller], timeout=HANGING)

    def crash_node(self, node: str) -> None:
        """Kill a node's slurmd with -9, and every process of the jobs that run there."""
        lines = self.command("squeue", "-h", "-t", "R", "-o", "%A %N").splitlines()
        jobs = [line.split()[0] for line in lines if line.split()[1] == node]
        for pid in [int((self.directory / f"slurmd-{node}.pid").read_text()), *self._processes_of(jobs)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restore_node(self, node: str) -> None:
        """Start a crashed node again and let Slurm forget the jobs that ended with it."""
        self.start_node(node)
        self.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=crashed")

        def back() -> bool:
            with contextlib.suppress(subprocess.CalledProcessError):  # refused where the node came back by itself
                self.command("scontrol", "update", f"NodeName={node}", "State=RESUME")
            return "down" not in self.command("sinfo", "-h", "-n", node, "-o", "%T")

        wait_for(back, f"{node} back")

    def idle(self) -> bool:
        """Return whether every node is up and the queue is empty."""
        states = self.command("sinfo", "-h", "-N", "-o", "%T").split()
        return not self.jobs() and states.count("idle") == len(self.nodes)


def _port_range(length: int) -> int:
    for first in range(17000, 30000, 200):
        try:
            for port in range(first, first + length):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    pytest.fail("no free range of ports for Slurm")


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[Slurm]:
    """Start Slurm once a test session; stop all of it, by pid, at the end."""
    absent = [d for d in DAEMONS if shutil.which(d, path=SEARCH) is None]
    if absent:
        pytest.skip(f"no Slurm on this machine ({', '.join(absent)} missing): apt-get install slurm-wlm munge")
    directory = Path(tempfile.mkdtemp(prefix="slurm-"))
    directory.chmod(0o755)  # munge wants its socket reachable
    port = _port_range(CPU_NODES + GPU_NODES + 1)
    text = CONFIG.format(
        dir=directory, user=getpass.getuser(), host=socket.gethostname().split(".")[0], port=port,
        cpus=CPU_NODES, cpu_first=port + 1, cpu_last=port + CPU_NODES, gpu_port=port + CPU_NODES + 1,
        cores=CORES, mb=MEGABYTES, gpus=GPUS,
    )  # fmt: skip
    (directory / "slurm.conf").write_text(text)
    (directory / "state").mkdir()
    for i in range(GPUS):
        (directory / f"nvidia{i}").symlink_to("/dev/null")
    (directory / "gres.conf").write_text(
        f"AutoDetect=off\nNodeName=gpu1 Name=gpu File={directory}/nvidia[0-{GPUS - 1}]\n"
    )
    environment = {**os.environ, "PATH": SEARCH, "SLURM_CONF": str(directory / "slurm.conf")}
    version = subprocess.run(["slurmd", "-V"], env=environment, capture_output=True, text=True, check=True).stdout
    plugin = "cgroup/v1" if " 22." in version else "disabled"
    (directory / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
    key = directory / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    nodes = [f"cpu{i + 1}" for i in range(CPU_NODES)] + ["gpu1"]
    slurm = Slurm(directory, environment, nodes)
    try:
        slurm.command(
            "munged", f"--key-file={key}", f"--socket={directory}/munge.sock", f"--pid-file={directory}/munged.pid",
            f"--log-file={directory}/munged.log", f"--seed-file={directory}/munged.seed",
        )  # fmt: skip
        slurm.command("slurmctld")
        for node in nodes:
            slurm.start_node(node)
        wait_for(slurm.idle, "every Slurm node idle")
        yield slurm
    finally:
        _stop(slurm)
        shutil.rmtree(directory, ignore_errors=True)


def _stop(slurm: Slurm) -> None:
    jobs = subprocess.run(["squeue", "-h", "-o", "%A"], env=slurm.environment, capture_output=True, text=True).stdout
    if jobs.split():
        subprocess.run(["scancel", *jobs.split()], env=slurm.environment, check=False)
        wait_for(lambda: not slurm.jobs(), "cancelled jobs gone")
    processes = []
    for name in ("slurmd-*.pid", "slurmctld.pid", "munged.pid"):
        for file in slurm.directory.glob(name):
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                processes.append(psutil.Process(int(file.read_text())))
    for process in processes:
        process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=HANGING)
    for survivor in alive:
        survivor.kill()


@pytest.fixture
def slurm(slurm_session: Slurm) -> Iterator[Slurm]:
    """The running Slurm, idle before the test and with an empty queue after it."""
    wait_for(slurm_session.idle, "Slurm idle before the test")
    yield slurm_session
    wait_for(lambda: not slurm_session.jobs(), "an empty queue after the test")


POOL = """
  slurm-{kind}:
    name: {kind}
    queue: {kind}
    cores: 1
    processes: 1
    memory: 1GB
    walltime: "00:10:00"
    interface: lo
    local-directory: {scratch}
    death-timeout: 15
"""

CONFIG_YAML = """
name: slurm-test
seed: 3
lattice: {{period: 32, times: [1, 16]}}
kernel: vector
smearing: {{sigma: [0.44]}}
energies: {{min: 0.1, max: 2.5, count: 24}}
spectra: {{Nb: [16, 32], Nrho: {Nrho}}}
noise: {{kind: synthetic, r1: 1.0e-3}}
ensembles:
  Nmax: {{Nb: 32, Nrho: 2000, network: arcS}}
  Nref_b: {{Nb: 16, Nrho: 2000, network: arcS}}
budget: {{central: Nmax, references: {{b: Nref_b}}}}
training: {{replicas: 2, epochs: 3}}
validation: {{samples: 120, bootstrap: 4, levels: [0.683, 0.954], families: {{o3: {{kind: o3}}}}}}
targets: {{o3: {{kind: o3}}}}
bootstrap: 20
cluster: {{cpu: slurm-cpu, gpu: slurm-gpu, jobs: {jobs}}}
"""


def config_text(Nrho: int = 4000, jobs: int = 3) -> str:
    """Return the config of the Slurm tests."""
    return textwrap.dedent(CONFIG_YAML.format(Nrho=Nrho, jobs=jobs))


def chunks(run: Path) -> dict[str, str]:
    """Return the hash of every file below a directory ``c`` of a run's training set: chunks, and nothing else."""
    return {name: found for name, found in hashes(run / "training.zarr").items() if "c" in Path(name).parts}


@dataclass
class Bench:
    """A working directory with jobqueue.yaml and a config, and the command line to run in it."""

    directory: Path
    slurm: Slurm
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, Nrho: int = 4000, jobs: int = 3, edit: Callable[[str], str] = lambda text: text) -> None:
        """Write config.yaml, and jobqueue.yaml after ``edit``."""
        (self.directory / "config.yaml").write_text(config_text(Nrho, jobs))
        cpu, gpu = (POOL.format(kind=kind, scratch=self.directory / "scratch") for kind in ("cpu", "gpu"))
        gpu += '    job-extra-directives: ["--gres=gpu:1"]\n'
        text = f"jobqueue:{cpu}{gpu}distributed.deploy.lost-worker-timeout: 2s\n"
        (self.directory / "jobqueue.yaml").write_text(edit(text))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``sdpipe`` with these arguments in a session of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "sdpipe", *arguments],
            cwd=self.directory, env=self.slurm.environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        self.started.append(process)
        return process

    def stop(self) -> None:
        """Stop what a failed test left at work."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=HANGING)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run ``sdpipe`` to its end; return exit status, stdout and stderr."""
        process = self.start(*arguments)
        return self.finish(process)

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Wait for a started ``sdpipe``; end it where it does not end by itself."""
        try:
            out, err = process.communicate(timeout=HANGING)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            out, err = process.communicate(timeout=HANGING)
            pytest.fail(f"sdpipe did not end within {HANGING:.0f} s:\n{err}")
        return process.returncode, out, err

    def done_blocks(self, run: str) -> int:
        """Return how many blocks of a run's training set are done."""
        return len(list((self.directory / run / ".sdpipe/receipts/generate").glob("generate-*.json")))


@pytest.fixture
def bench(slurm: Slurm, tmp_path: Path) -> Iterator[Bench]:
    """An empty working directory on the running Slurm, with the default config and pools."""
    made = Bench(tmp_path, slurm)
    made.write()
    yield made
    made.stop()
