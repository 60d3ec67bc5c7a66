"""The validation families of a run: which there are, and their draws as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdpipe.config import problem, rules, sections
from sdpipe.config.schema import Config
from sdpipe.physics import families, rng, samples

Array = NDArray[np.float64]

PRIOR = "chebyshev"
"""The first family: the prior of the central ensemble, which calibrates."""

PRIOR_AUTO = "chebyshev-auto"
"""The second family: the same draws, each sized as real data with ``scale: auto`` are; it calibrates these."""

STREAM = "validation"


def standard(config: Config) -> dict[str, sections.Family]:
    """Return the families other than the prior that are used where the config names none.

    The prior at every other trained Nb and at twice the largest, then every family off the prior.
    """
    central = config.ensembles[config.budget.central].Nb
    others = [Nb for Nb in (*config.spectra.Nb, 2 * max(config.spectra.Nb)) if Nb != central]
    priors = {f"{PRIOR}-Nb{Nb}": sections.ChebyshevFamily(kind="chebyshev", Nb=Nb) for Nb in others}
    return priors | {
        "o3": sections.O3Family(kind="o3"),
        "resonance": sections.ResonanceFamily(kind="resonance"),
        "peaks": sections.PeaksFamily(kind="peaks"),
        "delta_tanh": sections.DeltaTanhFamily(kind="delta_tanh"),
    }


def families_of(config: Config) -> dict[str, sections.Family]:
    """Return every family of a run, first the prior of the central ensemble, once for each way of sizing."""
    central = sections.ChebyshevFamily(kind="chebyshev", Nb=config.ensembles[config.budget.central].Nb)
    given = config.validation.families
    return {PRIOR: central, PRIOR_AUTO: central} | (standard(config) if given is None else given)


def off_prior(config: Config, section: sections.Family) -> families.Family:
    """Return a family with its ranges; where the config leaves them open they follow the prior and the energies.

    Masses begin at 1.5 times the lowest threshold and end halfway to the highest energy, those of ``peaks`` at it;
    widths are 0.2 to 0.7 of the smallest sigma.
    """
    E0, highest = config.spectra.E0, config.energies.max
    width, middle = min(config.smearing.sigma), rules.masses(E0, highest)
    if isinstance(section, sections.O3Family):
        return families.O3Family(section.threshold or E0)
    if isinstance(section, sections.ResonanceFamily):
        return families.ResonanceFamily(section.mass or middle, section.width or (0.2 * width, 0.7 * width), E0)
    if isinstance(section, sections.PeaksFamily):
        return families.PeaksFamily(section.count, section.mass or (middle[0], highest))
    assert isinstance(section, sections.DeltaTanhFamily)
    return families.DeltaTanhFamily(section.mass or middle)


def draw(config: Config, name: str, start: int, stop: int, stream: str = STREAM) -> tuple[Array, Array]:
    """Return clean C (sample, t) and true rho (sample, sigma, E) of draws start..stop-1 of one family."""
    grid, section = problem.observables(config), families_of(config)[name]
    if isinstance(section, sections.ChebyshevFamily):
        made = samples.generate(problem.prior(config, section.Nb), grid, config.seed, start, stop, stream)
        return made.correlator, made.smeared
    family = off_prior(config, section)
    drawn = [family.draw(rng.generator(config.seed, stream, name, i)) for i in range(start, stop)]
    return grid.split(np.stack([s.integrals(grid, config.spectra.omega_max) for s in drawn]))
