"""Correlators in files, and the noise that networks learn to live with."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt, model_validator

from sdpipe.config.densities import DeltaTanhMock, O3Mock, PeaksMock
from sdpipe.config.section import DataPath, PositiveNumber, Section, ascending, name_in
from sdpipe.correlators.correlator import ErrorOf, Resampling, Source
from sdpipe.correlators.matrices import Gevp
from sdpipe.correlators.states import Known
from sdpipe.physics.kernels import KERNELS
from sdpipe.physics.noise import FLOOR, Treatment

KernelName = name_in("kernel", KERNELS)


class GevpSection(Section):
    """A state of a matrix of correlators, see [correlators.md](correlators.md#matrices)."""

    t0: Annotated[int, Field(ge=0)]
    """Time at which the vectors are normalised, below `td`."""
    td: Annotated[int, Field(ge=0)]
    """Time at which they are found: C(td) v = λ C(t0) v."""
    state: Annotated[int, Field(ge=0)] = 0
    """Which state; 0 is that of the largest eigenvalue, the lowest energy."""


Value = float | tuple[float, Annotated[float, Field(ge=0)]]


class KnownState(Section):
    """A state that is known, and taken off the data before the rest is reconstructed."""

    amplitude: Value | None = None
    """A of A b_T(t, M), or [A, its error]."""
    mass: Value | None = None
    """M in GeV, or [M, its error]."""
    between: tuple[int, int] | None = None
    """In place of both, the times between which one state is fitted to every sample of these data."""

    @model_validator(mode="after")
    def _said_once(self) -> KnownState:
        numbers = [self.amplitude is not None, self.mass is not None]
        if all(numbers) == (self.between is not None) or any(numbers) != all(numbers):
            raise ValueError("a state needs amplitude and mass, or between, the times of its fit")
        return self


class CorrelatorSection(Section):
    """A correlator in a file, and how its numbers are to be understood."""

    path: DataPath
    """The file; the end of its name tells the format."""
    dataset: str | None = None
    """Name in the file; may be left out where it holds one correlator only."""
    resampling: Resampling | None = None
    """What the samples are; null leaves it to the file, else configurations."""
    error: ErrorOf | None = None
    """For a file without samples: errors of the mean, or of one configuration; null leaves it to the file."""
    configurations: Annotated[int, Field(ge=2, le=1_000_000_000)] | None = None
    """How many there were: for `error: sample`; known, also for `error: mean` and bootstrap samples."""
    bin: PositiveInt | None = None
    """Consecutive configurations that are averaged into one; null: the Gamma method measures what to make of them."""
    covariance: Treatment = "full"
    """The covariance as it is; for few samples shrunk to a smooth one (Ledoit and Wolf); its diagonal only."""
    component: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    """Of a file that holds a matrix of correlators, the element [i, j], from 0 on."""
    gevp: GevpSection | None = None
    """Of a matrix of correlators, the correlator of one state of its generalised eigenvalue problem."""
    subtract: list[KnownState] = []
    """Known states that are taken off sample by sample before the rest is reconstructed, and put back after. Each is
    `{amplitude: A, mass: M}` in numbers or `[value, error]`, or `{between: [first, last]}`, times at which one state is
    fitted ([physics.md](physics.md#known-states)). The noise needs the same states."""

    @property
    def source(self) -> Source:
        """Where the correlator is, and how its numbers are to be understood."""
        keys = {field.name: getattr(self, field.name) for field in fields(Source)}
        states = tuple(Known(**dict(state)) for state in self.subtract)
        return Source(**keys | {"gevp": self.gevp and Gevp(**dict(self.gevp)), "subtract": states})


class CorrelatorTarget(CorrelatorSection):
    """Real data; no truth is known."""

    kind: Literal["correlator"]
    """Real data."""
    scale: Literal["auto"] | Annotated[float, Field(ge=1e-30, le=1e30)] = "auto"
    """What multiplies the correlator before the networks; auto makes it most likely under the prior."""


class NoiseSection(Section):
    copies: Annotated[int, Field(ge=0, le=1000)] = 0
    """Noisy copies of each sample to store; 0 draws the noise in training, or stores one if inputs need it."""
    covariance: Treatment = "full"
    """The covariance as it is; for few samples shrunk to a smooth one (Ledoit and Wolf); its diagonal only."""
    floor: Annotated[float, Field(ge=0, le=0.1)] = FLOOR
    """Relative error of every C(t) beside that noise: no data are taken for better than this."""


class HDF5Noise(NoiseSection):
    """``mean (T,)`` and ``cov (T, T)``, the covariance of that mean, in one group."""

    kind: Literal["hdf5"]
    """A mean with its covariance."""
    path: DataPath
    """The HDF5 file."""
    group: str | None = None
    """The group that holds `mean` and `cov`; may be left out where the file holds one only."""

    @property
    def source(self) -> Source:
        """Where the mean and its covariance are."""
        return Source(self.path, self.group, error="mean", covariance=self.covariance)


class CorrelatorNoise(CorrelatorSection, NoiseSection):
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
    model: Annotated[O3Mock | DeltaTanhMock | PeaksMock, Field(discriminator="kind")] = O3Mock(kind="o3")
    """Spectral density whose C(t) the errors are relative to."""


class RangeLattice(Section):
    """A lattice of ``noise.lattices``."""

    kernel: KernelName
    """b_T(t, omega)."""
    period: Annotated[int, Field(ge=2, le=100_000)]
    """T, the number of time slices."""
    times: tuple[PositiveInt, PositiveInt]
    """First and last time slice that is seen; at most T/2."""
    spacing: Annotated[float, Field(ge=1e-4, le=1e4)] = 1.0
    """a in 1/GeV."""

    @model_validator(mode="after")
    def _inside(self) -> RangeLattice:
        first, last = self.times
        if not first < last <= self.period // 2:
            raise ValueError(
                f"times: {first}..{last} must ascend and lie within 1..{self.period // 2} (half the period)"
            )
        return self


class RangeNoise(NoiseSection):
    """Covariances drawn anew, so that the networks serve every lattice, see
    [universal.md](universal.md#covariances)."""

    kind: Literal["range"]
    """An audience for every covariance."""
    relative: Annotated[tuple[PositiveNumber, PositiveNumber], AfterValidator(ascending)] = (3e-5, 3e-2)
    """Range of the relative error at t = 1, log-uniform."""
    growth: Annotated[tuple[float, float], AfterValidator(ascending)] = (0.0, 0.2)
    """Range of the growth of the relative error with each time slice, uniform."""
    tau: Annotated[tuple[PositiveNumber, PositiveNumber], AfterValidator(ascending)] = (0.2, 30.0)
    """Range of the correlation length in time slices, log-uniform; a quarter of the covariances is diagonal."""
    model: Annotated[O3Mock | DeltaTanhMock | PeaksMock, Field(discriminator="kind")] = O3Mock(kind="o3")
    """Spectral density whose C(t) has the noise of mock targets and of `validate`. That noise is the middle of each
    range."""

    lattices: Annotated[list[RangeLattice], Field(max_length=20)] = []
    """Further lattices: noisy copies are on the run's own and on each of these in turn, `copies` of them on each."""

    @property
    def middle(self) -> SyntheticNoise:
        """The noise in the middle of each range, geometric where the range is log-uniform."""
        r1, tau = (float(np.sqrt(low * high)) for low, high in (self.relative, self.tau))
        delta = sum(self.growth) / 2
        fixed = {"covariance": self.covariance, "floor": self.floor, "model": self.model}
        return SyntheticNoise(kind="synthetic", r1=r1, delta=delta, tau=tau, **fixed)


AnyNoise = Annotated[HDF5Noise | CorrelatorNoise | SyntheticNoise | RangeNoise, Field(discriminator="kind")]
