"""Correlators through networks and estimators: rho_sigma(E) of each, with what says whether to trust it.

Everything that predicts goes through here: ``sdpipe.predict``, the stage, and the draws of ``validate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.estimators import ESTIMATORS, INTERVALS, MOST_TIMES
from sdpipe.estimators.hlt import HLTEstimator
from sdpipe.estimators.networks import Networks, sigma_first
from sdpipe.estimators.posterior import ClosedForm
from sdpipe.estimators.protocol import Bounded, Estimate, Estimator
from sdpipe.infer import trust
from sdpipe.infer.budget import NETWORKS, lead, squared
from sdpipe.infer.calibration import Resolution
from sdpipe.infer.misread import explains, misread
from sdpipe.infer.trust import Flag
from sdpipe.learn.audience import Audience
from sdpipe.learn.trained import Network
from sdpipe.physics.noise import SINGLE, Noise, check_size, chi2_p_value
from sdpipe.physics.smearing import Smearing


def precision(unit: ArrayLike) -> type[np.floating]:
    """Return the type that holds values of order 1 when they are divided by each ``unit``: 32 bits where these do.

    >>> precision([1.0, -1e20]).__name__, precision([1.0, 1e40]).__name__
    ('float32', 'float64')
    """
    sizes = np.abs(unit)
    return np.float32 if SINGLE[0] <= np.min(sizes) and np.max(sizes) <= SINGLE[1] else np.float64


@dataclass(frozen=True)
class Measured:
    """What is known of the data behind bootstrap samples.

    ``mean`` (t,) is the correlator, ``covariance`` (t, t) that of it where it is known, estimated from ``count``
    configurations; ``flags`` say what is doubtful about them, ``facts`` how they were read.
    """

    mean: Array
    covariance: Array | None = None
    count: int | None = None
    flags: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Predictor:
    """Networks, where there are any, and the estimators beside them, for one lattice.

    ``methods`` are names of :data:`sdpipe.estimators.ESTIMATORS` and :data:`sdpipe.estimators.INTERVALS`; bounds
    are at ``level`` and, with ``positive``, a central value outside of them is flagged. ``central`` is the ensemble
    whose mean over replicas is the result or, without networks, the estimator.
    """

    audience: Audience
    members: Sequence[Network]
    central: str
    methods: Sequence[str] = ("linear", "posterior")
    level: float = 0.683
    positive: bool = False

    @cached_property
    def estimators(self) -> dict[str, Estimator]:
        """The estimators of ``methods``, in the order of the registry."""
        named = [name for name in self.methods if name in ESTIMATORS]
        return {n: self.posterior if ESTIMATORS[n] is ClosedForm else ESTIMATORS[n](self.audience) for n in named}

    @cached_property
    def posterior(self) -> ClosedForm:
        """The closed-form posterior with the noise of the training."""
        return ClosedForm(self.audience)

    @cached_property
    def networks(self) -> Networks | None:
        """All networks; None where there are none."""
        if not self.members:
            return None
        posterior = self.posterior if self.audience.on_features else None
        return Networks(self.members, self.audience, self.central, posterior)

    @property
    def source(self) -> str:
        """The source of error that is not the audience's."""
        return "resolution" if self.networks is None else self.networks.source

    @property
    def answered_by(self) -> str:
        """Who gives the central value: the networks, or the estimator ``central`` where there are none."""
        return self.central if self.networks is None else NETWORKS

    @property
    def noise(self) -> Noise:
        """The noise of the training."""
        return self.audience.noise

    @cached_property
    def prior(self) -> trust.PriorOfData:
        """The prior of C(t) that the central networks were trained on, with their noise."""
        statistics = self.audience.statistics
        return trust.PriorOfData(statistics.mean, statistics.covariance, self.noise)

    @property
    def response(self) -> Array:
        """A (t, sigma E) of the best linear estimator: rho = C A + constant."""
        weight = self.audience.statistics.linear_weight
        return weight.reshape(len(weight), -1)

    def amplitude(self, correlator: Array) -> float:
        """Return the factor a that makes a C (t,) most likely under the prior."""
        return self.prior.amplitude(correlator, self.audience.statistics.typical)

    def residuals(self, clean: Array, truth: Array) -> Resolution:
        """Return what the central ensemble leaves unresolved of noise-free draws C (draw, t) with ``truth``."""
        rho = self.networks.of_inputs(clean, self.central).rho
        estimate = rho.isel(ensemble=0).mean("replica").transpose("boot", "sigma", "E")
        return Resolution(estimate.values - truth, self.noise.scale(clean))

    def predict(self, correlators: NDArray, scale: ArrayLike = 1.0, means: NDArray | None = None) -> xr.Dataset:
        """Return what is predicted for C ([sample,] boot, t), bootstrap samples around ``means`` ([sample,] t).

        C has been multiplied by ``scale`` ([sample]); what is returned is divided by it, which the linearity of the
        problem allows. Without ``means`` they are those of the samples. Returns

        ``rho (sigma, ensemble, replica, [sample,] boot, E)``
            Of trained ensembles.
        ``scale``, likewise
            The error that comes with each estimate, where networks give one.
        ``unresolved ([sample,] sigma, E)``
            Where networks correct the posterior: its error without that of noise at fixed weights.
        ``estimator_rho (estimator, sigma, [sample,] boot, E)``
            Of the estimators beside them.
        ``estimator_error ([sample,] estimator, sigma, E)``
            The error of each.

        Raises UserError when a correlator has another number of times than the networks, or a value is not finite.
        """
        C = self._checked(correlators)
        centre = C.mean(axis=-2) if means is None else np.asarray(means, float)
        unit = np.asarray(scale, float)[..., None, None]
        prediction = self._empty(C.shape[:-1])
        if self.networks is not None:
            prediction = prediction.merge(self._of_networks(centre, C, unit))
        if self.estimators:
            estimates = {name: estimator.estimate(centre, C) for name, estimator in self.estimators.items()}
            prediction = prediction.merge(self._of_estimators(estimates, unit))
        return prediction

    def _checked(self, correlators: NDArray) -> Array:
        C, times = np.asarray(correlators, float), self.noise.times
        if C.ndim < 2 or C.shape[-1] != len(times):
            raise UserError(
                f"correlators of shape {C.shape}; the networks take (boot, {len(times)}), t = {times[0]}..{times[-1]}"
            )
        if not np.isfinite(C).all():
            raise UserError("correlators hold values that are not finite")
        return C

    def _empty(self, shape: tuple[int, ...]) -> xr.Dataset:
        """Return the coordinates of predictions for correlators of this shape, ([sample,] boot)."""
        o = self.audience.observables
        unit = {"units": o.kernel.unit}
        sizes = dict(zip(_between(len(shape)), shape, strict=True))
        coords = {"sigma": ("sigma", list(o.sigma), unit), "E": ("E", list(o.energies), unit)}
        return xr.Dataset(coords=coords | {name: np.arange(n) for name, n in sizes.items()})

    def _of_networks(self, centre: Array, C: Array, unit: Array) -> xr.Dataset:
        predicted = self.networks.predict(centre, C)
        dims = ("sigma", "ensemble", "replica", *_between(C.ndim - 1), "E")
        variables = {}
        for name, factor in (("rho", unit), ("scale", np.abs(unit))):
            if name in predicted:
                flat = predicted[name].values
                values = flat.reshape(*flat.shape[:3], *C.shape[:-1], flat.shape[-1])
                variables[name] = (dims, values / factor.astype(precision(factor)), predicted[name].attrs)
        if "unresolved" in predicted:
            words = {"units": self._units, "long_name": "error of the posterior without that of noise"}
            unresolved = predicted.unresolved
            variables["unresolved"] = (unresolved.dims, unresolved.values / np.abs(unit), words)
        return xr.Dataset(variables, {name: predicted[name] for name in ("ensemble", "replica")})

    def _of_estimators(self, estimates: Mapping[str, Estimate], unit: Array) -> xr.Dataset:
        each = list(estimates.values())
        shape = each[0].samples.shape[:-2]
        rho = np.stack([sigma_first(e.samples) for e in each])
        rho = rho.reshape(*rho.shape[:2], *shape, rho.shape[-1])
        error = np.stack([e.error for e in each], axis=-3) / np.abs(unit)[..., None]
        between = _between(len(shape))
        words = {"units": self._units, "long_name": "smeared spectral density by each estimator"}
        of_error = {"units": self._units, "long_name": "error of each estimator"}
        return xr.Dataset(
            {
                "estimator_rho": (
                    ("estimator", "sigma", *between, "E"),
                    rho.astype(np.float32) / unit.astype(precision(unit)),
                    words,
                ),
                "estimator_error": ((*between[:-1], "estimator", "sigma", "E"), error, of_error),
            },
            {"estimator": np.array(list(estimates), object)},
        )

    @property
    def _units(self) -> str:
        return self.audience.observables.units

    def covariances(self, C: Array) -> xr.Dataset:
        """Return the covariance between energies of each estimator, ``estimator_covariance (estimator, sigma, E, E2)``.

        It is that for C (t,). Where networks correct the posterior, ``resolution (sigma, E, E2)`` is what is left of
        its covariance without that of noise at fixed weights.
        """
        dims, attrs = ("sigma", "E", "E2"), {"units": squared(self._units)}
        result = xr.Dataset()
        if self.networks is not None and self.networks.on_features:
            posterior = self.posterior.posterior
            left = posterior.covariance(C) - posterior.resolved(C, posterior(C, response=True))
            words = attrs | {"long_name": "covariance of what the data cannot resolve"}
            result["resolution"] = (dims, left, words)
        if self.estimators:
            each = np.stack([estimator.covariance(C) for estimator in self.estimators.values()])
            words = attrs | {"long_name": "covariance between energies of each estimator"}
            result["estimator_covariance"] = (("estimator", *dims), each, words)
            result["estimator"] = np.array(list(self.estimators), object)
        return result

    def implied(self, C: Array, noise: Noise | None = None) -> tuple[Array, float]:
        """Return the correlator (t,) of the posterior mean for C (t,), and chi^2 between both.

        It is that of the data with their own ``noise``; without it, with that of the training.
        """
        implied = self.posterior.posterior.implied(C)
        own = (noise or self.noise).at_scale(C)
        return implied, float(np.sum(np.linalg.solve(own.cholesky, C - implied) ** 2) / own.scale(C) ** 2)

    def checks(self, C: Array, noise: Noise | None = None, count: int | None = None) -> dict[str, Array]:
        """Return how typical correlators C (n, t) are, as the networks see them; every value is (n,).

        ``noise_scale`` s = C(t_ref) / C_latt(t_ref), ``unlike`` how far C(t) / s is from C_latt(t)
        (:meth:`~sdpipe.physics.noise.Noise.unlike`), ``distance`` d^2 from the prior, and the goodness of fit:
        ``chi2``, ``dof``, ``goodness_of_fit``, its p-value. That is of the data with their own ``noise``, estimated
        from ``count`` configurations; without it, with that of the training. Where the unit of energy is integrated
        over it is that of the posterior, and d^2 is -2 log evidence; else it is that of the kernel, and d^2 is that of
        Mahalanobis.
        """
        if self.audience.scaled and 2 <= len(self.noise.times) <= MOST_TIMES:
            estimate = self.posterior.of(C)
            distance, chi2, dof = -2 * estimate.log_evidence, estimate.chi2, estimate.dof
            if noise:
                chi2, dof = replace(self.posterior.posterior, noise=noise).goodness(C)
        else:
            distance = self.prior.distance(C)
            kernel, low = self.audience.observables.kernel, self.audience.threshold
            chi2, dof = trust.goodness_of_fit(kernel, noise or self.noise, low, C)
        return {
            "noise_scale": self.noise.scale(C),
            "unlike": self.noise.unlike(C),
            "distance": distance,
            "chi2": chi2,
            "dof": dof,
            "goodness_of_fit": chi2_p_value(chi2, dof, count),
        }

    def bounds(self, C: Array) -> dict[str, Bounded]:
        """Return the intervals of ``methods`` for one C (t,)."""
        return {n: INTERVALS[n](self.audience, self.level).bounds(C) for n in self.methods if n in INTERVALS}

    def scans(self, C: Array, rows: Sequence[int], factor: float = 1.0) -> tuple[xr.Dataset, Estimate]:
        """Return the scans of HLT of one C (t,), ``factor`` times too large, at some energies, and its estimate."""
        hlt = HLTEstimator(self.audience)
        return hlt.scans(C, rows, factor), hlt.estimate(C)

    def smear(self, samples: Array, f: Smearing, factor: float = 1.0, bounds: bool = False) -> xr.Dataset:
        """Return what is known without training of another smearing of rho, of ``samples`` (boot, t) of one correlator.

        They are ``factor`` times too large. ``central``, ``error (estimator, sigma, E)`` of every estimator that is not
        fitted to draws, ``samples (estimator, boot, sigma, E)``, and with ``bounds`` ``lower``, ``upper (sigma, E)``
        and ``chi2_min``. Raises UserError where its integrals do not exist or it is not finite.
        """
        audience, C = self.audience.with_smearing(f), samples.mean(axis=0)
        grid = audience.observables
        each = {n: kind(audience).estimate(C, samples) for n, kind in ESTIMATORS.items() if not kind.fitted}
        units, dims = {"units": grid.units}, ("estimator", "sigma", "E")
        values = {
            "central": (dims, np.stack([e.mean for e in each.values()]) / factor, units),
            "error": (dims, np.stack([e.error for e in each.values()]) / abs(factor), units),
            "samples": ((dims[0], "boot", *dims[1:]), np.stack([e.samples for e in each.values()]) / factor, units),
        }
        unit = {"units": grid.kernel.unit}
        coords = {"sigma": ("sigma", list(grid.sigma), unit), "E": ("E", list(grid.energies), unit)}
        smeared = xr.Dataset(values, coords | {"estimator": list(each)}, {"smearing": f.name})
        if bounds:
            interval = INTERVALS["bounds"](audience, self.level).bounds(C / factor)
            smeared = smeared.assign({name: (dims[1:], getattr(interval, name)) for name in ("lower", "upper")})
            smeared = smeared.assign_attrs(chi2_min=interval.chi2_min)
        return smeared


