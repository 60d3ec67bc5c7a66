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
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

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
        raise UserError(f"{path}: cannot tell the format; allowed endings of the name: {', '.join(READERS)}")
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
    the file itself, "", is taken where ``dataset`` is not said.

    >>> _pick(None, ["octet/mean", "octet/cov"], Path("x.h5"))
    ('octet', ('octet/mean', 'octet/cov'))
    """
    names, pairs = set(names), {}
    for mean in (n for n in names if n.rpartition("/")[2] == "mean"):
        group = mean.removesuffix("mean")
        both = [cov for cov in (f"{group}cov", f"{group}covariance") if cov in names]
        if len(both) == 1:
            pairs[group.removesuffix("/")] = (mean, both[0])
    own = pairs.pop("", None)
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
            dataset = dataset.strip("/")
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
        if dataset is None and "samples" in names:
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


def _text(snapshot: Snapshot, _dataset: None) -> Record:
    """Columns ``t C err``, or ``cfg t C``: the second when values of the first column come back."""
    path = snapshot.path
    try:
        lines = snapshot.content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8: {error.reason} at byte {error.start}") from None
    if len(lines) > MOST_NUMBERS:
        raise UserError(f"{path}: {len(lines)} lines; allowed: up to {MOST_NUMBERS}")
    comma = "," if path.suffix.lower() == ".csv" else None
    rows: dict[int, list[float]] = {}
    for number, line in enumerate(lines, 1):
        content = line.split("#")[0].strip()
        if not content:
            continue
        try:
            row = [float(f) for f in content.split(comma)]
        except ValueError:
            if not rows and not any(c.isdigit() for c in content):
                continue  # a line of column names
            hint = "decimals are written with a point, columns are separated by blanks, in .csv by commas"
            raise UserError(f"{path}:{number}: {content[:60]!r} is not three numbers; {hint}") from None
        if len(row) != 3:
            raise UserError(f"{path}:{number}: {len(row)} columns; needed t C err, or cfg t C")
        if not np.isfinite(row).all():
            raise UserError(f"{path}:{number}: {content[:60]!r}; all values must be finite")
        rows[number] = row
    if not rows:
        raise UserError(f"{path}: no numbers in it; needed columns t C err, or cfg t C")
    first, second, third = np.array(list(rows.values())).T
    if len(np.unique(first)) < len(first) and (second == np.round(second)).all():
        return _long_table(path, first, second, third)
    if (third < 0).any():
        i = int(np.argmax(third < 0))
        raise UserError(f"{path}:{list(rows)[i]}: error {third[i]:g}; it must be positive")
    return Record(str(path), mean=second, errors=third, times=first)


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


def _pyerrors(snapshot: Snapshot, _dataset: None) -> Record:
    """A Corr or a list of Obs: samples where all come from one ensemble, else the Gamma method's covariance."""
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
    entries = list(content.content if isinstance(content, pe.Corr) else content)
    found = {t: (np.ravel(e) if e is not None else []) for t, e in enumerate(entries)}
    obs = [e[0] for e in found.values() if len(e) == 1 and isinstance(e[0], pe.Obs)]
    times = np.array([t for t, e in found.items() if len(e)], float)
    if not obs or len(obs) != len(times):
        raise UserError(f"{path}: needed one Corr, or one list of Obs, with one value per time")
    first = obs[0]
    if len(first.mc_names) == 1 and all(o.idl == first.idl and not o.cov_names for o in obs):
        samples = np.array([np.concatenate([o.deltas[r] + o.r_values[r] for r in first.names]) for o in obs]).T
        return Record(str(path), _real(samples, str(path)), times=times, said={"resampling": "configurations"})
    for o in obs:
        o.gamma_method()
    mean = _real(np.array([o.value for o in obs]), str(path))
    return Record(str(path), mean=mean, covariance=pe.covariance(obs), times=times, said={"error": "mean"})


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
    where = str(path)
    if hasattr(values, "keys"):
        arrays = {str(k): values[k] for k in values if np.ndim(values[k]) == 1}
        name = _choose(dataset, arrays, path)
        values, where = arrays[name], f"{path}: {name}"
    elif dataset is not None:
        raise UserError(f"{path}: one array without names; leave dataset out", key="dataset")
    if np.ndim(values) != 1:
        raise UserError(f"{where}: shape {np.shape(values)}; needed one value per time, (T,)")
    _check(np.dtype(float), values.shape * 2, f"{where}: the covariance")
    mean, covariance = _real(gv.mean(values), where), _real(gv.evalcov(values), where)
    return Record(where, mean=mean, covariance=covariance, said={"error": "mean"})


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

WITHOUT_NAMES = (".npy", ".txt", ".dat", ".csv", ".json.gz")
"""Formats that hold one correlator, which has no name."""
