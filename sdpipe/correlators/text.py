"""Tables of text: columns t C err, one configuration per row, or one value per row."""

from __future__ import annotations

import io
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sdpipe.arrays import Array
from sdpipe.correlators.record import MOST_NUMBERS, Record, Snapshot, choose
from sdpipe.errors import UserError

NEEDED = "needed columns t C err, t C(err), t re im err or cfg t C, or one configuration in each row"


BYTE_ORDER_MARK = b"\xef\xbb\xbf"


NUMBER_WITH_ERROR = re.compile(r"([-+]?\d*(?:\.(\d*))?)\((\d+(?:\.\d+)?|\.\d+)\)(?:[eE]([-+]?\d+))?")
"""As in 519.32(66) or 1.5(2)e-3. Digits can be matched in one way only, so that a long row of them takes no longer."""


IMAGINARY = 5.0
"""Errors up to which an imaginary part counts as zero."""


SWAPPED = 10.0
"""A table is no ``cfg t C`` where means over the second column vary so many times more than those over the first."""


def joined(pattern: str) -> str:
    """Return how files of this pattern, one for each configuration, become a file that is read.

    Of names that differ in length the shorter one is first, so that 20 is before 100.

    >>> joined("*.dat").partition(" by ")[2].partition(", column")[0]
    "numpy.save('x.npy', [numpy.loadtxt(f)[:, 1] for f in sorted(sorted(glob.glob('*.dat')), key=len)])"
    """
    every = f"[{_loaded(Path(pattern), 'f')}[:, 1] for f in sorted(sorted(glob.glob('{pattern}')), key=len)]"
    return f"files of one configuration each become one by numpy.save('x.npy', {every}), column 1 being C"


def _loaded(path: Path, what: str = "FILE") -> str:
    """Return what loads a file like this one in Python.

    >>> _loaded(Path("x.csv"))
    "numpy.loadtxt(FILE, delimiter=',')"
    """
    return f"numpy.loadtxt({what}{', delimiter=' + repr(',') if path.suffix.lower() == '.csv' else ''})"


def read_text(snapshot: Snapshot, dataset: str | None) -> Record:
    """Columns ``t C err`` (also ``t C(err)``, ``t re im err``) or ``cfg t C``, or one configuration in each row.

    Rows of a gvar.dataset file are configurations behind the name of their correlator.
    """
    path = snapshot.path
    tables = _tables(path, snapshot.content)
    if not tables:
        raise UserError(f"{path}: no numbers in it; {NEEDED}")
    if "" not in tables:
        name = choose(dataset, tables, path)
        return Record(f"{path}: {name}", samples=tables[name].table())
    if dataset is not None:
        raise UserError(f"{path}: this file holds one correlator; leave dataset out", key="dataset")
    if len(tables) > 1:
        raise UserError(f"{path}: rows with and without a name in front; needed: one kind")
    return _table(path, tables[""].table(), tables[""].lines)


def _tables(path: Path, content: bytes) -> dict[str, _Rows]:
    """Return the rows of numbers in a text by the name in front of them, empty where there is none."""
    comma, count = "," if path.suffix.lower() == ".csv" else None, 0
    tables: dict[str, _Rows] = {}
    for number, line in enumerate(_lines(path, content), 1):
        if number > MOST_NUMBERS:
            raise UserError(f"{path}: more than {MOST_NUMBERS} lines; allowed: up to that")
        row_text = line.partition("#")[0].strip()
        if not row_text or (not tables and not any(c.isdigit() for c in row_text)):
            continue  # a line of column names
        try:
            name, row = _row(row_text, comma)
        except (ValueError, OverflowError):
            hint = "decimals are written with a point, columns are separated by blanks, in .csv by commas"
            if comma and not tables and row_text.startswith(",0,1,"):
                hint = "a line and a column of numbers that pandas writes: to_csv(..., header=False, index=False)"
            raise UserError(f"{path}:{number}: {row_text[:60]!r} is not a row of numbers; {hint}") from None
        if not all(map(math.isfinite, row)):
            raise UserError(f"{path}:{number}: {row_text[:60]!r}; all values must be finite")
        if name not in tables:
            tables[name] = _Rows(len(row))
        rows = tables[name]
        if len(row) != rows.width:
            raise UserError(f"{path}:{number}: {len(row)} columns, but {rows.width} in the rows above")
        count += len(row)
        if count > MOST_NUMBERS:
            raise UserError(f"{path}: more than {MOST_NUMBERS} numbers; allowed: up to that; average or bin them first")
        rows.numbers.extend(row)
        rows.lines.append(number)
    return tables


