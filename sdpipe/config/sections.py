"""What a section of the config is, and the sections that describe a spectral density, a file of data, or noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator


def _free(name: str) -> str:
    if name == "zarr.json" or name.endswith((".partial", ".replaced", ".zarr")):
        raise ValueError(f"{name} is a name of sdpipe's own files; choose another")
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80), AfterValidator(_free)]
LONGEST_PATH = 4095


def _absolute(path: Path) -> Path:
    try:
        path = path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{path.parts[0][:60]}: there is no such user here") from None
    if len(str(path)) > LONGEST_PATH:
        raise ValueError(f"a path of {len(str(path))} characters; allowed: at most {LONGEST_PATH}")
    return path


DataPath = Annotated[Path, AfterValidator(_absolute)]
Weight = Annotated[float, Field(ge=-1e12, le=1e12)]
"""Of a delta function or a continuum."""
Energy = Annotated[float, Field(ge=1e-4, le=1e4)]
"""In GeV, where it is not zero."""


def distinct(values: Sequence[Any]) -> Sequence[Any]:
    """Return ``values``; refuse two that are equal."""
    if len(set(values)) != len(values):
        raise ValueError("values must differ from each other")
    return values


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"{values[0]} must not be above {values[1]}")
    return values


PeakCount = Annotated[int, Field(ge=1, le=10_000)]
Level = Annotated[float, Field(gt=0, lt=1)]
Range = Annotated[tuple[Energy, Energy], AfterValidator(_ascending)]


class Section(BaseModel):
    """Some keys of the config; the string below each says what it means, and docs/configuration.md is made of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class O3(Section):
    """The two-particle density of the O(3) model, arXiv:2307.00808 eq. (63)."""

    kind: Literal["o3"]
    """This spectral density."""
    threshold: Energy = 1.0
    """Threshold in GeV."""


class DeltaTanh(Section):
    """A delta function below a smooth step: A delta(w - M) + theta(w - w0) H/2 [1 + tanh((w - w0)/width)]."""

    kind: Literal["delta_tanh"]
    """This spectral density."""
    amplitude: Weight = 1.5
    """A, in GeV."""
    mass: Energy = 0.8
    """M in GeV."""
    height: Weight = 1.4730869020785
    """H."""
    position: Energy = 1.2744910285
    """w0 in GeV."""
    width: Energy = 1 / 17.08883512531
    """Width of the step in GeV."""


class Peaks(Section):
    """Delta functions, as in a finite volume."""

    kind: Literal["peaks"]
    """This spectral density."""
    amplitudes: Annotated[list[Weight], Field(min_length=1)]
    """Weight of each peak, in GeV."""
    masses: Annotated[list[Energy], Field(min_length=1)]
    """Position of each peak in GeV; as many as amplitudes."""

    @model_validator(mode="after")
    def _paired(self) -> Peaks:
        if len(self.amplitudes) != len(self.masses):
            raise ValueError(f"amplitudes: {len(self.amplitudes)} values, but masses has {len(self.masses)}")
        return self


