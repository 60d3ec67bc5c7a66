"""Files that unpack to more than a correlator, or that keep a reader busy: refused in little memory and little time."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import xarray as xr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from sdpipe import read_correlator
from sdpipe.correlators import apart, child, formats, record
from sdpipe.correlators.correlator import Source, load
from sdpipe.errors import RunError, UserError
from tests.correlators.files import FORMATS, columns, hdf5, labelled, samples, zarr
from tests.fixtures import HANGING

GIGA, MANY = 10**9, 3 * 10**8
"""Bytes that a file says that it holds, and those that it unpacks to."""

MOST = 200_000_000
"""Bytes that a file may take at most which is refused, beside what any file of its format takes."""

READ = """
import resource, sys
from pathlib import Path
from sdpipe.correlators import formats
from sdpipe.errors import UserError
try:
    formats.parse(formats.snapshot(Path(sys.argv[1])))
    print("read")
except UserError as error:
    print(error)
own = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
reader = resource.getrusage(resource.RUSAGE_CHILDREN)
print(1024 * (int(own) + reader.ru_maxrss), reader.ru_utime + reader.ru_stime)
"""
"""What a file is refused with, peaks of memory of the two processes, and seconds that the one that reads computed."""


def measured(path: Path) -> tuple[str, int, float]:
    """Return what is said of a file, the bytes that both processes take at most, and the seconds of the one."""
    out = subprocess.run(
        [sys.executable, "-c", READ, path], capture_output=True, text=True, check=True, timeout=HANGING
    )
    words, numbers = out.stdout.splitlines()
    peak, seconds = numbers.split()
    return words, int(peak), float(seconds)


@cache
def baseline(read: Callable) -> tuple[int, float]:
    """Return the bytes and the seconds that a small, sound file of a reader takes."""
    name, _, write = next(
        f for f in FORMATS.values() if formats.reader(Path(f[0])).read is read and "dataset" not in f[1]
    )
    with TemporaryDirectory() as directory:
        write(Path(directory) / name, samples())
        words, *figures = measured(Path(directory) / name)
    assert words == "read"
    return tuple(figures)


def dataset(shape: tuple[int, ...], **how: object) -> Callable[[Path], None]:
    """Write an HDF5 file of a dataset that has no values yet."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("eta", shape, "f8", **how)

    return write


