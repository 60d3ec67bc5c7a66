"""Training histories of all networks as one labelled dataset."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sdpipe.learn.trained import Network


def collect(networks: list[Network]) -> xr.Dataset:
    """Return train_loss, val_loss (ensemble, sigma, replica, epoch), NaN past the last epoch of a network,
    linear_loss (ensemble, sigma) and best_epoch (ensemble, sigma, replica).

    Losses are mean absolute errors of the dimensionless rho_sigma(E); ``linear_loss`` is that of the best
    linear estimator on the same validation samples and noise.
    """
    ensembles = list(dict.fromkeys(n.ensemble for n in networks))
    sigma = list(dict.fromkeys(n.sigma for n in sorted(networks, key=lambda n: n.sigma_index)))
    replicas = sorted({n.replica for n in networks})
    epochs = max(len(n.val_loss) for n in networks)
    shape = (len(ensembles), len(sigma), len(replicas))
    train, val = np.full((*shape, epochs), np.nan), np.full((*shape, epochs), np.nan)
    linear, best = np.empty(shape[:2]), np.empty(shape, int)
    for n in networks:
        at = ensembles.index(n.ensemble), sigma.index(n.sigma), replicas.index(n.replica)
        train[at][: len(n.train_loss)] = n.train_loss
        val[at][: len(n.val_loss)] = n.val_loss
        linear[at[:2]], best[at] = n.linear_loss, n.best_epoch
    dims = ("ensemble", "sigma", "replica")
    loss = {"units": "1"}
    return xr.Dataset(
        {
            "train_loss": ((*dims, "epoch"), train, {**loss, "long_name": "mean absolute error on training pairs"}),
            "val_loss": ((*dims, "epoch"), val, {**loss, "long_name": "mean absolute error on validation samples"}),
            "linear_loss": (dims[:2], linear, {**loss, "long_name": "the same for the best linear estimator"}),
            "best_epoch": (dims, best, {"units": "1", "long_name": "epoch whose weights were kept"}),
        },
        coords={
            "ensemble": np.array(ensembles, object),
            "sigma": ("sigma", sigma, {"units": "GeV"}),
            "replica": replicas,
            "epoch": np.arange(epochs),
        },
    )
