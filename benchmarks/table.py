"""Rows of results: what was measured, the baseline of the same run, the limit, and where."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from sdpipe.show.run_status import table


@dataclass(frozen=True)
class Limit:
    """What ``ours`` or ``ratio`` must be at least, or at most."""

    of: str
    sign: str
    value: float

    def __str__(self) -> str:
        return f"{'' if self.of == 'ours' else self.of + ' '}{self.sign} {self.value:,.6g}"

    def holds(self, value: float) -> bool:
        """Return whether ``value`` keeps the limit."""
        return value >= self.value if self.sign == "≥" else value <= self.value


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ratio`` is how many times better ours is than the baseline, where there is one.

    ``smaller`` says that smaller numbers are better; ``note`` says what the numbers mean.
    """

    what: str
    ours: float
    unit: str
    baseline: float | None = None
    limits: tuple[Limit, ...] = ()
    smaller: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.baseline is None:
            return None
        return self.baseline / self.ours if self.smaller else self.ours / self.baseline

    @property
    def kept(self) -> bool | None:
        """Whether every limit is kept; None where there is none."""
        if not self.limits:
            return None
        return all(limit.holds(getattr(self, limit.of)) for limit in self.limits)


def machine() -> str:
    """Return processor, cores, and the load of the machine now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = (names or [platform.processor() or platform.machine()])[0].replace("(R)", "").replace("Processor ", "")
    return f"{len(os.sched_getaffinity(0))} x {name}, load {os.getloadavg()[0]:.1f}"


def number(value: float | None) -> str:
    """Return three digits, or all before the point with separators; nothing for None and NaN.

    >>> number(0.66), number(99.97), number(1234.5), number(0.0), number(3e267), number(None)
    ('0.660', '100', '1,234', '0', '3.00e+267', '')
    """
    if value is None or isnan(value):
        return ""
    return f"{value:,.0f}" if value == 0 or 99.95 <= abs(value) < 1e9 else f"{value:#.3g}"


def show(rows: list[Row], where: str) -> str:
    """Return the table."""
    header = ["what", "ours", "baseline", "ratio", "limit", "kept", "machine"]
    lines = []
    for r in rows:
        kept = {None: "", True: "yes", False: "NO"}[r.kept]
        limits = ", ".join(map(str, r.limits))
        ours = f"{number(r.ours)} {r.unit}"
        lines.append([r.what, ours, number(r.baseline), number(r.ratio), limits, kept, where])
    notes = [f"{r.what}: {r.note}" for r in rows if r.note]
    return "\n".join([table(pd.DataFrame(lines, columns=header)), *notes])


def markdown(frame: pd.DataFrame) -> str:
    r"""Return the table in Markdown: its index, then its columns: whole numbers, or three digits; nothing for NaN.

    >>> print(markdown(pd.DataFrame({"|error|": [0.01234]}, index=pd.Index(["a"], name="target"))))
    | target | \|error\| |
    |---|---|
    | a | 0.0123 |
    """
    names = [str(name).replace("|", r"\|") for name in (*frame.index.names, *frame.columns)]
    keys = zip(*(index if isinstance(index, tuple) else (index,) for index in frame.index), strict=True)
    columns = [[str(key) for key in level] for level in keys]
    for column in frame:
        values = frame[column].to_numpy(float, na_value=nan)
        whole = all(isnan(x) or (x.is_integer() and abs(x) < 1e9) for x in values)
        columns.append([f"{x:,.0f}" if whole and not isnan(x) else number(x) for x in values])
    head, *rows = (f"| {' | '.join(cells)} |" for cells in (names, *zip(*columns, strict=True)))
    return "\n".join([head, f"{'|---' * len(names)}|", *rows])


def as_json(rows: list[Row], where: str) -> list[dict[str, Any]]:
    """Return rows as plain data."""
    return [{**asdict(r), "ratio": r.ratio, "kept": r.kept, "machine": where} for r in rows]


def processor_seconds(function: Callable[[], object]) -> float:
    """Return the processor time of one call: what it costs a core, whatever else the machine does."""
    begun = time.process_time()
    function()
    return time.process_time() - begun


def wall_seconds(function: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def turn_by_turn(
    functions: dict[str, Callable[[], object]],
    rounds: int = 7,
    clock: Callable[[Callable[[], object]], float] = processor_seconds,
) -> dict[str, float]:
    """Return the median seconds of each function; they take turns, so that a busy machine slows all alike.

    A first round warms up and does not count.
    """
    for function in functions.values():
        function()
    times = [{name: clock(function) for name, function in functions.items()} for _ in range(rounds)]
    return {name: median(t[name] for t in times) for name in functions}
