"""Time slices of the data to those of the networks: what is folded, and what must not be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdpipe.errors import UserError

Array = NDArray[np.float64]

ASYMMETRY = 5.0
"""Standard deviations between C(t) and C(T - t) from which on folding them is flagged."""


def select(
    there: tuple[int, ...], period: int | None, times: tuple[int, ...], where: str, named: bool = False
) -> Array:
    """Return the matrix (t, len(there)) that takes data at the slices ``there`` to the slices ``times``.

    With a period T, C(t) = C(T - t): data over a whole period are folded, [C(t) + C(T - t)] / 2, and data up to
    T/2 are taken as folded already. Where ``times`` reaches beyond T/2, or ``period`` is None, nothing is folded.
    ``named`` says that the file itself names its slices; without, their number must be T, or T/2 + 1 where times allow.

    Raises UserError when the data do not hold these times.
    """
    at = {t: i for i, t in enumerate(there)}
    missing = [t for t in times if t not in at]
    folds = period is not None and max(times) <= period // 2
    if folds:
        partners = [(period - t) % period for t in times]
        whole = max(there) < period and (len(there) == period or (named and all(p in at for p in partners)))
        half = max(there) <= period // 2 and (named or len(there) == period // 2 + 1)
        if not (whole or half) and not (named and missing):
            raise UserError(
                f"{where}: {len(there)} time slices, {there[0]}..{there[-1]}, but lattice.period {period} and times "
                f"need {period} (a period), or {period // 2 + 1} (folded)"
            )
        folds = whole
    if missing:
        held = f"{there[0]}..{there[-1]}" if len(there) == there[-1] - there[0] + 1 else ", ".join(map(str, there))
        raise UserError(f"{where}: t = {missing[0]} is missing; those there: {held}; needed: {times[0]}..{times[-1]}")
    beyond = period is not None and max(times) > period // 2
    if beyond and (max(there) >= period or not (named or len(there) == period)):
        raise UserError(
            f"{where}: {len(there)} time slices, {there[0]}..{there[-1]}, but lattice.period {period} and times up to "
            f"{max(times)} need {period}"
        )
    matrix = np.zeros((len(times), len(there)))
    for row, t in enumerate(times):
        matrix[row, at[t]] += 0.5
        matrix[row, at[(period - t) % period] if folds else at[t]] += 0.5
    return matrix


def covariance(given: Array, matrix: Array, correlated: bool) -> Array:
    """Return the covariance (t, t) of folded data from that of the data.

    Where the correlation between times is not known, ``correlated`` false, ``given`` being diagonal, C(t) and
    C(T - t) are taken as fully correlated: the error of their mean is (e1 + e2) / 2, which is never too small. On
    real data they are nearly so, and taking them as independent makes errors up to sqrt(2) too small.
    """
    if correlated:
        return matrix @ given @ matrix.T
    return np.diag((matrix @ np.sqrt(np.diag(given))) ** 2)


def asymmetry(mean: Array, covariance: Array, matrix: Array, times: tuple[int, ...], where: str) -> list[str]:
    """Return a flag where C(t) and C(T - t), which are folded, differ by more than ASYMMETRY.

    Raises UserError where they have opposite signs: the weighted sum of C(t) C(T - t) is negative.
    """
    rows = np.flatnonzero((matrix == 0.5).sum(axis=1) == 2)
    i, j = np.array([np.flatnonzero(matrix[r]) for r in rows], int).reshape(-1, 2).T
    total = covariance[i, i] + covariance[j, j]
    if not rows.size or total.min() <= 0:
        return []
    if np.sum(mean[i] * mean[j] / total) < 0:
        raise UserError(f"{where}: C(T - t) = -C(t), but the kernel needs C(T - t) = C(t); choose another correlator")
    difference = np.maximum(total - 2 * covariance[i, j], 1e-12 * total)
    pull = np.abs(mean[i] - mean[j]) / np.sqrt(difference)
    worst = int(np.argmax(pull))
    if pull[worst] <= ASYMMETRY:
        return []
    return [
        f"{where}: C(t) and C(T - t) differ by {pull[worst]:.0f} standard deviations at t = {times[rows[worst]]}; "
        "the kernel makes them equal"
    ]