def _between(dimensions: int) -> tuple[str, ...]:
    """Return the dimensions of so many axes of samples: ([sample,] boot)."""
    return ("sample", "boot")[-dimensions:]


def reconstruct(
    predictor: Predictor, samples: Array, data: Measured | None = None, scale: float | Literal["auto"] = "auto"
) -> xr.Dataset:
    """Return what ``predictions.zarr`` holds of one correlator, given by its bootstrap means ``samples`` (boot, t).

    C is multiplied by ``scale`` before the networks see it, and rho divided; ``auto`` makes the mean of the ``data``,
    by default that of the samples, most likely under the prior. Where the covariance of that mean is known, it is
    compared with the noise of the training.

    Returns what :meth:`Predictor.predict` and :meth:`Predictor.covariances` do, ``correlator (boot, t)``, ``implied
    (t)`` of the posterior mean, whose attribute ``chi2`` says how far it is from the mean of the samples, and as
    attributes ``scale``, ``scale_rule``, ``noise_scale``, ``unlike``, ``distance``, ``chi2``, ``dof``,
    ``goodness_of_fit``, ``source``, ``flags``, and ``silent``, the estimators without an answer at most points; with
    bounds ``lower`` and ``upper (sigma, E)``, NaN where they are not certified, and ``chi2_min``; and the diagnostics
    of every estimator.
    Raises UserError as these do, and where C at t_ref, or what the networks would see of it, is too small or too large
    to compute with.
    """
    data = data or Measured(samples.mean(axis=0))
    check_size(data.mean, predictor.noise.times, "samples")
    factor = predictor.amplitude(data.mean) if scale == "auto" else float(scale)
    with np.errstate(over="ignore"):
        seen = np.abs(samples).max(axis=0) * factor
    check_size(seen, predictor.noise.times, f"samples times the scale {factor:g}", SINGLE)
    scaled, own = samples * factor, _own_noise(predictor, data, factor)
    flags, silent = [*data.flags, *_unlike(predictor, data)], list[str]()
    checks = predictor.checks(factor * data.mean[None], own, data.count)
    facts: dict[str, Any] = {name: values[0].item() for name, values in checks.items()}
    facts["noise_scale"] = abs(facts["noise_scale"])
    kernel = predictor.audience.observables.kernel
    flags += trust.impossible(facts, kernel)
    if own:
        signed = explains(facts["goodness_of_fit"], facts["dof"])
        flags += misread(kernel, own, factor * data.mean, data.facts, data.count, signed)
    if predictor.audience.scaled and 2 <= len(predictor.noise.times) <= MOST_TIMES:
        flags += trust.other_kernel(predictor.posterior.posterior, factor * data.mean)
    centre = scaled.mean(axis=0)
    prediction = predictor.predict(scaled, factor)
    prediction["E2"] = ("E2", prediction.E.values, prediction.E.attrs)
    for name, covariance in predictor.covariances(centre).items():
        prediction[name] = (covariance.dims, covariance.values / factor**2, covariance.attrs)
    about = {"units": predictor.audience.observables.kernel.units, "long_name": "bootstrap samples of C(t)"}
    prediction["correlator"] = (("boot", "t"), scaled / factor, about)
    if 2 <= len(predictor.noise.times) <= MOST_TIMES:
        implied, chi2 = predictor.implied(centre, own)
        words = {"long_name": "C(t) that the posterior mean of rho implies", "chi2": chi2}
        prediction["implied"] = ("t", implied / factor, {"units": about["units"], **words})
    for name, estimator in predictor.estimators.items():
        prediction, found = prediction.merge(estimator.diagnostics(centre, factor)), estimator.estimate(centre).found
        flags += trust.unanswered(name, found)
        silent += [name] if found is not None and found.mean() < trust.ANSWERED else []
    for name, interval in predictor.bounds(data.mean).items():
        prediction, more = _with_interval(predictor, prediction, name, interval)
        flags += more
        facts["chi2_min"] = interval.chi2_min
    prediction["t"] = ("t", list(predictor.noise.times), {"units": "lattice units"})
    rule = "auto" if scale == "auto" else "given"
    attrs = {"scale": factor, "scale_rule": rule, **facts, "source": predictor.source, "flags": flags, "silent": silent}
    return prediction.assign_attrs(attrs)


