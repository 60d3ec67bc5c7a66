"""Correlators through a broad audience of networks: rho_sigma(E) of each, with what says whether to trust it.

Everything that predicts goes through here: ``sdpipe.predict``, the stage, and the draws of ``validate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdpipe.errors import UserError
from sdpipe.estimators import stability
from sdpipe.estimators.bounds import Bounds, Interval
from sdpipe.estimators.hlt import BY_EVIDENCE, HLT, Choice
from sdpipe.estimators.posterior import MOST_TIMES, Posterior, PriorMoments
from sdpipe.infer import trust
from sdpipe.infer.budget import squared
from sdpipe.infer.calibration import Resolution
from sdpipe.learn import architectures
from sdpipe.learn.trained import Network
from sdpipe.physics import smearing
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import SINGLE, Noise, check_size
from sdpipe.physics.spectra import ChebyshevPrior

Array = NDArray[np.float64]

PAIRS = 8192
"""Pairs (network, input) in one forward pass: bounds the memory."""


def precision(unit: ArrayLike) -> type[np.floating]:
    """Return the type that holds values of order 1 when they are divided by each ``unit``: 32 bits where these do.

    >>> precision([1.0, -1e20]).__name__, precision([1.0, 1e40]).__name__
    ('float32', 'float64')
    """
    sizes = np.abs(unit)
    return np.float32 if SINGLE[0] <= np.min(sizes) and np.max(sizes) <= SINGLE[1] else np.float64


def estimates(members: Sequence[Network], inputs: NDArray) -> xr.Dataset:
    """Return what networks make of inputs (boot, t): rho (sigma, ensemble, replica, boot, E), and its error ``scale``.

    The inputs are correlators C in the units of the kernel with rho dimensionless, or features (boot, feature) of the
    posterior; of these, networks return (rho - mean)/sd and scale/sd. ``scale`` is there where the networks have an
    error head. Networks of one architecture share each pass.

    Raises UserError when a network of the grid ensemble x sigma x replica is missing.
    """
    first = members[0]
    trained = [s for s in (None, *first.sigmas) if s in {m.sigma for m in members}]
    ensembles, replicas = list(dict.fromkeys(m.ensemble for m in members)), sorted({m.replica for m in members})
    there = {(m.sigma, m.ensemble, m.replica) for m in members}
    missing = [
        f"{e} sigma={s} replica {r}" for s, e, r in product(trained, ensembles, replicas) if (s, e, r) not in there
    ]
    if missing:
        raise UserError(f"networks missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    sigma = first.sigmas if first.sigma is None else trained
    shape = (len(ensembles), len(replicas), len(sigma), len(inputs), len(first.energies))
    rho, error = np.empty(shape, np.float32), np.empty(shape, np.float32) if first.head else None
    for architecture in dict.fromkeys(m.architecture for m in members):
        group = [m for m in members if m.architecture == architecture]
        values, errors = _forward(group, inputs)
        for i, m in enumerate(group):
            at = ensembles.index(m.ensemble), replicas.index(m.replica)
            at += () if m.sigma is None else (slice(sigma.index(m.sigma), sigma.index(m.sigma) + 1),)
            for made, given in ((rho, values), (error, errors)):
                if made is not None:
                    made[at] = given[i].reshape(len(inputs), -1, shape[-1]).swapaxes(0, 1)
    rho, error = (None if made is None else np.moveaxis(made, 2, 0) for made in (rho, error))
    dims = ("sigma", "ensemble", "replica", "boot", "E")
    coords = {
        "sigma": ("sigma", sigma, {"units": first.unit}),
        "ensemble": np.array(ensembles, object),
        "replica": replicas,
        "boot": np.arange(len(inputs)),
        "E": ("E", first.energies, {"units": first.unit}),
    }
    made = {"rho": (dims, rho, {"units": first.units, "long_name": "smeared spectral density"})}
    if error is not None:
        made["scale"] = (dims, error, {"units": first.units, "long_name": "error that comes with the estimate"})
    return xr.Dataset(made, coords)


def _forward(group: list[Network], inputs: NDArray) -> tuple[NDArray, NDArray | None]:
    """Return estimates and errors (network, boot, E) of networks of one architecture, these None without a head."""

    def tensor(arrays: list[NDArray]) -> torch.Tensor:
        return torch.as_tensor(np.stack(arrays), dtype=torch.float32)

    parameters, head = architectures.stack([m.parameters for m in group]), group[0].head
    weight = tensor([m.weight for m in group])
    offset, scale = tensor([m.offset for m in group])[:, None], tensor([m.scale for m in group])[:, None]
    rows = max(1, PAIRS // len(group))
    values, errors = [], []
    with torch.inference_mode():
        for low in range(0, len(inputs), rows):
            batch = inputs[low : low + rows]
            x = tensor([(batch - m.mean) @ m.matrix for m in group])
            made = architectures.forward(parameters, x)
            if head:
                made, log_error = architectures.split(made)
                errors.append(scale * torch.exp(log_error))
            values.append(torch.baddbmm(offset, x, weight) + scale * made)
    return torch.cat(values, dim=1).numpy(), torch.cat(errors, dim=1).numpy() if head else None


@dataclass(frozen=True, eq=False)
class Audience:
    """All networks of a run: what they predict, and what they know of the data that they were trained for.

    ``central`` is the name of the central ensemble, ``threshold`` the lowest threshold E0 of its prior in GeV;
    ``methods`` are computed beside the networks; bounds at ``level``, where it is given, beside those of a target, and
    with ``positive`` a central value outside them is flagged. ``choice`` is that of HLT.
    """

    networks: Sequence[Network]
    central: str
    threshold: float
    methods: Sequence[str] = ("linear", "posterior")
    level: float | None = None
    positive: bool = False
    choice: Choice = BY_EVIDENCE

    @cached_property
    def each_sigma(self) -> list[Network]:
        """One central network for each sigma, or for all: linear estimator and noise are the same for all replicas."""
        members = [m for m in self.networks if m.ensemble == self.central and m.replica == 0]
        return sorted(members, key=lambda m: m.sigmas.index(m.sigma) if m.sigma is not None else 0)

    @cached_property
    def prior(self) -> trust.PriorOfData:
        """The prior of C(t) that the central networks were trained on, with their noise."""
        m = self.each_sigma[0]
        noise = Noise(tuple(m.times), m.lattice_mean, m.covariance, "networks", floor=m.floor)
        return trust.PriorOfData(m.data_mean, m.signal, noise)

    @property
    def noise(self) -> Noise:
        """The noise of the training."""
        return self.prior.noise

    @property
    def kernel(self) -> Kernel:
        """The kernel of the training."""
        m = self.each_sigma[0]
        return Kernel(m.kernel, m.period, m.spacing)

    @property
    def observables(self) -> Observables:
        """C(t) and rho_sigma(E) on the grids of the training."""
        m = self.each_sigma[0]
        kind = smearing.made(**m.smearing)
        return Observables(self.kernel, tuple(m.times), tuple(m.sigmas), tuple(m.energies), kind)

    @cached_property
    def posterior(self) -> Posterior:
        """The closed-form posterior with the noise of the training."""
        return self.posterior_of(self.observables)

    def posterior_of(self, observables: Observables) -> Posterior:
        """Return the same for another smearing."""
        m = self.each_sigma[0]
        seen = replace(self.observables, sigma=tuple(m.seen_sigmas), energies=tuple(m.seen_energies))
        moments = PriorMoments.from_prior(
            ChebyshevPrior(**m.prior), observables, floor=m.floor, seen=None if seen == observables else seen
        )
        return Posterior.for_noise(moments, self.noise)

    @cached_property
    def hlt(self) -> HLT:
        """HLT with the noise of the training."""
        return self.choice.build(self.observables, self.noise, self.threshold)

    def stability(self, C: Array, rows: Sequence[int], factor: float = 1.0) -> xr.Dataset:
        """Return the scans of HLT of one C (t,), ``factor`` times too large, at some energies."""
        return stability.stability(self.choice.each(self.observables, self.noise, self.threshold), C, rows, factor)

    def bounds(self, C: Array, level: float, observables: Observables | None = None) -> Interval:
        """Return bounds for rho >= 0 of one C (t,), zero below the lowest threshold, with the noise of the training."""
        return Bounds.for_noise(observables or self.observables, self.noise.at_scale(C), self.threshold, level)(C)

    def smear(
        self, samples: Array, f: smearing.Smearing, factor: float = 1.0, level: float | None = None
    ) -> xr.Dataset:
        """Return what is known without training of another smearing of rho, of ``samples`` (boot, t) of one correlator.

        They are ``factor`` times too large. ``central``, ``error (method, sigma, E)`` of posterior and HLT, ``samples
        (method, boot, sigma, E)`` at the weights and the lambda of their mean, and with a ``level`` of bounds
        ``lower``, ``upper (sigma, E)`` and ``chi2_min``. Raises UserError where its integrals do not exist or it is not
        finite.
        """
        grid, C = replace(self.observables, smearing=f), samples.mean(axis=0)
        of_posterior, of_hlt = self.posterior_of(grid), self.choice.build(grid, self.noise, self.threshold).floored(C)
        posterior, hlt = of_posterior(C, response=True), of_hlt(C)
        dims = ("method", "sigma", "E")
        values = {"central": np.stack([posterior.mean, hlt.mean]) / factor}
        values["error"] = np.stack([posterior.sd, hlt.error]) / abs(factor)
        unit = {"units": grid.kernel.unit}
        coords = {"sigma": ("sigma", list(grid.sigma), unit), "E": ("E", list(grid.energies), unit)}
        coords["method"] = ["posterior", "hlt"]
        made = xr.Dataset({k: (dims, v) for k, v in values.items()}, coords, {"smearing": f.name})
        each = of_posterior.bootstrap(C, posterior, samples)[0], of_hlt.samples(samples, hlt.mu)
        made["samples"] = (("method", "boot", "sigma", "E"), np.stack(each) / factor)
        for name in ("central", "error", "samples"):
            made[name].attrs["units"] = grid.units
        if level is not None:
            found = self.bounds(C / factor, level, grid)
            made = made.assign({k: (dims[1:], getattr(found, k)) for k in ("lower", "upper")})
            made = made.assign_attrs(chi2_min=found.chi2_min)
        return made

    @property
    def on_features(self) -> bool:
        """Whether the networks correct the posterior."""
        return self.each_sigma[0].inputs == "posterior"

    @property
    def source(self) -> str:
        """The source of error that is not the audience's: ``scale`` where networks say it, else ``resolution``."""
        return "scale" if self.each_sigma[0].head else "resolution"

    @cached_property
    def response(self) -> Array:
        """A (t, sigma E) of the linear estimator: rho = C A + constant."""
        return np.concatenate([m.linear_weight for m in self.each_sigma], axis=1)

    @cached_property
    def _linear_covariance(self) -> tuple[Array, Array]:
        """U and V (sigma, E, E): the posterior covariance of the linear estimator at noise scale s is U + s^2 V.

        U is what C(t) without noise does not resolve, V = A Cov_latt A^T; see
        :class:`~sdpipe.learn.moments.LinearEstimator`.
        """
        each, n = self.each_sigma, len(self.each_sigma[0].energies)
        noise = [m.linear_weight.T @ m.covariance @ m.linear_weight for m in each]
        unresolved = [m.linear_unresolved for m in each]
        return tuple(np.concatenate([_blocks(c, n) for c in of]) for of in (unresolved, noise))

    def amplitude(self, correlator: Array) -> float:
        """Return the factor a that makes a C (t,) most likely under the prior."""
        return self.prior.amplitude(correlator, self.each_sigma[0].typical)

    def residuals(self, clean: Array, truth: Array) -> Resolution:
        """Return what the central ensemble leaves unresolved of noise-free draws C (draw, t) with ``truth``."""
        central = [m for m in self.networks if m.ensemble == self.central]
        estimate = estimates(central, clean).rho.isel(ensemble=0).mean("replica").transpose("boot", "sigma", "E")
        return Resolution(estimate.values - truth, self.noise.scale(clean))

    def predict(self, correlators: NDArray, scale: ArrayLike = 1.0, means: NDArray | None = None) -> xr.Dataset:
        """Return what is predicted for C ([sample,] boot, t), bootstrap samples around ``means`` ([sample,] t).

        C has been multiplied by ``scale`` ([sample]); what is returned is divided by it, which the linearity of the
        problem allows. Without ``means`` they are those of the samples. Returns

        ``rho (sigma, ensemble, replica, [sample,] boot, E)``
            The last ensembles are the methods, the same for every replica.
        ``scale``, likewise
            The error that comes with each estimate, where networks give one.
        ``method_error ([sample,] method, sigma, E)``
            The posterior error of each method.
        ``unresolved ([sample,] sigma, E)``
            Where networks correct the posterior: its error without that of noise at fixed weights.

        Raises UserError as :func:`estimates` does, when a correlator has another number of times than the networks, or
        holds a value that is not finite.
        """
        C, first = np.asarray(correlators, float), self.each_sigma[0]
        if C.ndim < 2 or C.shape[-1] != len(first.times):
            raise UserError(
                f"correlators of shape {C.shape}; the networks take (boot, {len(first.times)}), "
                f"t = {first.times[0]}..{first.times[-1]}"
            )
        if not np.isfinite(C).all():
            raise UserError("correlators hold values that are not finite")
        centre, flat = C.mean(axis=-2) if means is None else np.asarray(means, float), C.reshape(-1, C.shape[-1])
        unit, boots = np.asarray(scale, float)[..., None, None], C.shape[-2]
        centres, errors, inputs = {}, {}, flat
        if "linear" in self.methods:
            values = [(flat - m.data_mean) @ m.linear_weight + m.linear_offset for m in self.each_sigma]
            unresolved, noise = (np.diagonal(c, axis1=1, axis2=2) for c in self._linear_covariance)
            centres["linear"] = _sigma_first(np.hstack(values).reshape(len(flat), -1, len(first.energies)))
            errors["linear"] = np.sqrt(unresolved + self.noise.scale(centre)[..., None, None] ** 2 * noise)
        if "posterior" in self.methods or self.on_features:
            estimate = self.posterior(centre, response=True)
            mean, features = self.posterior.bootstrap(centre, estimate, C)
            mean = _sigma_first(mean)
            inputs = features.reshape(-1, features.shape[-1]) if self.on_features else flat
            if "posterior" in self.methods:
                centres["posterior"], errors["posterior"] = mean, estimate.sd
        if "hlt" in self.methods:
            r = self.hlt.around(centre, C)
            centres["hlt"], errors["hlt"] = _sigma_first(r.samples), r.error
        found = estimates(self.networks, inputs)
        if self.on_features:
            sd = _sigma_first(estimate.sd, boots)[:, None, None].astype(np.float32)
            for variable in found.values():
                variable.values *= sd
            found.rho.values += mean[:, None, None].astype(np.float32)

        def whole(of_networks: NDArray, of_methods: dict[str, NDArray], unit: Array) -> xr.DataArray:
            each = [np.broadcast_to(v[:, None, None], (len(v), 1, *of_networks.shape[2:])) for v in of_methods.values()]
            values = np.concatenate([of_networks, *each], axis=1, dtype=np.float32)
            values = values.reshape(*values.shape[:3], *C.shape[:-1], values.shape[-1])
            return xr.DataArray(values / unit.astype(precision(unit)), dims=dims, coords=coords)

        between = ("sample",)[: C.ndim - 2]
        dims = ("sigma", "ensemble", "replica", *between, "boot", "E")
        coords = {d: found[d] for d in ("sigma", "replica", "E")}
        coords["ensemble"] = np.array([*found.ensemble.values, *centres], object)
        coords |= {d: np.arange(n) for d, n in zip((*between, "boot"), C.shape[:-1], strict=True)}
        made = xr.Dataset({"rho": whole(found.rho.values, centres, unit).assign_attrs(found.rho.attrs)})
        unit = np.abs(unit)
        if "scale" in found:
            of_methods = {name: _sigma_first(e, boots) for name, e in errors.items()}
            made["scale"] = whole(found.scale.values, of_methods, unit).assign_attrs(found.scale.attrs)
        if errors:
            values, words = (
                np.stack(list(errors.values()), axis=-3),
                {"units": found.rho.attrs["units"], "long_name": "error of each method"},
            )
            made["method_error"] = ((*between, "method", "sigma", "E"), values / unit[..., None], words)
            made["method"] = np.array(list(errors), object)
        if self.on_features:
            resolved = np.diagonal(self.posterior.resolved(centre, estimate), axis1=-2, axis2=-1)
            unresolved = np.sqrt(np.maximum(estimate.sd**2 - resolved, 0)) / unit
            words = {"units": found.rho.attrs["units"], "long_name": "error of the posterior without that of noise"}
            made["unresolved"] = ((*between, "sigma", "E"), unresolved, words)
        return made

    def covariances(self, C: Array) -> dict[str, Array]:
        """Return the posterior covariance (sigma, E, E) between energies of each method for C (t,).

        Where networks correct the posterior, ``resolution`` is what is left of its covariance without that of noise at
        fixed weights.
        """
        made = {}
        if "linear" in self.methods:
            unresolved, noise = self._linear_covariance
            made["linear"] = unresolved + self.noise.scale(C) ** 2 * noise
        if "posterior" in self.methods or self.on_features:
            made["posterior"] = self.posterior.covariance(C)
        if "hlt" in self.methods:
            made["hlt"] = np.einsum("sesf->sef", self.hlt.floored(C).covariance(C))
        if self.on_features:
            estimate = self.posterior(C, response=True)
            made["resolution"] = made["posterior"] - self.posterior.resolved(C, estimate)
        return {name: made[name] for name in (*self.methods, "resolution") if name in made}

    def implied(self, C: Array, noise: Noise | None = None) -> tuple[Array, float]:
        """Return the correlator (t,) of the posterior mean for C (t,), and chi^2 between both.

        It is that of the data with their own ``noise``; without it, with that of the training.
        """
        implied, noise = self.posterior.implied(C), (noise or self.noise).at_scale(C)
        return implied, float(np.sum(np.linalg.solve(noise.cholesky, C - implied) ** 2) / noise.scale(C) ** 2)

    def checks(self, C: Array, noise: Noise | None = None, count: int | None = None) -> dict[str, Array]:
        """Return how typical correlators C (n, t) are, as the networks see them; every value is (n,).

        ``noise_scale`` s = C(t_ref) / C_latt(t_ref), ``distance`` d^2 from the prior, and the back-check against the
        kernel: ``chi2``, ``dof``, ``back_check``, its p-value. That is of the data with their own ``noise``, estimated
        from ``count`` configurations; without it, with that of the training.
        """
        chi2, dof = trust.back_check(self.kernel, noise or self.noise, self.threshold, C)
        return {
            "noise_scale": self.noise.scale(C),
            "distance": self.prior.distance(C),
            "chi2": chi2,
            "dof": dof,
            "back_check": trust.chi2_p_value(chi2, dof, count),
        }


