"""Kernels of the Laplace-like transform and of the smearing.

All energies ``omega``, ``E``, ``sigma`` are in GeV, times ``t`` and the period ``T`` in lattice
units, the lattice spacing ``a`` in 1/GeV; with a = 1 all are in lattice units. Equation
numbers are those of arXiv:2307.00808.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdpipe.errors import UserError
from sdpipe.physics import units
from sdpipe.physics.smearing import GAUSSIAN, UNDERFLOW, Rescaled, Smearing, Tail
from sdpipe.physics.smearing import gaussian as gaussian


@dataclass(frozen=True)
class Form:
    """What tells one kernel from another: b_T(t, omega) = F(omega) [exp(-a omega t) + P exp(-a omega (T - t))].

    Attributes
    ----------
    formula
        b_T(t, omega) as people write it, in HTML.
    parity
        P, what C(T - t) / C(t) is: 1, -1, or 0 where nothing relates the two.
    power
        C(t) of a dimensionless rho is in GeV^power; F grows as omega^(power - 1).
    factor
        F of omega in GeV and of a T in 1/GeV.
    vanishes
        Whether F(0) = 0.
    """

    formula: str
    parity: int = 1
    power: int = 1
    factor: Callable[[NDArray[np.float64], float], ArrayLike] | None = None
    vanishes: bool = False


def _thermal(omega: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Return omega / (1 - exp(-omega a T)), 1/(a T) at omega = 0."""
    y = np.maximum(length * omega, 1e-300)
    return y / (-np.expm1(-y) * length)


KERNELS = {
    "vector": Form(
        "ω²/(12π²) · [e<sup>−aωt</sup> + e<sup>−aω(T−t)</sup>]",
        power=3,
        factor=lambda omega, _: omega**2 / (12 * np.pi**2),
        vanishes=True,
    ),
    "periodic": Form("e<sup>−aωt</sup> + e<sup>−aω(T−t)</sup>"),
    "periodic-odd": Form("e<sup>−aωt</sup> − e<sup>−aω(T−t)</sup>", parity=-1),
    "exponential": Form("e<sup>−aωt</sup>", parity=0),
    "thermal": Form("ω cosh[aω(t − T/2)]/sinh(aωT/2), with ρ/ω in place of ρ", power=2, factor=_thermal),
}
"""Name -> form. ``vector`` is (32). For ``thermal`` the density is rho(omega)/omega, finite at omega -> 0: C(t) is at
the temperature 1/(aT), as in arXiv:2308.01287."""


@dataclass(frozen=True)
class Kernel:
    """The kernel b_T(t, omega) in C(t) = int_0^inf d omega b_T(t, omega) rho(omega), see :data:`KERNELS`."""

    name: str
    period: int
    spacing: float = 1.0

    @property
    def parity(self) -> int:
        """What C(T - t) / C(t) is, so that data are folded: 1, -1, or 0 where nothing relates the two."""
        return KERNELS[self.name].parity

    @property
    def unit(self) -> str:
        """Unit of energies, see :mod:`sdpipe.physics.units`."""
        return units.energy(self.spacing)

    @property
    def lattice(self) -> str:
        """T, where C(t) has a period, and a, in words.

        >>> Kernel("periodic", 24).lattice, Kernel("exponential", 24, 0.5).lattice
        ('T = 24, lattice units', 'a = 0.5/GeV')
        """
        return ", ".join([f"T = {self.period}"] * bool(self.parity) + [units.spacing(self.spacing)])

    @property
    def units(self) -> str:
        """Units of C(t) for a dimensionless rho."""
        return units.within("GeV" if self.power == 1 else f"GeV^{self.power}", self.unit)

    @property
    def power(self) -> int:
        """The power of the unit of energy that C(t) is in, for a dimensionless rho."""
        return KERNELS[self.name].power

    @property
    def vanishes(self) -> bool:
        """Whether b_T(t, 0) is 0."""
        return KERNELS[self.name].vanishes

    def slowest_decay(self, times: ArrayLike) -> float:
        """Return the smallest exponent d in exp(-a omega d) among ``times`` (lattice units)."""
        times = np.asarray(times)
        return float(min(times.min(), (self.period - times).min()) if self.parity else times.min())

    def __call__(self, t: ArrayLike, omega: ArrayLike, shift: float = 0.0) -> NDArray[np.float64]:
        """Return exp(a omega shift) b_T(t, omega), broadcast over ``t`` and ``omega``.

        The exponents are added first, so that the product is there where either factor is not.
        """
        t, omega = np.asarray(t, float), np.asarray(omega, float)
        value = np.exp(-self.spacing * omega * (t - shift))
        if self.parity:
            value = value + self.parity * np.exp(-self.spacing * omega * (self.period - t - shift))
        factor = KERNELS[self.name].factor
        return value if factor is None else factor(omega, self.spacing * self.period) * value


