"""sdpipe: smeared spectral densities from lattice correlators, with a full error budget.

>>> import sdpipe
>>> print(*dir(sdpipe))
__version__ combine error_budget integral joint judge open_run predict read_correlator reconstruct smeared
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdpipe.version import __version__

if TYPE_CHECKING:
    from sdpipe.analysis.beside import smeared
    from sdpipe.analysis.joint import joint
    from sdpipe.correlators.correlator import read_correlator
    from sdpipe.infer.budget import error_budget
    from sdpipe.infer.integrals import integral
    from sdpipe.new_data import judge, predict
    from sdpipe.run import open_run, reconstruct
    from sdpipe.several import combine

__all__ = [
    "__version__",
    "combine",
    "error_budget",
    "integral",
    "joint",
    "judge",
    "open_run",
    "predict",
    "read_correlator",
    "reconstruct",
    "smeared",
]

_HOMES = {
    "combine": "several",
    "error_budget": "infer.budget",
    "integral": "infer.integrals",
    "joint": "analysis.joint",
    "judge": "new_data",
    "open_run": "run",
    "predict": "new_data",
    "read_correlator": "correlators.correlator",
    "reconstruct": "run",
    "smeared": "analysis.beside",
}
"""Public name -> its module, imported once somebody asks for it."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"sdpipe.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sdpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
