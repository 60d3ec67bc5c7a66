"""Progress: bars on a terminal, plain lines elsewhere; the dashboard answers while a pool is up."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import psutil
import pytest

from sdpipe.show import console
from sdpipe.show.console import Console
from sdpipe.workers import pools

if TYPE_CHECKING:
    from tests.conftest import Outcome

Cli = Callable[..., "Outcome"]

WIDTH = 80
"""Columns of the terminal: the least that one has."""


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Put a terminal in place of stderr; when it closes, the list holds what was written, uncoloured."""
    reader, writer = os.openpty()
    pieces, written = [], []

    def drain() -> None:
        try:
            while piece := os.read(reader, 65536):
                pieces.append(piece)
        except OSError:  # the other end is closed
            return

    thread = threading.Thread(target=drain)
    thread.start()
    with os.fdopen(writer, "w", buffering=1) as file, monkeypatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.setenv("COLUMNS", str(WIDTH))
        patch.setattr(sys, "stderr", file)
        yield written
    thread.join()
    os.close(reader)
    written.append(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(pieces).decode()))


# --- plain lines ---------------------------------------------------------------------------------------------


def test_plain_lines_say_how_fast_how_far_and_how_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    with Console().progress("generate", 4, left=2) as progress:
        progress.advance("80,000 samples/s")
        progress.row("Nmax-0.44-r0", 3, 20, "val 0.01, linear 0.02")
        progress.drop("Nmax-0.44-r0")
        progress.advance("81,000 samples/s")
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"generate: 3/4  80,000 samples/s, \d+ s left", lines[0])
    assert lines[1:] == [
        "generate: 3/4  Nmax-0.44-r0: epoch 3/20, val 0.01, linear 0.02",
        "generate: 4/4  81,000 samples/s",
    ]


def test_plain_lines_are_seconds_apart_but_the_last_is_always_there(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress("generate", 100) as progress:
        for _ in range(100):
            progress.advance()
    assert capsys.readouterr().err.splitlines() == ["generate: 100/100"]


def test_quiet_says_nothing_on_a_terminal_either(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as written:
        with Console(-1).progress("generate", 1) as progress:
            progress.advance()
        Console(-1).say("done")
    assert written == [""]


# --- bars ----------------------------------------------------------------------------------------------------


def test_bars_show_every_network_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as written, Console().progress("train", 2) as progress:
        progress.row("Nref_rho-0.44-r0", 3, 20, "val 0.01000, linear 0.02000")
        progress.row("Nref_rho-0.44-r1", 4, 20, "val 0.03000, linear 0.02000")
        progress.drop("Nref_rho-0.44-r0")
        progress.row("Nref_rho-0.44-r0", 5, 20, "a message that was late")
        progress.advance("train-Nref_rho-0.44-r0-1")
    last = written[0][written[0].rindex("\rtrain ") :]
    assert re.search(r"Nref_rho-0\.44-r1 .* 4/20 -:--:-- val 0\.03000, linear 0\.02000", last)
    assert re.search(r"train  +━.* 1/2 ", last)
    assert "Nref_rho-0.44-r0 " not in last


def test_generate_and_train_draw_bars(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tiny_config: Path, tmp_path: Path
) -> None:
    with terminal(monkeypatch) as written:
        for stage in ("generate", "train"):
            assert cli(stage, tiny_config, "--run", tmp_path / "run", "training.epochs=1").status == 0
    assert re.search(r"generate +━.* 6/6 .* [\d,]+ samples/s", written[0])
    assert re.search(r"train +━.* 6/6 .* train-N", written[0])


# --- the dashboard -------------------------------------------------------------------------------------------


def test_the_dashboard_is_announced_and_its_status_page_loads(tmp_path: Path) -> None:
    said: list[str] = []
    with pools.local_pool(1, tmp_path / "logs" / "dask.html", said.append) as pool:
        assert list(pool.map(len, [pools.Task("count", ([1, 2, 3],))])) == [("count", 3)]
        address = re.match(r"dashboard: (http://127\.0\.0\.1:(\d+)/status)  ", said[0])
        assert address
        assert f"ssh -N -L {address[2]}:127.0.0.1:{address[2]} " in said[0]
        with urlopen(address[1], timeout=60) as answer:
            assert answer.status == 200
            page = answer.read().decode()
    assert "<title>Dask Diagnostic UI</title>" in page
    assert "bokeh" in page
    assert "Dask Performance Report" in (tmp_path / "logs" / "dask.html").read_text()


def test_stages_that_want_as_many_workers_share_them(tmp_path: Path) -> None:
    said: list[str] = []
    pids = []
    with pools.LocalMachine(said.append) as machine:
        for stage in ("generate", "train"):
            with machine.pool(1, tmp_path / "logs" / f"{stage}.html") as pool:
                pids += [pid for _, pid in pool.map(os.getpid, [pools.Task("pid", ())])]
    assert pids[0] == pids[1] != os.getpid()
    assert len(said) == 1
    assert not psutil.pid_exists(pids[0])
    assert len(list((tmp_path / "logs").iterdir())) == 2
