"""Spectral densities that a config names: of mock targets, and families of them for validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sdpipe.config.section import Energy, Range, Section, ascending
from sdpipe.physics import families, spectra
from sdpipe.physics.prior import Mixture

Weight = Annotated[float, Field(ge=-1e12, le=1e12)]
"""Of a delta function or a continuum."""

PeakCount = Annotated[int, Field(ge=1, le=10_000)]

BoxSize = Annotated[float, Field(ge=0.5, le=100)]


class O3Mock(Section):
    """The two-particle density of the O(3) model, arXiv:2307.00808 eq. (63)."""

    kind: Literal["o3"]
    """This spectral density."""
    threshold: Energy = 1.0
    """Threshold in GeV."""

    def spectrum(self) -> spectra.Spectrum:
        return spectra.o3(self.threshold)


class DeltaTanhMock(Section):
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

    def spectrum(self) -> spectra.Spectrum:
        return spectra.delta_tanh(self.amplitude, self.mass, self.height, self.position, self.width)


class PeaksMock(Section):
    """Delta functions, as in a finite volume."""

    kind: Literal["peaks"]
    """This spectral density."""
    amplitudes: Annotated[list[Weight], Field(min_length=1)]
    """Weight of each peak, in GeV."""
    masses: Annotated[list[Energy], Field(min_length=1)]
    """Position of each peak in GeV; as many as amplitudes."""

    @model_validator(mode="after")
    def _paired(self) -> PeaksMock:
        if len(self.amplitudes) != len(self.masses):
            raise ValueError(f"amplitudes: {len(self.amplitudes)} values, but masses has {len(self.masses)}")
        return self

    def spectrum(self) -> spectra.Spectrum:
        return spectra.peaks(tuple(self.amplitudes), tuple(self.masses))


class ChebyshevMock(Section):
    """Draw number ``sample`` of the prior, from a stream that no training set uses."""

    kind: Literal["chebyshev"]
    """This spectral density."""
    Nb: Annotated[int, Field(ge=2, le=4096)]
    """Size of its basis."""
    sample: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Which draw."""


Mock = O3Mock | DeltaTanhMock | PeaksMock | ChebyshevMock


@dataclass(frozen=True)
class Ranges:
    """What families take from the rest of a config, where their own keys leave it open; energies in GeV.

    ``thresholds`` are those of the prior. ``masses`` go from 1.5 times the lowest threshold halfway to the highest
    energy: a family with a peak, or a continuum that rises, has one at up to twice the mass. ``highest`` is the
    highest energy, ``widths`` 0.2 to 0.7 of the smallest sigma. ``prior`` returns that of the run at a basis size Nb.
    """

    thresholds: tuple[float, float]
    masses: tuple[float, float]
    highest: float
    widths: tuple[float, float]
    prior: Callable[[int], Mixture]


class MixtureFamilySection(Section):
    """Draws of the prior, all components in their shares."""

    kind: Literal["mixture"]
    """This family."""
    Nb: Annotated[int, Field(ge=2, le=4096)]
    """Size of the basis of its Chebyshev component."""

    def build(self, ranges: Ranges) -> Mixture:
        return ranges.prior(self.Nb)


class ChebyshevFamilySection(Section):
    """Draws of the prior of arXiv:2307.00808 at some basis size."""

    kind: Literal["chebyshev"]
    """This family."""
    Nb: Annotated[int, Field(ge=2, le=4096)]
    """Size of its basis."""

    def build(self, ranges: Ranges) -> spectra.ChebyshevPrior:
        return ranges.prior(self.Nb).prior


class O3FamilySection(Section):
    """The two-particle density of the O(3) model."""

    kind: Literal["o3"]
    """This family."""
    threshold: Range | None = None
    """Range of the threshold in GeV; null is `spectra.E0`."""

    def build(self, ranges: Ranges) -> families.O3Family:
        return families.O3Family(self.threshold or ranges.thresholds)


class ResonanceFamilySection(Section):
    """A resonance over a smooth continuum."""

    kind: Literal["resonance"]
    """This family."""
    mass: Range | None = None
    """Range of the mass in GeV; null follows `spectra.E0` and `energies`."""
    width: Range | None = None
    """Range of the width in GeV; null follows `smearing.sigma`."""

    def build(self, ranges: Ranges) -> families.ResonanceFamily:
        width = self.width or ranges.widths
        return families.ResonanceFamily(self.mass or ranges.masses, width, ranges.thresholds)


class PeaksFamilySection(Section):
    """Delta functions, as in a finite volume."""

    kind: Literal["peaks"]
    """This family."""
    count: Annotated[tuple[PeakCount, PeakCount], AfterValidator(ascending)] = (5, 50)
    """Range of their number."""
    mass: Range | None = None
    """Range of their positions in GeV; null follows `spectra.E0` and `energies`."""

    def build(self, ranges: Ranges) -> families.PeaksFamily:
        return families.PeaksFamily(self.count, self.mass or (ranges.masses[0], ranges.highest))


class DeltaTanhFamilySection(Section):
    """A delta function below a smooth step."""

    kind: Literal["delta_tanh"]
    """This family."""
    mass: Range | None = None
    """Range of the position of the delta function in GeV; null follows `spectra.E0` and `energies`."""

    def build(self, ranges: Ranges) -> families.DeltaTanhFamily:
        return families.DeltaTanhFamily(self.mass or ranges.masses)


class FiniteVolumeFamilySection(Section):
    """Levels of two free particles in a box, with the weights of the O(3) model."""

    kind: Literal["finite_volume"]
    """This family."""
    threshold: Range | None = None
    """Range of the threshold 2m in GeV; null is `spectra.E0`."""
    size: Annotated[tuple[BoxSize, BoxSize], AfterValidator(ascending)] = (4, 12)
    """Range of m L, the size of the box in units of 1/m."""

    def build(self, ranges: Ranges) -> families.FiniteVolumeFamily:
        return families.FiniteVolumeFamily(self.threshold or ranges.thresholds, self.size)


class SignChangingFamilySection(Section):
    """A difference of two relativistic Breit-Wigner peaks."""

    kind: Literal["sign_changing"]
    """This family."""
    mass: Range | None = None
    """Range of the lower mass in GeV; null follows `spectra.E0` and `energies`."""
    width: Range | None = None
    """Range of both widths in GeV; null follows `smearing.sigma`."""

    def build(self, ranges: Ranges) -> families.SignChangingFamily:
        width = self.width or ranges.widths
        return families.SignChangingFamily(self.mass or ranges.masses, width, ranges.thresholds)


class FewStatesFamilySection(Section):
    """Two to four delta functions and a continuum that opens late."""

    kind: Literal["few_states"]
    """This family."""
    mass: Range | None = None
    """Range of the positions of the delta functions in GeV; null follows `spectra.E0` and `energies`."""

    def build(self, ranges: Ranges) -> families.FewStatesFamily:
        return families.FewStatesFamily(self.mass or ranges.masses)


FamilySection = Annotated[
    MixtureFamilySection
    | ChebyshevFamilySection
    | O3FamilySection
    | ResonanceFamilySection
    | PeaksFamilySection
    | DeltaTanhFamilySection
    | FiniteVolumeFamilySection
    | SignChangingFamilySection
    | FewStatesFamilySection,
    Field(discriminator="kind"),
]
"""Families of validation. ``build(ranges)`` returns what draws are made from; see :class:`Ranges`."""
