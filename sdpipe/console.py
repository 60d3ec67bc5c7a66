"""What a stage says while it works: everything here goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where stderr is not a terminal."""


class Progress:
    """Bars on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, title: str, total: int, done: int, bars: Bars | None, quiet: bool) -> None:
        self.title, self.total, self.done = title, total, done
        self._bars, self._quiet = bars, quiet
        self._rows: dict[str, TaskID] = {}
        self._spoken = time.monotonic()
        self._main = bars.add_task(title, total=total, completed=done, note="") if bars else None

    def advance(self, note: str = "") -> None:
        """Say that one more task is done."""
        self.done += 1
        if self._bars and self._main is not None:
            self._bars.update(self._main, advance=1, note=note)
        else:
            self._line(f"{self.title}: {self.done}/{self.total} {note}", last=self.done == self.total)

    def row(self, name: str, done: int, total: int, note: str) -> None:
        """Show how far the task ``name`` is."""
        if self._bars:
            if name not in self._rows:
                self._rows[name] = self._bars.add_task(f"  {name}", total=total, note="")
            self._bars.update(self._rows[name], completed=done, note=note, visible=done < total)
        else:
            self._line(f"{name}: {done}/{total} {note}")

    def _line(self, text: str, last: bool = False) -> None:
        now = time.monotonic()
        if not self._quiet and (last or now - self._spoken >= PLAIN_INTERVAL):
            print(text.rstrip(), file=sys.stderr, flush=True)
            self._spoken = now


class Console:
    """Messages at three levels: quiet, normal, verbose."""

    def __init__(self, level: int = 0) -> None:
        self.level = level

    def say(self, text: str) -> None:
        """Print a line, unless quiet."""
        if self.level >= 0:
            print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Print a line when verbose."""
        if self.level > 0:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, title: str, total: int, left: int | None = None) -> Iterator[Progress]:
        """Show the progress of ``total`` tasks, of which ``left`` (default: all) are still to do."""
        done = 0 if left is None else total - left
        if self.level < 0 or not sys.stderr.isatty():
            yield Progress(title, total, done, None, self.level < 0)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=Terminal(stderr=True)) as bars:
            yield Progress(title, total, done, bars, False)
