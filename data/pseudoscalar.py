"""Write data/pseudoscalar.txt, a synthetic correlator to try things on: python data/pseudoscalar.py

    C(t) = sum_n A_n [exp(-E_n t) + exp(-E_n (T - t))],  T = 32, in lattice units,

with the states below, as a heavy-light or strange pseudoscalar has them, and relative noise of a Markov chain: error
NOISE exp(|t| / GROWTH) of one configuration, |t| counted from the nearer end, correlation exp(-|t - t'| / 4) between
times, and memory a between configurations, tau_int = (1 + a) / (1 - a) / 2 = 2. One configuration in each row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SEED, CONFIGURATIONS, PERIOD, MEMORY = 20261125, 240, 32, 0.6
ENERGIES = np.array([0.42, 0.85, 1.15, 1.5, 1.9])
AMPLITUDES = np.array([0.30, 0.22, 0.20, 0.18, 0.16])
NOISE, GROWTH, REACH = 0.008, 12.0, 4.0

HEADER = "synthetic pseudoscalar correlator, T = 32: C(0) ... C(31) of one configuration in each row; pseudoscalar.py"


def correlator(t: np.ndarray) -> np.ndarray:
    """Return the true C(t)."""
    decay = np.exp(-np.outer(t, ENERGIES)) + np.exp(-np.outer(PERIOD - t, ENERGIES))
    return decay @ AMPLITUDES


def configurations() -> np.ndarray:
    """Return the samples (configuration, t)."""
    t = np.arange(PERIOD)
    near = np.minimum(t, PERIOD - t)
    error = NOISE * np.exp(near / GROWTH)
    correlation = np.exp(-np.abs(t[:, None] - t) / REACH)
    z = np.random.default_rng(SEED).standard_normal((CONFIGURATIONS, PERIOD))
    for i in range(1, CONFIGURATIONS):
        z[i] = MEMORY * z[i - 1] + np.sqrt(1 - MEMORY**2) * z[i]
    return correlator(t) * (1 + error * (z @ np.linalg.cholesky(correlation).T))


if __name__ == "__main__":
    np.savetxt(Path(__file__).with_suffix(".txt"), configurations(), fmt="%.7e", header=HEADER)
