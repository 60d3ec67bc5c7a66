"""Do error bars hold: coverage, split-conformal factors, and the width that the data cannot resolve.

Arrays have samples first: central, truth and error (sample, ...), trailing axes such as (sigma, E).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.arrays import Array
from sdpipe.errors import UserError

T = TypeVar("T", Array, xr.DataArray)

NEIGHBOURS = 4
"""A correlator is compared with this share, 1/4, of the reference draws: those nearest in noise scale."""

ROWS = 500
"""Correlators, bootstrap samples included, that are predicted at once: bounds the memory."""

BAND = 3.0
"""Standard deviations of the binomial distribution within which a coverage agrees with its level."""


def rules_of(validation: xr.Dataset) -> list[int]:
    """Return which ``scale_rule`` sizes the draws of each validation family, by its index.

    A correlator is normalised, before the networks see it, by a factor that is ``given`` or by that of largest
    evidence, ``auto``. Errors that hold for one need not hold for the other: the first families are the prior, one for
    each rule that the run calibrates; the others are normalised by the first.
    """
    calibrated = validation.sizes["scale_rule"]
    return [i if i < calibrated else 0 for i in range(validation.sizes["family"])]


def calibrating(validation: xr.Dataset, rule: str) -> xr.Dataset:
    """Return the draws (sample) of ``validation.zarr`` that calibrate what is normalised by this ``scale_rule``.

    Raises UserError where the run calibrates no such thing.
    """
    rules = validation.scale_rule.values.tolist()
    if rule not in rules:
        words = f"this run calibrates what is normalised by: {', '.join(rules)}"
        raise UserError(f"scale: {words}; set validation.families to test others, or leave scale at auto")
    prior = validation.isel(family=rules.index(rule))
    return prior.isel(sample=~prior.tested.values)


def nearest(scale: float, reference: Array, count: int | None = None) -> NDArray[np.intp]:
    """Return the indices of the ``count`` reference noise scales nearest to ``scale`` in |log|.

    Without it they are ``len(reference) / NEIGHBOURS``.

    >>> nearest(1.0, np.array([0.1, 10.0, -0.9, 3.0])).tolist()
    [2]
    """
    distance = np.abs(np.log(np.abs(reference) / abs(scale)))
    return np.argsort(distance, kind="stable")[: count or max(len(reference) // NEIGHBOURS, 1)]


def band(level: float, count: int) -> float:
    """Return how far a coverage from ``count`` spectra may be from ``level``: BAND binomial standard deviations.

    Energies of one spectrum are so strongly correlated that they count as one.

    >>> round(band(0.5, 900), 6)
    0.05
    """
    return BAND * float(np.sqrt(level * (1 - level) / count))


def verdict(coverage: float, level: float, count: int) -> str:
    """Return ``holds``, or ``too narrow`` or ``too wide`` where a coverage leaves the band around its level.

    >>> verdict(0.69, 0.683, 1000), verdict(0.38, 0.683, 1000), verdict(0.99, 0.683, 1000)
    ('holds', 'too narrow', 'too wide')
    """
    if abs(coverage - level) <= band(level, count):
        return "holds"
    return "too narrow" if coverage < level else "too wide"


SHARE = 0.5
"""Part of what a posterior cannot resolve that is added to the error of networks which correct it."""


def beyond_noise(scale: T, latt: T, unresolved: T | None = None) -> T:
    """Return the part of the error b that networks give which is not that of the lattice noise, source ``scale``.

        Delta_scale^2 = max(b^2 - Delta_latt^2, 0) + (u/2)^2

    b was trained on noisy data: it holds their noise, which is the source ``latt``. Networks that correct the posterior
    are too sure of themselves off the prior; u, what the posterior does not resolve, mends that: the 1/2 was tuned on
    draws that neither calibrate nor test.
    """
    beyond = np.maximum(scale**2 - latt**2, 0)
    return np.sqrt(beyond if unresolved is None else beyond + (SHARE * unresolved) ** 2)


SMALLEST = float(np.finfo(np.float64).tiny)
"""No error counts as smaller."""


LARGEST = 5.0
"""No score counts as larger where scores are correlated."""

SPLITS, PART = 20, 0.6
"""How often scores are split for their correlation, and the part of them that eigenvectors are of."""


def errors_off(difference: T, error: T) -> T:
    """Return difference/error, which is 0 where there is no difference.

    A draw that has nothing at an energy has estimate, truth and error 0 there, in the precision that they are kept in:
    it is right, and not 0/0.

    >>> errors_off(np.array([0.0, -2.0, 1.0]), np.array([0.0, 1.0, 0.0])).tolist()[:2]
    [0.0, -2.0]
    """
    return difference / np.maximum(error.astype(float), SMALLEST)


def correlation(scores: Array) -> Array:
    """Return the correlation (..., E, E) between energies of scores (n, ..., E) around zero.

    Neighbouring energies are so alike that the smallest eigenvalues of the sample correlation are far too small, and
    chi^2 with it far too large. So eigenvectors V are those of one part of the scores, the variances along them those
    of the other part, and V diag(variances) V^T is averaged over SPLITS random parts: NERCOME, C. Lam, Ann. Stat. 44
    (2016) 928; B. Joachimi, arXiv:1612.00752. Scores beyond LARGEST, and NaN, count as LARGEST: one draw, where an
    estimate of nothing has an error of next to nothing, would be all that is seen.

    >>> x = np.random.default_rng(1).standard_normal((400, 4))
    >>> R = correlation(x[:, :1] + 1e-3 * x[:, 1:])
    >>> bool(np.linalg.eigvalsh(R)[0] > 0.5e-6), bool(np.allclose(R, R.T)), np.diag(R).round(12).tolist()
    (True, True, [1.0, 1.0, 1.0])
    """
    x, generator = np.nan_to_num(scores, nan=LARGEST).clip(-LARGEST, LARGEST), np.random.default_rng(0)
    cut = max(1, min(len(x) - 1, round(PART * len(x))))
    second = np.zeros((*x.shape[1:], x.shape[-1]))
    for _ in range(SPLITS):
        one, other = np.split(x[generator.permutation(len(x))], [cut])
        _, V = np.linalg.eigh(np.einsum("n...e,n...f->...ef", one, one))
        variance = np.mean(np.einsum("n...e,...ek->n...k", other, V) ** 2, axis=0)
        second += (V * variance[..., None, :]) @ np.swapaxes(V, -1, -2)
    root = np.sqrt(np.maximum(np.diagonal(second, axis1=-2, axis2=-1), SMALLEST))
    return second / (root[..., :, None] * root[..., None, :])


def integral_error(weight: Array, total: Array, correlations: Array) -> Array:
    """Return the error (...) of sum_E w rho from errors (..., E) and correlations (..., E, E): [w D R D w]^(1/2)."""
    weighed = weight * total
    return np.sqrt(np.einsum("...e,...ef,...f->...", weighed, correlations, weighed))


@dataclass(frozen=True, eq=False)
class Resolution:
    """What the data cannot resolve: residuals of the central ensemble on noise-free draws of the prior.

    residual (draw, sigma, E) = mean over replicas of the estimate - truth; noise_scale (draw,) is
    s = C(t_ref) / C_latt(t_ref) of the draw.
    """

    residual: Array
    noise_scale: Array

    def covariance(self, noise_scale: float) -> Array:
        """Return <residual residual'> (sigma, E, E) over the quarter of draws nearest in noise scale."""
        near = self.residual[nearest(noise_scale, self.noise_scale)]
        return np.einsum("dse,dsf->sef", near, near) / len(near)

    def width(self, noise_scales: Array) -> Array:
        """Return Delta_resolution = sqrt(<residual^2>) (n, sigma, E) at each of the noise scales (n,)."""
        squares = self.residual**2
        return np.sqrt(np.stack([squares[nearest(s, self.noise_scale)].mean(axis=0) for s in noise_scales]))
