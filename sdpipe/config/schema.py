"""Every section of the YAML file, with all defaults in one place; those of data and spectral densities: sections.py."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, Field, PositiveInt, model_validator

from sdpipe.config.sections import Energy, Family, Level, Name, Noise, Section, Target, distinct

SCHEMA = 2
"""Version of the layout of every store and network; a reader refuses any other."""

MOST_SLICES = 2048
"""Time slices that the networks may see: their covariance is a matrix that must fit, and be inverted."""


class Lattice(Section):
    """T and t in lattice units, a in 1/GeV."""

    period: Annotated[int, Field(ge=2, le=100_000)]
    """T, the number of time slices."""
    times: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    """First and last time slice that the networks see, at most 2048 of them; up to T/2 where C(t) = C(T - t)."""
    spacing: Annotated[float, Field(ge=1e-4, le=1e4)] = 1.0
    """a in 1/GeV (1 fm = 5.0677/GeV); 1 leaves everything in units of 1/a."""

    @model_validator(mode="after")
    def _inside(self) -> Lattice:
        first, last = self.times
        if not first <= last <= self.period:
            raise ValueError(f"times: {first}..{last} must ascend and lie within 0..{self.period} (the period)")
        if last - first >= MOST_SLICES:
            raise ValueError(f"times: {first}..{last} are {last - first + 1} slices; allowed: at most {MOST_SLICES}")
        return self

    @property
    def slices(self) -> tuple[int, ...]:
        """Time slices that the networks see."""
        return tuple(range(self.times[0], self.times[1] + 1))


class Smearing(Section):
    """Width of the Gaussian G_sigma."""

    kind: Literal["gaussian"] = "gaussian"
    """Shape of the smearing."""
    sigma: Annotated[list[Energy], Field(min_length=1, max_length=100), AfterValidator(distinct)]
    """Widths in GeV, none below 1e-3 of the largest or 1e-4 of `energies.max`; networks are trained for each."""


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
        return self


class Spectra(Section):
    """The prior: random spectral densities on a Chebyshev basis, arXiv:2307.00808 eqs. (38, 39)."""

    Nb: Annotated[list[Annotated[int, Field(ge=2, le=4096)]], Field(min_length=1), AfterValidator(distinct)]
    """Basis sizes, one training set each."""
    Nrho: Annotated[int, Field(ge=100, le=10_000_000)]
    """Samples in each training set; an ensemble may use fewer, the first ones."""
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


NetworkName = Literal["arcS", "arcM", "arcL"]
"""Architectures, from small to large."""


class Ensemble(Section):
    """Networks of one size, taught with one training set."""

    Nb: PositiveInt
    """Basis size; one of `spectra.Nb`."""
    Nrho: Annotated[int, Field(ge=100)]
    """Samples that it is taught with; at most `spectra.Nrho`."""
    network: NetworkName
    """Size of the network, from small to large."""


class Budget(Section):
    """Which ensembles the error budget compares, and whether it is calibrated."""

    central: Name
    """The ensemble whose prediction is the result."""
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
    families: dict[Name, Family] | None = None
    """Families beside the prior; null is the standard set, see [error-budget.md](error-budget.md#families)."""


class Training(Section):
    """How every network is trained."""

    replicas: Annotated[int, Field(ge=2, le=1000)] = 5
    """Networks of each ensemble and sigma, with other initial weights, data order and noise."""
    protocol: Literal["default", "published"] = "default"
    """Ours, or that of arXiv:2307.00808."""
    inputs: Literal["whiten", "standardise"] = "whiten"
    """Rotated to unit covariance, or standardised time by time."""
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Passes through the samples, at most; null is the protocol's."""
    batch: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Samples in a batch; null is the protocol's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    stack: Literal["auto", "replicas", "architecture"] = "auto"
    """Networks that train side by side in one task: replicas of one ensemble and sigma, or all of one architecture and
    Nrho; auto takes all where one GPU trains everything."""
    replicas_per_task: PositiveInt | None = None
    """The most replicas of one ensemble and sigma in a task; null is all."""


class Cluster(Section):
    """``local``, or the name of a section in jobqueue.yaml; ``jobs`` is the most that run at once."""

    cpu: Name = "local"
    """Pool of generate and predict."""
    gpu: Name = "local"
    """Pool of train."""
    jobs: Annotated[int, Field(ge=1, le=10_000)] = 4
    """The most jobs of a pool at once."""


class Config(Section):
    """A whole run. Every key that has a default here may be left out of the file."""

    name: Name
    """Name of the run; its directory is `runs/NAME`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Of every random number."""
    lattice: Lattice
    """Grid of times."""
    kernel: Literal["vector", "periodic", "exponential"]
    """b_T(t, omega), see [method.md](method.md#problem)."""
    smearing: Smearing
    """What is asked for: widths."""
    energies: Energies
    """What is asked for: energies."""
    spectra: Spectra
    """The prior."""
    noise: Noise
    """Covariance of the lattice data, which the networks learn to live with."""
    ensembles: Annotated[dict[Name, Ensemble], Field(min_length=1)]
    """The broad audience."""
    budget: Budget
    """The error budget."""
    training: Training = Training()
    """How networks are trained."""
    validation: Validation = Validation()
    """How the error bars are tested."""
    targets: Annotated[dict[Name, Target], Field(min_length=1)]
    """Correlators whose spectral density is wanted."""
    bootstrap: Annotated[int, Field(ge=2, le=100_000)] = 800
    """Bootstrap samples of each target."""
    cluster: Cluster = Cluster()
    """Where the work runs: `local`, or a section of jobqueue.yaml."""


def plain(config: BaseModel) -> dict[str, Any]:
    """Return a config or a section as plain dicts, lists, strings and numbers."""
    return config.model_dump(mode="json")


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
