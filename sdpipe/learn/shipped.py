"""The networks that come with sdpipe, and how they are made to serve a lattice that they never saw.

They correct the closed-form posterior at one sigma and one E at a time, whose features they see; the kernel, the times,
the noise and the unit of energy enter through these alone (:mod:`sdpipe.estimators.local`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpipe.disk.files import write_bytes
from sdpipe.errors import DamageError
from sdpipe.learn.audience import Audience
from sdpipe.learn.trained import Network
from sdpipe.version import SCHEMA

STORED_FIELDS = (
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
"""What is kept of a network beside its weights: no number that belongs to a lattice."""


def write(networks: Sequence[dict[str, Any]], path: Path) -> str:
    """Write networks, ``STORED_FIELDS`` and ``parameters`` of each, into one file; return the SHA-256 of its bytes.

    Weights are in half precision. The bytes are a function of the networks alone.
    """
    content = []
    for network in networks:
        kept = {name: network[name] for name in STORED_FIELDS}
        kept |= {name: torch.as_tensor(kept[name]) for name in ("mean", "matrix")}
        content.append(kept | {"parameters": {k: v.half() for k, v in network["parameters"].items()}})
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "networks": content}, buffer)
    write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read(path: Path, sha256: str) -> list[dict[str, Any]]:
    """Return what :func:`write` kept of each network.

    Raises DamageError where the bytes are not those of that hash.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamageError(path, "damaged (its SHA-256 is not the recorded one); install sdpipe again")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["networks"]


def serve(kept: dict[str, Any], audience: Audience, made_from: str) -> Network:
    """Return a network for the lattice of this audience, of what was kept of one."""
    features = len(kept["mean"])
    return Network(
        **{name: kept[name] for name in STORED_FIELDS if name not in ("mean", "matrix")},
        sigma=None,
        parameters={name: values.float() for name, values in kept["parameters"].items()},
        mean=kept["mean"].numpy(),
        matrix=kept["matrix"].numpy(),
        weight=np.zeros((features, 1)),
        offset=np.zeros(1),
        scale=np.ones(1),
        audience=audience.identity,
        config_hash=made_from,
    )
