"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from sdpipe.errors import DamageError

STATE = ".sdpipe"
"""Directory of receipts, timings and unfinished work inside a run directory."""

PARTIAL = ".partial"
"""Ending of a file or store that is being written."""

OLD = ".replaced"
"""Ending of a store while another takes its place."""

LEFTOVER = re.compile(
    r"\.?(?P<name>.+)\.[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}" + f"({re.escape(PARTIAL)}|{re.escape(OLD)})"
)
"""Names of what sdpipe, or Zarr for it, was writing or replacing: with a random UUID, so that no other file has one."""

DIGEST = hashlib.sha256().digest_size


def _aside(name: str, ending: str) -> str:
    """Return a name of its own for what is unfinished or replaced, which :data:`LEFTOVER` matches."""
    return f".{name}.{uuid.uuid4().hex}{ending}"


@contextmanager
def partial(path: Path) -> Iterator[Path]:
    """Give a name of its own to what will be ``path`` once it is whole; remove it if that fails.

    It lies beside the outermost store, where nobody takes it for a group.
    """
    beside = next(p for p in path.parents if p.suffix != ".zarr")
    unfinished = beside / _aside(path.name, PARTIAL)
    try:
        yield unfinished
    except BaseException:
        delete(unfinished)
        raise


def odd(directory: Path) -> Iterator[Path]:
    """Yield every symbolic link below a directory, and follow none, and what is no file either, such as a pipe."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                yield Path(entry.path)
            elif entry.is_dir():
                yield from odd(Path(entry.path))


def delete(path: Path) -> None:
    """Remove a file, a directory or a link, if it is there; what a link points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a store: a kill leaves either all of it, or nothing but rubbish that :func:`sweep` removes.

    Of a store that lies elsewhere the link is removed.
    """
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        with partial(path) as rubbish:
            path.rename(rubbish)
            shutil.rmtree(rubbish)


def put_in_place(unfinished: Path, path: Path) -> None:
    """Rename a whole store into place. A kill halfway leaves the old one aside, which :func:`sweep` puts back."""
    aside = path.with_name(_aside(path.name, OLD))
    if path.exists():
        path.rename(aside)
    unfinished.rename(path)
    remove(aside)


def set_aside(path: Path) -> None:
    """Give a damaged file, or a directory in its place, a name that :func:`sweep` removes."""
    if path.exists():
        path.replace(path.with_name(_aside(path.name, PARTIAL)))


def sweep(directory: Path, deep: bool = True) -> None:
    """Remove what killed processes left in a directory or, ``deep``, below it too; put back what was being replaced.

    What has another name than :data:`LEFTOVER` stays.
    """
    leftovers = []
    for place, directories, names in os.walk(directory):
        leftovers += [Path(place, name) for name in (*directories, *names) if LEFTOVER.fullmatch(name)]
        if not deep:
            break
    # Replaced stores first, which may hold the others.
    for path in sorted(leftovers, key=lambda p: p.suffix == PARTIAL):
        place = path.with_name(LEFTOVER.fullmatch(path.name)["name"])
        if path.suffix == OLD and not place.exists():
            path.rename(place)
        else:
            delete(path)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read. Raises OSError where it cannot be read or is none, such as a pipe, which has no end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        if not S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        yield stream


def read(path: Path) -> bytes:
    """Return the bytes of a file; raises OSError as :func:`opened` does."""
    with opened(path) as stream:
        return stream.read()


def below(place: Path) -> Iterator[os.stat_result]:
    """Yield size and times of a file, or of every file below a directory; those that vanish meanwhile are left out."""
    if not place.is_dir():
        with suppress(FileNotFoundError):
            yield place.stat()
        return
    directories: list[Path | str] = [place]
    while directories:
        with suppress(FileNotFoundError), os.scandir(directories.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                    continue
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    if S_ISREG(stat.st_mode):
                        yield stat


def write_text(path: Path, text: str) -> None:
    """Write a small file in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step."""
    path.parent.mkdir(exist_ok=True)  # no further up: a run directory that was deleted does not come back
    with partial(path) as unfinished:
        unfinished.write_bytes(data)
        unfinished.replace(path)


def read_recorded(path: Path, sha256: str) -> bytes:
    """Return the bytes of a file whose hash is recorded elsewhere.

    Raises DamageError where it is missing or has another one.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DamageError(path, "missing") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamageError(path, "damaged (its SHA-256 is not the recorded one)")
    return data


def write_sealed(path: Path, data: bytes) -> None:
    """Write a file in one step, with the SHA-256 of its content as its end."""
    write_bytes(path, data + hashlib.sha256(data).digest())


def read_sealed(path: Path) -> bytes:
    """Return the content of a file of :func:`write_sealed`; raises DamageError where it is not what was written."""
    data = read(path)
    content, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise DamageError(path, "damaged (wrong checksum)")
    return content
