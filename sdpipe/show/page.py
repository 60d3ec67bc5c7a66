"""A self-contained HTML page. Its parts are the macros of ``page.html.j2``, called from Python. Knows no physics.

Every plain string is escaped; only a ``Markup``, which each part is, is taken as HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

_loader = jinja2.FileSystemLoader(Path(__file__).parent)
_environment = jinja2.Environment(loader=_loader, autoescape=True, undefined=jinja2.StrictUndefined)
parts = _environment.get_template("page.html.j2").module
"""The macros ``text``, ``facts``, ``gallery``, ``table`` and ``code``, and ``page`` of all of them."""


class PageSection(NamedTuple):
    """One part of the page; ``id`` is what the table of contents links to."""

    id: str
    title: str
    blocks: Sequence[Markup]


def compose(title: str, lead: str, sections: Sequence[PageSection]) -> str:
    """Return the page as one HTML document that needs no other file.

    >>> page = compose("one <two>", "", [PageSection("a", "A", [parts.text("x < y", "note")])])
    >>> "<h1>one &lt;two&gt;</h1>" in page, '<p class="note">x &lt; y</p>' in page
    (True, True)
    """
    return str(parts.page(title, lead, sections))
