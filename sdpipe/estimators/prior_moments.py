"""Second moments of C(t) and rho_sigma(E) over Gaussian priors: what the closed-form posterior knows before the data.

Once a threshold E0 and an amplitude alpha are fixed, each kind of spectral density is Gaussian. With independent z of
mean 0 and variance 1, and energies in GeV,

    Chebyshev   rho = theta(omega - E0) alpha sum_{n=1}^{Nb-1} z_n n^(-1-epsilon) [T_n(x(omega)) - T_n(x(E0))] / sqrt 3
    levels      rho = theta(omega - E0) alpha [z_0 + z(omega)],  <z(omega) z(omega')> = omega^(-q) delta(omega - omega')

The first has the moments of :class:`~sdpipe.physics.spectra.ChebyshevPrior`. The second is a flat continuum under
independent levels, which the more resemble isolated states at low energies the larger q is. E0 is uniform as in that
prior, at Gauss-Legendre nodes, and q is 2, 4 or 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from sdpipe.errors import UserError
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import FLOOR
from sdpipe.physics.quadrature import ThresholdQuadrature, nodes_and_weights
from sdpipe.physics.spectra import ChebyshevPrior

Array = NDArray[np.float64]

LEVELS = (2, 4, 6)
"""The exponents q of levels."""

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
    sized
        Whether alpha is integrated over in units of the correlator's own size, or is 1.
    kind, E0, weight
        Kind of each component, 0 for Chebyshev, then those of ``LEVELS``; threshold; prior probability; shape (k,).
    root, cross
        R (k, t, t) and X (k, t, column); the columns are rho_sigma(E), sigma by sigma, and then modes: the first
        ``MODES`` principal components of rho_sigma(E) over the Chebyshev prior, fewer where sigma is large, of
        variance 1 there.
    rest, rest_variance
        The blocks of Y at one sigma, shape (k, sigma, E, E), and the diagonal of Y, shape (k, column).
    rms
        Root mean square of C(t) over the Chebyshev prior, shape (t,).
    floor
        Relative error of C(t).
    """

    observables: Observables
    modes: int
    sized: bool
    kind: NDArray[np.intp]
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
        seen: Observables | None = None,
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
        seen
            The same kernel and times, with the sigma and energies that the modes are those of; by default they are
            those of ``observables``.

        Raises UserError for fewer than two times.
        """
        if len(observables.times) < 2:
            raise UserError(f"a posterior needs two times or more; there are {len(observables.times)}", key="times")
        if prior.unit != 1:
            inside = [None if grid is None else grid.in_units(prior.unit) for grid in (observables, seen)]
            made = cls.from_prior(replace(prior, unit=1.0), inside[0], hierarchical, nodes, floor, inside[1])
            larger = prior.unit**observables.kernel.power
            return replace(made, observables=observables, root=larger * made.root, rms=larger * made.rms)
        low, high = prior.E0
        x, w = legendre.leggauss(nodes)
        E0 = low + (high - low) * (x + 1) / 2
        grids = [observables, *([] if seen is None else [seen])]
        quadratures = [prior.quadrature(grid) for grid in grids]
        n, count = len(observables.times), observables.count
        series = _once(n, [_chebyshev(prior, quadrature, E0) for quadrature in quadratures])
        pooled = (np.sqrt(w / 2)[:, None, None] * series).reshape(-1, series.shape[-1])
        shown = slice(n if seen is None else count, None)
        eigenvalues, vectors = np.linalg.eigh(pooled[:, shown].T @ pooled[:, shown])
        resolved = np.flatnonzero(eigenvalues > RESOLVED * eigenvalues[-1])[: -MODES - 1 : -1]
        vectors = vectors[:, resolved]  # of either sign: let the largest component be positive
        vectors = vectors * np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0))
        modes = vectors / np.sqrt(eigenvalues[resolved])
        factors = list(series)
        edges = np.unique(np.concatenate([quadrature.edges for quadrature in quadratures]))
        for q in LEVELS if hierarchical else ():
            factors += _levels(q, lambda omega: _once(n, [grid.columns(omega) for grid in grids]), edges, E0)
        reduced = [_reduce(F[:, :count], F[:, shown] @ modes, observables, floor) for F in factors]
        kinds = len(factors) // nodes
        return cls(
            observables,
            modes.shape[1],
            hierarchical,
            np.repeat(np.arange(kinds), nodes),
            np.tile(E0, kinds),
            np.tile(w / 2, kinds) / kinds,
            *(np.stack(arrays) for arrays in zip(*reduced, strict=True)),
            np.sqrt(np.sum(pooled[:, :n] ** 2, axis=0)),
            floor,
        )

    @property
    def features(self) -> int:
        """How many features an :class:`Estimate` has."""
        return 3 * self.modes + int(self.kind.max()) + 1 + 5

    def size(self, C: Array) -> Array:
        """Return the size (...) of C (..., t), its root mean square over t in units of ``rms``."""
        return np.sqrt(np.mean((C / self.rms) ** 2, axis=-1))


def _chebyshev(prior: ChebyshevPrior, quadrature: ThresholdQuadrature, E0: Array) -> Array:
    """Return the integrals (E0, n, column) of the terms of the series above each E0."""
    n = np.arange(1, prior.Nb)
    c = np.zeros((len(E0), n.size, prior.Nb))
    c[:, n - 1, n] = n ** -(1 + prior.epsilon) / np.sqrt(3)
    return quadrature(c.reshape(-1, prior.Nb), np.repeat(E0, n.size)).reshape(len(E0), n.size, -1)


def _once(times: int, parts: list[Array]) -> Array:
    """Return columns (..., column) of grids that have their first columns, those of ``times`` times, in common."""
    return np.concatenate([parts[0], *(part[..., times:] for part in parts[1:])], axis=-1)


def _levels(q: int, columns: Callable[[Array], Array], edges: Array, E0: Array) -> list[Array]:
    """Return for each E0, ascending, rows (row, column) with the moments of levels and continuum above it.

    F^T F = int d omega omega^(-q) K K^T + k k^T,    k = int d omega K,

    K the ``columns``, by a quadrature on panels between ``edges``, from the highest E0 down.
    """
    edges = np.union1d(edges, E0)
    cuts = [*np.searchsorted(edges, E0), len(edges) - 1]
    count = columns(E0[:1]).shape[1]
    rows, flat, factors = np.empty((0, count)), np.zeros(count), []
    for first, last in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
        omega, w = (a.ravel() for a in nodes_and_weights(edges[first : last + 1]))
        K = columns(omega)
        flat = flat + w @ K
        rows = np.linalg.qr(np.vstack([rows, np.sqrt(w * omega**-q)[:, None] * K]), mode="r")
        factors.append(np.vstack([rows, flat]))
    return factors[::-1]


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
