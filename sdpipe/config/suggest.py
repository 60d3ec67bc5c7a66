"""From a correlator file to a config for the shipped audience: what the data leave open follows from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpipe.config.load import overridden
from sdpipe.config.rules import FEWEST_SLICES, MOST_FOR_POSTERIOR
from sdpipe.config.shipped import shipped
from sdpipe.correlators import correlator, formats
from sdpipe.correlators.correlator import Correlator, Source
from sdpipe.correlators.survey import Survey
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.posterior import Estimate, Posterior, PriorMoments
from sdpipe.physics.spectra import ChebyshevPrior

Array = NDArray[np.float64]

LARGEST_ERROR = 0.3
"""Relative error from which on a time is left out."""

RESOLVED = 0.05
"""Posterior error, relative to the largest rho_sigma(E), to which it is known where sigma is called resolved."""

COMFORTABLE = (0.25, 1.2)
"""Masses of the lowest state, in units of the prior, with which the unit is left at 1 GeV."""

MIDDLE = 0.5
"""Where another unit puts that mass."""

FLOOR = 1e-6
"""Relative error of C(t) beside its noise, the default of ``noise.floor``."""

SYMMETRIC = 0.02
"""C(t) and C(T - t) are those of a period where they differ by less than this share of C(1)."""


@dataclass(frozen=True)
class Suggestion:
    """A correlator looked at, what of it is ``used``, the ``config`` for it, as plain dicts, and ``why`` it is so."""

    survey: Survey
    used: Correlator
    config: dict[str, Any]
    why: tuple[str, ...]


def suggest(path: Path, overrides: Sequence[str] = ()) -> Suggestion:
    """Return what the shipped audience can say of the correlator in a file.

    ``overrides`` are KEY=VALUE strings with keys of a config or, without a dot, of a correlator section (``dataset``,
    ``resampling``, ``error``, ...); what they leave open follows from the data.

    Raises UserError where the file cannot be read, its period does not follow from it, fewer than FEWEST_SLICES times
    have an error below LARGEST_ERROR, or no effective mass is known and sigma, energies and unit are not given.
    """
    return _Data(path, overridden(overrides)).suggestion()


def E0(config: dict[str, Any]) -> tuple[float, float]:
    """Return the thresholds of the shipped prior, in the unit of a config."""
    low, high = (config["spectra"]["unit"] * E for E in shipped()["spectra"]["E0"])
    return low, high


class _Data:
    """A file, and what is given of its config."""

    def __init__(self, path: Path, given: dict[str, Any]) -> None:
        names = {field.name for field in fields(Source)} - {"path"}
        self.path, self.why = path, list[str]()
        self.section = {key: value for key, value in given.items() if key in names}
        self.given = {key: value for key, value in given.items() if key not in names}
        self.source = Source(path.expanduser().absolute(), **self.section)

    def lattice(self, key: str) -> Any:
        """Return a given key of the section ``lattice``, None where it is not given."""
        section = self.given.get("lattice", {})
        return section.get(key) if isinstance(section, dict) else None

    @cached_property
    def snapshot(self) -> formats.Snapshot:
        return formats.snapshot(self.source.path)

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel, given or found out."""
        name, period, spacing = self.given.get("kernel"), self.lattice("period"), self.lattice("spacing") or 1.0
        if name is not None and (period is not None or name == "exponential"):
            last = self.times_there[-1]
            return Kernel(name, period or 2 * max(last, 1), spacing)
        found, period, words = self._found(period)
        self.why.append(words)
        return Kernel(name or found, period, spacing)

    @cached_property
    def times_there(self) -> tuple[int, ...]:
        record = formats.parse(self.snapshot, self.source.dataset)
        return correlator.slices(record, self.lattice("period"), self._first(record))

    def _first(self, record: formats.Record) -> int | None:
        """Return the time of the first slice; where nobody says it, 0 for a whole period of symmetric data."""
        first = self.lattice("first")
        if first is None and record.times is None and self.lattice("period") is None and _symmetry(record):
            return 0
        return first

    def _found(self, period: int | None) -> tuple[str, int, str]:
        """Return kernel, period and why."""
        record = formats.parse(self.snapshot, self.source.dataset)
        there = correlator.slices(record, period, self._first(record))
        if period is not None:
            return "periodic", period, f"kernel: periodic, for a period of {period}"
        if sign := _symmetry(record):
            name = "periodic" if sign > 0 else "periodic-odd"
            words = f"C({len(there)} - t) = {'' if sign > 0 else '-'}C(t)"
            return name, len(there), f"kernel: {name}, lattice.period: {len(there)}, since {words}"
        raise UserError(
            f"{self.path}: t = {there[0]}..{there[-1]} are no whole period: say lattice.period=T, such as "
            f"lattice.period={2 * there[-1]} where C(t) is folded up to T/2, or kernel=exponential for T -> infinity"
        )

    def load(self, times: tuple[int, ...] | None, source: Source | None = None) -> Correlator:
        how = {"parity": self.kernel.parity, "first": self.times_there[0]}
        return correlator.load(source or self.source, self.kernel.period, times, self.snapshot, **how)

    @cached_property
    def whole(self) -> Correlator:
        """The correlator at all times of the file; without correlations where there are too few samples for them."""
        try:
            return self.load(None)
        except UserError as error:
            if error.key != "covariance" or self.source.covariance != "full":
                raise
            return self.load(None, replace(self.source, covariance="diagonal"))

    def suggestion(self) -> Suggestion:
        survey = Survey.of(self.whole, self.kernel)
        times = self._times(survey)
        seen = self.load(tuple(range(times[0], times[1] + 1)))
        spectra = self.given.get("spectra", {})
        unit = spectra.get("unit") if isinstance(spectra, dict) else None
        if unit is None:
            unit = self._unit(survey)
        sigma, energies = self._resolved(survey, seen, unit)
        section = {"kind": "correlator", "path": str(self.source.path), **self.section}
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", self.source.dataset or self.path.stem).strip("-.") or "correlator"
        lattice = {"period": self.kernel.period, "times": list(times), "spacing": self.kernel.spacing}
        named = formats.parse(self.snapshot, self.source.dataset).times is not None
        config = {
            "name": name,
            "lattice": lattice | ({} if named else {"first": self.times_there[0]}),
            "kernel": self.kernel.name,
            "smearing": {"sigma": sigma},
            "energies": energies,
            "spectra": {"unit": unit},
            "noise": section,
            "budget": {},
            "training": {"audience": "shipped"},
            "validation": {"samples": 1600, "bootstrap": 5, "levels": [0.683, 0.954], "families": {}},
            "targets": {name: section},
            "cluster": {"cpu": "serial"},
        }
        return Suggestion(survey, seen, _merged(config, self.given), tuple(self.why))

    def _times(self, survey: Survey) -> tuple[int, int]:
        """Return first and last time, given or those that are known well enough."""
        if given := self.lattice("times"):
            return tuple(given)
        run = survey.usable(LARGEST_ERROR)
        if run is None or run[1] - run[0] + 1 < FEWEST_SLICES:
            count = 0 if run is None else run[1] - run[0] + 1
            words = f"{count} times in a row, from t = 1 on, have an error below {100 * LARGEST_ERROR:.0f} %"
            raise UserError(f"{self.path}: {words}; needed: {FEWEST_SLICES} or more")
        first, last = run
        most, independent = MOST_FOR_POSTERIOR, survey.correlator.facts.get("independent")
        if independent and self.source.covariance == "full":
            most = max(FEWEST_SLICES, independent // 2)  # more than these samples do not determine
        last = min(last, first + most - 1)
        self.why.append(f"lattice.times: [{first}, {last}], whose errors are below {100 * LARGEST_ERROR:.0f} %")
        return first, last

    def _unit(self, survey: Survey) -> float:
        """Return the unit of energy that puts the lowest state into the thresholds of the prior."""
        mass = survey.lowest
        if COMFORTABLE[0] <= mass <= COMFORTABLE[1]:
            self.why.append(
                f"spectra.unit: 1, since the effective mass falls to {mass:.3g}, inside of the prior's range"
            )
            return 1.0
        unit = float(f"{mass / MIDDLE:.3g}")
        words = f"so that the effective mass, which falls to {mass:.3g}, is {MIDDLE:g} of it"
        self.why.append(f"spectra.unit: {unit:g}, {words}")
        return unit

    def _resolved(self, survey: Survey, seen: Correlator, unit: float) -> tuple[list[float], dict[str, Any]]:
        """Return sigma and energies, given or as the posterior resolves them."""
        smearing, energies = self.given.get("smearing", {}), self.given.get("energies", {})
        given = smearing.get("sigma") if isinstance(smearing, dict) else None
        sigma = given
        if sigma is None or {"min", "max", "count"} - set(energies):
            found, resolved = self._sigma(survey, seen, unit)
            if sigma is None:
                sigma = found
                words = f"the narrowest at which the posterior is known to {100 * RESOLVED:.0f} %, and the next one"
                self.why.append(f"smearing.sigma: {sigma}, {words if resolved else 'the widest there are'}")
        widths = np.array(sigma if isinstance(sigma, list) else [sigma], float)
        if {"min", "max", "count"} <= set(energies):
            return sigma, energies
        top = shipped()["energies"]["max"] * unit
        low, high = max(0.0, survey.lowest - 2 * widths.max()), min(survey.lowest + 4 * widths.max(), top)
        low, high = (energies.get(k, float(f"{x:.3g}")) for k, x in (("min", low), ("max", high)))
        count = energies.get("count", int(np.clip(np.ceil((high - low) / (widths.min() / 4)) + 1, 2, 100)))
        self.why.append(f"energies: {low:g} to {high:g}, around that mass, a quarter of a sigma apart")
        return sigma, {"min": low, "max": high, "count": count}

    def _sigma(self, survey: Survey, seen: Correlator, unit: float) -> tuple[list[float], bool]:
        """Return two sigma, and whether the posterior resolves the first one."""
        trained = [float(f"{unit * s:.6g}") for s in shipped()["smearing"]["sigma"]]
        E = np.linspace(max(0.0, survey.lowest - unit), survey.lowest + 2 * unit, 25)
        said = self.posterior(seen, unit, tuple(trained), tuple(E))
        size = np.abs(said.mean).max(axis=-1)
        for i in range(len(trained) - 1):
            near = survey.lowest + 2 * trained[i] > E
            if np.median(said.sd[i, near]) < RESOLVED * size[i]:
                return trained[i : i + 2], True
        return trained[-2:], False

    def posterior(self, seen: Correlator, unit: float, sigma: tuple[float, ...], E: tuple[float, ...]) -> Estimate:
        """Return the closed-form posterior of the correlator."""
        own = shipped()["spectra"]
        prior = ChebyshevPrior(max(own["Nb"]), tuple(own["E0"]), own["epsilon"], None, False, unit)
        noise = Noise(seen.times, seen.mean, seen.covariance, seen.where, floor=FLOOR)
        return Posterior.of(PriorMoments.of(prior, Observables(self.kernel, seen.times, sigma, E)), noise)(seen.mean)


def _symmetry(record: formats.Record) -> int:
    """Return 1 where C(T - t) = C(t) with the number T of slices, -1 where it is -C(t), else 0."""
    C = record.mean if record.samples is None else record.samples.mean(axis=0)
    n = len(C)
    if record.times is not None and tuple(record.times) != tuple(range(n)):
        return 0
    forward, backward = C[1:], C[:0:-1]
    size = np.abs(C[1]) if n > 4 else 0
    for sign in (1, -1):
        if size and np.abs(forward - sign * backward).max() < SYMMETRIC * size:
            return sign
    return 0


def _merged(made: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return a config with what is given in it, section by section."""
    result = dict(made)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
