"""One trained network in one self-sufficient file: weights, transforms, grids, noise and provenance."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.typing import NDArray

from sdpipe.errors import UserError
from sdpipe.networks import Parameters
from sdpipe.store import SCHEMA

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network with all that is needed to use it.

    The estimate for a correlator C (t,) in lattice units is, with x = (C - mean) @ matrix,

        rho_sigma(E) = offset + x @ weight + scale * network(x),

    shapes mean (t,), matrix (t, t), weight (t, E), offset (E,), scale (E,). ``typical`` is the median of
    |C(t_ref)| over the training samples, ``covariance`` (t, t) and ``lattice_mean`` (t,) are those of the
    noise it was trained with; the losses are mean absolute errors.
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
    typical: float
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
    torch.save({"schema": SCHEMA, **content}, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load(path: Path, sha256: str | None = None) -> Network:
    """Read a checkpoint.

    Raises UserError where the file is missing, damaged (its bytes do not have the hash ``sha256``), or of
    another schema.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: damaged (its SHA-256 is not the recorded one); delete it and train again")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None
    if content.pop("schema", None) != SCHEMA:
        raise UserError(f"{path}: written with another schema than {SCHEMA}; train again")
    return Network(**{k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in content.items()})
