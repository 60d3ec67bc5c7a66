"""The words of report.html and of the tables, one line each."""

from __future__ import annotations

from sdpipe.infer.calibration import BAND
from sdpipe.infer.typicality import IMPOSSIBLE, SUSPICIOUS
from sdpipe.show.page import Facts, Section

TERMS = (
    ("latt, net", "errors from the bootstrap of the lattice data, and from the spread of replicas of one network"),
    ("b, n, rho, ...", "shift from the central ensemble to the reference of that name, weighed by its significance"),
    ("resolution", "what the data cannot resolve: rms residual of the networks on draws of the prior without noise"),
    ("published", "the error of arXiv:2307.00808: all sources but the resolution, in quadrature"),
    ("total", "all sources, the resolution included, in quadrature"),
    ("calibrated", "total times the factor that makes it cover its level of the draws of the prior, at each σ and E"),
    (
        "linear, linear error",
        "the best linear estimator of the central training set, and its own error, calibrated in the same way",
    ),
    ("truth, pull", "the known smeared density of a mock target, and (central − truth) / total"),
    (
        "published %, ..., linear %",
        "coverage: share of draws and energies with the truth inside that error; linear: the linear estimator's own",
    ),
    (
        "holds, too narrow, too wide",
        f"coverage within {BAND:g} binomial standard deviations of its level, below, above",
    ),
    ("MAE", "mean absolute difference from the truth"),
    ("width", "mean half width of the error at the quoted level"),
    ("p_value", f"could the correlator be a draw of the prior with its noise? Flagged below {SUSPICIOUS:.0%}"),
    ("back_check", f"could any spectral density make the correlator? p-value, flagged below {IMPOSSIBLE:.1%}"),
    ("flagged %", "share of draws that one of these two flags"),
    ("scale", "factor on the correlator before the networks see it; predictions and errors are divided by it"),
    ("arcS, arcM, arcL", "networks of 16 and 32, 32 and 64, 64 and 128 feature maps: arXiv:2307.00808, Tab. 1"),
)


def section() -> Section:
    """Return what the words mean."""
    return Section("terms", "Terms", [Facts(TERMS)])
