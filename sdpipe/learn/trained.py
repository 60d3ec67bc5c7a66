"""One trained network in one self-sufficient file: weights, transforms, grids, noise and provenance."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sdpipe import __version__
from sdpipe.disk.files import write_bytes
from sdpipe.disk.store import SCHEMA, another_schema
from sdpipe.errors import DamageError
from sdpipe.learn.networks import Parameters

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network with all that is needed to use it.

    The estimate for a correlator C (t,) in lattice units is, with x = (C - mean) @ matrix,

        rho_sigma(E) = offset + x @ weight + scale * network(x),

    shapes mean (t,), matrix (t, t), weight (t, E), offset (E,), scale (E,). ``typical`` is the median of
    |C(t_ref)| over the training samples, ``signal`` (t, t) the covariance of their clean C; ``covariance`` (t, t) and
    ``lattice_mean`` (t,) are those of the noise it was trained with; the losses are mean absolute errors. The best
    linear estimator of its ensemble is linear_offset + x @ linear_weight, its covariance without noise
    linear_unresolved (E, E).
    """

    ensemble: str
    replica: int
    sigma: float
    sigma_index: int
    architecture: str
    kernel: str
    period: int
    spacing: float
    times: list[int]
    energies: list[float]
    parameters: Parameters
    mean: Array
    matrix: Array
    weight: Array
    offset: Array
    scale: Array
    linear_weight: Array
    linear_offset: Array
    linear_unresolved: Array
    typical: float
    signal: Array
    lattice_mean: Array
    covariance: Array
    linear_loss: float
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int
    seed: int
    config_hash: str


def save(path: Path, network: Network) -> str:
    """Write a checkpoint in one step and return the SHA-256 of its bytes."""
    content = {
        k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v
        for k, v in ({f.name: getattr(network, f.name) for f in fields(network)}).items()
    }
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "sdpipe_version": __version__, **content}, buffer)
    write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load(path: Path, sha256: str | None = None) -> Network:
    """Read a checkpoint.

    Raises DamageError where the file is missing, damaged (its bytes do not have the hash ``sha256``) or not a
    checkpoint, UserError where it is of another schema.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DamageError(path, "missing") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise DamageError(path, "damaged (its SHA-256 is not the recorded one)")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise DamageError(path, f"not a readable checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise DamageError(path, "not a checkpoint")
    if content.get("schema") != SCHEMA:
        raise another_schema(path, content)
    content = {k: v for k, v in content.items() if k not in ("schema", "sdpipe_version")}
    if content.keys() != {f.name for f in fields(Network)}:
        raise DamageError(path, "not a checkpoint of a network")
    return Network(**{k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in content.items()})
