"""Correlator files as arrays: a file is read once, and one short reader per format parses the bytes that were read.

No reader runs code, or opens another file, because the file says so: pickles, object arrays, and HDF5 links, external
and virtual values are refused. No more is unpacked than a correlator can be: how many numbers a file says that it holds
is looked at first.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sdpipe.correlators.statistics import WINDOW
from sdpipe.errors import UserError

if TYPE_CHECKING:
    import h5py

Array = NDArray[np.float64]

LARGEST = 1e150
"""Size of values whose squares are still finite."""

MOST_NUMBERS = 5_000_000
"""Numbers in a correlator, such as 39,000 configurations of 128 times, and in a chunk of one in a file."""

MOST_BYTES = 2**30
"""Size of a file, or of all files of a Zarr store."""

MOST_TEXT = 2**26
"""Bytes of a .json.gz when it is unpacked."""

SAID = ("resampling", "error", "configurations")
"""Attributes by which a file may say what its numbers are; see :class:`Record`."""

SAMPLE_DIMS = {"cfg": "configurations", "boot": "bootstrap", "jack": "jackknife"}
"""Dimension names by which an xarray variable says what its samples are."""

PACKERS = ("blosc", "gzip", "zlib", "zstd")
"""Codecs of Zarr whose result has a bound that is known before."""

HDF5_DEFLATE, HDF5_CHECKSUM = 1, 4
"""The number of HDF5's gzip filter, and the bytes of the checksum that may be packed with a chunk."""

INSIDE = "the numbers must be in the file itself"


# --- bytes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """All bytes of a correlator file, read at one time.

    ``files`` has every file of a Zarr store by its path in the store; a plain file is there as "". ``sha256`` is the
    hash of a plain file, and for a store that of its lines ``PATH SHA256``, one per file.
    """

    path: Path
    sha256: str
    files: dict[str, bytes] = field(repr=False)

    @property
    def content(self) -> bytes:
        """The bytes of a plain file."""
        return self.files[""]


def snapshot(path: Path) -> Snapshot:
    """Read a correlator file, or every file of a Zarr store; nothing opens them again.

    Raises UserError where the ending of the name is of no known format, and for what is missing, is not a regular file
    (a directory for ``.zarr``) or cannot be read.
    """
    store = _ending(path) == ".zarr"
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file")
        if not (path.is_dir() if store else path.is_file()):
            raise UserError(f"{path}: not a {'directory' if store else 'regular file'}")
        inside = sorted(_walk(path)) if store else [path]
        if (size := sum(f.stat().st_size for f in inside)) > MOST_BYTES:
            raise UserError(f"{path}: {size / 1e9:.3g} GB; allowed: up to {MOST_BYTES / 1e9:.3g} GB")
        files = {f.relative_to(path).as_posix() if store else "": f.read_bytes() for f in inside}
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if not store:
        return Snapshot(path, hashes[""], files)
    lines = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    return Snapshot(path, hashlib.sha256(lines.encode()).hexdigest(), files)


def _walk(directory: Path) -> Iterator[Path]:
    """Yield every regular file below a directory."""
    for entry in directory.iterdir():
        if entry.is_dir() and entry.is_symlink():
            raise UserError(f"{entry}: a link to a directory; {INSIDE}")
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


# --- numbers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Record:
    """Samples (n, T), or a mean (T,) with its covariance (T, T) or with errors (T,) alone.

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
        if self.samples is not None and self.samples.ndim != 2:
            raise self.fault(f"shape {self.samples.shape}; it must be (configurations, times)")
        if self.mean is not None and self.covariance is not None:
            mean, cov = self.mean.shape, self.covariance.shape
            if len(mean) != 1 or cov != mean * 2:
                raise self.fault(f"mean has shape {mean} and cov {cov}; needed (T,) and (T, T)")
        for values in (self.samples, self.mean, self.errors):
            if values is not None and (size := max(values.max(), -values.min())) > LARGEST:
                raise self.fault(f"a value of size {size:.3g}; allowed: up to {LARGEST:g}")
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


