"""Averages over models of a limit, by the Akaike weight of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.infer.least_squares import Fit, fit


@dataclass(frozen=True)
class Model:
    """Which columns of the design, the constant 0 among them, and which rows of the data it takes."""

    columns: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Average:
    """Limits of many data sets y (..., n) of one design, by each of ``models`` and on average.

    Attributes
    ----------
    value, weight, chi2
        Of each model, (model, ...); the weights of a data set add up to 1.
    maps
        (model, ..., n): the limit of a model is linear in the data, maps . y.
    central
        (...): sum of weight times value.
    error
        (source, ...): of each source of the covariance, then ``model``, the spread between models.
    coefficients
        (model, term, ...), NaN where a model lacks the term.
    freedom
        (model,), degrees of freedom.
    """

    models: tuple[Model, ...]
    value: Array
    weight: Array
    chi2: Array
    maps: Array
    central: Array
    error: Array
    coefficients: Array
    freedom: Array

    @property
    def total(self) -> Array:
        """The total error (...)."""
        return np.sqrt(np.sum(self.error**2, axis=0))

    def covariance(self, between: Array) -> Array:
        """Return the covariance (p, q) of the limits of data sets y (p, n), from that of all data (p, n, q, n).

            sum_m sqrt(w_m(p) w_m(q)) G_m(p) V(p, q) G_m(q)^T,

        whose diagonal is that of :func:`average`, and which is positive semidefinite for any V that is.
        """
        weighed = np.sqrt(self.weight)[..., None] * self.maps
        p, n = weighed.shape[1:]
        V, covariance = between.reshape(p * n, p * n), np.zeros((p, p))
        for one in weighed:
            left = np.einsum("pn,pnq->pq", one, V.reshape(p, n, p * n)).reshape(p, p, n)
            covariance += np.einsum("pqn,qn->pq", left, one)
        return covariance

    @property
    def spread(self) -> Array:
        """The covariance (p, q) of the spread between models."""
        off = np.sqrt(self.weight) * (self.value - self.central)
        return off.T @ off


def models(design: Array, ensemble: Sequence[int], leave_out: int) -> list[Model]:
    """Return every subset of the columns beyond the constant, on all ensembles and on all but up to ``leave_out``.

    ``ensemble`` (n,) says which ensemble a row is of. Those are left out which do not determine their coefficients.
    """
    chosen_models, columns, groups = [], range(1, design.shape[1]), np.asarray(ensemble)
    for out in range(leave_out + 1):
        for absent in combinations(sorted(set(ensemble)), out):
            rows = np.flatnonzero(~np.isin(groups, absent))
            for k in range(design.shape[1]):
                for chosen in combinations(columns, k):
                    model = Model((0, *chosen), tuple(rows.tolist()))
                    part = design[np.ix_(model.rows, model.columns)]
                    if len(np.unique(groups[rows])) > k and _determined(part):
                        chosen_models.append(model)
    return chosen_models


def _determined(part: Array) -> bool:
    size = np.abs(part).max(axis=0)
    return bool((size > 0).all()) and np.linalg.matrix_rank(part / np.where(size, size, 1)) == part.shape[1]


def average(
    y: Array, sources: Mapping[str, Array], design: Array, chosen: Sequence[Model], names: Sequence[str]
) -> Average:
    """Return the limits of data y (..., n), the coefficient of the first column of ``design`` (n, 1 + terms).

        w_m ~ exp[-(chi^2_m + 2 k_m + 2 n_cut,m) / 2]
        c = sum_m w_m c_m,    error_s^2 = sum_m w_m G_m V_s G_m^T,    error_model^2 = sum_m w_m (c_m - c)^2

    with k_m coefficients and n_cut,m data left out (W. I. Jay, E. T. Neil, arXiv:2008.01069). ``sources`` are the
    covariances V_s (..., n, n) of y by source, which add up to that of the fit. Raises UserError where their sum is
    not positive definite or nothing is ``chosen``.

    >>> x, V = np.array([0.1, 0.2, 0.3, 0.4]), {"latt": 1e-4 * np.eye(4)}
    >>> D = np.stack([np.ones(4), x, x**2], axis=1)
    >>> limit = average(1 + 2 * x, V, D, models(D, range(4), 0), "abcd")
    >>> [limit.models[i].columns for i in np.argsort(-limit.weight)[:2]], round(float(limit.central), 9)
    ([(0, 1), (0, 1, 2)], 1.0)
    """
    if not chosen:
        raise UserError(f"{len(design)} data do not determine a limit with {design.shape[1]} coefficients")
    total = sum(sources.values())
    n, shape = len(design), y.shape[:-1]
    maps = np.zeros((len(chosen), *np.broadcast_shapes(shape, total.shape[:-2]), n))
    value, chi2 = np.empty((2, len(chosen), *shape))
    coefficients, freedom = np.full((len(chosen), design.shape[1], *shape), np.nan), np.empty(len(chosen), int)
    penalty = np.empty(len(chosen))
    for m, model in enumerate(chosen):
        rows = list(model.rows)
        fitted: Fit = fit(design[np.ix_(rows, model.columns)], total[..., rows, :][..., rows], [names[r] for r in rows])
        maps[m][..., rows] = fitted.G[..., 0, :]
        theta = fitted(y[..., rows])
        coefficients[m, list(model.columns)] = np.moveaxis(theta, -1, 0)
        value[m], chi2[m], freedom[m] = theta[..., 0], fitted.chi2(y[..., rows]), fitted.freedom
        penalty[m] = 2 * len(model.columns) + 2 * (n - len(rows))
    score = -(chi2 + penalty.reshape(-1, *(1,) * len(shape))) / 2
    weight = np.exp(score - score.max(axis=0))
    weight /= weight.sum(axis=0)
    central = np.sum(weight * value, axis=0)
    variance = [np.sum(weight * np.einsum("m...i,...ij,m...j->m...", maps, V, maps), axis=0) for V in sources.values()]
    variance.append(np.sum(weight * (value - central) ** 2, axis=0))
    return Average(
        tuple(chosen), value, weight, chi2, maps, central, np.sqrt(np.stack(variance)), coefficients, freedom
    )
