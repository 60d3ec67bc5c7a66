"""Labelled data, in files and in a session: their dimensions and coordinates say what their numbers are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdpipe.correlators.record import Record, assemble, check_numbers, pick, real, said
from sdpipe.errors import UserError

if TYPE_CHECKING:
    import xarray as xr

SAMPLE_DIMS = {"cfg": "configurations", "boot": "bootstrap", "jack": "jackknife"}
"""Dimension names by which a variable says what its samples are."""


def read_labelled(
    data: xr.Dataset, dataset: str | None, path: Path, check: Callable[[str], None] = lambda _: None
) -> Record:
    """Read a variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2), with dimensions in any order.

    A matrix of correlators has two more dimensions, ``i`` and ``j``: its mean is (t, i, j), its covariance (t, i, j,
    t2, i2, j2).

    The coordinate ``t`` has the time slices, along the dimension that it belongs to. ``check`` raises UserError for a
    variable that must not be read.

    Raises UserError where there is no such correlator in the data, and as :class:`Record` does.
    """
    variables = {str(name): variable for name, variable in data.data_vars.items()}
    tables = {name for name, variable in variables.items() if variable.ndim == 2 or {"i", "j"} <= {*variable.dims}}
    if dataset is None and "samples" in tables and "sha256" in data.attrs:  # what read_correlator returned
        dataset = "samples"
    means = {"mean"} & variables.keys() if tables & {"cov", "covariance"} else set()
    name, parts = pick(dataset, tables | means, path)
    timed = "t" in data.coords
    for part in [*parts, *(["t"] if timed else [])]:
        check_numbers(data[part].dtype, data[part].shape, f"{path}: {part}")
        check(part)
    if timed and data["t"].ndim != 1:
        raise UserError(f"{path}: t has dimensions {data['t'].dims}; needed: one time for each slice")
    times = real(data["t"], f"{path}: t") if timed else None
    says = said(data.attrs, variables[name].attrs if name in variables else {})
    if len(parts) == 1:
        variables[name] = _samples_first(variables[name], data["t"].dims[0] if timed else "t")
        _check_square(variables[name], f"{path}: {name}")
        kind = SAMPLE_DIMS.get(str(variables[name].dims[0]))
        says |= {"resampling": kind} if kind else {}
    else:
        if timed:
            _check_same_times(variables[parts[1]], data["t"], f"{path}: {parts[1]}")
        for part in parts if "i" in variables[parts[0]].dims else ():
            variables[part] = variables[part].transpose("t", "i", "j", ..., missing_dims="ignore")
    return assemble(path, name, parts, variables, times=times, said=says)


def _samples_first(variable: xr.DataArray, time: Hashable) -> xr.DataArray:
    """Return a variable with the dimension of its samples first, then that of time, ``i`` and ``j``, those it has."""
    samples = [dim for dim in variable.dims if dim in SAMPLE_DIMS and dim != time]
    matrix = ("i", "j") if variable.ndim != 2 else ()
    return variable.transpose(*samples, ..., time, *matrix, missing_dims="ignore")


def _check_square(variable: xr.DataArray, where: str) -> None:
    """Raise UserError where a variable of more than two dimensions is no square matrix of correlators."""
    sizes = dict(variable.sizes)
    if len(sizes) != 2 and (len(sizes) != 4 or sizes.get("i") is None or sizes["i"] != sizes.get("j")):
        has = ", ".join(f"{dim}: {n}" for dim, n in sizes.items())
        raise UserError(f"{where}: ({has}) is no square matrix; needed: (configurations, t, i, j), as many j as i")


def _check_same_times(covariance: xr.DataArray, times: xr.DataArray, where: str) -> None:
    """Raise UserError where a covariance (t, t2) has other times along one dimension than along the other."""
    for dim in covariance.dims:
        if str(dim)[0] not in "ij" and dim in covariance.coords and not np.array_equal(covariance[dim], times):
            raise UserError(f"{where}: its times along {dim} are not those of t; needed: the same, in the same order")
