"""Whether to trust a result: could these data come from the prior, from any spectral density, with this noise?

C (t,) is a correlator, s = C(t_ref) / C_latt(t_ref) its noise scale, S the covariance of clean correlators of
the prior around their mean mu, N = Cov_latt that of the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.arrays import Array
from sdpipe.estimators.posterior import Posterior
from sdpipe.estimators.protocol import Bounded
from sdpipe.infer.budget import answered_by, budget_of, spread
from sdpipe.infer.calibration import NEIGHBOURS, Resolution, beyond_noise, calibrating, errors_off, nearest
from sdpipe.physics.kernels import Kernel
from sdpipe.physics.noise import IMPOSSIBLE, Noise, cholesky

REACH = 10.0
"""An amplitude is looked for within this factor of the one that makes |C(t_ref)| typical of the training set."""

AMPLITUDES = 401
"""Amplitudes tried, evenly spaced in their logarithm: steps of about 1 %, far below what the data tell."""

AMPLITUDE = 10.0
"""Largest sqrt(int d omega rho^2), in sqrt(GeV), that the goodness of fit allows a correlator of the size that a rho of
order 1 makes, as those of the prior are; that of a larger correlator may be larger by as much."""

SUSPICIOUS = 0.01
"""p-value below which a correlator counts as out of the training distribution."""

ENOUGH = 200
"""Draws from which p-values are below that."""

ANSWERED = 0.5
"""Part of all points at which an estimator has an answer of its own, or else it is not trusted anywhere."""

FAR = 10.0
"""Errors from the central value from which on an estimator contradicts it."""

FACTOR = 2.0
"""Ratio of variances, either way, from which on the noise of a correlator is flagged."""

LARGEST = 2**23
"""Numbers in an array of the goodness of fit: bounds the memory."""

LISTENED = 0.99
"""Part of the noise variance of the linear prediction that the directions which matter carry."""


class Flag(NamedTuple):
    """Something that speaks against a result: a reason code of :data:`sdpipe.show.flags.WORDS`, and its numbers."""

    code: str
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class PriorOfData:
    """The prior of C(t) in second moments, with the lattice noise: mean mu (t,), covariance S (t, t), noise.

    >>> noise = Noise((1, 2), np.array([1.0, 0.5]), np.diag([3.0, 0.75]), "example")
    >>> PriorOfData(np.zeros(2), np.diag([1.0, 0.25]), noise).distance(np.array([[1.0, 0.5]])).round(12).tolist()
    [0.5]
    """

    mean: Array
    covariance: Array
    noise: Noise

    @cached_property
    def _directions(self) -> tuple[Array, Array]:
        """R (t, t) and lambda (t,) with R^T N R = 1 and R^T S R = diag(lambda).

        From a singular value decomposition of the factor of S, whose singular values span many orders of magnitude.
        """
        U, S, _ = np.linalg.svd(np.linalg.solve(self.noise.cholesky, cholesky(self.covariance)))
        return np.linalg.solve(self.noise.cholesky.T, U), S**2

    def _quadratic(self, correlators: Array, noise_scales: Array) -> tuple[Array, Array]:
        """Return (C - mu)^T V^-1 (C - mu) and log det V up to a constant, (n,), V = S + s^2 N, for C (n, t), s (n,)."""
        rotation, signal = self._directions
        variance = signal + noise_scales[:, None] ** 2
        return np.sum(((correlators - self.mean) @ rotation) ** 2 / variance, axis=1), np.log(variance).sum(axis=1)

    def distance(self, correlators: Array) -> Array:
        """Return the squared Mahalanobis distance (n,) of C (n, t), each with its own noise scale.

            d^2 = (C - mu)^T (S + s^2 N)^-1 (C - mu)

        In directions that the noise hides, S << s^2 N, it counts the noise; in those of high signal the
        prior. So every direction counts as one whatever the effective rank.
        """
        return self._quadratic(correlators, self.noise.scale(correlators))[0]

    def amplitude(self, correlator: Array, typical: float) -> float:
        """Return the factor a that makes a C (t,) most likely under the prior, |a C(t_ref)| near ``typical``.

        A correlator of unknown normalisation leaves it free; the largest evidence a^t N(a C; mu, S + a^2 s^2 N),
        Gaussian in second moments, fixes it within a factor REACH.
        """
        centre = typical / abs(correlator[self.noise.reference])
        a = centre * np.geomspace(1 / REACH, REACH, AMPLITUDES)
        d2, log_det = self._quadratic(a[:, None] * correlator, a * self.noise.scale(correlator))
        return float(a[np.argmax(correlator.size * np.log(a) - (d2 + log_det) / 2)])


def smallest_p_value(count: int) -> float:
    """Return the smallest p-value that ``count`` draws of a :class:`Reference` can give.

    >>> round(smallest_p_value(800), 4), round(smallest_p_value(199), 4)
    (0.01, 0.01)
    """
    return 2 / (1 + compared(count))


def compared(count: int) -> int:
    """Return with how many of so many draws a correlator is compared: a quarter, but ENOUGH where there are as many.

    >>> compared(1600), compared(400), compared(100)
    (400, 200, 100)
    """
    return max(count // NEIGHBOURS, min(count, ENOUGH))


def too_few(samples: int) -> list[Flag]:
    """Return a flag where no p-value can flag: half of the draws per family calibrate, and these are too few.

    >>> too_few(400), too_few(240)
    ([], [Flag(code='too_few_draws', facts={'samples': 240, 'smallest': 0.01652892561983471})])
    """
    smallest = smallest_p_value(samples // 2)
    return [] if smallest < SUSPICIOUS else [Flag("too_few_draws", {"samples": samples, "smallest": smallest})]


@dataclass(frozen=True, eq=False)
class Reference:
    """Draws of the prior to compare a correlator with: noise scale, distance and spread of each, (n,).

    ``spread`` is the standard deviation over networks, averaged over sigma and E.

    >>> Reference(np.ones(79), np.arange(79.0), np.arange(79.0)).p_value(1.0, distance=75.5, spread=3.0)
    0.1
    """

    noise_scale: Array
    distance: Array
    spread: Array

    @classmethod
    def from_validation(cls, validation: xr.Dataset, rule: str) -> Reference:
        """Return the draws of ``validation.zarr`` that calibrate what was normalised by this ``scale_rule``."""
        prior = calibrating(validation, rule)
        return cls(*(prior[k].values.astype(float) for k in ("noise_scale", "distance", "spread")))

    def p_value(self, noise_scale: float, distance: float, spread: float) -> float:
        """Return the probability that a draw of the prior with its noise is as far off in distance or spread.

            p = min(1, 2 min(p_distance, p_spread)),   p_x = (1 + #{x_draw >= x}) / (1 + n)

        among the n draws nearest in noise scale: uniform ranks for exchangeable values, and Bonferroni.
        """
        near = nearest(noise_scale, self.noise_scale, compared(len(self.noise_scale)))
        farther = min(np.sum(self.distance[near] >= distance), np.sum(self.spread[near] >= spread))
        return min(1.0, float(2 * ((1 + farther) / (1 + near.size))))


def goodness_of_fit(kernel: Kernel, noise: Noise, low: float, correlators: Array) -> tuple[Array, Array]:
    """Return chi^2 (n,) between C (n, t) and the nearest that a spectral density makes, and its degrees of freedom.

    sigma_k and u_k are singular values and left vectors of L^-1 b_T(t, omega), L L^T = Cov_latt + (floor C/s)^2 with
    the floor of the noise, with measure d omega on a fine logarithmic grid above ``low`` GeV. A rho of either sign and
    of size AMPLITUDE g adds at most r_k = AMPLITUDE g sigma_k / s to the data along u_k, in standard deviations, with
    the size g of C, the rms over t of C(t) / [int d omega b_T^2]^(1/2) but not below 1. Where r_k is below 1 the data
    should hold noise alone, elsewhere no more than r_k and noise:

        chi^2 = sum_k max(|d_k| - r_k, 0)^2, d = u^T L^-1 C / s, with 0 for the r_k below 1

    The terms that are not zero are the degrees of freedom. Given which these are, the sum of a correlator that a rho
    makes is no larger in distribution than a chi^2 with as many.

    >>> decay = np.array([1.0, 0.5, 0.25, 0.125])
    >>> noise = Noise((1, 2, 3, 4), decay, 1e-4 * np.eye(4), "example")
    >>> goodness_of_fit(Kernel("exponential", 8), noise, 0.2, np.stack([decay, decay * [1, -1, 1, -1]]))[1].tolist()
    [0, 2]
    """
    omega = np.geomspace(low, 40 / kernel.spacing, 2000)
    columns = kernel(np.array(noise.times)[:, None], omega) * np.sqrt(omega * np.log(omega[1] / omega[0]))
    error, norm = np.sqrt(np.diag(noise.covariance)), np.linalg.norm(columns, axis=1)
    triangle = np.linalg.qr((columns / error[:, None]).T, mode="r").T  # all of the columns that matters
    correlation, rows = noise.covariance / np.outer(error, error), max(1, LARGEST // error.size**2)
    parts = []
    for C in np.array_split(np.asarray(correlators, float), -(-len(correlators) // rows)):
        scales, size = np.abs(noise.scale(C))[:, None], np.maximum(np.sqrt(np.mean((C / norm) ** 2, axis=1)), 1)
        data = C / (error * scales)
        floor = (noise.floor * data) ** 2 if noise.floor else np.zeros((1, error.size))
        whiten = np.linalg.inv(np.linalg.cholesky(correlation + floor[:, :, None] * np.eye(error.size)))
        vectors, singular, _ = np.linalg.svd(whiten @ triangle, full_matrices=False)
        along = np.abs(vectors.transpose(0, 2, 1) @ (whiten @ data[:, :, None]))[:, :, 0]
        reach = AMPLITUDE * size[:, None] * singular / scales
        excess = np.maximum(along - np.where(reach > 1, reach, 0), 0)
        parts.append((np.sum(excess**2, axis=1), np.sum(excess > 0, axis=1)))
    return tuple(np.concatenate(x) for x in zip(*parts, strict=True))


def noise_ratios(response: Array, training: Array, other: Array) -> tuple[Array, Array]:
    """Return the ratios of two noise covariances in the directions that matter, and these directions.

    With training covariance L L^T (t, t) and ``response`` A (t, output) of the linear prediction C -> C A, the
    singular vectors w_k of L^T A = W s U^T are independent directions of unit training noise, in the order of the
    variance s_k^2 that they cause in the prediction. Those that matter are the first K that carry the share LISTENED
    of sum_k s_k^2. In all others the prediction does not listen; there a covariance from few hundred configurations is
    not known to a factor 2 anyway. The ratios are the eigenvalues of

        M = W_K^T L^-1 V L^-T W_K      (K, K),     V = ``other``, (t, t),

    the generalised eigenvalues of V against L L^T in that subspace: 1 for equal noise.

    Returns
    -------
    ratios (K,), ascending, and directions (t, K) in which the noise of C is so many times larger.

    >>> noise_ratios(np.eye(2), np.eye(2), np.diag([1.0, 4.0]))[0].tolist()
    [1.0, 4.0]
    """
    factor = cholesky(training)
    W, s, _ = np.linalg.svd(factor.T @ response, full_matrices=False)
    share = np.cumsum(s**2) / np.sum(s**2)
    W = W[:, : int(np.searchsorted(share, LISTENED)) + 1]
    half = np.linalg.solve(factor.T, W)
    ratios, vectors = np.linalg.eigh(half.T @ other @ half)
    return ratios, factor @ W @ vectors


def unlike(response: Array, training: Noise, mean: Array, covariance: Array) -> list[Flag]:
    """Return a flag where the noise of a correlator is unlike that of the ``training``.

    ``mean`` (t,) and ``covariance`` (t, t) of the mean are compared with those of the training, both relative to their
    C(t_ref), since networks work at any normalisation; ``response`` is that of :func:`noise_ratios`.
    """
    i = training.reference
    ratios, directions = noise_ratios(response, training.covariance / training.mean[i] ** 2, covariance / mean[i] ** 2)
    worst = int(np.argmax(np.abs(np.log(np.maximum(ratios, 1e-300)))))
    if 1 / FACTOR <= ratios[worst] <= FACTOR:
        return []
    relative = np.abs(directions[:, worst]) / np.sqrt(np.diag(training.covariance)) * abs(training.mean[i])
    t = training.times[int(np.argmax(relative))]
    return [Flag("noise_unlike", {"ratio": float(ratios[worst]), "t": int(t)})]


def impossible(checks: Mapping[str, Any], kernel: Kernel) -> list[Flag]:
    """Return a flag where no spectral density explains the data; ``checks`` are chi2, dof and goodness_of_fit."""
    if checks["goodness_of_fit"] >= IMPOSSIBLE:
        return []
    fit = {"chi2": checks["chi2"], "dof": checks["dof"]}
    return [Flag("no_density", {**fit, "kernel": f"{kernel.name}, {kernel.lattice}"})]


def other_kernel(posterior: Posterior, C: Array) -> list[Flag]:
    """Return a flag where C (t,) is far more probable with a period than without one, or the other way round."""
    kernel, other = posterior.priors.observables.kernel, posterior.other_kernel(C)
    if other is None:
        return []
    return [Flag("other_kernel", {"kernel": kernel.name, "other": other[0], "period": kernel.period, "log": other[1]})]


def unanswered(estimator: str, found: NDArray[np.bool_] | None) -> list[Flag]:
    """Return a flag where an estimator has no answer of its own at some points; ``found`` (sigma, E) says where it has.

    >>> unanswered("hlt", np.array([[True, False]]))
    [Flag(code='unanswered', facts={'estimator': 'hlt', 'count': 1, 'points': 2})]
    """
    if found is None or found.all():
        return []
    return [Flag("unanswered", {"estimator": estimator, "count": int((~found).sum()), "points": found.size})]


def of_interval(name: str, interval: Bounded) -> list[Flag]:
    """Return what speaks against bounds, or by them against the data."""
    if interval.excluded:
        chi2 = {"chi2_min": interval.chi2_min, "chi2_max": interval.chi2_max}
        return [Flag("no_positive_density", {"interval": name, **chi2})]
    missing, points = int((~interval.certified).sum()), interval.certified.size
    return [Flag("not_certified", {"interval": name, "count": missing, "points": points})] if missing else []


def outside(name: str, interval: Bounded, central: Array) -> list[Flag]:
    """Return a flag where a central value (sigma, E) is outside of the bounds, which no rho >= 0 is."""
    beyond = int(((central < interval.lower) | (central > interval.upper)).sum())
    points = int(interval.certified.sum())
    return [Flag("outside", {"interval": name, "count": beyond, "points": points})] if beyond else []


def unresolved(predictions: xr.Dataset, validation: xr.Dataset) -> xr.DataArray | None:
    """Return the covariance (sigma, E, E2) of what the data of one target cannot resolve; None without networks.

    Its name is that of the source of error: ``resolution``, or ``scale`` where networks say it.

    That of the posterior where networks correct it, else that of residuals on draws of the prior. Where networks give
    an error b, its correlations with the error of :func:`~sdpipe.infer.calibration.beyond_noise`.
    """
    if "rho" not in predictions:
        return None
    if "resolution" in predictions:
        covariance = predictions.resolution.values
    else:
        resolution = Resolution(validation.residual.values.astype(float), validation.residual_scale.values)
        covariance = resolution.covariance(predictions.attrs["noise_scale"]) / predictions.attrs["scale"] ** 2
    if "scale" in predictions:
        central = validation.attrs["central"]
        own, rho = (predictions[name].sel(ensemble=central).astype(float) for name in ("scale", "rho"))
        wide = beyond_noise(
            own.mean(("replica", "boot")), rho.mean("replica").std("boot"), predictions.get("unresolved")
        )
        factor = wide.transpose("sigma", "E").values / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        covariance = factor[:, :, None] * covariance * factor[:, None, :]
    coords = {d: predictions[d] for d in ("sigma", "E")}
    return xr.DataArray(covariance, coords, ("sigma", "E", "E2"), predictions.attrs["source"])


def contradicted(budget: xr.Dataset) -> list[Flag]:
    """Return a flag for each estimator that is more than FAR errors from the central value somewhere.

    The error is that of both in quadrature, calibrated where that is known.

    >>> point = {"sigma": [0.4], "E": [1.0]}
    >>> one, m = xr.DataArray([[1.0]], dims=("sigma", "E"), coords=point), {"estimator": ["hlt"]}
    >>> budget = xr.Dataset({"central": one, "total": 0.01 * one, "estimator_central": (0 * one).expand_dims(m),
    ...                      "estimator_error": (0.01 * one).expand_dims(m)})
    >>> [flag.facts["estimator"] for flag in contradicted(budget)]
    ['hlt']
    """
    flags = []
    for name in map(str, budget.estimator.values) if "estimator" in budget else ():
        other = budget.sel(estimator=name)
        error = np.hypot(
            budget.get("calibrated", budget.total), other.get("estimator_calibrated", other.estimator_error)
        )
        pull = np.abs(errors_off(budget.central - other.estimator_central, error)).transpose("sigma", "E")
        i, j = np.unravel_index(int(pull.fillna(np.inf).values.argmax()), pull.shape)
        if not pull.values[i, j] <= FAR:
            place = {"sigma": float(pull.sigma[i]), "E": float(pull.E[j])}
            flags.append(Flag("contradicted", {"estimator": name, "errors": float(pull.values[i, j]), **place}))
    return flags


def nothing_resolved(budget: xr.Dataset) -> list[Flag]:
    """Return a flag where at every sigma half of the errors are larger than the largest value."""
    error = budget.get("calibrated", budget.total)
    ratio = float((error.median("E") / np.abs(budget.central).max("E")).min())
    return [Flag("nothing_resolved", {"ratio": ratio})] if ratio > 1 else []


def rises_at_the_end(budget: xr.Dataset) -> bool:
    """Return whether at every sigma rho is largest at the highest energy, by more than its error than a sigma below.

    Then there is more above the window than in it.
    """
    error, E = budget.get("calibrated", budget.total).transpose("sigma", "E").values, budget.E.values
    central = budget.central.transpose("sigma", "E").values
    below = [np.interp(E[-1] - sigma, E, row) for sigma, row in zip(budget.sigma.values, central, strict=True)]
    rises = central[:, -1] - below > error[:, -1]
    return bool((rises & (central.argmax(axis=1) == E.size - 1)).all())


def judge(predictions: xr.Dataset, validation: xr.Dataset | None) -> tuple[float | None, list[Flag]]:
    """Return the p-value of one target under the prior, None without ``validation``, and flags.

    One is of a p-value that is too small (:meth:`Reference.p_value`). Where the draws that calibrate are like one
    correlator, another one is of a C(t) that is less like it than all of them (:meth:`Noise.unlike`).
    """
    if validation is None:
        return None, []
    rule, flags = predictions.attrs["scale_rule"], list[Flag]()
    if "unlike" in validation:
        ratio, largest = predictions.attrs["unlike"], float(calibrating(validation, rule).unlike.max())
        if ratio > largest:
            flags.append(Flag("other_correlator", {"ratio": np.exp(ratio), "largest": np.exp(largest)}))
    reference = Reference.from_validation(validation, rule)
    scale, noise_scale, distance = (predictions.attrs[k] for k in ("scale", "noise_scale", "distance"))
    p_value = reference.p_value(noise_scale, distance, scale * float(spread(predictions)))
    if p_value < SUSPICIOUS:
        smallest = p_value <= smallest_p_value(len(reference.distance))
        flags.append(Flag("out_of_distribution", {"p_value": p_value, "smallest": smallest}))
    return p_value, flags


def assess(
    predictions: xr.Dataset,
    central: str,
    references: Mapping[str, str],
    validation: xr.Dataset | None = None,
    level: float = 0.683,
) -> xr.Dataset:
    """Return the error budget of one target as ``budget.zarr`` holds it.

    Parameters
    ----------
    predictions
        A group of ``predictions.zarr``.
    central, references
        As in :func:`~sdpipe.infer.budget.budget_of`.
    validation
        ``validation.zarr``. With it the budget has the source ``resolution`` or ``scale``, ``calibrated`` = q total
        (sigma, E) with the conformal factor q at ``level``, ``band`` likewise for all energies at once, the same for
        the estimators, and a p-value under the prior. Without it the budget of networks is the published one.

    The attribute ``flags`` holds those of the predictions, and each new one as a :class:`Flag`.
    """
    p_value, flags = judge(predictions, validation)
    resolution = None if validation is None else unresolved(predictions, validation)
    budget = budget_of(predictions, central, references, resolution)
    kept = ("scale", "noise_scale", "chi2", "dof", "goodness_of_fit", "silent")
    budget.attrs = {k: predictions.attrs[k] for k in kept}
    if "lower" in predictions:
        budget = budget.assign(predictions[["lower", "upper"]]).assign_attrs(chi2_min=predictions.attrs["chi2_min"])
    if validation is not None:
        budget = budget.assign(_calibrated(budget, validation, predictions.attrs["scale_rule"], level))
        budget.attrs["level"] = level
    flags += [*contradicted(budget), *nothing_resolved(budget)]
    budget.attrs |= {"flags": [*predictions.attrs["flags"], *flags], "answered_by": answered_by(predictions, central)}
    return budget if p_value is None else budget.assign_attrs(p_value=p_value)


def _calibrated(budget: xr.Dataset, validation: xr.Dataset, rule: str, level: float) -> dict[str, xr.DataArray]:
    """Return every error times the factor that makes it cover ``level`` of draws normalised by this ``scale_rule``."""
    q = validation.sel(level=level, scale_rule=rule, drop=True)
    scaled = {
        "calibrated": (budget.total, q.factor, f"total error scaled to coverage {level:g}"),
        "band": (budget.total, q.band_factor, f"total error that covers all energies at once at {level:g}"),
    }
    if "estimator_factor" in q and "estimator" in budget:
        words = f"error of each estimator scaled to coverage {level:g}"
        scaled["estimator_calibrated"] = (budget.estimator_error, q.estimator_factor, words)
    units = budget.central.attrs["units"]
    return {
        name: (error * factor.astype(float)).transpose(*error.dims).assign_attrs(units=units, long_name=words)
        for name, (error, factor, words) in scaled.items()
    }
