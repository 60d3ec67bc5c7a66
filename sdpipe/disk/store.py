"""Zarr v3 stores on disk: templates, whole-chunk block writes, atomic replacement, checked reading.

A store is made under a temporary name and renamed. Every chunk ends in a checksum, and is written whatever its
values: one that is not there is lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from sdpipe import __version__
from sdpipe.config.schema import SCHEMA
from sdpipe.disk import checked
from sdpipe.disk.files import partial, replace
from sdpipe.errors import DamageError, UserError

CHUNK_BYTES = 16 * 2**20


def compressors() -> tuple[Any, ...]:
    """Codecs of every array: fast compression, then a checksum that is verified on each read."""
    return BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"), Crc32cCodec()


def attributes(config_hash: str, seed: int) -> dict[str, Any]:
    """Return the attributes that every store carries."""
    return {
        "sdpipe_version": __version__,
        "schema": SCHEMA,
        "config_hash": config_hash,
        "seed": seed,
        "numpy_version": np.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class Variable:
    """One array of a template: dimensions, chunk length along each, and what it is."""

    dims: tuple[str, ...]
    chunks: tuple[int, ...]
    dtype: str
    units: str
    long_name: str


def create(path: Path, coords: Mapping[str, Any], variables: Mapping[str, Variable], attrs: Mapping[str, Any]) -> None:
    """Create an empty store in one step: either all of it is there or nothing."""
    empty = xr.Dataset(coords=dict(coords), attrs=dict(attrs))
    with partial(path) as unfinished:
        _write(unfinished, empty)
        group = zarr.open_group(unfinished, mode="r+")
        for name, v in variables.items():
            array = group.create_array(
                name,
                shape=tuple(empty.sizes[d] for d in v.dims),
                chunks=tuple(min(c, empty.sizes[d]) for c, d in zip(v.chunks, v.dims, strict=True)),
                dtype=v.dtype,
                fill_value=np.nan,  # what other readers see of a lost chunk
                compressors=compressors(),
                dimension_names=v.dims,
            )
            array.attrs.update({"units": v.units, "long_name": v.long_name})
        seal(unfinished)
        unfinished.rename(path)


def restore(path: Path, coords: Mapping[str, Any], variables: Mapping[str, Variable], attrs: Mapping[str, Any]) -> None:
    """Write metadata and coordinates of a store anew, and leave the chunks of its arrays as they are."""
    with partial(path) as fresh:
        create(fresh, coords, variables, attrs)
        for file in sorted(p for p in fresh.rglob("*") if p.is_file()):
            (path / file.relative_to(fresh)).parent.mkdir(parents=True, exist_ok=True)
            file.replace(path / file.relative_to(fresh))
        shutil.rmtree(fresh)


def _write(path: Path, dataset: xr.Dataset) -> None:
    encoding = {name: {"compressors": compressors()} for name in dataset.variables}
    with zarr.config.set({"array.write_empty_chunks": True}):
        dataset.to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)


def seal(path: Path) -> None:
    """Note the hash of the metadata in the attributes of a store, as the last thing that is written to it."""
    group = zarr.open_group(path, mode="r+")
    group.attrs[checked.METADATA] = checked.metadata_hash(path)


def bounds(region: tuple[slice | int, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return first and one-past-last index of ``region`` along every dimension of an array of ``shape``.

    >>> bounds((1, slice(0, 4)), (2, 8, 3))
    [(1, 2), (0, 4), (0, 3)]
    """
    parts = [slice(p, p + 1) if isinstance(p, int) else p for p in region]
    parts += [slice(None)] * (len(shape) - len(parts))
    return [part.indices(size)[:2] for part, size in zip(parts, shape, strict=True)]


def write_block(path: Path, name: str, region: tuple[slice | int, ...], values: NDArray[Any]) -> None:
    """Write ``values`` into whole chunks of array ``name``.

    Raises ValueError when ``region`` cuts a chunk: two tasks could then overwrite each other's half.
    """
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(path / name, mode="r+")
        whole = (
            low % chunk == 0 and (high % chunk == 0 or high == size)
            for (low, high), chunk, size in zip(bounds(region, array.shape), array.chunks, array.shape, strict=True)
        )
        if not all(whole):
            raise ValueError(f"{path}: {name}: region {region} cuts chunks of {array.chunks}")
        array[region] = values


