"""Families of random spectral densities with known answers, on and off the prior, for validation.

Each family is a dataclass of ranges in GeV; ``draw(generator)`` returns one :class:`~sdpipe.physics.spectra.Spectrum`
whose parameters are uniform in them. The prior itself is :class:`~sdpipe.physics.spectra.ChebyshevPrior`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdpipe.arrays import Array
from sdpipe.physics.prior import HIGHEST
from sdpipe.physics.spectra import Spectrum, delta_tanh, o3, peaks

Span = tuple[float, float]


def breit_wigner(omega: Array, M: float, G: float) -> Array:
    """Return M^2 G^2 / [(omega^2 - M^2)^2 + M^2 G^2], which is 1 at its peak."""
    return M**2 * G**2 / ((omega**2 - M**2) ** 2 + M**2 * G**2)


@dataclass(frozen=True)
class O3Family:
    """The O(3) model's two-particle density with E_th ~ U[threshold]."""

    threshold: Span

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

    mass: Span
    width: Span
    threshold: Span

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
    mass: Span

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

    mass: Span

    def draw(self, generator: np.random.Generator) -> Spectrum:
        """Return one draw."""
        M, A, H = generator.uniform(*self.mass), generator.uniform(0.5, 2), generator.uniform(0.5, 2)
        return delta_tanh(A, M, H, M * (1 + generator.uniform(0.2, 1)), M * generator.uniform(0.05, 0.3))


@dataclass(frozen=True)
class FiniteVolumeFamily:
    """The free two-particle levels of a box in 1 + 1 dimensions, with the weights of the O(3) model.

        rho = sum_{n>=1} rho_O3(E_n) (dE/dn) delta(omega - E_n),    E_n = 2 sqrt(m^2 + (2 pi n / L)^2)

    dE/dn = 4 (2 pi / L)^2 n / E_n is the local gap, so that rho -> rho_O3 as L -> infinity. E_th = 2m ~ U[threshold],
    m L ~ U[size]; levels end at 25 GeV or ten times the highest threshold, whichever is higher.
    """

    threshold: Span
    size: Span = (4, 12)

    def draw(self, generator: np.random.Generator) -> Spectrum:
        """Return one draw."""
        E_th, mL = generator.uniform(*self.threshold), generator.uniform(*self.size)
        unit, highest = np.pi * E_th / mL, max(HIGHEST, 10 * self.threshold[1])
        n = np.arange(1, int(np.sqrt((highest / 2) ** 2 - (E_th / 2) ** 2) / unit) + 1)
        E = np.sqrt(E_th**2 + (2 * unit * n) ** 2)
        density = o3(E_th).continuum
        assert density is not None
        return peaks(tuple(density(E) * 4 * unit**2 * n / E), tuple(E))


@dataclass(frozen=True)
class SignChangingFamily:
    """A difference of two relativistic Breit-Wigner peaks, as where two operators differ at source and sink.

        rho = theta(omega - E0) (1 - E0^2/omega^2)^(3/2) [A_1 B_1(omega) - A_2 B_2(omega)]
        B_i = M_i^2 G_i^2 / [(omega^2 - M_i^2)^2 + M_i^2 G_i^2]

    M_1 ~ U[mass], M_2 - M_1 ~ U[0.3, 1] M_1, G_i ~ U[width], A_1 ~ U[0.5, 3], A_2 ~ U[0.3, 1] A_1,
    E0 ~ U from the lowest of ``threshold`` to its highest or 0.8 M_1.
    """

    mass: Span
    width: Span
    threshold: Span

    def draw(self, generator: np.random.Generator) -> Spectrum:
        """Return one draw."""
        M1, A1 = generator.uniform(*self.mass), generator.uniform(0.5, 3)
        M2, A2 = M1 * (1 + generator.uniform(0.3, 1)), A1 * generator.uniform(0.3, 1)
        G1, G2 = generator.uniform(*self.width, 2)
        low, high = self.threshold
        E0 = generator.uniform(min(low, 0.8 * M1), min(high, 0.8 * M1))

        def rho(omega: Array) -> Array:
            difference = A1 * breit_wigner(omega, M1, G1) - A2 * breit_wigner(omega, M2, G2)
            return (1 - (E0 / omega) ** 2) ** 1.5 * difference

        return Spectrum(continuum=rho, threshold=E0, breaks=(M1, M2))


@dataclass(frozen=True)
class FewStatesFamily:
    """A few bound states and the continuum of a fermion loop, which opens late: charmonium below open charm.

        rho = sum_{i=1}^n A_i delta(omega - M_i) + H theta(omega - E_c) v (3 - v^2) / 2,    v = sqrt(1 - E_c^2/omega^2)

    n = 2, 3 or 4, M_i ~ U[mass], A_i ~ U[0.2, 1.5], H ~ U[0.5, 2], E_c above the highest M_i by U[0.2, 1] times that.
    """

    mass: Span

    def draw(self, generator: np.random.Generator) -> Spectrum:
        """Return one draw."""
        n = int(generator.integers(2, 5))
        masses, amplitudes = np.sort(generator.uniform(*self.mass, n)), generator.uniform(0.2, 1.5, n)
        H, E_c = generator.uniform(0.5, 2), masses[-1] * (1 + generator.uniform(0.2, 1))

        def rho(omega: Array) -> Array:
            v = (1 - (E_c / omega) ** 2) ** 0.5
            return H * v * (3 - v**2) / 2

        return Spectrum(tuple(zip(amplitudes, masses, strict=True)), rho, E_c)


Family = (
    O3Family
    | ResonanceFamily
    | PeaksFamily
    | DeltaTanhFamily
    | FiniteVolumeFamily
    | SignChangingFamily
    | FewStatesFamily
)
