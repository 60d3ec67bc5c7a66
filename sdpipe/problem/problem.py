"""What tasks compute with, made of the config once per command."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sdpipe.arrays import Array
from sdpipe.config import densities, sources
from sdpipe.config.schema import Config
from sdpipe.learn.audience import Audience
from sdpipe.physics import rng, samples
from sdpipe.physics.covariances import Covariances
from sdpipe.physics.families import Family
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.prior import Mixture
from sdpipe.physics.spectra import ChebyshevPrior

if TYPE_CHECKING:
    from sdpipe.estimators.posterior import Posterior
    from sdpipe.estimators.prior_moments import PriorMoments

CANDIDATES = 16
"""Draws of the prior of which the nearest to the data is kept, where draws are to be like these."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a task computes with; small, and the same in every task of a command."""

    config: Config
    noise: Noise

    @cached_property
    def observables(self) -> Observables:
        """C(t) and rho_sigma(E) on the grids of the run."""
        return self.config.observables

    def prior(self, Nb: int) -> Mixture:
        """Return the prior at basis size ``Nb``, which training sets are drawn from."""
        return self.config.spectra.prior(Nb)

    @cached_property
    def moments(self) -> list[PriorMoments]:
        """What the closed-form posterior knows before the data on the lattice of the run, and on each further one."""
        return [prior_moments(self.config, grid) for grid in self.config.lattices]

    @cached_property
    def posterior(self) -> Posterior:
        """The closed-form posterior with the noise of the run."""
        from sdpipe.estimators.posterior import Posterior  # and SciPy, which a finished run does without

        return Posterior.for_noise(self.moments[0], self.noise)

    @cached_property
    def audience(self) -> Audience:
        """What networks and estimators have in common, without statistics over draws of the prior."""
        config, grid = self.config, self.observables
        kind = {"kind": config.smearing.kind, **config.smearing.parameters}
        return Audience(
            observables=grid,
            noise=replace(self.noise, source="networks", flags=()),
            prior=config.spectra.chebyshev(max(config.spectra.Nb)),
            threshold=config.spectra.E0[0],
            inputs=config.training.inputs if _in_one_unit(config) else "local",
            head=config.training.head == "scale",
            statistics=None,
            smearing=kind,
            options=options(config),
        )

    @cached_property
    def covariances(self) -> list[Covariances]:
        """For each of these lattices, the covariances of its training copies, where they are drawn anew; else none."""
        noise = self.config.noise
        if not isinstance(noise, sources.RangeNoise):
            return []
        prior = self.config.spectra.chebyshev(max(self.config.spectra.Nb))
        ranges = noise.relative, noise.growth, noise.tau
        return [Covariances(*ranges, prior, grid.times_only, noise.floor) for grid in self.config.lattices]

    def draw(self, family: str, start: int, stop: int, stream: str = "validation") -> tuple[Array, Array]:
        """Return clean C (sample, t) and true rho (sample, sigma, E) of draws start..stop-1 of a validation family."""
        drawn: Mixture | ChebyshevPrior | Family = families(self.config)[family].build(self.config.ranges)
        seed, of_prior = self.config.seed, family in self.config.priors.values()
        if of_prior and of_one_correlator(self.config):
            return self._like_the_data(drawn, start, stop, stream)
        stream = stream if of_prior else f"{stream} {family}"
        if isinstance(drawn, Mixture | ChebyshevPrior):
            drawn_samples = samples.generate(drawn, self.observables, seed, start, stop, stream)
            return drawn_samples.correlator, drawn_samples.smeared
        spectra = [drawn.draw(rng.generator(seed, stream, family, i)) for i in range(start, stop)]
        grid, end = self.observables, self.config.spectra.omega_max
        return grid.split(np.stack([s.integrals(grid, end) for s in spectra]))

    def _like_the_data(self, prior: Mixture, start: int, stop: int, stream: str) -> tuple[Array, Array]:
        """Return draws start..stop-1, each of ``CANDIDATES`` of the prior that whose C(t) is most like the data.

        The noise of draws is that of the data at t_ref: where C(t) fell more slowly they would be known better than any
        lattice knows it, and what calibrates on them would say nothing of the data (:meth:`Noise.unlike`).
        """
        first, last = CANDIDATES * start, CANDIDATES * stop
        candidates = samples.generate(prior, self.observables, self.config.seed, first, last, stream)
        unlike = self.noise.unlike(candidates.correlator).reshape(-1, CANDIDATES)
        nearest = CANDIDATES * np.arange(stop - start) + unlike.argmin(axis=1)
        return candidates.correlator[nearest], candidates.smeared[nearest]


