"""What a worker does with the broad audience: train one stack of it, or send a target through all of it.

Tasks are idempotent, write their marker last, and return small dicts.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from sdpipe import checkpoint, dataset, inference, problem, store, training
from sdpipe.blocks import StackTask, network_name
from sdpipe.config import Config, digest
from sdpipe.layout import Layout

Report = Callable[..., None]


def protocol_for(config: Config) -> training.Protocol:
    """Return the training protocol of a config, with its overrides."""
    protocol, chosen = training.PROTOCOLS[config.training.protocol], config.training
    return replace(protocol, epochs=chosen.epochs or protocol.epochs, batch=chosen.batch or protocol.batch)


def train_stack(config: Config, root: Path, task: StackTask, threads: int, report: Report) -> dict[str, Any]:
    """Train one stack and write a checkpoint for each network as it stops."""
    torch.set_num_threads(threads)
    device = training.device_for(config.training.device)
    report(device=device.type, host=socket.gethostname())
    layout, ensemble = Layout(root), config.ensembles[task.ensemble]
    lattice, protocol = problem.lattice_noise(config), protocol_for(config)
    fitted = dataset.load(
        layout.training,
        ensemble.Nb,
        ensemble.Nrho,
        task.sigma_index,
        lattice,
        config.training.inputs,
        protocol,
        config.seed,
        task.ensemble,
    )
    identity = problem.network_hash(config, task.ensemble)
    markers = layout.markers("train", identity)
    members = [training.Member(0, (task.ensemble, task.sigma_index, r)) for r in task.replicas]
    diverged = {}

    def finished(i: int, outcome: training.Outcome) -> None:
        replica = task.replicas[i]
        if outcome.diverged is not None:
            diverged[network_name(task.ensemble, task.sigma, replica)] = outcome.diverged
            return
        network = checkpoint.Network(
            ensemble=task.ensemble,
            replica=replica,
            sigma=task.sigma,
            sigma_index=task.sigma_index,
            architecture=ensemble.network,
            kernel=config.kernel,
            period=config.lattice.period,
            spacing=config.lattice.spacing,
            times=list(config.lattice.slices),
            energies=list(problem.energies(config)),
            parameters=outcome.parameters,
            mean=fitted.transform.mean,
            matrix=fitted.transform.matrix,
            weight=np.asarray(fitted.data.weight),
            offset=np.asarray(fitted.data.offset),
            scale=np.asarray(fitted.data.scale),
            typical=fitted.typical,
            lattice_mean=lattice.mean,
            covariance=lattice.covariance,
            linear_loss=fitted.linear_loss,
            train_loss=outcome.train_loss,
            val_loss=outcome.val_loss,
            best_epoch=outcome.best_epoch,
            seed=config.seed,
            config_hash=identity,
        )
        path = layout.network(task.ensemble, task.sigma_index, replica)
        sha256 = checkpoint.save(path, network)
        markers.add(path.stem, sha256=sha256, val_loss=min(outcome.val_loss), linear_loss=fitted.linear_loss)

    progress = layout.progress(task.name)

    def on_epoch(epoch: int, losses: list[tuple[int, float]]) -> None:
        rows = [
            {
                "task": network_name(task.ensemble, task.sigma, task.replicas[i]),
                "epoch": epoch,
                "epochs": protocol.epochs,
                "val_loss": loss,
                "linear_loss": fitted.linear_loss,
            }
            for i, loss in losses
        ]
        store.write_text(progress, json.dumps(rows))
        for row in rows:
            report(**row)

    training.train(
        ensemble.network,
        [fitted.data],
        members,
        protocol,
        config.seed,
        finished,
        state=layout.state("train") / f"{digest(identity, task.sigma_index, task.replicas)}.pt",
        identity=identity,
        on_epoch=on_epoch,
        device=device,
    )
    progress.unlink(missing_ok=True)
    return {"diverged": diverged}


def load_networks(config: Config, layout: Layout) -> list[checkpoint.Network]:
    """Load every network of the config, each checked against its recorded hash."""
    networks = []
    for name in config.ensembles:
        markers = layout.markers("train", problem.network_hash(config, name))
        for sigma_index in range(len(config.smearing.sigma)):
            for replica in range(config.training.replicas):
                path = layout.network(name, sigma_index, replica)
                facts = markers.facts(path.stem) or {}
                networks.append(checkpoint.load(path, facts.get("sha256")))
    return networks


def predict_target(config: Config, root: Path, name: str) -> dict[str, Any]:
    """Write the predictions of every network for one target."""
    layout = Layout(root)
    networks, lattice = load_networks(config, layout), problem.lattice_noise(config)
    typical = next(n.typical for n in networks if n.ensemble == config.budget.central)
    target = problem.target(config, name, lattice, typical)
    rho = inference.predict(networks, target.samples) / np.float32(target.scale)
    rho.attrs = {"units": "1", "long_name": "smeared spectral density"}
    grid = problem.observables(config)
    predictions = xr.Dataset({"rho": rho}, attrs={"target": name, "scale": target.scale})
    predictions["correlator"] = (
        ("boot", "t"),
        target.samples / target.scale,
        {"units": grid.kernel.units, "long_name": "bootstrap samples of C(t)"},
    )
    predictions["t"] = ("t", list(grid.times), {"units": "lattice units"})
    if target.truth is not None:
        predictions["truth"] = (("sigma", "E"), target.truth, {"units": "1", "long_name": "true smeared density"})
    identity = problem.prediction_hash(config, name)
    attrs = store.attributes(identity, config.seed)
    store.write_group(layout.predictions, name, predictions, attrs)
    layout.markers("predict", identity).add(name)
    return {"boot": rho.sizes["boot"]}
