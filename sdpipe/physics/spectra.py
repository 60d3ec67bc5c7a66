"""Spectral densities: the Chebyshev prior to train on, and targets with a known answer.

Energies in GeV, rho dimensionless. Equation numbers are those of arXiv:2307.00808.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.physics import rng
from sdpipe.physics.kernels import Observables
from sdpipe.physics.quadrature import ThresholdQuadrature, cutoff, integrate

RNG_BLOCK = 256
"""Samples drawn from one random stream; every Zarr chunk is a multiple of it."""


def chebyshev_basis(size: int) -> Callable[[Array], Array]:
    """Return omega (n,) -> T_n(x(omega)) (size, n), with x = 1 - 2 exp(-omega / GeV) = cos(theta).  (38)"""
    order = np.arange(size)[:, None]

    def basis(omega: Array) -> Array:
        theta = 2 * np.arcsin(np.exp(-np.asarray(omega, float) / 2))
        return np.cos(order * theta)

    return basis


@dataclass(frozen=True)
class ChebyshevPrior:
    """Random spectral densities on a Chebyshev basis.

        rho(omega) = theta(omega - E0) sum_{n=0}^{Nb-1} c_n [T_n(x(omega)) - T_n(x(E0))]      (38)
        c_0 = r_0,  c_n = r_n / n^(1 + epsilon),  r_n ~ U[-1, 1],  E0 ~ U[E0_min, E0_max]     (39)

    rho is continuous, zero at E0, of either sign, and zero above ``omega_max`` where that is given. With ``positive``
    it is half the sum of two squares of such series, each of m = (Nb - 1) // 2 modes without a constant,

        rho(omega) = theta(omega - E0) (q_1^2 + q_2^2) / 2,    q_i = sum_{n=1}^m c_n^(i) [T_n(x(omega)) - T_n(x(E0))],

    which is a series of Nb modes again, zero at E0 and nowhere negative; every polynomial that is not negative
    on the real line is a sum of two squares. The factor 1/2 gives it the size that (38) has: its mean is the variance
    of (38) at that many modes, and its mean square is within a fifth of that of (38).

    Everything here is in units of ``unit`` GeV: E0, omega_max and the variable x = 1 - 2 exp(-omega). Where integrals
    over observables in GeV are asked for, these are brought to that unit (:func:`~sdpipe.physics.samples.generate`,
    :class:`~sdpipe.estimators.prior_moments.PriorMoments`).
    """

    Nb: int
    E0: tuple[float, float] = (0.2, 1.3)
    epsilon: float = 1e-7
    omega_max: float | None = None
    positive: bool = False
    unit: float = 1.0

    def __post_init__(self) -> None:
        if self.positive and self.Nb < 3:
            raise UserError(f"a positive prior needs a basis of 3 or more; Nb is {self.Nb}", key="Nb")

    def draw(self, seed: int, stream: str, start: int, stop: int) -> tuple[Array, Array]:
        """Return coefficients c (sample, Nb) and thresholds E0 (sample,) of samples start..stop-1.

        Sample i is a function of (seed, stream, Nb, i) alone: sets of different size are nested.
        """
        first, last = start // RNG_BLOCK, -(-stop // RNG_BLOCK)
        r, E0 = np.empty(((last - first) * RNG_BLOCK, self.Nb)), np.empty((last - first) * RNG_BLOCK)
        for i, block in enumerate(range(first, last)):
            g = rng.generator(seed, stream, self.Nb, block)
            rows = slice(i * RNG_BLOCK, (i + 1) * RNG_BLOCK)
            g.random(out=r[rows])
            E0[rows] = g.uniform(*self.E0, RNG_BLOCK)
        wanted = slice(start - first * RNG_BLOCK, stop - first * RNG_BLOCK)
        r *= 2
        r -= 1
        decay = np.arange(1, self.Nb) ** -(1 + self.epsilon)
        if self.positive:
            for low in range(0, len(r), RNG_BLOCK):
                block = slice(low, low + RNG_BLOCK)
                r[block] = self._squares(r[block, 1:], decay, E0[block])
        else:
            r[:, 1:] *= decay
        return r[wanted], E0[wanted]

    def _squares(self, r: Array, decay: Array, E0: Array) -> Array:
        """Return the coefficients (sample, Nb) of (q_1^2 + q_2^2) / 2, from its values at the Nb zeros of T_Nb."""
        m = (self.Nb - 1) // 2
        T = np.cos(np.arange(self.Nb)[:, None] * np.pi * (np.arange(self.Nb) + 0.5) / self.Nb)
        at_E0 = chebyshev_basis(m + 1)(E0)[1:]
        q1, q2 = (
            c @ T[1 : m + 1] - np.einsum("sn,ns->s", c, at_E0)[:, None]
            for c in (r[:, :m] * decay[:m], r[:, m : 2 * m] * decay[:m])
        )
        c = (q1**2 + q2**2) / 2 @ T.T * (2 / self.Nb)
        c[:, 0] /= 2
        return c

    def rho(self, omega: Array, c: Array, E0: Array) -> Array:
        """Return rho(omega), shape (sample, omega)."""
        basis = chebyshev_basis(self.Nb)
        value = c @ basis(omega) - np.einsum("sn,ns->s", c, basis(E0))[:, None]
        inside = omega[None, :] >= E0[:, None]
        if self.omega_max is not None:
            inside &= omega[None, :] <= self.omega_max
        return np.where(inside, value, 0.0)

    def quadrature(self, observables: Observables) -> ThresholdQuadrature:
        """Return the rule that integrates draws of this prior against ``observables``."""
        return ThresholdQuadrature(chebyshev_basis(self.Nb), observables, self.E0, self.omega_max)


@dataclass(frozen=True)
class Spectrum:
    """A known rho: delta functions sum_i A_i delta(omega - M_i) and a continuum above ``threshold``."""

    peaks: tuple[tuple[float, float], ...] = ()
    continuum: Callable[[Array], Array] | None = None
    threshold: float = 0.0
    breaks: tuple[float, ...] = field(default=())

    def integrals(self, observables: Observables, omega_max: float | None = None) -> Array:
        """Return int d omega rho(omega) K_j(omega) for every column j of ``observables``."""
        start = max([self.threshold, *(M for _, M in self.peaks)])
        if omega_max is None:
            high = np.inf if self.continuum is None else cutoff(observables, start)
        else:
            high = omega_max
        total = np.zeros(observables.count)
        inside = [(A, M) for A, M in self.peaks if high >= M]
        if inside:
            A, M = np.array(inside).T
            total += A @ observables.columns(M)
        if self.continuum is not None and self.threshold < high:
            total += integrate(self.continuum, observables, self.threshold, high, self.breaks)
        return total


def o3(threshold: float = 1.0) -> Spectrum:
    """Return the two-particle spectral density of the O(3) non-linear sigma model.  (63)

    rho = theta(omega - E_th) (3 pi^3 / 4 theta^2) (theta^2 + pi^2) / (theta^2 + 4 pi^2) tanh^3(theta / 2),
    theta = 2 arcosh(omega / E_th); E_th in GeV.
    """

    def rho(omega: Array) -> Array:
        theta = 2 * np.arccosh(np.maximum(omega / threshold, 1.0))
        safe = np.maximum(theta, 1e-150)
        return (
            (3 * np.pi**3 / 4)
            * (np.tanh(safe / 2) / safe) ** 2
            * np.tanh(safe / 2)
            * (safe**2 + np.pi**2)
            / (safe**2 + 4 * np.pi**2)
        )

    return Spectrum(continuum=rho, threshold=threshold)


def delta_tanh(
    amplitude: float = 1.5,
    mass: float = 0.8,
    height: float = 1.4730869020785,
    position: float = 1.2744910285,
    width: float = 1 / 17.08883512531,
) -> Spectrum:
    """Return A delta(omega - M) + theta(omega - omega0) H (1 + tanh((omega - omega0) / w)) / 2."""

    def rho(omega: Array) -> Array:
        return height / 2 * (1 + np.tanh((omega - position) / width))

    return Spectrum(((amplitude, mass),), rho, position, breaks=(position + 20 * width,))


def peaks(amplitudes: tuple[float, ...], masses: tuple[float, ...]) -> Spectrum:
    """Return sum_i A_i delta(omega - M_i): a finite-volume spectrum."""
    return Spectrum(tuple(zip(amplitudes, masses, strict=True)))