def _blocks(covariance: Array, size: int) -> Array:
    """Return the blocks (sigma, E, E) on the diagonal of a covariance (sigma E, sigma E)."""
    return np.stack([covariance[i : i + size, i : i + size] for i in range(0, len(covariance), size)])


def _sigma_first(values: Array, repeats: int = 1) -> Array:
    """Return ([sample,] [boot,] sigma, E) as (sigma, sample boot, E), each sample so many times."""
    flat = values.reshape(-1, *values.shape[-2:])
    return np.moveaxis(np.repeat(flat, repeats, axis=0), 1, 0)


def reconstruct(
    audience: Audience,
    samples: Array,
    scale: float | Literal["auto"] = "auto",
    *,
    mean: Array | None = None,
    covariance: Array | None = None,
    count: int | None = None,
    flags: Sequence[str] = (),
    remedy: str = "",
) -> xr.Dataset:
    """Return what ``predictions.zarr`` holds of one correlator, given by its bootstrap means ``samples`` (boot, t).

    C is multiplied by ``scale`` before the networks see it, and rho divided; ``auto`` makes ``mean`` (t,), by default
    that of the samples, most likely under the prior. Where the ``covariance`` (t, t) of that mean is known, it is
    compared with the noise of the training; ``count`` is how many configurations it was estimated from. ``flags`` say
    what is doubtful about the data, ``remedy`` what to do where their noise is unlike that of the training.

    Returns what :meth:`Audience.predict` does, ``correlator (boot, t)``, ``implied (t)`` of the posterior mean, whose
    attribute ``chi2`` says how far it is from the mean of the samples, and as attributes ``scale``, ``scale_rule``,
    ``noise_scale``, ``distance``, ``chi2``, ``dof``, ``back_check``, ``source``, ``flags``; with bounds ``lower`` and
    ``upper (sigma, E)``, NaN where they are not certified, and ``chi2_min``; with HLT what
    :func:`~sdpipe.estimators.stability.stability` does. Raises UserError as that method does, and where C at t_ref, or
    what the networks would see of it, is too small or too large to compute with.
    """
    mean = samples.mean(axis=0) if mean is None else mean
    check_size(mean, audience.noise.times, "samples")
    factor = audience.amplitude(mean) if scale == "auto" else float(scale)
    with np.errstate(over="ignore"):
        seen = np.abs(samples).max(axis=0) * factor
    check_size(seen, audience.noise.times, f"samples times the scale {factor:g}", SINGLE)
    scaled, flags, own = samples * factor, list(flags), None
    if covariance is not None:
        noise = audience.noise
        own = Noise(noise.times, factor * mean, factor**2 * covariance, "samples", floor=noise.floor)
        wrong = trust.unlike(audience.response, audience.noise, mean, covariance)
        flags += [f"{wrong}; {remedy}"] if wrong else []
    facts: dict[str, Any] = {k: v[0].item() for k, v in audience.checks(factor * mean[None], own, count).items()}
    facts["noise_scale"] = abs(facts["noise_scale"])
    if facts["back_check"] < trust.IMPOSSIBLE:
        kernel = audience.kernel
        flags.append(
            f"no spectral density explains the data: chi2/dof = {facts['chi2']:.1f}/{facts['dof']} to the nearest "
            f"correlator of kernel {kernel.name} at T = {kernel.period}"
        )
    made, centre = audience.predict(scaled, factor), scaled.mean(axis=0)
    units = made.rho.attrs["units"]
    made["E2"] = ("E2", made.E.values, made.E.attrs)
    covariances = {name: c / factor**2 for name, c in audience.covariances(centre).items()}
    if "resolution" in covariances:
        words = {"units": squared(units), "long_name": "covariance of what the data cannot resolve"}
        made["resolution"] = (("sigma", "E", "E2"), covariances.pop("resolution"), words)
    if covariances:
        words = {"units": squared(units), "long_name": "covariance between energies of each method"}
        values = np.stack([covariances[str(name)] for name in made.method.values])
        made["method_covariance"] = (("method", "sigma", "E", "E2"), values, words)
    about = {"units": audience.kernel.units, "long_name": "bootstrap samples of C(t)"}
    made["correlator"] = (("boot", "t"), scaled / factor, about)
    if 2 <= len(audience.noise.times) <= MOST_TIMES:
        implied, chi2 = audience.implied(centre, own)
        words = {"long_name": "C(t) that the posterior mean of rho implies", "chi2": chi2}
        made["implied"] = ("t", implied / factor, {"units": audience.kernel.units, **words})
    if "hlt" in audience.methods:
        made = made.merge(audience.stability(centre, stability.kept(made.sizes["E"]), factor))
        lost = audience.hlt.floored(centre)(centre).lost
        flags += [lost] if lost else []
    if audience.level is not None:
        found = audience.bounds(mean, audience.level)
        for name in ("lower", "upper"):
            words = {"units": units, "long_name": f"{name} bound for rho >= 0 at level {audience.level:g}, all at once"}
            made[name] = (("sigma", "E"), getattr(found, name), words)
        facts["chi2_min"] = found.chi2_min
        central = made.rho.sel(ensemble=audience.central).mean(("replica", "boot")).values
        flags += [f"bounds: {w}" for w in (found.words, found.left_by(central) if audience.positive else "") if w]
    made["t"] = ("t", list(audience.noise.times), {"units": "lattice units"})
    rule = "auto" if scale == "auto" else "given"
    about_it = {"scale": factor, "scale_rule": rule, **facts, "source": audience.source, "flags": flags}
    return made.assign_attrs(about_it)
