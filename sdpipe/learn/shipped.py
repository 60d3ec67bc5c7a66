"""The networks that come with sdpipe, and how they are made to serve a lattice that they never saw.

They correct the closed-form posterior at one sigma and one E at a time, whose features they see; the kernel, the times,
the noise and the unit of energy enter through these alone (:mod:`sdpipe.estimators.local`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdpipe.disk.bundle import packed, unpacked
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
    kept = [{name: network[name] for name in (*STORED_FIELDS, "parameters")} for network in networks]
    for network in kept:
        network["parameters"] = {name: values.astype(np.float16) for name, values in network["parameters"].items()}
    content = packed({"schema": SCHEMA, "networks": kept})
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read(path: Path, sha256: str) -> list[dict[str, Any]]:
    """Return what :func:`write` kept of each network.

    Raises DamageError where the bytes are not those of that hash.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamageError(path, "damaged (its SHA-256 is not the recorded one); install sdpipe again")
    return unpacked(data)["networks"]


def serve(kept: dict[str, Any], audience: Audience, made_from: str) -> Network:
    """Return a network for the lattice of this audience, of what was kept of one."""
    features = len(kept["mean"])
    return Network(
        **{name: kept[name] for name in STORED_FIELDS},
        sigma=None,
        parameters={name: values.astype(np.float32) for name, values in kept["parameters"].items()},
        weight=np.zeros((features, 1)),
        offset=np.zeros(1),
        scale=np.ones(1),
        audience=audience.identity,
        config_hash=made_from,
    )
