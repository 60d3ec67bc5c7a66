"""What is done in a run directory, as text, HTML and JSON. Answers at once: pandas is imported for HTML alone."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.filesize import decimal

from sdpipe.config.schema import Config
from sdpipe.disk.layout import Layout
from sdpipe.errors import DamageError, printable
from sdpipe.physics import units

Table = Mapping[str, Sequence[str]]
"""Name -> the cells of a column; a data frame of text is one, too."""


def table(columns: Table) -> str:
    """Return columns two blanks apart, the first aligned to the left, the others to the right.

    >>> print(table({"E": ["0.1", "10.0"], "rho": ["1.25", "3"]}))
    E      rho
    0.1   1.25
    10.0     3
    """
    whole = [[str(name), *cells] for name, cells in columns.items()]
    padded = [[f"{c:{'>' if i else '<'}{max(map(len, cells))}}" for c in cells] for i, cells in enumerate(whole)]
    return "\n".join(map("  ".join, zip(*padded, strict=True)))


def age(seconds: float) -> str:
    """Return how long ago something was.

    >>> age(3.2), age(200), age(7300), age(400_000)
    ('3 s ago', '3 min ago', '2 h ago', '5 d ago')
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def stages_table(survey: Sequence[Any]) -> Table:
    """Return the table of stages: name, state, done of total, unit, bytes, and when they last changed."""
    now = time.time()
    return {
        "stage": [s.name for s in survey],
        "state": [s.state for s in survey],
        "done": [f"{s.done}/{s.total} {s.unit}" for s in survey],
        "size": [decimal(s.bytes) if s.modified else "-" for s in survey],
        "changed": [age(now - s.modified) if s.modified else "-" for s in survey],
    }


def status_text(survey: Sequence[Any], running: list[dict[str, Any]]) -> str:
    """Return the tables that ``sdpipe status`` prints: the stages, and the networks that are in training."""
    now = time.time()
    training = {
        "in training": [r["task"].removeprefix("train-") for r in running],
        "epoch": [f"{r['epoch']}/{r['epochs']}" for r in running],
        "val MAE": [f"{r['val_loss']:.5f}" for r in running],
        "linear MAE": [f"{r['linear_loss']:.5f}" for r in running],
        "noted": [age(now - r["modified"]) for r in running],
    }
    return "\n\n".join([table(stages_table(survey)), *([table(training)] if running else [])])


def status_json(
    name: str,
    root: str,
    survey: Iterable[Any],
    running: list[dict[str, Any]],
    command: str | None,
    damaged: list[DamageError] | None,
) -> str:
    """Return the same as JSON: ``name``, ``run``, ``stages``, ``training``, and the ``next`` command or null.

    ``damaged`` lists each damaged ``file`` and ``what`` is wrong with it, or is null where the bytes were not read.
    """

    def iso(seconds: float | None) -> str | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

    facts = {
        "name": name,
        "run": root,
        "stages": [{**vars(s), "modified": iso(s.modified)} for s in survey],
        "training": [{**r, "modified": iso(r["modified"])} for r in running],
        "damaged": None if damaged is None else [{"file": str(e.file), "what": e.what} for e in damaged],
        "next": command,
    }
    return json.dumps(facts, indent=2)


def _facts(config: Config) -> list[str]:
    c = config
    return [
        f"kernel {c.kernel}, t = {c.lattice.times[0]}..{c.lattice.times[1]}, {c.kernel_function.lattice}",
        f"sigma = {', '.join(f'{s:g}' for s in c.smearing.sigma)} at {c.energies.count} energies, "
        f"{units.amount(f'{c.energies.min:g}..{c.energies.max:g}', c.kernel_function.unit)}",
        f"{len(c.ensembles)} ensembles ({', '.join(c.ensembles)}) of {c.training.replicas} replicas",
        f"targets: {', '.join(c.targets)}; {c.bootstrap} bootstrap samples",
    ]


def _short(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def _next(config: Config, layout: Layout, stage: str | None) -> str:
    if stage:
        return f"sdpipe {stage} {shlex.quote(_short(layout.root))}"
    return f'run.plot.reconstruction("{next(iter(config.targets))}"), or open {_short(layout.report)}'


def run_as_text(config: Config, layout: Layout, stages: Table, stage: str | None) -> str:
    """Return what a run is, the table of its stages, and what to do next: ``stage``, or None where all is done.

    Escape sequences in the names of files are written out, since Python shows this as it is.
    """
    head = [f"sdpipe run '{config.name}' in {_short(layout.root)}", *(f"  {fact}" for fact in _facts(config))]
    return printable("\n".join([*head, "", table(stages), "", f"next: {_next(config, layout, stage)}"]), keep="\n")


def run_as_html(config: Config, layout: Layout, stages: Table, stage: str | None) -> str:
    """Return the same as HTML; every string of the user's is escaped."""
    import pandas as pd

    facts = Markup().join(Markup("<li>{}</li>").format(fact) for fact in _facts(config))
    words = "<div><b>sdpipe run {}</b> in <code>{}</code><ul>{}</ul>{}<p>next: <code>{}</code></p></div>"
    rows = Markup(pd.DataFrame(stages).to_html(index=False, border=0))
    return Markup(words).format(config.name, _short(layout.root), facts, rows, _next(config, layout, stage))
