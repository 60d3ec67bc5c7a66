"""What a stage says while it works: everything here goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where stderr is not a terminal."""


def duration(seconds: float) -> str:
    """Return a time as one would say it.

    >>> duration(41.7), duration(200), duration(7300)
    ('42 s', '3 min', '2 h 2 min')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Progress:
    """Bars on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, title: str, total: int, done: int, bars: Bars | None, quiet: bool) -> None:
        self.title, self.total, self.done = title, total, done
        self._bars, self._quiet = bars, quiet
        self._rows: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        self._before, self._begun = done, time.monotonic()
        self._spoken = self._begun
        self._main = bars.add_task(title, total=total, completed=done, note="") if bars else None

    @property
    def seconds(self) -> float:
        """How long this has been going on."""
        return time.monotonic() - self._begun

    def advance(self, note: str = "") -> None:
        """Say that one more task is done."""
        self.done += 1
        if self._bars and self._main is not None:
            self._bars.update(self._main, advance=1, note=note)
            return
        left = self.seconds / (self.done - self._before) * (self.total - self.done)
        remaining = f", {duration(left)} left" if self.done < self.total else ""
        self._line(f"{self.title}: {self.done}/{self.total}  {note}{remaining}", last=self.done == self.total)

    def row(self, name: str, done: int, total: int, note: str) -> None:
        """Show how far the task ``name`` is."""
        if name in self._ended:
            return
        if self._bars:
            if name not in self._rows:
                self._rows[name] = self._bars.add_task(f"  {name}", total=total, note="")
            self._bars.update(self._rows[name], completed=done, note=note)
        else:
            self._line(f"{self.title}: {self.done}/{self.total}  {name}: epoch {done}/{total}, {note}")

    def drop(self, name: str) -> None:
        """Show ``name`` no longer: it has ended, before its last step perhaps. Its messages may still come in."""
        self._ended.add(name)
        if self._bars and name in self._rows:
            self._bars.remove_task(self._rows.pop(name))

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

    def warn(self, text: str) -> None:
        """Print a line that must be read, even when quiet."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

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
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=Terminal(stderr=True)) as bars:
            yield Progress(title, total, done, bars, False)
