"""Zarr v3 stores on disk: templates, whole-chunk block writes, atomic replacement, checked reading.

A store is made under a temporary name and renamed. Every chunk is written, whatever its values, and ends in a CRC-32C.
Zarr itself reads a chunk that is not there as fill values, and reports a wrong checksum without its file; a
:class:`CheckedStore` raises and names the file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from sdpipe.disk.files import partial, put_in_place
from sdpipe.disk.files import read as read_bytes
from sdpipe.disk.receipts import Stamp, stamp
from sdpipe.errors import DamageError, UserError, another_schema
from sdpipe.version import SCHEMA, __version__

CHUNK = re.compile(r"(?:^|/)c(?:/\d+)*$")

CRC_BYTES = 4
"""Bytes of the checksum at the end of a chunk; those of nothing are zeros, so a chunk must be longer."""

COMPRESSORS = (BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"), Crc32cCodec())
"""Codecs of every array: fast compression, then a checksum that is verified on each read."""


def attributes(made_from: str, seed: int) -> dict[str, Any]:
    """Return the attributes that every store carries."""
    return {
        "sdpipe_version": __version__,
        "schema": SCHEMA,
        "config_hash": made_from,
        "seed": seed,
        "numpy_version": np.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class Variable:
    """One array of a template: dimensions, chunk length along each, what it is, and any further attributes."""

    dims: tuple[str, ...]
    chunks: tuple[int, ...]
    dtype: str
    units: str
    long_name: str
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> Any:
        """What other readers see of a chunk that is lost: NaN, or the highest integer."""
        dtype = np.dtype(self.dtype)
        return np.nan if dtype.kind == "f" else np.iinfo(dtype).max


@dataclass(frozen=True)
class Template:
    """Coordinates and empty arrays of a store that is filled block by block."""

    coords: Mapping[str, Any]
    variables: Mapping[str, Variable]

    def create(self, path: Path, attrs: Mapping[str, Any]) -> list[Path]:
        """Create the store in one step, or write anew all of it but the chunks of its arrays; return what was written.

        Chunks of the arrays that are there stay: only blocks write them.
        """
        empty = xr.Dataset(coords=dict(self.coords), attrs=dict(attrs))
        with partial(path) as unfinished:
            _write(unfinished, empty)
            group = zarr.open_group(unfinished, mode="r+")
            for name, v in self.variables.items():
                array = group.create_array(
                    name,
                    shape=tuple(empty.sizes[d] for d in v.dims),
                    chunks=tuple(min(c, empty.sizes[d]) for c, d in zip(v.chunks, v.dims, strict=True)),
                    dtype=v.dtype,
                    fill_value=v.lost,
                    compressors=COMPRESSORS,
                    dimension_names=v.dims,
                )
                array.attrs.update({"units": v.units, "long_name": v.long_name, **v.attrs})
            written = [file.relative_to(unfinished) for file in files(unfinished)]
            if path.exists():
                for file in written:
                    (path / file).parent.mkdir(parents=True, exist_ok=True)
                    (unfinished / file).replace(path / file)
                shutil.rmtree(unfinished)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished.rename(path)
        return [path / file for file in written]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays before compression."""
        sizes = {dim: np.size(values[1]) for dim, values in self.coords.items() if isinstance(values, tuple)}
        return sum(
            int(np.prod([sizes[d] for d in v.dims])) * np.dtype(v.dtype).itemsize for v in self.variables.values()
        )


def files(path: Path) -> list[Path]:
    """Return every file of a store."""
    return sorted(p for p in path.rglob("*") if p.is_file())


def _write(path: Path, dataset: xr.Dataset) -> None:
    encoding = {name: {"compressors": COMPRESSORS} for name in dataset.variables}
    with zarr.config.set({"array.write_empty_chunks": True}):
        dataset.to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)


