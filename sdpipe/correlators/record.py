"""What a correlator file, or a Python session, holds: the bytes that were read, and the numbers in them."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sdpipe.arrays import Array
from sdpipe.errors import UserError

LARGEST_VALUE = 1e150
"""Size of values whose squares are still finite."""


MOST_NUMBERS = 5_000_000
"""Numbers in a correlator, such as 39,000 configurations of 128 times, and in a chunk of one in a file."""


MOST_SLICES = 512
"""Time slices of a correlator: what follows from it takes the cube of their number."""


SAID = ("resampling", "error", "configurations")
"""Attributes by which a file may say what its numbers are; see :class:`Record`."""


@dataclass(frozen=True)
class Snapshot:
    """All bytes of a correlator file, read at one time.

    ``files`` has every file of a Zarr store by its path in the store; a plain file is there as "". ``sha256`` is the
    hash of a plain file, and for a store that of its lines ``PATH SHA256``, one per file. ``records`` are the
    correlators that have been read in it, by name.
    """

    path: Path
    sha256: str
    files: dict[str, bytes] = field(repr=False)
    records: dict[str | None, Record] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_bytes(cls, path: Path, content: bytes) -> Snapshot:
        """Return that of a plain file with these bytes."""
        return cls(path, hashlib.sha256(content).hexdigest(), {"": content})

    @property
    def content(self) -> bytes:
        """The bytes of a plain file."""
        return self.files[""]


@dataclass(frozen=True, eq=False)
class Record:
    """Samples (n, T), or a mean (T,) with its covariance (T, T) or with errors (T,) alone.

    Samples of a matrix of correlators are (n, T, i, j), its mean and covariance (T, i, j) and (T, i, j, T, i, j), see
    :mod:`sdpipe.correlators.matrices`.

    ``times`` are the time slices that the file names, None where it lists T values without saying. ``said`` is what
    the file states about itself: ``resampling``, ``error`` (``mean``: errors of the mean; ``sample``: of one
    configuration) and ``configurations``, how many there were. ``stored`` is the type of the numbers in the file, of
    the covariance where it holds one.

    Raises UserError where shapes or times do not fit, and for values whose squares overflow.
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
        if self.samples is not None and self.samples.ndim not in (2, 4):
            matrix = "or (configurations, times, i, j) for a matrix"
            raise self.fault(f"shape {self.samples.shape}; it must be (configurations, times), {matrix}")
        if self.mean is not None and self.covariance is not None:
            mean, cov = self.mean.shape, self.covariance.shape
            if len(mean) not in (1, 3) or cov != mean * 2:
                matrix = "of a matrix (T, n, n) and (T, n, n, T, n, n), cov.reshape(2 * mean.shape)"
                raise self.fault(f"mean has shape {mean} and cov {cov}; needed (T,) and (T, T), or {matrix}")
        size = self.mean.shape[0] if self.samples is None else self.samples.shape[1]
        if size > MOST_SLICES:
            raise self.fault(f"{size} time slices; allowed: up to {MOST_SLICES}; samples are (configurations, times)")
        for values in (self.samples, self.mean, self.errors):
            if values is not None and (size := max(values.max(), -values.min())) > LARGEST_VALUE:
                raise self.fault(f"a value of size {size:.3g}; allowed: up to {LARGEST_VALUE:g}")
        times = np.zeros(0) if self.times is None else self.times
        if (broken := times[times != np.round(times)]).size:
            raise self.fault(f"t = {broken[0]:g}; times are whole numbers, in lattice units")
        if (falls := np.flatnonzero(np.diff(times) <= 0)).size:
            before, after = times[falls[0]], times[falls[0] + 1]
            raise self.fault(f"t = {after:g} comes after t = {before:g}; times must ascend, each once")
        if (times < 0).any():
            raise self.fault(f"t = {times[0]:g}; times must not be negative")

    def fault(self, words: str, key: str | None = None) -> UserError:
        """Return what is wrong with these numbers, and the key of the config that mends it."""
        return UserError(f"{self.where}: {words}", key=key)

    @property
    def sha256(self) -> str:
        """The hash of the numbers, for those that come from no file."""
        parts = (self.samples, self.mean, self.covariance, self.errors)
        return hashlib.sha256(b"".join(p.tobytes() for p in parts if p is not None)).hexdigest()

    @property
    def precision(self) -> float:
        """Relative distance of neighbouring numbers, as they are in the file."""
        return max(float(np.finfo(kind).eps) for kind in (self.stored, float) if np.dtype(kind).kind == "f")


def check_numbers(dtype: np.dtype, shape: tuple[int, ...], where: str) -> None:
    """Raise UserError for what is said of an array that is still to be read: not numbers, none, or too many."""
    if dtype.kind not in "fiu":
        hint = "; take the real part: numpy.save('x.npy', x.real)" if dtype.kind == "c" else ""
        raise UserError(f"{where}: values must be real numbers, not {dtype}{hint}")
    count = math.prod(shape)
    if not count:
        raise UserError(f"{where}: the dataset is empty")
    if count > MOST_NUMBERS:
        words = f"shape {shape}, {8 * count / 1e9:.3g} GB"
        raise UserError(f"{where}: {words}; allowed: up to {MOST_NUMBERS} numbers; average or bin them first")