def chunk(path: Path, name: str, index: tuple[int, ...], dims: int) -> Path:
    """Return the file of one chunk of array ``name``, of ``dims`` dimensions; ``index`` is zero past its end.

    >>> chunk(Path("a.zarr"), "rho", (1, 4), 3).as_posix()
    'a.zarr/rho/c/1/4/0'
    """
    return path.joinpath(name, "c", *map(str, index), *["0"] * (dims - len(index)))


def write_dataset(path: Path, dataset: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    """Write a small dataset as a store or a group of one, replacing what is there."""
    with partial(path) as unfinished:
        _write(unfinished, dataset.assign_attrs(dict(attrs)))
        seal(unfinished)
        replace(unfinished, path)


def create_groups(path: Path, attrs: Mapping[str, Any]) -> None:
    """Make an empty store for groups, where there is none, or its damaged file anew.

    Groups are written with :func:`write_dataset`.
    """
    if not is_root_whole(path):
        with partial(path) as unfinished:
            root = zarr.open_group(unfinished, mode="w", zarr_format=3, attributes=dict(attrs))
            root.attrs[checked.METADATA] = checked.metadata_hash(unfinished, members=False)
            path.mkdir(parents=True, exist_ok=True)
            (unfinished / "zarr.json").replace(path / "zarr.json")
            unfinished.rmdir()


def read(path: Path) -> xr.Dataset:
    """Open a store lazily.

    Raises UserError where it is missing or written with another schema, and DamageError, on opening or when a
    chunk is read, where a file of it is damaged or lost.
    """
    return _open(path, chunks={})


def load(path: Path) -> xr.Dataset:
    """Read a small store into memory, without Dask; raises as :func:`read` does."""
    return _open(path, chunks=None).load()


def _open(path: Path, chunks: dict[str, int] | None) -> xr.Dataset:
    read_attributes(path)
    return xr.open_zarr(checked.CheckedStore(path), consolidated=False, chunks=chunks)


def identity(path: Path) -> str | None:
    """Return the hash of what a store was made from, or None where it is missing or damaged.

    Raises UserError where it was written with another schema.
    """
    try:
        return str(read_attributes(path)["config_hash"]) if path.exists() else None
    except (DamageError, KeyError):
        return None


def is_whole(path: Path) -> bool:
    """Return whether metadata and every chunk of a store are there; reads the metadata only."""
    try:
        checked.check_metadata(path)
    except DamageError:
        return False
    return all(is_array_whole(file.parent) for file in path.glob("*/zarr.json"))


def is_array_whole(path: Path) -> bool:
    """Return whether metadata and every chunk of one array are there."""
    try:
        return all(chunk.exists() for chunk in checked.chunks(path))
    except DamageError:
        return False


def check_root(path: Path) -> None:
    """Raise DamageError where the file of a store of groups is lost or damaged."""
    checked.check_root(path, set(attributes("", 0)))


def is_root_whole(path: Path) -> bool:
    """Return whether the file of a store of groups is there and as written."""
    try:
        check_root(path)
    except DamageError:
        return False
    return True


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a store without reading its arrays.

    Raises UserError where it is missing or, intact, written with another schema; DamageError where it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: missing")
    found = checked.attributes(path)
    ours = found.get("schema") == SCHEMA
    if ours or checked.METADATA in found:  # another schema is believed where the hash fits, or where there is none
        checked.check_metadata(path)
    if not ours:
        raise another_schema(path, found)
    return found


def another_schema(path: Path, found: Mapping[str, Any]) -> UserError:
    """Say in one line that ``path`` is of another schema, and which sdpipe wrote it; ``found`` is what it says."""
    return UserError(
        f"{path}: written by sdpipe {found.get('sdpipe_version', 'of another version')} with schema "
        f"{found.get('schema')}, but this is sdpipe {__version__}, which reads schema {SCHEMA}; use that version, or "
        "another --run"
    )