def _own_noise(predictor: Predictor, data: Measured, factor: float) -> Noise | None:
    """Return the noise of the data as the networks see them; None where it is not known."""
    if data.covariance is None:
        return None
    noise = predictor.noise
    return Noise(noise.times, factor * data.mean, factor**2 * data.covariance, "samples", floor=noise.floor)


def _unlike(predictor: Predictor, data: Measured) -> list[Flag]:
    """Return a flag where the noise of the data is unlike that of the training."""
    if data.covariance is None:
        return []
    return trust.unlike(predictor.response, predictor.noise, data.mean, data.covariance)


def _with_interval(
    predictor: Predictor, prediction: xr.Dataset, name: str, interval: Bounded
) -> tuple[xr.Dataset, list[Flag]]:
    """Return predictions with the bounds of one interval, and what speaks against the result by these."""
    level, units = predictor.level, predictor.audience.observables.units
    for side in ("lower", "upper"):
        words = {"units": units, "long_name": f"{side} bound for rho >= 0 at level {level:g}, all at once"}
        prediction[side] = (("sigma", "E"), getattr(interval, side), words)
    flags = trust.of_interval(name, interval)
    if predictor.positive:
        flags += trust.outside(name, interval, lead(prediction, predictor.central).values)
    return prediction, flags
