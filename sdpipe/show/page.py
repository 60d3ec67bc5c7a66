"""A self-contained HTML page made of sections, and sections made of blocks. Knows no physics.

Every plain string is escaped; only a ``Markup`` is taken as HTML.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import jinja2
import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from sdpipe.show import figures

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Text:
    """A paragraph; ``style`` is empty, ``note`` (small) or ``flag`` (a warning that catches the eye)."""

    text: str
    style: str = ""
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a value."""

    rows: Sequence[tuple[str, str]]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Picture:
    """A figure, with words in place of it for those who cannot see it."""

    figure: Figure
    alt: str
    kind: str = field(default="picture", init=False)


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side where there is room, and what they have in common as a caption."""

    pictures: Sequence[Picture]
    caption: str = ""
    kind: str = field(default="gallery", init=False)


@dataclass(frozen=True)
class Table:
    """Rows under a header; a click or Enter on a heading sorts. ``folded`` tables open on a click."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Code:
    """Text to copy; with a ``file`` name, it can be saved too."""

    text: str
    file: str = ""
    kind: str = field(default="code", init=False)


Block = Text | Facts | Gallery | Table | Code


@dataclass(frozen=True)
class Section:
    """One part of the page; ``id`` is what the table of contents links to."""

    id: str
    title: str
    blocks: Sequence[Block]


def svg(picture: Picture, prefix: str) -> Markup:
    """Return a picture as inline SVG, its ids made unique by ``prefix``, its words for screen readers."""
    buffer = io.StringIO()
    with mpl.rc_context(figures.STYLE):
        picture.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", text[text.index("<svg") :])
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(picture.alt)}" ', 1))


def compose(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the page as one HTML document that needs no other file."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    numbers = count()
    environment.filters["svg"] = lambda picture: svg(picture, f"p{next(numbers)}-")
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, lead=lead, sections=sections)