class Chebyshev(Section):
    """Draw number ``sample`` of the prior, from a stream that no training set uses."""

    kind: Literal["chebyshev"]
    """This spectral density."""
    Nb: Annotated[int, Field(ge=2, le=4096)]
    """Size of its basis."""
    sample: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Which draw."""


class Data(Section):
    """A correlator in a file, and how its numbers are to be understood."""

    path: DataPath
    """The file; the end of its name tells the format."""
    dataset: str | None = None
    """Name in the file; may be left out where it holds one correlator only."""
    resampling: Literal["configurations", "bootstrap", "jackknife"] | None = None
    """What the samples are; null leaves it to the file, else configurations."""
    error: Literal["mean", "sample"] | None = None
    """For a file without samples: errors of the mean, or of one configuration; null leaves it to the file."""
    configurations: Annotated[int, Field(ge=2, le=1_000_000_000)] | None = None
    """How many there were: for `error: sample`; known, also for `error: mean` and bootstrap samples."""
    bin: PositiveInt = 1
    """Consecutive configurations that are averaged into one."""
    covariance: Literal["full", "shrink", "diagonal"] = "full"
    """The covariance as it is; shrunk towards its diagonal (Ledoit and Wolf), for few samples; its diagonal only."""


class Correlator(Data):
    """Real data; no truth is known."""

    kind: Literal["correlator"]
    """Real data."""
    scale: Literal["auto"] | Annotated[float, Field(ge=1e-30, le=1e30)] = "auto"
    """What multiplies the correlator before the networks; auto makes it most likely under the prior."""


Mock = O3 | DeltaTanh | Peaks | Chebyshev
Target = Annotated[Mock | Correlator, Field(discriminator="kind")]


class NoiseSection(Section):
    copies: Annotated[int, Field(ge=0, le=1000)] = 0
    """Noisy copies of each sample to store; 0 draws the noise while training."""
    covariance: Literal["full", "shrink", "diagonal"] = "full"
    """The covariance as it is; shrunk towards its diagonal (Ledoit and Wolf), for few samples; its diagonal only."""


class HDF5Noise(NoiseSection):
    """``mean (T,)`` and ``cov (T, T)``, the covariance of that mean, in one group."""

    kind: Literal["hdf5"]
    """A mean with its covariance."""
    path: DataPath
    """The HDF5 file."""
    group: str = "octet(0)"
    """The group that holds `mean` and `cov`."""


class CorrelatorNoise(Data, NoiseSection):
    """The covariance of the mean of real data."""

    kind: Literal["correlator"]
    """Real data."""


class SyntheticNoise(NoiseSection):
    """Relative error r1 exp(delta (t - 1)), correlation exp(-|t - t'| / tau), around C(t) of ``model``."""

    kind: Literal["synthetic"]
    """A stand-in until there are data."""
    r1: Annotated[float, Field(ge=1e-12, le=1e3)] = 1e-3
    """Relative error at t = 1."""
    delta: Annotated[float, Field(ge=-10, le=10)] = 0.0
    """Growth of the relative error with each time slice."""
    tau: Annotated[float, Field(ge=0.01, le=1e6)] = 4.0
    """Correlation length in time slices."""
    model: Annotated[O3 | DeltaTanh | Peaks, Field(discriminator="kind")] = O3(kind="o3")
    """Spectral density whose C(t) the errors are relative to."""


Noise = Annotated[HDF5Noise | CorrelatorNoise | SyntheticNoise, Field(discriminator="kind")]


class ChebyshevFamily(Section):
    """Draws of the prior at another basis size."""

    kind: Literal["chebyshev"]
    """This family."""
    Nb: Annotated[int, Field(ge=2, le=4096)]
    """Size of its basis."""


class O3Family(Section):
    """The two-particle density of the O(3) model."""

    kind: Literal["o3"]
    """This family."""
    threshold: Range | None = None
    """Range of the threshold in GeV; null is `spectra.E0`."""


class ResonanceFamily(Section):
    """A resonance over a smooth continuum."""

    kind: Literal["resonance"]
    """This family."""
    mass: Range | None = None
    """Range of the mass in GeV; null follows `spectra.E0` and `energies`."""
    width: Range | None = None
    """Range of the width in GeV; null follows `smearing.sigma`."""


class PeaksFamily(Section):
    """Delta functions, as in a finite volume."""

    kind: Literal["peaks"]
    """This family."""
    count: tuple[PeakCount, PeakCount] = (5, 50)
    """Range of their number."""
    mass: Range | None = None
    """Range of their positions in GeV; null follows `spectra.E0` and `energies`."""

    @model_validator(mode="after")
    def _ordered(self) -> PeaksFamily:
        if self.count[0] > self.count[1]:
            raise ValueError(f"count: {self.count[0]} must not be above {self.count[1]}")
        return self


class DeltaTanhFamily(Section):
    """A delta function below a smooth step."""

    kind: Literal["delta_tanh"]
    """This family."""
    mass: Range | None = None
    """Range of the position of the delta function in GeV; null follows `spectra.E0` and `energies`."""


Family = Annotated[
    ChebyshevFamily | O3Family | ResonanceFamily | PeaksFamily | DeltaTanhFamily, Field(discriminator="kind")
]
