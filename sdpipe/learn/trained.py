"""Trained networks: a checkpoint each, and the losses of all of them as one labelled dataset."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr

from sdpipe.arrays import Array
from sdpipe.disk.bundle import packed, unpacked
from sdpipe.disk.files import read_recorded, write_bytes
from sdpipe.errors import DamageError, another_schema
from sdpipe.learn.architectures import Weights
from sdpipe.learn.audience import Audience
from sdpipe.version import SCHEMA, __version__


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network; what it shares with all others of its run is the :class:`~sdpipe.learn.audience.Audience`.

    The estimate for a correlator C (t,) in lattice units is, with x = (C - mean) @ matrix,

        rho_sigma(E) = offset + x @ weight + scale * network(x),

    shapes mean (t,), matrix (t, t), weight (t, E), offset (E,), scale (E,). It is that at one ``sigma`` or, where that
    is None, at each sigma of the audience, one after another: E stands for (sigma, E). With inputs ``posterior``,
    features (F,) of the posterior take the place of C, matrix is (F, F), and the estimate is its mean + sd *
    network(x). With inputs ``local`` they are those at one sigma and one E, and there is one output. With an error
    head the second half of what the network returns is the logarithm of its error, in units of scale or sd.
    The losses are mean absolute errors. ``audience`` is the identity of that audience.
    """

    ensemble: str
    replica: int
    sigma: float | None
    architecture: str
    parameters: Weights
    mean: Array
    matrix: Array
    weight: Array
    offset: Array
    scale: Array
    linear_loss: float
    posterior_loss: float
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int
    seed: int
    audience: str
    config_hash: str


def save(path: Path, network: Network) -> str:
    """Write a checkpoint in one step and return the SHA-256 of its bytes."""
    values = {f.name: getattr(network, f.name) for f in fields(network)}
    content = packed({"schema": SCHEMA, "sdpipe_version": __version__, **values})
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def load(path: Path, sha256: str) -> Network:
    """Read a checkpoint whose bytes have the hash ``sha256``, the one that is recorded for it in the run.

    Raises DamageError where the file is missing, has another hash, or is no checkpoint, and UserError where it is of
    another schema.
    """
    return _network(path, read_recorded(path, sha256))


@lru_cache(maxsize=64)
def _network(path: Path, data: bytes) -> Network:
    """Return what the bytes of a checkpoint hold: once in a process, since every block of draws needs all networks."""
    try:
        content = unpacked(data)
    except Exception as error:  # unpacking raises whatever the bytes lead it to
        raise DamageError(path, f"not a readable checkpoint ({type(error).__name__})") from None
    if content.get("schema") != SCHEMA:
        raise another_schema(path, content)
    names = {f.name for f in fields(Network)}
    if content.keys() - {"schema", "sdpipe_version"} != names:
        raise DamageError(path, "not a checkpoint of a network")
    return Network(**{name: content[name] for name in names})


def histories(networks: list[Network], audience: Audience) -> xr.Dataset:
    """Return train_loss, val_loss (ensemble, sigma, replica, epoch), NaN past the last epoch of a network,
    linear_loss and posterior_loss (ensemble, sigma) and best_epoch (ensemble, sigma, replica).

    Losses are mean absolute errors of rho_sigma(E), on training pairs, where networks correct the posterior, in
    units of its standard deviation; those of a network for all sigma are means over these. ``linear_loss``
    and ``posterior_loss`` are those of the best linear estimator and of the posterior mean on the same validation
    samples and noise.
    """
    ensembles = list(dict.fromkeys(n.ensemble for n in networks))
    sigma = list(audience.observables.sigma)
    replicas = sorted({n.replica for n in networks})
    epochs = max(len(n.val_loss) for n in networks)
    shape = (len(ensembles), len(sigma), len(replicas))
    train, val = np.full((*shape, epochs), np.nan), np.full((*shape, epochs), np.nan)
    linear, posterior, best = np.empty(shape[:2]), np.empty(shape[:2]), np.empty(shape, int)
    for n in networks:
        place = slice(None) if n.sigma is None else sigma.index(n.sigma)
        row = ensembles.index(n.ensemble), place
        cell = (*row, replicas.index(n.replica))
        train[cell][..., : len(n.train_loss)] = n.train_loss
        val[cell][..., : len(n.val_loss)] = n.val_loss
        linear[row], posterior[row], best[cell] = n.linear_loss, n.posterior_loss, n.best_epoch
    dims = ("ensemble", "sigma", "replica")
    units = audience.observables.units
    of_networks, pairs = "1" if audience.on_features else units, "mean absolute error on training pairs"
    if audience.on_features:
        pairs += ", in standard deviations of the posterior"
    variables = {
        "train_loss": ((*dims, "epoch"), train, of_networks, pairs),
        "val_loss": ((*dims, "epoch"), val, units, "mean absolute error on validation samples"),
        "linear_loss": (dims[:2], linear, units, "the same for the best linear estimator"),
        "posterior_loss": (dims[:2], posterior, units, "the same for the posterior mean"),
        "best_epoch": (dims, best, "1", "epoch whose weights were kept, counted from 0"),
    }
    return xr.Dataset(
        {name: (d, values, {"units": u, "long_name": words}) for name, (d, values, u, words) in variables.items()},
        coords={
            "ensemble": np.array(ensembles, object),
            "sigma": ("sigma", sigma, {"units": audience.observables.kernel.unit}),
            "replica": replicas,
            "epoch": np.arange(epochs),
        },
    )
