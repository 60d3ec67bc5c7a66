"""The kinds of failure that the command line reports in one line each."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sdpipe.version import SCHEMA, __version__

SPELLED = {
    "± ": "+-",  # as wide, so that columns of a table stay where they are
    "±": "+-",
    "σ": "sigma",
    "ρ": "rho",
    "λ": "lambda",
    "ω": "omega",
    "χ": "chi",
    "Δ": "Delta",
    "²": "^2",
    "≥": ">=",
    "≤": "<=",
    "×": "x",
    "−": "-",
    "–": "-",
    "…": "...",
    "→": "->",
    "∞": "infinity",
}
"""What is written in place of a character that a terminal lacks."""


def printable(text: str, encoding: str = "utf-8", keep: str = "") -> str:
    r"""Return text that does nothing to a terminal but show: what is none is escaped, what ``encoding`` lacks spelled.

    Names of files and data sets may hold anything. Of control characters those in ``keep`` stay.

    >>> printable("a\x1b[31m\n"), printable("0.1 ± 0.2, σ, ü", "ascii", keep="\n")
    ('a\\x1b[31m\\n', '0.1 +-0.2, sigma, \\xfc')
    """
    text = "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        for character, spelled in SPELLED.items():
            text = text.replace(character, spelled)
    return text.encode(encoding, "backslashreplace").decode(encoding)


class UserError(Exception):
    """Faults that the user can mend: one printable line each, exit status 2, nothing written.

    ``key`` is the key, within its section of the config, that mends it, where the one who raises it knows.
    """

    def __init__(self, *faults: str, key: str | None = None) -> None:
        self.faults, self.key = tuple(map(printable, faults)), key
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> Any:
        return partial(type(self), key=self.key), self.faults


class ConfigError(UserError):
    """Faults that belong to keys of the config: ``places`` are pairs (path of keys, what is wrong and allowed)."""

    def __init__(self, *places: tuple[tuple[str | int, ...], str]) -> None:
        super().__init__(*(f"{'.'.join(map(str, keys))}: {words}" for keys, words in places))
        self.places = places

    def __reduce__(self) -> Any:
        return type(self), self.places


class DamageError(UserError):
    """A file of a run directory that is damaged or lost, found on reading; what was made in it is made anew."""

    def __init__(self, file: Path, what: str) -> None:
        holders = (p for p in file.parents if (p / "config.yaml").exists() and p.name != ".sdpipe")
        root = next(map(str, holders), None)
        run = shlex.quote(root) if root else "RUN"
        super().__init__(
            f"{file}: {what}; sdpipe status {run} --verify lists all damage, sdpipe run {run} then mends it"
        )
        self.file, self.what = file, what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.what)


class RunError(Exception):
    """Work that failed for a reason outside the input, and says what is safe: exit status 1."""


def another_schema(path: Path, attrs: Mapping[str, Any]) -> UserError:
    """Say in one line that ``path`` is of another schema, and which sdpipe wrote it; ``found`` is what it says.

    What an earlier version made is made anew elsewhere, from the config that it has.
    """
    words = (
        f"{path}: written by sdpipe {attrs.get('sdpipe_version', 'of another version')} with schema "
        f"{attrs.get('schema')}, but this is sdpipe {__version__}, which reads schema {SCHEMA}"
    )
    earlier = isinstance(attrs.get("schema"), int) and attrs["schema"] < SCHEMA
    for root in (path, *path.parents) if earlier else ():
        for config in (root / ".sdpipe" / "config.yaml", root / "config.yaml"):
            if config.exists() and root.name != ".sdpipe":
                command = shlex.join(["sdpipe", "run", str(config), "--run", f"{root}-anew"])
                return UserError(f"{words}: an earlier version made it; it stays as it is; to make it anew: {command}")
    return UserError(f"{words}; use that version, or another --run")
