"""Every way from C(t) to rho_sigma(E): the estimators beside the networks, and intervals that need no prior.

Each is one file here and one line in a table below; config, prediction, validation, calibration, comparison, figures
and tables read the tables.
"""

from __future__ import annotations

from sdpipe.estimators.bounds import StrictBounds
from sdpipe.estimators.hlt import HLTEstimator
from sdpipe.estimators.linear import Linear
from sdpipe.estimators.positive import MostProbable
from sdpipe.estimators.posterior import ClosedForm
from sdpipe.estimators.protocol import Estimator, Interval

ESTIMATORS: dict[str, type[Estimator]] = {
    "linear": Linear,
    "posterior": ClosedForm,
    "hlt": HLTEstimator,
    "positive": MostProbable,
}
"""Name of a method -> what gives a value with an error."""

INTERVALS: dict[str, type[Interval]] = {"bounds": StrictBounds}
"""Name of a method -> what gives bounds without a value."""
