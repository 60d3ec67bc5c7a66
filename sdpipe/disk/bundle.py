"""Numbers, words and arrays as the bytes of one file: an ``.npz`` that NumPy opens, and that runs no code.

The bytes are a function of what they hold alone.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

ABOUT = "about"
"""The array that holds everything but arrays, as JSON; there ``{ARRAY: name}`` stands for each of these."""

ARRAY = "array"


def packed(content: dict[str, Any]) -> bytes:
    """Return the bytes that stand for dicts and lists of numbers, words and arrays.

    >>> unpacked(packed({"seed": 1, "weights": [np.eye(2)]}))["weights"][0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    arrays: dict[str, NDArray] = {}

    def told(value: Any, place: str) -> Any:
        if isinstance(value, np.ndarray):
            arrays[place] = value
            return {ARRAY: place}
        if isinstance(value, dict):
            return {key: told(one, f"{place}/{key}".lstrip("/")) for key, one in value.items()}
        if isinstance(value, list):
            return [told(one, f"{place}/{i}") for i, one in enumerate(value)]
        return value

    about = json.dumps(told(content, "")).encode()
    buffer = io.BytesIO()
    np.savez(buffer, **{ABOUT: np.array(about)}, **arrays)
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, Any]:
    """Return what :func:`packed` was given. Raises whatever bytes that are not from there lead to."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:

        def array(value: dict[str, Any]) -> Any:
            return arrays[value[ARRAY]] if value.keys() == {ARRAY} else value

        return json.loads(arrays[ABOUT].item(), object_hook=array)
