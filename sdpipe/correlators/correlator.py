"""Correlators from files, with their statistics, on the time slices that the networks see."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from operator import index
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from sdpipe.arrays import Array
from sdpipe.correlators import folding, formats, matrices, statistics
from sdpipe.correlators.matrices import Gevp
from sdpipe.correlators.objects import read_python
from sdpipe.correlators.record import Record, Snapshot
from sdpipe.correlators.states import Known
from sdpipe.errors import UserError
from sdpipe.physics import rng
from sdpipe.physics.noise import Noise, Treatment, check_covariance, treat

if TYPE_CHECKING:
    import xarray as xr

Resampling = Literal["configurations", "bootstrap", "jackknife"]
ErrorOf = Literal["mean", "sample"]

GROWTH = 0.1
"""Relative growth of an error on doubling the bin from which on it is flagged."""

ENOUGH_BINS = 10
"""Bins of ENOUGH_BINS (tau_int - 1/(4 tau_int)) make the error of a chain with one exponential memory 5 % too small."""


@dataclass(frozen=True)
class Source:
    """Where a correlator is, and how its numbers are to be understood; the fields are those of the config's section."""

    path: Path
    dataset: str | None = None
    resampling: Resampling | None = None
    error: ErrorOf | None = None
    configurations: int | None = None
    bin: int | None = None
    covariance: Treatment = "full"
    component: tuple[int, int] | None = None
    gevp: Gevp | None = None
    subtract: tuple[Known, ...] = ()

    @classmethod
    def from_keys(cls, path: Path, keys: Mapping[str, Any]) -> Source:
        """Return the source of a section of a config, as plain data.

        >>> Source.from_keys(Path("x.h5"), {"gevp": {"t0": 2, "td": 5}}).gevp
        Gevp(t0=2, td=5, state=0)
        """
        gevp, component = keys.get("gevp"), keys.get("component")
        matrix = {"component": tuple(component)} if component is not None else {}
        matrix |= {"gevp": Gevp(**gevp)} if gevp is not None else {}
        states = {"subtract": tuple(map(Known.from_keys, keys["subtract"]))} if keys.get("subtract") else {}
        return cls(path, **{**keys, **matrix, **states})

    @property
    def crossed(self) -> bool:
        """Whether it is an element off the diagonal of a matrix, whose spectral density is of either sign."""
        return self.component is not None and self.component[0] != self.component[1]

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Source:
        """Return the source that the facts (or attributes) of a correlator tell of.

        >>> Source.from_facts({"path": "x.txt", "dataset": "", "resampling": "none", "error_of": "sample",
        ...            "configurations": 40, "covariance": "diagonal"}).keys()
        {'path': 'x.txt', 'error': 'sample', 'configurations': 40, 'covariance': 'diagonal'}
        """
        kind, n, size = facts["resampling"], facts.get("configurations"), facts.get("bin")
        return cls(
            Path(facts["path"]),
            facts["dataset"] or None,
            resampling=kind if kind in ("bootstrap", "jackknife") else None,
            error=facts.get("error_of"),
            configurations=int(n) if n and kind in ("none", "bootstrap") else None,
            bin=int(size) if size else None,
            covariance=facts["covariance"],
            component=tuple(facts["component"]) if "component" in facts else None,
            gevp=Gevp(*facts["gevp"]) if "gevp" in facts else None,
            subtract=tuple(map(Known.from_keys, facts.get("subtract", ()))),
        )

    def keys(self) -> dict[str, Any]:
        """Return the keys of the config that read this correlator, without defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        gevp = {"gevp": asdict(self.gevp)} if self.gevp else {}
        component = {"component": list(self.component)} if self.component else {}
        states = {"subtract": [known.keys() for known in self.subtract]} if self.subtract else {}
        return {**values, **gevp, **component, **states, "path": str(self.path)}


@dataclass(frozen=True, eq=False)
class Correlator:
    """C(t) and the covariance of that mean.

    ``samples`` are configurations (cfg, t), in bins where any are asked for, where ``dim`` is "cfg", bootstrap means
    (boot, t) where it is "boot"; None where the file holds a mean and its covariance. ``facts`` say where it comes
    from, ``flags`` what is doubtful about it. ``states`` are amplitudes and masses (boot, state) of what was taken off.
    """

    times: tuple[int, ...]
    mean: Array
    covariance: Array
    samples: Array | None
    dim: str
    where: str
    facts: dict[str, Any]
    flags: tuple[str, ...] = ()
    states: tuple[Array, Array] | None = None

    @property
    def estimated_from(self) -> int | None:
        """How many independent configurations a full covariance comes from; None where it is not full, or not known."""
        if self.facts["covariance"] != "full":
            return None
        return self.facts.get("independent", self.facts.get("configurations"))

    def bootstrap(self, count: int, seed: int, stream: str) -> Array:
        """Return bootstrap means (boot, t): those of the file where it holds any, otherwise ``count`` of them.

        They are drawn from bins of configurations with replacement and spread to the errors of the mean or, where
        there are no configurations, from a Gaussian with the covariance of the mean.
        """
        if self.samples is None:
            noise = Noise(self.times, self.mean, self.covariance, self.where)
            return noise.draw(self.mean, count, rng.generator(seed, "bootstrap", stream))
        if self.dim == "boot":
            return self.samples
        bins = statistics.binned(self.samples, self.facts["correlation_bin"])
        drawn = statistics.bootstrap(bins - bins.mean(axis=0), count, seed, stream)
        known = np.diag(statistics.covariance_of_mean(bins))
        return self.mean + drawn * np.sqrt(np.diag(self.covariance) / known)

    def to_xarray(self) -> xr.Dataset:
        """Return ``samples (cfg|boot, t)`` where there are any, ``mean (t)`` and ``covariance (t, t2)``."""
        import xarray as xr

        data = xr.Dataset(
            {
                "mean": ("t", self.mean, {"long_name": "C(t)"}),
                "covariance": (("t", "t2"), self.covariance, {"long_name": "covariance of the mean"}),
            },
            coords={name: (name, list(self.times), {"units": "lattice units"}) for name in ("t", "t2")},
            attrs={**self.facts, "error": "mean", "flags": list(self.flags)},
        )
        if self.samples is not None:
            words = "bootstrap means" if self.dim == "boot" else "C(t)"
            data["samples"] = ((self.dim, "t"), self.samples, {"long_name": words})
        return data

    @classmethod
    def from_xarray(cls, data: xr.Dataset) -> Correlator:
        """Return the correlator behind the result of :func:`read_correlator`."""
        facts = {k: v for k, v in data.attrs.items() if k not in ("error", "flags")}
        samples, dim = (data.samples.values, str(data.samples.dims[0])) if "samples" in data else (None, "")
        mean, covariance = data["mean"].values, data["covariance"].values
        times, flags = tuple(data.t.values.tolist()), tuple(data.attrs["flags"])
        return cls(times, mean, covariance, samples, dim, str(facts["path"]), facts, flags)


def describe(facts: dict[str, Any]) -> str:
    """Say in a few words how a correlator was read.

    >>> describe({"resampling": "configurations", "samples": 112, "bin": 2, "covariance": "full",
    ...           "configurations": 225, "dropped": 1, "tau_int": 0.71, "tau_int_error": 0.16})
    '225 configurations in bins of 2 (1 left over), tau_int 0.71 +- 0.16; covariance full'
    """
    kind, size, treatment = facts["resampling"], facts.get("bin"), facts["covariance"]
    words = "a mean with its errors" if kind == "none" else f"{facts['samples']} {kind} samples"
    if "tau_int" not in facts:
        words += f" of {facts['configurations']} configurations" if "configurations" in facts else ""
    else:
        words = f"{facts['configurations']} {kind if kind == 'configurations' else f'{kind} samples'}"
        words += f" in bins of {size}" if size else ""
        words += f" ({facts['dropped']} left over)" if facts["dropped"] else ""
        words += f", tau_int {facts['tau_int']:.2f} +- {facts['tau_int_error']:.2f}"
        words += "" if size else ", errors by the Gamma method"
    if "component" in facts:
        words = f"component {facts['component']} of {facts['operators']} x {facts['operators']}; {words}"
    if "gevp" in facts:
        t0, td, state = facts["gevp"]
        words = f"state {state} of {facts['operators']} operators, GEVP at t0 = {t0}, td = {td}; {words}"
    if "subtract" in facts:
        count = len(facts["subtract"])
        words += f"; {count} known state{'s' if count > 1 else ''} taken off"
    weak = "" if treatment == "full" else ", which hides from chi2 and the goodness of fit what the full one would show"
    return f"{words}; covariance {treatment}{weak}"


def read_correlator(
    path: Any,
    dataset: str | None = None,
    *,
    resampling: Resampling | None = None,
    error: ErrorOf | None = None,
    configurations: int | None = None,
    bin: int | None = None,  # noqa: A002 - the name of the config's key
    covariance: Treatment = "full",
    period: int | None = None,
    parity: Literal[1, -1] = 1,
    times: tuple[int, int] | None = None,
    first: int | None = None,
    matrix: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Read a correlator from a file of any known format (docs/correlators.md), or from Python objects.

    Parameters
    ----------
    path, dataset
        The file, and the name in it where it can hold several correlators. In place of a file an array of samples
        (n, T), one of gvars (T,), a pyerrors Corr or list of Obs, a Dataset or DataArray, or a dictionary of these, or
        of a pair ``mean`` (T,) and ``cov`` (T, T).
    resampling
        What the samples are: configurations (the default), bootstrap or jackknife. A file may say so itself; one that
        says otherwise is refused.
    error
        For files with errors or a covariance instead of samples: whether they are those of the ``mean`` or those
        of one configuration, ``sample``, sqrt(n) larger. Needed where the file does not say.
    configurations
        n, how many there were: for ``error="sample"``; and for a covariance or bootstrap samples, to know how well
        they determine the covariance.
    bin
        How many consecutive configurations are averaged into one; the averages count as independent. By default nothing
        is averaged, and errors are those of the Gamma method (U. Wolff, hep-lat/0306017), which contain the measured
        autocorrelation.
    covariance
        full; shrink (Ledoit-Wolf, for few configurations); diagonal.
    period
        T in lattice units: data over a whole period are folded, [C(t) + parity C(T - t)] / 2.
    parity
        1 where C(T - t) = C(t), -1 where C(T - t) = -C(t), as for kernel ``periodic-odd``.
    times
        First and last time slice of the result; default: all of the file, up to T/2 where it is folded.
    first
        t of the first slice, for a file that does not say it. Slices start at 0 where their number is T or T/2 + 1;
        for any other number it is needed.
    matrix
        Of a matrix of correlators, samples (n, t, i, j) or (n, i, j, t), what is read: ``{"component": [i, j]}``, or
        ``{"gevp": {"t0": 2, "td": 5, "state": 0}}``, see :func:`sdpipe.correlators.matrices.projected`.

    Returns
    -------
    ``mean (t)``, ``covariance (t, t2)`` of that mean, and where the file holds any ``samples``: configurations
    ``(cfg, t)``, in bins where ``bin`` says so, with jackknife samples turned back into configurations; or bootstrap
    means ``(boot, t)``. Numbers are in the units of the file, t in lattice units. Attributes: path, dataset, sha256,
    resampling, configurations, bin, first (where it was said), tau_int (in configurations, at the slice where it is
    largest beyond its error), correlation_bin (whose means correlations between times are from), independent (how many
    independent configurations there are about), error_of (what the errors in the file are of: mean or sample),
    covariance, of a matrix component, or gevp (t0, td, state) and vector, and ``flags``, each of which is also a
    warning.

    Raises
    ------
    UserError
        For a file that cannot be read or used; the message says what is allowed.

    Examples
    --------
    >>> from tempfile import NamedTemporaryFile
    >>> with NamedTemporaryFile(suffix=".txt") as file:
    ...     np.savetxt(file, [[1, 0.50, 0.01], [2, 0.25, 0.01]], header="t C err")
    ...     file.flush()
    ...     data = read_correlator(file.name, error="mean", covariance="diagonal")
    >>> data["mean"].sel(t=2).item(), data["covariance"].dims
    (0.25, ('t', 't2'))
    """
    for key, value, allowed, words in (
        ("bin", bin, bin is None or bin >= 1, "1 or more"),
        ("covariance", covariance, covariance in get_args(Treatment), ", ".join(get_args(Treatment))),
        ("times", times, times is None or (len(times) == 2 and 0 <= times[0] <= times[1]), "(first, last), from 0"),
        ("period", period, period is None or period >= 2, "2 or more"),
        ("parity", parity, parity in (1, -1), "1, -1"),
        ("first", first, first is None or first >= 0, "0 or more"),
    ):
        if not allowed:
            raise UserError(f"read_correlator: {key}: {value} is not allowed; allowed: {words}", key=key)
    record = None if isinstance(path, (str, PathLike)) else read_python(path, dataset)
    where = Path("FILE" if record else path).expanduser()
    source = Source(where, dataset, resampling, error, configurations, bin, covariance, **_of_matrix(matrix))
    slices = None if times is None else tuple(range(times[0], times[1] + 1))
    correlator = load(source, period, slices, parity=parity if period else 0, first=first, record=record)
    for flag in correlator.flags:
        warnings.warn(flag, stacklevel=2)
    return correlator.to_xarray()


