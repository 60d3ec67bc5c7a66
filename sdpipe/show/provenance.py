"""Where a run comes from: versions, seeds, hashes, timings, and the command that makes it again."""

from __future__ import annotations

import hashlib
import platform
import shlex
from importlib.metadata import version
from itertools import product
from pathlib import Path

from sdpipe import __version__
from sdpipe.config import problem
from sdpipe.config.schema import Config, to_yaml
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.show.page import Code, Facts, Section, Table, Text

PACKAGES = ("numpy", "scipy", "torch", "xarray", "zarr", "dask", "distributed", "matplotlib")
SHOWN = 16
"""Hexadecimal digits of a hash."""


def section(config: Config, layout: Layout) -> Section:
    """Return versions, seed, hashes of data files, timings, stores and networks."""
    packages = {"sdpipe": __version__, "python": platform.python_version(), **{p: version(p) for p in PACKAGES}}
    facts = [
        ("Seed", str(config.seed)),
        ("Written with", ", ".join(f"{name} {number}" for name, number in packages.items())),
    ]
    for where, part in {"noise": config.noise, **config.targets}.items():
        if path := getattr(part, "path", None):
            facts.append((f"Data of {where}", f"{path}, {_sha256(path)}"))
    return Section(
        "provenance", "Provenance", [Facts(facts), _timings(layout), _stores(config, layout), _networks(config, layout)]
    )


def _sha256(path: Path) -> str:
    if not path.is_file():
        return "a directory" if path.is_dir() else "no longer there"
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:SHOWN]}"


def _timings(layout: Layout) -> Table:
    sittings, rows = layout.sittings(), []
    for stage in dict.fromkeys(s["stage"] for s in sittings):
        ours = [s for s in sittings if s["stage"] == stage]
        seconds = sum(s["seconds"] for s in ours)
        rows.append([stage, f"{seconds:.1f}", str(len(ours)), ours[-1]["begun"], ours[-1]["host"]])
    return Table("Time taken", ["stage", "seconds", "sittings", "last begun", "host"], rows)


def _stores(config: Config, layout: Layout) -> Table:
    paths = [layout.training, layout.history, layout.validation]
    paths += [root / name for root in (layout.predictions, layout.budget) for name in config.targets]
    keys = ["created", "config_hash", "seed", "sdpipe_version", "numpy_version"]
    rows = []
    for path in paths:
        if path.exists():
            attrs = store.read_attributes(path)
            rows.append([layout.relative(path), *(str(attrs[k]) for k in keys)])
    return Table("Stores", ["store", "created", "inputs", "seed", "sdpipe", "numpy"], rows, folded=True)


def _networks(config: Config, layout: Layout) -> Table:
    rows = []
    for name in config.ensembles:
        markers = layout.markers("train", problem.network_hash(config, name))
        for i, replica in product(range(len(config.smearing.sigma)), range(config.training.replicas)):
            file = layout.network(name, i, replica).stem
            if facts := markers.facts(file):
                losses = [f"{facts[k]:.5f}" for k in ("val_loss", "linear_loss")]
                rows.append([file, facts["config_hash"], facts["sha256"][:SHOWN], *losses])
    return Table("Networks", ["network", "inputs", "sha256", "val MAE", "linear MAE"], rows, folded=True)


def recipe(config: Config, layout: Layout) -> Section:
    """Return the command that makes the run again, and the config that it needs."""
    command = f"python -m sdpipe run config.yaml --run {shlex.quote(layout.root.name)}"
    words = (
        f"With sdpipe {__version__}, save this config and run the command below it. Samples come out the same to the "
        "last bit on any number of workers, networks up to the rounding of single precision."
    )
    blocks = [Text(words), Code(to_yaml(config), "config.yaml"), Code(command)]
    return Section("reproduce", "How to reproduce", blocks)
