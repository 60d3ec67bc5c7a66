"""Correlators through every network at once: (networks, correlators) -> rho_sigma(E), labelled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdpipe.errors import UserError
from sdpipe.infer.budget import LINEAR
from sdpipe.infer.typicality import PriorOfData
from sdpipe.learn import networks
from sdpipe.learn.trained import Network
from sdpipe.physics.noise import Noise

PAIRS = 8192
"""Pairs (network, correlator) in one forward pass: bounds the memory."""


def _grid(members: list[Network]) -> tuple[list[float], list[str], list[int]]:
    sigma = [m.sigma for m in sorted(members, key=lambda m: m.sigma_index)]
    ensembles, replicas = [m.ensemble for m in members], sorted({m.replica for m in members})
    return list(dict.fromkeys(sigma)), list(dict.fromkeys(ensembles)), replicas


def predict(members: list[Network], correlators: NDArray, central: str | None = None) -> xr.DataArray:
    """Return rho (sigma, ensemble, replica, boot, E) for correlators (boot, t).

    C has the units of the kernel with rho dimensionless; networks of one architecture share each pass. With
    ``central`` a last ensemble, ``linear``, is the best linear estimator of that ensemble, the same for every replica.

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
    sigma, ensembles, replicas = _grid(members)
    by_key = {(m.sigma, m.ensemble, m.replica): m for m in members}
    missing = [
        f"{e} sigma={s} replica {r}" for s, e, r in product(sigma, ensembles, replicas) if (s, e, r) not in by_key
    ]
    if missing:
        raise UserError(f"networks missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    names = ensembles + ([] if central is None else [LINEAR])
    rho = np.empty((len(sigma), len(names), len(replicas), len(correlators), len(first.energies)), np.float32)
    for architecture in dict.fromkeys(m.architecture for m in members):
        group = [m for m in members if m.architecture == architecture]
        for m, values in zip(group, _forward(group, correlators), strict=True):
            rho[sigma.index(m.sigma), ensembles.index(m.ensemble), replicas.index(m.replica)] = values
    if central is not None:
        for at, m in zip(rho, of_ensemble(members, central), strict=True):
            at[-1] = (correlators - m.mean) @ m.matrix @ m.linear_weight + m.linear_offset
    return xr.DataArray(
        rho,
        dims=("sigma", "ensemble", "replica", "boot", "E"),
        coords={
            "sigma": ("sigma", sigma, {"units": "GeV"}),
            "ensemble": np.array(names, object),
            "replica": replicas,
            "boot": np.arange(len(correlators)),
            "E": ("E", first.energies, {"units": "GeV"}),
        },
        name="rho",
        attrs={"units": "1", "long_name": "smeared spectral density"},
    )


def of_ensemble(members: list[Network], name: str) -> list[Network]:
    """Return the networks of one ensemble, one for each sigma, in the order of sigma: those of replica 0."""
    return sorted((m for m in members if m.ensemble == name and m.replica == 0), key=lambda m: m.sigma_index)


def linear_covariance(members: list[Network], central: str) -> tuple[NDArray, NDArray]:
    """Return U and V (sigma, E, E): the posterior covariance of the linear estimator at noise scale s is U + s^2 V.

    U is what C(t) without noise does not resolve, V = A Cov_latt A^T; see
    :class:`~sdpipe.learn.linear.LinearEstimator`.
    """
    central_members = of_ensemble(members, central)
    to_rho = [m.matrix @ m.linear_weight for m in central_members]
    noise = [A.T @ m.covariance @ A for A, m in zip(to_rho, central_members, strict=True)]
    return np.stack([m.linear_unresolved for m in central_members]), np.stack(noise)


def prior_of_data(members: list[Network], central: str) -> PriorOfData:
    """Return the prior of C(t) that the central networks were trained on, with their noise."""
    m = of_ensemble(members, central)[0]
    noise = Noise(tuple(m.times), m.lattice_mean, m.covariance, "networks")
    return PriorOfData(m.mean, m.signal, noise)


def amplitude_rule(members: list[Network], central: str) -> Callable[[NDArray], float]:
    """Return C (t,) -> the factor that makes it most likely under the prior of the central networks."""
    prior, typical = prior_of_data(members, central), of_ensemble(members, central)[0].typical
    return lambda correlator: prior.amplitude(correlator, typical)


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
