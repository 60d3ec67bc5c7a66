"""What is said of a state that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sdpipe.errors import UserError


@dataclass(frozen=True)
class Known:
    """A state that is known: amplitude and mass, numbers or pairs (value, error), or ``between`` which two times of the
    data themselves one state is fitted.
    """

    amplitude: float | tuple[float, float] | None = None
    mass: float | tuple[float, float] | None = None
    between: tuple[int, int] | None = None

    def keys(self) -> dict[str, Any]:
        """Return the keys of a config that say it."""
        plain = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any]) -> Known:
        """Return the state of these keys.

        >>> Known.from_keys({"amplitude": [1.0, 0.1], "mass": 0.5})
        Known(amplitude=(1.0, 0.1), mass=0.5, between=None)
        """
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()})


def as_key(states: Sequence[Mapping[str, Any] | tuple[Any, Any]]) -> list[str]:
    """Return the key of a config that says these states, none where there are none.

    Each is a mapping of the keys of the config, or a pair (amplitude, mass) of numbers, pairs (value, error), gvars or
    Obs. Raises UserError for anything else.

    >>> as_key([(1.0, (0.5, 0.01)), {"between": (16, 24)}])
    ['subtract=[{"amplitude": 1.0, "mass": [0.5, 0.01]}, {"between": [16, 24]}]']
    """
    keys = []
    for one in states:
        if isinstance(one, Mapping):
            keys.append({key: np.asarray(value).tolist() for key, value in one.items()})
        elif isinstance(one, tuple | list) and len(one) == 2:
            keys.append({"amplitude": _number(one[0]), "mass": _number(one[1])})
        else:
            allowed = "allowed: (amplitude, mass), or {between: times}"
            raise UserError(f"subtract: {str(one)[:60]} is not allowed; {allowed}")
    return [f"subtract={json.dumps(keys)}"] if keys else []


def _number(value: Any) -> float | list[float]:
    """Return a number, or [value, error] of what has one."""
    if hasattr(value, "gamma_method"):
        value.gamma_method()
        return [float(value.value), float(value.dvalue)]
    if hasattr(value, "sdev"):
        return [float(value.mean), float(value.sdev)]
    x = np.asarray(value)
    if x.dtype.kind not in "fiu" or x.shape not in ((), (2,)) or not np.isfinite(x).all():
        words = "allowed: a number, (value, error), a gvar or an Obs; samples of the same configurations: run.subtract"
        raise UserError(f"subtract: {type(value).__name__} of shape {x.shape} is not allowed; {words}")
    return x.tolist()
