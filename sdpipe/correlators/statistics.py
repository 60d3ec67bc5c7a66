"""Statistics of a time series of configurations: bins, autocorrelation, jackknife and bootstrap."""

from __future__ import annotations

import numpy as np

from sdpipe.arrays import Array
from sdpipe.physics import rng

WINDOW = 1.5
"""S of Wolff's automatic window: the ratio of the exponential to the integrated autocorrelation time."""


OUTLYING, APART = 10.0, 2.5
"""A configuration that is damaged is so many deviations of the others away, and so many times as far as any of them."""

SHARE = 0.02
"""Share of all configurations that can be told to be damaged; one always can."""

FEWEST_OTHERS = 8
"""Configurations that it takes to say what others are like."""


def outlying(samples: Array) -> tuple[list[int], int, float]:
    """Return rows of samples (n, t) that are unlike all others, the column where the first is farthest, and how far.

    The distance of a row is the largest of |y(t) - mean(t)| / deviation(t), y = arsinh[x(t) / max(|median|, median
    absolute deviation)], mean and deviation of the others: a logarithm far out, so that the long tail of noise like
    exp(z) is not told. Rows are taken away in the order of their distance in median absolute deviations; each must be
    OUTLYING away, and APART times as far as the farthest of those that stay.

    >>> x = 3 + np.sin(np.arange(40.0))[:, None] * [1.0, 2.0]
    >>> x[7, 1] = 400
    >>> outlying(x)[:2], outlying(x[:, :1])[0]
    (([7], 1), [])
    """
    middle = np.median(samples, axis=0)
    spread = np.median(np.abs(samples - middle), axis=0)
    size = np.maximum(np.abs(middle), spread)
    y = np.arcsinh(samples / np.where(size > 0, size, np.inf))
    order = np.argsort(-np.max(np.abs(samples - middle) / np.where(spread > 0, spread, np.inf), axis=1))
    for count in range(min(max(1, int(SHARE * len(y))), len(y) - FEWEST_OTHERS), 0, -1):
        rows, others = order[:count], order[count:]
        deviation = y[others].std(axis=0, ddof=1)
        far = np.abs(y - y[others].mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
        if far[rows].max(axis=1).min() > max(OUTLYING, APART * far[others].max()):
            column = int(far[rows[0]].argmax())
            x = samples[:, column]
            return sorted(map(int, rows)), column, float(abs(x[rows[0]] - x[others].mean()) / x[others].std(ddof=1))
    return [], 0, 0.0


def binned(samples: Array, size: int) -> Array:
    """Return means (n // size, t) over ``size`` consecutive rows of (n, t); rows left over at the end are dropped.

    >>> binned(np.array([[1.0], [3.0], [5.0], [7.0], [100.0]]), 2).tolist()
    [[2.0], [6.0]]
    """
    n = len(samples) // size
    return samples[: n * size].reshape(n, size, -1).mean(axis=1)


def from_jackknife(samples: Array) -> Array:
    """Return the configurations x_i = n x_mean - (n - 1) x_(i) behind jackknife samples x_(i), (n, t).

    Exact, since C(t) itself is an average over configurations: with them, mean and covariance of the mean are
    those of the jackknife, (n - 1) / n sum_i (x_(i) - x_mean)^2.
    """
    n = len(samples)
    return n * samples.mean(axis=0) - (n - 1) * samples


def covariance_of_mean(samples: Array) -> Array:
    """Return the covariance (t, t) of the mean of independent samples (cfg, t): their covariance over n."""
    return np.atleast_2d(np.cov(samples, rowvar=False, ddof=1)) / len(samples)


def covariance_of_bootstrap(samples: Array) -> Array:
    """Return the covariance (t, t) that bootstrap means (boot, t) spread with: that of the mean, no factor 1/n."""
    return np.atleast_2d(np.cov(samples, rowvar=False, ddof=1))


def bootstrap(configurations: Array, count: int, seed: int, stream: str) -> Array:
    """Return ``count`` bootstrap means (boot, t) of configurations (cfg, t), drawn with replacement."""
    n = len(configurations)
    drawn = rng.generator(seed, "bootstrap", stream).integers(n, size=(count, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in drawn]) / n
    return weights @ configurations


def autocorrelation_time(series: Array) -> tuple[Array, Array]:
    """Return tau_int and its error, each (t,), of series (n, t), in units of their spacing: the Gamma method.

        tau_int = [1/2 + sum_{s=1}^{W} Gamma(s) / Gamma(0)] [1 + (2 W + 1) / n] / (1 + 1 / n),  at least 1/2
        error^2 = 4/n (W + 1/2 - tau_int) tau_int^2

    with W the first s at which exp(-s / tau) - tau / sqrt(s n) < 0, tau = S / log((2 tau_int + 1) / (2 tau_int - 1)),
    or n/2. Independent series have tau_int = 1/2; correlation makes the error of the mean sqrt(2 tau_int) larger.

    U. Wolff, Comput. Phys. Commun. 156 (2004) 143, hep-lat/0306017, eqs. (42), (49)-(52).
    """
    n = len(series)
    deviation = series - series.mean(axis=0)
    power = np.abs(np.fft.rfft(deviation, 2 * n, axis=0)) ** 2
    gamma = np.fft.irfft(power, axis=0)[:n] / np.arange(n, 0, -1)[:, None]
    integrated = np.cumsum(gamma / np.where(gamma[0] > 0, gamma[0], 1), axis=0) - 0.5
    integrated = np.maximum(integrated, 0.5 + 1e-9)
    lag = np.arange(1, max(n // 2, 2))[:, None]
    tau = WINDOW / np.log((2 * integrated[lag[:, 0]] + 1) / (2 * integrated[lag[:, 0]] - 1))
    enough = np.exp(-lag / tau) - tau / np.sqrt(lag * n) < 0
    enough[-1] = True
    window = lag[np.argmax(enough, axis=0), 0]
    value = np.take_along_axis(integrated, window[None], axis=0)[0]
    error = 2 * value * np.sqrt(np.abs(window + 0.5 - value) / n)
    return value * (1 + (2 * window + 1) / n) / (1 + 1 / n), error


def covariance_by_gamma(samples: Array, size: int = 1) -> Array:
    """Return the covariance (t, t) of the mean of a chain of samples (cfg, t), autocorrelation included.

    Cov(t, t') = R(t, t') e(t) e(t'), e(t)^2 = 2 tau_int(t) var(t) / n by :func:`autocorrelation_time`, and R the
    correlation matrix of bins of ``size`` samples.
    """
    covariance = covariance_of_mean(binned(samples, size))
    variance = 2 * autocorrelation_time(samples)[0] * np.diag(covariance_of_mean(samples))
    factor = np.sqrt(variance / np.where(np.diag(covariance) > 0, np.diag(covariance), 1))
    return covariance * np.outer(factor, factor)


def growth(samples: Array, size: int) -> tuple[Array, float]:
    """Return by how much the error (t,) of the mean grows where bins of ``size`` samples (cfg, t) are doubled.

    Also returns the standard deviation of that relative growth for bins that are independent, 1 / sqrt(2 n_bins).

    >>> growth(np.array([[0.0], [0.0], [1.0], [1.0], [0.0], [0.0], [1.0], [1.0]]), 1)[0].round(3).tolist()
    [0.528]
    """
    once, twice = (np.sqrt(np.diag(covariance_of_mean(binned(samples, b)))) for b in (size, 2 * size))
    return twice / np.where(once > 0, once, 1) - 1, float(1 / np.sqrt(2 * (len(samples) // size)))
