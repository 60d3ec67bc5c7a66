"""report.html: one self-contained page of a run."""

from __future__ import annotations

import io
import platform
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import xarray as xr
from markupsafe import Markup
from matplotlib.figure import Figure

from sdpipe import __version__, figures, store, tables
from sdpipe.config import Config, to_yaml
from sdpipe.layout import Layout

PACKAGES = ("numpy", "torch", "xarray", "zarr", "dask", "distributed")
TEMPLATE = Path(__file__).with_name("report.html.j2")


def svg(figure: Figure) -> Markup:
    """Return a figure as inline SVG, without the XML prologue."""
    buffer = io.StringIO()
    with mpl.rc_context(figures.STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def _target(name: str, budget: xr.Dataset, config: Config) -> dict[str, Any]:
    section = config.targets[name]
    return {
        "name": name,
        "kind": section.kind,
        "known": "truth" in budget,
        "reconstruction": svg(figures.panels(figures.reconstruction, budget)),
        "budget": svg(figures.panels(figures.by_source, budget)),
        "tables": [
            {"sigma": f"{s:g}", "header": h, "rows": r}
            for s in budget.sigma.values
            for h, r in [tables.budget_rows(budget.sel(sigma=s))]
        ],
    }


def render(config: Config, layout: Layout) -> str:
    """Return the page; every string of the user's is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    history = store.read(layout.history).load()
    header, rows = tables.training_table(history)
    stores = {
        name: store.read_attributes(path)
        for name, path in (("training.zarr", layout.training), ("history.zarr", layout.history))
        if path.exists()
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=config.name,
        version=__version__,
        config=config,
        config_text=to_yaml(config),
        command=f"python -m sdpipe run config.yaml --run {shlex.quote(layout.root.name)}",
        targets=[_target(t, store.read(layout.budget / t).load(), config) for t in config.targets],
        history=svg(figures.panels(figures.histories, history)),
        training={"header": header, "rows": rows},
        stores=stores,
        packages={"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    )
