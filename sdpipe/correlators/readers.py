"""Correlator files as arrays: one short function a format, chosen by how the file's name ends."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdpipe.correlators import containers
from sdpipe.correlators.records import Array, Record, choose, first_line, real
from sdpipe.errors import UserError


def read(path: Path, dataset: str | None = None) -> Record:
    """Read one correlator; ``dataset`` names it where a file can hold several.

    Raises UserError for a file that is missing, damaged or of another format, for a dataset that is not there
    (with those that are), and for numbers that are not real and finite.
    """
    ending = next((e for e in READERS if path.name.lower().endswith(e)), None)
    if ending is None:
        raise UserError(f"{path}: cannot tell the format; allowed endings of the name: {', '.join(READERS)}")
    _check_kind(path, directory=ending == ".zarr")
    if dataset is not None and ending in WITHOUT_NAMES:
        raise UserError(f"{path}: a {ending} file holds one correlator; leave dataset out", key="dataset")
    try:
        return READERS[ending](path, dataset)
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except UserError:
        raise
    except Exception as error:  # the libraries that read files raise whatever damaged bytes lead them to
        raise UserError(f"{path}: damaged, or not what its name says ({first_line(error)})") from None


def _check_kind(path: Path, directory: bool) -> None:
    """Raise UserError where there is no file, or no ``directory``, of this name."""
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file")
        if not (path.is_dir() if directory else path.is_file()):
            raise UserError(f"{path}: not a {'directory' if directory else 'regular file'}")
    except OSError as error:
        raise UserError(f"{path}: cannot be looked at ({error.strerror})") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or that of the names and contents of all files of a directory."""
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path)} {sha256(file)}\n".encode())
    return total.hexdigest()


def _text(path: Path, _dataset: None) -> Record:
    """Columns ``t C err``, or ``cfg t C``: the second when values of the first column come back."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8: {error.reason} at byte {error.start}") from None
    comma = "," if path.suffix.lower() == ".csv" else None
    rows, numbers = [], []
    for number, line in enumerate(lines, 1):
        content = line.split("#")[0].strip()
        if not content:
            continue
        fields = content.split(comma)
        try:
            row = [float(f) for f in fields]
        except ValueError:
            if not rows and not any(c.isdigit() for c in content):
                continue  # a line of column names
            hint = "decimals are written with a point, columns are separated by blanks, in .csv by commas"
            raise UserError(f"{path}:{number}: {content[:60]!r} is not three numbers; {hint}") from None
        if len(row) != 3:
            raise UserError(f"{path}:{number}: {len(row)} columns; needed t C err, or cfg t C")
        if not np.isfinite(row).all():
            raise UserError(f"{path}:{number}: {content[:60]!r}; all values must be finite")
        rows.append(row)
        numbers.append(number)
    if not rows:
        raise UserError(f"{path}: no numbers in it; needed columns t C err, or cfg t C")
    first, second, third = np.array(rows).T
    if len(np.unique(first)) == len(first) or (second != np.round(second)).any():
        if (third < 0).any():
            number = numbers[int(np.argmax(third < 0))]
            raise UserError(f"{path}:{number}: error {third[third < 0][0]:g}; it must be positive")
        return Record(str(path), mean=second, errors=third, times=first)
    return _long_table(path, first, second, third)


def _long_table(path: Path, cfg: Array, t: Array, C: Array) -> Record:
    """Return samples (cfg, t), in the order of ``cfg``, from one row a configuration and time."""
    labels, times = np.unique(cfg), np.unique(t)
    count = np.zeros((len(labels), len(times)), int)
    row, column = np.searchsorted(labels, cfg), np.searchsorted(times, t)
    np.add.at(count, (row, column), 1)
    if (count != 1).any():
        i, j = np.argwhere(count != 1)[0]
        raise UserError(f"{path}: configuration {labels[i]:g} has t = {times[j]:g} {count[i, j]} times; needed: once")
    samples = np.empty(count.shape)
    samples[row, column] = C
    return Record(str(path), samples=samples, times=times, said={"resampling": "configurations"})


def _pyerrors(path: Path, _dataset: None) -> Record:
    """A Corr or a list of Obs: samples where all come from one ensemble, else the Gamma method's covariance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports scipy.odr
        pe = _optional("pyerrors", path)
    try:
        content = pe.input.json.import_json_string(gzip.decompress(path.read_bytes()).decode(), verbose=False)
    except Exception as error:
        raise UserError(f"{path}: not a readable pyerrors file ({first_line(error)})") from None
    entries = list(content.content if isinstance(content, pe.Corr) else content)
    found = {t: (np.ravel(e) if e is not None else []) for t, e in enumerate(entries)}
    obs = [e[0] for e in found.values() if len(e) == 1 and isinstance(e[0], pe.Obs)]
    times = np.array([t for t, e in found.items() if len(e)], float)
    if not obs or len(obs) != len(times):
        raise UserError(f"{path}: needed one Corr, or one list of Obs, with one value a time")
    first = obs[0]
    if len(first.mc_names) == 1 and all(o.idl == first.idl and not o.cov_names for o in obs):
        columns = [np.concatenate([o.deltas[r] + o.r_values[r] for r in first.names]) for o in obs]
        says = {"resampling": "configurations"}
        return Record(str(path), samples=real(np.array(columns).T, str(path)), times=times, said=says)
    for o in obs:
        o.gamma_method()
    mean = real([o.value for o in obs], str(path))
    return Record(str(path), mean=mean, covariance=pe.covariance(obs), times=times, said={"error": "mean"})


