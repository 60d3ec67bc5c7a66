"""sdpipe: smeared spectral densities from lattice correlators, with a full error budget."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "open_run": "sdpipe.run",
    "predict": "sdpipe.run",
    "read_correlator": "sdpipe.correlators.labelled",
    "error_budget": "sdpipe.infer.budget",
    "integral": "sdpipe.infer.integrals",
}

__all__ = ["__version__", "error_budget", "integral", "open_run", "predict", "read_correlator"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sdpipe' has no attribute {name!r}")
