"""Second moments of C(t) and rho_sigma(E) over Gaussian priors: what the closed-form posterior knows before the data.

Once a unit of energy u, a threshold E0 and an amplitude alpha are fixed, each kind of spectral density is Gaussian.
With independent z of mean 0 and variance 1, and energies in units of u,

    Chebyshev   rho = theta(omega - E0) alpha sum_{n=1}^{Nb-1} z_n n^(-1-epsilon) [T_n(x(omega)) - T_n(x(E0))] / sqrt 3
    levels      rho = theta(omega - E0) alpha [z_0 + z(omega)],  <z(omega) z(omega')> = omega^(-q) delta(omega - omega')

The first has the moments of :class:`~sdpipe.physics.spectra.ChebyshevPrior`. The second is a flat continuum under
independent levels, which the more resemble isolated states at low energies the larger q is. E0 is uniform as in that
prior, at Gauss-Legendre nodes.

The unit is that of the prior (:meth:`PriorMoments.from_prior`), or one more thing that nobody knows
(:meth:`PriorMoments.over_scales`): log u is uniform over what times and spacing of the lattice can speak of. The
transform has the symmetry omega -> omega/u, t -> u t; then the posterior has it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import FLOOR
from sdpipe.physics.quadrature import ThresholdQuadrature, cutoff, first_edges, nodes_and_weights, refine
from sdpipe.physics.spectra import ChebyshevPrior, chebyshev_basis

LEVELS = (2, 4, 6)
"""The exponents q of levels where the unit is known; all kinds are equally likely."""

SCALED_LEVELS: Mapping[int, float] = MappingProxyType({0: 0.05, 4: 1.0, 10: 1.0})
"""q of levels where the unit is not known, and how likely each is beside a Chebyshev series.

