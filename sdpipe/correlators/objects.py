"""Objects of pyerrors and gvar, in their JSON files and in a Python session."""

from __future__ import annotations

import ast
import gzip
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sdpipe.arrays import Array
from sdpipe.correlators.labelled import read_labelled
from sdpipe.correlators.record import (
    MOST_NUMBERS,
    Record,
    Snapshot,
    assemble,
    check_numbers,
    choose,
    first_line,
    optional,
    pick,
    real,
    times_first,
)
from sdpipe.correlators.statistics import WINDOW
from sdpipe.errors import UserError

MOST_TEXT = 40_000_000
"""Bytes of a .json.gz when it is unpacked."""


def read_pyerrors(snapshot: Snapshot, dataset: str | None) -> Record:
    """Read a Corr or a list of Obs, of a matrix of correlators the element ``dataset``, such as 0,1."""
    path = snapshot.path
    try:
        with gzip.open(io.BytesIO(snapshot.content)) as packed:
            text = packed.read(MOST_TEXT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a readable pyerrors file ({first_line(error)})") from None
    _check_json(text, path)
    pe = optional("pyerrors", f"{path}: this format")
    try:
        decoded = text.decode()
        del text  # which is as large as what it becomes
        content = pe.input.json.import_json_string(decoded, verbose=False)
    except Exception as error:
        raise UserError(f"{path}: not a readable pyerrors file ({first_line(error)})") from None
    return _read_obs(pe, content, dataset, path)


def _read_obs(pe: Any, content: Any, dataset: str | None, path: Path) -> Record:
    """Return the samples of a Corr or a list of Obs that come from one ensemble, else the sum over their ensembles.

    Of a matrix of correlators from one ensemble these are samples of all of it where no element is named.

    Cov = sum_e Cov_e, each with the errors that the Gamma method of pyerrors finds in its own chain, at the same S as
    :func:`~sdpipe.correlators.statistics.autocorrelation_time`.
    """
    where, whole = str(path), isinstance(content, pe.Corr)
    entries = list(content.content if whole else content)
    by_time = {t: np.asarray(e) for t, e in enumerate(entries) if e is not None}
    if whole and content.N > 1 and dataset is None and (samples := _matrix_samples(pe, by_time)) is not None:
        times = np.array(list(by_time), float)
        return Record(where, real(samples, where), times=times, said={"resampling": "configurations"})
    if whole and content.N > 1:
        name = choose(dataset, [f"{i},{j}" for i in range(content.N) for j in range(content.N)], path)
        i, j = map(int, name.split(","))
        by_time, where = {t: e[i, j] for t, e in by_time.items()}, f"{path}: {name}"
    elif dataset is not None:
        raise UserError(f"{path}: one correlator without a name; leave dataset out", key="dataset")
    obs = [o for e in by_time.values() for o in np.ravel(e) if isinstance(o, pe.Obs)]
    times = np.array(list(by_time), float)
    if not obs or len(obs) != len(times):
        raise UserError(f"{where}: needed one Corr, or one list of Obs, with one value per time")
    first = obs[0]
    if _alike(obs):
        samples = np.array([np.concatenate([o.deltas[r] + o.r_values[r] for r in first.names]) for o in obs]).T
        return Record(where, real(samples, where), times=times, said={"resampling": "configurations"})
    covariance = np.zeros((len(obs), len(obs)))
    for ensemble in sorted({name for o in obs for name in o.mc_names}):
        here = [i for i, o in enumerate(obs) if ensemble in o.mc_names]
        covariance[np.ix_(here, here)] += _ensemble_covariance(pe, [obs[i] for i in here], ensemble)
    for name in sorted({name for o in obs for name in o.cov_names}):
        cov = next(o.covobs[name].cov for o in obs if name in o.cov_names)
        zero = np.zeros(len(cov))
        gradient = np.array([o.covobs[name].grad[:, 0] if name in o.cov_names else zero for o in obs])
        covariance += gradient @ cov @ gradient.T
    mean = real(np.array([o.value for o in obs]), where)
    return Record(where, mean=mean, covariance=covariance, times=times, said={"error": "mean"})


def _alike(obs: list[Any]) -> bool:
    """Return whether these Obs have the same configurations of one ensemble, and no other errors."""
    first = obs[0]
    return len(first.mc_names) == 1 and all(o.idl == first.idl and not o.cov_names for o in obs)


def _matrix_samples(pe: Any, by_time: dict[int, Any]) -> Array | None:
    """Return samples (n, t, i, j) of a matrix of Obs at each time, None where these are not of the same samples."""
    obs = np.array(list(by_time.values()), object)
    if not all(isinstance(o, pe.Obs) for o in obs.flat) or not _alike(list(obs.flat)):
        return None
    samples = [np.concatenate([o.deltas[r] + o.r_values[r] for r in o.names]) for o in obs.flat]
    return np.moveaxis(np.array(samples).reshape(*obs.shape, -1), -1, 0)


def _ensemble_covariance(pe: Any, obs: list[Any], ensemble: str) -> Array:
    """Return the covariance (t, t) that Obs have from one ensemble: Gamma errors, correlations of single samples."""
    chains = sorted({chain for o in obs for chain in o.e_content[ensemble]})
    configurations = {chain: sorted({i for o in obs for i in o.idl.get(chain, ())}) for chain in chains}
    deltas, errors = [], []
    for o in obs:
        mine = o.e_content[ensemble]
        alone = pe.Obs([o.deltas[chain] for chain in mine], mine, idl=[o.idl[chain] for chain in mine])
        alone.gamma_method(S=WINDOW)
        errors.append(alone.dvalue)
        whole = {chain: np.zeros(len(configurations[chain])) for chain in chains}
        for chain in mine:
            whole[chain][np.searchsorted(configurations[chain], o.idl[chain])] = o.deltas[chain]
        deltas.append(np.concatenate(list(whole.values())))
    unit = np.array(deltas) / np.linalg.norm(deltas, axis=1)[:, None]
    return unit @ unit.T * np.outer(errors, errors)


def _check_json(text: bytes, path: Path) -> None:
    """Raise UserError for more text, or more values in it, than those of a correlator."""
    if len(text) > MOST_TEXT:
        raise UserError(f"{path}: more than {MOST_TEXT / 1e6:g} MB of text; allowed: up to that")
    if (count := sum(map(text.count, (b",", b"[", b"{")))) > MOST_NUMBERS:
        raise UserError(f"{path}: {count} values; allowed: up to {MOST_NUMBERS}")


def read_gvar(snapshot: Snapshot, dataset: str | None) -> Record:
    """What ``gvar.gdump(g, "x.json")`` wrote: an array (T,), or a dictionary of such arrays.

    gvar evaluates keys, and those of its older format, as Python code: it is given neither.
    """
    path = snapshot.path
    _check_json(snapshot.content, path)
    gv = optional("gvar", f"{path}: this format")
    try:
        content = json.loads(snapshot.content.decode("utf-8"))
        layout = ("keys", "layouts") if "keys" in content else ("shape",)
        content = {key: content[key] for key in ("means", "bcovs", "bufsize", "fix_cov", *layout)}
        if "keys" in content:
            content["keys"] = [str(key) for key in ast.literal_eval(content["keys"])]
        values = gv.gloads(json.dumps(content))
    except Exception as error:
        raise UserError(f"{path}: not a readable gvar file ({first_line(error)}); needed: gvar.gdump") from None
    if hasattr(values, "keys"):
        arrays = {str(k): values[k] for k in values if np.ndim(values[k]) in (1, 3)}
        name = choose(dataset, arrays, path)
        return _read_gvars(gv, arrays[name], f"{path}: {name}")
    if dataset is not None:
        raise UserError(f"{path}: one array without names; leave dataset out", key="dataset")
    return _read_gvars(gv, values, str(path))


def _read_gvars(gv: Any, values: Any, where: str) -> Record:
    """Return mean and covariance of gvars (T,), or of a matrix (T, i, j) or (i, j, T)."""
    if np.ndim(values) not in (1, 3):
        raise UserError(f"{where}: shape {np.shape(values)}; needed one value per time, (T,), or a matrix (T, n, n)")
    check_numbers(np.dtype(float), np.shape(values) * 2, f"{where}: the covariance")
    mean, covariance = real(gv.mean(values), where), real(gv.evalcov(values), where)
    if mean.ndim == 3:
        mean, covariance = times_first(mean, covariance, where)
    return Record(where, mean=mean, covariance=covariance, said={"error": "mean"})


def read_python(values: Any, dataset: str | None = None) -> Record:
    """Return the correlator in what a Python session holds.

    That is an array of samples (n, T), one of gvars (T,), a pyerrors Corr or list of Obs, what xarray labels, or a
    dictionary of these, or of one pair ``mean`` (T,) and ``cov`` (T, T).

    Raises UserError as :func:`~sdpipe.correlators.formats.parse` does, for masked values, and for anything else.

    >>> read_python({"mean": [1.0, 0.5], "cov": [[0.01, 0.0], [0.0, 0.01]]}).mean.tolist()
    [1.0, 0.5]
    """
    path, kind = Path("array"), _package(values)
    if kind == "xarray":
        return _read_xarray(values, dataset, path)
    if isinstance(values, Mapping):
        return _read_mapping(values, dataset, path)
    if kind == "pyerrors":
        return _read_obs(import_module(kind), values, dataset, path)
    if dataset is not None:
        raise _without_names(path)
    if kind == "gvar":
        return _read_gvars(import_module(kind), values, str(path))
    if kind == "pandas":
        return _read_pandas(values, path)
    array = _plain(values, str(path))
    if array.dtype.kind not in "fiuc":
        known = (
            "an array (configurations, times), one of gvars (T,), a pyerrors Corr or list of Obs, a Dataset or "
            "DataArray of xarray, a dictionary of these"
        )
        raise UserError(f"{path}: {type(values).__name__} of {array.dtype}; allowed: the path of one file, {known}")
    return assemble(path, "", ("",), {"": array})


def _read_mapping(values: Mapping[Any, Any], dataset: str | None, path: Path) -> Record:
    """Return the correlator in a dictionary; of a pair that xarray labels, with its labels."""
    arrays = {str(name): value for name, value in values.items()}
    name, parts = pick(dataset, arrays, path)
    if len(parts) == 1:
        return replace(read_python(arrays[name]), where=f"{path}: {name}")
    kinds = {_package(arrays[part]) for part in parts}
    if "xarray" not in kinds:
        return assemble(path, name, parts, {part: _plain(arrays[part], f"{path}: {part}") for part in parts})
    if len(kinds) > 1:
        raise UserError(f"{path}: {' and '.join(parts)}: one has labels, the other none; needed: both, or neither")
    import xarray as xr

    try:
        both = xr.Dataset({part: arrays[part] for part in parts})
    except ValueError as error:
        raise UserError(f"{path}: {' and '.join(parts)} do not fit together ({first_line(error)})") from None
    return read_labelled(both, dataset, path)


def _read_xarray(values: Any, dataset: str | None, path: Path) -> Record:
    """Return the correlator in a Dataset or a DataArray."""
    if isinstance(values, Mapping):
        return read_labelled(values, dataset, path)
    if dataset is not None:
        raise _without_names(path)
    if values.ndim not in (2, 4):
        matrix = "or (configurations, times, i, j) for a matrix"
        raise UserError(f"{path}: shape {values.shape}; it must be (configurations, times), {matrix}")
    name = "C" if "C" not in values.coords else "values"
    return replace(read_labelled(values.to_dataset(name=name), name, path), where=str(path))


def _read_pandas(values: Any, path: Path) -> Record:
    """Return the samples in a DataFrame; its rows and columns have names, or no labels that could say anything."""
    import pandas as pd
    import xarray as xr

    for which, axis in zip(("index", "columns"), values.axes, strict=False):
        if axis.name is None and not axis.equals(pd.RangeIndex(len(axis))):
            say = f'rename_axis({which}="t") where they are times, or give to_numpy()'
            raise UserError(f"{path}: {which} has labels and no name; say {say}")
    return _read_xarray(xr.DataArray(values), None, path)


def _plain(values: Any, where: str) -> Array:
    """Return an array of what no package labels; raise UserError where values are masked."""
    try:
        array = np.ma.asarray(values)
    except ValueError:
        raise UserError(f"{where}: rows of different lengths; needed: samples (configurations, times)") from None
    if np.ma.is_masked(array):
        leave = "leave such configurations out: x[~numpy.ma.getmaskarray(x).any(axis=1)].data"
        raise UserError(f"{where}: {np.ma.count_masked(array)} values are masked; {leave}")
    return array.data


def _without_names(path: Path) -> UserError:
    return UserError(f"{path}: one correlator without a name; leave dataset out", key="dataset")


def holds_errors(values: Any) -> bool:
    """Return whether these are gvars, or a Corr or Obs of pyerrors: numbers that know their errors."""
    return _package(values) in ("gvar", "pyerrors")


def _package(values: Any) -> str:
    """Return the package whose object this is, or that the first of the objects is in a list or an array."""
    if isinstance(values, (list, tuple, np.ndarray)):
        values = next((v for v in np.asarray(values, dtype=object).flat if v is not None), None)
    return type(values).__module__.partition(".")[0]
