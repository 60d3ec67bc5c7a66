"""The prior to train on: a mixture of random spectral densities whose integrals are exact.

The Chebyshev component is that of arXiv:2307.00808. Every other component is a :class:`Comb`, a sum of delta functions
on fixed masses, so that C(t) and rho_sigma(E) are one matrix product. Energies in GeV, rho dimensionless;
U[a, b] is the uniform distribution, LU[a, b] that of a variable whose logarithm is uniform.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import ClassVar, Protocol

import numpy as np
from numpy.polynomial.chebyshev import chebval, chebvander
from numpy.typing import ArrayLike, NDArray

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.physics import rng
from sdpipe.physics.kernels import Observables
from sdpipe.physics.quadrature import ThresholdQuadrature
from sdpipe.physics.spectra import RNG_BLOCK, ChebyshevPrior

BATCH = 8 * RNG_BLOCK
"""Chebyshev samples integrated at once: bounds the memory, and fixes the rounding whatever the block they are in."""


class Component(Protocol):
    """A component of the mixture: sample number i is a function of (seed, stream, name, i) alone."""

    name: ClassVar[str]

    def integrals(self, observables: Observables, seed: int, stream: str, start: int, stop: int) -> tuple[Array, Array]:
        """Return int d omega rho(omega) K_j(omega) (sample, column) and E0 (sample,) of samples start..stop-1."""
        ...


def _in_blocks(block: Callable[[int], tuple[Array, Array]], size: int, start: int, stop: int) -> tuple[Array, Array]:
    """Return integrals and thresholds of samples start..stop-1 out of whole blocks, each from its first sample on."""
    first = start // size * size
    integrals, thresholds = zip(*(block(low) for low in range(first, stop, size)), strict=True)
    wanted = slice(start - first, stop - first)
    return np.concatenate(integrals)[wanted], np.concatenate(thresholds)[wanted]


@lru_cache(maxsize=8)
def _quadrature(prior: ChebyshevPrior, observables: Observables) -> ThresholdQuadrature:
    return prior.quadrature(observables)


@dataclass(frozen=True)
class Chebyshev:
    """The prior of arXiv:2307.00808, see :class:`~sdpipe.physics.spectra.ChebyshevPrior`."""

    name: ClassVar[str] = "chebyshev"
    prior: ChebyshevPrior

    def integrals(self, observables: Observables, seed: int, stream: str, start: int, stop: int) -> tuple[Array, Array]:
        """Return the integrals (sample, column) and E0 (sample,) of samples start..stop-1."""
        quadrature = _quadrature(self.prior, observables)

        def batch(low: int) -> tuple[Array, Array]:
            c, E0 = self.prior.draw(seed, stream, low, low + BATCH)
            return quadrature(c, E0), E0

        return _in_blocks(batch, BATCH, start, stop)


DRAWN = 64
"""Samples of a comb that are drawn from one random stream, and multiplied at once."""

MASSES = 2400
"""Masses of a comb."""

HIGHEST = 25.0
"""Highest mass of a comb in GeV, where thresholds are not above a tenth of it."""

LEVELS = 400
"""Most levels of a discrete spectrum."""


@lru_cache(maxsize=8)
def _comb(lowest: float, highest: float) -> Array:
    return np.geomspace(lowest, highest, MASSES)


@lru_cache(maxsize=8)
def _columns(lowest: float, highest: float, observables: Observables) -> Array:
    return observables.columns(_comb(lowest, highest))


@dataclass(frozen=True)
class Comb(ABC):
    """A component whose samples are sums of delta functions on fixed masses, so that their integrals are exact.

        rho(omega) = sum_k w_k delta(omega - omega_k),    C(t) = sum_k w_k b_T(t, omega_k),    likewise rho_sigma(E)

    The ``masses`` omega_k are 2,400, geometric from 0.6 of the lowest threshold of ``prior`` (0.12 GeV) to 25 GeV or
    its ``omega_max``, whichever is lower, 0.22 % apart. A continuum is its own comb: mass omega_k has the weight
    rho(omega_k) Delta_k of its cell [omega_k e^(-h/2), omega_k e^(h/2)], h = 0.0022, and E0 lies on the edge of a cell.
    By the midpoint rule such a comb differs from its continuum by about (h E0 t)^2 / 24 of C(t) where rho is smooth
    over a cell: by 1e-5 for half of the samples at t = 16 / GeV, and by 1e-3 for one in a hundred, those that rise most
    steeply; rho_sigma(E) differs less.

    A subclass has a ``name`` and draws weights; in ``COMPONENTS`` under its name it can be part of a mixture:

    >>> class Pole(Comb):
    ...     '''rho = A delta(omega - M) with M ~ LU[0.5, 1] GeV and A = 1.'''
    ...     name = "pole"
    ...     def draw(self, generator, count):
    ...         return self.place(log_uniform(generator, 0.5, 1, (count, 1)), np.ones((count, 1)))
    >>> COMPONENTS["pole"] = Pole
    >>> Mixture({"chebyshev": 3, "pole": 1}, ChebyshevPrior(16)).counts(100).tolist()
    [75, 25]
    >>> del COMPONENTS["pole"]
    """

    name: ClassVar[str]
    prior: ChebyshevPrior

    @abstractmethod
    def draw(self, generator: np.random.Generator, count: int) -> Array:
        """Return weights (sample, mass) of ``count`` samples, a function of the generator alone."""

    @property
    def masses(self) -> Array:
        """The masses omega_k (mass,) in GeV."""
        return _comb(*self._range)

    @property
    def _range(self) -> tuple[float, float]:
        low, high = self.prior.E0
        highest = max(HIGHEST, 10 * high)
        return 0.6 * low, min(self.prior.omega_max or highest, highest)

    @cached_property
    def spacing(self) -> float:
        """The logarithm h of the ratio of neighbouring masses."""
        return float(np.log(self.masses[-1] / self.masses[0])) / (MASSES - 1)

    def edge(self, omega: Array) -> Array:
        """Return the edge between two cells that is next above each energy, or the highest one."""
        k = np.minimum(np.ceil(np.log(omega / self.masses[0]) / self.spacing + 0.5), MASSES - 1)
        return self.masses[0] * np.exp((k - 0.5) * self.spacing)

    def nearest(self, omega: Array) -> NDArray[np.int64]:
        """Return which mass is nearest to each energy."""
        return np.rint(np.log(omega / self.masses[0]) / self.spacing).clip(0, MASSES - 1).astype(np.int64)

    def place(self, omega: Array, weight: Array) -> Array:
        """Return weights (sample, mass) of delta functions at ``omega`` (sample, level), each at the nearest mass."""
        k = self.nearest(omega) + MASSES * np.arange(len(omega))[:, None]
        return np.bincount(k.ravel(), weight.ravel(), len(omega) * MASSES).reshape(-1, MASSES)

    def continuum(self, densities: Densities) -> Array:
        """Return weights (sample, mass) of continua."""
        cells = self.masses * 2 * np.sinh(self.spacing / 2)
        weights = np.empty((len(densities.E0), MASSES))
        for low in range(0, len(weights), 32):  # pieces that stay in the cache
            part = slice(low, low + 32)
            weights[part] = densities.take(part)(self.masses[None]) * cells
        return weights

    def integrals(self, observables: Observables, seed: int, stream: str, start: int, stop: int) -> tuple[Array, Array]:
        """Return the integrals (sample, column) and lowest masses E0 (sample,) of samples start..stop-1."""
        columns = _columns(*self._range, observables)

        def block(low: int) -> tuple[Array, Array]:
            weights = self.draw(rng.generator(seed, stream, self.name, low // DRAWN), DRAWN)
            return weights @ columns, self.masses[np.argmax(weights != 0, axis=1)]

        return _in_blocks(block, DRAWN, start, stop)


def log_uniform(generator: np.random.Generator, low: ArrayLike, high: ArrayLike, shape: int | tuple[int, ...]) -> Array:
    """Return draws from LU[low, high]."""
    return np.exp(generator.uniform(np.log(low), np.log(high), shape))


def _power(x: NDArray, p: NDArray) -> NDArray:
    """Return x^p, and next to nothing where x <= 0; in single precision much faster than NumPy's own."""
    return np.exp(p * np.log(np.maximum(x, np.float32(1e-30))))


