"""Smearing functions that a config names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from sdpipe.config.section import Energy, Name, Section, distinct
from sdpipe.physics import smearing
from sdpipe.physics.smearing import Step


class SmearingSection(Section):
    kind: str
    """Which smearing."""
    sigma: Annotated[list[Energy], Field(min_length=1, max_length=100), AfterValidator(distinct)]
    """Widths in GeV, none below 1e-3 of the largest or 1e-4 of `energies.max`; networks are trained for each or all."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What the function has beside its kind and widths."""
        return self.model_dump(exclude={"kind", "sigma"})

    @property
    def function(self) -> smearing.Smearing:
        """f_sigma(omega, E)."""
        return smearing.from_kind(self.kind, **self.parameters)


class GaussianSection(SmearingSection):
    """The Gaussian G_sigma(E - w), normalised on the whole line."""

    kind: Literal["gaussian"] = "gaussian"
    """This smearing."""


class HalfNormSection(SmearingSection):
    """The Gaussian normalised on w > 0."""

    kind: Literal["halfnorm"]
    """This smearing."""


class CauchySection(SmearingSection):
    """Real or imaginary part of 1/(w - E - i sigma), of which amplitudes are made."""

    kind: Literal["cauchy"]
    """This smearing."""
    part: Literal["re", "im"] = "im"
    """(w - E)/[(w - E)^2 + sigma^2], which needs a `spectra.omega_max`; or sigma/[(w - E)^2 + sigma^2]."""


class SigmoidSection(SmearingSection):
    """(E - w)^power Theta_sigma(E - w), of which inclusive semileptonic decays are made."""

    kind: Literal["sigmoid"]
    """This smearing."""
    power: Annotated[int, Field(ge=0, le=10)] = 0
    """Power of E - w."""
    step: Step = "sigmoid"
    """Theta_sigma(x): 1/(1 + exp(-x/sigma)) or [1 + erf(x/sigma)]/2."""


class TauSection(SmearingSection):
    """Inclusive hadronic decays of the tau, x = w/E: (1 - x^2)^2 [1 + 2 x^2 for T] Theta_sigma(E - w) / x^power."""

    kind: Literal["tau"]
    """This smearing."""
    part: Literal["L", "T"] = "T"
    """Longitudinal or transverse."""
    power: Annotated[int, Field(ge=-2, le=2)] = 1
    """Power of 1/x: 1 where rho has the factor w^2 of the correlator, -1 where kernel `vector` has it."""
    step: Step = "sigmoid"
    """Theta_sigma(x): 1/(1 + exp(-x/sigma)) or [1 + erf(x/sigma)]/2."""


class SinhSection(SmearingSection):
    """2/(pi sigma)^2 (w - E)/sinh[(w - E)/sigma], for rho/w at w -> 0 with kernel `thermal`."""

    kind: Literal["sinh"]
    """This smearing."""


def _registered(name: str) -> str:
    if name not in smearing.OWN:
        known = ", ".join(smearing.OWN) or "none, put it into sdpipe.physics.smearing.OWN"
        raise ValueError(f"there is no smearing {name} of your own; allowed: {known}")
    return name


class OwnSection(SmearingSection):
    """A function of your own, which Python has put into `sdpipe.physics.smearing.OWN`."""

    kind: Literal["own"]
    """This smearing."""
    name: Annotated[Name, AfterValidator(_registered)]
    """Its name there; where the function changes, so must the name."""


AnySmearing = GaussianSection | HalfNormSection | CauchySection | SigmoidSection | TauSection | SinhSection | OwnSection
