"""Rules between sections of the config."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil

from sdpipe.config.schema import Budget, Energies, Ensemble, Lattice, Smearing, Spectra, Validation

Location = tuple[str | int, ...]
Fault = tuple[Location, str]
"""The keys that lead to a value, and what is wrong with it."""


def draws_needed(level: float) -> int:
    """Return the fewest calibration draws n with ceil((n + 1) level) <= n.

    >>> draws_needed(0.683), draws_needed(0.954), draws_needed(0.997)
    (3, 21, 333)
    """
    n = ceil(level / (1 - level) - 1e-9)
    return n if ceil((n + 1) * level - 1e-9) <= n else n + 1


def _check_times(lattice: Lattice, kernel: str, spectra: Spectra) -> Iterable[Fault]:
    first, last = lattice.times
    divergent = [t for t in (0, lattice.period) if t in (first, last) and (t == 0 or kernel != "exponential")]
    if divergent and spectra.omega_max is None:
        yield (
            ("lattice", "times"),
            f"C(t) diverges at t = {divergent[0]} for kernel {kernel}: "
            f"keep to 1..{lattice.period // 2}, or give a finite spectra.omega_max",
        )


def _check_decay(lattice: Lattice, spectra: Spectra) -> Iterable[Fault]:
    exponent = lattice.spacing * lattice.times[1] * spectra.E0[1]
    if exponent > 1e4:
        yield (
            ("lattice", "spacing"),
            f"C(t) falls by exp(-{exponent:.3g}) to t = {lattice.times[1]} above the highest threshold E0 "
            f"({spectra.E0[1]}); allowed: spacing * t * E0 up to 1e4",
        )


def _check_sigma(smearing: Smearing, energies: Energies) -> Iterable[Fault]:
    smallest = max(1e-4 * energies.max, 1e-3 * max(smearing.sigma))
    for i, sigma in enumerate(smearing.sigma):
        if sigma < smallest:
            yield (
                ("smearing", "sigma", i),
                f"{sigma:g} is below 1e-3 of the largest sigma or 1e-4 of energies.max ({energies.max:g}); "
                f"allowed here: from {smallest:g} on",
            )


def _check_ensembles(spectra: Spectra, ensembles: dict[str, Ensemble]) -> Iterable[Fault]:
    for name, ensemble in ensembles.items():
        if name == "linear":
            yield ("ensembles", name), "linear is the name of the linear estimator; choose another"
        if ensemble.Nb not in spectra.Nb:
            yield ("ensembles", name, "Nb"), f"{ensemble.Nb} is not in spectra.Nb; allowed: {spectra.Nb}"
        if ensemble.Nrho > spectra.Nrho:
            yield ("ensembles", name, "Nrho"), f"{ensemble.Nrho} is more than spectra.Nrho ({spectra.Nrho})"


def _check_budget(ensembles: dict[str, Ensemble], budget: Budget) -> Iterable[Fault]:
    allowed = f"allowed: {', '.join(ensembles)}"
    if budget.central not in ensembles:
        yield ("budget", "central"), f"there is no ensemble {budget.central}; {allowed}"
    for source, name in budget.references.items():
        where = ("budget", "references", source)
        if source in ("latt", "net", "resolution"):
            yield where, f"{source} is the name of another source of error; choose another"
        if name not in ensembles:
            yield where, f"there is no ensemble {name}; {allowed}"
        elif name == budget.central:
            yield where, f"{name} is the central ensemble; a reference must be another one"


def _check_validation(budget: Budget, validation: Validation) -> Iterable[Fault]:
    for level in dict.fromkeys([*validation.levels, budget.level]):
        needed = 2 * draws_needed(level)
        remedy = "leave it out of validation.levels" if level in validation.levels else "lower budget.level"
        if validation.samples < needed:
            yield (
                ("validation", "samples"),
                f"{validation.samples} draws are too few for level {level:g}: at least {needed} are needed, "
                f"half of them to calibrate; or {remedy}",
            )


def masses(E0: tuple[float, float], highest: float) -> tuple[float, float]:
    """Return the masses of families that leave them open: 1.5 times the lowest threshold, to halfway to ``highest``.

    The continuum of such a family rises at up to twice the mass.
    """
    low = 1.5 * E0[0]
    return low, (low + highest) / 2


def _check_families(validation: Validation, energies: Energies, spectra: Spectra) -> Iterable[Fault]:
    for name, family in (validation.families or {}).items():
        where = ("validation", "families", name)
        if name == "chebyshev":
            yield where, "chebyshev is the prior of the central ensemble, which is always there; choose another name"
        for key in ("threshold", "mass", "width"):
            if values := getattr(family, key, None):
                low, high = _limits(family.kind, key, energies, spectra.E0)
                if values[0] < low[0] or values[1] > high[0]:
                    allowed = f"{low[0]:g} ({low[1]}) to {high[0]:g} ({high[1]})"
                    yield (*where, key), f"{list(values)} leaves the energy range; allowed: {allowed}"


def _limits(
    kind: str, key: str, energies: Energies, E0: tuple[float, float]
) -> tuple[tuple[float, str], tuple[float, str]]:
    """Return the lowest and the highest value of a family's range, and what each comes from."""
    if key == "width":
        return (0.0, "any positive width"), (round(energies.max - energies.min, 9), "energies.max - energies.min")
    low = min((energies.min, "energies.min"), (E0[0], "the lowest of spectra.E0"))
    if kind == "delta_tanh":
        top = round(masses(E0, energies.max)[1], 9)
        return low, (top, "halfway from 1.5 spectra.E0 to energies.max: the step is at up to twice the mass")
    return low, (energies.max, "energies.max")


CHECKS: tuple[Callable[..., Iterable[Fault]], ...] = (
    _check_times,
    _check_decay,
    _check_sigma,
    _check_ensembles,
    _check_budget,
    _check_validation,
    _check_families,
)
"""Rules between sections; each runs when the sections named by its arguments are valid by themselves."""