@dataclass(frozen=True)
class Observables:
    """Every linear functional of rho that a data set holds: C(t) at ``times``, then rho_sigma(E).

    ``columns(omega)`` stacks b_T(t, omega) and f_sigma(omega, E) as functions of omega, so that one
    quadrature serves them all; f is the ``smearing``, G_sigma(E - omega) unless said otherwise.
    """

    kernel: Kernel
    times: tuple[int, ...]
    sigma: tuple[float, ...]
    energies: tuple[float, ...]
    smearing: Smearing = GAUSSIAN

    @property
    def fastest_decay(self) -> float:
        """The largest d in exp(-omega d) among the columns of C(t), in 1/GeV, not counting images."""
        t = np.array(self.times)
        nearest = np.minimum(t, self.kernel.period - t) if self.kernel.parity else t
        return float(self.kernel.spacing * nearest.max())

    def norm_ends(self, alpha: float = 0.0) -> list[float] | None:
        """Return how far above E int d omega e^(alpha a omega) f^2 goes in GeV for each sigma.

        None where it diverges, or the same integral of b_T^2 does.
        """
        growth, tails = alpha * self.kernel.spacing, [self.smearing.tail(s) for s in self.sigma]
        products = [tail.times(tail).times(Tail(-growth)) for tail in tails]
        ends = [tail.length(s) for tail, s in zip(products, self.sigma, strict=True)]
        exist = all(p.converges and growth / 2 * n < UNDERFLOW for p, n in zip(products, ends, strict=True))
        return ends if exist and alpha < 2 * self.kernel.slowest_decay(self.times) else None

    @property
    def bounded(self) -> bool:
        """Whether f falls faster than C(t) at its earliest time, so that rho >= 0 bounds rho_sigma(E)."""
        slowest = self.kernel.spacing * self.kernel.slowest_decay(self.times)
        return all(self.smearing.tail(s).rate > slowest for s in self.sigma)

    @property
    def units(self) -> str:
        """Units of rho_sigma(E) for a dimensionless rho."""
        return units.within(self.smearing.units, self.kernel.unit)

    @property
    def count(self) -> int:
        """Number of columns: n_t + n_sigma n_E."""
        return len(self.times) + len(self.sigma) * len(self.energies)

    @property
    def times_only(self) -> Observables:
        """The same times with one sigma and energy only, for whoever wants C(t) alone."""
        return Observables(self.kernel, self.times, self.sigma[:1], self.energies[:1], self.smearing)

    def in_units(self, unit: float) -> Observables:
        """Return the same observables with ``unit`` GeV for the unit of energy.

        rho_sigma(E) of a density rho(omega / unit) stays what it is; its C(t) in GeV is unit^power times as large, with
        the ``power`` of the kernel. Raises UserError for a smearing that is another function in another unit, unless
        unit is 1.

        >>> grid = Observables(Kernel("vector", 32, spacing=0.5), (1, 2), (0.4,), (1.0, 2.0)).in_units(0.2)
        >>> grid.kernel.spacing, grid.sigma, grid.energies
        (0.1, (2.0,), (5.0, 10.0))
        """
        if unit != 1 and not self.smearing.scaleless:
            raise UserError(f"smearing {self.smearing.name} is for energies in GeV; needed: spectra.unit 1")
        kernel = Kernel(self.kernel.name, self.kernel.period, self.kernel.spacing * unit)
        sigma, energies = (tuple(x / unit for x in values) for values in (self.sigma, self.energies))
        return Observables(kernel, self.times, sigma, energies, self.smearing)

    @property
    def in_lattice_units(self) -> Observables:
        """The same observables with 1/a for the unit of energy: equal for data in GeV, in MeV and in lattice units.

        a sigma and a E are rounded to 12 digits, so that no rounding of a tells these data apart. The integrals
        of rho with a smearing stay what they are; C(t) is a^power times as large, with the ``power`` of the kernel.

        >>> grids = [Observables(Kernel("vector", 8, 0.5 / c), (1, 2), (0.3 * c,), (0.7 * c,)) for c in (1.0, 1000.0)]
        >>> grids[0].in_lattice_units == grids[1].in_lattice_units
        True
        """
        a = self.kernel.spacing
        if a == 1:
            return self
        smearing = self.smearing if self.smearing.scaleless else Rescaled(self.smearing, 1 / a)
        sigma, energies = (tuple(to_digits(a * x) for x in values) for values in (self.sigma, self.energies))
        return Observables(Kernel(self.kernel.name, self.kernel.period), self.times, sigma, energies, smearing)

    def columns(self, omega: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the integration kernels, shape (omega, n_t + n_sigma n_E)."""
        b = self.kernel(np.array(self.times), omega[:, None])
        smear = self.smearing(np.array(self.energies), omega[:, None, None], np.array(self.sigma)[:, None])
        return np.concatenate([b, smear.reshape(omega.size, -1)], axis=1)

    def split(self, integrals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Split integrals (..., column) into C (..., t) and rho_sigma (..., sigma, E)."""
        n = len(self.times)
        shape = (*integrals.shape[:-1], len(self.sigma), len(self.energies))
        return integrals[..., :n], integrals[..., n:].reshape(shape)


def to_digits(x: float) -> float:
    """Return x to 12 digits.

    >>> to_digits(0.1 + 0.2)
    0.3
    """
    return float(f"{x:.12g}")
