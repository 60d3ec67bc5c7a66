"""Read a config file: YAML, overrides, and every fault with its file and line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sdpipe.config.origins import fill
from sdpipe.config.rules import Fault, Location, faults
from sdpipe.config.schema import Config, plain
from sdpipe.errors import UserError

UNREADABLE = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What PyYAML raises where a value does not fit its tag, and where nesting is too deep."""


MOST_VALUES = 100_000
"""Keys and values of a file, those behind an alias counted each time."""

GONE = (("training", "stack"),)
"""Keys that every ``config.yaml`` of an earlier version has. They never changed a result, and are passed over."""

LONGEST_NUMBER = 100
"""Characters of a number."""

MOST_MEANT = 20
"""Unknown keys beyond which it is not looked up what each was to be."""


class _Loader(yaml.SafeLoader):
    """Safe YAML of bounded size, in which a key may appear once and merges no others."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._count, self._sizes = 0, dict[int, int]()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        before, mark = self._count, self.peek_event().start_mark
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise yaml.MarkedYAMLError(problem="an alias inside of what it stands for", problem_mark=mark)
        self._count += self._sizes[id(node)] if alias else 1
        if self._count > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES} keys and values", problem_mark=mark)
        self._sizes[id(node)] = self._count - before
        return node

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag.endswith((":int", ":float")) and len(node.value) > LONGEST_NUMBER:
            words = f"a number of {len(node.value)} characters; allowed: at most {LONGEST_NUMBER}"
            raise yaml.MarkedYAMLError(problem=words, problem_mark=node.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.tag.endswith(":merge"):
                words = "merge keys (<<) are not read; write out the keys of the section"
                raise yaml.MarkedYAMLError(problem=words, problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} appears twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


@dataclass(frozen=True)
class KeyPlaces:
    """Where each key of a config comes from: a line of ``file``, or an override on the command line."""

    file: Path
    node: yaml.Node
    overridden: list[Location]
    _sections: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = field(default_factory=dict)

    def describe(self, faults: Iterable[Fault]) -> list[str]:
        """Return ``FILE:LINE: key: words`` or ``command line: key: words`` for every fault, each on one line."""
        lines = []
        for keys, words in faults:
            line, depth = self._line(keys)
            overridden = any(
                keys and (keys[: len(o)] == o[: len(keys)] or keys[: depth + 1] == o[: depth + 1])
                for o in self.overridden
            )
            where = "command line" if overridden else f"{self.file}:{line}"
            lines.append(": ".join(filter(None, [where, ".".join(map(str, keys)), words])))
        return list(dict.fromkeys(lines))

    def _line(self, keys: Location) -> tuple[int, int]:
        """Return the line of ``keys``, or of the closest section above, and how many of ``keys`` led there."""
        node, line = self.node, 1
        for depth, part in enumerate(keys):
            if isinstance(node, yaml.MappingNode):
                entries = self._entries(node)
                if str(part) not in entries:
                    return line, depth
                key, node = entries[str(part)]
                line = key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
        return line, len(keys)

    def _entries(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the nodes of each key of a section and of its value; made once, for thousands of faults in it."""
        if id(node) not in self._sections:
            self._sections[id(node)] = {k.value: (k, v) for k, v in node.value if isinstance(k, yaml.ScalarNode)}
        return self._sections[id(node)]


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read, override and check a config: the first half of :func:`read_config`."""
    return read_config(path, overrides)[0]


def read_config(path: Path, overrides: Iterable[str] = ()) -> tuple[Config, KeyPlaces]:
    """Read, override and check a config; return it with where its keys come from.

    Parameters
    ----------
    path
        A YAML file, or a run directory, whose resolved ``config.yaml`` is then used.
    overrides
        ``KEY=VALUE`` strings with a dotted key; VALUE is parsed as YAML.

    Raises
    ------
    UserError
        With every fault of the file, ``FILE:LINE: key: what is wrong and what is allowed``: those of single sections
        or, where there are none, those of the rules between sections.
    """
    file = path
    try:
        file = path / "config.yaml" if path.is_dir() else path
        if path.is_dir() and file.exists() and not file.is_file():  # a pipe, in somebody else's run, has no end
            raise UserError(f"{file}: not a file")
        raw, node = read_yaml(file, ", ".join(Config.model_fields))
    except FileNotFoundError:
        what = "not a run directory: config.yaml is missing in it" if path.is_dir() else "no such file or run directory"
        raise UserError(f"{path}: {what}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    for section, key in GONE:
        if isinstance(raw.get(section), dict):
            raw[section].pop(key, None)
    origin = KeyPlaces(file, node, [_override(raw, text) for text in overrides])
    config, wrong = validated(raw)
    if wrong := [*wrong, *(faults(config) if config else [])]:
        raise UserError(*origin.describe(wrong))
    return config, origin


def _taken_for_numbers(raw: Any, value_of: Any, *keys: str | int) -> Iterator[Fault]:
    """Yield where ``raw`` holds yes or no, which to Python are numbers, and what was ``made`` of it holds a number."""
    if isinstance(raw, bool) and not isinstance(value_of, bool):
        yield keys, "a number is needed; yes, no, on, off, true and false are none"
    parts = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in parts:
        yield from _taken_for_numbers(value, value_of[key], *keys, key)


def read_yaml(file: Path, needed: str) -> tuple[dict[str, Any], yaml.Node]:
    """Read a YAML file of sections, ``needed`` among them; return their content, and the nodes that know their lines.

    Raises OSError, and UserError with file and line where the content is wrong.
    """
    try:
        loader = _Loader(file.read_bytes().decode("utf-8-sig"))
        node = loader.get_single_node()
        raw = loader.construct_document(node) if node else None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}:1: not a text file in UTF-8: {error.reason} at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{file}:{line}: not valid YAML: {_reason(error)}") from None
    except UNREADABLE as error:
        raise UserError(f"{file}:1: not valid YAML: {_reason(error)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{file}:1: the file must hold KEY: VALUE sections; needed: {needed}")
    return raw, node


def _reason(error: Exception) -> str:
    """Say in one line what PyYAML found wrong."""
    if isinstance(error, yaml.MarkedYAMLError):
        return error.problem or error.context or "unreadable"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def overridden(overrides: Iterable[str]) -> dict[str, Any]:
    """Return what ``KEY=VALUE`` strings say, as sections of a config.

    >>> overridden(["lattice.period=64", "kernel=periodic"])
    {'lattice': {'period': 64}, 'kernel': 'periodic'}
    """
    raw: dict[str, Any] = {}
    for text in overrides:
        _override(raw, text)
    return raw


def config_of(raw: dict[str, Any], where: str) -> Config:
    """Return the config of these sections; raise UserError with every fault, ``where: key: words``."""
    config, wrong = validated(raw)
    if wrong := [*wrong, *(faults(config) if config else [])]:
        raise UserError(*(": ".join(filter(None, [where, ".".join(map(str, keys)), words])) for keys, words in wrong))
    return config


def validated(raw: dict[str, Any]) -> tuple[Config | None, list[Fault]]:
    """Return the config of these sections, where they make one, and every fault that a section has by itself."""
    fill(raw)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        return None, faults_of(error, raw)
    return config, list(_taken_for_numbers(raw, plain(config)))


def _override(raw: dict[str, Any], text: str) -> Location:
    """Put one ``KEY=VALUE`` into the sections of a config; return its keys."""
    key, equals, value = text.partition("=")
    parts = tuple(key.split("."))
    if not equals or not all(parts):
        raise UserError(f"command line: {text}: an override is written KEY=VALUE, KEY being a dotted path")
    try:
        parsed = yaml.load(value, _Loader)
    except UNREADABLE as error:
        raise UserError(f"command line: {key}: {value[:60]!r} is not valid YAML: {_reason(error)}") from None
    section = raw
    for i, part in enumerate(parts[:-1]):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise UserError(f"command line: {key}: {'.'.join(parts[: i + 1])} holds a value, not a section")
    section[parts[-1]] = parsed
    return parts


def faults_of(error: ValidationError, raw: dict[str, Any]) -> list[Fault]:
    """Return what pydantic found wrong with ``raw``: paths of keys, and in one line each what is wrong and allowed."""
    errors = error.errors(include_url=False)
    unknown = [e["loc"][-1] for e in errors if e["type"] == "extra_forbidden"]
    meant = {key: _meant(str(key)) for key in unknown} if len(unknown) <= MOST_MEANT else {}
    return [_fault(raw, e, meant) for e in errors]


def _meant(key: str) -> str:
    """Ask for the key of a config that is most like an unknown one, if any is.

    >>> _meant("epoch"), _meant("colour")
    ('; did you mean epochs?', '')
    """
    nearest = get_close_matches(key, _every_key(), n=1, cutoff=0.75)
    return f"; did you mean {nearest[0]}?" if nearest else ""


@cache
def _every_key() -> tuple[str, ...]:
    """Return the keys of all sections."""
    schema = Config.model_json_schema()
    return tuple(
        {key: None for section in (schema, *schema["$defs"].values()) for key in section.get("properties", ())}
    )


def _fault(raw: dict[str, Any], error: Any, meant: dict[str | int, str]) -> Fault:
    """Return the path of keys of one of pydantic's errors, and what is wrong; ``meant`` ends that of unknown keys.

    A rule between the keys of a section is reported at the key that its message begins with.
    """
    kind, loc, words = error["type"], error["loc"], _words(error)
    if kind == "extra_forbidden":
        words += meant.get(loc[-1], "")
    if kind == "missing":
        return (*_keys(raw, loc[:-1]), loc[-1]), words
    keys = _keys(raw, loc)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return (*keys, "kind"), words
    key, colon, rest = words.partition(": ")
    if kind == "value_error" and colon and isinstance(error["input"], dict) and key in error["input"]:
        return (*keys, key), rest
    return keys, words


def _keys(raw: Any, loc: Location) -> Location:
    """Return the part of pydantic's ``loc`` that is a path of keys: it also holds the tags of unions."""
    keys: list[str | int] = []
    for part in loc:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            continue
        keys.append(part)
    return tuple(keys)


def _words(error: Any) -> str:
    """Say in one line what is wrong and what is allowed."""
    kind, given, message = error["type"], error["input"], error["msg"]
    if kind == "extra_forbidden":
        return "unknown key"
    if kind in ("missing", "union_tag_not_found"):
        return "this key is missing"
    if kind == "union_tag_invalid":
        return f"must be one of {error['ctx']['expected_tags']} (given: {error['ctx']['tag'][:60]!r})"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if kind in ("list_type", "tuple_type") and isinstance(given, (int, float)):
        message += f", such as [{given}]" if kind == "list_type" else f", such as [{given}, {given}]"
    if given is None:
        return f"{message} (given: null)"
    return f"{message} (given: {str(given)[:60]!r})" if isinstance(given, (str, int, float)) else message
