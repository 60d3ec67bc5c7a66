"""Correlated linear least squares in closed form, for many data sets of one design at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdpipe.arrays import Array
from sdpipe.errors import UserError

RANK_ROUNDING = 1e-12
"""Eigenvalues of a correlation matrix below this are no information but rounding."""

SINGULAR_CUT = 1e-6
"""Directions in which the correlation matrix has less than this share of its largest eigenvalue are not used."""


def whitening(covariance: Array) -> Array:
    """Return W (direction, n) with W V W^T = 1 in the directions of a covariance V (n, n) that are numerically known.

    >>> whitening(np.array([[4.0, 4.0], [4.0, 4.0]])).shape
    (1, 2)
    """
    error = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(error, error))
    kept = values > SINGULAR_CUT * values[-1]
    return (vectors[:, kept] / np.sqrt(values[kept])).T / error


@dataclass(frozen=True, eq=False)
class Fit:
    """theta = G y with the smallest chi^2 = (y - D theta)^T V^-1 (y - D theta).

    ``G`` (..., k, n) holds for any data y (..., n) of covariance V; ``covariance`` (..., k, k) is that of theta,
    (D^T V^-1 D)^-1.
    """

    G: Array
    covariance: Array
    design: Array
    cholesky: Array

    @property
    def freedom(self) -> int:
        """Degrees of freedom, n - k."""
        return self.design.shape[0] - self.design.shape[1]

    def chi2(self, y: Array) -> Array:
        """Return chi^2 (...) of data y (..., n)."""
        residual = y - self(y) @ self.design.T
        return np.sum(np.linalg.solve(self.cholesky, residual[..., None])[..., 0] ** 2, axis=-1)

    def __call__(self, y: Array) -> Array:
        """Return theta (..., k) of data y (..., n)."""
        return np.einsum("...kn,...n->...k", self.G, y)


def fit(design: Array, covariance: Array, names: Sequence[str]) -> Fit:
    """Return the generalised least-squares fit of a linear model.

        theta = (D^T V^-1 D)^-1 D^T V^-1 y        (A. C. Aitken, Proc. R. Soc. Edinb. 55 (1935) 42)

    ``design`` D (n, k), ``covariance`` V (..., n, n); ``names`` (n,) are those of the data, for the message. Raises
    UserError where V is not positive definite, with the direction in which it is not, and where D does not determine
    theta.

    >>> one = fit(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.eye(3), "abc")
    >>> one(np.array([1.0, 3.0, 5.0])).round(9).tolist(), one.freedom
    ([1.0, 2.0], 1)
    """
    L = factorised(covariance, names)
    size = np.abs(design).max(axis=0)
    if (size == 0).any() or np.linalg.matrix_rank(design / size) < design.shape[1]:
        raise UserError(f"{len(design)} data do not determine {design.shape[1]} coefficients: two of them act alike")
    Q, R = np.linalg.qr(np.linalg.solve(L, np.broadcast_to(design / size, (*L.shape[:-1], design.shape[1]))))
    whitened = np.linalg.solve(L, np.broadcast_to(np.eye(len(design)), L.shape))
    inverse = np.linalg.inv(R) / size[:, None]
    return Fit(inverse @ np.swapaxes(Q, -1, -2) @ whitened, inverse @ np.swapaxes(inverse, -1, -2), design, L)


def factorised(covariance: Array, names: Sequence[str]) -> Array:
    """Return L with L L^T = V (..., n, n); raise UserError where V is not positive definite, with the direction.

    >>> factorised(np.ones((2, 2)), ["a = 0.1", "a = 0.2"])
    Traceback (most recent call last):
        ...
    sdpipe.errors.UserError: the covariance is not positive definite: ...
    """
    error = np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), 0))
    if not np.isfinite(covariance).all() or (error == 0).any():
        raise UserError("the covariance is not finite, or an error is 0")
    correlation = covariance / (error[..., :, None] * error[..., None, :])
    values, vectors = np.linalg.eigh(correlation)
    if (values[..., 0] <= RANK_ROUNDING).any():
        worst = np.unravel_index(np.argmin(values[..., 0]), values.shape[:-1])
        direction = vectors[worst][:, 0]
        most = np.argsort(-np.abs(direction))[:3]
        words = " ".join(f"{direction[i]:+.2f} [{names[i]}]" for i in most)
        raise UserError(
            f"the covariance is not positive definite: eigenvalue {values[worst][0]:.2g} of the correlation matrix in "
            f"the direction {words}; leave one of these out"
        )
    return error[..., :, None] * np.linalg.cholesky(correlation)