@dataclass(frozen=True)
class Densities:
    """Positive and smooth random densities with thresholds.

        rho = theta(omega - E0) {exp[a_0 + sum_{n=1}^{12} a_n T_n(x)] [j + (1 - j) S(omega)] + sum_b B_b(omega)}
        S = [1 - (E0/omega)^2]^p  or  1 - exp{-[(omega - E0)/w]^p},    B = h exp[-ln^2(omega/m) / (2 s^2)]

    x = 1 - 2 exp(-omega / GeV); a_n ~ N(0, tau/n), tau ~ LU[0.05, 1], a_0 ~ N(-tau^2 sum_n 1/(4 n^2), 0.7): the size
    is log-normal; p ~ U[0.3, 3.5], w ~ LU[0.02, 1] GeV; a jump j ~ U[0, 1] for half of them, else 0; 0 to 3 bumps with
    m ~ LU[0.25, 3] GeV, s ~ LU[0.02, 0.5] and h ~ LU[0.1, 5]. In single precision.

    Parameters
    ----------
    E0, power, width, jump
        E0, p, w and j, shape (sample,).
    stretched
        Whether S is the second one, shape (sample,).
    series
        a_n, shape (sample, 13).
    bumps
        ln m, s and h, shape (sample, 3, bump); h is zero where there is no bump.
    """

    E0: NDArray
    power: NDArray
    width: NDArray
    jump: NDArray
    stretched: NDArray
    series: NDArray
    bumps: NDArray

    @classmethod
    def draw(cls, generator: np.random.Generator, E0: Array) -> Densities:
        """Return one density for each threshold E0 (sample,) in GeV."""
        n, g, order = len(E0), generator, np.arange(1, 13)
        tau = log_uniform(g, 0.05, 1, n)[:, None]
        a0 = g.normal(-(tau**2) * np.sum(1 / (4 * order**2)), 0.7)
        bumps = [np.log(log_uniform(g, 0.25, 3, (n, 3))), log_uniform(g, 0.02, 0.5, (n, 3))]
        bumps += [log_uniform(g, 0.1, 5, (n, 3)) * (np.arange(3) < g.integers(0, 4, (n, 1)))]
        power, width, jump = g.uniform(0.3, 3.5, n), log_uniform(g, 0.02, 1, n), g.random(n) * (g.random(n) < 0.5)
        series = np.hstack([a0, g.normal(0, tau / order)])
        single = [a.astype(np.float32) for a in (E0, power, width, jump, series, np.stack(bumps, axis=1))]
        return cls(*single[:4], g.random(n) < 0.5, *single[4:])

    def take(self, rows: slice | NDArray) -> Densities:
        """Return some of them."""
        return Densities(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __call__(self, omega: Array) -> NDArray[np.float32]:
        """Return rho (sample, mass) at ``omega`` (1, mass) or (sample, mass) in GeV."""
        omega = omega.astype(np.float32)
        x, log_omega = 1 - 2 * np.exp(-omega), np.log(omega)
        if len(omega) == 1:  # einsum, since BLAS rounds a small product as it has threads
            rho = np.exp(np.einsum("sn,nk->sk", self.series, np.ascontiguousarray(chebvander(x[0], 12).T)))
        else:
            rho = np.exp(chebval(x, self.series.T[:, :, None], tensor=False))
        omega, log_omega = (np.broadcast_to(a, rho.shape) for a in (omega, log_omega))
        E0, power, width, jump = (a[:, None] for a in (self.E0, self.power, self.width, self.jump))
        first, second = ~self.stretched, self.stretched
        rise = np.empty_like(rho)
        rise[first] = _power(1 - (E0[first] / omega[first]) ** 2, power[first])
        rise[second] = -np.expm1(-_power((omega[second] - E0[second]) / width[second], power[second]))
        rho *= jump + (1 - jump) * rise
        for log_mass, spread, height in self.bumps.transpose(2, 1, 0)[..., None]:
            rows = np.flatnonzero(height)
            rho[rows] += height[rows] * np.exp(-(((log_omega[rows] - log_mass[rows]) / spread[rows]) ** 2) / 2)
        rho *= omega >= E0
        return rho

    def levels(self, generator: np.random.Generator, highest: float) -> tuple[Array, Array]:
        """Return energies and weights (sample, level) of the same densities in a finite volume.

            omega_k^a = E0^a + a E0^(a-1) (g_1 + ... + g_k),    w_k = rho(omega_k) (omega_{k+1} - omega_{k-1})/2 f_k

        a ~ U[1, 2]; gaps g_k are Gamma variables of shape k ~ LU[0.6, 30] and mean LU[0.03, 1] GeV, g_1 times U[0, 1];
        f_k are Gamma variables of mean 1 and shape LU[0.5, 30], f_1 times LU[1, 10] for 30 % of the samples. Half have
        no level above a cut ~ LU[0.8, 4] GeV but the first; there are at most 400, none above ``highest`` GeV.
        """
        n, g = len(self.E0), generator
        a, gap, shape = g.uniform(1, 2, (n, 1)), log_uniform(g, 0.03, 1, (n, 1)), log_uniform(g, 0.6, 30, (n, 1))
        steps = g.standard_gamma(shape, (n, LEVELS), dtype=np.float32) * (gap / shape)
        steps[:, 0] *= g.random(n)
        E0 = self.E0[:, None].astype(float)
        omega = (E0**a + a * E0 ** (a - 1) * np.cumsum(steps, axis=1)) ** (1 / a)
        cut = np.where(g.random(n) < 0.5, log_uniform(g, 0.8, 4, n), np.inf)[:, None]
        below = omega < np.minimum(cut, highest)
        below[:, 0] = True
        scatter = np.broadcast_to(log_uniform(g, 0.5, 30, (n, 1)), omega.shape)[below]
        factor = np.zeros(omega.shape)
        factor[below] = g.standard_gamma(scatter, dtype=np.float32) / scatter
        factor[:, 0] *= np.where(g.random(n) < 0.3, log_uniform(g, 1, 10, n), 1)
        return omega, self(omega) * np.gradient(omega, axis=1) * factor


class Smooth(Comb):
    """Continua: :class:`Densities` with E0 ~ U[E0_min, 1.15 E0_max] of ``prior``."""

    name = "smooth"

    def draw(self, generator: np.random.Generator, count: int) -> Array:
        """Return weights (sample, mass)."""
        low, high = self.prior.E0
        return self.continuum(Densities.draw(generator, self.edge(generator.uniform(low, 1.15 * high, count))))


class Levels(Comb):
    """Finite-volume spectra: levels of :class:`Densities` with E0 ~ LU[E0_min, 1.15 E0_max] of ``prior``."""

    name = "levels"

    def draw(self, generator: np.random.Generator, count: int) -> Array:
        """Return weights (sample, mass)."""
        low, high = self.prior.E0
        densities = Densities.draw(generator, log_uniform(generator, low, 1.15 * high, count))
        return self.place(*densities.levels(generator, self.masses[-1]))


class States(Comb):
    """Bound states below or inside a continuum: sum_i A_i delta(omega - M_i) + rho(omega).

    1 to 3 states, M_i ~ LU[E0_min, 1.7 E0_max], A_i ~ LU[0.05, 4] GeV; rho of :class:`Densities`, with E0 above the
    highest M_i by a factor 1 + LU[0.03, 2] for 70 % of the samples and ~ U[1.5 E0_min, 2.3 E0_max] for the others.
    rho is a continuum for 57 %, levels for 38 % and zero for 5 %.
    """

    name = "states"

    def draw(self, generator: np.random.Generator, count: int) -> Array:
        """Return weights (sample, mass)."""
        g, (low, high) = generator, self.prior.E0
        present = np.arange(3) < g.integers(1, 4, (count, 1))
        masses = log_uniform(g, low, 1.7 * high, (count, 3))
        amplitudes = log_uniform(g, 0.05, 4, (count, 3)) * present
        above = np.max(masses * present, axis=1) * (1 + log_uniform(g, 0.03, 2, count))
        E0 = np.where(g.random(count) < 0.7, above, g.uniform(1.5 * low, 2.3 * high, count))
        densities, kind = Densities.draw(g, self.edge(E0)), g.random(count)
        weights, discrete, smooth = np.zeros((count, MASSES)), kind < 0.38, kind >= 0.43
        weights[discrete] = self.place(*densities.take(discrete).levels(g, self.masses[-1]))
        weights[smooth] = self.continuum(densities.take(smooth))
        np.add.at(weights, (np.arange(count)[:, None], self.nearest(masses)), amplitudes)
        return weights


class Resonances(Comb):
    """Sums of one to five peaks in omega, odd in omega as thermal densities are, or with a threshold.

        rho = S(omega) sum_k A_k [h((omega - e_k)/w_k) + h((omega + e_k)/w_k)],    h(x) = exp(-x^2/2)  or  1/(1 + x^2)

    or with the Breit-Wigner form omega^2 e w / [(omega^2 - e^2)^2 + (e w)^2] for the bracket; those that fall slowly
    end like exp(-(omega/8 GeV)^2). e_k ~ U[-4.5, 4.5] GeV, w_k ~ LU[0.03, 3] GeV, the same for all k in half of the
    samples; A_k ~ U[0.1, 1], over w_k in 70 %. S is omega / (1 - exp(-b omega)) with b ~ LU[3, 60] / GeV, or
    1 - exp{-[(omega - E0)/w]^p} with p ~ U[0.3, 3], w ~ LU[0.02, 1] GeV; E0 = 0 in 60 %, else LU[E0_min / 2, E0_max].
    """

    name = "resonances"

    def draw(self, generator: np.random.Generator, count: int) -> Array:
        """Return weights (sample, mass)."""
        g, (low, high) = generator, self.prior.E0
        places, common = g.uniform(-4.5, 4.5, (count, 5)), g.random((count, 1)) < 0.5
        widths = log_uniform(g, 0.03, 3, (count, 5))
        widths = np.where(common, widths[:, :1], widths)
        heights = g.uniform(0.1, 1, (count, 5)) * (np.arange(5) < g.integers(1, 6, (count, 1)))
        heights = np.where(g.random((count, 1)) < 0.7, heights / widths, heights)
        kind = g.choice(3, count, p=(0.6, 0.2, 0.2))
        E0 = np.where(g.random(count) < 0.6, 0.0, log_uniform(g, low / 2, high, count))
        rise = self._rise(g, E0)
        cells = self.masses * 2 * np.sinh(self.spacing / 2)
        return (
            rise * cells * sum(self._peak(kind, *(x[:, k, None] for x in (places, widths, heights))) for k in range(5))
        )

    def _peak(self, kind: NDArray[np.int64], place: Array, width: Array, height: Array) -> Array:
        """Return one peak (sample, mass) of each sample."""
        omega, peak = self.masses[None], np.empty((len(kind), MASSES))
        gaussian, lorentzian, breit_wigner = (kind == k for k in range(3))
        x = [(sign * omega - place) / width for sign in (1, -1)]
        peak[gaussian] = sum(np.exp(-(y[gaussian] ** 2) / 2) for y in x)
        peak[lorentzian] = sum(1 / (1 + y[lorentzian] ** 2) for y in x)
        e, w = np.abs(place[breit_wigner]) + 0.1, width[breit_wigner]
        peak[breit_wigner] = omega**2 * e * w / ((omega**2 - e**2) ** 2 + (e * w) ** 2)
        peak[~gaussian] *= np.exp(-((omega / 8) ** 2))
        return height * peak

    def _rise(self, g: np.random.Generator, E0: Array) -> Array:
        """Return S (sample, mass)."""
        omega, n = self.masses[None], len(E0)
        power, width, beta = g.uniform(0.3, 3, n), log_uniform(g, 0.02, 1, n), log_uniform(g, 3, 60, n)
        above = np.maximum(omega - E0[:, None], 0)
        rise = -np.expm1(-((above / width[:, None]) ** power[:, None]))
        thermal = g.random(n) < 0.5
        rise[thermal] = omega / -np.expm1(-omega * beta[thermal, None]) * (above[thermal] > 0)
        return rise


class Signed(Comb):
    """Densities of either sign: rho = rho_1 - r rho_2, r ~ U[0.1, 1], each of them smooth, levels or states."""

    name = "signed"

    def draw(self, generator: np.random.Generator, count: int) -> Array:
        """Return weights (sample, mass)."""
        first, second = (self._positive(generator, count) for _ in range(2))
        return first - generator.uniform(0.1, 1, (count, 1)) * second

    def _positive(self, generator: np.random.Generator, count: int) -> Array:
        kinds, weights = (Smooth, Levels, States), np.zeros((count, MASSES))
        which = generator.integers(len(kinds), size=count)
        for k in np.unique(which):
            weights[which == k] = kinds[k](self.prior).draw(generator, int(np.sum(which == k)))
        return weights


COMPONENTS: dict[str, Callable[[ChebyshevPrior], Component]] = {
    c.name: c for c in (Chebyshev, Smooth, Levels, States, Resonances, Signed)
}
"""Name -> what makes the component from the prior's Nb, E0, epsilon, omega_max and positive; your own may be added."""


@dataclass(frozen=True)
class Mixture:
    """A training set in which each component has its share.

    Parameters
    ----------
    shares
        Name in ``COMPONENTS`` -> share; only their ratios count. ``{"chebyshev": 1}`` is the prior of arXiv:2307.00808.
    prior
        That prior: its Nb, E0, epsilon, omega_max, and whether it is positive as the other components are.

    Raises
    ------
    UserError
        When a name is unknown, a share is negative or not finite, or their sum is not positive, and where ``signed``
        has a share in a positive prior.
    """

    shares: Mapping[str, float]
    prior: ChebyshevPrior

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            if name not in COMPONENTS:
                raise UserError(f"unknown component {name!r}; allowed: {', '.join(COMPONENTS)}", key=f"mixture.{name}")
            if not 0 <= share < np.inf:
                words = f"share {share:g} of {name}; it must be zero or positive, and finite"
                raise UserError(words, key=f"mixture.{name}")
        if self.prior.positive and self.shares.get("signed"):
            raise UserError("signed densities are not positive; leave them out, or positive", key="mixture.signed")
        if not sum(self.shares.values()) > 0:
            raise UserError(f"no component has a positive share; allowed: {', '.join(COMPONENTS)}", key="mixture")

    @property
    def components(self) -> tuple[Component, ...]:
        """The components, in the order of ``shares``."""
        return tuple(COMPONENTS[name](self.prior) for name in self.shares)

    def counts(self, n: ArrayLike) -> NDArray[np.int64]:
        """Return how many of the first n samples belong to each component, shape (..., component).

        The largest share s_1 gets round(s_1 n), the next round(s_2 m / (1 - s_1)) of the m left over, and so on: each
        of k components has its share of any n to within (k - 1)/2 samples, and more samples never change whose the
        first are.

        >>> Mixture({"chebyshev": 2, "smooth": 1, "states": 1}, ChebyshevPrior(16)).counts([1, 2, 3, 4, 400]).tolist()
        [[1, 0, 0], [1, 1, 0], [2, 1, 0], [2, 1, 1], [200, 100, 100]]
        """
        left, names = np.asarray(n), list(self.shares)
        counts = np.zeros((*left.shape, len(names)), np.int64)
        order = sorted((name for name in names if self.shares[name]), key=lambda name: (-self.shares[name], name))
        for i, name in enumerate(order):
            share = self.shares[name] / sum(self.shares[other] for other in order[i:])
            counts[..., names.index(name)] = np.floor(share * left + 0.5)
            left = left - counts[..., names.index(name)]
        return counts
