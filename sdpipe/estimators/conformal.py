"""Split-conformal prediction: the factor that makes an error cover what it promises, from draws of known truth."""

from __future__ import annotations

from math import ceil

import numpy as np

from sdpipe.arrays import Array


def draws_needed(level: float) -> int:
    """Return the fewest calibration draws n with ceil((n + 1) level) <= n.

    >>> draws_needed(0.683), draws_needed(0.954), draws_needed(0.997)
    (3, 21, 333)
    """
    n = ceil(level / (1 - level) - 1e-9)
    return n if ceil((n + 1) * level - 1e-9) <= n else n + 1


def conformal_factor(scores: Array, level: float) -> Array:
    """Return q, the ceil((n + 1) level)-th smallest of n scores (n, ...), along the first axis.

    A new score exchangeable with these is at most q with probability >= level, whatever their distribution:
    split-conformal prediction, J. Lei et al., J. Am. Stat. Assoc. 113 (2018) 1094. Errors are never narrowed: where
    they cover more than a normal error would, q is the :func:`gaussian_quantile` of the level.

    Raises ValueError when there are fewer scores than :func:`draws_needed`.

    >>> float(conformal_factor(np.arange(1.0, 100.0), 0.683)), float(conformal_factor(np.zeros(99), 0.954).round(2))
    (69.0, 2.0)
    """
    n = len(scores)
    if n < draws_needed(level):
        raise ValueError(f"{n} draws cannot calibrate level {level}: {draws_needed(level)} are needed")
    return np.maximum(np.sort(scores, axis=0)[ceil((n + 1) * level - 1e-9) - 1], gaussian_quantile(level))


def conformal_rank(scores: Array, calibration: Array) -> Array:
    """Return the level (n, ...) at which the calibrated error just covers each score: 1 where none does.

    The smallest k / (m + 1) whose conformal factor from m calibration scores (m, ...) reaches the score, or the level
    of a normal error that reaches it where that is smaller: the share of ranks <= level is the coverage at that level.

    >>> conformal_rank(np.array([0.5, 2.5, 9.0]), np.array([1.0, 2.0, 3.0])).tolist()
    [0.25, 0.75, 1.0]
    """
    from scipy.special import erf  # where it is needed, since a config is read without it

    flat, reference = scores.reshape(len(scores), -1), np.sort(calibration.reshape(len(calibration), -1), axis=0)
    below = [np.searchsorted(reference[:, j], flat[:, j], side="left") for j in range(flat.shape[1])]
    rank = ((np.stack(below, axis=1) + 1) / (len(reference) + 1)).reshape(scores.shape)
    return np.minimum(rank, erf(scores / np.sqrt(2)))


def gaussian_quantile(level: float) -> float:
    """Return the number of standard deviations that hold ``level`` of a normal density, on both sides.

    >>> round(gaussian_quantile(0.954), 3)
    1.995
    """
    from scipy.special import ndtri  # where it is needed, since a config is read without it

    return float(ndtri((1 + level) / 2))
