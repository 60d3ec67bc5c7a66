"""Every section of the YAML file, with all defaults in one place, and the objects that sections build."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PositiveInt, model_validator

from sdpipe.config.densities import FamilySection, Mock, Ranges
from sdpipe.config.origins import ORIGINS, AudienceName, Origin
from sdpipe.config.section import Energy, Level, Name, Section, distinct, name_in
from sdpipe.config.smearings import AnySmearing
from sdpipe.config.sources import AnyNoise, CorrelatorTarget, KernelName, RangeNoise
from sdpipe.estimators import ESTIMATORS, INTERVALS
from sdpipe.physics import spectra
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.prior import Mixture

MOST_LATTICE_TIMES = 2048
"""Time slices that the networks may see: their covariance is a matrix that must fit, and be inverted."""

MANY = 50
"""Targets beyond which each has a page of its own, and figures are drawn on demand."""

AnyTarget = Annotated[Mock | CorrelatorTarget, Field(discriminator="kind")]


class Lattice(Section):
    """T and t in lattice units, a in 1/GeV."""

    period: Annotated[int, Field(ge=2, le=100_000)]
    """T, the number of time slices."""
    times: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    """First and last time slice that the networks see, at most 2048 of them. The last is at most T/2 where
    C(t) = C(T - t), and below T/2 where C(t) = -C(T - t)."""
    first: Annotated[int, Field(ge=0)] | None = None
    """Time of the first slice in files that do not say it; null: they hold T slices, or T/2 + 1, from 0 on."""
    spacing: Annotated[float, Field(ge=1e-4, le=1e4)] = 1.0
    """a in 1/GeV (1 fm = 5.0677/GeV), or 1 for lattice units. With 1 everything that is in GeV elsewhere is in 1/a, and
    results are labelled so; for a = 1/GeV the numbers are the same."""

    @model_validator(mode="after")
    def _inside(self) -> Lattice:
        first, last = self.times
        if not first <= last <= self.period:
            raise ValueError(f"times: {first}..{last} must ascend and lie within 0..{self.period} (the period)")
        if last - first >= MOST_LATTICE_TIMES:
            raise ValueError(
                f"times: {first}..{last} are {last - first + 1} slices; allowed: at most {MOST_LATTICE_TIMES}"
            )
        return self

    @property
    def slices(self) -> tuple[int, ...]:
        """Time slices that the networks see."""
        return tuple(range(self.times[0], self.times[1] + 1))


class Energies(Section):
    """Evenly spaced energies E at which rho_sigma(E) is given."""

    min: Annotated[float, Field(ge=0, le=1e4)]
    """Lowest E in GeV."""
    max: Energy
    """Highest E in GeV."""
    count: Annotated[int, Field(ge=2, le=4096)]
    """How many energies."""

    @model_validator(mode="after")
    def _ascending(self) -> Energies:
        if self.min >= self.max:
            raise ValueError(f"min: {self.min} must be below max ({self.max})")
        if len(set(self.grid)) < self.count:
            raise ValueError(f"min: {self.count} energies up to {self.max} are not distinct in 12 digits")
        return self

    @property
    def grid(self) -> tuple[float, ...]:
        """The energies E in GeV, rounded to 12 digits."""
        return tuple(float(f"{e:.12g}") for e in np.linspace(self.min, self.max, self.count))


class Spectra(Section):
    """The prior: random spectral densities, see [method.md](method.md#prior-random-spectral-densities)."""

    Nb: Annotated[list[Annotated[int, Field(ge=2, le=4096)]], Field(min_length=1), AfterValidator(distinct)]
    """Basis sizes, one training set each."""
    Nrho: Annotated[int, Field(ge=100, le=10_000_000)]
    """Samples in each training set; an ensemble may use fewer, the first ones."""
    mixture: dict[Name, float] = {"chebyshev": 1.0}
    """Share of each component: `chebyshev`, `smooth`, `levels`, `states`, `resonances` or `signed`. Shares are zero or
    positive, and only their ratios count. `chebyshev` alone is the prior of arXiv:2307.00808."""
    positive: bool = False
    """Whether rho >= 0 is known: component `chebyshev` is then positive, too, and `signed` is not allowed."""
    unit: Energy = 1.0
    """Unit of energy of the prior in GeV: its x(omega), masses, widths and gaps of levels are in it."""
    E0: tuple[Energy, Energy] = (0.2, 1.3)
    """Range of the threshold E0 in GeV; your spectrum should begin inside it."""
    epsilon: Annotated[float, Field(ge=0, le=10)] = 1e-7
    """Coefficients fall like 1/n^(1 + epsilon)."""
    omega_max: Energy | None = None
    """Cutoff of the integrals over omega in GeV; null is none."""

    @model_validator(mode="after")
    def _ranges(self) -> Spectra:
        low, high = self.E0
        if low >= high:
            raise ValueError(f"E0: {low} must be below {high}")
        if self.omega_max is not None and self.omega_max <= high:
            raise ValueError(f"omega_max: {self.omega_max} must be above the highest threshold E0 ({high})")
        return self

    def chebyshev(self, Nb: int) -> spectra.ChebyshevPrior:
        """Return the Chebyshev component of the prior at basis size ``Nb``."""
        low, high = (e / self.unit for e in self.E0)
        end = None if self.omega_max is None else self.omega_max / self.unit
        return spectra.ChebyshevPrior(Nb, (low, high), self.epsilon, end, self.positive, self.unit)

    def prior(self, Nb: int) -> Mixture:
        """Return the prior at basis size ``Nb``, its components in the order of their names."""
        return Mixture(dict(sorted(self.mixture.items())), self.chebyshev(Nb))


NetworkName = Literal["arcS", "arcM", "arcL", "mlpXXS", "mlpXS", "mlpS", "mlpM", "mlpL"]
"""Architectures, from small to large: those of arXiv:2307.00808, with convolutions, and those without."""


Method = name_in("method", ESTIMATORS, INTERVALS)
"""A name of :data:`sdpipe.estimators.ESTIMATORS` or :data:`sdpipe.estimators.INTERVALS`."""


class HLTSection(Section):
    """What the method of Hansen, Lupo and Tantalo leaves open, see [method.md](method.md#hlt)."""

    rule: Literal["evidence", "plateau", "balance"] = "evidence"
    """How lambda is chosen: by marginal likelihood, or by the stability analyses of the literature."""
    lambda_: Annotated[float, Field(gt=0, le=1e30)] | None = Field(None, alias="lambda")
    """lambda/(1 - lambda) at every sigma and energy, chosen by you and not by a rule: read it off a stability plot."""
    alpha: Annotated[float, Field(ge=-100, lt=1000)] = 0.0
    """Weight e^(alpha a w) of the integral that measures how well f_sigma is reached."""
    E0: Annotated[float, Field(ge=0, le=1e4)] | Literal["evidence"] | None = None
    """Where that integral begins in GeV; null is the lowest threshold or energy, whichever is lower. `evidence` is
    below the lowest state of each correlator, which steep data need."""


class Ensemble(Section):
    """Networks of one size, taught with one training set."""

    Nb: PositiveInt
    """Basis size; one of `spectra.Nb`."""
    Nrho: Annotated[int, Field(ge=100)]
    """Samples that it is taught with; at most `spectra.Nrho`."""
    network: NetworkName
    """The network, from small to large: arc of arXiv:2307.00808, with convolutions over C(t), and mlp, without."""


class Budget(Section):
    """Which ensembles the error budget compares, and whether it is calibrated."""

    central: Name
    """The ensemble whose prediction is the result; without networks the method."""
    references: dict[Name, Name]
    """Source of systematic error: the ensemble that the central one is compared with for it."""
    calibration: Literal["conformal", "none"] = "conformal"
    """Conformal adds the resolution and scales the total error to `level`; none is the published budget."""
    level: Level = 0.683
    """Coverage to which the total error is calibrated."""


class Validation(Section):
    """Mock spectra with known truth, predicted as if they were data, to calibrate and to test the error bars."""

    samples: Annotated[int, Field(ge=20, le=1_000_000)] = 2000
    """Draws of each family; half of those of the prior calibrate, all others test."""
    bootstrap: Annotated[int, Field(ge=2, le=100_000)] = 100
    """Bootstrap samples of each draw."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1), AfterValidator(distinct)] = (0.683, 0.954, 0.997)
    """Coverages that are tested."""
    families: dict[Name, FamilySection] | None = None
    """Families beside the prior; null is the standard set, see [error-budget.md](error-budget.md#families)."""


class Training(Section):
    """How every network is trained."""

    audience: AudienceName = "own"
    """Networks trained for this run, those that come with sdpipe, or none. `shipped` puts their ensembles, references,
    prior and training in place of yours, see [universal.md](universal.md); with `none` the `methods` answer alone, for
    every kernel and smearing."""
    replicas: Annotated[int, Field(ge=2, le=1000)] = 5
    """Networks of each ensemble and sigma, or of all sigma, with other initial weights, data order and noise."""
    protocol: Literal["default", "published"] = "default"
    """Ours, or that of arXiv:2307.00808."""
    inputs: Literal["whiten", "standardise", "posterior", "local"] = "whiten"
    """What the networks see: C(t) in one of two forms, or the closed-form posterior. `whiten` is C(t) rotated to unit
    covariance, `standardise` is C(t) standardised time by time. `posterior` gives features of the posterior, whose
    mean the networks then correct in units of its standard deviation. `local` does so at one sigma and one E at a
    time, in no unit of energy: each network serves all of them, [as those that come with sdpipe do](universal.md)."""
    head: Literal["none", "scale"] = "none"
    """Whether networks give an error, too."""
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Passes through the samples, at most; null is the protocol's."""
    batch: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Pairs in a batch; null is the protocol's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""

    @property
    def corrects(self) -> bool:
        """Whether networks correct the closed-form posterior, whose features they see."""
        return self.inputs in ("posterior", "local")


class Cluster(Section):
    """``local``, or the name of a section in jobqueue.yaml; ``jobs`` is the most that run at once."""

    cpu: Name = "local"
    """Pool of generate, predict, validate and analyze; `serial` is the driver itself, forked where it validates."""
    gpu: Name = "local"
    """Pool of train."""
    jobs: Annotated[int, Field(ge=1, le=10_000)] = 4
    """The most jobs of a pool at once."""


def _gaussian(raw: Any) -> Any:
    return {"kind": "gaussian", **raw} if isinstance(raw, Mapping) else raw


class Config(Section):
    """A whole run. Every key that has a default here may be left out of the file."""

    name: Name
    """Name of the run; its directory is `runs/NAME`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Starts every stream of random numbers."""
    lattice: Lattice
    """Grid of times."""
    kernel: KernelName
    """b_T(t, omega), see [method.md](method.md#problem)."""
    smearing: Annotated[AnySmearing, Field(discriminator="kind"), BeforeValidator(_gaussian)]
    """What is asked for: the smearing function f_sigma(w, E), `gaussian` where no `kind` is said, and its widths."""
    energies: Energies
    """What is asked for: energies."""
    spectra: Spectra
    """The prior."""
    noise: AnyNoise
    """Covariance of the lattice data, which the networks learn to live with."""
    ensembles: dict[Name, Ensemble]
    """The broad audience."""
    budget: Budget
    """The error budget."""
    training: Training = Training()
    """How networks are trained."""
    methods: Annotated[list[Method], AfterValidator(distinct)] = ["linear", "posterior"]
    """What is computed beside the networks. `linear` is the best linear estimator, `posterior` the closed-form one,
    `hlt` the method of Hansen, Lupo and Tantalo, `positive` the most probable rho >= 0. `bounds` are strict bounds for
    rho >= 0 (`pip install 'sdpipe[bounds]'`)."""
    hlt: HLTSection = HLTSection()
    """How HLT is used, where `methods` has it."""
    validation: Validation = Validation()
    """How the error bars are tested."""
    targets: Annotated[dict[Name, AnyTarget], Field(min_length=1)]
    """Correlators whose spectral density is wanted."""
    bootstrap: Annotated[int, Field(ge=2, le=100_000)] = 800
    """Bootstrap samples of each target."""
    cluster: Cluster = Cluster()
    """Where the work runs: `local`, or a section of jobqueue.yaml."""

    @property
    def kernel_function(self) -> Kernel:
        """b_T(t, omega) on the lattice of the run."""
        return Kernel(self.kernel, self.lattice.period, self.lattice.spacing)

    @property
    def observables(self) -> Observables:
        """C(t) and rho_sigma(E) on the grids of the run."""
        sigma, smearing = tuple(self.smearing.sigma), self.smearing.function
        return Observables(self.kernel_function, self.lattice.slices, sigma, self.energies.grid, smearing)

    @property
    def lattices(self) -> list[Observables]:
        """The observables of every lattice that noisy copies are on: copy k is on number k modulo their count."""
        own, further = self.observables, self.noise.lattices if isinstance(self.noise, RangeNoise) else []
        return [own] + [
            Observables(
                Kernel(other.kernel, other.period, other.spacing),
                tuple(range(other.times[0], other.times[1] + 1)),
                own.sigma,
                own.energies,
                own.smearing,
            )
            for other in further
        ]

    @property
    def estimators(self) -> list[str]:
        """The methods that give an estimate with an error, as networks do: all but intervals."""
        return [name for name in self.methods if name in ESTIMATORS]

    @property
    def many(self) -> bool:
        """Whether there are more targets than a page, and a stage that draws, can hold."""
        return len(self.targets) > MANY

    @property
    def copies(self) -> int:
        """Noisy copies of each sample that are stored: features of the posterior are computed from them."""
        copies = max(self.noise.copies, int(self.training.corrects))
        return copies * (1 + len(self.noise.lattices)) if isinstance(self.noise, RangeNoise) else copies

    @property
    def sigma_together(self) -> bool:
        """Whether each network serves all sigma."""
        return isinstance(self.noise, RangeNoise) or self.training.inputs == "local" or not self.origin.trains

    @property
    def origin(self) -> Origin:
        """Where the networks come from."""
        return ORIGINS[self.training.audience]

    @property
    def central_Nb(self) -> int:
        """Basis size of the prior that calibrates: that of the central ensemble, or the largest without networks."""
        central = self.ensembles.get(self.budget.central)
        return central.Nb if central else max(self.spectra.Nb)

    @property
    def priors(self) -> dict[str, str]:
        """The first validation families, by what they calibrate: the prior of the central ensemble for each sizing.

        ``given`` calibrates what is kept as large as given, where there is such a target or family; ``auto``, the same
        spectra, what is normalised by ``scale: auto``.
        """
        name = (
            "mixture"
            if any(share for kind, share in self.spectra.mixture.items() if kind != "chebyshev")
            else "chebyshev"
        )
        as_given = any(getattr(target, "scale", None) != "auto" for target in self.targets.values())
        given = {"given": name} if as_given or self.validation.families != {} else {}
        return given | {"auto": f"{name}-auto"}

    @property
    def ranges(self) -> Ranges:
        """What validation families take from the config."""
        low, sigma = 1.5 * self.spectra.E0[0], min(self.smearing.sigma)
        masses = low, (low + self.energies.max) / 2
        return Ranges(self.spectra.E0, masses, self.energies.max, (0.2 * sigma, 0.7 * sigma), self.spectra.prior)


def plain(config: BaseModel) -> dict[str, Any]:
    """Return a config or a section as plain dicts, lists, strings and numbers."""
    return config.model_dump(mode="json", by_alias=True)


def to_yaml(config: Config) -> str:
    """Return the resolved config as YAML; ``load_config`` reads it back to an equal config."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def digest(*parts: Any) -> str:
    """Return a short hash of plain data, the same on every machine.

    >>> digest({"a": 1, "b": [2.0]}) == digest({"b": [2.0], "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
