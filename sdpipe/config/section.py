"""What every section of the config is, and the types that several of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _free(name: str) -> str:
    if name == "zarr.json" or name.endswith((".partial", ".replaced", ".zarr")):
        raise ValueError(f"{name} is a name of sdpipe's own files; choose another")
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80), AfterValidator(_free)]

LONGEST_PATH = 4095


def _absolute(path: Path) -> Path:
    try:
        path = path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{path.parts[0][:60]}: there is no such user here") from None
    if len(str(path)) > LONGEST_PATH:
        raise ValueError(f"a path of {len(str(path))} characters; allowed: at most {LONGEST_PATH}")
    return path


DataPath = Annotated[Path, AfterValidator(_absolute)]

Energy = Annotated[float, Field(ge=1e-4, le=1e4)]
"""In GeV, where it is not zero."""

PositiveNumber = Annotated[float, Field(ge=1e-12, le=1e6)]

Level = Annotated[float, Field(gt=0, lt=1)]


def distinct(values: Sequence[Any]) -> Sequence[Any]:
    """Return ``values``; refuse two that are equal."""
    if len(set(values)) != len(values):
        raise ValueError("values must differ from each other")
    return values


def name_in(what: str, *tables: Mapping[str, Any]) -> Any:
    """Return the type of a key that names a row of tables, which Python may have added rows to."""

    def known(name: str) -> str:
        if not any(name in table for table in tables):
            raise ValueError(f"there is no {what} {name[:60]!r}; allowed: {', '.join(chain(*tables))}")
        return name

    enum = Field(json_schema_extra=lambda schema: schema.update(enum=list(chain(*tables))))
    return Annotated[str, AfterValidator(known), enum]


def ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"{values[0]} must not be above {values[1]}")
    return values


Range = Annotated[tuple[Energy, Energy], AfterValidator(ascending)]


class Section(BaseModel):
    """Some keys of the config; the string below each says what it means, and docs/configuration.md is made of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