@dataclass
class _Rows:
    """The numbers of a table of so many columns, and the line of each row, in as little memory as they need."""

    width: int
    numbers: array[float] = field(default_factory=lambda: array("d"))
    lines: array[int] = field(default_factory=lambda: array("q"))

    def table(self) -> Array:
        return np.frombuffer(self.numbers).reshape(-1, self.width)


def _lines(path: Path, content: bytes) -> Iterator[str]:
    """Yield the lines of a text, one after the other, so that no more than one is decoded at a time.

    >>> list(_lines(Path("x.txt"), b"a\\r\\n\\nb"))
    ['a', '', 'b']
    """
    count = 0
    for part in io.BytesIO(content.removeprefix(BYTE_ORDER_MARK)):
        try:
            lines = part.decode().splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{count + 1}: not a text file in UTF-8: {error.reason}") from None
        count += len(lines)
        yield from lines


def _row(content: str, comma: str | None) -> tuple[str, list[float]]:
    """Return the name in front of a row, empty where there is none, and its numbers; raise ValueError for others.

    >>> _row("eta [519.32, 2e-3]", None), _row("3 519.32(66)", None)
    (('eta', [519.32, 0.002]), ('', [3.0, 519.32, 0.66]))
    """
    fields, name = content.split(comma), ""
    try:
        return name, list(map(float, fields))
    except ValueError:
        pass  # a name in front, or errors in brackets
    if len(fields) > 1 and re.match(r"[^\W\d]", fields[0]) and fields[0].lower() not in ("nan", "inf", "infinity"):
        name = fields[0]
        fields = re.split(r"[\s,]+", content[len(name) :].strip(" \t,[]"))
    row: list[float] = []
    for text in map(str.strip, fields):
        match = NUMBER_WITH_ERROR.fullmatch(text)
        if match is None:
            row.append(float(text))
            continue
        mean, decimals, error, exponent = match.groups()
        unit = 10.0 ** int(exponent or 0)
        last_digit = 1 if "." in error else 10.0 ** -len(decimals or "")
        row += [float(mean) * unit, float(error) * unit * last_digit]
    return name, row


