"""From a correlator file to a config for the shipped audience: what the data leave open follows from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from sdpipe.config.load import overridden, validated
from sdpipe.config.origins import KNOWN_KERNELS, SMEARINGS, shipped
from sdpipe.config.rules import FEWEST_SLICES
from sdpipe.config.schema import plain
from sdpipe.correlators import folding, formats, known, matrices
from sdpipe.correlators.correlator import Correlator, Source
from sdpipe.correlators.record import Record, Snapshot
from sdpipe.correlators.survey import Survey, effective_mass
from sdpipe.errors import UserError
from sdpipe.estimators import MOST_TIMES, bounds
from sdpipe.estimators.positive import least_chi2
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.physics import smearing
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import FLOOR, Noise
from sdpipe.problem.inputs import TARGET_STREAM

LARGEST_ERROR = 0.3
"""Relative error from which on a time is left out."""

RESOLVED_WIDTH = 0.1
"""Posterior error, relative to the largest rho_sigma(E), to which it is known where sigma is called resolved."""

CHOICES_OF_SIGMA = (0.05, 0.07, 0.1, 0.14, 0.2, 0.26, 0.34, 0.44, 0.57, 0.76, 1.0)
"""Sigma to choose from, in the unit of energy that the data have."""

FIRST = "; and lattice.first, the t of the first one, unless there are T of them, or T/2 + 1"

EITHER_SIGN = {"chebyshev": 1.0, "signed": 1.0}
"""Components of the prior for densities of either sign."""

SYMMETRIC = 0.02
"""C(t) and C(T - t) are those of a period where they differ by less than this share of C(1)."""

USUAL = 8
"""A period that nobody says is a multiple of this; other symmetric slices are rather part of a longer one."""


@dataclass(frozen=True)
class Suggestion:
    """A correlator looked at, what of it is ``used``, the ``config`` for it, as plain dicts, and ``why`` it is so.

    ``taken`` are those lines of ``why`` that say how the errors of a file are understood.
    """

    survey: Survey
    used: Correlator
    config: dict[str, Any]
    why: tuple[str, ...]
    taken: tuple[str, ...]


def suggest(path: Path, overrides: Sequence[str] = (), kept: Snapshot | None = None) -> Suggestion:
    """Return what the shipped audience can say of the correlator in a file, ``kept`` where it is not written yet.

    ``overrides`` are KEY=VALUE strings with keys of a config or, without a dot, of a correlator section (``dataset``,
    ``resampling``, ``error``, ...); what they leave open follows from the data.

    Raises UserError, which names all that is missing, where the file cannot be read, its period does not follow from
    it, a covariance is of nobody knows what; where fewer than FEWEST_SLICES times have an error below LARGEST_ERROR, or
    C(t) has no effective mass and sigma and energies are not given; and where a unit of energy is.
    """
    return _Data(path, overrides, kept).suggestion()


class _Data:
    """A file, and what is given of its config."""

    def __init__(self, path: Path, overrides: Sequence[str], kept: Snapshot | None) -> None:
        given, names = overridden(overrides), {field.name for field in fields(Source)} - {"path"}
        self.path, self.why = path, list[str]()
        self.section = {key: value for key, value in given.items() if key in names}
        self.given = {key: value for key, value in given.items() if key not in names}
        if self.given_key("spectra", "unit") is not None:
            raise UserError("command line: spectra.unit: no longer needed, all units are integrated over; leave it out")
        self._check_types()
        file, name = path.expanduser().absolute(), self.section.get("dataset")
        self.snapshot = kept or formats.snapshot(file)
        self.record = self._record(formats.parse(self.snapshot, name), file)
        self.taken = self._conclude()
        self.why += self.taken
        self.source = Source.from_keys(file, self.section)
        self.symmetry = _symmetry(self.record)
        self._refuse_missing()
        self.slices = folding.slices(self.record, self.given_key("lattice", "period"), self._first())
        self.kernel = self._kernel()

    def _record(self, record: Record, file: Path) -> Record:
        """Return a record or, of one that is a matrix, the correlator in it that is asked for."""
        asked = Source.from_keys(file, self.section)
        kind = asked.resampling or record.said.get("resampling", "configurations")
        return matrices.projected(record, asked.component, asked.gevp, kind, self.given_key("lattice", "first") or 0)[0]

    def given_key(self, section: str, key: str) -> Any:
        """Return a key that is given, None where it is not."""
        return self.given.get(section, {}).get(key)

    def _check_types(self) -> None:
        """Take what is given as a config has it; raise UserError for a key or a type that a config does not have."""
        wide = {
            "lattice": {"period": 100_000, "times": [0, 0]},
            "energies": {"min": 0.0, "max": 1e4, "count": 2},
            "targets": {"file": {"kind": "correlator", "path": str(self.path), **self.section}},
        }
        config, wrong = validated(_merged({**shipped(), **wide}, self.given))
        if wrong:
            lines = [(".".join(map(str, keys)).removeprefix("targets.file."), words) for keys, words in wrong]
            raise UserError(*(f"command line: {key}: {words}" for key, words in lines))
        self.given = _as_in(plain(config), self.given)

    def _conclude(self) -> tuple[str, ...]:
        """Take for a table of errors alone what it can only mean, and what cannot make errors too small; say why."""
        if self.record.errors is None:
            return ()
        sentences = []
        if "error" not in {*self.section, *self.record.said}:
            self.section["error"] = "mean"
            sentences.append(
                "error: mean; for those of one configuration, which are larger, error=sample configurations=n"
            )
        if "covariance" not in self.section:
            self.section["covariance"] = "diagonal"
            sentences.append("covariance: diagonal, since errors alone do not say how times are correlated")
        return tuple(sentences)

    def _refuse_missing(self) -> None:
        """Raise UserError with all that neither the file nor what is given says."""
        record, faults = self.record, []
        size = (record.mean if record.samples is None else record.samples).shape[-1]
        if size < FEWEST_SLICES:
            raise UserError(f"{self.path}: {size} time slices; needed: {FEWEST_SLICES} or more")
        concludes = self.given_key("lattice", "period") is None and self.given.get("kernel") != "exponential"
        if concludes and not self.symmetry:
            named = record.times is not None and record.times.size
            if named and _one_to(size, record):
                raise folding.counted_from_one(record, size)
            what = f"t = {record.times[0]:g}..{record.times[-1]:g}" if named else f"{size} time slices"
            last = int(record.times[-1]) if named else (self.given_key("lattice", "first") or 0) + size - 1
            words = f"{what} are no whole period: say lattice.period=T, {2 * last} if the last one is T/2,"
            how = "or kernel=exponential for T -> infinity"
            first = "" if named or self.given_key("lattice", "first") is not None else FIRST
            faults.append(f"{words} {how}{first}")
        elif concludes and size % USUAL:
            whole = f"{size} time slices are symmetric, but few lattices have T = {size}"
            faults.append(f"{whole}: say lattice.period and lattice.first of a longer one, or lattice.period={size}")
        if record.samples is None and record.errors is None and "error" not in {*self.section, *record.said}:
            words = "is its covariance that of the mean, or that of one configuration"
            faults.append(f"{words}: say error=mean, or error=sample configurations=n")
        if faults:
            raise UserError(*(f"{self.path}: {fault}" for fault in faults))

    def _first(self) -> int | None:
        """Return the time of the first slice; where nobody says it, 0 for a whole period of symmetric data."""
        first, concluded = self.given_key("lattice", "first"), self.given_key("lattice", "period") is None
        if first is not None or self.record.times is not None or (concluded and not self.symmetry):
            return first
        self.why.append("lattice.first: 0, since the file does not say which slice is the first")
        return 0 if concluded else None  # a period that is said has to agree with the number of slices

    def _kernel(self) -> Kernel:
        """Return the kernel, given or found out."""
        name, period = self.given.get("kernel"), self.given_key("lattice", "period")
        spacing, slices = self.given_key("lattice", "spacing") or 1.0, self.slices
        if period is None and name == "exponential":
            period = 2 * max(slices[-1], 1)
        elif period is None and self.symmetry:
            period, sign = len(slices), "" if self.symmetry > 0 else "-"
            name = name or ("periodic" if self.symmetry > 0 else "periodic-odd")
            self.why.append(f"kernel: {name}, lattice.period: {period}, since C({period} - t) = {sign}C(t)")
        elif name is None:
            name = "periodic"
            self.why.append(f"kernel: periodic, for a period of {period}")
        return Kernel(name, period, spacing)

    def load(self, times: tuple[int, ...] | None, source: Source | None = None) -> Correlator:
        """Return the correlator at these times; by default all that the kernel allows."""
        draws = (self.given.get("bootstrap", 800), self.given.get("seed", 1), TARGET_STREAM)
        return known.load(source or self.source, self.kernel, times, self.snapshot, self.slices[0], draws)

    def whole(self) -> Correlator:
        """Return the correlator at all times, with a covariance as there can be of few samples, or of no samples."""
        try:
            return self.load(None)
        except UserError as error:
            if error.key != "covariance" or self.source.covariance != "full":
                raise
            few = "diagonal" if self.record.samples is None else "shrink"
            return self.load(None, replace(self.source, covariance=few))

    def suggestion(self) -> Suggestion:
        """Return the config, with what is given in it."""
        survey = Survey.from_correlator(self.whole(), self.kernel)
        first, last = self._times(survey)
        seen = self.load(tuple(range(first, last + 1)))
        unit, lowest = self._scales(self._diagonal(seen))
        if self.given_key("spectra", "positive"):
            self._check_positive(seen)
        sigma = self.given_key("smearing", "sigma") or self._sigma(seen, unit, lowest)
        section = {"kind": "correlator", "path": str(self.source.path), **self.section}
        name = "-".join([self.source.dataset or self.path.stem, *self._of_matrix()])
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", name).strip("-.") or "correlator"
        lattice = {"period": self.kernel.period, "times": [first, last], "spacing": self.kernel.spacing}
        config = {
            "name": name,
            "lattice": lattice | ({"first": self.slices[0]} if self.record.times is None else {}),
            "kernel": self.kernel.name,
            "smearing": {"sigma": sigma},
            "energies": self._energies(lowest, sigma),
            "spectra": self._prior(unit) | ({"mixture": EITHER_SIGN} if self.source.crossed else {}),
            "noise": section,
            "budget": {},
            "training": {"audience": self._audience()},
            **self._methods(),
            "hlt": {"E0": "evidence"},
            "validation": {"samples": 800, "bootstrap": 5, "levels": [0.683, 0.954], "families": {}},
            "targets": {name: section},
            "cluster": {"cpu": "serial"},
        }
        return Suggestion(survey, seen, _merged(config, self.given), tuple(self.why), self.taken)

    def _of_matrix(self) -> list[str]:
        """Return what names a correlator in a matrix."""
        component, gevp = self.source.component, self.source.gevp
        return [f"state{gevp.state}"] if gevp else [f"{i}" for i in component or ()]

    def _diagonal(self, seen: Correlator) -> Correlator:
        """Return the correlator that says where the lowest state is: off the diagonal of a matrix that on it."""
        if not self.source.crossed:
            return seen
        i = self.source.component[0]
        return self.load(seen.times, replace(self.source, component=(i, i), subtract=()))

    def _methods(self) -> dict[str, list[str]]:
        """Return the methods, where they are not those of every config."""
        if self.source.crossed:
            return {"methods": ["hlt", "posterior", "linear"]}
        if self.given_key("spectra", "positive") and self.given_key("smearing", "kind") in (None, "gaussian"):
            try:
                bounds.solver()
            except UserError as error:
                self.why.append(f"methods: without bounds for rho >= 0, since {error}")
                return {}
            self.why.append("methods: bounds, too, since rho >= 0 is known")
            return {"methods": ["linear", "posterior", "bounds"]}
        return {}

    def _audience(self) -> str:
        """Return which networks answer: the shipped ones where they know kernel and smearing."""
        if self.source.crossed and not self.given_key("training", "audience"):
            words = "since rho is of either sign off the diagonal of a matrix, of which the shipped networks saw fewer"
            self.why.append(f"training.audience: none, spectra.mixture: {EITHER_SIGN}, {words}; methods answer alone")
            return "none"
        kind = self.given_key("smearing", "kind") or "gaussian"
        unknown = [name for name in (self.kernel.name,) if name not in KNOWN_KERNELS]
        unknown += [kind] if kind not in SMEARINGS else []
        if not unknown or self.given_key("training", "audience"):
            return "shipped"
        words = f"since the shipped networks do not know {' or '.join(unknown)}; methods answer alone"
        self.why.append(f"training.audience: none, {words}")
        return "none"

    def _times(self, survey: Survey) -> tuple[int, int]:
        """Return first and last time, given or those that are known well enough."""
        if given := self.given_key("lattice", "times"):
            return tuple(given)
        run = survey.usable(LARGEST_ERROR)
        if run is not None and self.source.subtract:
            times = [t for t in survey.correlator.times if t >= run[0]]
            run = run[0], known.last_time(run[1], times, self.source.subtract)
        if run is None or run[1] - run[0] + 1 < FEWEST_SLICES:
            count = 0 if run is None else run[1] - run[0] + 1
            words = f"{count} times in a row, from t = 1 on, have an error below {100 * LARGEST_ERROR:.0f} %"
            samples = self.record.samples
            read = "" if samples is None else " (it was read as {} configurations of {} times)".format(*samples.shape)
            swapped = survey.relative.min() > 1 and not read
            read = "; every error is larger than its C(t): are the columns t, C(t), error?" if swapped else read
            raise UserError(f"{self.path}: {words}; needed: {FEWEST_SLICES} or more{read}")
        first, last = run
        most, limit = MOST_TIMES, "no more than a posterior can have"
        independent, count = survey.correlator.facts.get("independent"), last - first + 1
        few = bool(independent) and independent // 2 < count and self.source.covariance == "full"
        if few and "covariance" not in {*self.section, *self.record.said}:
            self.section["covariance"] = "shrink"
            self.source = replace(self.source, covariance="shrink")
            words = f"{independent} independent configurations are fewer than two for each of {count} times"
            self.why.append(f"covariance: shrink, since {words}")
        elif few and independent // 2 < FEWEST_SLICES:
            most, limit = FEWEST_SLICES, "the fewest allowed"
        elif few and independent // 2 < MOST_TIMES:
            most, limit = independent // 2, f"no more than half of {independent} independent configurations"
        fine = f"whose errors are below {100 * LARGEST_ERROR:.0f} %"
        fine += ", and later ones, which say that little is left there" if self.source.subtract else ""
        if count > most:
            last = first + most - 1
            fine = f"the first {most} {fine}, {limit}"
        self.why.append(f"lattice.times: [{first}, {last}], {fine}")
        return first, last

    def _check_positive(self, seen: Correlator) -> None:
        """Raise UserError where rho is of either sign, and where no rho >= 0 explains the data."""
        if self.source.crossed:
            words = f"component {self.section['component']} is off the diagonal, where rho is of either sign"
            raise UserError(f"{self.path}: spectra.positive: {words}; allowed: false")
        noise = Noise(seen.times, seen.mean, seen.covariance, seen.where, floor=FLOOR)
        least, explained = least_chi2(self.kernel, noise, seen.mean, seen.estimated_from)
        if not explained:
            words = f"no rho >= 0 explains these data, whose chi2 is at least {least:.4g} at {len(seen.times)} times"
            raise UserError(f"{self.path}: spectra.positive: {words}; allowed: false")

    def _scales(self, seen: Correlator) -> tuple[float, float]:
        """Return the unit of energy that the data have, and where the lowest state is.

        That is the effective mass at the last times of the C(t) that the posterior implies, which has the noise of all
        times and not that of the last ones.
        """
        posterior = self._posterior(seen, (1 / self.kernel.spacing,), (1 / self.kernel.spacing,))
        self._doubt_kernel(posterior, seen)
        self._check_reach(float(np.max(posterior.priors.unit * posterior.priors.E0)), seen.times[0])
        unit = float(f"{float(posterior(seen.mean).unit):.12g}")
        masses, _ = effective_mass(posterior.implied(seen.mean), seen.covariance, self.kernel)
        positive = masses[masses > 0]
        given = self.given_key("smearing", "sigma") and {"min", "max", "count"} <= set(self.given.get("energies", {}))
        if not positive.size and not given:
            words = f"C(t) does not fall as one of kernel {self.kernel.name} and of rho >= 0 does"
            raise UserError(f"{self.path}: {words}: say smearing.sigma and energies yourself")
        return unit, float(positive[-1]) if positive.size else unit

    def _doubt_kernel(self, posterior: Posterior, seen: Correlator) -> None:
        """Say where the data are far more probable with the other kind of kernel."""
        if other := posterior.other_kernel(seen.mean):
            words = f"C(t) is e^{other[1]:.3g} times more probable with {other[0]}, T = {self.kernel.period}"
            self.why.append(f"kernel: {self.kernel.name} is doubtful, since {words}")

    def _prior(self, unit: float) -> dict[str, Any]:
        """Return the prior that draws are of: in the unit that the data have or, where a smearing is in GeV, with
        thresholds there.
        """
        parameters = {"kind": "gaussian", **self.given.get("smearing", {})}
        parameters.pop("sigma", None)
        if smearing.from_kind(**parameters).scaleless:
            return {"unit": unit}
        return {"unit": 1.0, "E0": [float(f"{unit * E0:.12g}") for E0 in shipped()["spectra"]["E0"]]}

    def _check_reach(self, highest: float, first: int) -> None:
        """Raise UserError where energies or sigma are above all that the first time knows of."""
        given = [("energies.min", self.given_key("energies", "min"))]
        given += [("smearing.sigma", sigma) for sigma in self.given_key("smearing", "sigma") or ()]
        for key, value in given:
            if value is not None and value > highest:
                words = f"C(t) from t = {first} on knows nothing above {highest:.3g}"
                raise UserError(f"{self.path}: {key}: {value:g}: {words}; allowed: up to that")

    def _sigma(self, seen: Correlator, unit: float, lowest: float) -> list[float]:
        """Return the narrowest sigma that the posterior resolves, and the next one."""
        widths = [float(f"{unit * s:.3g}") for s in CHOICES_OF_SIGMA]
        E = lowest + unit * np.array([0, *CHOICES_OF_SIGMA, 1.4, 2.0])
        posterior = self._posterior(seen, tuple(widths), tuple(E))(seen.mean)
        largest = np.abs(posterior.mean).max(axis=-1)
        error = [np.median(posterior.sd[i, lowest + 2 * s > E]) for i, s in enumerate(widths)]
        i = next((i for i in range(len(widths) - 1) if error[i] < RESOLVED_WIDTH * largest[i]), None)
        words = f"the narrowest at which the posterior is known to {100 * RESOLVED_WIDTH:.0f} %, and the next one"
        if i is None:
            percent = f"{100 * RESOLVED_WIDTH:.0f} %"
            words = f"at none of which the posterior is known to {percent}: smaller errors would help"
            i = len(widths) - 2
        self.why.append(f"smearing.sigma: {widths[i : i + 2]}, {words}")
        return widths[i : i + 2]

    def _energies(self, lowest: float, sigma: list[float]) -> dict[str, Any]:
        """Return the energies, as far as they are not given around the lowest state."""
        given = self.given.get("energies", {})
        if {"min", "max", "count"} <= set(given):
            return given
        low, high = max(0.0, lowest - 2 * max(sigma)), lowest + 4 * max(sigma)
        low, high = (given.get(k, float(f"{x:.3g}")) for k, x in (("min", low), ("max", high)))
        count = int(np.clip(np.ceil((high - low) / (min(sigma) / 4)) + 1, 2, 100))
        self.why.append(
            f"energies: {low:g} to {high:g}, around the lowest state at {lowest:.3g}, a quarter of a sigma apart; say "
            "energies={min: .., max: .., count: ..} for others"
        )
        return {"min": low, "max": high, "count": count} | given

    def _posterior(self, seen: Correlator, sigma: tuple[float, ...], E: tuple[float, ...]) -> Posterior:
        """Return the closed-form posterior over all units of energy."""
        noise = Noise(seen.times, seen.mean, seen.covariance, seen.where, floor=FLOOR)
        return Posterior.for_noise(PriorMoments.over_scales(Observables(self.kernel, seen.times, sigma, E)), noise)


def _one_to(period: int, record: Record) -> bool:
    """Return whether the slices of a record are named 1..T and would be a whole period if they were 0..T - 1."""
    if tuple(record.times) != tuple(range(1, period + 1)):
        return False
    C = record.mean if record.samples is None else record.samples.mean(axis=0)
    return any(_symmetry(Record(record.where, mean=np.roll(C, by))) for by in (0, 1))


def _symmetry(record: Record) -> int:
    """Return 1 where C(T - t) = C(t) with the number T of slices, -1 where it is -C(t), else 0."""
    C = record.mean if record.samples is None else record.samples.mean(axis=0)
    n = len(C)
    if record.times is not None and tuple(record.times) != tuple(range(n)):
        return 0
    forward, backward = C[1:], C[:0:-1]
    size = np.abs(C[1]) if n > 4 and np.abs(C).argmax() == 0 else 0  # C(0) is larger than any other of a period
    for sign in (1, -1):
        if size and np.abs(forward - sign * backward).max() < SYMMETRIC * size:
            return sign
    return 0


def _as_in(config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return what is given with the values that a config has there: numbers where YAML sees text, as in 1e-3."""
    both = {key: isinstance(value, dict) and isinstance(config.get(key), dict) for key, value in given.items()}
    return {key: _as_in(config[key], value) if both[key] else config[key] for key, value in given.items()}


def _merged(into: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return a config with what is given in it, section by section."""
    result = dict(into)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
