"""The unit of energy of a run and how it is written: GeV or, where the lattice spacing is 1, 1/a, lattice units.

Functions that write it take what :func:`energy` gives, as ``units`` of every sigma and E in a store say it, too.
"""

from __future__ import annotations

from typing import Any

GEV, LATTICE = "GeV", "1/a"


def energy(spacing: float) -> str:
    """Return the unit of E, sigma and omega: 1/a for a spacing of 1, else GeV.

    A lattice with a = 1/GeV has the same numbers in both units, so that the former is true of it, too.
    """
    return LATTICE if spacing == 1 else GEV


def unit_of(data: Any) -> str:
    """Return that of the energies of a labelled dataset or array with a coordinate sigma; GeV where it does not say."""
    return data.sigma.attrs.get("units", GEV)


def spacing(a: float) -> str:
    """Return in words what the lattice spacing is.

    >>> spacing(0.5), spacing(1.0)
    ('a = 0.5/GeV', 'lattice units')
    """
    return "lattice units" if energy(a) == LATTICE else f"a = {a:g}/GeV"


def within(units: str, unit: str) -> str:
    """Return units that are a power of GeV with this unit of energy.

    >>> within("GeV^3", LATTICE), within("GeV^3", GEV), within("1", LATTICE)
    ('1/a^3', 'GeV^3', '1')
    """
    return units.replace(GEV, unit)


def amount(value: str | float, unit: str) -> str:
    """Return a number, or several, with the unit in words.

    >>> amount(0.25, GEV), amount("0.2 to 1.3", LATTICE)
    ('0.25 GeV', '0.2 to 1.3 in lattice units')
    """
    value = value if isinstance(value, str) else f"{value:g}"
    return f"{value} in lattice units" if unit == LATTICE else f"{value} {unit}"


def equation(symbol: str, value: float, unit: str, digits: int = 6) -> str:
    """Return what a quantity is; a symbol between dollars is mathematics.

    >>> equation("σ", 0.44, GEV), equation("σ", 0.44, LATTICE), equation("$E$", 1.5, GEV)
    ('σ = 0.44 GeV', 'a σ = 0.44', '$E = 1.5$ GeV')
    """
    dollar, words = "$" * symbol.startswith("$"), f"{symbol.strip('$')} = {value:.{digits}g}"
    return f"{dollar}a {words}{dollar}" if unit == LATTICE else f"{dollar}{words}{dollar} {unit}"


def label(symbol: str, unit: str) -> str:
    """Return the head of a column or the label of an axis.

    >>> label("E", GEV), label("E", LATTICE), label("$E$", LATTICE)
    ('E [GeV]', 'a E', '$a E$')
    """
    if unit == LATTICE:
        return f"$a {symbol[1:]}" if symbol.startswith("$") else f"a {symbol}"
    return f"{symbol} [{unit}]"
