"""How HLT chooses lambda: by the plateau of a scan, the balance of both errors, or the largest evidence.

Rules of a scan see what a stability plot shows; :class:`~sdpipe.estimators.hlt_solution.HLT` makes the scans, and
estimates of what the rules choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sdpipe.arrays import Array

Rule = Literal["evidence", "plateau", "balance"]
RULES = get_args(Rule)

ALPHAS = (0.0, 1.0, 1.99)
"""Weights e^(alpha a omega) of the literature (arXiv:1903.06476)."""

LAMBDAS = 50 * 10 ** (-np.arange(0, 109) / 6.0)
"""lambda' of a stability plot, from the 50 at which lsdensities begins, six a decade as it has below 1."""

PLATEAU = 6
"""Consecutive compatible results that make a plateau (lambdaScanCap of lsdensities)."""

CONTROL = 0.1
"""The systematic error of a plateau compares lambda' with this multiple of it (kfactor of lsdensities)."""

LARGEST_MISFIT = 0.1
"""Largest A/A[0] of a plateau (what lsdensities calls A0cut and leaves to the user)."""

BALANCE = (10.0, 1.0)
"""Values of (A/A[0]) / B of the result and of its control."""

WIDER = LAMBDAS[0] * 10 ** (np.arange(48, 0, -1) / 6.0)
"""lambda' above those, where the balance may lie."""

EVIDENCE_MU = 10 ** np.arange(2, -26.001, -0.2)
"""mu of the search for the largest evidence, in units of the largest S^2."""


@dataclass(frozen=True, eq=False)
class Stability:
    """Everything that a stability plot shows, against lambda'; arrays (sigma, E, lambda).

    Attributes
    ----------
    lambdas
        lambda' = lambda / (1 - lambda), descending, shape (lambda,).
    mean, error
        rho_sigma(E) and its statistical error.
    misfit, noise
        A/A[0] and B.
    mu
        mu of each.
    """

    lambdas: Array
    mean: Array
    error: Array
    misfit: Array
    noise: Array
    mu: Array


def plateau(own: Stability, others: Sequence[Stability]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return where in a scan the plateau begins, (sigma, E), and whether there is one; else what is nearest to one.

    The rule is that of lsdensities (github.com/LupoA/lsdensities, InverseProblemWrapper; E. Bennett et al.,
    arXiv:2405.01388): from large lambda' down, the first of ``PLATEAU`` in a row whose 1-sigma intervals overlap with
    the one before, and with those of ``others``, scans of other alpha at the same lambda', A/A[0] below
    ``LARGEST_MISFIT``. The systematic error is half the change to 0.1 lambda'.
    """
    pulls = np.full(own.mean.shape, np.inf)
    pulls[..., 1:] = np.abs(np.diff(own.mean)) / (own.error[..., 1:] + own.error[..., :-1])
    for scan in others:
        pulls = np.maximum(pulls, np.abs(scan.mean - own.mean) / (scan.error + own.error))
    pulls[own.misfit > LARGEST_MISFIT] = np.inf
    windows = np.lib.stride_tricks.sliding_window_view(pulls, PLATEAU, axis=-1).max(axis=-1)
    found = (windows <= 1).any(axis=-1)
    first = np.where(found, (windows <= 1).argmax(axis=-1), windows.argmin(axis=-1))
    return first, found


def balance(scan: Stability) -> tuple[list[Array], NDArray[np.bool_]]:
    """Return lambda' (sigma, E) of each of ``BALANCE``, and whether all are within the scan.

    The rule A/A[0] = 10 B is that of Get_optimal_lambda and Get_INVLT in github.com/GGagliardi/_CorrAnalysis_2.0, where
    10 is a number that each analysis chooses, and of C. Alexandrou et al., arXiv:2212.08467. The systematic error is
    D erf(P / sqrt 2) with D the change to A/A[0] = B, a tenth of that, and P = D over the statistical error there.
    """
    ratio = np.log(scan.misfit / scan.noise)  # falls with lambda'
    chosen, found = [], np.full(ratio.shape[:-1], True)
    for target in np.log(BALANCE):
        below = ratio < target
        i = np.clip(below.argmax(axis=-1), 1, None)
        found &= below.any(axis=-1) & ~below[..., 0]
        r0, r1 = (np.take_along_axis(ratio, (i - k)[..., None], -1)[..., 0] for k in (1, 0))
        step = np.clip((r0 - target) / np.where(r0 > r1, r0 - r1, 1), 0, 1)
        chosen.append(np.exp(np.log(scan.lambdas[i - 1]) + step * np.log(scan.lambdas[i] / scan.lambdas[i - 1])))
    return chosen, found


def best_mu(z: Array, singular: Array) -> Array:
    """Return mu (n,) of the largest evidence of z / s (n, k) ~ N(0, v), v = 1 + S^2 / mu, with S (k,) ``singular``.

    It minimises sum_k [z_k^2 / (s^2 v_k) + log v_k] / 2: rho is a Gaussian process of covariance
    tau^2 e^(alpha a omega) delta(omega - omega'), tau^2 = s^2 / mu (L. Del Debbio, A. Lupo, M. Panero and N. Tantalo,
    arXiv:2311.18125 and 2409.04413). The systematic error is tau A[g]^(1/2): with the statistical one it makes the
    posterior's.
    """
    mu = EVIDENCE_MU * singular[0] ** 2
    v = 1 + singular**2 / mu[:, None]
    loss = (z**2) @ (1 / v).T + np.log(v).sum(axis=1)
    i = np.clip(loss.argmin(axis=1), 1, len(mu) - 2)
    left, middle, right = (loss[np.arange(len(z)), i + k] for k in (-1, 0, 1))
    curvature = left - 2 * middle + right
    step = np.where(curvature > 0, (left - right) / (2 * np.where(curvature > 0, curvature, 1)), 0)
    return mu[i] * (mu[1] / mu[0]) ** np.clip(step, -1, 1)
