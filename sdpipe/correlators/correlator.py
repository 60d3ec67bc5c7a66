"""Correlators from files, with their statistics, on the time slices that the networks see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sdpipe.correlators import folding, readers, statistics
from sdpipe.correlators.records import Record
from sdpipe.errors import UserError
from sdpipe.physics import rng
from sdpipe.physics.noise import Noise, Treatment, check_covariance, treat

Array = NDArray[np.float64]
Resampling = Literal["configurations", "bootstrap", "jackknife"]
ErrorOf = Literal["mean", "sample"]


@dataclass(frozen=True)
class Source:
    """Where a correlator is and how its numbers are to be understood.

    Parameters
    ----------
    path, dataset
        The file, and the name in it where it can hold several correlators.
    resampling
        What the samples are: configurations (the default), bootstrap or jackknife. A file that says so itself
        needs no word; one that says otherwise is refused.
    error
        For files with errors or a covariance instead of samples: whether they are those of the ``mean`` or those
        of one configuration, ``sample``, sqrt(n) larger. Needed where the file does not say.
    configurations
        n, how many there were: for ``error: sample``; and for a covariance or bootstrap samples, to know how well they
        determine the covariance.
    bin
        Consecutive configurations that are averaged into one.
    covariance
        full; shrink (Ledoit-Wolf, for few configurations); diagonal.
    """

    path: Path
    dataset: str | None = None
    resampling: Resampling | None = None
    error: ErrorOf | None = None
    configurations: int | None = None
    bin: int = 1
    covariance: Treatment = "full"


@dataclass(frozen=True, eq=False)
class Correlator:
    """C(t) and the covariance of that mean.

    ``samples`` are configurations (cfg, t), binned, where ``dim`` is "cfg", bootstrap means (boot, t) where it is
    "boot"; None where the file holds a mean and its covariance. ``facts`` say where it comes from, ``flags`` what
    is doubtful about it.
    """

    times: tuple[int, ...]
    mean: Array
    covariance: Array
    samples: Array | None
    dim: str
    where: str
    facts: dict[str, Any]
    flags: tuple[str, ...] = ()

    @property
    def estimated_from(self) -> int | None:
        """How many configurations, binned, the full covariance comes from; None where it is not full, or not known."""
        if self.facts["covariance"] != "full":
            return None
        return len(self.samples) if self.dim == "cfg" and self.samples is not None else self.facts.get("configurations")

    def bootstrap(self, count: int, seed: int, stream: str) -> Array:
        """Return bootstrap means (boot, t): those of the file where it holds any, otherwise ``count`` of them.

        They are drawn from the configurations with replacement or, where there are none, from a Gaussian with
        the covariance of the mean.
        """
        if self.samples is None:
            noise = Noise(self.times, self.mean, self.covariance, self.where)
            return noise.draw(self.mean, count, rng.generator(seed, "bootstrap", stream))
        if self.dim == "boot":
            return self.samples
        return statistics.bootstrap(self.samples, count, seed, stream)


def load(source: Source, period: int | None = None, times: tuple[int, ...] | None = None) -> Correlator:
    """Read a correlator and take it to the slices ``times`` (default: those of the file).

    With ``period`` T, data over a whole period are folded, [C(t) + C(T - t)] / 2.

    Raises UserError, with the ``key`` of the config that mends it, where the file cannot be read
    (:mod:`sdpipe.correlators.readers`), does not hold these times, contradicts ``source``, or does not determine the
    covariance that is asked for.
    """
    record = readers.read(source.path, source.dataset)
    where = record.where
    size = (record.samples if record.samples is not None else record.mean).shape[-1]
    there = tuple(range(size)) if record.times is None else tuple(int(t) for t in record.times)
    if len(there) != size:
        raise UserError(f"{where}: {size} values a sample, but {len(there)} time slices")
    if times is None:
        times = tuple(t for t in there if period is None or t <= period // 2)
        if not times:
            raise UserError(
                f"{where}: its first time slice, {there[0]}, is beyond half the period {period}", key="period"
            )
    matrix = folding.select(there, period, times, where, named=record.times is not None)
    facts = {"path": str(source.path), "dataset": source.dataset or "", "sha256": readers.sha256(source.path)}
    if record.samples is None:
        mean, covariance, known = _given(source, record, there)
        samples, dim, folded, flags = None, "", None, []
    else:
        samples, known, flags = _independent(source, record, there, matrix, times)
        dim = "boot" if known["resampling"] == "bootstrap" else "cfg"
        mean, folded = samples.mean(axis=0), samples @ matrix.T
        spread = statistics.covariance_of_bootstrap if dim == "boot" else statistics.covariance_of_mean
        covariance = spread(samples)
    flags = [*flags, *folding.asymmetry(mean, covariance, matrix, times, where)]
    covariance = folding.covariance(covariance, matrix, correlated=record.errors is None)
    count = None if dim == "cfg" else known.get("configurations")
    covariance = treat(covariance, source.covariance, where, folded, count)
    if (exact := np.flatnonzero(np.diag(covariance) == 0)).size:
        raise UserError(f"{where}: variance 0 at t = {times[exact[0]]}; it must be positive")
    if source.covariance == "full":
        check_covariance(covariance, times, where, rounding=_rounding(record, matrix))
    facts |= known | {"covariance": source.covariance}
    return Correlator(times, matrix @ mean, covariance, folded, dim, where, facts, tuple(flags))


def _rounding(record: Record, matrix: Array) -> float:
    """Return how large an eigenvalue of the correlation matrix, (t, t), can be from the rounding of the file alone.

    A covariance is known to the precision of its numbers; that from samples to the square of rounding C(t) over the
    spread of C(t).
    """
    if record.samples is None:
        return len(matrix) * record.precision
    x = record.samples @ matrix.T
    return float(np.max(record.precision * np.abs(x).max(axis=0) / x.std(axis=0, ddof=1)) ** 2)


def _given(source: Source, record: Record, there: tuple[int, ...]) -> tuple[Array, Array, dict[str, Any]]:
    """Return mean, covariance of the mean and facts of a file without samples."""
    where = record.where
    for key in ("resampling", "bin"):
        if getattr(source, key) not in (None, 1):
            raise UserError(f"{where}: {key} is for samples, and this file holds a mean with its errors", key=key)
    error = _agreed(where, "error", source.error, record.said, ("mean", "sample"))
    n = _count(source, record)
    if error is None:
        raise UserError(
            f"{where}: are these errors those of the mean, or those of one configuration (sqrt(n) larger)? "
            "say error: mean, or error: sample and configurations: n",
            key="error",
        )
    if error == "sample" and not n:
        raise UserError(f"{where}: error: sample needs configurations: n, how many there were", key="configurations")
    if record.covariance is None and source.covariance != "diagonal":
        raise UserError(
            f"{where}: errors without their correlation between times; allowed: covariance: diagonal, or a file "
            "with samples or a covariance",
            key="covariance",
        )
    covariance = np.diag(record.errors**2) if record.covariance is None else record.covariance
    if source.covariance != "diagonal":
        check_covariance(covariance, there, where, definite=False, rounding=len(there) * record.precision)
    facts = {"resampling": "none", "bin": 1, "error_of": error, **({"configurations": n} if n else {})}
    return record.mean, covariance / (n if error == "sample" else 1), facts


def _independent(
    source: Source, record: Record, there: tuple[int, ...], matrix: Array, times: tuple[int, ...]
) -> tuple[Array, dict[str, Any], list[str]]:
    """Return bootstrap means or binned configurations (n, T), facts and flags of a file with samples."""
    where, samples = record.where, record.samples
    kind = _agreed(where, "resampling", source.resampling, record.said, get_args(Resampling)) or "configurations"
    if source.error or (source.configurations and kind != "bootstrap"):
        key = "error" if source.error else "configurations"
        raise UserError(f"{where}: {key} is for a mean with its errors, and these are samples", key=key)
    if len(samples) < 2:
        raise UserError(f"{where}: one configuration has no statistical error; at least 2 are needed")
    _check_rows(samples, there, matrix, where, kind)
    if kind == "bootstrap":
        for key, plain in (("bin", 1), ("covariance", "full")):
            if (value := getattr(source, key)) not in (plain, "diagonal"):
                raise UserError(f"{where}: {key}: {value} needs configurations, not bootstrap samples", key=key)
        n = _count(source, record)
        return (
            samples,
            {"resampling": kind, "bin": 1, "samples": len(samples), **({"configurations": n} if n else {})},
            [],
        )
    if kind == "jackknife":
        samples = statistics.from_jackknife(samples)
    n, size = len(samples), source.bin
    if n // size < 2:
        raise UserError(f"{where}: bin: {size} leaves {n // size} of {n} configurations; needed: 2 or more", key="bin")
    tau, error = statistics.autocorrelation_time(samples @ matrix.T)
    i = int(np.argmax(tau - 2 * error))
    facts = {"resampling": kind, "configurations": n, "bin": size, "samples": n // size}
    facts |= {"dropped": n % size, "tau_int": float(tau[i]), "tau_int_error": float(error[i])}
    flags = []
    if 2 * (tau[i] - 2 * error[i]) > size:
        flags = [
            f"{where}: bin {size} is shorter than 2 tau_int = {2 * tau[i]:.1f} +- {2 * error[i]:.1f} configurations "
            f"(t = {times[i]}), so that the errors are too small; choose bin: {int(np.ceil(2 * tau[i]))} or more"
        ]
    return statistics.binned(samples, size), facts, flags


def _check_rows(samples: Array, there: tuple[int, ...], matrix: Array, where: str, kind: str) -> None:
    """Raise UserError where a time slice in use never changes, or where a sample is there twice."""
    constant = np.flatnonzero((np.ptp(samples, axis=0) == 0) & matrix.any(axis=0))
    if constant.size:
        raise UserError(f"{where}: t = {there[constant[0]]} is the same in every sample (zero variance)")
    _, first, count = np.unique(samples, axis=0, return_index=True, return_counts=True)
    if kind != "bootstrap" and (count > 1).any():
        row = int(first[np.argmax(count > 1)])
        again = np.flatnonzero((samples == samples[row]).all(axis=1))[1]
        raise UserError(f"{where}: rows {row} and {again} are the same; each configuration counts once")


def _count(source: Source, record: Record) -> int | None:
    """Return how many configurations are behind a mean with its errors or bootstrap samples, where that is said."""
    n = _agreed(record.where, "configurations", source.configurations, record.said)
    if n is not None and (not isinstance(n, int) or n < 2):
        raise UserError(
            f"{record.where}: configurations: {n}; it must be a whole number, 2 or more", key="configurations"
        )
    return n


def _agreed(where: str, key: str, asked: Any, said: dict[str, Any], allowed: tuple[str, ...] = ()) -> Any:
    """Return what the user or the file says about ``key``.

    Raises UserError where they contradict each other, or where the file's word is not among those allowed.
    """
    told = said.get(key)
    for value, who in ((told, "the file says "), (asked, "")):
        if value is not None and allowed and value not in allowed:
            raise UserError(f"{where}: {who}{key}: {value}; allowed: {', '.join(allowed)}", key=key)
    if None not in (asked, told) and asked != told:
        raise UserError(f"{where}: {key}: {asked}, but the file itself says {told}", key=key)
    return told if asked is None else asked
