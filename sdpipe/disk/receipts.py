"""Receipts: the one mechanism that says what is done in a run directory.

A *piece* is what is made in one go: a block of samples, a network, the budget of a target. When all of its files are
on disk, its receipt is written, last and in one step: what it was made from, and the SHA-256, size and time of change
of each file. The receipt is sealed with its own SHA-256. A piece is done when its receipt is there and whole, is of
today's inputs, and its files agree with it. Whatever lost or damaged a file, or put another in its place, the piece is
not done, and the next run makes it anew.

A file whose size and time of change are those of the receipt is taken to be the file that was written; any other is
hashed. ``thorough`` checks hash every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter

from sdpipe.disk.files import STATE, opened, read, write_text
from sdpipe.errors import DamageError, UserError

ANYTHING = TypeAdapter[Any](Any)

Stamp = tuple[str, int, int]
"""SHA-256, size in bytes, and time of change in nanoseconds of a file."""


def seal(content: Any) -> str:
    """Return plain data as one line of JSON that ends with its own SHA-256.

    >>> unseal(seal({"a": 1})), unseal(seal({"a": 1}).replace("1", "2", 1))
    ({'a': 1}, None)
    """
    text = json.dumps(content, sort_keys=True)
    return f"{text} {hashlib.sha256(text.encode()).hexdigest()}"


def unseal(line: str, shape: TypeAdapter[Any] = ANYTHING) -> Any:
    """Return the data of a line of :func:`seal`, or None where it is not what was written or not of this ``shape``."""
    text, _, digest = line.strip().rpartition(" ")
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        return None
    try:
        return shape.validate_python(json.loads(text))
    except (ValueError, RecursionError):  # sealed, but by no sdpipe
        return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; raises DamageError where it is lost or cannot be read."""
    try:
        with opened(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise DamageError(path, "lost") from None
    except OSError as error:
        raise DamageError(path, f"cannot be read ({error.strerror})") from None


def stamp(file: Path) -> Stamp:
    """Return what a receipt holds of a file."""
    stat = file.stat()
    return sha256(file), stat.st_size, stat.st_mtime_ns


def _inside(name: str) -> str:
    """Return the path of a file below a run directory; raises ValueError where it leads elsewhere."""
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name} is not in the run directory")
    return name


@dataclass(frozen=True)
class Receipt:
    """What a piece was made from, its files by their path in the run directory, and what else is worth noting."""

    made_from: str
    files: dict[Annotated[str, AfterValidator(_inside)], Stamp]
    facts: dict[str, Any]

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {name: stamp[0] for name, stamp in self.files.items()}


RECEIPT = TypeAdapter(Receipt)


class Receipts:
    """All receipts of a run directory. A piece is named by its stage and its own name."""

    def __init__(self, root: Path) -> None:
        self.root, self.directory = root, root / STATE / "receipts"

    def path(self, stage: str, piece: str) -> Path:
        """Return the file of one receipt."""
        return self.directory / stage / f"{piece}.json"

    def write(self, stage: str, piece: str, made_from: str, files: Iterable[Path], **facts: Any) -> None:
        """Say that a piece is done. Call it when all of its files are on disk.

        ``files`` may hold their stamps: those of what was written, whatever has taken its place since.
        """
        known = files if isinstance(files, Mapping) else {}
        stamps = {f.relative_to(self.root).as_posix(): known.get(f) or stamp(f) for f in sorted(files)}
        path = self.path(stage, piece)
        path.parent.parent.mkdir(exist_ok=True)
        write_text(path, seal({"made_from": made_from, "files": stamps, "facts": facts}))

    def read(self, stage: str, piece: str) -> Receipt | None:
        """Return the receipt of a piece, or None where there is none.

        Raises DamageError where it is not what was written.
        """
        path, receipt = self.path(stage, piece), None
        with suppress(OSError, UnicodeDecodeError):
            if not path.exists():
                return None
            receipt = unseal(read(path).decode(), RECEIPT)
        if receipt is None:
            raise DamageError(path, "damaged (a receipt that is not what was written)")
        return receipt

    def hash_of(self, path: Path, stage: str, piece: str) -> str:
        """Return the SHA-256 that a receipt has of a file of its piece.

        Raises UserError where there is no receipt, DamageError where it is damaged.
        """
        receipt = self.read(stage, piece)
        if receipt is None:
            raise UserError(f"{path}: missing; run: sdpipe {stage} {self.root}")
        return receipt.hashes[path.relative_to(self.root).as_posix()]

    def check(self, receipt: Receipt, thorough: bool = False) -> Iterator[DamageError]:
        """Yield each file that does not agree with its receipt."""
        for name, (digest, size, changed) in receipt.files.items():
            path = self.root / name
            try:
                stat = path.stat()
                if not S_ISREG(stat.st_mode):
                    yield DamageError(path, "not a file")
                    continue
                if not thorough and (stat.st_size, stat.st_mtime_ns) == (size, changed):
                    continue
                if stat.st_size != size or sha256(path) != digest:
                    yield DamageError(path, "damaged (not what its receipt says)")
            except DamageError as error:
                yield error
            except OSError as error:
                yield DamageError(path, "lost" if isinstance(error, FileNotFoundError) else str(error.strerror))

    def damage(self, pieces: Iterable[tuple[str, str]]) -> Iterator[DamageError]:
        """Yield every receipt of ``pieces`` that is damaged, and every file of theirs that does not agree with it.

        All bytes are read. A piece is its stage and name.
        """
        for stage, piece in pieces:
            try:
                receipt = self.read(stage, piece)
            except DamageError as error:
                yield error
            else:
                yield from self.check(receipt, thorough=True) if receipt else ()

    def all(self) -> list[tuple[str, str]]:
        """Return stage and name of every piece that has a receipt, whole or not."""
        return [(p.parent.name, p.stem) for p in sorted(self.directory.glob("*/*.json"))]

    def forget(self, stage: str, piece: str) -> None:
        """Say that a piece is not done after all."""
        self.path(stage, piece).unlink(missing_ok=True)

    def forget_below(self, place: Path) -> None:
        """Say that no piece with a file below ``place`` is done."""
        below = place.relative_to(self.root).as_posix() + "/"
        for stage, piece in self.all():
            try:
                receipt = self.read(stage, piece)
            except DamageError:
                continue
            if receipt and any(name.startswith(below) for name in receipt.files):
                self.forget(stage, piece)
