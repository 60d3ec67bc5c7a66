"""The networks that come with sdpipe, and how they are made to serve a lattice that they never saw.

They correct the closed-form posterior, whose features they see; the kernel, the times and the noise of the data enter
through these alone. They give rho_sigma(E) on a grid of sigma and E, and between its points by cubic splines in
log sigma and E of their last layer.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from sdpipe.disk.files import write_bytes
from sdpipe.errors import DamageError
from sdpipe.learn.audience import Audience
from sdpipe.learn.trained import Network
from sdpipe.version import SCHEMA

Array = NDArray[np.float64]

KEPT = (
    "ensemble",
    "replica",
    "architecture",
    "mean",
    "matrix",
    "linear_loss",
    "posterior_loss",
    "train_loss",
    "val_loss",
    "best_epoch",
    "seed",
)
"""What is kept of a network beside its weights: no number that belongs to the lattice that it was trained on."""


SHARED = ("inputs", "head", "sigmas", "energies")
"""What all of them share: what they see, whether they give an error, and the grid of their last layer in the unit."""


def write(networks: Sequence[Network], audience: Audience, path: Path) -> str:
    """Write networks into one file, weights in half precision; return the SHA-256 of its bytes.

    The bytes are a function of the networks and their audience alone.
    """
    content = []
    for network in networks:
        kept = {name: getattr(network, name) for name in KEPT}
        kept |= {name: torch.as_tensor(kept[name]) for name in ("mean", "matrix")}
        content.append(kept | {"parameters": {k: v.half() for k, v in network.parameters.items()}})
    grid = {"sigmas": list(audience.observables.sigma), "energies": list(audience.observables.energies)}
    shared = {"inputs": audience.inputs, "head": audience.head, **grid}
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "audience": shared, "networks": content}, buffer)
    write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read(path: Path, sha256: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what :func:`write` kept of the audience (``SHARED``), and of each network.

    Raises DamageError where the bytes are not those of that hash.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamageError(path, "damaged (its SHA-256 is not the recorded one); install sdpipe again")
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return content["audience"], content["networks"]


def serve(kept: dict[str, Any], shared: dict[str, Any], audience: Audience, made_from: str) -> Network:
    """Return a network for the lattice of this audience, of what was kept of one.

    All but its last layer stay in half precision.
    """
    o, unit = audience.observables, audience.prior.unit
    parameters = dict(kept["parameters"])
    grid = [np.log(shared["sigmas"]), np.array(shared["energies"])]
    wanted = [np.log(np.array(o.sigma) / unit), np.array(o.energies) / unit]
    between = [torch.as_tensor(_spline(x, at), dtype=torch.float32) for x, at in zip(grid, wanted, strict=True)]
    for name in ("output.weight", "output.bias"):
        last = parameters[name].float().reshape(-1, len(grid[0]), len(grid[1]))
        parameters[name] = torch.einsum("hse,as,be->hab", last, *between).flatten(1)
    features, outputs = len(kept["mean"]), len(o.sigma) * len(o.energies)
    return Network(
        **{name: kept[name] for name in KEPT if name not in ("mean", "matrix")},
        sigma=None,
        parameters=parameters,
        mean=kept["mean"].numpy(),
        matrix=kept["matrix"].numpy(),
        weight=np.zeros((features, outputs)),
        offset=np.zeros(outputs),
        scale=np.ones(outputs),
        audience=audience.identity,
        config_hash=made_from,
    )


def _spline(x: Array, at: Array) -> Array:
    """Return the matrix (at, x) that takes values at x to those of their cubic spline."""
    return make_interp_spline(x, np.eye(len(x)), k=3)(at)
