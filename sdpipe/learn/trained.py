"""Trained networks: one self-sufficient file each, and the losses of all of them as one labelled dataset."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdpipe.disk.files import write_bytes
from sdpipe.errors import DamageError, another_schema
from sdpipe.learn.architectures import Parameters
from sdpipe.physics import smearing
from sdpipe.physics.units import energy, within
from sdpipe.version import SCHEMA, __version__

Array = NDArray[np.float64]

GAUSSIAN = {"kind": "gaussian"}
"""The smearing of networks whose file does not say it."""


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network with all that is needed to use it.

    The estimate for a correlator C (t,) in lattice units is, with x = (C - mean) @ matrix,

        rho_sigma(E) = offset + x @ weight + scale * network(x),

    shapes mean (t,), matrix (t, t), weight (t, E), offset (E,), scale (E,). It is that at one ``sigma`` of all
    ``sigmas`` or, where that is None, at each of them, one after another: E stands for (sigma, E). With ``inputs``
    posterior, features (F,) of the posterior take the place of C, matrix is (F, F), and the estimate is its mean + sd *
    network(x). With a ``head`` the second half of what the network returns is the logarithm of its error, in units of
    scale or sd.

    ``typical`` is the median of |C(t_ref)| over the training samples, ``data_mean`` (t,) and ``signal`` (t, t) mean and
    covariance of their clean C; ``covariance`` (t, t), ``lattice_mean`` (t,) and ``floor`` are those of the noise it
    was trained with; the losses are mean absolute errors. The best linear estimator of its ensemble is
    linear_offset + (C - data_mean) @ linear_weight, its covariance without noise linear_unresolved (E, E).
    rho_sigma(E) is smeared with ``smearing``, kind and parameters of :func:`sdpipe.physics.smearing.made`. The
    posterior is that of a Chebyshev prior with the numbers ``prior`` (those of
    :class:`~sdpipe.physics.spectra.ChebyshevPrior`) on the grids, with every sigma of ``sigmas``; its features are
    about rho_sigma(E) at ``seen_sigmas`` and ``seen_energies``.
    """

    ensemble: str
    replica: int
    sigma: float | None
    sigmas: list[float]
    seen_sigmas: list[float]
    seen_energies: list[float]
    architecture: str
    inputs: str
    head: bool
    prior: dict[str, Any]
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
    data_mean: Array
    signal: Array
    lattice_mean: Array
    covariance: Array
    floor: float
    linear_loss: float
    posterior_loss: float
    train_loss: list[float]
    val_loss: list[float]
    best_epoch: int
    seed: int
    config_hash: str
    smearing: dict[str, Any] = field(default_factory=lambda: dict(GAUSSIAN))

    @property
    def place(self) -> int | slice:
        """Which of ``sigmas`` it is for."""
        return slice(None) if self.sigma is None else self.sigmas.index(self.sigma)

    @property
    def unit(self) -> str:
        """Unit of energies."""
        return energy(self.spacing)

    @property
    def units(self) -> str:
        """Units of rho_sigma(E)."""
        return within(smearing.made(**self.smearing).units, self.unit)


def save(path: Path, network: Network) -> str:
    """Write a checkpoint in one step and return the SHA-256 of its bytes."""
    values = {f.name: getattr(network, f.name) for f in fields(network)}
    content = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "sdpipe_version": __version__, **content}, buffer)
    write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load(path: Path, sha256: str) -> Network:
    """Read a checkpoint whose bytes have the hash ``sha256``, the one that is recorded for it in the run.

    Raises DamageError where the file is missing, has another hash, or is no checkpoint, and UserError where it is of
    another schema.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DamageError(path, "missing") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamageError(path, "damaged (its SHA-256 is not the recorded one)")
    return _network(path, data)


@lru_cache(maxsize=64)
def _network(path: Path, data: bytes) -> Network:
    """Return what the bytes of a checkpoint hold: once in a process, since every block of draws needs all networks."""
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise DamageError(path, f"not a readable checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise DamageError(path, "not a checkpoint")
    if content.get("schema") != SCHEMA:
        raise another_schema(path, content)
    names, content = {f.name for f in fields(Network)}, {"smearing": dict(GAUSSIAN), **content}
    if content.keys() - {"schema", "sdpipe_version"} != names:
        raise DamageError(path, "not a checkpoint of a network")
    content["parameters"] = {k: v.float() for k, v in content["parameters"].items()}
    return Network(**{k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in content.items() if k in names})


def histories(networks: list[Network]) -> xr.Dataset:
    """Return train_loss, val_loss (ensemble, sigma, replica, epoch), NaN past the last epoch of a network,
    linear_loss and posterior_loss (ensemble, sigma) and best_epoch (ensemble, sigma, replica).

    Losses are mean absolute errors of rho_sigma(E), on training pairs with inputs ``posterior`` in
    units of the posterior's standard deviation; those of a network for all sigma are means over these. ``linear_loss``
    and ``posterior_loss`` are those of the best linear estimator and of the posterior mean on the same validation
    samples and noise.
    """
    ensembles, sigma = list(dict.fromkeys(n.ensemble for n in networks)), networks[0].sigmas
    replicas = sorted({n.replica for n in networks})
    epochs = max(len(n.val_loss) for n in networks)
    shape = (len(ensembles), len(sigma), len(replicas))
    train, val = np.full((*shape, epochs), np.nan), np.full((*shape, epochs), np.nan)
    linear, posterior, best = np.empty(shape[:2]), np.empty(shape[:2]), np.empty(shape, int)
    for n in networks:
        at = ensembles.index(n.ensemble), n.place, replicas.index(n.replica)
        train[at][..., : len(n.train_loss)] = n.train_loss
        val[at][..., : len(n.val_loss)] = n.val_loss
        linear[at[:2]], posterior[at[:2]], best[at] = n.linear_loss, n.posterior_loss, n.best_epoch
    dims = ("ensemble", "sigma", "replica")
    units = networks[0].units
    of_networks = "1" if networks[0].inputs == "posterior" else units
    made = {
        "train_loss": ((*dims, "epoch"), train, of_networks, "mean absolute error on training pairs"),
        "val_loss": ((*dims, "epoch"), val, of_networks, "mean absolute error on validation samples"),
        "linear_loss": (dims[:2], linear, units, "the same for the best linear estimator"),
        "posterior_loss": (dims[:2], posterior, units, "the same for the posterior mean"),
        "best_epoch": (dims, best, "1", "epoch whose weights were kept"),
    }
    return xr.Dataset(
        {name: (d, values, {"units": u, "long_name": words}) for name, (d, values, u, words) in made.items()},
        coords={
            "ensemble": np.array(ensembles, object),
            "sigma": ("sigma", sigma, {"units": networks[0].unit}),
            "replica": replicas,
            "epoch": np.arange(epochs),
        },
    )
