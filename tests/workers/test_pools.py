"""Pools of this machine: who shares them, what they listen on, what they say; how many parts training is cut into."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
import torch

from sdpipe.config.load import load_config
from sdpipe.config.schema import Cluster
from sdpipe.errors import RunError
from sdpipe.workers import pool as running
from sdpipe.workers import pools
from sdpipe.workers.pools import Workers, trainers
from sdpipe.workers.serial import Task


@pytest.fixture
def said() -> list[str]:
    """What workers say."""
    return []


@pytest.fixture
def workers(tmp_path: Path, said: list[str]) -> Iterator[Workers]:
    """Workers of this machine."""
    with Workers(Cluster(), tmp_path / "logs", tmp_path / "tls", said.append) as workers:
        yield workers


def test_the_dashboard_is_announced_and_its_status_page_loads(
    workers: Workers, said: list[str], tmp_path: Path
) -> None:
    with workers.pool("cpu", "count", 1) as pool:
        assert list(pool.map(len, [Task("count", ([1, 2, 3],))])) == [("count", 3)]
        address = re.match(r"dashboard: (http://127\.0\.0\.1:(\d+)/status)  ", said[0])
        assert address
        assert f"ssh -N -L {address[2]}:127.0.0.1:{address[2]} " in said[0]
        with urlopen(address[1], timeout=60) as answer:
            assert answer.status == 200
            page = answer.read().decode()
    assert "<title>Dask Diagnostic UI</title>" in page
    assert "bokeh" in page
    assert "Dask Performance Report" in (tmp_path / "logs" / "dask-count.html").read_text()


def test_stages_that_want_as_many_workers_share_them(workers: Workers, said: list[str], tmp_path: Path) -> None:
    pids = []
    with workers:
        for kind, stage in (("cpu", "generate"), ("gpu", "train")):
            with workers.pool(kind, stage, 1) as pool:
                pids += [pid for _, pid in pool.map(os.getpid, [Task("pid", ())])]
    assert pids[0] == pids[1] != os.getpid()
    assert len(said) == 1
    assert not psutil.pid_exists(pids[0])
    assert len(list((tmp_path / "logs").iterdir())) == 2


def test_no_training_waits_behind_a_longer_one_while_the_next_is_taken(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "cores", lambda: 2)
    names = ["long", *(f"short-{i}" for i in range(6))]
    address = socket.create_server(("127.0.0.1", 0))

    def work(name: str, port: int) -> str:
        if name == "long":  # ends when the test answers, or does not
            with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
                return line.recv(2).decode() or "hung up"
        return name

    done = []
    with address, workers.pool("gpu", "train", len(names)) as pool:
        port = address.getsockname()[1]
        for name, _ in pool.map(work, [Task(name, (name, port)) for name in names]):
            done.append(name)
            if len(done) == len(names) - 1:
                line, _ = address.accept()
                with line:
                    line.sendall(b"go")
    assert done == [*names[1:], "long"]


def test_a_task_that_kills_its_workers_is_told_in_one_line(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(running.SETTINGS, "distributed.scheduler.allowed-failures", 1)
    with (
        pytest.raises(RunError, match=r"^greedy: 2 workers died of it, .* give workers more memory$"),
        workers.pool("cpu", "greedy", 1) as pool,
    ):
        list(pool.map(os._exit, [Task("greedy", (1,))]))


CLOSED_LATE = """
from distributed.nanny import WorkerProcess

from sdpipe.workers.pool import local_workers


async def kill(*_, **__):
    raise AssertionError("can only join a started process")


if __name__ == "__main__":
    try:
        with local_workers(2, print):
            WorkerProcess.kill = kill
            raise ValueError("it ended")
    except ValueError as error:
        print("seen:", error)