q = 0, levels as strong at all energies, holds densities that are cut off, and makes errors wide wherever it has weight.
"""

SCALED = ChebyshevPrior(32)
"""Thresholds and series where the unit is not known."""

THRESHOLDS = 8
"""Thresholds at each unit where it is not known: those of neighbouring units lie between them."""

STEP = 2**0.75
"""Ratio of neighbouring units."""

SCALES = (1.0, 6.7)
"""The lowest unit is at or below the first over the longest time, the highest is the second over the shortest."""

MODES = 12
"""Most principal components of rho_sigma(E) that the features are about."""

RESOLVED = 1e-12
"""Principal components whose variance is below this share of the largest are rounding."""


@dataclass(frozen=True, eq=False)
class PriorMoments:
    """Second moments of C(t) and rho_sigma(E) in every Gaussian component, at alpha = 1.

    A component is a kind of spectral density with one threshold. Its factorised moments are

        <C C^T> = R^T R,    <C rho^T> = R^T X,    <rho rho^T> = X^T X + Y.

    C(t) carries a relative error ``floor``, independent at every time, which adds floor^2 <C(t)^2> to the diagonal of
    the first: where the signal-to-noise ratio is above 1/floor, the numbers themselves are not that good.

    Attributes
    ----------
    observables
        Kernel, times, sigma and energies.
    modes
        How many modes there are.
    normalised
        Whether alpha is integrated over in units of the correlator's own size, or is 1.
    scaled
        Whether the unit is integrated over; alpha is then in units of what each component needs for that size.
    kind, unit, E0, weight
        Kind of each component, 0 for Chebyshev, then levels; u in GeV; threshold in units of u; prior probability;
        shape (k,).
    root, cross
        R (k, t, t) and X (k, t, column); the columns are rho_sigma(E), sigma by sigma, and then modes: the first
        ``MODES`` principal components of rho_sigma(E) over the Chebyshev prior at all units, fewer where sigma is
        large, of variance 1 there.
    rest, rest_variance
        The blocks of Y at one sigma, shape (k, sigma, E, E), and the diagonal of Y, shape (k, column).
    rms
        Root mean square of C(t) over the Chebyshev prior at all units, shape (t,).
    floor
        Relative error of C(t).
    """

    observables: Observables
    modes: int
    normalised: bool
    scaled: bool
    kind: NDArray[np.intp]
    unit: Array
    E0: Array
    weight: Array
    root: Array
    cross: Array
    rest: Array
    rest_variance: Array
    rms: Array
    floor: float

    @classmethod
    @lru_cache(maxsize=8)
    def from_prior(
        cls,
        prior: ChebyshevPrior,
        observables: Observables,
        hierarchical: bool = True,
        nodes: int = 24,
        floor: float = FLOOR,
    ) -> PriorMoments:
        """Return the moments of ``nodes`` components of each kind; those of the last calls are kept.

        Parameters
        ----------
        prior
            Its Nb, E0, epsilon and omega_max.
        observables
            Kernel, times, sigma and energies.
        hierarchical
            Whether there are levels beside the Chebyshev series, all kinds equally likely, and an amplitude that is
            integrated over. Otherwise the posterior is the Bayes limit of the prior.
        nodes
            Number of thresholds.
        floor
            Relative error of C(t).

        Raises UserError for fewer than two times.
        """
        _refuse_one_time(observables)
        if prior.unit != 1:
            inside = observables.in_units(prior.unit)
            in_units = cls.from_prior(replace(prior, unit=1.0), inside, hierarchical, nodes, floor)
            larger = prior.unit**observables.kernel.power
            unit, root, rms = prior.unit * in_units.unit, larger * in_units.root, larger * in_units.rms
            return replace(in_units, observables=observables, unit=unit, root=root, rms=rms)
        E0, w = _thresholds(prior, nodes)
        quadrature, n = prior.quadrature(observables), len(observables.times)
        series = _chebyshev(prior, quadrature, E0)
        pooled = (np.sqrt(w / 2)[:, None, None] * series).reshape(-1, series.shape[-1])
        modes = _modes(pooled[:, n:].T @ pooled[:, n:])
        factors = list(series)
        exponents = LEVELS if hierarchical else ()
        for levels in _levels(exponents, observables.columns, quadrature.edges, E0):
            factors += [np.vstack(parts) for parts in levels]
        reduced = [_reduce(F, F[:, n:] @ modes, observables, floor) for F in factors]
        kinds = len(factors) // nodes
        return cls(
            observables,
            modes.shape[1],
            hierarchical,
            False,
            np.repeat(np.arange(kinds), nodes),
            np.ones(kinds * nodes),
            np.tile(E0, kinds),
            np.tile(w / 2, kinds) / kinds,
            *(np.stack(arrays) for arrays in zip(*reduced, strict=True)),
            np.sqrt(np.sum(pooled[:, :n] ** 2, axis=0)),
            floor,
        )

    @classmethod
    @lru_cache(maxsize=4)
    def over_scales(
        cls,
        observables: Observables,
        prior: ChebyshevPrior = SCALED,
        thresholds: int = THRESHOLDS,
        floor: float = FLOOR,
    ) -> PriorMoments:
        """Return the moments with the unit of energy integrated over; those of the last calls are kept.

        Units are geometric and equally likely, from below 1/(a t) at the longest time t to a few times that at the
        shortest (``SCALES``). All is computed in lattice units: the same data in GeV, in MeV and in lattice units have
        the same posterior.

        Parameters
        ----------
        observables, floor
            As for :meth:`from_prior`.
        prior
            Its Nb and epsilon, and its E0 in each unit; its unit does not matter.
        thresholds
            Number of thresholds at each unit.

        Raises UserError for fewer than two times, for a time at which the kernel is not a function of the energy, and
        for a prior that ends at an omega_max.

        >>> from sdpipe.physics.kernels import Kernel
        >>> grid = Observables(Kernel("periodic", 32, spacing=0.4), tuple(range(1, 17)), (0.3,), (0.5, 1.0))
        >>> np.unique(PriorMoments.over_scales(grid).unit).round(2).tolist()
        [0.16, 0.26, 0.44, 0.74, 1.24, 2.09, 3.52, 5.92, 9.96, 16.75]
        """
        _refuse_one_time(observables)
        if not observables.kernel.slowest_decay(observables.times):
            raise UserError("C(0) of this kernel has no limit on the energies in it; allowed: later times", key="times")
        if prior.omega_max is not None:
            raise UserError(f"a prior that ends at omega_max = {prior.omega_max:g} has a unit of energy; allowed: none")
        grid, n, a = observables.in_lattice_units, len(observables.times), observables.kernel.spacing
        units = _ladder(grid)
        E0, w = _thresholds(prior, thresholds)
        series = [_stretched(prior, grid, u, E0) for u in units]
        pooled = sum(np.einsum("k,knc,knd->cd", w / 2, F, F, optimize=True) for F in series) / len(units)
        modes = _modes(pooled[n:, n:])
        factors = [F for at_unit in series for F in at_unit]
        factors += _scaled_levels(tuple(SCALED_LEVELS), grid, units, E0)
        reduced = [_reduce(F, F[:, n:] @ modes, observables, floor) for F in factors]
        root, *rest = (np.stack(arrays) for arrays in zip(*reduced, strict=True))
        share = np.array([1.0, *SCALED_LEVELS.values()])[:, None, None]
        parts = np.arange(len(share))[:, None, None], units[:, None] / a, E0, share / share.sum() * w / 2 / len(units)
        smaller = a**-observables.kernel.power
        return cls(
            observables,
            modes.shape[1],
            True,
            True,
            *(part.ravel() for part in np.broadcast_arrays(*parts)),
            smaller * root,
            *rest,
            smaller * np.sqrt(np.diag(pooled)[:n]),
            floor,
        )

    @property
    def features(self) -> int:
        """How many features an :class:`~sdpipe.estimators.posterior.PosteriorEstimate` has."""
        return 3 * self.modes + self.kinds + (7 if self.scaled else 5)

    @property
    def kinds(self) -> int:
        """How many kinds of spectral densities there are."""
        return 1 + len(SCALED_LEVELS) if self.scaled else int(self.kind.max()) + 1

    def take(self, components: NDArray) -> PriorMoments:
        """Return some of the components."""
        names = ("kind", "unit", "E0", "weight", "root", "cross", "rest", "rest_variance")
        return replace(self, **{name: getattr(self, name)[components] for name in names})

    def size(self, C: Array) -> Array:
        """Return the size (...) of C (..., t), its root mean square over t in units of ``rms``."""
        return np.sqrt(np.mean((C / self.rms) ** 2, axis=-1))


def _refuse_one_time(observables: Observables) -> None:
    if len(observables.times) < 2:
        raise UserError(f"a posterior needs two times or more; there are {len(observables.times)}", key="times")


def _thresholds(prior: ChebyshevPrior, nodes: int) -> tuple[Array, Array]:
    """Return thresholds of a prior and their weights, whose sum is 2."""
    low, high = prior.E0
    x, w = legendre.leggauss(nodes)
    return low + (high - low) * (x + 1) / 2, w


def _ladder(observables: Observables) -> Array:
    """Return the units, ascending, for observables in lattice units."""
    lowest = SCALES[0] / observables.fastest_decay
    highest = SCALES[1] / observables.kernel.slowest_decay(observables.times)
    count = int(np.ceil(np.log(highest / lowest) / np.log(STEP)))
    return highest * STEP ** -np.arange(count, -1, -1.0)


def _modes(moments: Array) -> Array:
    """Return what projects on the principal components of rho_sigma(E) (column, mode), each of variance 1."""
    eigenvalues, vectors = np.linalg.eigh(moments)
    resolved = np.flatnonzero(eigenvalues > RESOLVED * eigenvalues[-1])[: -MODES - 1 : -1]
    vectors = vectors[:, resolved]  # of either sign: let the largest component be positive
    vectors = vectors * np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0))
    return vectors / np.sqrt(eigenvalues[resolved])


def _stretched(prior: ChebyshevPrior, observables: Observables, unit: float, E0: Array) -> Array:
    """Return the integrals (E0, n, column) of the terms of the series in another unit than that of the observables."""
    basis, low, high = chebyshev_basis(prior.Nb), unit * prior.E0[0], unit * prior.E0[1]
    quadrature = ThresholdQuadrature(lambda omega: basis(omega / unit), observables, (low, high))
    return _chebyshev(prior, quadrature, unit * E0)


def _chebyshev(prior: ChebyshevPrior, quadrature: ThresholdQuadrature, E0: Array) -> Array:
    """Return the integrals (E0, n, column) of the terms of the series above each E0."""
    n = np.arange(1, prior.Nb)
    c = np.zeros((len(E0), n.size, prior.Nb))
    c[:, n - 1, n] = n ** -(1 + prior.epsilon) / np.sqrt(3)
    return quadrature(c.reshape(-1, prior.Nb), np.repeat(E0, n.size)).reshape(len(E0), n.size, -1)


def _levels(
    exponents: Sequence[int], columns: Callable[[Array], Array], edges: Array, E0: Array
) -> list[list[tuple[Array, Array]]]:
    """Return for each q and E0, ascending, rows F (row, column) of levels above it and k (column,) of the continuum.

        F^T F = int d omega omega^(-q) K K^T,    k = int d omega K,

    K the ``columns``, by a quadrature on panels between ``edges``, from the highest E0 down.
    """
    edges = np.union1d(edges, E0)
    cuts = [*np.searchsorted(edges, E0), len(edges) - 1]
    count = columns(E0[:1]).shape[1]
    rows, flat = [np.empty((0, count))] * len(exponents), np.zeros(count)
    factors: list[list[tuple[Array, Array]]] = [[] for _ in exponents]
    for first, last in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
        omega, w = (a.ravel() for a in nodes_and_weights(edges[first : last + 1]))
        K = columns(omega)
        flat = flat + w @ K
        for i, q in enumerate(exponents):
            rows[i] = np.linalg.qr(np.vstack([rows[i], np.sqrt(w * omega**-q)[:, None] * K]), mode="r")
            factors[i].insert(0, (rows[i], flat))
    return factors


def _scaled_levels(exponents: Sequence[int], grid: Observables, units: Array, E0: Array) -> list[Array]:
    """Return for each q, unit and E0 rows (row, column) with the moments of levels and continuum above it.

    omega^(-q) delta(omega - omega') in units of u is u^(q+1) times what it is in those of the ``grid``. Units differ
    by this factor and by their thresholds alone, so that one pass over all thresholds serves them.
    """
    thresholds, factor = np.outer(units, E0).ravel(), np.repeat(units, len(E0))
    order = np.argsort(thresholds)
    ends = thresholds[order[0]], cutoff(grid, thresholds[order[-1]])
    edges = refine(grid.columns, first_edges(grid, *ends), tolerance=1e-11, floor=1e-40)
    place = np.argsort(order)
    return [
        np.vstack([factor[i] ** ((q + 1) / 2) * rows, flat])
        for q, levels in zip(exponents, _levels(exponents, grid.columns, edges, thresholds[order]), strict=True)
        for i, (rows, flat) in enumerate(levels[k] for k in place)
    ]


def _reduce(F: Array, modes: Array, observables: Observables, floor: float) -> tuple[Array, Array, Array, Array]:
    """Return R, X, the blocks of Y and its diagonal, of moments with the factors F (row, column), modes (row, mode)."""
    n, shape = len(observables.times), (len(observables.sigma), len(observables.energies))
    C = np.vstack([F[:, :n], floor * np.diag(np.sqrt(np.sum(F[:, :n] ** 2, axis=0)))])
    rho = np.hstack([F[:, n:], modes])
    rho = np.vstack([rho, np.zeros((n, rho.shape[1]))])
    Q, R = np.linalg.qr(C)
    X = Q.T @ rho
    rest = rho - Q @ X
    columns = rest[:, : shape[0] * shape[1]].reshape(-1, *shape)
    Y = np.einsum("rse,rsf->sef", columns, columns, optimize=True)
    return R, X, Y, np.sum(rest**2, axis=0)