def parse(snapshot: Snapshot, dataset: str | None = None) -> Record:
    """Return the correlator ``dataset`` in the bytes of a file; the name may be left out where there is one only.

    Raises UserError for bytes that are damaged or of another format, for a dataset that is not there (with those that
    are), and for numbers that are not real and finite.

    >>> record = parse(Snapshot(Path("x.txt"), "", {"": b"1 0.5 0.01"}))
    >>> record.times.tolist(), record.mean.tolist(), record.errors.tolist()
    ([1.0], [0.5], [0.01])
    """
    path, ending = snapshot.path, _ending(snapshot.path)
    if dataset is not None and ending in WITHOUT_NAMES:
        raise UserError(f"{path}: a {ending} file holds one correlator; leave dataset out", key="dataset")
    try:
        return READERS[ending](snapshot, dataset)
    except UserError:
        raise
    except Exception as error:  # the libraries that read files raise whatever damaged bytes lead them to
        raise UserError(f"{path}: damaged, or not what its name says ({_first_line(error)})") from None


def _ending(path: Path) -> str:
    """Return the ending of a name that tells the format."""
    ending = next((e for e in READERS if path.name.lower().endswith(e)), None)
    if ending is None:
        how = CONVERT.get(path.suffix.lower(), 'numpy.save("x.npy", samples), samples being (configurations, times)')
        raise UserError(
            f"{path}: cannot tell the format; allowed endings of the name: {', '.join(READERS)}; to convert: {how}"
        )
    return ending


def _check(dtype: np.dtype, shape: tuple[int, ...], where: str) -> None:
    """Raise UserError for what is said of an array that is still to be read: not numbers, none, or too many."""
    if dtype.kind not in "fiu":
        raise UserError(f"{where}: values must be real numbers, not {dtype}")
    count = math.prod(shape)
    if not count:
        raise UserError(f"{where}: the dataset is empty")
    if count > MOST_NUMBERS:
        words = f"shape {shape}, {8 * count / 1e9:.3g} GB"
        raise UserError(f"{where}: {words}; allowed: up to {MOST_NUMBERS} numbers; average or bin them first")


def _real(values: Any, where: str) -> Array:
    """Return an array, or what reads as one, in float64.

    Raises UserError where it has no or too many values, where they are no real numbers, or where one is not finite.
    """
    _check(values.dtype, values.shape, where)
    values = np.asarray(values).astype(float, copy=False)
    if not (finite := np.isfinite(values)).all():
        first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), values.shape))
        raise UserError(f"{where}: value {values[first]} at index {first}; all values must be finite")
    return values


def _choose(dataset: str | None, names: Iterable[str], path: Path) -> str:
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


