"""Rules between sections of a config that are valid by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import get_args

import numpy as np

from sdpipe.config.densities import ChebyshevFamilySection, ChebyshevMock, FamilySection, MixtureFamilySection
from sdpipe.config.origins import KNOWN_KERNELS, SMEARINGS
from sdpipe.config.schema import Config, NetworkName
from sdpipe.config.sources import CorrelatorTarget, RangeNoise
from sdpipe.errors import UserError
from sdpipe.estimators import ESTIMATORS, INTERVALS, MOST_TIMES
from sdpipe.estimators.conformal import draws_needed
from sdpipe.physics.units import amount

FEWEST_SLICES = 6
"""Time slices that the shipped audience needs."""

Location = tuple[str | int, ...]
Fault = tuple[Location, str]
"""The keys that lead to a value, and what is wrong with it."""

POSITIVE = ("positive", "bounds")
"""Methods that know rho >= 0."""

SMALLEST_DECAY = 70.0
"""-log of the smallest C(t) of the training set; numbers of 32 bits end at 87."""

RESERVED_SOURCES = (
    "latt",
    "net",
    "resolution",
    "scale",
    "central",
    "published",
    "total",
    "calibrated",
    "truth",
    "pull",
)
"""Names in a budget and its table that no source of error may have."""


def faults(config: Config) -> list[Fault]:
    """Return every fault of a config that no section has by itself."""
    return list(chain.from_iterable(rule(config) for rule in RULES))


def _cutoff(config: Config) -> str:
    """Return what ends spectra, and what that needs where networks know no unit of energy."""
    local = config.training.inputs == "local" and config.origin.trains
    return "a finite spectra.omega_max" + ", and training.inputs: posterior, whiten or standardise" * local


def _times(config: Config) -> Iterator[Fault]:
    lattice, kernel = config.lattice, config.kernel
    divergent = [t for t in (0, lattice.period) if t in lattice.times and (t == 0 or kernel != "exponential")]
    if divergent and config.spectra.omega_max is None:
        words = f"C(t) diverges at t = {divergent[0]} for kernel {kernel}: keep to 1..{lattice.period // 2}"
        yield ("lattice", "times"), f"{words}, or give {_cutoff(config)}"
    if kernel == "periodic-odd" and 2 * lattice.times[0] <= lattice.period <= 2 * lattice.times[1]:
        words = f"C(T/2) is zero for kernel {kernel}: keep to 1..{(lattice.period - 1) // 2}"
        yield ("lattice", "times"), words


def _decay(config: Config) -> Iterator[Fault]:
    lattice, (lowest, highest) = config.lattice, config.spectra.E0
    last = lattice.times[1]
    exponent = lattice.spacing * last * highest
    if exponent > 1e4:
        words = f"C(t) falls by exp(-{exponent:.3g}) to t = {last} above the highest threshold E0 ({highest})"
        yield ("lattice", "spacing"), f"{words}; allowed: spacing * t * E0 up to 1e4"
        return
    far = last if config.kernel == "exponential" else min(last, lattice.period // 2)
    allowed = highest_threshold(lattice.spacing * far)
    if lowest > allowed:
        words = f"above the lowest threshold ({lowest:g}) C(t = {far}) is too small for numbers of 32 bits"
        yield ("spectra", "E0"), f"{words}; allowed here: a lowest threshold up to {allowed:.3g}"


def highest_threshold(time: float) -> float:
    """Return the highest threshold above which C at this ``time``, in 1/GeV, is a number of 32 bits.

    >>> highest_threshold(34.0)
    2.0
    """
    return SMALLEST_DECAY / (time + 1)  # draws themselves fall like exp(-omega / GeV)


def _thresholds(config: Config) -> Iterator[Fault]:
    lowest, highest, unit = config.spectra.E0[0], config.energies.max, config.kernel_function.unit
    if 1.5 * lowest > highest:
        words = f"every threshold is at {lowest:g} or above, but energies.max is {amount(highest, unit)}"
        yield ("spectra", "E0"), f"{words}; allowed: from below {highest / 1.5:g} (energies.max / 1.5) on"


def _sigma(config: Config) -> Iterator[Fault]:
    highest = config.energies.max
    smallest = max(1e-4 * highest, 1e-3 * max(config.smearing.sigma))
    for i, sigma in enumerate(config.smearing.sigma):
        if sigma < smallest:
            words = f"{sigma:g} is below 1e-3 of the largest sigma or 1e-4 of energies.max ({highest:g})"
            yield ("smearing", "sigma", i), f"{words}; allowed here: from {smallest:g} on"


def _smearing(config: Config) -> Iterator[Fault]:
    grid, spectra, name = config.observables, config.spectra, config.smearing.kind
    f, tails = grid.smearing, [grid.smearing.tail(s) for s in grid.sigma]
    if spectra.omega_max is None and not all(tail.converges for tail in tails):
        words = f"{name} falls too slowly: its integral over a density that does not fall diverges"
        yield ("smearing", "kind"), f"{words}; needed: {_cutoff(config)}"
    if spectra.unit != 1 and not f.scaleless:
        yield ("spectra", "unit"), f"smearing {name} is for energies in GeV; allowed: 1"
    if name == "tau" and config.energies.min == 0:
        yield ("energies", "min"), "smearing tau has E for the mass of the tau; allowed: above 0"
    elif name == "own":
        try:
            grid.columns(np.linspace(spectra.E0[0], 2 * config.energies.max, 200))
        except UserError as error:
            yield ("smearing", "name"), str(error)
    if "bounds" in config.methods and not grid.bounded:
        words = f"bounds: {name} falls more slowly than C(t) at its earliest time, so that no bound is finite"
        yield ("methods",), f"{words}; allowed: methods without bounds, or a smaller sigma where that falls faster"


def _prior(config: Config) -> Iterator[Fault]:
    families, spectra = config.validation.families or {}, config.spectra
    bases = [(("spectra", "Nb", i), Nb) for i, Nb in enumerate(spectra.Nb)]
    for where, named, kind in (
        (("targets",), config.targets, ChebyshevMock),
        (("validation", "families"), families, (ChebyshevFamilySection, MixtureFamilySection)),
    ):
        bases += [((*where, name, "Nb"), s.Nb) for name, s in named.items() if isinstance(s, kind)]
    for where, Nb in bases:
        try:
            spectra.chebyshev(Nb)
        except UserError as error:
            yield where, str(error)
    try:
        spectra.prior(max(spectra.Nb))
    except UserError as error:
        if error.key and error.key.startswith("mixture"):
            yield ("spectra", *error.key.split(".", 1)), str(error)


def _ensembles(config: Config) -> Iterator[Fault]:
    spectra = config.spectra
    if config.origin.networks and not config.ensembles:
        yield ("ensembles",), "there is none; needed: at least one, or training.audience: none"
    for name, ensemble in config.ensembles.items():
        if name in (*ESTIMATORS, *INTERVALS):
            yield ("ensembles", name), f"{name} is the name of a method; choose another"
        if config.training.inputs == "local" and not ensemble.network.startswith("mlp"):
            allowed = ", ".join(network for network in get_args(NetworkName) if network.startswith("mlp"))
            words = f"{ensemble.network} has convolutions over C(t), and local features have no order"
            yield ("ensembles", name, "network"), f"{words}; allowed: {allowed}"
        if ensemble.Nb not in spectra.Nb:
            yield ("ensembles", name, "Nb"), f"{ensemble.Nb} is not in spectra.Nb; allowed: {spectra.Nb}"
        if ensemble.Nrho > spectra.Nrho:
            yield ("ensembles", name, "Nrho"), f"{ensemble.Nrho} is more than spectra.Nrho ({spectra.Nrho})"


def _training(config: Config) -> Iterator[Fault]:
    training, budget, slices = config.training, config.budget, len(config.lattice.slices)
    if training.corrects and training.protocol == "published":
        yield ("training", "inputs"), "the published protocol has no posterior; allowed: whiten, standardise"
    if training.inputs == "local" and config.spectra.omega_max is not None:
        words = f"{config.spectra.omega_max:g} is a unit of energy, and training.inputs: local has none"
        yield ("spectra", "omega_max"), f"{words}; allowed: null, or training.inputs: posterior, whiten or standardise"
    if training.head == "scale" and training.protocol == "published":
        yield ("training", "head"), "the published protocol has no error head; allowed: none"
    if training.head == "scale" and budget.calibration == "none":
        words = "none: an error that networks give (training.head: scale) holds only when it is calibrated"
        yield ("budget", "calibration"), f"{words}; allowed: conformal"
    if isinstance(config.noise, RangeNoise) and not training.corrects:
        words = "range: networks learn to live with every covariance through the posterior"
        yield ("noise", "kind"), f"{words}; needed: training.inputs: local or posterior"
    for where, wanted in (
        (("methods",), "posterior" in config.methods),
        (("training", "inputs"), training.corrects),
    ):
        if wanted and slices < 2:
            yield where, f"a posterior needs two times or more; lattice.times has {slices}"
        if wanted and slices > MOST_TIMES:
            yield where, f"lattice.times has {slices} slices; allowed with a posterior: at most {MOST_TIMES}"


def _shipped(config: Config) -> Iterator[Fault]:
    if not config.origin.served:
        return
    for where, value, known in (
        (("smearing", "kind"), config.smearing.kind, SMEARINGS),
        (("kernel",), config.kernel, KNOWN_KERNELS),
    ):
        if value not in known:
            words = f"the shipped audience does not know {value}; allowed: {', '.join(known)}"
            yield where, f"{words}, networks of your own, or training.audience: none"
    slices = len(config.lattice.slices)
    if slices < FEWEST_SLICES:
        yield ("lattice", "times"), f"{slices} slices; the shipped audience needs {FEWEST_SLICES} or more"
    if isinstance(config.noise, RangeNoise):
        yield ("noise", "kind"), "range: the shipped audience needs the covariance of your data; allowed: any other"


def _methods(config: Config) -> Iterator[Fault]:
    lattice, slices = config.lattice, config.lattice.slices
    unresolved = [t for t in (0, lattice.period) if t in slices and (t == 0 or config.kernel != "exponential")]
    for name in {"hlt", "bounds"} & set(config.methods) if unresolved else ():
        t = unresolved[0]
        words = f"{name} knows no cutoff of the integrals over omega, and C(t = {t}) is infinite without one"
        yield ("methods",), f"{words}; allowed: lattice.times from 1 on, or methods without {name}"


def _crossed(config: Config) -> Iterator[Fault]:
    crossed = [n for n, s in config.targets.items() if isinstance(s, CorrelatorTarget) and s.source.crossed]
    if not crossed:
        return
    words = f"{crossed[0]} is off the diagonal of its matrix, where rho is of either sign"
    if config.spectra.positive:
        yield ("spectra", "positive"), f"{words}; allowed: false"
    for name in config.methods:
        if name in POSITIVE:
            yield ("methods",), f"{name} is for rho >= 0, and {words}; allowed: methods without {name}"


def _hlt(config: Config) -> Iterator[Fault]:
    grid, hlt, lowest = config.observables, config.hlt, config.energies.min
    if "hlt" not in config.methods or not grid.kernel.slowest_decay(grid.times):
        return
    if grid.norm_ends() is None:
        words = f"hlt: the integral of {config.smearing.kind} squared diverges"
        yield ("methods",), f"{words}; allowed: methods without hlt"
    elif grid.norm_ends(hlt.alpha) is None:
        words = f"{hlt.alpha:g}: the integral of e^(alpha a w) {config.smearing.kind}^2 or b_T^2 diverges"
        yield ("hlt", "alpha"), f"{words}; allowed: a smaller one, such as 0"
    if hlt.lambda_ is not None and hlt.rule != "evidence":
        yield ("hlt", "lambda"), f"{hlt.lambda_:g}, which rule {hlt.rule} would choose; allowed: one of the two"
    if hlt.E0 != "evidence" and (hlt.E0 or 0) > lowest:
        yield ("hlt", "E0"), f"{hlt.E0:g} is above an energy; allowed: up to energies.min ({lowest:g})"
    if hlt.E0 == 0 and grid.smearing.pole:
        yield ("hlt", "E0"), f"smearing {config.smearing.kind} diverges at 0; allowed: above 0"


def _budget(config: Config) -> Iterator[Fault]:
    ensembles, central = config.ensembles, config.budget.central
    allowed = f"allowed: {', '.join(ensembles)}"
    if not config.origin.networks:
        if central not in config.estimators:
            words = f"without networks a method answers, and {central} is none that does"
            yield ("budget", "central"), f"{words}; allowed here: {', '.join(config.estimators) or 'methods with one'}"
        return
    if central not in ensembles:
        yield ("budget", "central"), f"there is no ensemble {central}; {allowed}"
    for source, name in config.budget.references.items():
        where = ("budget", "references", source)
        if source in (*RESERVED_SOURCES, *ESTIMATORS, *INTERVALS):
            yield where, f"{source} has a meaning of its own in a budget; choose another name"
        if name not in ensembles:
            yield where, f"there is no ensemble {name}; {allowed}"
        elif name == central:
            yield where, f"{name} is the central ensemble; a reference must be another one"


def _validation(config: Config) -> Iterator[Fault]:
    validation, quoted = config.validation, config.budget.level
    for level in dict.fromkeys([*validation.levels, quoted]):
        needed = 2 * draws_needed(level)
        remedy = "leave it out of validation.levels" if level in validation.levels else "lower budget.level"
        if validation.samples < needed:
            words = f"{validation.samples} draws are too few for level {level:g}: at least {needed} are needed"
            yield ("validation", "samples"), f"{words}, half of them to calibrate; or {remedy}"


def _families(config: Config) -> Iterator[Fault]:
    for name, family in (config.validation.families or {}).items():
        where = ("validation", "families", name)
        if name in config.priors.values():
            yield where, f"{name} is the prior of the central ensemble, which is always there; choose another name"
        for key in ("threshold", "mass", "width"):
            if values := getattr(family, key, None):
                low, high = _limits(config, family, key)
                if values[0] < low[0] or values[1] > high[0]:
                    allowed = f"{low[0]:g} ({low[1]}) to {high[0]:g} ({high[1]})"
                    yield (*where, key), f"{list(values)} leaves the energy range; allowed: {allowed}"


def _limits(config: Config, family: FamilySection, key: str) -> tuple[tuple[float, str], tuple[float, str]]:
    """Return the lowest and the highest value of a family's range, and what each comes from."""
    energies = config.energies
    if key == "width":
        return (0.0, "any positive width"), (round(energies.max - energies.min, 9), "energies.max - energies.min")
    low = min((energies.min, "energies.min"), (config.spectra.E0[0], "the lowest of spectra.E0"))
    if family.kind in ("delta_tanh", "sign_changing", "few_states"):
        top = round(config.ranges.masses[1], 9)
        return low, (top, "halfway from 1.5 spectra.E0 to energies.max: there is more at up to twice the mass")
    return low, (energies.max, "energies.max")


def _workers(config: Config) -> Iterator[Fault]:
    if config.cluster.gpu == "serial":
        yield ("cluster", "gpu"), "serial is for cluster.cpu; allowed: local, or a section of jobqueue.yaml"


RULES = (
    _times,
    _decay,
    _thresholds,
    _sigma,
    _smearing,
    _prior,
    _ensembles,
    _training,
    _shipped,
    _methods,
    _crossed,
    _hlt,
    _budget,
    _validation,
    _families,
    _workers,
)
