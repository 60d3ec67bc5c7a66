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

from sdpipe import checkpoint, dataset, feeds, files, memory, problem, training
from sdpipe.blocks import StackTask, chunk_samples, network_name
from sdpipe.config import Config, digest
from sdpipe.layout import Layout

Report = Callable[..., None]


def protocol_for(config: Config) -> training.Protocol:
    """Return the training protocol of a config, with its overrides."""
    protocol, chosen = training.PROTOCOLS[config.training.protocol], config.training
    return replace(protocol, epochs=chosen.epochs or protocol.epochs, batch=chosen.batch or protocol.batch)


def stack_need(config: Config, task: StackTask) -> memory.Need:
    """Return what training the networks of a task takes."""
    ensemble, protocol, copies = config.ensembles[task.ensemble], protocol_for(config), config.noise.copies
    return memory.Need(
        network=ensemble.network,
        inputs=len(config.lattice.slices),
        outputs=config.energies.count,
        samples=ensemble.Nrho,
        chunk=chunk_samples(config),
        copies=copies or protocol.copies,
        batch=protocol.batch,
        kept=not protocol.fresh,
        stored=copies > 0,
    )


def train_stack(
    config: Config, root: Path, task: StackTask, threads: int, worker_memory: Callable[[], int], report: Report
) -> dict[str, Any]:
    """Train one stack and write a checkpoint for each network as it stops.

    A stack that does not fit the memory of its device trains in parts, one after another; data that do not
    fit are streamed from disk. Both are reported.
    """
    torch.set_num_threads(threads)
    device = training.device_for(config.training.device)
    report(device=device.type, host=socket.gethostname())
    layout, ensemble = Layout(root), config.ensembles[task.ensemble]
    lattice, protocol = problem.lattice_noise(config), protocol_for(config)
    host = memory.available(torch.device("cpu"), worker_memory())
    room = memory.available(device, worker_memory())
    stream, together = memory.cut(stack_need(config, task), len(task.replicas), host, room)
    if stream:
        report(
            note=f"{task.name}: Nrho = {ensemble.Nrho} does not fit {min(host, room) / 1e9:.2g} GB of memory; "
            "streaming it from training.zarr, shuffled a few chunks at a time"
        )
    if together < len(task.replicas):
        report(
            note=f"{task.name}: {len(task.replicas)} networks do not fit {room / 1e9:.2g} GB of memory side by side; "
            f"training {together} at a time"
        )
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
        stream,
    )
    identity = problem.network_hash(config, task.ensemble)
    markers = layout.markers("train", identity)
    members = [feeds.Member(0, (task.ensemble, task.sigma_index, r)) for r in task.replicas]
    diverged: dict[str, str] = {}

    def finished(i: int, outcome: training.Outcome) -> None:
        replica = task.replicas[i]
        if replica not in task.wanted:
            return
        why, best = None, min(outcome.val_loss)
        if outcome.diverged is not None:
            why = f"at epoch {outcome.diverged}"
        elif not best <= fitted.mean_loss:
            why = f"to a validation loss of {best:.3g}, above that of predicting the mean ({fitted.mean_loss:.3g})"
        if why:
            diverged[network_name(task.ensemble, task.sigma, replica)] = f"{why}, seed {config.seed}"
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
            linear_weight=fitted.linear.weight,
            linear_offset=fitted.linear.offset,
            linear_unresolved=fitted.linear.unresolved,
            typical=fitted.typical,
            signal=fitted.moments.covariance,
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
        markers.add(
            path.stem,
            sha256=sha256,
            val_loss=min(outcome.val_loss),
            linear_loss=fitted.linear_loss,
            together=task.replicas[i - i % together :][:together],
        )

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
        files.write_text(progress, json.dumps(rows))
        for row in rows:
            report(**row)

    for low in range(0, len(members), together):
        part = slice(low, low + together)
        key = (identity, task.sigma_index, task.replicas[part], *(["streamed"] if stream else []))
        training.train(
            ensemble.network,
            [fitted.data],
            members[part],
            protocol,
            config.seed,
            lambda i, outcome, low=low: finished(low + i, outcome),
            state=layout.state("train") / f"{digest(*key)}.pt",
            identity=identity,
            on_epoch=lambda epoch, losses, low=low: on_epoch(epoch, [(low + i, loss) for i, loss in losses]),
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