"""


def test_a_worker_that_dask_cannot_end_does_not_hide_what_ended_the_work(shell, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(CLOSED_LATE)
    outcome = shell("late.py", cwd=tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    _, said, seen = outcome.out.splitlines()
    assert said.endswith("ends with this process, not before it (can only join a started process)")
    assert seen == "seen: it ended"


def test_workers_that_do_not_answer_are_no_fault_of_files(workers: Workers) -> None:
    """Told in one line that names the pool: a result that Dask was asked for and could not give in time."""
    with (
        pytest.raises(RunError, match=r"^local: the workers do not answer .*; what is finished is safe; [^\n]*$"),
        workers.pool("cpu", "endless", 1) as pool,
    ):
        pool.client.submit(sum, iter(int, 1)).result(timeout=0.1)


def time_out(path: str) -> None:
    raise TimeoutError(errno.ETIMEDOUT, "Connection timed out", path)


def test_a_file_that_times_out_in_a_task_ends_the_tasks_with_its_name(workers: Workers) -> None:
    with pytest.raises(TimeoutError, match="Connection timed out: 'a/x'"), workers.pool("cpu", "files", 1) as pool:
        list(pool.map(time_out, [Task("read", ("a/x",))]))


def test_what_the_watch_finds_ends_the_tasks(tmp_path: Path) -> None:
    """A task without end is under way when the second look finds something."""
    looks = iter([None, RunError("lost")])

    def watch() -> None:
        if found := next(looks):
            raise found

    with (
        Workers(Cluster(), tmp_path, tmp_path, lambda _: None, watch) as workers,
        pytest.raises(RunError, match=r"^lost$"),
        workers.pool("cpu", "endless", 1) as pool,
    ):
        list(pool.map(sum, [Task("endless", (iter(int, 1),))]))


def listening(pids: list[int]) -> dict[tuple[str, int], int]:
    """Return every address on which these processes listen, and who does."""
    found = {}
    for pid in pids:
        for connection in psutil.Process(pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.ip, connection.laddr.port] = pid
    return found


def family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def check_ports(addresses: dict[tuple[str, int], int], own: str) -> None:
    """Fail where one is reached from other machines without TLS: ``own`` is an address of this machine."""
    for ip, port in addresses:
        if ip == "127.0.0.1":
            continue
        assert ip == own, f"listens on {ip}:{port}"
        with socket.create_connection((own, port), timeout=60) as plain:
            plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert b"HTTP" not in _answer(plain), f"{own}:{port} answers without TLS"
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((own, port), timeout=60) as bare, context.wrap_socket(bare) as secured:
            assert secured.getpeercert(binary_form=True)


def _answer(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except OSError:
        return b""


def test_driver_and_local_workers_listen_on_loopback_only_and_speak_tls(workers: Workers) -> None:
    with workers.pool("cpu", "listen", 2) as pool:
        assert pool.client.scheduler_info()["address"].startswith("tls://127.0.0.1:")
        addresses = listening(family(os.getpid()))
    assert len(set(addresses.values())) >= 2, "driver and workers"
    assert {ip for ip, _ in addresses} == {"127.0.0.1"}


def network() -> tuple[str, str]:
    """Return an interface of this machine that others reach, where it has one, and its address."""
    found = {
        address.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }
    address = max(found, key=lambda address: not address.startswith("127."))
    return found[address], address


@pytest.mark.usefixtures("fake_slurm")
def test_a_slurm_pool_is_reached_from_other_machines_over_tls_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interface, own = network()
    job = f"{{cores: 2, memory: 2GB, interface: {interface}, python: {sys.executable}}}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobqueue.yaml").write_text(f"jobqueue: {{mine: {job}}}")
    with (
        Workers(Cluster(cpu="mine", jobs=1), tmp_path, tmp_path / "tls", lambda _: None) as workers,
        workers.pool("cpu", "listen", 4) as pool,
    ):
        pids = {parent for _, parent in pool.map(os.getppid, [Task(str(i), ()) for i in range(4)])}
        addresses = listening([*family(os.getpid()), *(p for pid in pids for p in family(pid))])
        check_ports(addresses, own)
    assert len(set(addresses.values())) >= 3, "driver, nanny and workers"


SLURM_POOL = "jobqueue: {slurm-gpu: {cores: 4, processes: 2, memory: 4GB}}"


@pytest.mark.parametrize(
    ("overrides", "gpu", "expected"),
    [
        ([], False, 6),
        ([], True, 1),
        (["training.device=cpu"], True, 6),
        (["cluster.gpu=slurm-gpu", "cluster.jobs=1"], False, 2),
        (["cluster.gpu=slurm-gpu", "cluster.jobs=8"], True, 16),
    ],
)
def test_training_is_cut_for_the_workers_of_its_pool_and_not_at_all_for_one_gpu(
    overrides: list[str],
    gpu: bool,
    expected: int,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "jobqueue.yaml").write_text(SLURM_POOL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(pools, "cores", lambda: 3)
    assert trainers(load_config(tiny_config, overrides), tmp_path) == expected
