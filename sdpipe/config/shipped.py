"""The audience that comes with sdpipe: the config that it was made from, and what a config that uses it takes from it.

Its networks are read by :mod:`sdpipe.learn.shipped`.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

PLACE = Path(str(resources.files("sdpipe"))) / "data"
"""Where it lies: ``audience.json``, its config and the hash of its networks, and ``audience.pt``, these."""


@cache
def manifest() -> dict[str, Any]:
    """Return ``config`` and ``sha256`` of the shipped audience."""
    return json.loads((PLACE / "audience.json").read_text(encoding="utf-8"))


def shipped() -> dict[str, Any]:
    """Return the config of the shipped audience, as plain dicts and lists."""
    return manifest()["config"]


def fill(raw: dict[str, Any]) -> None:
    """Put what belongs to the shipped audience into a config that asks for it: ensembles, references, prior, training.

    Of ``spectra`` the unit of energy stays; thresholds are those of the audience in that unit.
    """
    training, spectra = raw.get("training"), raw.get("spectra", {})
    if not (isinstance(training, dict) and training.get("audience") == "shipped" and isinstance(spectra, dict)):
        return
    own, unit = shipped(), spectra.get("unit", 1.0)
    raw["ensembles"] = own["ensembles"]
    if isinstance(budget := raw.get("budget", {}), dict):
        raw["budget"] = budget | {key: own["budget"][key] for key in ("central", "references")}
    raw["training"] = own["training"] | {"audience": "shipped"}
    raw["spectra"] = own["spectra"] | {"unit": unit}
    if isinstance(unit, (int, float)):
        raw["spectra"]["E0"] = [float(f"{unit * E0:.12g}") for E0 in own["spectra"]["E0"]]