def header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a NumPy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def npz(path: Path) -> None:
    """Write MANY bytes of a header, packed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("eta.npy", "w", force_zip64=True) as array:
        array.write(b"\x93NUMPY\x02\x00" + MANY.to_bytes(4, "little"))
        array.write(b" " * MANY)


def npz_of_zeros(path: Path) -> None:
    """Write an array that says how large it is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("eta.npy", "w", force_zip64=True) as array:
        array.write(header((MANY // 800, 100)))
        array.write(bytes(MANY))


def zarr_of(shape: list[int], chunks: list[int]) -> Callable[[Path], None]:
    """Write the metadata of a Zarr store."""

    def write(path: Path) -> None:
        zarr(path, labelled(samples()))
        meta = json.loads((path / "eta" / "zarr.json").read_text())
        meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"] = shape, chunks
        (path / "eta" / "zarr.json").write_text(json.dumps(meta))

    return write


def packed(path: Path) -> None:
    """Write MANY bytes of text."""
    with gzip.open(path, "wb") as file:
        for _ in range(10):
            file.write(b" " * (MANY // 10))


def long_times(path: Path) -> None:
    """Write a NetCDF file whose times are 8 GB."""
    xr.Dataset({"eta": (("cfg", "u"), samples())}).to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "a") as file:
        file.create_dataset("t", (GIGA,), "f8", chunks=(1000,)).make_scale("t")


def netcdf_chunk(path: Path) -> None:
    """Write a NetCDF file of one chunk that says it is small."""
    labelled(samples()).to_netcdf(path, engine="h5netcdf", encoding={"eta": {"zlib": True, "chunksizes": (40, 16)}})
    with h5py.File(path, "a") as file:
        file["eta"].id.write_direct_chunk((0, 0), zlib.compress(bytes(MANY)))


def long(path: Path) -> None:
    with path.open("wb") as file:
        os.truncate(file.fileno(), 12 * GIGA)


def wide(path: Path) -> None:
    """Write 4,000,000 numbers, or words, in one row."""
    path.write_bytes(4_000_000 * (b"1," if path.suffix == ".csv" else b"1 "))


def chunk(data: Callable[[], bytes], mask: int = 0, **how: object) -> Callable[[Path], None]:
    """Write an HDF5 file of one chunk that says it is small, of filters ``how`` without those of ``mask``."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            eta = file.create_dataset("eta", (40, 16), "f8", chunks=(40, 16), **how)
            eta.id.write_direct_chunk((0, 0), data(), mask)

    return write


def zarr_chunk(codec: object, data: Callable[[], bytes] | None = None) -> Callable[[Path], None]:
    """Write a Zarr store of one chunk that says it is small, and unpacks to MANY bytes; the chunk may be given."""

    def write(path: Path) -> None:
        big = xr.Dataset({"eta": ("x", np.zeros(MANY // 8))}) if data is None else labelled(samples())
        how = {"compressors": codec, "fill_value": 1.0, "chunks": tuple(big.eta.shape)}
        big.to_zarr(path, zarr_format=3, consolidated=False, encoding={"eta": how})
        packed = (path / "eta/c/0").read_bytes() if data is None else data()
        labelled(samples()).to_zarr(
            path, mode="w", zarr_format=3, consolidated=False, encoding={"eta": {"compressors": codec}}
        )
        (path / "eta/c/0/0").write_bytes(packed)

    return write


def pyerrors(**entry: Any) -> bytes:
    """Return a file of pyerrors that holds one entry, of one chain of 20 configurations where it says no other."""
    chain = {"id": "A", "replica": [{"name": "A", "deltas": [[i, 0.1 * i] for i in range(1, 21)]}]}
    about = dict.fromkeys(("program", "version", "who", "date", "host", "description"), "")
    return gzip.compress(json.dumps(about | {"obsdata": [{"value": [1.0], "data": [chain], **entry}]}).encode())


def ensembles(path: Path) -> None:
    """Write 300 Obs of 300 ensembles each: 90,000 runs of the Gamma method."""
    chains = [
        {"id": f"e{i}", "replica": [{"name": f"e{i}", "deltas": [[c, *(300 * [c % 7])] for c in range(1, 9)]}]}
        for i in range(300)
    ]
    path.write_bytes(pyerrors(type="List", layout="300", value=300 * [1.0], data=chains))


def gvar(names: int, size: int) -> str:
    """Return a file of gvar in which so many names stand for one array."""
    content = {"means": size * [1.0], "bcovs": [[list(range(size)), size * [0.1], [], []]], "bufsize": size}
    content |= {"keys": str([f"k{i}" for i in range(names)]), "layouts": names * [[[0, size, None], [size]]]}
    return json.dumps(content | {"fix_cov": False})


SMALL = samples().tobytes()
ZSTD = numcodecs.Zstd()


def lzf() -> bytes:
    """Return MANY bytes, of one byte and 264 more by each three."""
    return b"\x00\x00" + MANY // 264 * b"\xe0\xff\x00"


DAMAGED, MEMORY = "damaged, or not what its name says", "takes more than 180 MB to read, beside its size; allowed:"

UNPACKS: dict[Callable, tuple[Callable[[Path], None] | str | bytes, str]] = {
    formats.read_hdf5: (chunk(lambda: zlib.compress(bytes(MANY)), compression="gzip"), DAMAGED),
    formats.read_numpy: (npz, MEMORY),
    formats.read_text: (wide, MEMORY),
    formats.read_netcdf: (netcdf_chunk, DAMAGED),
    formats.read_zarr: (zarr_chunk(ZstdCodec()), MEMORY),
    formats.read_pyerrors: (pyerrors(type="List", layout="1000000000"), MEMORY),
    formats.read_gvar: (gvar(3000, 30_000), MEMORY),
}
"""Reader -> a file that takes more memory than it says before, and how it is refused."""

BOMBS: dict[str, tuple[str, Callable[[Path], None] | str | bytes, str]] = {
    "HDF5 of 1 GB": ("x.h5", dataset((1_000_000, 125), chunks=(1000, 125)), "shape (1000000, 125), 1 GB; allowed: up"),
    "HDF5 of 12 GB": ("x.h5", dataset((12_000_000, 125)), "12 GB; allowed: up to 5000000 numbers"),
    "HDF5 with more numbers than there are": ("x.h5", dataset((2**40, 2**40), chunks=(100, 100)), "allowed: up to"),
    "HDF5 chunk by LZF": ("x.h5", chunk(lzf, compression="lzf"), "x.h5: "),  # whichever limit comes first
    "HDF5 chunk that is packed twice": (
        "x.h5",
        chunk(lambda: zlib.compress(zlib.compress(bytes(MANY))), compression="gzip", scaleoffset=3),
        DAMAGED,
    ),
    "NetCDF of many times": ("x.nc", long_times, "shape (1000000000,), 8 GB; allowed: up to"),
    "Zarr of 13 GB": ("x.zarr", zarr_of([100_000_000, 16], [1000, 16]), "eta: shape (100000000, 16), 12.8 GB; allowed"),
    "Zarr chunk by gzip": ("x.zarr", zarr_chunk(GzipCodec()), MEMORY),
    "Zarr chunk by blosc": ("x.zarr", zarr_chunk(BloscCodec()), MEMORY),
    "Zarr chunk of two frames": (
        "x.zarr",
        zarr_chunk(ZstdCodec(), lambda: ZSTD.encode(SMALL) + ZSTD.encode(bytes(MANY))),
        MEMORY,
    ),
    "npy of 8 GB": ("x.npy", header((10_000_000, 100)), "shape (10000000, 100), 8 GB; allowed: up to 5000000 numbers"),
    "npz of zeros": ("x.npz", npz_of_zeros, "eta: shape (375000, 100), 0.3 GB; allowed: up to 5000000 numbers"),
    "packed text": ("x.json.gz", packed, "more than 40 MB of text; allowed: up to that"),
    "packed brackets": ("x.json.gz", gzip.compress(b"[" * 6_000_000), "6000000 values; allowed: up to 5000000"),
    "a table of pyerrors": ("x.json.gz", pyerrors(type="Array", layout="30000, 30000"), MEMORY),
    "work without end": ("x.json.gz", ensembles, "takes more than 8 s to read; allowed: up to that"),
    "digits without a blank": ("x.txt", 5_000_000 * b"1", "all values must be finite"),
    "digits without a blank, in brackets": ("x.txt", b"1.(" + 5_000_000 * b"1", "is not a row of numbers"),
    "a sparse table": (
        "x.txt",
        columns(np.repeat(np.arange(30_000), 3).reshape(-1, 3)) + "0 7 1\n",
        "configuration 0 has t = 1 0 times; needed: once",
    ),
    "a long table": ("x.txt", 600_000 * b"1 1 1\n" + b"1 x\n", ":600001: '1 x' is not a row of numbers"),
    "more numbers than a correlator has": (
        "x.txt",
        60_000 * (100 * b"1 " + b"\n"),
        "more than 5000000 numbers; allowed",
    ),
    "more times than a correlator has": (
        "x.npy",
        np.ones((900, 5000)),
        "5000 time slices; allowed: up to 512; samples",
    ),
    "a file of 12 GB": ("x.h5", long, "12 GB; allowed: up to 1.07 GB"),
}


def check(path: Path, content: Any, words: str, record_property: Callable[[str, object], None]) -> None:
    """Write a file, and check how it is refused."""
    if callable(content):
        content(path)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fault, peak, seconds = measured(path)
    assert fault.startswith(str(path))
    assert words in fault
    usual, start = baseline(formats.reader(path).read)
    record_property("MB beside those of a sound file", (peak - usual) / 1e6)
    record_property("seconds beside those of a sound file", seconds - start)
    own = 0 if path.is_dir() else 2 * min(path.stat().st_size, GIGA) * (path.stat().st_size < GIGA)
    assert peak - usual <= MOST + own
    assert seconds - start <= apart.MOST_SECONDS + 2  # computed, not waited


@pytest.mark.parametrize("ending", formats.READERS)
def test_no_format_unpacks_without_a_bound(
    tmp_path: Path, ending: str, record_property: Callable[[str, object], None]
) -> None:
    check(tmp_path / f"x{ending}", *UNPACKS[formats.READERS[ending].read], record_property)


@pytest.mark.parametrize(("name", "content", "words"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_little_memory(
    tmp_path: Path, name: str, content: object, words: str, record_property: Callable[[str, object], None]
) -> None:
    check(tmp_path / name, content, words, record_property)


def test_the_largest_correlator_is_read_and_one_beyond_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples()
    np.save(tmp_path / "x.npy", x)
    snapshot = formats.snapshot(tmp_path / "x.npy")
    monkeypatch.setattr(record, "MOST_NUMBERS", x.size)
    assert len(child.read(snapshot).samples) == len(x)
    monkeypatch.setattr(record, "MOST_NUMBERS", x.size - 1)
    with pytest.raises(UserError, match=f"allowed: up to {x.size - 1} numbers; average or bin them first"):
        child.read(snapshot)


# --- files of real size are read -----------------------------------------------------------------------------


def one_chunk(path: Path, x: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("eta", data=x, chunks=x.shape, compression="gzip", compression_opts=1, shuffle=True)


def many_datasets(path: Path, x: np.ndarray) -> None:
    """Write 100 MB, and an array of more dimensions than a correlator has."""
    others = {f"g{i}/eta": x[:1000] for i in range(60)} | {
        "obs": x[:3713].ravel()[: 1600 * 297].reshape(1600, 3, 3, 33)
    }
    hdf5(path, {"eta": x, **others})


def packed_netcdf(path: Path, x: np.ndarray) -> None:
    how = {"dtype": "i4", "scale_factor": 1e-6, "zlib": True, "complevel": 1, "_FillValue": -(2**31)}
    xr.Dataset({"eta": (("t", "cfg"), x.T)}).to_netcdf(path, engine="h5netcdf", encoding={"eta": how})


LARGEST: dict[str, tuple[str, Callable[[Path, np.ndarray], None], str | None]] = {
    "HDF5": ("x.h5", one_chunk, None),
    "HDF5 of 100 MB": ("x.h5", many_datasets, "eta"),
    "npy": ("x.npy", np.save, None),
    "npz": ("x.npz", lambda path, x: np.savez_compressed(path, eta=x), None),
    "NetCDF": ("x.nc", packed_netcdf, None),
    "NetCDF 3": ("x.nc", lambda path, x: xr.Dataset({"eta": (("cfg", "t"), x)}).to_netcdf(path, engine="scipy"), None),
    "Zarr": ("x.zarr", lambda path, x: zarr(path, xr.Dataset({"eta": (("cfg", "t"), x)})), None),
    "text": ("x.txt", lambda path, x: path.write_text(len(x) * (" ".join(map(repr, x[0].tolist())) + "\n")), None),
}
"""A file of as many numbers as a correlator can have, and the name of that correlator."""


@pytest.mark.parametrize(("name", "write", "dataset"), LARGEST.values(), ids=LARGEST)
def test_as_many_numbers_as_a_correlator_can_have_are_read(
    tmp_path: Path, name: str, write: Callable[[Path, np.ndarray], None], dataset: str | None
) -> None:
    row = np.random.default_rng(1).standard_normal(128).round(6)
    x = np.tile(row, (39_000, 1))
    write(tmp_path / name, x)
    assert np.allclose(formats.parse(formats.snapshot(tmp_path / name), dataset).samples, x, atol=1e-6)


def test_a_file_of_pyerrors_of_almost_40_MB_of_text_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pyerrors", exc_type=ImportError)
    x = np.random.default_rng(1).standard_normal((200, 96)).tolist()
    deltas = [[i, *x[i % 200]] for i in range(1, 19_201)]
    chain = {"id": "A", "replica": [{"name": "A", "deltas": deltas}]}
    (tmp_path / "x.json.gz").write_bytes(pyerrors(type="List", layout="96", value=96 * [1.0], data=[chain]))
    assert formats.parse(formats.snapshot(tmp_path / "x.json.gz")).samples.shape == (19_200, 96)


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_of_thousands_of_groups_is_read(tmp_path: Path, nested: bool) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["eta"], group = samples(), file["/"]
        for i in range(4000):
            created = group.create_group(f"g{i}")
            group = created if nested else group
    assert read_correlator(tmp_path / "x.h5", first=0).sizes["cfg"] == len(samples())


def test_groups_in_a_circle_are_entered_once(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/eta"] = samples()
        file["a/b"] = file["/"]
    assert read_correlator(tmp_path / "x.h5", "a/eta", first=0).sizes["cfg"] == len(samples())


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("array", ["eta", "t"])
def test_every_chunk_of_a_zarr_store_must_be_there(tmp_path: Path, version: int, array: str) -> None:
    """One that is lost reads as zeros."""
    path, data = tmp_path / "x.zarr", labelled(samples())
    data.assign(t2=("u", np.arange(7))).to_zarr(
        path, zarr_format=version, consolidated=False, encoding={"eta": {"chunks": (10, 16)}}
    )
    assert read_correlator(path, "eta", first=0).sizes["cfg"] == 40
    lost = {("eta", 2): "eta/2.0", ("eta", 3): "eta/c/2/0", ("t", 2): "t/0", ("t", 3): "t/c/0"}[array, version]
    (path / lost).unlink()
    with pytest.raises(UserError, match=f"x.zarr/{lost}: lost; every chunk must be there"):
        read_correlator(path, "eta", first=0)


PACKED = [(3, codec) for codec in (GzipCodec(), ZstdCodec(), BloscCodec(), None)]
PACKED += [(3, (codec, Crc32cCodec())) for codec in (GzipCodec(), ZstdCodec(checksum=True))]
PACKED += [(2, codec) for codec in (numcodecs.GZip(), numcodecs.Zlib(), numcodecs.Zstd(), numcodecs.Blosc(), None)]


def _name(codec: object) -> str:
    return "+".join(map(_name, codec)) if isinstance(codec, tuple) else type(codec).__name__


@pytest.mark.parametrize(("version", "codec"), PACKED, ids=[f"{v}-{_name(codec)}" for v, codec in PACKED])
def test_sound_stores_are_read_whatever_packs_them(tmp_path: Path, version: int, codec: object) -> None:
    encoding = {"eta": {"compressors": codec, "chunks": (15, 5)}}
    labelled(samples()).to_zarr(tmp_path / "x.zarr", zarr_format=version, consolidated=False, encoding=encoding)
    assert np.array_equal(read_correlator(tmp_path / "x.zarr", first=0).samples, samples())


def test_every_shard_of_a_zarr_store_must_be_there(tmp_path: Path) -> None:
    encoding = {"eta": {"chunks": (10, 16), "shards": (20, 16)}}
    labelled(samples()).to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    assert np.array_equal(read_correlator(tmp_path / "x.zarr", first=0).samples, samples())
    (tmp_path / "x.zarr/eta/c/1/0").unlink()
    with pytest.raises(UserError, match=r"x\.zarr/eta/c/1/0: lost; every chunk must be there"):
        read_correlator(tmp_path / "x.zarr", first=0)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "fletcher32": 1},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"shuffle": True, "fletcher32": True},
        {"scaleoffset": 12},
    ],
    ids=str,
)
def test_sound_files_are_read_whatever_packs_them(tmp_path: Path, how: dict[str, object]) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("eta", data=samples(), chunks=(15, 5), **how)
    assert read_correlator(tmp_path / "x.h5", first=0).samples.values == pytest.approx(samples(), abs=1e-12)


# --- where files are read ------------------------------------------------------------------------------------

SCRIPT = """
import threading
from sdpipe import read_correlator
print("once")
thread = threading.Thread(target=lambda: print(read_correlator({path!r}, first=0).sizes["cfg"]))
thread.start()
thread.join()
"""


@pytest.mark.parametrize("written", [False, True])
def test_a_script_without_a_guard_reads_a_file_in_a_thread(tmp_path: Path, written: bool) -> None:
    """As in a notebook, where there is no main module to import again."""
    hdf5(tmp_path / "x.h5", {"eta": samples()})
    script = SCRIPT.format(path=str(tmp_path / "x.h5"))
    (tmp_path / "script.py").write_text(script)
    how = [tmp_path / "script.py"] if written else ["-c", script]
    out = subprocess.run([sys.executable, *how], capture_output=True, text=True, check=True, timeout=HANGING)
    assert out.stdout.split() == ["once", "40"]


def test_no_module_beside_a_file_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5(tmp_path / "x.h5", {"eta": samples()})
    for name in ("h5py", "numpy", "json", "sdpipe"):
        (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path('HACKED').touch()")
    monkeypatch.chdir(tmp_path)
    assert read_correlator("x.h5", first=0).sizes["cfg"] == 40
    assert not Path("HACKED").exists()


@pytest.mark.parametrize("interpreter", ["/bin/false", "/no/such/file"])
def test_an_interpreter_that_does_not_start_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    np.save(tmp_path / "x.npy", samples())
    monkeypatch.setattr(sys, "executable", interpreter)
    with pytest.raises(RunError, match=f"{interpreter}: cannot start a process that reads .*x.npy: "):
        read_correlator(tmp_path / "x.npy", first=0)


def test_each_correlator_of_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5(tmp_path / "x.h5", {"eta": samples()})
    snapshot = formats.snapshot(tmp_path / "x.h5")
    expected = load(Source(tmp_path / "x.h5"), snapshot=snapshot, first=0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert np.array_equal(load(Source(tmp_path / "x.h5"), snapshot=snapshot, first=0).mean, expected.mean)