def bounds(region: tuple[slice | int, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return first and one-past-last index of ``region`` along every dimension of an array of ``shape``.

    >>> bounds((1, slice(0, 4)), (2, 8, 3))
    [(1, 2), (0, 4), (0, 3)]
    """
    parts = [slice(p, p + 1) if isinstance(p, int) else p for p in region]
    parts += [slice(None)] * (len(shape) - len(parts))
    return [part.indices(size)[:2] for part, size in zip(parts, shape, strict=True)]


def write_block(path: Path, region: tuple[slice | int, ...], arrays: Mapping[str, NDArray[Any]]) -> list[Path]:
    """Write the values of ``arrays``, by name, into whole chunks; return the files of these chunks.

    Raises ValueError when ``region`` cuts a chunk: two tasks could then overwrite each other's half.
    """
    written = []
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, values in arrays.items():
            array = zarr.open_array(path / name, mode="r+")
            spans = list(zip(bounds(region, array.shape), array.chunks, array.shape, strict=True))
            if not all(low % chunk == 0 and (high % chunk == 0 or high == size) for (low, high), chunk, size in spans):
                raise ValueError(f"{path}: {name}: region {region} cuts chunks of {array.chunks}")
            array[region] = values
            counts = np.array([[low // chunk, -(-high // chunk)] for (low, high), chunk, _ in spans])
            for index in np.ndindex(*(counts[:, 1] - counts[:, 0])):
                written.append(path.joinpath(name, "c", *map(str, counts[:, 0] + index)))
    return written


def write_dataset(path: Path, dataset: xr.Dataset, attrs: Mapping[str, Any]) -> dict[Path, Stamp]:
    """Write a small dataset as a store or a group of one, replacing what is there; return its files and their stamps.

    They are stamped before anybody else can put others in their place, such as a worker of a driver that was killed.
    """
    with partial(path) as unfinished:
        _write(unfinished, dataset.assign_attrs(dict(attrs)))
        written = {path / file.relative_to(unfinished): stamp(file) for file in files(unfinished)}
        put_in_place(unfinished, path)
    return written


def create_groups(path: Path, attrs: Mapping[str, Any]) -> list[Path]:
    """Write the file that makes a directory a store of groups; groups are written with :func:`write_dataset`."""
    with partial(path) as unfinished:
        zarr.open_group(unfinished, mode="w", zarr_format=3, attributes=dict(attrs))
        path.mkdir(parents=True, exist_ok=True)
        (unfinished / "zarr.json").replace(path / "zarr.json")
        unfinished.rmdir()
    return [path / "zarr.json"]


def read(path: Path, dask: bool = True) -> xr.Dataset:
    """Open a store lazily; without ``dask``, which takes half a second to import, arrays are read whole when used.

    Raises UserError where it is missing or written with another schema, and DamageError, on opening or when a
    chunk is read, where a file of it is damaged or lost.
    """
    return _open(path, chunks={} if dask else None)


def load(path: Path) -> xr.Dataset:
    """Read a small store into memory, without Dask; raises as :func:`read` does."""
    return _open(path, chunks=None).load()


def _open(path: Path, chunks: dict[str, int] | None) -> xr.Dataset:
    read_attributes(path)
    return xr.open_zarr(CheckedStore(path), consolidated=False, chunks=chunks)


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a store without reading its arrays.

    Raises UserError where it is missing or written with another schema; DamageError where it is damaged.
    """
    file = path / "zarr.json"
    if not path.exists():
        raise UserError(f"{path}: missing")
    try:
        attrs = json.loads(read_bytes(file))["attributes"]
        schema = attrs["schema"]
    except FileNotFoundError:
        raise DamageError(file, "lost") from None
    except (OSError, ValueError, TypeError, KeyError):
        raise DamageError(file, "damaged (no attributes of a store)") from None
    if schema != SCHEMA:
        raise another_schema(path, attrs)
    return attrs


def check_chunk(file: Path, data: Any) -> None:
    """Raise DamageError where the bytes of a chunk do not end with their CRC-32C, or are no more than that."""
    view = memoryview(data)
    if len(view) <= CRC_BYTES:
        raise DamageError(file, f"damaged (cut to {len(view)} bytes)")
    if google_crc32c.value(bytes(view[:-CRC_BYTES])) != int.from_bytes(view[-CRC_BYTES:], "little"):
        raise DamageError(file, "damaged (wrong checksum)")


class CheckedStore(LocalStore):
    """A local store, for reading, whose chunks must be there and end with their checksum."""

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)

    def _check(self, key: str, value: Any, byte_range: Any) -> None:
        if not CHUNK.search(key):
            return
        if value is None:
            raise DamageError(self.root / key, "lost")
        if byte_range is None:
            check_chunk(self.root / key, value.as_buffer_like())

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Return the bytes of one file; raises DamageError for a chunk that is lost or damaged."""
        value = await super().get(key, prototype, byte_range)
        self._check(key, value, byte_range)
        return value

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """Return the bytes of one file, as :meth:`get`."""
        value = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        self._check(key, value, byte_range)
        return value
