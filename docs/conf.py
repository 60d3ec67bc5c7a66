"""Sphinx makes the site of these pages: sphinx-build -W --keep-going -n docs site

Nothing is fetched, neither when it is built nor when it is read. With SDPIPE_INTERSPHINX=1 names of other packages are
links to their documentation, whose inventories then come from the network.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

from sdpipe.version import __version__

project, author, copyright = "sdpipe", "the sdpipe developers", "the sdpipe developers"  # noqa: A001
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["tutorials/README.md", "**/.ipynb_checkpoints"]

# Notebooks are stored with their outputs: tests/test_notebooks.py executes them, the site shows them.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# One file of MathJax, from a package and not from the network.
(_mathjax,) = find_spec("sphinx-mathjax-offline").submodule_search_locations
html_static_path = ["static", str(Path(_mathjax) / "static" / "mathjax" / "tex-svg.js")]
mathjax_path = "tex-svg.js"

html_theme = "pydata_sphinx_theme"
html_title = "sdpipe"
html_show_sourcelink = False
html_css_files = ["sdpipe.css"]
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
}

autosummary_generate = True
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_typehints = "none"
autodoc_member_order = "bysource"

nitpick_ignore_regex = [("py:.*", r"(numpy|xarray|pandas|matplotlib|torch|collections|pathlib|typing)\..*")]

_inventories = {
    "python": "https://docs.python.org/3",
    "numpy": "https://numpy.org/doc/stable",
    "xarray": "https://docs.xarray.dev/en/stable",
    "matplotlib": "https://matplotlib.org/stable",
    "dask": "https://docs.dask.org/en/stable",
}
if os.environ.get("SDPIPE_INTERSPHINX"):
    intersphinx_mapping = {name: (address, None) for name, address in _inventories.items()}

BAR = "\0"
"""A | within a formula."""

ELSEWHERE = {
    "](../notebooks/README.md)": "](index.md)",
    "](../CONTRIBUTING.md": "](contributing.md",
    "](../CHANGELOG.md": "](changelog.md",
    "](CHANGELOG.md)": "](changelog.md)",
    "](docs/": "](",
}
"""A link of a file in the repository -> the same link in the site."""


def _in_the_site(app: Sphinx, _name: str, source: list[str]) -> None:
    """Take in a file of the repository where a page includes one, and mend links."""
    source[0] = re.sub(r"```\{include\} (\S+)\n```", lambda m: (app.srcdir / m[1]).read_text("utf-8"), source[0])
    for there, here in ELSEWHERE.items():
        source[0] = source[0].replace(there, here)
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./notebooks/([\w-]+)\.ipynb\)", r"{doc}`\1 <tutorials/\2>`", source[0])


def _as_rst(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Make reStructuredText of a docstring: headings, formulas as blocks, and |x| as an absolute value."""
    text = "\n".join(lines)
    text = re.sub(r"^([A-Z]\w+)\n-+$", r".. rubric:: \1\n", text, flags=re.MULTILINE)
    text = re.sub(r"\n\n((?: {4}.*\n?|\n)+)", _block, text)
    lines[:] = text.replace("|", r"\|").replace(BAR, "|").split("\n")


def _block(found: re.Match[str]) -> str:
    return f"\n\n::\n\n{found[1]}\n".replace("|", BAR)


def setup(app: Sphinx) -> None:
    """Connect what is changed on the way."""
    app.connect("source-read", _in_the_site)
    app.connect("autodoc-process-docstring", _as_rst)
