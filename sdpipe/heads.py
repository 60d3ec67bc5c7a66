"""What a checkpoint says about itself, read without PyTorch, and without running what the file holds."""

from __future__ import annotations

import pickletools
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

from sdpipe.layout import Layout
from sdpipe.store import SCHEMA, another_schema

MARKS = ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT")
FIRST = 40
"""Operations of the pickle within which the first keys are."""


def head(path: Path) -> dict[str, Any]:
    """Return ``schema`` and ``sdpipe_version`` of a checkpoint, as far as they are there and can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            steps = islice(pickletools.genops(archive.read(name)), FIRST)
            values = [argument for step, argument, _ in steps if step.name not in MARKS and argument is not None]
    except Exception:  # what is damaged is found, and named, by those who read all of it
        return {}
    return {key: values[values.index(key) + 1] for key in ("schema", "sdpipe_version") if key in values[:-1]}


def check(layout: Layout) -> None:
    """Raise UserError where a network was written with another schema, which this version must not touch."""
    for path in sorted(layout.networks.glob("*.pt")):
        if (found := head(path)).get("schema", SCHEMA) != SCHEMA:
            raise another_schema(path, found)
