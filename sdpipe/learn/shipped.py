"""The networks that come with sdpipe, and how they are made to serve a lattice that they never saw.

They correct the closed-form posterior, whose features they see; the kernel, the times and the noise of the data enter
through these alone. They give rho_sigma(E) on a grid of sigma and E, and between its points by cubic splines in
log sigma and E of their last layer.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from sdpipe.disk.files import write_bytes
from sdpipe.errors import DamageError
from sdpipe.learn.moments import InputTransform, LinearEstimator, Moments
from sdpipe.learn.trained import Network
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.prior import Mixture
from sdpipe.physics.samples import generate
from sdpipe.version import SCHEMA

Array = NDArray[np.float64]

DRAWS = 4096
"""Draws of the prior that the linear estimator of a lattice is fitted on."""

KEPT = (
    "ensemble",
    "replica",
    "architecture",
    "inputs",
    "head",
    "sigmas",
    "energies",
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


def write(networks: Sequence[Network], path: Path) -> str:
    """Write networks into one file, weights in half precision; return the SHA-256 of its bytes.

    The bytes are a function of the networks alone.
    """
    content = []
    for network in networks:
        kept = {name: getattr(network, name) for name in KEPT}
        kept |= {name: torch.as_tensor(kept[name]) for name in ("mean", "matrix")}
        content.append(kept | {"parameters": {k: v.half() for k, v in network.parameters.items()}})
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "networks": content}, buffer)
    write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read(path: Path, sha256: str) -> list[dict]:
    """Return what :func:`write` kept of each network.

    Raises DamageError where the bytes are not those of that hash.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamageError(path, "damaged (its SHA-256 is not the recorded one); install sdpipe again")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["networks"]


@dataclass(frozen=True, eq=False)
class Lattice:
    """A lattice to serve: its grids, its noise, and what is known of C(t) and rho_sigma(E) under the prior there."""

    observables: Observables
    noise: Noise
    prior: Mixture
    moments: Moments
    linear: LinearEstimator
    weight: Array
    typical: float

    @classmethod
    def of(cls, observables: Observables, noise: Noise, prior: Mixture, seed: int) -> Lattice:
        """Return a lattice with the best linear estimator of draws of the prior."""
        made = generate(prior, observables, seed, 0, DRAWS, stream="lattice")
        moments = Moments.from_samples(lambda: [(made.correlator, made.smeared.reshape(DRAWS, -1))], noise)
        transform = InputTransform.fit(moments, "whiten")
        linear = LinearEstimator.fit(moments, transform)
        typical = float(np.median(np.abs(made.correlator[:, noise.reference])))
        return cls(observables, noise, prior, moments, linear, transform.matrix @ linear.weight, typical)


def serve(kept: dict, lattice: Lattice, made_from: str) -> Network:
    """Return a network for this lattice, of what was kept of one; all but its last layer stay in half precision."""
    o, noise, unit = lattice.observables, lattice.noise, lattice.prior.prior.unit
    parameters = dict(kept["parameters"])
    grid = [np.log(kept["sigmas"]), np.array(kept["energies"])]
    wanted = [np.log(np.array(o.sigma) / unit), np.array(o.energies) / unit]
    between = [torch.as_tensor(_spline(x, at), dtype=torch.float32) for x, at in zip(grid, wanted, strict=True)]
    for name in ("output.weight", "output.bias"):
        last = parameters[name].float().reshape(-1, len(grid[0]), len(grid[1]))
        parameters[name] = torch.einsum("hse,as,be->hab", last, *between).flatten(1)
    features, outputs = len(kept["mean"]), len(o.sigma) * len(o.energies)
    return Network(
        **{name: kept[name] for name in KEPT if name not in ("mean", "matrix", "sigmas", "energies")},
        mean=kept["mean"].numpy(),
        matrix=kept["matrix"].numpy(),
        sigma=None,
        sigmas=list(o.sigma),
        energies=list(o.energies),
        seen_sigmas=[unit * s for s in kept["sigmas"]],
        seen_energies=[unit * E for E in kept["energies"]],
        prior=asdict(lattice.prior.prior),
        kernel=o.kernel.name,
        period=o.kernel.period,
        spacing=o.kernel.spacing,
        times=list(o.times),
        parameters=parameters,
        weight=np.zeros((features, outputs)),
        offset=np.zeros(outputs),
        scale=np.ones(outputs),
        linear_weight=lattice.weight,
        linear_offset=lattice.linear.offset,
        linear_unresolved=lattice.linear.unresolved,
        typical=lattice.typical,
        data_mean=lattice.moments.mean,
        signal=lattice.moments.covariance,
        lattice_mean=noise.mean,
        covariance=noise.covariance,
        floor=noise.floor,
        config_hash=made_from,
    )


def _spline(x: Array, at: Array) -> Array:
    """Return the matrix (at, x) that takes values at x to those of their cubic spline."""
    return make_interp_spline(x, np.eye(len(x)), k=3)(at)
