"""Correlators with labels: what users of Python and readers of a run see."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import xarray as xr

from sdpipe.correlators.correlator import Correlator, ErrorOf, Resampling, Source, load
from sdpipe.errors import UserError
from sdpipe.physics.noise import Treatment


def describe(facts: dict[str, Any]) -> str:
    """Say in a few words how a correlator was read.

    >>> describe({"resampling": "configurations", "samples": 112, "bin": 2, "covariance": "full",
    ...           "configurations": 225, "dropped": 1, "tau_int": 0.71, "tau_int_error": 0.16})
    '225 configurations in bins of 2 (1 left over), tau_int 0.71 +- 0.16; covariance full'
    """
    kind, size = facts["resampling"], facts["bin"]
    words = "a mean with its errors" if kind == "none" else f"{facts['samples']} {kind} samples"
    if "tau_int" not in facts:
        words += f" of {facts['configurations']} configurations" if "configurations" in facts else ""
    else:
        words = f"{facts['configurations']} {kind if kind == 'configurations' else f'{kind} samples'}"
        words += f" in bins of {size}" if size > 1 else ""
        words += f" ({facts['dropped']} left over)" if facts["dropped"] else ""
        words += f", tau_int {facts['tau_int']:.2f} +- {facts['tau_int_error']:.2f}"
    return f"{words}; covariance {facts['covariance']}"


def keys(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the config that read the same correlator again, without defaults.

    >>> keys({"path": "x.txt", "dataset": "", "resampling": "none", "error_of": "sample", "configurations": 40,
    ...       "bin": 1, "covariance": "diagonal"})
    {'path': 'x.txt', 'error': 'sample', 'configurations': 40, 'covariance': 'diagonal'}
    """
    kind, size = facts["resampling"], int(facts["bin"])
    found = {
        "path": facts["path"],
        "dataset": facts["dataset"],
        "resampling": kind if kind in ("bootstrap", "jackknife") else None,
        "error": facts.get("error_of"),
        "configurations": int(facts.get("configurations", 0)) if kind in ("none", "bootstrap") else None,
        "bin": size if size > 1 else None,
        "covariance": facts["covariance"] if facts["covariance"] != "full" else None,
    }
    return {key: value for key, value in found.items() if value}


def labelled(correlator: Correlator) -> xr.Dataset:
    """Return a correlator as ``samples (cfg|boot, t)`` where there are any, ``mean (t)``, ``covariance (t, t2)``."""
    c = correlator
    data = xr.Dataset(
        {
            "mean": ("t", c.mean, {"long_name": "C(t)"}),
            "covariance": (("t", "t2"), c.covariance, {"long_name": "covariance of the mean"}),
        },
        coords={name: (name, list(c.times), {"units": "lattice units"}) for name in ("t", "t2")},
        attrs={**c.facts, "error": "mean", "flags": list(c.flags)},
    )
    if c.samples is not None:
        data["samples"] = ((c.dim, "t"), c.samples, {"long_name": "bootstrap means" if c.dim == "boot" else "C(t)"})
    return data


def unlabelled(data: xr.Dataset) -> Correlator:
    """Return the correlator behind the result of :func:`read_correlator`."""
    samples = data.get("samples")
    dim = "" if samples is None else str(samples.dims[0])
    facts = {k: v for k, v in data.attrs.items() if k not in ("error", "flags")}
    times, where, flags = data.t.values.tolist(), str(data.attrs["path"]), tuple(data.attrs["flags"])
    values = None if samples is None else samples.values
    return Correlator(tuple(times), data["mean"].values, data["covariance"].values, values, dim, where, facts, flags)


def read_correlator(
    path: str | Path,
    dataset: str | None = None,
    *,
    resampling: Resampling | None = None,
    error: ErrorOf | None = None,
    configurations: int | None = None,
    bin: int = 1,  # noqa: A002 - the name of the config's key
    covariance: Treatment = "full",
    period: int | None = None,
    times: tuple[int, int] | None = None,
) -> xr.Dataset:
    """Read a correlator from a file of any known format (docs/correlators.md).

    Parameters
    ----------
    path, dataset, resampling, error, configurations, bin, covariance
        As in the config, see :class:`Source`.
    period
        T in lattice units: data over a whole period are folded, [C(t) + C(T - t)] / 2.
    times
        First and last time slice of the result; default: all of the file, up to T/2 where it is folded.

    Returns
    -------
    ``mean (t)``, ``covariance (t, t2)`` of that mean, and where the file holds any ``samples``: configurations
    ``(cfg, t)``, binned, with jackknife samples turned back into configurations; or bootstrap means ``(boot, t)``.
    Attributes: path, dataset, sha256, resampling, configurations, bin, tau_int (in configurations, at the slice
    where it is largest beyond its error), error_of (what the errors in the file are of: mean or sample), covariance,
    and ``flags``, each of which is also a warning.

    Raises
    ------
    UserError
        For a file that cannot be read or used; the message says what is allowed.
    """
    for key, value, allowed, words in (
        ("path", path, isinstance(path, (str, PathLike)), "the path of one file"),
        ("bin", bin, bin >= 1, "1 or more"),
        ("covariance", covariance, covariance in get_args(Treatment), ", ".join(get_args(Treatment))),
        ("times", times, times is None or (len(times) == 2 and 0 <= times[0] <= times[1]), "(first, last), from 0"),
        ("period", period, period is None or period >= 2, "2 or more"),
    ):
        if not allowed:
            raise UserError(f"read_correlator: {key}: {value} is not allowed; allowed: {words}", key=key)
    source = Source(Path(path).expanduser(), dataset, resampling, error, configurations, bin, covariance)
    correlator = load(source, period, None if times is None else tuple(range(times[0], times[1] + 1)))
    for flag in correlator.flags:
        warnings.warn(flag, stacklevel=2)
    return labelled(correlator)