def _of_matrix(matrix: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a Source that say what is read of a matrix; raise UserError for other keys or values."""
    matrix = matrix or {}
    try:
        if set(matrix) - {"component", "gevp"}:
            raise ValueError
        component, gevp = matrix.get("component"), matrix.get("gevp")
        i, j = (0, 0) if component is None else map(index, component)
        projection = None if gevp is None else Gevp(**{key: index(value) for key, value in gevp.items()})
    except (TypeError, ValueError, AttributeError):
        words = f"read_correlator: matrix: {matrix} is not allowed; allowed: {matrices.ALLOWED}"
        raise UserError(words, key="matrix") from None
    return {"component": None if component is None else (i, j), "gevp": projection}


def load(
    source: Source,
    period: int | None = None,
    times: tuple[int, ...] | None = None,
    snapshot: Snapshot | None = None,
    *,
    parity: int = 1,
    first: int | None = None,
    record: Record | None = None,
) -> Correlator:
    """Read a correlator and take it to the slices ``times`` (default: those of the file).

    With ``period`` T, data over a whole period are folded, [C(t) + parity C(T - t)] / 2; with ``parity`` 0 they are
    not. ``first`` is the time of the first slice where the file does not say it. ``snapshot`` is the file where it has
    been read already, ``record`` what it holds where there is no file.

    Raises UserError, with the ``key`` of the config that mends it, where the file cannot be read
    (:mod:`sdpipe.correlators.formats`), does not hold these times, contradicts ``source``, or does not determine the
    covariance that is asked for.
    """
    if record is None:
        snapshot = snapshot or formats.snapshot(source.path)
        record = formats.parse(snapshot, source.dataset)
    kind = source.resampling or record.said.get("resampling", "configurations")
    record, projection = matrices.projected(record, source.component, source.gevp, kind, first or 0)
    where, present = record.where, folding.slices(record, period, first)
    folds = period if parity else None
    if folds and present == tuple(range(1, folds + 1)):
        raise folding.counted_from_one(record, folds)
    times = times or folding.default_times(present, folds, parity)
    if not times:
        raise record.fault(f"its first time slice, {present[0]}, is beyond half the period {period}", "period")
    named = first is not None or record.times is not None
    matrix = folding.folding(present, folds, times, where, named, parity)
    numbers = (_from_mean if record.samples is None else _from_samples)(source, record, present, matrix, times)
    flags = [*numbers.flags, *folding.asymmetry(numbers.mean, numbers.unfolded, matrix, times, where)]
    if folds and times[-1] > folds // 2:
        flags.append(
            f"{where}: t = {times[-1]} is beyond T/2 = {folds // 2}: nothing is folded, C(T - t) counts beside C(t)"
        )
    covariance = _treated(source, record, numbers, matrix, times)
    facts = {
        "path": str(source.path),
        "dataset": source.dataset or "",
        "sha256": snapshot.sha256 if snapshot else record.sha256,
        **projection,
        **numbers.facts,
        "covariance": source.covariance,
    }
    if first and record.times is None:
        facts["first"] = first
    return Correlator(
        times, matrix @ numbers.mean, covariance, numbers.samples, numbers.dim, where, facts, tuple(flags)
    )


@dataclass(frozen=True, eq=False)
class _Numbers:
    """The mean (T,) of a record with its covariance, ``unfolded`` (T, T), and what is left on the slices in use.

    That is the ``covariance`` (t, t), and the ``samples`` (n, t) along ``dim`` where there are any.
    """

    mean: Array
    unfolded: Array
    covariance: Array
    samples: Array | None
    dim: str
    facts: dict[str, Any]
    flags: list[str]


def _from_mean(
    source: Source, record: Record, present: tuple[int, ...], matrix: Array, _times: tuple[int, ...]
) -> _Numbers:
    """Return the numbers of a file that holds a mean with its errors."""
    mean, unfolded, facts = _given(source, record, present)
    covariance = folding.folded_covariance(unfolded, matrix, correlated=record.errors is None)
    return _Numbers(mean, unfolded, covariance, None, "", facts, [])


def _from_samples(
    source: Source, record: Record, present: tuple[int, ...], matrix: Array, times: tuple[int, ...]
) -> _Numbers:
    """Return the numbers of a file that holds samples; they are folded one by one, since that comes before errors."""
    samples, facts, flags = _independent(source, record, present, matrix, times)
    folded, dim = samples @ matrix.T, "boot" if facts["resampling"] == "bootstrap" else "cfg"
    unfolded, covariance = _covariance(samples, facts), _covariance(folded, facts)
    return _Numbers(samples.mean(axis=0), unfolded, covariance, folded, dim, facts, flags)


def _treated(source: Source, record: Record, numbers: _Numbers, matrix: Array, times: tuple[int, ...]) -> Array:
    """Return the covariance (t, t) as asked for: full, shrunk or diagonal; raise UserError for one that is none."""
    samples, count = numbers.samples, numbers.facts.get("configurations")
    if numbers.dim == "cfg":  # bins as independent as they get say how far to shrink, and whether they are enough
        samples, count = statistics.binned(samples, numbers.facts["correlation_bin"]), None
    exact = np.flatnonzero(np.diag(numbers.covariance) == 0)
    if exact.size:
        raise record.fault(f"variance 0 at t = {times[exact[0]]}; it must be positive")
    covariance = treat(numbers.covariance, source.covariance, record.where, samples, count)
    if source.covariance == "full":
        check_covariance(covariance, times, record.where, rounding=_rounding(record, matrix))
    return covariance


def _covariance(samples: Array, facts: dict[str, Any]) -> Array:
    """Return the covariance (t, t) of the mean of samples (n, t) that :func:`_independent` tells ``facts`` of."""
    if facts["resampling"] == "bootstrap":
        return statistics.covariance_of_bootstrap(samples)
    if "bin" in facts:
        return statistics.covariance_of_mean(samples)
    return statistics.covariance_by_gamma(samples, facts["correlation_bin"])


# --- what the numbers are ------------------------------------------------------------------------------------


def _given(source: Source, record: Record, present: tuple[int, ...]) -> tuple[Array, Array, dict[str, Any]]:
    """Return mean, covariance of the mean and facts of a file without samples."""
    for key in ("resampling", "bin"):
        if getattr(source, key) != getattr(Source, key):
            raise record.fault(f"{key} is for samples, and this file holds a mean with its errors", key)
    error, known = _agreed(source, record, "error", ("mean", "sample")), _configurations(source, record)
    if error is None:
        ask = "are these errors those of the mean, or those of one configuration (sqrt(n) larger)?"
        alone = record.covariance is None and source.covariance != "diagonal"
        also = "; and covariance: diagonal, since errors alone have no correlation between times" if alone else ""
        raise record.fault(f"{ask} say error: mean, or error: sample and configurations: n{also}", "error")
    if error == "sample" and not known:
        raise record.fault("error: sample needs configurations: n, how many there were", "configurations")
    if record.covariance is None and source.covariance != "diagonal":
        allowed = "allowed: covariance: diagonal, or a file with samples or a covariance"
        raise record.fault(f"errors without their correlation between times; {allowed}", "covariance")
    covariance = np.diag(record.errors**2) if record.covariance is None else record.covariance
    if source.covariance != "diagonal":
        check_covariance(covariance, present, record.where, definite=False, rounding=len(present) * record.precision)
    covariance = covariance / (known["configurations"] if error == "sample" else 1)
    return record.mean, covariance, {"resampling": "none", "error_of": error, **known}


def _independent(
    source: Source, record: Record, present: tuple[int, ...], matrix: Array, times: tuple[int, ...]
) -> tuple[Array, dict[str, Any], list[str]]:
    """Return bootstrap means or binned configurations (n, T), facts and flags of a file with samples."""
    samples, size = record.samples, source.bin
    kind = _agreed(source, record, "resampling", get_args(Resampling)) or "configurations"
    for key in ("error",) if kind == "bootstrap" else ("error", "configurations"):
        if getattr(source, key):
            raise record.fault(f"{key} is for a mean with its errors, and these are samples", key)
    if len(samples) < 2:
        raise record.fault("one configuration has no statistical error; at least 2 are needed")
    if (constant := np.flatnonzero((np.ptp(samples, axis=0) == 0) & matrix.any(axis=0))).size:
        raise record.fault(f"t = {present[constant[0]]} is the same in every sample (zero variance)")
    if kind == "bootstrap":
        for key, plain in (("bin", None), ("covariance", "full")):
            if (value := getattr(source, key)) not in (plain, "diagonal"):
                raise record.fault(f"{key}: {value} needs configurations, not bootstrap samples", key)
        return samples, {"resampling": kind, "samples": len(samples), **_configurations(source, record)}, []
    _, first, count = np.unique(samples, axis=0, return_index=True, return_counts=True)
    if (count > 1).any():
        row = int(first[np.argmax(count > 1)])
        again = np.flatnonzero((samples == samples[row]).all(axis=1))[1]
        raise record.fault(f"rows {row} and {again} are the same; each configuration counts once")
    if kind == "jackknife":
        samples = statistics.from_jackknife(samples)
    n = len(samples)
    if size and n // size < 2:
        raise record.fault(f"bin: {size} leaves {n // size} of {n} configurations; needed: 2 or more", "bin")
    folded = samples @ matrix.T
    flags = _damaged(record, folded, times)
    tau, error = statistics.autocorrelation_time(folded)
    i = int(np.argmax(tau - 2 * error))
    facts = {"resampling": kind, "configurations": n, "tau_int": float(tau[i]), "tau_int_error": float(error[i])}
    if size is None:
        bins = max(1, min(round(2 * tau[i]), n // (2 * len(times))))
        most = int(n / max(1, 2 * (tau[i] - 2 * error[i])))
        if source.covariance == "full" and most <= len(times) < n:
            raise record.fault(
                f"{n} configurations with tau_int = {tau[i]:.1f} +- {error[i]:.1f} are at most {most} "
                f"independent ones, which do not determine a covariance of {len(times)} times; allowed remedies: "
                "covariance: shrink or diagonal, or fewer times",
                "covariance",
            )
        independent = max(int(n / (2 * tau[i])), min(n, len(times) + 1))
        facts |= {"samples": n, "dropped": 0, "correlation_bin": bins, "independent": independent}
        return samples, facts, flags
    facts |= {"bin": size, "samples": n // size, "dropped": n % size, "correlation_bin": 1, "independent": n // size}
    return statistics.binned(samples, size), facts, [*flags, *_short(record, size, folded, times, facts)]


def _damaged(record: Record, folded: Array, times: tuple[int, ...]) -> list[str]:
    """Return a flag where a few configurations (n, t) are far away from all others."""
    rows, column, far = statistics.outlying(folded)
    if not rows:
        return []
    which = "configuration" if len(rows) == 1 else "configurations"
    named = ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
    return [
        f"{record.where}: {which} {named}, counted from 0, up to {far:.3g} deviations of the others away, farthest at "
        f"t = {times[column]}: damaged? If so, leave out: numpy.delete(x, {rows[:10]}, axis=0)"
    ]


def _short(record: Record, size: int, folded: Array, times: tuple[int, ...], facts: dict[str, Any]) -> list[str]:
    """Return a flag where an error grows by more than GROWTH, and 2.5 deviations of growth, on doubling the bin."""
    if len(folded) // (2 * size) < 2:
        return []
    grows, deviation = statistics.growth(folded, size)
    i = int(np.argmax(grows))
    if grows[i] <= max(GROWTH, 2.5 * deviation):
        return []
    tau = facts["tau_int"]
    longer = max(2 * size, int(np.ceil(ENOUGH_BINS * (tau - 1 / (4 * tau)))))
    return [
        f"{record.where}: bin {size} is too short: on doubling it the error at t = {times[i]} grows by "
        f"{100 * grows[i]:.0f} +- {100 * deviation:.0f} % (tau_int = {tau:.1f} +- {facts['tau_int_error']:.1f} "
        f"configurations); leave bin out, for the Gamma method, or choose bin: {longer} or more"
    ]


def _configurations(source: Source, record: Record) -> dict[str, int]:
    """Return the number of configurations behind a mean or bootstrap samples, as a fact where it is said."""
    n = _agreed(source, record, "configurations")
    if n is not None and (not isinstance(n, int) or n < 2):
        raise record.fault(f"configurations: {n}; it must be a whole number, 2 or more", "configurations")
    return {"configurations": n} if n else {}


def _agreed(source: Source, record: Record, key: str, allowed: tuple[str, ...] = ()) -> Any:
    """Return what the user or the file says about ``key``.

    Raises UserError where they contradict each other, or where a word is not among those allowed.
    """
    asked, told = getattr(source, key), record.said.get(key)
    for value, who in ((told, "the file says "), (asked, "")):
        if value is not None and allowed and value not in allowed:
            raise record.fault(f"{who}{key}: {value}; allowed: {', '.join(allowed)}", key)
    if None not in (asked, told) and asked != told:
        raise record.fault(f"{key}: {asked}, but the file itself says {told}", key)
    return told if asked is None else asked


def _rounding(record: Record, matrix: Array) -> float:
    """Return how large an eigenvalue of the correlation matrix, (t, t), can be from the rounding of the file alone.

    A covariance is known to the precision of its numbers; that from samples to the square of rounding C(t) over the
    spread of C(t).
    """
    if record.samples is None:
        return len(matrix) * record.precision
    x = record.samples @ matrix.T
    return float(np.max(record.precision * np.abs(x).max(axis=0) / x.std(axis=0, ddof=1)) ** 2)
