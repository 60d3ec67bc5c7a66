"""Zarr v3 stores on disk: templates, whole-chunk block writes, done-markers, atomic replacement.

A store is made under a temporary name and renamed. A block counts as done once its marker exists, which
is written after its data, also by rename; readers open nothing while a marker is missing.
"""

from __future__ import annotations

import json
import os
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
from sdpipe.errors import UserError

SCHEMA = 1
"""Version of the layout of every store; a reader refuses any other."""

STATE = ".sdpipe"
"""Directory of markers, stage records and unfinished work inside a run directory."""

PARTIAL = ".partial"
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
    sizes = empty.sizes
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    empty.to_zarr(partial, zarr_format=3, consolidated=False)
    group = zarr.open_group(partial, mode="r+")
    for name, v in variables.items():
        array = group.create_array(
            name,
            shape=tuple(sizes[d] for d in v.dims),
            chunks=tuple(min(c, sizes[d]) for c, d in zip(v.chunks, v.dims, strict=True)),
            dtype=v.dtype,
            compressors=compressors(),
            dimension_names=v.dims,
        )
        array.attrs.update({"units": v.units, "long_name": v.long_name})
    partial.rename(path)


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


def write_text(path: Path, text: str) -> None:
    """Write a small file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_dataset(path: Path, dataset: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    """Write a small dataset as a store or a group of one, replacing what is there."""
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    encoding = {name: {"compressors": compressors()} for name in dataset.data_vars}
    dataset.assign_attrs(dict(attrs)).to_zarr(partial, zarr_format=3, consolidated=False, encoding=encoding)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def write_group(store: Path, group: str, dataset: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    """Write ``dataset`` as one group of ``store``, which is made where it is not there."""
    if not (store / "zarr.json").exists():
        store.mkdir(parents=True, exist_ok=True)
        zarr.open_group(store, mode="a", zarr_format=3).attrs.update(dict(attrs))
    write_dataset(store / group, dataset, attrs)


def read(path: Path) -> xr.Dataset:
    """Open a store lazily.

    Raises UserError where it is missing or written with another schema.
    """
    schema = read_attributes(path).get("schema")
    if schema != SCHEMA:
        raise UserError(f"{path}: schema {schema}, but sdpipe {__version__} reads schema {SCHEMA}")
    return xr.open_zarr(path, consolidated=False, chunks={})


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a store without reading its arrays."""
    try:
        return json.loads((path / "zarr.json").read_text())["attributes"]
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except (json.JSONDecodeError, KeyError):
        raise UserError(f"{path}: zarr.json is damaged") from None


@dataclass(frozen=True)
class Markers:
    """Done-markers of one stage: one small JSON file a block, holding the hash of what it was made from."""

    directory: Path
    config_hash: str

    def add(self, block: str, **facts: Any) -> None:
        """Say that ``block`` is done. Call it after its data are on disk."""
        write_text(self.directory / f"{block}.json", json.dumps({"config_hash": self.config_hash, **facts}))

    def facts(self, block: str) -> dict[str, Any] | None:
        """Return what was noted with ``block``, or None where it is not done with this hash."""
        try:
            facts = json.loads((self.directory / f"{block}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return facts if facts.get("config_hash") == self.config_hash else None

    def missing(self, blocks: list[str]) -> list[str]:
        """Return those of ``blocks`` that are not done."""
        return [b for b in blocks if self.facts(b) is None]

    def clear(self) -> None:
        """Forget every block."""
        shutil.rmtree(self.directory, ignore_errors=True)
