"""Training steps: replicas side by side against a plain loop over one network with a DataLoader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.table import Limit, Row, turn_by_turn
from sdpipe.learn.architectures import FEATURE_MAPS, HIDDEN, NEGATIVE_SLOPE
from sdpipe.learn.feeds import Chunk, Member, TensorOptions, TrainingSet
from sdpipe.learn.training import PROTOCOLS, Recipe, train

T, E, REPLICAS = 16, 47, 5


def mock(samples: int, seed: int = 1) -> TrainingSet:
    """Return data of the reference scale's shapes; a step takes the same time on any numbers."""
    g = np.random.default_rng(seed)
    x, y = g.standard_normal((samples, T)), g.standard_normal((samples, E))
    held, linear = [Chunk(x, np.ones(samples), y, x[:256], y[:256])], (np.zeros((T, E)), np.zeros(E), np.ones(E))
    return TrainingSet(held.__getitem__, (samples,), (256,), 0, 0.1 * np.eye(T), *linear)


def plain_network(network: str) -> nn.Module:
    """Return the architecture as anyone would write it."""
    first, second = FEATURE_MAPS[network]
    return nn.Sequential(
        nn.Unflatten(1, (1, T)),
        nn.Conv1d(1, first, 3, 2, 1), nn.LeakyReLU(NEGATIVE_SLOPE),
        nn.Conv1d(first, second, 3, 2, 1), nn.LeakyReLU(NEGATIVE_SLOPE),
        nn.Flatten(), nn.Linear(T // 4 * second, HIDDEN), nn.LeakyReLU(NEGATIVE_SLOPE), nn.Linear(HIDDEN, E),
    )  # fmt: skip


def plain_epoch(network: str, data: TrainingSet, batch: int, device: str = "cpu") -> None:
    """Train one network for an epoch: DataLoader, torch.nn, Adam."""
    model, chunk = plain_network(network).to(device), data.read(0)
    pairs = TensorDataset(torch.Tensor(chunk.x), torch.Tensor(chunk.y))
    optimizer, loss = torch.optim.Adam(model.parameters(), lr=2e-4), nn.L1Loss()
    for x, y in DataLoader(pairs, batch_size=batch, shuffle=True):
        optimizer.zero_grad()
        loss(model(x.to(device)), y.to(device)).backward()
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()


def stack_epoch(network: str, data: TrainingSet, batch: int, replicas: int, device: str = "cpu") -> None:
    """Train a stack for an epoch, with fresh noise, validation and all."""
    protocol = replace(PROTOCOLS["default"], epochs=1, batch=batch)
    members = [Member(0, ("mock", r)) for r in range(replicas)]
    options = TensorOptions(torch.device(device))
    train(Recipe(network, protocol, seed=1), [data], members, lambda *_: None, options=options)


def measure(_: Path) -> list[Row]:
    """Pairs per second of one core at batch 32, for each replica, and how that grows with the stack."""
    torch.set_num_threads(1)
    rows, data = [], mock(4000)
    pairs = data.rows[0]
    for network in FEATURE_MAPS:
        t = turn_by_turn(
            {
                "plain": lambda n=network: plain_epoch(n, data, 32),
                "stack": lambda n=network: stack_epoch(n, data, 32, REPLICAS),
            },
            rounds=3,
        )
        what = f"{network}: batch 32, {REPLICAS} replicas side by side"
        limit = (Limit("ratio", "≥", 3),)
        rows.append(Row(what, REPLICAS * pairs / t["stack"], "pairs/s/core", pairs / t["plain"], limit))
    for batch in (32, 256):
        sizes = (1, 2, 5, 10, 20)
        t = turn_by_turn({str(r): lambda r=r, b=batch: stack_epoch("arcL", data, b, r) for r in sizes}, rounds=3)
        one = pairs / t["1"]
        rows += [Row(f"arcL: batch {batch}, {r} replicas", r * pairs / t[str(r)], "pairs/s/core", one) for r in sizes]
    return rows
