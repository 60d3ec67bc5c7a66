"""Which time slices a correlator has, and how they fold: C(t) and C(T - t) are one number in a periodic kernel."""

from __future__ import annotations

import numpy as np

from sdpipe.arrays import Array
from sdpipe.correlators.record import Record
from sdpipe.errors import UserError

ASYMMETRY = 5.0
"""Standard deviations between C(t) and C(T - t) from which on folding them is flagged."""


def slices(record: Record, period: int | None, first: int | None) -> tuple[int, ...]:
    """Return the time slices of a file: those that it names or, where it names none, from ``first`` on.

    Raises UserError where neither says it and the number of slices does not: T, and T/2 + 1, start at 0.
    """
    size = (record.samples if record.samples is not None else record.mean).shape[-1]
    if record.times is not None:
        present = tuple(int(t) for t in record.times)
        if len(present) != size:
            raise record.fault(f"{size} values per sample, but {len(present)} time slices")
        return present
    if first is None and (period is None or size not in (period, period // 2 + 1)):
        neither = "" if period is None else f", neither T = {period} nor T/2 + 1"
        ask = "say lattice.first (from Python first=), the t of the first one, such as 0"
        raise record.fault(f"{size} time slices{neither}, and the file does not say which: {ask}", "first")
    return tuple(range(first or 0, (first or 0) + size))


def counted_from_one(record: Record, period: int) -> UserError:
    """Return the fault of a whole period whose slices are named 1..T, where they have to be 0..T - 1.

    Where C(t) is largest at the first one, that is t = 0; else t = T is.
    """
    C = np.abs(record.mean if record.samples is None else record.samples.mean(axis=0))
    column = 1 if record.samples is None else 2
    if C[0] >= C[-1]:
        why = "C(t) is largest at t = 1, so that this is t = 0: let slices begin at 0"
        awk, array = f"'!/^#/ {{${column} -= 1}} 1' FILE", "say lattice.first=0"
    else:
        why = f"C(t) is largest at t = {period}, which is t = 0: put it first, as 0"
        awk = f"'!/^#/ {{${column} %= {period}; print}}' FILE | sort -n -k 1 -k 2"
        array = "say lattice.first=0 of numpy.roll(x, 1, axis=1)"
    named = f"in a text by awk {awk} > x.txt" if record.times is not None else array
    return record.fault(f"t = 1..{period}, and a period of {period} is t = 0..{period - 1}; {why}, {named}", "first")


def default_times(present: tuple[int, ...], period: int | None, parity: int) -> tuple[int, ...]:
    """Return the slices that are left of those ``present`` when a period is folded; all where ``period`` is None.

    >>> default_times((0, 1, 2, 3), 4, 1), default_times((0, 1, 2, 3), 4, -1), default_times((5, 6, 7), 10, 1)
    ((0, 1, 2), (1,), (3, 4, 5))
    """
    if period is None:
        return present
    half = sorted({min(t, period - t) for t in present if t < period} | {t for t in present if 2 * t <= period})
    return tuple(t for t in half if parity > 0 or 0 < 2 * t < period)  # an odd C(t) is zero at 0 and T/2


def folding(
    present: tuple[int, ...],
    period: int | None,
    times: tuple[int, ...],
    where: str,
    named: bool = False,
    parity: int = 1,
) -> Array:
    """Return the matrix (t, len(present)) that takes data at the slices ``present`` to the slices ``times``.

    With a period T, C(T - t) = parity C(t): data beyond T/2 are folded, [C(t) + parity C(T - t)] / 2, or stand for the
    other one where only one of the two is there, and data up to T/2 are taken as folded already. Where ``times``
    reaches beyond T/2, or ``period`` is None, nothing is folded. ``named`` says that the file or the user names its
    slices; without, their number must be T, or T/2 + 1 where times allow.

    Raises UserError when the data do not hold these times.

    >>> folding((0, 1, 2, 3), 4, (1, 2), "x")
    array([[0. , 0.5, 0. , 0.5],
           [0. , 0. , 1. , 0. ]])
    """
    index = {t: i for i, t in enumerate(present)}
    held = f"{where}: {len(present)} time slices, {present[0]}..{present[-1]}, but lattice.period {period} and times"
    within = period is not None and max(times) <= period // 2
    if within and (max(present) >= period or not (named or len(present) in (period, period // 2 + 1))):
        raise UserError(f"{held} need {period} (a period), or {period // 2 + 1} (folded)")
    folds = within and max(present) > period // 2
    both = [sorted({t, (period - t) % period}) if folds else [t] for t in times]
    sources = [[m for m in pair if m in index] for pair in both]
    missing = [t for t, pair in zip(times, sources, strict=True) if not pair]
    if missing:
        without_gaps = len(present) == present[-1] - present[0] + 1
        span = f"{present[0]}..{present[-1]}" if without_gaps else ", ".join(map(str, present))
        raise UserError(f"{where}: t = {missing[0]} is missing; those there: {span}; needed: {times[0]}..{times[-1]}")
    if period is not None and not within and (max(present) >= period or not (named or len(present) == period)):
        raise UserError(f"{held} up to {max(times)} need {period}")
    matrix = np.zeros((len(times), len(present)))  # a row picks a slice, or averages C(t) and C(T - t)
    for row, t, pair in zip(matrix, times, sources, strict=True):
        for m in pair:
            row[index[m]] = (1 if m == t else parity) / len(pair)
    return matrix


def folded_covariance(covariance: Array, matrix: Array, correlated: bool) -> Array:
    """Return the covariance (t, t) of folded data from that of the data.

    Where the correlation between times is not known, ``correlated`` false, ``covariance`` being diagonal, C(t) and
    C(T - t) are taken as fully correlated: the error of their mean is (e1 + e2) / 2, which is never too small. On
    real data they are nearly so, and taking them as independent makes errors up to sqrt(2) too small.
    """
    if correlated:
        return matrix @ covariance @ matrix.T
    return np.diag((np.abs(matrix) @ np.sqrt(np.diag(covariance))) ** 2)


def asymmetry(mean: Array, covariance: Array, matrix: Array, times: tuple[int, ...], where: str) -> list[str]:
    """Return a flag where C(t) and parity C(T - t), which are folded, differ by more than ASYMMETRY.

    Raises UserError where they have opposite signs: the weighted sum of C(t) parity C(T - t) is negative.
    """
    folded_rows = np.flatnonzero((np.abs(matrix) == 0.5).sum(axis=1) == 2)
    i, j = np.array([np.flatnonzero(matrix[row]) for row in folded_rows], int).reshape(-1, 2).T
    parity = 4 * matrix[folded_rows, i] * matrix[folded_rows, j]
    total = covariance[i, i] + covariance[j, j]
    if not folded_rows.size or total.min() <= 0:
        return []
    if np.sum(parity * mean[i] * mean[j] / total) < 0:
        has, needs = ("-", "") if parity[0] > 0 else ("", "-")
        other = "periodic-odd (from Python parity=-1)" if parity[0] > 0 else "periodic (from Python parity=1)"
        raise UserError(
            f"{where}: C(T - t) = {has}C(t), but the kernel needs C(T - t) = {needs}C(t): say kernel={other}"
        )
    # The variance of C(t) - parity C(T - t) is a difference of large numbers where the two are the same data: rounding
    # can make it 0 or less, which must not turn the rounding of the mean into many standard deviations.
    variance = np.maximum(total - 2 * parity * covariance[i, j], 1e-12 * total)
    pull = np.abs(mean[i] - parity * mean[j]) / np.sqrt(variance)
    worst = int(np.argmax(pull))
    if pull[worst] <= ASYMMETRY:
        return []
    sign = "" if parity[worst] > 0 else "-"
    return [
        f"{where}: C(t) and {sign}C(T - t) differ by {pull[worst]:.0f} standard deviations "
        f"at t = {times[folded_rows[worst]]}; the kernel makes them equal"
    ]
