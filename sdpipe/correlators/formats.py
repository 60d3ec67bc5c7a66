"""Which reader a correlator file has: its bytes are read once, and one short reader per format parses them.

No reader runs code, or opens another file, because the file says so: pickles and object arrays are refused. Each runs
in a process that has little memory and time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from sdpipe.correlators import apart
from sdpipe.correlators.objects import read_gvar, read_pyerrors
from sdpipe.correlators.record import Record, Snapshot, first_line
from sdpipe.correlators.stores import INSIDE, read_hdf5, read_netcdf, read_numpy, read_zarr
from sdpipe.correlators.text import joined, read_text
from sdpipe.errors import UserError

MOST_BYTES = 2**30
"""Size of a file, or of all files of a Zarr store."""


def snapshot(path: Path) -> Snapshot:
    """Read a correlator file, or every file of a Zarr store; nothing opens them again.

    Raises UserError where the ending of the name is of no known format, and for what is missing, is not a regular file
    (a directory for ``.zarr``) or cannot be read.
    """
    store = _ending(path) == ".zarr"
    try:
        if not path.exists():
            matching = [f for f in _beside(path) if fnmatch(f.name, path.name)]
            hint = f", but {len(matching)} match; {joined(str(path))}" if matching else ""
            raise UserError(f"{path}: no such file{hint}")
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


def parse(snapshot: Snapshot, dataset: str | None = None) -> Record:
    """Return the correlator ``dataset`` in the bytes of a file; the name may be left out where there is one only.

    The bytes are read in a process of their own, see :mod:`sdpipe.correlators.apart`, and each correlator once.

    Raises UserError for bytes that are damaged or of another format, for a dataset that is not there (with those that
    are), for numbers that are not real and finite, and for a file that takes too much memory or time to read.

    >>> record = parse(Snapshot(Path("x.txt"), "", {"": b"1 0.5 0.01"}))
    >>> record.times.tolist(), record.mean.tolist(), record.errors.tolist()
    ([1.0], [0.5], [0.01])
    """
    if dataset not in snapshot.records:
        snapshot.records[dataset] = apart.read(snapshot, dataset, reader(snapshot.path).libraries)
    return snapshot.records[dataset]


def parse_here(snapshot: Snapshot, dataset: str | None = None) -> Record:
    """Return what :func:`parse` returns, read in this process: for the one that has little memory and time."""
    path, ending = snapshot.path, _ending(snapshot.path)
    if dataset is not None and ending in WITHOUT_NAMES:
        raise UserError(f"{path}: a {ending} file holds one correlator; leave dataset out", key="dataset")
    try:
        return READERS[ending].read(snapshot, dataset)
    except UserError:
        raise
    except Exception as error:  # the libraries that read files raise whatever damaged bytes lead them to
        raise UserError(f"{path}: damaged, or not what its name says ({first_line(error)})") from None


def reader(path: Path) -> Reader:
    """Return the reader of a file; raises UserError where the ending of its name is of no known format."""
    return READERS[_ending(path)]


def _beside(path: Path) -> list[Path]:
    """Return what is in the directory of a path, nothing where there is none."""
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


def _ending(path: Path) -> str:
    """Return the ending of a name that tells the format."""
    ending = next((e for e in READERS if path.name.lower().endswith(e)), None)
    if ending is None:
        how = CONVERT.get(path.suffix.lower(), 'numpy.save("x.npy", samples), samples being (configurations, times)')
        raise UserError(
            f"{path}: cannot tell the format; allowed endings of the name: {', '.join(READERS)}; to convert: {how}"
        )
    return ending


class Reader(NamedTuple):
    """What takes the bytes of a file and the name of a correlator to its numbers, and the modules that it imports."""

    read: Callable[[Snapshot, str | None], Record]
    libraries: tuple[str, ...] = ()


READERS = {
    **dict.fromkeys((".h5", ".hdf5"), Reader(read_hdf5, ("h5py",))),
    **dict.fromkeys((".npy", ".npz"), Reader(read_numpy)),
    **dict.fromkeys((".txt", ".dat", ".data", ".csv"), Reader(read_text)),
    ".nc": Reader(read_netcdf, ("xarray", "h5netcdf")),
    ".zarr": Reader(read_zarr, ("xarray", "zarr")),
    ".json.gz": Reader(read_pyerrors, ("pyerrors",)),
    ".json": Reader(read_gvar, ("gvar",)),
}
"""How the name of a file ends -> its reader."""


CONVERT = {
    **dict.fromkeys(
        (".rdata", ".rda"),
        'numpy.save("x.npy", rdata.read_rda("x.RData")["x"]) after pip install rdata, x being (configurations, times); '
        'or in R: load("x.RData"); write.table(x, "x.txt", row.names=FALSE, col.names=FALSE)',
    ),
    ".rds": 'numpy.save("x.npy", rdata.read_rds("x.rds")) after pip install rdata; '
    'or in R: write.table(readRDS("x.rds"), "x.txt", row.names=FALSE, col.names=FALSE)',
    **dict.fromkeys(
        (".pkl", ".pickle", ".p"),
        'numpy.save("x.npy", numpy.load("x.pkl", allow_pickle=True)); gvars: gvar.gdump(g, "x.json")',
    ),
    ".tsv": "mv x.tsv x.txt",
    ".mat": 'numpy.save("x.npy", scipy.io.loadmat("x.mat")["C"])',
    ".xlsx": "save it as CSV, columns t C err or cfg t C",
    ".parquet": 'pandas.read_parquet("x.parquet").to_csv("x.csv", index=False), columns t C err or cfg t C',
    ".root": 'numpy.save("x.npy", uproot.open("x.root")["tree"]["C"].array(library="np"))',
    ".gz": "gunzip FILE",
}
"""How the name of a file ends that is not read -> the one line that makes of it one that is."""


WITHOUT_NAMES = (".npy",)
"""Formats that hold one correlator, which has no name."""
