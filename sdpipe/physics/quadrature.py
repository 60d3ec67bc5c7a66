"""Composite Gauss-Legendre quadrature whose panels follow the integrand.

Panels are halved until the integrand is resolved, so the number of nodes follows the basis size Nb,
the kernels and the tolerance. ``ThresholdQuadrature`` integrates a whole block of spectral densities
with thresholds E0 of their own at the cost of a few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.polynomial import legendre

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Observables

ORDER = 32
"""Gauss-Legendre nodes in a panel."""

LARGEST_FALL = 6.0
"""Largest exponent by which C(t) may fall over a panel that can hold a threshold.

The interpolant is as accurate as its largest value in the panel; above a high threshold only the smallest count.
"""

TINY = 1e-280
"""Values so small that floating-point numbers no longer resolve them."""

_x, _w = legendre.leggauss(ORDER)
# l_i(s) = sum_k w_i (2k+1)/2 P_k(x_i) P_k(s): the interpolant through the nodes, in Legendre form.
_LAGRANGE = (legendre.legvander(_x, ORDER - 1) * (np.arange(ORDER) + 0.5)).T * _w
_CHECK = np.cos(np.pi * (np.arange(ORDER + 8) + 0.5) / (ORDER + 8))
_TO_CHECK = legendre.legvander(_CHECK, ORDER - 1) @ _LAGRANGE


def _lagrange_tail(xi: Array) -> tuple[Array, Array]:
    """Return l_i(xi) and W_i(xi) = int_xi^1 l_i(s) ds, each (n, ORDER)."""
    p = legendre.legvander(xi, ORDER)
    tail = np.empty((xi.size, ORDER))
    tail[:, 0] = 1 - xi
    k = np.arange(1, ORDER)
    tail[:, 1:] = (p[:, :-2] - p[:, 2:]) / (2 * k + 1)
    return p[:, :-1] @ _LAGRANGE, tail @ _LAGRANGE


def nodes_and_weights(edges: Array) -> tuple[Array, Array]:
    """Return Gauss-Legendre nodes and weights of the panels between ``edges``, each (panel, ORDER)."""
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    return middle + half * _x, half * _w


NARROW = 2.0**-12
"""Share of the range below which the rounding of a panel counts."""

ROUNDING = 1e-13
"""Relative rounding of f."""


def refine(
    f: Callable[[Array], Array],
    edges: Array,
    tolerance: float,
    floor: float = 0.0,
    size: Callable[[Array], Array] | None = None,
) -> Array:
    """Halve panels until the polynomial through the nodes of each reproduces ``f`` inside it.

    Parameters
    ----------
    f
        Maps points (n,) to values (n, column).
    edges
        Ascending panel edges to start from.
    tolerance
        Largest error of the interpolant relative to the largest |f| of its panel, per column.
    floor
        Errors below ``floor`` times the largest |f| anywhere, times the share of the panel in the
        range, are accepted too: this ends the refinement towards an integrable singularity.
    size
        What |f| is without its zeros, of the same shape. In panels below ``NARROW`` of the range errors below
        ``ROUNDING`` of it are accepted, too: beside a zero no halving makes rounding small against |f|.

    Raises
    ------
    RuntimeError
        When sixty halvings do not resolve ``f``.
    """
    span = edges[-1] - edges[0]
    pending = list(pairwise(edges))
    scale = np.max([np.abs(f(nodes_and_weights(np.array(p))[0][0])).max(axis=0) for p in pending], axis=0)
    done = []
    while pending:
        low, high = pending.pop()
        half, middle = (high - low) / 2, (high + low) / 2
        at_nodes, at_check = f(middle + half * _x), f(middle + half * _CHECK)
        error = np.abs(_TO_CHECK @ at_nodes - at_check).max(axis=0)
        local = np.abs(at_check).max(axis=0)
        scale = np.maximum(scale, local)
        allowed = np.maximum(tolerance * local, floor * scale * span / (high - low) + TINY)
        if size is not None and high - low < NARROW * span:
            allowed = np.maximum(allowed, ROUNDING * size(np.array([low, high])).max(axis=0))
        if np.all(error <= allowed):
            done.append(low)
        elif high - low < span * 2.0**-60:
            raise RuntimeError(f"quadrature: the integrand is not resolved at {middle}")
        else:
            pending += [(low, middle), (middle, high)]
    return np.array([*sorted(done), edges[-1]])


def cutoff(observables: Observables, threshold: float) -> float:
    """Return the energy in GeV above which a spectral density from ``threshold`` up contributes nothing.

    What is left out is below 1e-17 of the integral, for every column; 1e-12 where the smearing falls as a power.

    Raises UserError where the smearing does not fall fast enough for a density that does not.
    """
    rate = observables.kernel.spacing * observables.kernel.slowest_decay(observables.times)
    tail_of_kernel = (40 + 2 * np.log(1 + 40 / rate)) / rate
    widest, tail = max(observables.sigma), observables.smearing.tail(max(observables.sigma))
    if not tail.converges:
        raise UserError(
            f"smearing {observables.smearing.name} falls too slowly: its integral over a density that does not fall "
            "diverges; allowed: a finite omega_max, or a smearing that falls faster than 1/omega"
        )
    return float(max(threshold + tail_of_kernel, max(observables.energies) + tail.length(widest)))


def first_edges(observables: Observables, *bounds: float) -> Array:
    """Return edges so close, where the smearing lives, that no Gaussian falls between the nodes of a panel."""
    low, high = min(bounds), max(bounds)
    width = 4 * min(observables.sigma)
    first = max(low, min(observables.energies) - 9 * max(observables.sigma))
    last = min(high, max(observables.energies) + 9 * max(observables.sigma))
    return np.unique([*bounds, *np.arange(first, last, width)])


def integrate(
    rho: Callable[[Array], Array], observables: Observables, low: float, high: float, breaks: tuple[float, ...] = ()
) -> Array:
    """Return int_low^high d omega rho(omega) K_j(omega) for every column j of ``observables``.

    ``rho`` maps energies (n,) to values (n,); ``breaks`` are energies where it is not smooth. The variable is
    v = sqrt(omega - low), in which the square roots of a two-particle threshold at ``low`` are smooth.
    """
    edges = np.sqrt(first_edges(observables, low, high, *(b for b in breaks if low < b < high)) - low)

    def f(v: Array) -> Array:
        omega = low + v**2
        return (2 * v * rho(omega))[:, None] * observables.columns(omega)

    edges = refine(f, edges, tolerance=1e-12, floor=1e-14)
    nodes, weights = nodes_and_weights(edges)
    return weights.ravel() @ f(nodes.ravel())


class ThresholdQuadrature:
    """Integrals of theta(omega - E0) [P(omega) - P(E0)] for many P and E0 at once.

    P(omega) = sum_n c_n phi_n(omega) for a fixed basis phi. With K_j the columns of ``observables``,

        I_j = int_E0^omega_max d omega [P(omega) - P(E0)] K_j(omega).

    Panels above the one that holds E0 enter as precomputed moments of the basis; in the panel of E0
    the interpolant of the integrand is integrated exactly from E0 upward. The cost is one matrix
    product with (Nb x (ORDER + n_columns)) and one with (ORDER x n_columns) for each sample.

    Parameters
    ----------
    basis
        Maps energies (n,) to phi (Nb, n).
    observables
        The kernels K_j.
    E0
        Lowest and highest threshold in GeV.
    omega_max
        Upper end in GeV; None is infinity.
    tolerance
        Relative accuracy of the interpolant in each panel, see :func:`refine`.
    """

    def __init__(
        self,
        basis: Callable[[Array], Array],
        observables: Observables,
        E0: tuple[float, float],
        omega_max: float | None = None,
        tolerance: float = 1e-11,
    ) -> None:
        low, high = E0
        end = cutoff(observables, high) if omega_max is None else omega_max

        def hardest(omega: Array) -> Array:
            modes = basis(omega)[-2:]
            return (modes[:, :, None] * observables.columns(omega)).transpose(1, 0, 2).reshape(omega.size, -1)

        def without_zeros(omega: Array) -> Array:
            return np.tile(np.abs(observables.columns(omega)), 2)

        self.E0 = E0
        steps = max(1, int(np.ceil((high - low) * observables.fastest_decay / LARGEST_FALL)))
        bounds = first_edges(observables, *np.linspace(low, high, steps + 1), end)
        self.edges = refine(hardest, bounds, tolerance, floor=1e-40, size=without_zeros)
        nodes, weights = nodes_and_weights(self.edges)
        kernels = observables.columns(nodes.ravel()).reshape(*nodes.shape, -1)
        with_threshold = int(np.searchsorted(self.edges, high))
        size = basis(nodes[0, :1]).shape[0]
        moments, constant = np.zeros((size, observables.count)), np.zeros(observables.count)
        self.panels = []
        for p in reversed(range(len(nodes))):
            phi = basis(nodes[p])
            if p < with_threshold:
                self.panels.insert(0, (np.hstack([phi, moments]), constant.copy(), kernels[p]))
            weighted = weights[p][:, None] * kernels[p]
            moments = moments + phi @ weighted
            constant = constant + weighted.sum(axis=0)

    @property
    def nodes(self) -> int:
        """Number of quadrature nodes in use."""
        return (len(self.edges) - 1) * ORDER

    def __call__(self, c: Array, E0: Array) -> Array:
        """Return the integrals, shape (sample, column), for c (sample, Nb) and E0 (sample,) in GeV.

        Raises ValueError when a threshold lies outside the range the rule was made for.
        """
        if E0.size and not (self.E0[0] <= E0.min() and E0.max() <= self.E0[1]):
            raise ValueError(f"thresholds must lie in {self.E0} GeV")
        panel = np.clip(np.searchsorted(self.edges, E0, side="right") - 1, 0, len(self.panels) - 1)
        half = np.diff(self.edges)[panel] / 2
        lagrange, tail = _lagrange_tail((E0 - self.edges[panel]) / half - 1)
        tail *= half[:, None]
        result = np.empty((len(c), self.panels[0][1].size))
        for p in np.unique(panel):
            matrix, constant, kernels = self.panels[p]
            rows = np.flatnonzero(panel == p)
            products = c[rows] @ matrix
            inside, above = products[:, :ORDER], products[:, ORDER:]
            at_E0 = np.einsum("ij,ij->i", lagrange[rows], inside)[:, None]
            above -= at_E0 * constant
            inside -= at_E0
            inside *= tail[rows]
            above += inside @ kernels
            result[rows] = above
        return result
