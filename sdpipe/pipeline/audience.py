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

from sdpipe import __version__
from sdpipe.config import problem
from sdpipe.config.schema import Config, digest
from sdpipe.disk import files
from sdpipe.disk.layout import Layout
from sdpipe.disk.store import SCHEMA
from sdpipe.errors import RunError
from sdpipe.learn import dataset, feeds, memory, trained, training
from sdpipe.physics.noise import Noise
from sdpipe.pipeline.pieces import NetworkId, StackTask, chunk_samples, every_network, network_name

Report = Callable[..., None]


def protocol_for(config: Config) -> training.Protocol:
    """Return the training protocol of a config, with its overrides."""
    protocol, chosen = training.PROTOCOLS[config.training.protocol], config.training
    return replace(protocol, epochs=chosen.epochs or protocol.epochs, batch=chosen.batch or protocol.batch)


def stack_need(config: Config, task: StackTask) -> memory.Need:
    """Return what training the networks of a task takes."""
    ensemble, protocol, copies = config.ensembles[task.networks[0].ensemble], protocol_for(config), config.noise.copies
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
    config: Config,
    root: Path,
    task: StackTask,
    threads: int,
    sharers: int,
    worker_memory: Callable[[], int],
    report: Report,
) -> dict[str, Any]:
    """Train one stack and write a checkpoint for each network as it stops.

    A stack that does not fit the memory of its device, which ``sharers`` workers use, trains in parts, one after
    another; data that do not fit are streamed from disk. Both are reported. Raises RunError where the config wants a
    GPU and this machine has none.
    """
    torch.set_num_threads(threads)
    device = training.device_for(config.training.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError(
            f"training.device: no CUDA GPU on {socket.gethostname()}; what is finished in {root} is safe; give the job "
            "a GPU in the section of cluster.gpu, or set training.device=auto"
        )
    report(device=device.type, host=socket.gethostname())
    need, sets = stack_need(config, task), [(n.ensemble, n.sigma_index) for n in task.networks]
    host = memory.available(torch.device("cpu"), worker_memory(), sharers)
    room = memory.available(device, worker_memory(), sharers)
    stream, parts = memory.cut(need, sets, host, room)
    if stream:
        report(
            note=f"{task.name}: Nrho = {need.samples} does not fit {min(host, room) / 1e9:.2g} GB of memory; "
            "streaming it from training.zarr, shuffled a few chunks at a time"
        )
    if len(parts) > 1:
        report(
            note=f"{task.name}: {len(sets)} networks do not fit {min(host, room) / 1e9:.2g} GB of memory side by side; "
            f"training {max(part.stop - part.start for part in parts)} at a time"
        )
    diverged: dict[str, str] = {}
    for part in parts:
        diverged |= _train_part(config, Layout(root), task, part, stream, device, report)
    Layout(root).progress(task.name).unlink(missing_ok=True)
    return {"diverged": diverged}


def _train_part(
    config: Config, layout: Layout, task: StackTask, part: slice, stream: bool, device: torch.device, report: Report
) -> dict[str, str]:
    """Train networks side by side; return why those that diverged did, by name."""
    networks, protocol, lattice = task.networks[part], protocol_for(config), problem.lattice_noise(config)
    identities = {n.ensemble: problem.network_hash(config, n.ensemble) for n in networks}
    sets = list(dict.fromkeys((n.ensemble, n.sigma_index) for n in networks))
    fitted = [_fit(config, layout, lattice, *which, stream) for which in sets]
    members = [feeds.Member(sets.index((n.ensemble, n.sigma_index)), tuple(n)) for n in networks]
    names = [network_name(config, n) for n in networks]
    diverged: dict[str, str] = {}

    def finished(i: int, outcome: training.Outcome) -> None:
        made_from, identity, best = fitted[members[i].data], identities[networks[i].ensemble], min(outcome.val_loss)
        if networks[i] not in task.wanted:
            return
        why = None
        if outcome.diverged is not None:
            why = f"at epoch {outcome.diverged}"
        elif not best <= made_from.mean_loss:
            why = f"to a validation loss of {best:.3g}, above that of predicting the mean ({made_from.mean_loss:.3g})"
        if why:
            diverged[names[i]] = f"{why}, seed {config.seed}"
            return
        path = layout.network(*networks[i])
        sha256 = trained.save(path, _network(config, lattice, networks[i], made_from, outcome, identity))
        layout.markers("train", identity).add(
            path.stem,
            sha256=sha256,
            val_loss=best,
            linear_loss=made_from.linear_loss,
            schema=SCHEMA,
            sdpipe_version=__version__,
            together=[layout.network(*n).stem for n in networks],
        )

    def on_epoch(epoch: int, losses: list[tuple[int, float]]) -> None:
        rows = [
            {
                "task": names[i],
                "epoch": epoch,
                "epochs": protocol.epochs,
                "val_loss": loss,
                "linear_loss": fitted[members[i].data].linear_loss,
            }
            for i, loss in losses
        ]
        files.write_text(layout.progress(task.name), json.dumps(rows))
        for row in rows:
            report(**row)

    identity = digest(identities, networks, stream)
    training.train(
        config.ensembles[networks[0].ensemble].network,
        [f.data for f in fitted],
        members,
        protocol,
        config.seed,
        finished,
        state=layout.state("train") / f"{identity}.pt",
        identity=identity,
        on_epoch=on_epoch,
        device=device,
    )
    return diverged


def _fit(
    config: Config, layout: Layout, lattice: Noise, ensemble: str, sigma_index: int, stream: bool
) -> dataset.Fitted:
    chosen = config.ensembles[ensemble]
    return dataset.load(
        layout.training,
        chosen.Nb,
        chosen.Nrho,
        sigma_index,
        lattice,
        config.training.inputs,
        protocol_for(config),
        config.seed,
        ensemble,
        stream,
    )


def _network(
    config: Config,
    lattice: Noise,
    network: NetworkId,
    fitted: dataset.Fitted,
    outcome: training.Outcome,
    identity: str,
) -> trained.Network:
    return trained.Network(
        ensemble=network.ensemble,
        replica=network.replica,
        sigma=config.smearing.sigma[network.sigma_index],
        sigma_index=network.sigma_index,
        architecture=config.ensembles[network.ensemble].network,
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


def load_networks(config: Config, layout: Layout) -> list[trained.Network]:
    """Load every network of the config, each checked against its recorded hash."""
    markers = {name: layout.markers("train", problem.network_hash(config, name)) for name in config.ensembles}
    networks = []
    for network in every_network(config):
        path = layout.network(*network)
        facts = markers[network.ensemble].facts(path.stem) or {}
        networks.append(trained.load(path, facts.get("sha256")))
    return networks
