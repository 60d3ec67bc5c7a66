"""What a command says goes to stderr, by its level; progress is bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdpipe.show import console
from sdpipe.show.console import listen, log, progress

if TYPE_CHECKING:
    from tests.fixtures import Outcome

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


def test_messages_are_heard_by_their_level_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for level, heard in ((-1, "warning: w\n"), (0, "said\nwarning: w\n"), (1, "said\nwarning: w\ndetail\n")):
        listen(level)
        log.info("said")
        log.warning("w")
        log.debug("detail")
        assert capsys.readouterr() == ("", heard)


def test_plain_lines_say_how_fast_how_far_and_how_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    listen(0)
    with progress("generate", 4, left=2) as shown:
        shown.advance("80,000 samples/s")
        shown.row("Nmax-0.44-r0", 3, 20, "val 0.01, linear 0.02")
        shown.drop("Nmax-0.44-r0")
        shown.advance("81,000 samples/s")
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"generate: 3/4  80,000 samples/s, \d+ s left", lines[0])
    assert lines[1:] == [
        "generate: 3/4  Nmax-0.44-r0: epoch 3/20, val 0.01, linear 0.02",
        "generate: 4/4  81,000 samples/s",
    ]


def test_plain_lines_are_seconds_apart_but_the_last_is_always_there(capsys: pytest.CaptureFixture[str]) -> None:
    listen(0)
    with progress("generate", 100) as shown:
        for _ in range(100):
            shown.advance()
    assert capsys.readouterr().err.splitlines() == ["generate: 100/100"]


def test_quiet_says_nothing_on_a_terminal_either(monkeypatch: pytest.MonkeyPatch) -> None:
    listen(-1)
    with terminal(monkeypatch) as written, progress("generate", 1) as shown:
        shown.advance()
    assert written == [""]


def test_bars_show_every_network_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    listen(0)
    with terminal(monkeypatch) as written, progress("train", 2) as shown:
        log.warning("above the bars")
        shown.row("Nref_rho-0.44-r0", 3, 20, "val 0.01000, linear 0.02000")
        shown.row("Nref_rho-0.44-r1", 4, 20, "val 0.03000, linear 0.02000")
        shown.drop("Nref_rho-0.44-r0")
        shown.row("Nref_rho-0.44-r0", 5, 20, "a message that was late")
        shown.advance("train-Nref_rho-0.44-r0+1")
    assert "warning: above the bars\r\n" in written[0]
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
    assert re.search(r"train +━.* 12/12 .* train-N", written[0])
