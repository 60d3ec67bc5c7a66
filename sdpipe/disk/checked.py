"""Files of a Zarr store, checked as they are read: a lost or damaged chunk raises and is named.

Zarr itself reads a chunk that is not there as fill values, and reports a wrong checksum without its file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
from zarr.storage import LocalStore

from sdpipe.errors import DamageError

METADATA = "metadata_sha256"
"""Attribute of a store: the hash of its metadata and of those of its arrays."""

CHUNK = re.compile(r"(?:^|/)c(?:/\d+)*$")

CRC_BYTES = 4
"""Bytes of the checksum at the end of a chunk; those of nothing are zeros, so a chunk must be longer."""

Json = dict[str, Any]


def metadata_hash(store: Path, *, members: bool = True) -> str:
    """Return the SHA-256 of the metadata of a store and, with ``members``, of its arrays, but for this hash itself."""
    content = _metadata(store)
    told = {k: v for k, v in attributes(store).items() if k != METADATA}
    hashed = hashlib.sha256(json.dumps({**content, "attributes": told}, sort_keys=True).encode())
    for file in sorted(store.glob("*/zarr.json")) if members else []:
        hashed.update(file.parent.name.encode() + _bytes(file))
    return hashed.hexdigest()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise DamageError(file, "lost") from None
    except OSError as error:
        raise DamageError(file, f"cannot be read ({error.strerror})") from None


def _metadata(node: Path) -> Json:
    try:
        content = json.loads(_bytes(node / "zarr.json"))
    except ValueError:
        raise DamageError(node / "zarr.json", "damaged (not JSON)") from None
    if not isinstance(content, dict):
        raise DamageError(node / "zarr.json", "damaged (not metadata)")
    return content


def attributes(store: Path) -> Json:
    """Return the attributes of a store; raises DamageError where there are none."""
    found = _metadata(store).get("attributes")
    if not isinstance(found, dict):
        raise DamageError(store / "zarr.json", "damaged (no attributes)")
    return found


def check_metadata(store: Path) -> None:
    """Raise DamageError where the metadata of a store are not those that were written."""
    if attributes(store).get(METADATA) != metadata_hash(store):
        raise DamageError(store / "zarr.json", "damaged (the metadata are not those that were written)")


def check_root(store: Path, unsealed: set[str]) -> None:
    """Raise DamageError where the file of a store of groups is not what was written; each group has its own hash.

    One without a hash, as sdpipe once wrote it, has the attributes ``unsealed`` and no others.
    """
    found = attributes(store)
    if METADATA in found:
        whole = found[METADATA] == metadata_hash(store, members=False)
    else:
        whole = found.keys() == unsealed and _metadata(store).get("node_type") == "group"
    if not whole:
        raise DamageError(store / "zarr.json", "damaged (the metadata are not those that were written)")


def check_chunk(file: Path, data: Any) -> None:
    """Raise DamageError where the bytes of a chunk do not end with their CRC-32C, or are no more than that."""
    view = memoryview(data)
    if len(view) <= CRC_BYTES:
        raise DamageError(file, f"damaged (cut to {len(view)} bytes)")
    if google_crc32c.value(bytes(view[:-CRC_BYTES])) != int.from_bytes(view[-CRC_BYTES:], "little"):
        raise DamageError(file, "damaged (wrong checksum)")


def chunks(array: Path) -> Iterator[Path]:
    """Yield every file that the chunks of an array are in, there or not."""
    found = _metadata(array)
    try:
        sizes = found["chunk_grid"]["configuration"]["chunk_shape"]
        counts = [-(-n // size) for n, size in zip(found["shape"], sizes, strict=True)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise DamageError(array / "zarr.json", "damaged (not the metadata of an array)") from None
    for index in product(*map(range, counts)):
        yield array.joinpath("c", *map(str, index))


def damage(store: Path) -> Iterator[DamageError]:
    """Yield what is lost or damaged in a store, reading the bytes of every chunk once and decoding none."""
    try:
        check_metadata(store)
    except DamageError as error:
        yield error
        return
    for array in sorted(p.parent for p in store.glob("*/zarr.json")):
        for file in chunks(array):
            try:
                check_chunk(file, _bytes(file))
            except DamageError as error:
                yield error


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
