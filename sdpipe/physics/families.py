"""Families of random spectral densities with known answers, on and off the prior, for validation.

Each family is a dataclass of ranges in GeV; ``draw(generator)`` returns one :class:`~sdpipe.physics.spectra.Spectrum`
whose parameters are uniform in them. The prior itself is :class:`~sdpipe.physics.spectra.ChebyshevPrior`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdpipe.physics.spectra import Spectrum, delta_tanh, o3, peaks

Array = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True)
class O3Family:
    """The O(3) model's two-particle density with E_th ~ U[threshold]."""

    threshold: Range

    def draw(self, generator: np.random.Generator) -> Spectrum:
        """Return one draw."""
        return o3(generator.uniform(*self.threshold))


@dataclass(frozen=True)
class ResonanceFamily:
    """A resonance over a smooth continuum, both with the phase space of two particles in a P wave.

        rho = theta(omega - E0) (1 - E0^2/omega^2)^(3/2)
              { A M^2 G^2 / [(omega^2 - M^2)^2 + M^2 G^2] + (H/2) [1 + tanh((omega - omega0) / w)] }

    A relativistic Breit-Wigner peak; the phase space is that of the Gounaris-Sakurai parametrisation
    (Phys. Rev. Lett. 21 (1968) 244). M ~ U[mass], G ~ U[width], A ~ U[0.5, 3], H ~ U[0.3, 1.5],
    omega0 - M ~ U[0, M], w ~ U[0.2, 0.5] M, E0 ~ U from the lowest of ``threshold`` to its highest or 0.8 M.
    """

    mass: Range
    width: Range
    threshold: Range

    def draw(self, generator: np.random.Generator) -> Spectrum:
        """Return one draw."""
        M, G = generator.uniform(*self.mass), generator.uniform(*self.width)
        A, H = generator.uniform(0.5, 3.0), generator.uniform(0.3, 1.5)
        position, rise = M * (1 + generator.uniform(0, 1)), M * generator.uniform(0.2, 0.5)
        low, high = self.threshold
        E0 = generator.uniform(min(low, 0.8 * M), min(high, 0.8 * M))

        def rho(omega: Array) -> Array:
            peak = A * M**2 * G**2 / ((omega**2 - M**2) ** 2 + M**2 * G**2)
            return (1 - (E0 / omega) ** 2) ** 1.5 * (peak + H / 2 * (1 + np.tanh((omega - position) / rise)))

        return Spectrum(continuum=rho, threshold=E0, breaks=(M,))


@dataclass(frozen=True)
class PeaksFamily:
    """A finite-volume spectrum: n delta functions, n uniform in ``count``, M_i ~ U[mass].

    Amplitudes a_i (mass range) / n, a_i ~ U[0, 2], so that the density averages to 1.
    """

    count: tuple[int, int]
    mass: Range

    def draw(self, generator: np.random.Generator) -> Spectrum:
        """Return one draw."""
        n = int(generator.integers(self.count[0], self.count[1] + 1))
        masses = np.sort(generator.uniform(*self.mass, n))
        return peaks(tuple(generator.uniform(0, 2, n) * (self.mass[1] - self.mass[0]) / n), tuple(masses))


@dataclass(frozen=True)
class DeltaTanhFamily:
    """A bound state and a continuum: A delta(omega - M) + theta(omega - omega0) (H/2) [1 + tanh((omega - omega0)/w)].

    M ~ U[mass], A ~ U[0.5, 2], H ~ U[0.5, 2], omega0 - M ~ U[0.2, 1] M, w ~ U[0.05, 0.3] M.
    """

    mass: Range

    def draw(self, generator: np.random.Generator) -> Spectrum:
        """Return one draw."""
        M, A, H = generator.uniform(*self.mass), generator.uniform(0.5, 2), generator.uniform(0.5, 2)
        return delta_tanh(A, M, H, M * (1 + generator.uniform(0.2, 1)), M * generator.uniform(0.05, 0.3))


Family = O3Family | ResonanceFamily | PeaksFamily | DeltaTanhFamily