def _pick(dataset: str | None, names: Iterable[str], path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the name of a correlator and the names of its arrays: samples, or a mean and its covariance.

    A group that holds ``mean`` and ``cov`` (or ``covariance``) is one correlator, with the name of the group. That of
    the file itself, "", is taken where ``dataset`` is "/", or is not said and there is nothing else.

    >>> _pick(None, ["octet/mean", "octet/cov"], Path("x.h5"))
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
    name = _choose(dataset, names - {part for pair in pairs.values() for part in pair} | pairs.keys(), path)
    return name, pairs.get(name, (name,))


def _record(path: Path, name: str, parts: tuple[str, ...], arrays: Mapping[str, Any], **more: Any) -> Record:
    """Return the record of a correlator that :func:`_pick` picked among ``arrays``."""
    values = [_real(arrays[part], f"{path}: {part}" if part else str(path)) for part in parts]
    roles = ("samples",) if len(parts) == 1 else ("mean", "covariance")
    where = f"{path}: {name}" if name else str(path)
    return Record(where, **dict(zip(roles, values, strict=True)), stored=arrays[parts[-1]].dtype, **more)


def _said(*attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the attributes of a file say about its numbers, the last first, as strings and whole numbers."""
    values = {key: told[key] for told in attributes for key in SAID if key in told}
    return {k: int(v) if isinstance(v, (int, np.integer)) else str(v) for k, v in values.items()}


def _first_line(error: BaseException) -> str:
    """Return the beginning of another library's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


# --- formats -------------------------------------------------------------------------------------------------


def _open_hdf5(snapshot: Snapshot, kind: str) -> h5py.File:
    import h5py

    try:
        return h5py.File(io.BytesIO(snapshot.content), "r")
    except OSError as error:
        raise UserError(f"{snapshot.path}: not a readable {kind} file ({_first_line(error)})") from None


def _hdf5_nodes(file: h5py.File) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """Return the datasets of a file by name, and the names that are links to elsewhere; each group is entered once."""
    import h5py

    datasets, links, groups, entered = {}, [], [("", file["/"])], set()
    while groups:
        prefix, group = groups.pop()
        entered.add(h5py.h5o.get_info(group.id).addr)
        for key in group:
            name = prefix + key
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                links.append(name)
            elif isinstance(node := group[key], h5py.Dataset):
                datasets[name] = node
            elif isinstance(node, h5py.Group) and h5py.h5o.get_info(node.id).addr not in entered:
                groups.append((f"{name}/", node))
    return datasets, sorted(links)


def _check_inside(node: h5py.Dataset, where: str) -> None:
    if node.external or node.is_virtual:
        raise UserError(f"{where}: its values are in other files; {INSIDE}")


def _check_chunks(node: h5py.Dataset, where: str) -> None:
    """Raise UserError where a chunk of a dataset is larger than a correlator, or unpacks to more than it says."""
    if not node.chunks:
        return
    _check(node.dtype, node.chunks, f"{where}: a chunk of it")
    most, filters = math.prod(node.chunks) * node.dtype.itemsize + HDF5_CHECKSUM, node.id.get_create_plist()
    if [filters.get_filter(i)[0] for i in range(filters.get_nfilters())].count(HDF5_DEFLATE) > 1:
        raise UserError(f"{where}: packed more than once; allowed: once")

    def check(chunk: h5py.h5d.StoreInfo) -> None:
        if node.compression == "gzip" and not chunk.filter_mask:
            _check_packed("gzip", node.id.read_direct_chunk(chunk.chunk_offset)[1], most, where)

    node.id.chunk_iter(check)


def _check_packed(packer: str, data: bytes, most: int, where: str) -> None:
    """Raise UserError where the bytes of a chunk unpack to more than ``most``."""
    if packer == "blosc":
        size = int.from_bytes(data[4:8], "little")
    elif packer == "zstd":  # RFC 8878, section 3.1.1.1
        flags, at = data[4], 5 + (not data[4] & 32) + (0, 1, 2, 4)[data[4] & 3]
        width = (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
        size = int.from_bytes(data[at : at + width], "little") if width else most + 1
    else:
        size = len(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, most + 1))
    if size > most:
        raise UserError(f"{where}: a chunk of it unpacks to more than its {most} bytes")


def _hdf5(snapshot: Snapshot, dataset: str | None) -> Record:
    """Dataset (n, T), or ``mean`` (T,) and ``cov`` (T, T) in a group or in the file itself (``/``)."""
    path = snapshot.path
    with _open_hdf5(snapshot, "HDF5") as file:
        nodes, links = _hdf5_nodes(file)
        if dataset is not None:
            dataset = dataset.strip("/") or "/"
            if any(f"{dataset}/".startswith(f"{link}/") for link in links):
                raise UserError(f"{path}: {dataset}: a link; {INSIDE}", key="dataset")
        if links and not nodes:
            raise UserError(f"{path}: {links[0]}: a link; {INSIDE}")
        name, parts = _pick(dataset, nodes, path)
        for part in parts:
            _check_inside(nodes[part], f"{path}: {part}")
            _check(nodes[part].dtype, nodes[part].shape, f"{path}: {part}")
            _check_chunks(nodes[part], f"{path}: {part}")
        return _record(path, name, parts, nodes, said=_said(file.attrs, file[name or "/"].attrs))


def _numpy(snapshot: Snapshot, dataset: str | None) -> Record:
    """Array (n, T); in .npz several of them by name, or one pair ``mean`` (T,) and ``cov`` (T, T)."""
    path, content = snapshot.path, io.BytesIO(snapshot.content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what makes NumPy warn makes it fail right after
            streams: dict[str, Any] = {"": content}
            if snapshot.content.startswith(b"PK"):
                archive = zipfile.ZipFile(content)
                streams = {name.removesuffix(".npy"): archive.open(name) for name in archive.namelist()}
            name, parts = _pick(dataset, streams, path)
            arrays = {part: _array(streams[part], f"{path}: {part}" if part else str(path)) for part in parts}
    except UserError:
        raise
    except Exception:  # NumPy and zipfile raise whatever the bytes lead them to
        raise UserError(f"{path}: not a readable NumPy file of numbers; pickled objects are not read") from None
    return _record(path, name, parts, arrays)


def _array(stream: Any, where: str) -> NDArray[Any]:
    """Read one array in NumPy's format, after a look at its header."""
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
    shape, _, dtype = header(stream)
    if not dtype.hasobject:
        _check(dtype, shape, where)
    stream.seek(0)
    return npy.read_array(stream, allow_pickle=False)


def _netcdf(snapshot: Snapshot, dataset: str | None) -> Record:
    """Variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2)."""
    path, of_hdf5 = snapshot.path, snapshot.content.startswith(b"\x89HDF")
    if not (of_hdf5 or snapshot.content.startswith(b"CDF")):
        raise UserError(f"{path}: not a readable NetCDF file")
    if not of_hdf5:
        return _xarray(path, dataset, "NetCDF file", io.BytesIO(snapshot.content), lambda _: None, engine="scipy")
    with _open_hdf5(snapshot, "NetCDF") as file:
        nodes, links = _hdf5_nodes(file)
        if links:
            raise UserError(f"{path}: {links[0]}: a link; {INSIDE}")
        for name, node in nodes.items():
            _check_inside(node, f"{path}: {name}")

        def check(name: str) -> None:
            _check_chunks(nodes[name], f"{path}: {name}")

        return _xarray(path, dataset, "NetCDF file", io.BytesIO(snapshot.content), check, engine="h5netcdf")


def _zarr(snapshot: Snapshot, dataset: str | None) -> Record:
    """Variable (samples, t), or ``mean`` (t) and ``covariance`` (t, t2)."""
    import zarr
    from zarr.core.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    if not {"zarr.json", ".zgroup"} & snapshot.files.keys():
        raise UserError(f"{snapshot.path}: not a readable Zarr store (neither zarr.json nor .zgroup in it)")
    store = MemoryStore({name: Buffer.from_bytes(content) for name, content in snapshot.files.items()}, read_only=True)

    def check(name: str) -> None:
        array, where = zarr.open_array(store, path=name, mode="r"), f"{snapshot.path}: {name}"
        _check(array.dtype, array.chunks, f"{where}: a chunk of it")
        packers = [_name(codec) for codec in array.compressors if _name(codec) != "crc32c"]
        filters = array.filters if array.metadata.zarr_format == 2 else ()
        if array.shards or filters or len(packers) > 1 or not set(packers) <= set(PACKERS):
            allowed = f"no shards, and no codec or one of {', '.join(PACKERS)}"
            raise UserError(f"{where}: shards, or codecs that cannot be bounded; allowed: {allowed}")
        most = math.prod(array.chunks) * array.dtype.itemsize
        for chunk in np.ndindex(*(-(-n // step) for n, step in zip(array.shape, array.chunks, strict=True))):
            file = f"{name}/{array.metadata.encode_chunk_key(chunk)}"
            if file not in snapshot.files:
                raise UserError(f"{snapshot.path}/{file}: lost; every chunk must be there: copy the store again")
            for packer in packers:
                _check_packed(packer, snapshot.files[file], most, where)

    return _xarray(snapshot.path, dataset, "Zarr store", store, check, engine="zarr", consolidated=False)


def _name(codec: Any) -> str:
    """Return the name of a codec of Zarr, of version 2 or 3 of its format."""
    return codec.codec_id if hasattr(codec, "codec_id") else codec.to_dict()["name"]


def _xarray(
    path: Path, dataset: str | None, kind: str, source: Any, check: Callable[[str], None], **how: Any
) -> Record:
    """Read what xarray opens; ``check`` raises UserError for a variable that must not be read."""
    import xarray as xr

    try:
        opened = xr.open_dataset(source, decode_times=False, create_default_indexes=False, **how)
    except Exception as error:
        raise UserError(f"{path}: not a readable {kind} ({_first_line(error)})") from None
    with opened as data:
        arrays = {str(name): variable for name, variable in data.data_vars.items()}
        names = {name for name, variable in arrays.items() if variable.ndim == 2}
        if dataset is None and "samples" in names and "sha256" in data.attrs:  # what read_correlator returned
            dataset = "samples"
        means = {"mean"} & arrays.keys() if names & {"cov", "covariance"} else set()
        name, parts = _pick(dataset, names | means, path)
        for part in [*parts, *(["t"] if "t" in data.coords else [])]:
            _check(data[part].dtype, data[part].shape, f"{path}: {part}")
            check(part)
        says = _said(data.attrs, arrays[name].attrs if name else {})
        if name:
            arrays[name] = arrays[name].transpose(..., "t", missing_dims="ignore")
            if (dim := arrays[name].dims[0]) in SAMPLE_DIMS:
                says["resampling"] = SAMPLE_DIMS[str(dim)]
        times = _real(data["t"], f"{path}: t") if "t" in data.coords else None
        return _record(path, name, parts, arrays, times=times, said=says)


def _text(snapshot: Snapshot, dataset: str | None) -> Record:
    """Columns ``t C err`` (also ``t C(err)``, ``t re im err``) or ``cfg t C``, or one configuration in each row.

    Rows of a gvar.dataset file are configurations behind the name of their correlator.
    """
    path = snapshot.path
    try:
        lines = snapshot.content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8: {error.reason} at byte {error.start}") from None
    if len(lines) > MOST_NUMBERS:
        raise UserError(f"{path}: {len(lines)} lines; allowed: up to {MOST_NUMBERS}")
    comma = "," if path.suffix.lower() == ".csv" else None
    tables: dict[str, dict[int, list[float]]] = {}
    for number, line in enumerate(lines, 1):
        content = line.split("#")[0].strip()
        if not content or (not tables and not any(c.isdigit() for c in content)):
            continue  # a line of column names
        try:
            name, row = _row(content, comma)
        except ValueError:
            hint = "decimals are written with a point, columns are separated by blanks, in .csv by commas"
            raise UserError(f"{path}:{number}: {content[:60]!r} is not a row of numbers; {hint}") from None
        if not np.isfinite(row).all():
            raise UserError(f"{path}:{number}: {content[:60]!r}; all values must be finite")
        rows = tables.setdefault(name, {})
        if len(row) != (width := len(next(iter(rows.values()), row))):
            raise UserError(f"{path}:{number}: {len(row)} columns, but {width} in the rows above")
        rows[number] = row
    if not tables:
        raise UserError(f"{path}: no numbers in it; {NEEDED}")
    if "" not in tables:
        name = _choose(dataset, tables, path)
        return Record(f"{path}: {name}", samples=np.array(list(tables[name].values())))
    if dataset is not None:
        raise UserError(f"{path}: this file holds one correlator; leave dataset out", key="dataset")
    if len(tables) > 1:
        raise UserError(f"{path}: rows with and without a name in front; needed: one kind")
    return _table(path, np.array(list(tables[""].values())), list(tables[""]))


NEEDED = "needed columns t C err, t C(err), t re im err or cfg t C, or one configuration in each row"

NUMBER_WITH_ERROR = re.compile(r"([-+]?\d*\.?(\d*))\((\d*\.?\d+)\)(?:[eE]([-+]?\d+))?")
"""As in 519.32(66) or 1.5(2)e-3."""


def _row(content: str, comma: str | None) -> tuple[str, list[float]]:
    """Return the name in front of a row, empty where there is none, and its numbers; raise ValueError for others.

    >>> _row("eta [519.32, 2e-3]", None), _row("3 519.32(66)", None)
    (('eta', [519.32, 0.002]), ('', [3.0, 519.32, 0.66]))
    """
    fields, name = content.split(comma), ""
    if len(fields) > 1 and re.match(r"[^\W\d]", fields[0]) and fields[0].lower() not in ("nan", "inf", "infinity"):
        name = fields[0]
        fields = re.split(r"[\s,]+", content[len(name) :].strip(" \t,[]"))
    row: list[float] = []
    for text in map(str.strip, fields):
        if found := NUMBER_WITH_ERROR.fullmatch(text):
            mean, decimals, error, exponent = found.groups()
            unit = 10.0 ** int(exponent or 0)
            row += [float(mean) * unit, float(error) * unit * (1 if "." in error else 10.0 ** -len(decimals))]
        else:
            row.append(float(text))
    return name, row


def _table(path: Path, rows: Array, lines: list[int]) -> Record:
    """Return the record of a table of numbers without names; ``lines`` are those of its rows in the file."""
    width, first, second = rows.shape[1], rows[:, 0], rows[:, min(1, rows.shape[1] - 1)]
    whole = [bool((column == np.round(column)).all()) for column in (first, second)]
    if width < 3:
        raise UserError(f"{path}:{lines[0]}: {width} columns; {NEEDED}")
    if width == 3 and len(np.unique(first)) < len(first) and whole[1]:
        return _long_table(path, *rows.T)
    if width > 4 or (width == 4 and not whole[0]):
        if whole[0]:
            drop = (
                "take the column of numbers of configurations away: numpy.savetxt('x.txt', numpy.loadtxt(FILE)[:, 1:])"
            )
            raise UserError(f"{path}: {width} columns, whole numbers in the first; {drop}")
        return Record(str(path), samples=rows)
    if width == 4 and len(np.unique(first)) < len(first):
        drop = "take the imaginary part away: numpy.savetxt('x.txt', numpy.loadtxt(FILE)[:, :3])"
        raise UserError(f"{path}: 4 columns, with values of the first that come back; for cfg t re im {drop}")
    errors = rows[:, -1]
    if (errors < 0).any():
        i = int(np.argmax(errors < 0))
        raise UserError(f"{path}:{lines[i]}: error {errors[i]:g}; it must be positive")
    if width == 4 and (large := np.abs(rows[:, 2]) > IMAGINARY * errors).any():
        i = int(np.argmax(large))
        sizes = f"{rows[i, 2]:g} with error {errors[i]:g}"
        raise UserError(f"{path}:{lines[i]}: imaginary part {sizes}; allowed in t re im err: {IMAGINARY:g} errors")
    return Record(str(path), mean=second, errors=errors, times=first)


IMAGINARY = 5.0
"""Errors up to which an imaginary part counts as zero."""


def _long_table(path: Path, cfg: Array, t: Array, C: Array) -> Record:
    """Return samples (cfg, t), in the order of ``cfg``, from one row per configuration and time."""
    (labels, row), (times, column) = np.unique(cfg, return_inverse=True), np.unique(t, return_inverse=True)
    cells, count = np.unique(row * len(times) + column, return_counts=True)
    wrong = np.flatnonzero((cells != np.arange(len(cells))) | (count != 1))
    if wrong.size or len(cells) < len(labels) * len(times):  # looked at before there is room for all of them
        at = int(wrong[0]) if wrong.size else len(cells)
        there = int(count[at]) if wrong.size and cells[at] == at else 0
        label, t = labels[at // len(times)], times[at % len(times)]
        raise UserError(f"{path}: configuration {label:g} has t = {t:g} {there} times; needed: once")
    samples = np.empty((len(labels), len(times)))
    samples[row, column] = C
    return Record(str(path), samples=samples, times=times, said={"resampling": "configurations"})


def _pyerrors(snapshot: Snapshot, dataset: str | None) -> Record:
    """A Corr or a list of Obs, see :func:`_of_obs`; of a matrix of correlators the element ``dataset``, such as 0,1."""
    path = snapshot.path
    try:
        with gzip.open(io.BytesIO(snapshot.content)) as packed:
            text = packed.read(MOST_TEXT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a readable pyerrors file ({_first_line(error)})") from None
    _check_json(text, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports scipy.odr
        pe = _optional("pyerrors", path)
    try:
        content = pe.input.json.import_json_string(text.decode(), verbose=False)
    except Exception as error:
        raise UserError(f"{path}: not a readable pyerrors file ({_first_line(error)})") from None
    return _of_obs(pe, content, dataset, path)


def _of_obs(pe: Any, content: Any, dataset: str | None, path: Path) -> Record:
    """Return the samples of a Corr or a list of Obs that come from one ensemble, else the sum over their ensembles.

    Cov = sum_e Cov_e, each with the errors that the Gamma method of pyerrors finds in its own chain, at the same S as
    :func:`~sdpipe.correlators.statistics.autocorrelation_time`.
    """
    where, whole = str(path), isinstance(content, pe.Corr)
    entries = list(content.content if whole else content)
    found = {t: np.asarray(e) for t, e in enumerate(entries) if e is not None}
    if whole and content.N > 1:
        name = _choose(dataset, [f"{i},{j}" for i in range(content.N) for j in range(content.N)], path)
        i, j = map(int, name.split(","))
        found, where = {t: e[i, j] for t, e in found.items()}, f"{path}: {name}"
    elif dataset is not None:
        raise UserError(f"{path}: one correlator without a name; leave dataset out", key="dataset")
    obs = [o for e in found.values() for o in np.ravel(e) if isinstance(o, pe.Obs)]
    times = np.array(list(found), float)
    if not obs or len(obs) != len(times):
        raise UserError(f"{where}: needed one Corr, or one list of Obs, with one value per time")
    first = obs[0]
    if len(first.mc_names) == 1 and all(o.idl == first.idl and not o.cov_names for o in obs):
        samples = np.array([np.concatenate([o.deltas[r] + o.r_values[r] for r in first.names]) for o in obs]).T
        return Record(where, _real(samples, where), times=times, said={"resampling": "configurations"})
    covariance = np.zeros((len(obs), len(obs)))
    for ensemble in sorted({name for o in obs for name in o.mc_names}):
        here = [i for i, o in enumerate(obs) if ensemble in o.mc_names]
        covariance[np.ix_(here, here)] += _of_ensemble(pe, [obs[i] for i in here], ensemble)
    for name in sorted({name for o in obs for name in o.cov_names}):
        cov = next(o.covobs[name].cov for o in obs if name in o.cov_names)
        zero = np.zeros(len(cov))
        gradient = np.array([o.covobs[name].grad[:, 0] if name in o.cov_names else zero for o in obs])
        covariance += gradient @ cov @ gradient.T
    mean = _real(np.array([o.value for o in obs]), where)
    return Record(where, mean=mean, covariance=covariance, times=times, said={"error": "mean"})


def _of_ensemble(pe: Any, obs: list[Any], ensemble: str) -> Array:
    """Return the covariance (t, t) that Obs have from one ensemble: Gamma errors, correlations of single samples."""
    chains = sorted({chain for o in obs for chain in o.e_content[ensemble]})
    found = {chain: sorted({i for o in obs for i in o.idl.get(chain, ())}) for chain in chains}
    deltas, errors = [], []
    for o in obs:
        mine = o.e_content[ensemble]
        alone = pe.Obs([o.deltas[chain] for chain in mine], mine, idl=[o.idl[chain] for chain in mine])
        alone.gamma_method(S=WINDOW)
        errors.append(alone.dvalue)
        whole = {chain: np.zeros(len(found[chain])) for chain in chains}
        for chain in mine:
            whole[chain][np.searchsorted(found[chain], o.idl[chain])] = o.deltas[chain]
        deltas.append(np.concatenate(list(whole.values())))
    unit = np.array(deltas) / np.linalg.norm(deltas, axis=1)[:, None]
    return unit @ unit.T * np.outer(errors, errors)


def _check_json(text: bytes, path: Path) -> None:
    """Raise UserError for more text, or more values in it, than those of a correlator."""
    if len(text) > MOST_TEXT:
        raise UserError(f"{path}: more than {MOST_TEXT / 1e9:.2g} GB of text; allowed: up to that")
    if (count := sum(map(text.count, (b",", b"[", b"{")))) > MOST_NUMBERS:
        raise UserError(f"{path}: {count} values; allowed: up to {MOST_NUMBERS}")


def _gvar(snapshot: Snapshot, dataset: str | None) -> Record:
    """What ``gvar.gdump(g, "x.json")`` wrote: an array (T,), or a dictionary of such arrays.

    gvar evaluates keys, and those of its older format, as Python code: it is given neither.
    """
    path = snapshot.path
    _check_json(snapshot.content, path)
    gv = _optional("gvar", path)
    try:
        content = json.loads(snapshot.content.decode("utf-8"))
        layout = ("keys", "layouts") if "keys" in content else ("shape",)
        content = {key: content[key] for key in ("means", "bcovs", "bufsize", "fix_cov", *layout)}
        if "keys" in content:
            content["keys"] = [str(key) for key in ast.literal_eval(content["keys"])]
        values = gv.gloads(json.dumps(content))
    except Exception as error:
        raise UserError(f"{path}: not a readable gvar file ({_first_line(error)}); needed: gvar.gdump") from None
    if hasattr(values, "keys"):
        arrays = {str(k): values[k] for k in values if np.ndim(values[k]) == 1}
        name = _choose(dataset, arrays, path)
        return _of_gvar(gv, arrays[name], f"{path}: {name}")
    if dataset is not None:
        raise UserError(f"{path}: one array without names; leave dataset out", key="dataset")
    return _of_gvar(gv, values, str(path))


def _of_gvar(gv: Any, values: Any, where: str) -> Record:
    """Return mean and covariance of gvars (T,)."""
    if np.ndim(values) != 1:
        raise UserError(f"{where}: shape {np.shape(values)}; needed one value per time, (T,)")
    _check(np.dtype(float), np.shape(values) * 2, f"{where}: the covariance")
    mean, covariance = _real(gv.mean(values), where), _real(gv.evalcov(values), where)
    return Record(where, mean=mean, covariance=covariance, said={"error": "mean"})


def of_python(values: Any, dataset: str | None = None) -> Record:
    """Return the correlator in what a Python session holds.

    That is an array of samples (n, T), one of gvars (T,), a pyerrors Corr or list of Obs, or a dictionary of these, or
    of one pair ``mean`` (T,) and ``cov`` (T, T). Raises UserError as :func:`parse` does, and for anything else.

    >>> of_python({"mean": [1.0, 0.5], "cov": [[0.01, 0.0], [0.0, 0.01]]}).mean.tolist()
    [1.0, 0.5]
    """
    path = Path("array")
    if isinstance(values, Mapping):
        arrays = {str(name): value for name, value in values.items()}
        name, parts = _pick(dataset, arrays, path)
        if len(parts) == 2:
            return _record(path, name, parts, {part: np.asarray(arrays[part]) for part in parts})
        record = of_python(arrays[name])
        return replace(record, where=f"{path}: {name}")
    kind = _package(values)
    if kind == "pyerrors":
        return _of_obs(import_module(kind), values, dataset, path)
    if dataset is not None:
        raise UserError(f"{path}: one correlator without a name; leave dataset out", key="dataset")
    if kind == "gvar":
        return _of_gvar(import_module(kind), values, str(path))
    try:
        array = np.asarray(values)
    except ValueError:
        raise UserError(f"{path}: rows of different lengths; needed: samples (configurations, times)") from None
    if array.dtype.kind not in "fiuc":
        known = (
            "an array (configurations, times), one of gvars (T,), a pyerrors Corr or list of Obs, a dictionary of these"
        )
        raise UserError(f"{path}: {type(values).__name__} of {array.dtype}; allowed: the path of one file, {known}")
    return _record(path, "", ("",), {"": array})


def _package(values: Any) -> str:
    """Return the package whose object this is, or that the first of the objects is in a list or an array."""
    if isinstance(values, (list, tuple, np.ndarray)):
        values = next((v for v in np.asarray(values, dtype=object).flat if v is not None), None)
    return type(values).__module__.partition(".")[0]


def _optional(name: str, path: Path) -> Any:
    """Import a package that only one format needs."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"{path}: this format needs {name}; run: pip install 'sdpipe[{name}]'") from None


READERS: dict[str, Callable[[Snapshot, Any], Record]] = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".npy": _numpy,
    ".npz": _numpy,
    ".txt": _text,
    ".dat": _text,
    ".csv": _text,
    ".nc": _netcdf,
    ".zarr": _zarr,
    ".json.gz": _pyerrors,
    ".json": _gvar,
}
"""How the name of a file ends -> its reader."""

CONVERT = {
    ".rdata": 'in R: write.table(x, "x.txt", row.names=FALSE, col.names=FALSE), x being (configurations, times)',
    ".rds": 'in R: write.table(readRDS("x.rds"), "x.txt", row.names=FALSE, col.names=FALSE)',
    ".pkl": 'numpy.save("x.npy", pickle.load(open("x.pkl", "rb"))); gvars: gvar.gdump(g, "x.json")',
    ".mat": 'numpy.save("x.npy", scipy.io.loadmat("x.mat")["C"])',
    ".xlsx": "save it as CSV, columns t C err or cfg t C",
    ".parquet": 'pandas.read_parquet("x.parquet").to_csv("x.csv", index=False), columns t C err or cfg t C',
    ".root": 'numpy.save("x.npy", uproot.open("x.root")["tree"]["C"].array(library="np"))',
    ".gz": "gunzip FILE",
}
"""How the name of a file ends that is not read -> the one line that makes of it one that is."""

WITHOUT_NAMES = (".npy",)
"""Formats that hold one correlator, which has no name."""
