"""What a command says while it works, all on stderr: messages of the logger ``sdpipe``, and how far a stage is."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from sdpipe.errors import printable

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where stderr is not a terminal."""

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(bar_width=12),
    MofNCompleteColumn(),
    TimeRemainingColumn(elapsed_when_finished=True),
    TextColumn("{task.fields[note]}"),
)

log = logging.getLogger("sdpipe")


class _Stderr(logging.Handler):
    """Print messages to what ``sys.stderr`` is at that time, which on a terminal puts them above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        say(f"{prefix}{record.getMessage()}", sys.stderr)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines, by default to stdout, as :func:`sdpipe.errors.printable` makes them for its encoding."""
    stream = stream or sys.stdout
    print(printable(text, stream.encoding or "utf-8", keep="\n\t"), file=stream, flush=True)


def listen(level: int) -> None:
    """Print messages: warnings only where ``level`` is below 0, details as well where it is above."""
    log.setLevel(logging.INFO if level == 0 else logging.DEBUG if level > 0 else logging.WARNING)
    log.propagate = False
    log.handlers = [_Stderr()]


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

    def __init__(self, title: str, total: int, done: int, bars: Bars) -> None:
        self.title, self.total, self.done = title, total, done
        self._bars, self._before = bars, done
        self._rows: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        self._begun = self._spoken = time.monotonic()
        self._main = bars.add_task(title, total=total, completed=done, note="")

    @property
    def seconds(self) -> float:
        """How long this has been going on."""
        return time.monotonic() - self._begun

    def advance(self, note: str = "", count: int = 1) -> None:
        """Say that so many more are done."""
        self.done += count
        self._bars.update(self._main, advance=count, note=note)
        left = self.seconds / (self.done - self._before) * (self.total - self.done)
        self._line(f"{note}, {duration(left)} left" if self.done < self.total else note, last=self.done == self.total)

    def row(self, name: str, done: int, total: int, note: str) -> None:
        """Show how far the task ``name`` is."""
        if name in self._ended:
            return
        if name not in self._rows:
            self._rows[name] = self._bars.add_task(f"  {name}", total=total, note="")
        self._bars.update(self._rows[name], completed=done, note=note)
        self._line(f"{name}: epoch {done}/{total}, {note}")

    def drop(self, name: str) -> None:
        """Show ``name`` no longer: it has ended, before its last step perhaps. Its messages may still come in."""
        self._ended.add(name)
        if name in self._rows:
            self._bars.remove_task(self._rows.pop(name))

    def _line(self, text: str, last: bool = False) -> None:
        now = time.monotonic()
        if self._bars.disable and (last or now - self._spoken >= PLAIN_INTERVAL):
            log.info(f"{self.title}: {self.done}/{self.total}  {text}".rstrip())
            self._spoken = now


@contextmanager
def progress(title: str, total: int, left: int | None = None) -> Iterator[Progress]:
    """Show the progress of ``total`` tasks, of which ``left`` (default: all) are still to do."""
    drawn = log.isEnabledFor(logging.INFO) and sys.stderr.isatty()
    bars = Bars(*COLUMNS, console=Console(stderr=True), disable=not drawn)
    with bars if drawn else nullcontext():
        yield Progress(title, total, 0 if left is None else total - left, bars)