def real(values: Any, where: str) -> Array:
    """Return an array, or what reads as one, in float64.

    Raises UserError where it has no or too many values, where they are no real numbers, or where one is not finite.
    """
    check_numbers(values.dtype, values.shape, where)
    values = np.asarray(values).astype(float, copy=False)
    if not (finite := np.isfinite(values)).all():
        first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), values.shape))
        raise UserError(f"{where}: value {values[first]} at index {first}; all values must be finite")
    return values


def choose(dataset: str | None, names: Iterable[str], path: Path) -> str:
    """Return ``dataset`` or, where it is not said, the only one that ``path`` has.

    Raises UserError, with the names there, for one that is not there or a choice that must be made.
    """
    names = sorted(names)
    choices = f"those there: {', '.join(names[:20]) or 'none'}{', ...' if len(names) > 20 else ''}"
    if dataset is None and len(names) != 1:
        raise UserError(f"{path}: say which dataset to read; {choices}", key="dataset")
    if dataset is not None and dataset not in names:
        raise UserError(f"{path}: there is no dataset {dataset!r}; {choices}", key="dataset")
    return names[0] if dataset is None else dataset


def pick(dataset: str | None, names: Iterable[str], path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the name of a correlator and the names of its arrays: samples, or a mean and its covariance.

    A group that holds ``mean`` and ``cov`` (or ``covariance``) is one correlator, with the name of the group. That of
    the file itself, "", is taken where ``dataset`` is "/", or is not said and there is nothing else.

    >>> pick(None, ["octet/mean", "octet/cov"], Path("x.h5"))
    ('octet', ('octet/mean', 'octet/cov'))
    """
    names, pairs = set(names), {}
    dataset = "" if dataset == "/" else dataset
    for mean in (n for n in names if n.rpartition("/")[2] == "mean"):
        group = mean.removesuffix("mean")
        both = [cov for cov in (f"{group}cov", f"{group}covariance") if cov in names]
        if len(both) == 1:
            pairs[group.removesuffix("/")] = (mean, both[0])
    own = pairs.pop("", None)
    if own and (others := sorted(names - set(own))) and dataset is None:
        which = f"{' and '.join(own)}, and {', '.join(others[:20])}"
        raise UserError(f"{path}: holds {which}: say dataset: / for the former, or dataset: NAME", key="dataset")
    if own and not dataset:
        return "", own
    name = choose(dataset, names - {part for pair in pairs.values() for part in pair} | pairs.keys(), path)
    return name, pairs.get(name, (name,))


def times_second(values: Array, where: str) -> Array:
    """Return samples of a matrix as (n, t, i, j), from that order or from (n, i, j, t).

    Raises UserError where neither leaves a square matrix, or both do.

    >>> times_second(np.zeros((5, 2, 2, 9)), "x").shape, times_second(np.zeros((5, 9, 2, 2)), "x").shape
    ((5, 9, 2, 2), (5, 9, 2, 2))
    """
    last, first = values.shape[2] == values.shape[3], values.shape[1] == values.shape[2]
    if not (last or first):
        needed = "needed: a square one, (configurations, t, i, j) or (configurations, i, j, t)"
        raise UserError(f"{where}: shape {values.shape} is no matrix of correlators; {needed}")
    if last and first:
        needed = "needed: names of the dimensions, cfg, t, i and j, as in NetCDF"
        raise UserError(f"{where}: shape {values.shape} does not say which dimension is t; {needed}")
    return values if last else np.moveaxis(values, -1, 1)


def times_first(mean: Array, covariance: Array, where: str) -> tuple[Array, Array]:
    """Return the mean of a matrix as (t, i, j), from that order or from (i, j, t), and its covariance alike.

    >>> mean, covariance = times_first(np.zeros((2, 2, 9)), np.zeros((2, 2, 9, 2, 2, 9)), "x")
    >>> mean.shape, covariance.shape
    ((9, 2, 2), (9, 2, 2, 9, 2, 2))
    """
    ordered = times_second(mean[None], where)[0]
    if ordered.shape != mean.shape and covariance.shape == 2 * mean.shape:
        covariance = np.moveaxis(covariance, (2, 5), (0, 3))
    return ordered, covariance


def assemble(path: Path, name: str, parts: tuple[str, ...], arrays: Mapping[str, Any], **more: Any) -> Record:
    """Return the record of a correlator from its ``parts`` among ``arrays``, those that :func:`pick` returns."""
    values = [real(arrays[part], f"{path}: {part}" if part else str(path)) for part in parts]
    roles = ("samples",) if len(parts) == 1 else ("mean", "covariance")
    where = f"{path}: {name}" if name else str(path)
    if len(parts) == 1 and values[0].ndim == 4 and "times" not in more:
        values = [times_second(values[0], where)]
    if len(parts) == 2 and values[0].ndim == 3 and "times" not in more:
        values = list(times_first(*values, where))
    return Record(where, **dict(zip(roles, values, strict=True)), stored=arrays[parts[-1]].dtype, **more)


def said(*attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the attributes of a file say about its numbers, the last first, as strings and whole numbers."""
    values = {key: told[key] for told in attributes for key in SAID if key in told}
    return {k: int(v) if isinstance(v, (int, np.integer)) else str(v) for k, v in values.items()}


def first_line(error: BaseException) -> str:
    """Return the beginning of another library's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


def optional(name: str, what: str) -> Any:
    """Import a package that only ``what`` needs; raises UserError, with the command that installs it, without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pyerrors imports scipy.odr
        try:
            return import_module(name)
        except ImportError:
            raise UserError(f"{what} needs {name}; run: pip install 'sdpipe[{name}]'") from None
