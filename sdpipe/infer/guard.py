"""Whether networks may be used for a correlator: its noise must be that with which they were trained."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sdpipe.learn.trained import Network
from sdpipe.physics.noise import Noise

Array = NDArray[np.float64]

FACTOR = 2.0
"""Ratio of variances, either way, from which on the noise of a correlator is flagged."""

SHARE = 0.99
"""Part of the noise variance of the linear prediction that the directions which matter carry."""


def noise_ratios(response: Array, training: Array, other: Array) -> tuple[Array, Array]:
    """Return the ratios of two noise covariances in the directions that matter, and these directions.

    With training covariance L L^T (t, t) and ``response`` A (t, output) of the linear prediction C -> C A, the
    singular vectors w_k of L^T A = W s U^T are independent directions of unit training noise, in the order of the
    variance s_k^2 that they cause in the prediction. Those that matter are the first K that carry SHARE of
    sum_k s_k^2. All others are directions in which the prediction does not listen; there a covariance from few
    hundred configurations is not known to a factor 2 anyway. The ratios are the eigenvalues of

        M = W_K^T L^-1 V L^-T W_K      (K, K),     V = ``other``, (t, t),

    the generalised eigenvalues of V against L L^T in that subspace: 1 for equal noise.

    Returns
    -------
    ratios (K,), ascending, and directions (t, K) in which the noise of C is so many times larger.
    """
    error = np.sqrt(np.diag(training))
    factor = error[:, None] * np.linalg.cholesky(training / np.outer(error, error))
    W, s, _ = np.linalg.svd(factor.T @ response, full_matrices=False)
    share = np.cumsum(s**2) / np.sum(s**2)
    W = W[:, : int(np.searchsorted(share, SHARE)) + 1]
    half = np.linalg.solve(factor.T, W)
    ratios, vectors = np.linalg.eigh(half.T @ other @ half)
    return ratios, factor @ W @ vectors


def compare(members: list[Network], mean: Array, covariance: Array) -> str | None:
    """Return what is wrong with the noise of a correlator, or None.

    ``mean`` (t,) and ``covariance`` (t, t) of the mean are compared with those of the training of ``members``,
    one network a sigma, both relative to their C(t_ref): networks work at any normalisation.
    """
    first = members[0]
    training = Noise(tuple(first.times), first.lattice_mean, first.covariance, "training noise")
    i = training.reference
    response = np.concatenate([m.matrix @ m.linear_weight for m in members], axis=1)
    ratios, directions = noise_ratios(response, training.covariance / training.mean[i] ** 2, covariance / mean[i] ** 2)
    worst = int(np.argmax(np.abs(np.log(np.maximum(ratios, 1e-300)))))
    if 1 / FACTOR <= ratios[worst] <= FACTOR:
        return None
    relative = np.abs(directions[:, worst]) / np.sqrt(np.diag(training.covariance)) * abs(training.mean[i])
    t = first.times[int(np.argmax(relative))]
    return (
        f"the variance of its noise is {ratios[worst]:.3g} times that of the training noise (allowed: 1/{FACTOR:g} to "
        f"{FACTOR:g}) in a direction that matters, strongest at t = {t}"
    )


def remedy(root: str, name: str, data: dict[str, Any]) -> str:
    """Return the command that trains on the noise of the correlator ``data``, keys of the section ``noise``."""
    section = yaml.safe_dump({"kind": "correlator", **data}, default_flow_style=True, sort_keys=False, width=10**6)
    return "retrain: " + shlex.join(["sdpipe", "run", root, f"noise={section.strip()}", "--run", f"{root}-{name}"])
