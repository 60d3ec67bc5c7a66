"""Files that say that they hold more than a correlator can: refused before it is unpacked, in little memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pytest
import xarray as xr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from sdpipe import read_correlator
from sdpipe.correlators import record
from sdpipe.errors import UserError
from tests.correlators.files import columns, labelled, samples, zarr

GIGA = 10**9
MOST = 200_000_000
"""Bytes that a process may take at most which refuses a file."""

READ = """
import sys
from pathlib import Path
from sdpipe import read_correlator
from sdpipe.errors import UserError
try:
    read_correlator(sys.argv[1])
except UserError as error:
    print(error)
print(*(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
"""What the file is refused with, and the peak of memory in kB; getrusage would count that of the parent, too."""


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
    """Write 1 GB of zeros in 1 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("eta.npy", "w", force_zip64=True) as array:
        array.write(header((1_250_000, 100)))
        array.write(bytes(GIGA))


def zarr_of(shape: list[int], chunks: list[int]) -> Callable[[Path], None]:
    """Write the metadata of a Zarr store."""

    def write(path: Path) -> None:
        zarr(path, labelled(samples()))
        meta = json.loads((path / "eta" / "zarr.json").read_text())
        meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"] = shape, chunks
        (path / "eta" / "zarr.json").write_text(json.dumps(meta))

    return write


def packed(path: Path) -> None:
    """Write a GB of text in 1 MB."""
    with gzip.open(path, "wb") as file:
        for _ in range(10):
            file.write(b" " * (GIGA // 10))


def netcdf(path: Path) -> None:
    """Write a file whose times are 8 GB."""
    xr.Dataset({"eta": (("cfg", "u"), samples())}).to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "a") as file:
        file.create_dataset("t", (GIGA,), "f8", chunks=(1000,)).make_scale("t")


def long(path: Path) -> None:
    with path.open("wb") as file:
        os.truncate(file.fileno(), 12 * GIGA)


def chunk(data: Callable[[], bytes], mask: int = 0, **how: object) -> Callable[[Path], None]:
    """Write an HDF5 file of one chunk that says it is small, of filters ``how`` without those of ``mask``."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            eta = file.create_dataset("eta", (40, 16), "f8", chunks=(40, 16), **how)
            eta.id.write_direct_chunk((0, 0), data(), mask)

    return write


def of_codec(codec: object, data: Callable[[], bytes] | None = None) -> Callable[[Path], None]:
    """Write a Zarr store of one chunk that says it is small, and unpacks to a GB; the chunk may be given."""

    def write(path: Path) -> None:
        if data:
            packed = data()
        else:
            big = xr.Dataset({"eta": ("x", np.zeros(GIGA // 8))})
            big.to_zarr(
                path, zarr_format=3, consolidated=False, encoding={"eta": {"compressors": codec, "fill_value": 1.0}}
            )
            packed = (path / "eta/c/0").read_bytes()
            shutil.rmtree(path)
        small = labelled(samples())
        small.to_zarr(path, zarr_format=3, consolidated=False, encoding={"eta": {"compressors": codec}})
        (path / "eta/c/0/0").write_bytes(packed)

    return write


def long_header(path: Path) -> None:
    """Write a GB of header in 1 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("eta.npy", "w", force_zip64=True) as array:
        array.write(b"\x93NUMPY\x02\x00" + GIGA.to_bytes(4, "little"))
        array.write(b" " * GIGA)


SMALL = samples().tobytes()
ZSTD = numcodecs.Zstd()


def lzf() -> bytes:
    """Return a GB of one byte and 264 more by each three."""
    return b"\x00\x00" + GIGA // 264 * b"\xe0\xff\x00"


BOMBS: dict[str, tuple[str, Callable[[Path], None] | str | bytes, str]] = {
    "HDF5 of 1 GB": ("x.h5", dataset((1_000_000, 125), chunks=(1000, 125)), "shape (1000000, 125), 1 GB; allowed: up"),
    "HDF5 of 12 GB": ("x.h5", dataset((12_000_000, 125)), "12 GB; allowed: up to 5000000 numbers"),
    "HDF5 with more numbers than there are": ("x.h5", dataset((2**40, 2**40), chunks=(100, 100)), "allowed: up to"),
    "HDF5 in one chunk": (
        "x.h5",
        dataset((10, 10), maxshape=(None, None), chunks=(5000, 5000), compression="gzip"),
        "a chunk of it: shape (5000, 5000), 0.2 GB; allowed",
    ),
    "NetCDF of many times": ("x.nc", netcdf, "shape (1000000000,), 8 GB; allowed: up to"),
    "Zarr of 13 GB": ("x.zarr", zarr_of([100_000_000, 16], [1000, 16]), "eta: shape (100000000, 16), 12.8 GB; allowed"),
    "Zarr in one chunk": ("x.zarr", zarr_of([40, 16], [100_000, 100]), "a chunk of it: shape (100000, 100), 0.08 GB"),
    "HDF5 chunk of 1 GB": (
        "x.h5",
        chunk(lambda: zlib.compress(bytes(GIGA)), compression="gzip"),
        "eta: a chunk of it unpacks to more than its 5124 bytes",
    ),
    "HDF5 chunk of 1 GB, not shuffled": (
        "x.h5",
        chunk(lambda: zlib.compress(bytes(GIGA)), 1, compression="gzip", shuffle=True),
        "eta: a chunk of it unpacks to more than its 5124 bytes",
    ),
    "HDF5 chunk of 1 GB by LZF": ("x.h5", chunk(lzf, compression="lzf"), "unpacks to more than its 5124 bytes"),
    "HDF5 chunk by another filter": (
        "x.h5",
        chunk(lambda: bytes(9), scaleoffset=3),
        "packed in a way that cannot be bounded; allowed: shuffle, then gzip or lzf, then fletcher32",
    ),
    "Zarr chunk of 1 GB by gzip": ("x.zarr", of_codec(GzipCodec()), "unpacks to more than its 5120 bytes"),
    "Zarr chunk of 1 GB by zstd": ("x.zarr", of_codec(ZstdCodec()), "unpacks to more than its 5120 bytes"),
    "Zarr chunk of 1 GB by blosc": ("x.zarr", of_codec(BloscCodec()), "unpacks to more than its 5120 bytes"),
    "Zarr chunk of 1 GB in a second member": (
        "x.zarr",
        of_codec(GzipCodec(), lambda: gzip.compress(SMALL) + gzip.compress(bytes(GIGA))),
        "unpacks to more than its 5120 bytes",
    ),
    "Zarr chunk of 1 GB in a second frame": (
        "x.zarr",
        of_codec(ZstdCodec(), lambda: ZSTD.encode(SMALL) + ZSTD.encode(bytes(GIGA))),
        "unpacks to more than its 5120 bytes",
    ),
    "Zarr chunk of 1 GB behind a frame to skip": (
        "x.zarr",
        of_codec(ZstdCodec(), lambda: b"\x50\x2a\x4d\x18\x04\0\0\0" + bytes(4) + ZSTD.encode(bytes(GIGA))),
        "unpacks to more than its 5120 bytes",
    ),
    "npz with a header of 1 GB": ("x.npz", long_header, "not a readable NumPy file of numbers"),
    "npy of 8 GB": ("x.npy", header((10_000_000, 100)), "shape (10000000, 100), 8 GB; allowed: up to 5000000 numbers"),
    "npz of 1 GB": ("x.npz", npz, "eta: shape (1250000, 100), 1 GB; allowed: up to 5000000 numbers"),
    "packed text": ("x.json.gz", packed, "more than 0.067 GB of text; allowed: up to that"),
    "packed brackets": ("x.json.gz", gzip.compress(b"[" * 6_000_000), "6000000 values; allowed: up to 5000000"),
    "a sparse table": (
        "x.txt",
        columns(np.repeat(np.arange(30_000), 3).reshape(-1, 3)) + "0 7 1\n",
        "configuration 0 has t = 1 0 times; needed: once",
    ),
    "a long table": ("x.txt", 600_000 * b"1 1 1\n" + b"1 x\n", ":600001: '1 x' is not a row of numbers"),
    "a file of 12 GB": ("x.h5", long, "12 GB; allowed: up to 1.07 GB"),
}


@pytest.mark.parametrize(("name", "content", "words"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_little_memory(
    tmp_path: Path, name: str, content: object, words: str, record_property: Callable[[str, object], None]
) -> None:
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    told = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True, timeout=60)
    fault, peak = told.stdout.splitlines()
    assert fault.startswith(str(path))
    assert words in fault
    record_property("MB at the peak of the process", 1024 * int(peak) / 1e6)
    assert 1024 * int(peak) <= MOST


def test_the_largest_correlator_is_read_and_one_beyond_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples()
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(record, "MOST_NUMBERS", x.size)
    assert read_correlator(tmp_path / "x.npy", first=0).sizes["cfg"] == len(x)
    monkeypatch.setattr(record, "MOST_NUMBERS", x.size - 1)
    with pytest.raises(UserError, match=f"allowed: up to {x.size - 1} numbers; average or bin them first"):
        read_correlator(tmp_path / "x.npy", first=0)


@pytest.mark.parametrize("nested", [False, True])
def test_thousands_of_groups_take_time_in_proportion(tmp_path: Path, nested: bool) -> None:
    def seconds(count: int) -> float:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["eta"], group = samples(), file["/"]
            for i in range(count):
                made = group.create_group(f"g{i}")
                group = made if nested else group
        begun = time.perf_counter()
        read_correlator(tmp_path / "x.h5", first=0)
        return time.perf_counter() - begun

    seconds(10)
    few, many = (min(seconds(count) for _ in range(2)) for count in (400, 4000))
    assert many < 25 * few
    assert many < 2


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


def test_a_store_that_cannot_be_bounded_is_refused_in_words(tmp_path: Path) -> None:
    encoding = {"eta": {"chunks": (10, 16), "shards": (20, 16)}}
    labelled(samples()).to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    with pytest.raises(UserError, match="allowed: no shards, and no codec or one of blosc, gzip, zlib, zstd"):
        read_correlator(tmp_path / "x.zarr", first=0)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "fletcher32": 1},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"shuffle": True, "fletcher32": True},
    ],
    ids=str,
)
def test_sound_files_are_read_whatever_packs_them(tmp_path: Path, how: dict[str, object]) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("eta", data=samples(), chunks=(15, 5), **how)
    assert np.array_equal(read_correlator(tmp_path / "x.h5", first=0).samples, samples())
