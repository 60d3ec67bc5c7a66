"""What may have been misread, or is damaged, where the nearest rho >= 0 misses the data or comes far too near.

No rho >= 0 is smooth enough to follow the noise of every time. So its chi^2, at n times, says what an error of each is
worth, and which time spoils all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sdpipe.arrays import Array
from sdpipe.estimators import MOST_TIMES
from sdpipe.estimators.positive import least_chi2
from sdpipe.infer.trust import Flag
from sdpipe.physics.kernels import Kernel
from sdpipe.physics.noise import IMPOSSIBLE, Noise

TOO_NEAR, ENOUGH_TIMES = 0.015, 13
"""chi^2 is far too small below this share of n, where n is at least so many. Of 565 tables of correlated times with
right errors (those of ``benchmarks/files.py``) none is; of those with errors of one configuration
and so many times 83 %."""

WORTH, KNOWN = 0.25, 0.3
"""Samples read otherwise explain the data where chi^2 is then at least this share of n, and half of C(t) known to
better than that."""

OFF = 5.0
"""Errors that a time is off by where it alone is named."""

ALIKE, FEW = 9.0, 3
"""Times without which chi^2 is no more than so much above the least cannot be told apart, and at most so many are
named: where the second time is off, heavy states can blame the first."""


def misread(
    kernel: Kernel, noise: Noise, C: Array, facts: Mapping[str, Any], count: int | None = None, signed: bool = False
) -> list[Flag]:
    """Return what speaks against how the data C (t,) were read; ``facts`` are those of their correlator.

    The covariance in ``noise`` was estimated from ``count`` configurations. Off the diagonal of a matrix, where rho is
    of either sign, nothing is said. Nor is it of the first times, or of samples, where a rho of either sign explains
    the data, ``signed``: improved actions have states of negative weight there.
    """
    i, j = facts.get("component", (0, 0))
    if i != j or not 2 <= len(noise.times) <= MOST_TIMES or kernel.slowest_decay(noise.times) <= 0:
        return []
    chi2, explained = least_chi2(kernel, noise, C, count)
    n = C.size
    if explained:
        alone = facts.get("resampling") == "none" and facts.get("covariance") == "diagonal"
        near = alone and facts.get("error_of") == "mean" and n >= ENOUGH_TIMES and chi2 < TOO_NEAR * n
        return [Flag("errors_too_large", {"chi2": chi2, "times": n})] if near else []
    off = _one_time(kernel, noise, C, chi2, count)
    if signed:
        return [flag for flag in off if flag.facts["t"][0] > noise.times[1]]
    return off or _samples(kernel, noise, C, chi2, facts, count)


def explains(p_value: float, dof: float) -> bool:
    """Return whether a rho of either sign explains data of this goodness of fit, and not since it can explain any."""
    return bool(p_value >= IMPOSSIBLE and dof >= 1)


def _one_time(kernel: Kernel, noise: Noise, C: Array, chi2: float, count: int | None) -> list[Flag]:
    """Return a flag for a time without which a rho >= 0 explains the others, and which is off by OFF errors.

    Where there are several of them, no more than FEW, it is one of these.
    """
    left = []
    for i in range(len(C)):
        rest = np.delete(np.arange(len(C)), i)
        times = tuple(noise.times[k] for k in rest)
        fewer = replace(noise, times=times, mean=noise.mean[rest], covariance=noise.covariance[np.ix_(rest, rest)])
        left.append(least_chi2(kernel, fewer, C[rest], count))
    values = np.array([value for value, _ in left])
    rest, errors = float(values.min()), float(np.sqrt(max(chi2 - values.min(), 0)))
    alike = np.flatnonzero([explained and value < rest + ALIKE for value, explained in left])
    if not 1 <= alike.size <= FEW or errors < OFF:
        return []
    facts = {"t": [noise.times[i] for i in alike], "errors": errors, "chi2": chi2, "rest": rest, "times": len(C)}
    return [Flag("one_time", facts)]


def _samples(
    kernel: Kernel, noise: Noise, C: Array, chi2: float, facts: Mapping[str, Any], count: int | None
) -> list[Flag]:
    """Return a flag where a rho >= 0 explains samples that were read as configurations if they are of another kind."""
    if facts.get("resampling") != "configurations" or "subtract" in facts:
        return []
    n, relative = facts["configurations"], np.median(np.sqrt(np.diag(noise.covariance)) / np.abs(C))
    for kind, factor in (("jackknife", (n - 1.0) ** 2), ("bootstrap", float(n))):
        other, explained = least_chi2(kernel, replace(noise, covariance=factor * noise.covariance), C, count)
        if explained and other > WORTH * C.size and np.sqrt(factor) * relative < KNOWN:
            numbers = {"chi2": chi2, "other": other, "times": C.size}
            return [Flag("other_samples", {"kind": kind, **numbers, "larger": float(np.sqrt(factor))})]
    return []
