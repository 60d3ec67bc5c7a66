"""Correlators through a broad audience of networks: rho_sigma(E) of each, with what says whether to trust it.

Everything that predicts goes through here: ``sdpipe.predict``, the stage, and the draws of ``validate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdpipe.errors import UserError
from sdpipe.infer import trust
from sdpipe.infer.budget import LINEAR
from sdpipe.learn import networks
from sdpipe.learn.trained import Network
from sdpipe.physics.kernels import Kernel
from sdpipe.physics.noise import Noise

Array = NDArray[np.float64]

PAIRS = 8192
"""Pairs (network, correlator) in one forward pass: bounds the memory."""


def estimates(members: Sequence[Network], correlators: NDArray) -> xr.DataArray:
    """Return rho (sigma, ensemble, replica, boot, E) of networks for correlators C (boot, t).

    C has the units of the kernel with rho dimensionless; networks of one architecture share each pass.

    Raises UserError when a network of the grid ensemble x sigma x replica is missing, when a correlator has
    another number of times than the networks, or holds a value that is not finite.
    """
    correlators = np.asarray(correlators, float)
    first = members[0]
    if correlators.ndim != 2 or correlators.shape[1] != len(first.times):
        raise UserError(
            f"correlators of shape {correlators.shape}; the networks take (boot, {len(first.times)}), "
            f"t = {first.times[0]}..{first.times[-1]}"
        )
    if not np.isfinite(correlators).all():
        raise UserError("correlators hold values that are not finite")
    sigma = list(dict.fromkeys(m.sigma for m in sorted(members, key=lambda m: m.sigma_index)))
    ensembles, replicas = list(dict.fromkeys(m.ensemble for m in members)), sorted({m.replica for m in members})
    there = {(m.sigma, m.ensemble, m.replica) for m in members}
    missing = [
        f"{e} sigma={s} replica {r}" for s, e, r in product(sigma, ensembles, replicas) if (s, e, r) not in there
    ]
    if missing:
        raise UserError(f"networks missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    rho = np.empty((len(sigma), len(ensembles), len(replicas), len(correlators), len(first.energies)), np.float32)
    for architecture in dict.fromkeys(m.architecture for m in members):
        group = [m for m in members if m.architecture == architecture]
        for m, values in zip(group, _forward(group, correlators), strict=True):
            rho[sigma.index(m.sigma), ensembles.index(m.ensemble), replicas.index(m.replica)] = values
    return xr.DataArray(
        rho,
        dims=("sigma", "ensemble", "replica", "boot", "E"),
        coords={
            "sigma": ("sigma", sigma, {"units": "GeV"}),
            "ensemble": np.array(ensembles, object),
            "replica": replicas,
            "boot": np.arange(len(correlators)),
            "E": ("E", first.energies, {"units": "GeV"}),
        },
        name="rho",
        attrs={"units": "1", "long_name": "smeared spectral density"},
    )


def _forward(group: list[Network], correlators: NDArray) -> NDArray:
    """Return estimates (network, boot, E) of networks of one architecture."""

    def tensor(arrays: list[NDArray]) -> torch.Tensor:
        return torch.as_tensor(np.stack(arrays), dtype=torch.float32)

    parameters = networks.stack([m.parameters for m in group])
    weight = tensor([m.weight for m in group])
    offset, scale = tensor([m.offset for m in group])[:, None], tensor([m.scale for m in group])[:, None]
    rows = max(1, PAIRS // len(group))
    parts = []
    with torch.inference_mode():
        for low in range(0, len(correlators), rows):
            batch = correlators[low : low + rows]
            x = tensor([(batch - m.mean) @ m.matrix for m in group])
            parts.append(torch.baddbmm(offset, x, weight) + scale * networks.forward(parameters, x))
    return torch.cat(parts, dim=1).numpy()


@dataclass(frozen=True, eq=False)
class Audience:
    """All networks of a run: what they predict, and what they know of the data that they were trained for.

    ``central`` is the name of the central ensemble, ``threshold`` the lowest threshold E0 of its prior in GeV.
    """

    networks: Sequence[Network]
    central: str
    threshold: float

    @cached_property
    def each_sigma(self) -> list[Network]:
        """One central network for each sigma: linear estimator, noise and prior are the same for all replicas."""
        members = (m for m in self.networks if m.ensemble == self.central and m.replica == 0)
        return sorted(members, key=lambda m: m.sigma_index)

    @cached_property
    def prior(self) -> trust.PriorOfData:
        """The prior of C(t) that the central networks were trained on, with their noise."""
        m = self.each_sigma[0]
        return trust.PriorOfData(m.mean, m.signal, Noise(tuple(m.times), m.lattice_mean, m.covariance, "networks"))

    @property
    def noise(self) -> Noise:
        """The noise of the training."""
        return self.prior.noise

    @property
    def kernel(self) -> Kernel:
        """The kernel of the training."""
        m = self.each_sigma[0]
        return Kernel(m.kernel, m.period, m.spacing)

    @cached_property
    def response(self) -> Array:
        """A (t, sigma E) of the linear estimator: rho = C A + constant."""
        return np.concatenate([m.matrix @ m.linear_weight for m in self.each_sigma], axis=1)

    @cached_property
    def linear_covariance(self) -> tuple[Array, Array]:
        """U and V (sigma, E, E): the posterior covariance of the linear estimator at noise scale s is U + s^2 V.

        U is what C(t) without noise does not resolve, V = A Cov_latt A^T; see
        :class:`~sdpipe.learn.linear.LinearEstimator`.
        """
        to_rho = [m.matrix @ m.linear_weight for m in self.each_sigma]
        noise = [A.T @ m.covariance @ A for A, m in zip(to_rho, self.each_sigma, strict=True)]
        return np.stack([m.linear_unresolved for m in self.each_sigma]), np.stack(noise)

    def amplitude(self, correlator: Array) -> float:
        """Return the factor a that makes a C (t,) most likely under the prior."""
        return self.prior.amplitude(correlator, self.each_sigma[0].typical)

    def predict(self, correlators: NDArray, scale: ArrayLike = 1.0) -> xr.DataArray:
        """Return rho (sigma, ensemble, replica, [sample,] boot, E) for C ([sample,] boot, t).

        The last ensemble, ``linear``, is the best linear estimator of the central one, the same for every replica.
        ``scale`` ([sample]) is a factor that C has been multiplied by; rho is divided by it, which the linearity of
        the problem allows.

        Raises UserError as :func:`estimates` does.
        """
        flat = np.asarray(correlators, float).reshape(-1, np.shape(correlators)[-1])
        rho = estimates(self.networks, flat)
        linear = np.empty_like(rho.values[:, :1])
        for at, m in zip(linear, self.each_sigma, strict=True):
            at[0] = (flat - m.mean) @ m.matrix @ m.linear_weight + m.linear_offset
        shape = (*rho.shape[:1], rho.shape[1] + 1, rho.shape[2], *np.shape(correlators)[:-1], rho.shape[-1])
        values = np.concatenate([rho.values, linear], axis=1).reshape(shape)
        values /= np.asarray(scale, np.float32)[..., None, None]
        coords = {d: rho[d] for d in ("sigma", "replica", "E")}
        coords["ensemble"] = np.array([*rho.ensemble.values, LINEAR], object)
        dims = ("sigma", "ensemble", "replica", *("sample", "boot")[-np.ndim(correlators) + 1 :], "E")
        coords |= {d: np.arange(n) for d, n in zip(dims[3:-1], shape[3:-1], strict=True)}
        return xr.DataArray(values, dims=dims, coords=coords, name="rho", attrs=rho.attrs)

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

    Returns ``rho (sigma, ensemble, replica, boot, E)``, ``correlator (boot, t)``, ``linear_covariance (sigma, E, E2)``,
    and as attributes ``scale``, ``scale_rule``, ``noise_scale``, ``distance``, ``chi2``, ``dof``, ``back_check``,
    ``flags``. Raises UserError as :func:`estimates` does.
    """
    mean = samples.mean(axis=0) if mean is None else mean
    factor = audience.amplitude(mean) if scale == "auto" else float(scale)
    scaled, flags, own = samples * factor, list(flags), None
    if covariance is not None:
        own = Noise(audience.noise.times, factor * mean, factor**2 * covariance, "samples")
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
    unresolved, from_noise = audience.linear_covariance
    made = xr.Dataset({"rho": audience.predict(scaled, factor)})
    made["linear_covariance"] = (
        ("sigma", "E", "E2"),
        (unresolved + facts["noise_scale"] ** 2 * from_noise) / factor**2,
        {"units": "1", "long_name": "posterior covariance of the linear estimator"},
    )
    made["E2"] = ("E2", made.E.values, {"units": "GeV"})
    about = {"units": audience.kernel.units, "long_name": "bootstrap samples of C(t)"}
    made["correlator"] = (("boot", "t"), scaled / factor, about)
    made["t"] = ("t", list(audience.noise.times), {"units": "lattice units"})
    rule = "auto" if scale == "auto" else "given"
    return made.assign_attrs({"scale": factor, "scale_rule": rule, **facts, "flags": flags})
