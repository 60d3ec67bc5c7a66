"""What a correlator file holds, whatever its format, and the checks that every format shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpipe.errors import UserError

Array = NDArray[np.float64]

LARGEST = 1e150
"""Size of values whose squares are still finite."""

SAID = ("resampling", "error", "configurations")
"""Attributes by which a file may say what its numbers are; see :class:`Record`."""


@dataclass(frozen=True, eq=False)
class Record:
    """Samples (n, T), or a mean (T,) with its covariance (T, T) or with errors (T,) alone.

    ``times`` are the time slices that the file names, None where it lists T values without saying.
    ``said`` is what the file states about itself: ``resampling``, ``error`` (``mean``: errors of the mean;
    ``sample``: of one configuration) and ``configurations``, how many there were. ``stored`` is the type of the
    numbers in the file, of the covariance where it holds one.
    """

    where: str
    samples: Array | None = None
    mean: Array | None = None
    covariance: Array | None = None
    errors: Array | None = None
    times: Array | None = None
    said: dict[str, Any] = field(default_factory=dict)
    stored: np.dtype | type = float

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples.ndim != 2:
            raise UserError(f"{self.where}: shape {self.samples.shape}; it must be (configurations, times)")
        if self.mean is not None and self.covariance is not None:
            mean, cov = self.mean.shape, self.covariance.shape
            if len(mean) != 1 or cov != mean * 2:
                raise UserError(f"{self.where}: mean has shape {mean} and cov {cov}; needed (T,) and (T, T)")
        for values in (self.samples, self.mean, self.errors):
            if values is not None and (size := np.abs(values).max()) > LARGEST:
                raise UserError(f"{self.where}: a value of size {size:.3g}; allowed: up to {LARGEST:g}")
        if self.times is not None:
            check_times(self.times, self.where)

    @property
    def precision(self) -> float:
        """Relative distance of neighbouring numbers, as they are in the file."""
        return max(float(np.finfo(kind).eps) for kind in (self.stored, float) if np.dtype(kind).kind == "f")


def real(values: Any, where: str) -> Array:
    """Return ``values`` in float64.

    Raises UserError where there are none, where they are no real numbers, or where one is not finite.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise UserError(f"{where}: values must be real numbers, not {values.dtype}")
    if values.size == 0:
        raise UserError(f"{where}: the dataset is empty")
    values = values.astype(float)
    if not np.isfinite(values).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise UserError(f"{where}: value {values[first]} at index {first}; all values must be finite")
    return values


def check_times(times: Array, where: str) -> None:
    """Raise UserError where time slices are not whole, not ascending, or negative."""
    if (broken := times[times != np.round(times)]).size:
        raise UserError(f"{where}: t = {broken[0]:g}; times are whole numbers, in lattice units")
    if (falls := np.flatnonzero(np.diff(times) <= 0)).size:
        before, after = times[falls[0]], times[falls[0] + 1]
        raise UserError(f"{where}: t = {after:g} comes after t = {before:g}; times must ascend, each once")
    if times[0] < 0:
        raise UserError(f"{where}: t = {times[0]:g}; times must not be negative")


def choose(dataset: str | None, names: Iterable[str], path: Path) -> str:
    """Return ``dataset`` or, where it is not said, the only one that ``path`` has.

    Raises UserError, with the names there, for one that is not there or a choice that must be made.
    """
    names = sorted(names)
    there = f"those there: {', '.join(names[:20]) or 'none'}{', ...' if len(names) > 20 else ''}"
    if dataset is None and len(names) != 1:
        raise UserError(f"{path}: say which dataset to read; {there}", key="dataset")
    if dataset is not None and dataset not in names:
        raise UserError(f"{path}: there is no dataset {dataset!r}; {there}", key="dataset")
    return names[0] if dataset is None else dataset


def pair(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the names of a mean and its covariance among ``names``, where both are there.

    >>> pair(["cov", "mean", "x"])
    ('mean', 'cov')
    """
    names = set(names)
    cov = names & {"cov", "covariance"}
    return ("mean", cov.pop()) if "mean" in names and len(cov) == 1 else None


def said(attributes: Any) -> dict[str, Any]:
    """Return what the attributes of a file say about its numbers, as plain strings and whole numbers."""
    values = {key: attributes[key] for key in SAID if key in attributes}
    return {k: int(v) if isinstance(v, (int, np.integer)) else str(v) for k, v in values.items()}


def first_line(error: BaseException) -> str:
    """Return the beginning of another library's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:80]
