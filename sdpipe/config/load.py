"""Read a config file: YAML, overrides, and every fault at once with its file and line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sdpipe.config.rules import CHECKS, Fault, Location
from sdpipe.config.schema import Config
from sdpipe.errors import UserError


def _cross_checks(valid: dict[str, Any]) -> list[Fault]:
    faults: list[Fault] = []
    for check in CHECKS:
        needed = check.__code__.co_varnames[: check.__code__.co_argcount]
        if all(n in valid for n in needed):
            faults += check(**{n: valid[n] for n in needed})
    return faults


def _validate(raw: dict[str, Any]) -> tuple[Config | None, list[Fault]]:
    """Return the config, or every fault in it."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(raw, e) for e in error.errors(include_url=False)]
    else:
        faults = _cross_checks({n: getattr(config, n) for n in Config.model_fields})
        return (None, faults) if faults else (config, [])
    valid = {}
    for name, info in Config.model_fields.items():
        if name in raw:
            adapter = TypeAdapter(Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation)
            try:
                valid[name] = adapter.validate_python(raw[name])
            except ValidationError:
                continue
        elif not info.is_required():
            valid[name] = info.default
    return None, faults + _cross_checks(valid)


def _fault(raw: dict[str, Any], error: Any) -> Fault:
    """Return the path of keys of one of pydantic's errors, and what is wrong there.

    A rule between the keys of a section is reported at the key that its message begins with.
    """
    keys, words = _keys(raw, error["loc"], missing=error["type"] == "missing"), _words(error)
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return (*keys, "kind"), words
    key, colon, rest = words.partition(": ")
    if error["type"] == "value_error" and colon and isinstance(error["input"], dict) and key in error["input"]:
        return (*keys, key), rest
    return keys, words


def _words(error: Any) -> str:
    """Say in one line what is wrong and what is allowed."""
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "this key is missing"
    if kind == "union_tag_not_found":
        return "this key is missing"
    if kind == "union_tag_invalid":
        return f"must be one of {error['ctx']['expected_tags']} (given: {error['ctx']['tag'][:60]!r})"
    message = error["msg"]
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if kind in ("list_type", "tuple_type") and isinstance(given, (int, float)):
        message += f", such as [{given}]" if kind == "list_type" else f", such as [{given}, {given}]"
    if isinstance(given, (str, int, float, bool)) or given is None:
        return f"{message} (given: {str(given)[:60]!r})" if given is not None else f"{message} (given: null)"
    return message


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key may appear once."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key is not None and key in seen and key != "<<":
            raise yaml.MarkedYAMLError(problem=f"key {key!r} appears twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


def _construct(loader: _Loader, node: yaml.MappingNode) -> Any:
    data: dict[Any, Any] = {}
    yield data
    loader.flatten_mapping(node)
    data.update(_unique_mapping(loader, node))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct)


UNREADABLE = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What PyYAML raises where a value does not fit its tag, and where nesting is too deep."""


def _parse(text: str, where: str) -> tuple[dict[str, Any], yaml.Node | None]:
    try:
        raw, node = yaml.load(text, _Loader), yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{where}:{line}: not valid YAML: {error.problem or error.context}") from None
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}:1: not valid YAML: {reason}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{where}:1: the file must hold KEY: VALUE sections; needed: {', '.join(Config.model_fields)}")
    return raw, node


def _keys(raw: Any, loc: Location, missing: bool) -> Location:
    """Return the part of pydantic's ``loc`` that is a path of keys: it also holds the tags of unions.

    ``missing`` says that the last part is a key that is not there.
    """
    keys: list[str | int] = []
    for part in loc[:-1] if missing else loc:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            continue
        keys.append(part)
    return (*keys, loc[-1]) if missing else tuple(keys)


def _line(node: yaml.Node | None, keys: Location) -> tuple[int, int]:
    """Return the line of ``keys`` in the file, or of the closest section above, and how many of ``keys`` led there."""
    line = 1
    for depth, part in enumerate(keys):
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if getattr(k, "value", None) == str(part)]
            if not found:
                return line, depth
            key, node = found[0]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line, len(keys)


def _override(raw: dict[str, Any], text: str) -> Location:
    key, equals, value = text.partition("=")
    parts = tuple(key.split("."))
    if not equals or not all(parts):
        raise UserError(f"command line: {text}: an override is written KEY=VALUE, KEY being a dotted path")
    try:
        parsed = yaml.load(value, _Loader)
    except UNREADABLE:
        raise UserError(f"command line: {key}: {value[:60]!r} is not valid YAML") from None
    section = raw
    for i, part in enumerate(parts[:-1]):
        inner = section.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError(f"command line: {key}: {'.'.join(parts[: i + 1])} holds a value, not a section")
        section = inner
    section[parts[-1]] = parsed
    return parts


@dataclass(frozen=True)
class Origin:
    """Where each key of a config comes from: a line of ``file``, or an override on the command line."""

    file: Path
    node: yaml.Node | None
    overridden: list[Location]

    def describe(self, faults: Iterable[Fault]) -> list[str]:
        """Return ``FILE:LINE: key: words`` or ``command line: key: words`` for every fault, each on one line."""
        lines = []
        for keys, words in faults:
            n, (line, depth) = len(keys), _line(self.node, keys)
            overridden = any(
                n and (keys[: len(o)] == o[:n] or keys[: depth + 1] == o[: depth + 1]) for o in self.overridden
            )
            where = "command line" if overridden else f"{self.file}:{line}"
            fault = ": ".join(filter(None, [where, ".".join(map(str, keys)), words]))
            lines.append("".join(c if c.isprintable() else "?" for c in fault))
        return list(dict.fromkeys(lines))


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read, override and check a config: the first half of :func:`read_config`."""
    return read_config(path, overrides)[0]


def read_config(path: Path, overrides: Iterable[str] = ()) -> tuple[Config, Origin]:
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
        With every fault of the file: ``FILE:LINE: key: what is wrong and what is allowed``.
    """
    file = path
    try:
        file = path / "config.yaml" if path.is_dir() else path
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        what = "not a run directory: config.yaml is missing in it" if path.is_dir() else "no such file or run directory"
        raise UserError(f"{path}: {what}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}:1: not a text file in UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    raw, node = _parse(text, str(file))
    origin = Origin(file, node, [_override(raw, text) for text in overrides])
    config, faults = _validate(raw)
    if config is not None:
        return config, origin
    raise UserError(*origin.describe(faults))
