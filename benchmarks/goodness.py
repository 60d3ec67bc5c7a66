"""Are p-values of the goodness of fit uniform, whatever the times, the errors and the number of configurations?

    python -m benchmarks goodness

The densities are 2 to 12 states, which no prior of sdpipe holds, so that the data are what some spectral density makes.
Configurations around their C(t) are correlated over times, and are read as a user's file is: with a covariance of their
own, shrunk where they are few.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np

import sdpipe
from benchmarks.table import Limit, Row
from sdpipe.correlators.correlator import Correlator
from sdpipe.estimators.posterior import Posterior
from sdpipe.estimators.prior_moments import PriorMoments
from sdpipe.physics.families import PeaksFamily
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import FLOOR, Noise, chi2_p_value

TIMES, ERRORS, CONFIGURATIONS, DRAWS = (8, 16, 32, 64), (1e-4, 1e-3, 1e-2, 1e-1), (15, 60, 1500), 60

LEVELS = {0.01: 0.01, 0.05: 0.02, 0.5: 0.04}
"""Level -> by how much the share of p-values below it may be off."""


def measure(_: Path) -> list[Row]:
    """Return the share of p-values below each level, over all draws and by the number of configurations."""
    p = {key: _p_values(*key) for key in product(TIMES, ERRORS, CONFIGURATIONS)}
    rows = []
    for count in (None, *CONFIGURATIONS):
        values = np.concatenate([x for (_, _, n), x in p.items() if count in (None, n)])
        for level, off in LEVELS.items():
            share, what = float(np.mean(values <= level)), f"{count} configurations" if count else "all"
            limits = (Limit("ours", "≥", level - off), Limit("ours", "≤", level + off))
            rows.append(Row(f"goodness of fit, {what}: p <= {level:g}", share, "1", limits=limits))
    return rows


def _p_values(times: int, error: float, count: int) -> np.ndarray:
    """Return p-values (DRAWS,) of correlators at so many times, with an error that grows by up to e^2."""
    g = np.random.default_rng([times, round(1 / error), count])
    t = np.arange(1, times + 1)
    grid = Observables(Kernel("exponential", 2 * times + 8), tuple(t), (0.3,), (0.5,))
    moments, covariance, found = PriorMoments.over_scales(grid), "full" if count > 2 * times else "shrink", []
    for _ in range(DRAWS):
        C, _ = grid.split(PeaksFamily((2, 12), (0.05, 2.0)).draw(g).integrals(grid))
        relative = error * np.sqrt(count) * np.exp(g.uniform(0, 2 / times) * t)
        root = np.linalg.cholesky(np.exp(-np.abs(t[:, None] - t) / g.uniform(1, 10)))
        samples = C * (1 + relative * (g.standard_normal((count, times)) @ root.T))
        read = sdpipe.read_correlator(samples, covariance=covariance, first=1, times=(1, times))
        c = Correlator.from_xarray(read)
        noise = Noise(c.times, c.mean, c.covariance, c.where, floor=FLOOR)
        chi2, dof = Posterior.for_noise(moments, noise).goodness(c.mean)
        found.append(float(chi2_p_value(chi2, dof, c.estimated_from)))
    return np.array(found)
