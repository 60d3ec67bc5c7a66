"""Write docs/configuration.md from the config classes: python docs/configuration.py"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sdpipe.config.schema import Config
from sdpipe.config.section import Section

Schema = dict[str, Any]
FILE = Path(__file__).with_suffix(".md")

HEAD = """\
# Configuration

One YAML file says everything about a run. A key with a default may be left out; unknown keys are refused. On the
command line, `KEY=VALUE` overrides a key by its dotted path (`training.epochs=3`). The resolved config, with every
default, is saved as `config.yaml` in the run directory. Paths are relative to where `sdpipe` is started.

This page is made from the config classes by `python docs/configuration.py`.
"""

LONGEST = 120
"""Characters of a cell; what a longer meaning says after its first sentence is below the table."""

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
LENGTHS = {"minItems": "at least", "maxItems": "at most", "minProperties": "at least"}


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return what the string below each field of a class, or of one that it inherits from, says."""
    found = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            body = ast.parse(inspect.getsource(base)).body[0].body
            for field, below in pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found[field.target.id.rstrip("_")] = " ".join(ast.literal_eval(below.value).split())
    return found


def _models(base: type[BaseModel] = Section) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _alternatives(schema: Schema) -> list[Schema]:
    return schema.get("anyOf") or schema.get("oneOf") or [schema]


def _named(schema: Schema) -> Schema:
    """Return the values of an object whose keys are names of the user's."""
    return next(iter(schema["patternProperties"].values()))


def kind(schema: Schema) -> str:
    """Return the type of a value in words."""
    if len(_alternatives(schema)) > 1:
        return " or ".join(dict.fromkeys(kind(s) for s in _alternatives(schema)))
    if "$ref" in schema or "discriminator" in schema:
        return "section"
    if "const" in schema:
        return "string"
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} × {kind(schema['prefixItems'][0])}"
    if schema["type"] == "array":
        return f"list of {kind(schema['items'])}"
    if schema["type"] == "object":
        return f"{kind(_named(schema))} for each NAME"
    return "path" if schema.get("format") == "path" else schema["type"]


def _number(value: float) -> str:
    return f"2^{value.bit_length() - 1}" if isinstance(value, int) and value > 10**9 else f"{value:.10g}"


def allowed(schema: Schema) -> str:
    """Return which values of its type a key takes; empty where all are."""
    if len(_alternatives(schema)) > 1:
        return " or ".join(filter(None, dict.fromkeys(allowed(s) for s in _alternatives(schema))))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    words = [f"{sign} {_number(schema[bound])}" for bound, sign in BOUNDS.items() if bound in schema]
    if "prefixItems" in schema:
        return allowed(schema["prefixItems"][0])
    words += [f"{word} {schema[length]}" for length, word in LENGTHS.items() if length in schema]
    if "items" in schema and allowed(schema["items"]):
        words.append(f"each {allowed(schema['items'])}")
    if "pattern" in schema:
        words.append("letters, digits and `_ . + -`")
    return ", ".join(words)


def default(schema: Schema, required: bool) -> str:
    """Return the default as one would type it; that of a section is in its own table."""
    if required:
        return "needed"
    value = schema.get("default")
    if isinstance(value, dict) and list(_inner(schema)):
        return ""
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace('"', "")


def _inner(schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield what to append to the key, and the definition, of each section that a value may hold."""
    for one in _alternatives(schema):
        if "$ref" in one:
            yield "", one["$ref"].rpartition("/")[2]
        elif "patternProperties" in one:
            yield from ((f".NAME{more}", name) for more, name in _inner(_named(one)))


def section(
    title: str, name: str, definitions: dict[str, Schema], shown: dict[str, str], prefix: str = ""
) -> list[str]:
    """Return a heading, a table of keys, and the sections below this one that are not ``shown`` yet."""
    schema, said = definitions[name], meanings(next(m for m in _models() if m.__name__ == name))
    lines, more_said, below = [f"## {title}", "", schema["description"].replace("``", "`"), ""], [], []
    lines += ["| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for key, value in schema["properties"].items():
        meaning, inner = said[key], list(_inner(value))
        for more, other in inner:
            which = definitions[other]["properties"].get("kind", {}).get("const") if len(inner) > 1 else None
            heading = f"{prefix}{key}{more}" + (f", kind {which}" if which else "")
            if other in shown:
                meaning += f" For kind {which}: keys" if which else " Keys"
                meaning += f" as in {shown[other]}."
            else:
                shown[other] = heading
                below += section(heading, other, definitions, shown, f"{prefix}{key}{more}.")
        if len(meaning) > LONGEST:
            meaning, rest = meaning.split(". ", 1)
            meaning += "."
            more_said.append(f"* `{prefix}{key}`: {rest}")
        cells = [
            f"`{prefix}{key}`",
            kind(value),
            default(value, key in schema.get("required", [])),
            allowed(value),
            meaning,
        ]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return [*lines, "", *more_said, *([""] if more_said else []), *below]


def reference() -> str:
    """Return the page."""
    schema = Config.model_json_schema()
    definitions = {**schema["$defs"], "Config": schema}
    return HEAD + "\n" + "\n".join(section("The file", "Config", definitions, {})).rstrip() + "\n"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