def _gvar(path: Path, dataset: str | None) -> Record:
    """What ``gvar.gdump(g, "x.json")`` wrote: an array (T,), or a dictionary of such arrays.

    gvar evaluates keys, and those of its older format, as Python code: it is given neither.
    """
    gv = _optional("gvar", path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        layout = ("keys", "layouts") if "keys" in content else ("shape",)
        content = {key: content[key] for key in ("means", "bcovs", "bufsize", "fix_cov", *layout)}
        if "keys" in content:
            content["keys"] = [str(key) for key in ast.literal_eval(content["keys"])]
        values = gv.gloads(json.dumps(content))
    except Exception as error:
        raise UserError(f"{path}: not a readable gvar file ({first_line(error)}); needed: gvar.gdump") from None
    where = str(path)
    if hasattr(values, "keys"):
        arrays = {str(k): values[k] for k in values if np.ndim(values[k]) == 1}
        name = choose(dataset, arrays, path)
        values, where = arrays[name], f"{path}: {name}"
    elif dataset is not None:
        raise UserError(f"{path}: one array without names; leave dataset out", key="dataset")
    if np.ndim(values) != 1:
        raise UserError(f"{where}: shape {np.shape(values)}; needed one value a time, (T,)")
    mean, covariance = real(gv.mean(values), where), real(gv.evalcov(values), where)
    return Record(where, mean=mean, covariance=covariance, said={"error": "mean"})


def _optional(name: str, path: Path) -> Any:
    """Import a package that only one format needs."""
    try:
        return __import__(name)
    except ImportError:
        raise UserError(f"{path}: this format needs {name}; run: pip install 'sdpipe[{name}]'") from None


READERS: dict[str, Callable[[Path, Any], Record]] = {
    ".h5": containers.hdf5,
    ".hdf5": containers.hdf5,
    ".npy": containers.npy,
    ".npz": containers.npz,
    ".txt": _text,
    ".dat": _text,
    ".csv": _text,
    ".nc": containers.netcdf,
    ".zarr": containers.zarr_store,
    ".json.gz": _pyerrors,
    ".json": _gvar,
}
"""How the name of a file ends -> its reader."""

WITHOUT_NAMES = (".npy", ".txt", ".dat", ".csv", ".json.gz")
"""Formats that hold one correlator, which has no name."""