def _table(path: Path, rows: Array, lines: Sequence[int]) -> Record:
    """Return the record of a table of numbers without names; ``lines`` are those of its rows in the file."""
    width, first, second = rows.shape[1], rows[:, 0], rows[:, min(1, rows.shape[1] - 1)]
    whole = [bool((column == np.round(column)).all()) for column in (first, second)]
    T = len(np.unique(first))
    again = whole[0] and len(first) > T
    if again and not whole[1] and len(first) % T == 0 and (first.reshape(-1, T) == first[:T]).all():
        line = f"numpy.save('x.npy', {_loaded(path)}[:, 1].reshape(-1, {T}))"
        raise UserError(
            f"{path}: {T} times that come back, one configuration below the other: {line}, column 1 being C"
        )
    if width < 3:
        raise UserError(f"{path}:{lines[0]}: {width} columns; {NEEDED}; {_of_many(path)}")
    if again and whole[1] and width == 3:
        return _long_table(path, *rows.T)
    if again and whole[1]:
        keep = f"take the imaginary part away, and further momenta: {_kept(path, '[0, 1, 2]')}"
        raise UserError(f"{path}: {width} columns, with values of the first that come back; for cfg t re im {keep}")
    if width > 4 or (width == 4 and not whole[0]):
        if whole[0]:
            raise UserError(f"{path}: {width} columns, whole numbers in the first; {_taken(path, rows)}")
        if (np.diff(rows[0]) == 1).all():
            what = f"{rows[0, 0]:g}, {rows[0, 1]:g}, {rows[0, 2]:g}, ... count the slices and are no configuration"
            raise UserError(f"{path}:{lines[0]}: {what}; take this line away, or put # in front of it")
        return Record(str(path), samples=rows)
    errors, without = rows[:, -1], f"t re im has none; {_of_many(path)}"
    if not errors.any():
        raise UserError(f"{path}: the last column, errors, is 0 throughout; {without}")
    if (errors < 0).any():
        i = int(np.argmax(errors < 0))
        raise UserError(f"{path}:{lines[i]}: error {errors[i]:g}; it must be positive; {without}")
    if width == 4 and (large := np.abs(rows[:, 2]) > IMAGINARY * errors).any():
        i = int(np.argmax(large))
        sizes = f"{rows[i, 2]:g} with error {errors[i]:g}; allowed in t re im err: {IMAGINARY:g} errors"
        raise UserError(f"{path}:{lines[i]}: imaginary part {sizes}; to leave it out: {_kept(path, '[0, 1, 3]')}")
    return Record(str(path), mean=second, errors=errors, times=first)


def _taken(path: Path, rows: Array) -> str:
    """Return what makes a file of one correlator of rows whose first column counts configurations, or times."""
    if rows.shape[1] % 2 == 0 or not _falls_downwards(rows[:, 1::2], 1.0):
        return f"take the column of numbers of configurations away: {_kept(path, '1:')}"
    if (rows[:, 2::2] > 0).all():
        return f"to read one of t C err C err ...: {_kept(path, '[0, 1, 2]')}"
    return f"t re im re im ... has no errors; {_of_many(path)} of the first"


def _falls_downwards(table: Array, times: float) -> bool:
    """Return whether values of a table change from row to row, by so many ``times`` more than along a row."""
    return bool(table.mean(axis=1).var() > times * table.mean(axis=0).var())


def _of_many(path: Path) -> str:
    """Return how files like this one, of one configuration each, become one that is read."""
    return joined("PATTERN" + (".csv" if path.suffix.lower() == ".csv" else ""))


def _kept(path: Path, columns: str) -> str:
    """Return what writes a file with these columns only."""
    return f"numpy.savetxt('x.txt', {_loaded(path)}[:, {columns}])"


def _long_table(path: Path, cfg: Array, t: Array, C: Array) -> Record:
    """Return samples (cfg, t), in the order of ``cfg``, from one row per configuration and time."""
    (labels, row), (times, column) = np.unique(cfg, return_inverse=True), np.unique(t, return_inverse=True)
    cells, count = np.unique(row * len(times) + column, return_counts=True)
    wrong = np.flatnonzero((cells != np.arange(len(cells))) | (count != 1))
    if wrong.size or len(cells) < len(labels) * len(times):  # looked at before there is room for all of them
        cell = int(wrong[0]) if wrong.size else len(cells)
        lines = int(count[cell]) if wrong.size and cells[cell] == cell else 0
        label, t = labels[cell // len(times)], times[cell % len(times)]
        raise UserError(f"{path}: configuration {label:g} has t = {t:g} {lines} times; needed: once")
    samples = np.empty((len(labels), len(times)))
    samples[row, column] = C
    if _falls_downwards(samples, SWAPPED):
        order = (
            f"values change with the first column and not with the second, as in t cfg C: {_kept(path, '[1, 0, 2]')}"
        )
        as_is = f"numpy.save('x.npy', {_loaded(path)}[:, 2].reshape({len(labels)}, -1))"
        raise UserError(f"{path}: {order}; where the first is cfg all the same, and rows are in order: {as_is}")
    return Record(str(path), samples=samples, times=times, said={"resampling": "configurations"})
