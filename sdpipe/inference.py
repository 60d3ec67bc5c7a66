"""Correlators through every network at once: (networks, correlators) -> rho_sigma(E), labelled."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdpipe import networks
from sdpipe.checkpoint import Network
from sdpipe.errors import UserError

PAIRS = 8192
"""Pairs (network, correlator) in one forward pass: bounds the memory."""


def _grid(members: list[Network]) -> tuple[list[float], list[str], list[int]]:
    sigma = [m.sigma for m in sorted(members, key=lambda m: m.sigma_index)]
    ensembles, replicas = [m.ensemble for m in members], sorted({m.replica for m in members})
    return list(dict.fromkeys(sigma)), list(dict.fromkeys(ensembles)), replicas


def predict(members: list[Network], correlators: NDArray) -> xr.DataArray:
    """Return rho (sigma, ensemble, replica, boot, E) for correlators (boot, t).

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
    sigma, ensembles, replicas = _grid(members)
    by_key = {(m.sigma, m.ensemble, m.replica): m for m in members}
    missing = [
        f"{e} sigma={s} replica {r}" for s, e, r in product(sigma, ensembles, replicas) if (s, e, r) not in by_key
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
