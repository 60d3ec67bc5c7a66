"""Where the networks of a run come from: trained for it, shipped with sdpipe, or none at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

PLACE = Path(str(resources.files("sdpipe"))) / "data"
"""The shipped audience: ``audience.json``, its config and the hash of its networks, and ``audience.npz``, these."""

SMEARINGS = ("gaussian",)
"""Smearings that the shipped networks know."""

KNOWN_KERNELS = ("vector", "periodic", "periodic-odd", "exponential")
"""Kernels that they know."""

AudienceName = Literal["own", "shipped", "none"]


@cache
def manifest() -> dict[str, Any]:
    """Return ``config`` and ``sha256`` of the shipped audience."""
    return json.loads((PLACE / "audience.json").read_text(encoding="utf-8"))


def shipped() -> dict[str, Any]:
    """Return the config of the shipped audience, as plain dicts and lists."""
    return manifest()["config"]


@dataclass(frozen=True)
class Origin:
    """Where networks come from.

    Attributes
    ----------
    trains
        Whether they are trained for the run, on its ``training.zarr``.
    networks
        Whether there are any; otherwise estimators that need no training answer alone.
    served
        Whether they were trained elsewhere, and are made to serve the lattice of the run.
    """

    trains: bool
    networks: bool
    served: bool

    @property
    def sha256(self) -> str | None:
        """The hash of networks from elsewhere."""
        return manifest()["sha256"] if self.served else None

    def fill(self, raw: dict[str, Any]) -> None:
        """Put into a config what it leaves to where the networks come from."""
        if self.served:
            _fill_served(raw)
        elif not self.networks:
            _fill_without_networks(raw)


ORIGINS: dict[str, Origin] = {
    "own": Origin(trains=True, networks=True, served=False),
    "shipped": Origin(trains=False, networks=True, served=True),
    "none": Origin(trains=False, networks=False, served=False),
}
"""By the value of ``training.audience``."""


def fill(raw: dict[str, Any]) -> None:
    """Put into a config what it leaves to its audience."""
    training = raw.get("training")
    name = training.get("audience") if isinstance(training, dict) else None
    if isinstance(name, str) and name in ORIGINS:
        ORIGINS[name].fill(raw)


def _fill_served(raw: dict[str, Any]) -> None:
    """Put in ensembles, references, prior and training of the shipped audience.

    Of ``spectra`` the unit of energy and the thresholds stay, which by default are those of the audience in that unit,
    and that rho >= 0 is known.
    """
    own, spectra = shipped(), raw.get("spectra", {})
    if not isinstance(spectra, dict):
        return
    unit = spectra.get("unit", 1.0)
    raw["ensembles"] = own["ensembles"]
    budget = raw.get("budget", {})
    if isinstance(budget, dict):
        raw["budget"] = budget | {key: own["budget"][key] for key in ("central", "references")}
    raw["training"] = own["training"] | {"audience": "shipped"}
    kept = {key: spectra[key] for key in ("unit", "E0", "positive") if key in spectra}
    raw["spectra"] = own["spectra"] | _thresholds(unit) | kept
    if spectra.get("positive"):
        raw["spectra"]["mixture"] = {
            name: share for name, share in own["spectra"]["mixture"].items() if name != "signed"
        }


def _fill_without_networks(raw: dict[str, Any]) -> None:
    """Put in the prior of the shipped audience where there is none, and the first estimator as the one that answers."""
    spectra, budget, methods = raw.get("spectra", {}), raw.get("budget", {}), raw.get("methods")
    raw["ensembles"] = {}
    if isinstance(spectra, dict):
        raw["spectra"] = shipped()["spectra"] | _thresholds(spectra.get("unit", 1.0)) | spectra
    if isinstance(budget, dict):
        first = methods[0] if isinstance(methods, list) and methods else "linear"
        raw["budget"] = {"central": first} | budget | {"references": {}}


def _thresholds(unit: Any) -> dict[str, Any]:
    """Return the range of thresholds of the shipped prior in a unit of energy; nothing for what is no number."""
    if not isinstance(unit, (int, float)):
        return {}
    return {"E0": [float(f"{unit * E0:.12g}") for E0 in shipped()["spectra"]["E0"]]}
