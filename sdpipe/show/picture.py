"""A figure with a name and with words for those who cannot see it: as a file, and on the page. Knows no physics."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from sdpipe.disk import files

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

FONTS = ("DejaVu Sans", "Verdana")
"""Figures are laid out in the first, which matplotlib brings. The second has its widths; where a browser has neither,
nearly every other font is narrower, so that nothing overlaps."""

STYLE = {
    "font.size": 10,
    "font.sans-serif": FONTS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "legend.frameon": False,
    "axes.titley": 1.0,
    "axes.formatter.limits": (-3, 4),
    "svg.fonttype": "none",  # text stays text: it can be searched for, and a page of pictures is a third smaller
    "svg.hashsalt": "sdpipe",
}

REFERENCES = re.compile(r'(\bid="|href="#|url\(#)')
"""What stands before each id in an SVG of matplotlib."""

ONE_FONT = re.compile(rf"font-family: '{FONTS[0]}'(?=[;\"])")
"""Matplotlib names no other font for the symbols of a formula."""


class Picture(NamedTuple):
    """A figure, the stem of its file, and what it shows in words."""

    name: str
    figure: Figure
    words: str


@mpl.rc_context(STYLE)
def as_svg(picture: Picture) -> str:
    """Return a picture as SVG whose accessible name are its words; no two of a run share an id.

    The same picture gives the same text each time.
    """
    buffer = io.StringIO()
    picture.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = REFERENCES.sub(rf"\g<1>p{crc32(picture.name.encode()):08x}-", buffer.getvalue())
    svg = ONE_FONT.sub(f"font-family: '{FONTS[0]}', '{FONTS[1]}', sans-serif", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(picture.words)}" ', 1)


def write(picture: Picture, directory: Path) -> Path:
    """Write a picture as SVG in one step and return its path."""
    path = directory / f"{picture.name}.svg"
    files.write_text(path, as_svg(picture))
    return path


def embedded(svg: str) -> Markup:
    """Return what :func:`write` wrote as a part of a page, without the head that only a file has."""
    return Markup(svg[svg.index("<svg") :])


@mpl.rc_context(STYLE)
def save(figure: Figure, path: Path) -> Path:
    """Write a figure in one step as its path ends, such as .png or .pdf, and return the path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150)
    files.write_bytes(path, buffer.getvalue())
    return path
