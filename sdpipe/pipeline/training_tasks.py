"""What workers do to train networks: the only tasks that import PyTorch."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpipe.config.schema import Config, digest
from sdpipe.disk import files
from sdpipe.disk.layout import Layout
from sdpipe.disk.receipts import seal
from sdpipe.errors import RunError
from sdpipe.estimators import MOST_TIMES
from sdpipe.learn import dataset, feeds, memory, trained, training
from sdpipe.pipeline.pieces import NetworkId, Piece, chunk_samples, finish
from sdpipe.pipeline.stacks import StackPlan
from sdpipe.pipeline.tasks import features
from sdpipe.problem.problem import Problem
from sdpipe.workers import pool


def _protocol(config: Config) -> training.Protocol:
    """Return the training protocol of a config, with its overrides."""
    protocol, chosen = training.PROTOCOLS[config.training.protocol], config.training
    return replace(
        protocol,
        epochs=chosen.epochs or protocol.epochs,
        batch=chosen.batch or protocol.batch,
        head=chosen.head == "scale",
    )


def _need(config: Config, samples: int) -> memory.Need:
    """Return what training on a set of so many samples takes."""
    protocol, copies = _protocol(config), config.copies
    outputs = config.energies.count * (len(config.smearing.sigma) if config.sigma_together else 1)
    if config.training.corrects:  # mean and standard deviation of each copy beside its target
        points = outputs if config.training.inputs == "local" else 1
        return memory.need(samples * copies * points, features(config), 3 * outputs // points, 1, protocol.batch)
    return memory.need(samples, len(config.lattice.slices), outputs, copies or protocol.copies, protocol.batch)


def train_stack(problem: Problem, root: Path, stack: StackPlan, threads: int, sharers: int) -> dict[str, Any]:
    """Train one stack and write a checkpoint for each network as it stops.

    A stack that does not fit the memory of its device, which ``sharers`` workers use, trains in parts, one after
    another; data that do not fit are streamed from disk. Both are reported. Raises RunError where the config wants a
    GPU and this machine has none.
    """
    config, layout = problem.config, Layout(root)
    torch.set_num_threads(threads)
    device = training.device_for(config.training.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError(
            f"training.device: no CUDA GPU on {socket.gethostname()}; what is finished in {root} is safe; give the job "
            "a GPU in the section of cluster.gpu, or set training.device=auto"
        )
    pool.report(device=device.type, host=socket.gethostname())
    parts, stream = _parts(config, stack, memory.available(device, pool.memory(), sharers))
    diverged: dict[str, str] = {}
    for part in (part for part in parts if set(stack.networks[part]) & set(stack.wanted)):
        diverged |= _TrainingTask(problem, layout, stack, part, stream).train(device)
    _running(layout, stack).unlink(missing_ok=True)
    return {"diverged": diverged}


def _parts(config: Config, stack: StackPlan, room: int) -> tuple[list[slice], bool]:
    """Return the parts of a stack that fit ``room`` bytes, and whether their samples must be streamed; report both."""
    samples = config.ensembles[stack.networks[0].ensemble].Nrho
    need = _need(config, samples)
    stream = sum(need) > room
    if stream:
        need = _need(config, memory.streamed(samples, chunk_samples(config)))
        pool.report(
            note=f"{stack.name}: Nrho = {samples} does not fit {room / 1e9:.2g} GB of memory; "
            "streaming it from training.zarr, shuffled a few chunks at a time"
        )
    parts = memory.cut([network.set for network in stack.networks], need, room)
    if len(parts) > 1:
        pool.report(
            note=f"{stack.name}: {len(stack.networks)} networks do not fit {room / 1e9:.2g} GB of memory side by side; "
            f"training {max(part.stop - part.start for part in parts)} at a time"
        )
    return parts, stream


def _running(layout: Layout, stack: StackPlan) -> Path:
    return layout.running / f"{stack.name}.json"


class _TrainingTask:
    """Part of a stack at its training: the sets, what is kept of a network as it stops, what is told of each epoch."""

    def __init__(self, problem: Problem, layout: Layout, stack: StackPlan, part: slice, stream: bool) -> None:
        self.problem, self.layout, self.stack = problem, layout, stack
        self.networks = stack.networks[part]
        self.wanted = set(self.networks) & set(stack.wanted)
        self.protocol = _protocol(problem.config)
        sets = list(dict.fromkeys(network.set for network in self.networks))
        self.fitted = [_fit(problem, layout, *one, stream) for one in sets]
        self.members = [feeds.Member(sets.index(network.set), network.stream) for network in self.networks]
        self.identity = digest(dict(stack.identities), self.networks, stream)
        self.diverged: dict[str, str] = {}

    def train(self, device: torch.device) -> dict[str, str]:
        """Train the networks side by side; return why those that diverged did, by name."""
        config = self.problem.config
        architecture = config.ensembles[self.networks[0].ensemble].network
        while self.wanted:  # twice where one of them was done and lost, so that what training goes on from lacks it
            training.train(
                training.Recipe(architecture, self.protocol, config.seed),
                [fitted.data for fitted in self.fitted],
                self.members,
                self._finished,
                on_epoch=self._on_epoch,
                unfinished=training.Unfinished(self.layout.unfinished / f"{self.identity}.pt", self.identity),
                options=feeds.TensorOptions(device),
            )
        return self.diverged

    def _finished(self, i: int, outcome: training.Outcome) -> None:
        """Keep a network where it is wanted and did not diverge."""
        network, fitted, best = self.networks[i], self.fitted[self.members[i].data], min(outcome.val_loss)
        if network not in self.wanted:
            return
        self.wanted.remove(network)
        reason = None
        if outcome.diverged is not None:
            reason = f"at epoch {outcome.diverged}"
        elif not best <= fitted.mean_loss:
            reason = f"to a validation loss of {best:.3g}, above that of predicting the mean ({fitted.mean_loss:.3g})"
        if reason:
            self.diverged[network.label(self.problem.config)] = f"{reason}, seed {self.problem.config.seed}"
            return
        piece = Piece("train", network.stem, self.stack.identities[network.ensemble])
        path = self.layout.networks / f"{network.stem}.npz"
        trained.save(path, _network(self.problem, network, fitted, outcome, piece.made_from))
        losses = {"linear_loss": fitted.linear_loss, "posterior_loss": fitted.posterior_loss, "val_loss": best}
        finish(self.layout, piece, [path], **losses)

    def _on_epoch(self, epoch: int, losses: list[tuple[int, float]]) -> None:
        """Tell the driver, and ``status`` by a file, how far each network is."""
        from sdpipe.workers import pool

        rows = [
            {
                "task": self.networks[i].label(self.problem.config),
                "epoch": epoch,
                "epochs": self.protocol.epochs,
                "val_loss": loss,
                "linear_loss": self.fitted[self.members[i].data].linear_loss,
                "posterior_loss": self.fitted[self.members[i].data].posterior_loss,
            }
            for i, loss in losses
        ]
        files.write_text(_running(self.layout, self.stack), seal(rows))
        for row in rows:
            pool.report(**row)


def _fit(problem: Problem, layout: Layout, ensemble: str, sigma_index: int | None, stream: bool) -> dataset.Fitted:
    """Return the training set of an ensemble at one sigma, or at all, with what is fitted to it in closed form."""
    config, chosen = problem.config, problem.config.ensembles[ensemble]
    samples = dataset.StoredSamples(layout.training, chosen.Nb, chosen.Nrho, sigma_index, stream)
    residual, key = _protocol(config).residual, (config.seed, ensemble)
    has_posterior = 2 <= len(config.lattice.slices) <= MOST_TIMES
    posterior = (lambda C: problem.posterior(C).mean[:, sigma_index]) if has_posterior else None
    return dataset.fit(samples, problem.noise, config.training.inputs, residual, key, posterior)


def _network(
    problem: Problem, network: NetworkId, fitted: dataset.Fitted, outcome: training.Outcome, made_from: str
) -> trained.Network:
    config, i = problem.config, network.sigma_index
    return trained.Network(
        ensemble=network.ensemble,
        replica=network.replica,
        sigma=None if i is None else config.smearing.sigma[i],
        architecture=config.ensembles[network.ensemble].network,
        parameters={name: values.numpy() for name, values in outcome.parameters.items()},
        mean=fitted.transform.mean,
        matrix=fitted.transform.matrix,
        weight=np.asarray(fitted.data.weight),
        offset=np.asarray(fitted.data.offset),
        scale=np.asarray(fitted.data.scale),
        linear_loss=fitted.linear_loss,
        posterior_loss=fitted.posterior_loss,
        train_loss=outcome.train_loss,
        val_loss=outcome.val_loss,
        best_epoch=outcome.best_epoch,
        seed=config.seed,
        audience=problem.audience.identity,
        config_hash=made_from,
    )