def _in_one_unit(config: Config) -> bool:
    """Return whether networks are trained in a unit of energy or, without any, spectra end at a known energy."""
    origin = config.origin
    return origin.trains or (not origin.served and config.spectra.omega_max is not None)


def of_one_correlator(config: Config) -> bool:
    """Return whether the noise is that of the one correlator that is reconstructed, without networks trained for it."""
    noise, targets = config.noise, config.targets.values()
    if _in_one_unit(config) or not isinstance(noise, sources.CorrelatorNoise):
        return False
    return all(isinstance(t, sources.CorrelatorTarget) and t.source == noise.source for t in targets)


def options(config: Config) -> dict[str, Any]:
    """Return what estimators leave open and the config says, by their names."""
    from sdpipe.estimators.hlt import Choice  # and SciPy, which a finished run does without

    hlt = config.hlt
    return {"hlt": Choice(hlt.rule if hlt.lambda_ is None else hlt.lambda_, hlt.alpha, hlt.E0)}


def prior_moments(config: Config, grid: Observables | None = None) -> PriorMoments:
    """Return what the closed-form posterior knows before the data, at the largest basis size.

    ``grid`` are kernel, times, sigma and energies; by default those of the run.
    """
    from sdpipe.estimators.prior_moments import PriorMoments

    prior = config.spectra.chebyshev(max(config.spectra.Nb))
    return PriorMoments.from_prior(prior, grid or config.observables, floor=config.noise.floor)


def families(config: Config) -> dict[str, densities.FamilySection]:
    """Return every validation family of a run, first the prior of the central ensemble, once for each way of sizing.

    Where the config names none, the others are the Chebyshev prior at every trained Nb and at twice the largest, then
    every family off the prior, but for densities that change their sign where rho >= 0 is taken for granted.
    """
    central = config.central_Nb
    prior = {name: densities.MixtureFamilySection(kind="mixture", Nb=central) for name in config.priors.values()}
    if config.validation.families is not None:
        return prior | config.validation.families
    chebyshev = {"chebyshev": central} | {
        f"chebyshev-Nb{Nb}": Nb for Nb in (*config.spectra.Nb, 2 * max(config.spectra.Nb)) if Nb != central
    }
    of_chebyshev = {
        n: densities.ChebyshevFamilySection(kind="chebyshev", Nb=Nb) for n, Nb in chebyshev.items() if n not in prior
    }
    off_prior: dict[str, densities.FamilySection] = {
        "o3": densities.O3FamilySection(kind="o3"),
        "resonance": densities.ResonanceFamilySection(kind="resonance"),
        "peaks": densities.PeaksFamilySection(kind="peaks"),
        "delta_tanh": densities.DeltaTanhFamilySection(kind="delta_tanh"),
        "finite_volume": densities.FiniteVolumeFamilySection(kind="finite_volume"),
        "sign_changing": densities.SignChangingFamilySection(kind="sign_changing"),
        "few_states": densities.FewStatesFamilySection(kind="few_states"),
    }
    if config.spectra.positive:
        del off_prior["sign_changing"]
    return prior | of_chebyshev | off_prior
