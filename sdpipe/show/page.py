"""A self-contained HTML page. Its parts are the macros of ``page.html.j2``, called from Python. Knows no physics.

Every plain string is escaped; only a ``Markup``, which each part is, is taken as HTML.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import jinja2
import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from sdpipe.show.figures import STYLE

_loader = jinja2.FileSystemLoader(Path(__file__).parent)
_environment = jinja2.Environment(loader=_loader, autoescape=True, undefined=jinja2.StrictUndefined)
parts = _environment.get_template("page.html.j2").module
"""The macros ``text``, ``facts``, ``gallery``, ``table`` and ``code``, and ``page`` of all of them."""


class Section(NamedTuple):
    """One part of the page; ``id`` is what the table of contents links to."""

    id: str
    title: str
    blocks: Sequence[Markup]


@mpl.rc_context(STYLE)
def picture(figure: Figure, alt: str) -> Markup:
    """Return a figure as inline SVG, with ``alt`` for those who cannot see it; no two on a page have the same."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg, prefix = buffer.getvalue(), f"p{crc32(alt.encode()):08x}-"
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg[svg.index("<svg") :])
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))


def compose(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the page as one HTML document that needs no other file.

    >>> page = compose("one <two>", "", [Section("a", "A", [parts.text("x < y", "note")])])
    >>> "<h1>one &lt;two&gt;</h1>" in page, '<p class="note">x &lt; y</p>' in page
    (True, True)
    """
    return str(parts.page(title, lead, sections))
