"""What figures, tables and the report call the sources of an error, whose names in the stores are short."""

from __future__ import annotations

OWN = {
    "latt": "noise of the data",
    "net": "spread of the networks",
    "resolution": "left open by the data",
    "scale": "left open by the data",
}
"""Source of the audience itself -> its name; ``scale`` is what its networks say of it."""

SHIFTS = {"b": "basis size", "n": "network size", "rho": "number of samples"}
"""Reference of the published budget -> in what it differs from the central ensemble."""


def named(name: str) -> str:
    """Return the name of a source of error.

    >>> named("latt"), named("rho"), named("mine")
    ('noise of the data', 'shift by number of samples', 'shift to mine')
    """
    if name in OWN:
        return OWN[name]
    return f"shift by {SHIFTS[name]}" if name in SHIFTS else f"shift to {name}"
