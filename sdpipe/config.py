"""Every section of the YAML file, with all defaults in one place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]
DataPath = Annotated[Path, AfterValidator(lambda p: p.expanduser().absolute())]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("values must differ from each other")
    return values


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lattice(Section):
    """T and t in lattice units, a in 1/GeV."""

    period: Annotated[int, Field(ge=2, le=100_000)]
    times: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    spacing: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _inside(self) -> Lattice:
        first, last = self.times
        if not first <= last <= self.period:
            raise ValueError(f"times: {first}..{last} must ascend and lie within 0..{self.period} (the period)")
        return self

    @property
    def slices(self) -> tuple[int, ...]:
        """Time slices that the networks see."""
        return tuple(range(self.times[0], self.times[1] + 1))


class Smearing(Section):
    kind: Literal["gaussian"] = "gaussian"
    sigma: Annotated[list[PositiveFloat], Field(min_length=1), AfterValidator(_distinct)]


class Energies(Section):
    min: NonNegativeFloat
    max: PositiveFloat
    count: Annotated[int, Field(ge=2, le=100_000)]

    @model_validator(mode="after")
    def _ascending(self) -> Energies:
        if self.min >= self.max:
            raise ValueError(f"min: {self.min} must be below max ({self.max})")
        return self


class Spectra(Section):
    Nb: Annotated[list[Annotated[int, Field(ge=2, le=4096)]], Field(min_length=1), AfterValidator(_distinct)]
    Nrho: Annotated[int, Field(ge=100)]
    E0: tuple[PositiveFloat, PositiveFloat] = (0.2, 1.3)
    epsilon: NonNegativeFloat = 1e-7
    omega_max: PositiveFloat | None = None

    @model_validator(mode="after")
    def _ranges(self) -> Spectra:
        low, high = self.E0
        if low >= high:
            raise ValueError(f"E0: {low} must be below {high}")
        if self.omega_max is not None and self.omega_max <= high:
            raise ValueError(f"omega_max: {self.omega_max} must be above the highest threshold E0 ({high})")
        return self


class O3(Section):
    kind: Literal["o3"]
    threshold: PositiveFloat = 1.0


class DeltaTanh(Section):
    kind: Literal["delta_tanh"]
    amplitude: Finite = 1.5
    mass: PositiveFloat = 0.8
    height: Finite = 1.4730869020785
    position: PositiveFloat = 1.2744910285
    width: PositiveFloat = 1 / 17.08883512531


class Peaks(Section):
    kind: Literal["peaks"]
    amplitudes: Annotated[list[Finite], Field(min_length=1)]
    masses: Annotated[list[PositiveFloat], Field(min_length=1)]

    @model_validator(mode="after")
    def _paired(self) -> Peaks:
        if len(self.amplitudes) != len(self.masses):
            raise ValueError(f"amplitudes: {len(self.amplitudes)} values, but masses has {len(self.masses)}")
        return self


class Chebyshev(Section):
    """Draw number ``sample`` of the prior, from a stream that no training set uses."""

    kind: Literal["chebyshev"]
    Nb: Annotated[int, Field(ge=2, le=4096)]
    sample: Annotated[int, Field(ge=0)] = 0


class Correlator(Section):
    """Real data, one row a gauge configuration; no truth is known."""

    kind: Literal["correlator"]
    path: DataPath
    dataset: str
    scale: Literal["auto"] | PositiveFloat = "auto"


Mock = O3 | DeltaTanh | Peaks | Chebyshev
Target = Annotated[Mock | Correlator, Field(discriminator="kind")]


class NoiseSection(Section):
    copies: Annotated[int, Field(ge=0, le=1000)] = 0
    covariance: Literal["full", "shrink", "diagonal"] = "full"


class HDF5Noise(NoiseSection):
    """``mean (T,)`` and ``cov (T, T)`` in one group."""

    kind: Literal["hdf5"]
    path: DataPath
    group: str = "octet(0)"


class CorrelatorNoise(NoiseSection):
    """One row a gauge configuration: the covariance of the mean."""

    kind: Literal["correlator"]
    path: DataPath
    dataset: str


class SyntheticNoise(NoiseSection):
    """Relative error r1 exp(delta (t - 1)), correlation exp(-|t - t'| / tau), around C(t) of ``model``."""

    kind: Literal["synthetic"]
    r1: PositiveFloat = 1e-3
    delta: Finite = 0.0
    tau: PositiveFloat = 4.0
    model: Annotated[O3 | DeltaTanh | Peaks, Field(discriminator="kind")] = O3(kind="o3")


Noise = Annotated[HDF5Noise | CorrelatorNoise | SyntheticNoise, Field(discriminator="kind")]


class Ensemble(Section):
    Nb: PositiveInt
    Nrho: Annotated[int, Field(ge=100)]
    network: Literal["arcS", "arcM", "arcL"]


class Budget(Section):
    central: Name
    references: dict[Name, Name]


class Training(Section):
    replicas: Annotated[int, Field(ge=2, le=1000)] = 5
    protocol: Literal["default", "published"] = "default"
    inputs: Literal["whiten", "standardise"] = "whiten"
    epochs: PositiveInt | None = None
    batch: PositiveInt | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    replicas_per_task: PositiveInt | None = None


class Cluster(Section):
    """``local``, or the name of a section in jobqueue.yaml; ``jobs`` is the most that run at once."""

    cpu: Name = "local"
    gpu: Name = "local"
    jobs: Annotated[int, Field(ge=1, le=10_000)] = 4


class Config(Section):
    """A whole run. Every key that has a default here may be left out of the file."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    lattice: Lattice
    kernel: Literal["vector", "periodic", "exponential"]
    smearing: Smearing
    energies: Energies
    spectra: Spectra
    noise: Noise
    ensembles: Annotated[dict[Name, Ensemble], Field(min_length=1)]
    budget: Budget
    training: Training = Training()
    targets: Annotated[dict[Name, Target], Field(min_length=1)]
    bootstrap: Annotated[int, Field(ge=2, le=100_000)] = 800
    cluster: Cluster = Cluster()


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
