"""Sphinx makes the site of these pages: sphinx-build -W --keep-going -n docs site

The notebooks are executed, which takes a few minutes the first time. Nothing is fetched, neither when the site is built
nor when it is read. With SDPIPE_INTERSPHINX=1 names of other packages are
links to their documentation, whose inventories then come from the network.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import sdpipe
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

# Notebooks are stored without outputs and executed here; .jupyter_cache keeps the outputs until their code changes.
nb_execution_mode = "cache"
nb_execution_timeout = 900  # seconds of one cell, on a busy machine
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# One file of MathJax, from a package and not from the network.
(_mathjax,) = find_spec("sphinx-mathjax-offline").submodule_search_locations
html_static_path = ["static", str(Path(_mathjax) / "static" / "mathjax" / "tex-svg.js")]
mathjax_path = "tex-svg.js"

html_theme = "pydata_sphinx_theme"
html_title = "sdpipe"
html_show_sourcelink = False
html_search_scorer = str(Path(__file__).with_name("scorer.js"))
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
_FOREIGN = ("Exception", "Mapping", "MutableMapping", "UserDict", "Protocol", "BaseModel", "Handler", "ArgumentParser")
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "inherited-members": ",".join(_FOREIGN),
}
autodoc_typehints = "none"
autodoc_member_order = "bysource"

nitpick_ignore_regex = [
    ("py:.*", r"(numpy|xarray|pandas|matplotlib|torch|pydantic|collections|pathlib|typing)\..*"),
    ("py:.*", r"sdpipe\..*\.(_\w+|<locals>.*)"),
]

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

PACKAGE = Path(sdpipe.__file__).parent

ELSEWHERE = {
    "](../notebooks/README.md)": "](index.md)",
    "](../CONTRIBUTING.md": "](contributing.md",
    "](../CHANGELOG.md": "](changelog.md",
    "](CHANGELOG.md)": "](changelog.md)",
    "](docs/": "](",
}
"""A link of a file in the repository -> the same link in the site."""


def _write_modules(path: Path) -> None:
    """Write the page of all modules by room, which autosummary then makes a page each of."""
    rooms: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        *room, name = file.relative_to(PACKAGE).with_suffix("").parts
        if name == "__init__" and room:
            rooms.setdefault(room[0], []).append(room[0])
        elif not name.startswith("_") or name == "__main__":
            rooms.setdefault(room[0] if room else "top", []).append(".".join([*room, name]))
    text = "# Modules\n\nThese are all modules of sdpipe by [room](../architecture.md). "
    text += "What is not on the [page of Python](../api.md) may change from one version to the next.\n"
    for room in sorted(rooms, key=lambda room: (room != "top", room)):
        names = "\n".join(f"   sdpipe.{name}" for name in rooms[room])
        text += f"\n## {room}\n\n```{{eval-rst}}\n.. autosummary::\n   :toctree: .\n\n{names}\n```\n"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


_write_modules(Path(__file__).parent / "api" / "modules.md")


def _in_the_site(app: Sphinx, _name: str, source: list[str]) -> None:
    """Take in a file of the repository where a page includes one, and mend links."""
    source[0] = re.sub(r"```\{include\} (\S+)\n```", lambda m: (app.srcdir / m[1]).read_text("utf-8"), source[0])
    for there, here in ELSEWHERE.items():
        source[0] = source[0].replace(there, here)
    notebook = r"\[([^\[\]]+)\]\((?:\.\./notebooks/)?([\w-]+)\.ipynb\)"
    source[0] = re.sub(notebook, r"{doc}`\1 </tutorials/\2>`", source[0])


def _as_rst(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Make reStructuredText of a docstring: headings, formulas as blocks, and |x| as an absolute value."""
    text = "\n".join(lines)
    text = re.sub(r"^([A-Z]\w+)\n-+$", r".. rubric:: \1\n", text, flags=re.MULTILINE)
    text = re.sub(r"\n\n((?: {4}.*\n?|\n)+)", _block, text)
    lines[:] = text.replace("|", r"\|").replace(BAR, "|").split("\n")


def _block(found: re.Match[str]) -> str:
    return f"\n\n::\n\n{found[1]}\n".replace("|", BAR)


def _found(app: Sphinx, env: BuildEnvironment, node: pending_xref, words: nodes.Element) -> nodes.Element | None:
    """Resolve a name that is written short, or imported where it is used, to the one object that is called so."""
    if node.get("refdomain") != "py":
        return None
    objects, parts = env.domains["py"].objects, node["reftarget"].split(".")
    for tail in ("." + ".".join(parts[-count:]) for count in (2, 1)):
        named = [name for name in objects if name.startswith("sdpipe.") and name.endswith(tail)]
        if len(named) == 1:
            entry = objects[named[0]]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, words, named[0])
    return None


def setup(app: Sphinx) -> None:
    """Connect what is changed on the way."""
    app.connect("source-read", _in_the_site)
    app.connect("autodoc-process-docstring", _as_rst)
    app.connect("missing-reference", _found)
