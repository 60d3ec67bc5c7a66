"""What a run is and how far it is, as text and as HTML for a notebook."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path

from sdpipe.config.schema import Config
from sdpipe.disk.layout import Layout
from sdpipe.pipeline import status
from sdpipe.show.tables import table


def _facts(config: Config) -> list[str]:
    c = config
    return [
        f"kernel {c.kernel}, T = {c.lattice.period}, t = {c.lattice.times[0]}..{c.lattice.times[1]}, "
        f"a = {c.lattice.spacing:g} GeV^-1",
        f"sigma = {', '.join(f'{s:g}' for s in c.smearing.sigma)} GeV at {c.energies.count} energies, "
        f"{c.energies.min:g}..{c.energies.max:g} GeV",
        f"{len(c.ensembles)} ensembles ({', '.join(c.ensembles)}) of {c.training.replicas} replicas",
        f"targets: {', '.join(c.targets)}; {c.bootstrap} bootstrap samples",
    ]


def _short(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def _next(config: Config, layout: Layout, stages: list[status.Stage]) -> str:
    stage = status.next_stage(stages)
    if stage:
        return f"sdpipe {stage} {shlex.quote(_short(layout.root))}"
    return f'run.plot.reconstruction("{next(iter(config.targets))}"), or open {_short(layout.report)}'


def as_text(config: Config, layout: Layout) -> str:
    """Return what the run is, the table of its stages, and what to do next."""
    stages = status.survey(config, layout)
    head = [f"sdpipe run '{config.name}' in {_short(layout.root)}", *(f"  {fact}" for fact in _facts(config))]
    return "\n".join([*head, "", table(*status.rows(stages)), "", f"next: {_next(config, layout, stages)}"])


def as_html(config: Config, layout: Layout) -> str:
    """Return the same as HTML; every string of the user's is escaped."""
    stages = status.survey(config, layout)
    header, rows = status.rows(stages)

    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    facts = "".join(f"<li>{escape(fact)}</li>" for fact in _facts(config))
    return (
        f"<div><b>sdpipe run {escape(config.name)}</b> in <code>{escape(_short(layout.root))}</code><ul>{facts}</ul>"
        f"<table><thead>{line(header, 'th')}</thead><tbody>{''.join(line(r, 'td') for r in rows)}</tbody></table>"
        f"<p>next: <code>{escape(_next(config, layout, stages))}</code></p></div>"
    )
