"""Every way from C(t) to rho_sigma(E): the estimators beside the networks, and intervals that need no prior.

Each is one file here and one line in a table below; config, prediction, validation, calibration, comparison, figures
and tables read the tables. A config is read in a fraction of a second: a class is imported when it is first asked for.
"""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

MOST_TIMES = 256
"""Time slices that a posterior can have: it holds a matrix of them for each of its components."""


class Registry(UserDict[str, Any]):
    """Name -> class. One that is given as ``module:Class`` of this room is imported when it is first asked for.

    >>> ESTIMATORS["linear"].__name__, list(ESTIMATORS)
    ('Linear', ['linear', 'posterior', 'hlt', 'positive'])
    """

    def __getitem__(self, name: str) -> Any:
        """Return the class of a name."""
        entry = self.data[name]
        if not isinstance(entry, str):
            return entry
        module, _, kind = entry.partition(":")
        return getattr(import_module(f"{__name__}.{module}"), kind)


ESTIMATORS = Registry(
    linear="linear:Linear",
    posterior="posterior:ClosedForm",
    hlt="hlt:HLTEstimator",
    positive="positive:MostProbable",
)
"""Name of a method -> what gives a value with an error: an :class:`~sdpipe.estimators.protocol.Estimator`."""

INTERVALS = Registry(bounds="bounds:StrictBounds")
"""Name of a method -> what gives bounds without a value: an :class:`~sdpipe.estimators.protocol.Interval`."""
