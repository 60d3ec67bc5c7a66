"""Teach the networks that come with sdpipe, and put them into the package.

    python -m benchmarks.teach DIRECTORY [--lattices N] [--ship]

Draws are of lattices, noises and units of energy drawn anew: 16 spectral densities of the mixture on each, each with a
covariance of its own that is relative to its own C(t). What networks see of them (:mod:`sdpipe.estimators.local`) and
(rho - mean)/sd are kept in DIRECTORY, in parts of 25 lattices, so that an interrupted call goes on; then every network
of the audience is trained, with the Laplace likelihood of its estimate and its error as the loss. ``--ship`` writes
``sdpipe/data/audience.npz`` and ``audience.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.config.origins import PLACE
from sdpipe.config.schema import plain
from sdpipe.disk import files
from sdpipe.errors import UserError
from sdpipe.estimators.local import Local
from sdpipe.learn import architectures, shipped
from sdpipe.learn.moments import CUT
from sdpipe.physics import rng
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import FLOOR, Noise, synthetic
from sdpipe.physics.prior import RNG_BLOCK, Mixture, log_uniform
from sdpipe.physics.samples import generate
from sdpipe.physics.spectra import ChebyshevPrior

Array = NDArray[np.float64]

CONFIG = Path("configs/universal.yaml")
"""What the audience does not set itself."""

SEED, REPLICAS = 1, 3

MIXTURE = {"chebyshev": 3.0, "smooth": 2.0, "levels": 2.0, "states": 2.0, "resonances": 2.0, "signed": 1.0}

ENSEMBLES = {
    "Nmax": (64, 1.0, "mlpXS"),
    "Nref_b": (16, 1.0, "mlpXS"),
    "Nref_n": (64, 1.0, "mlpXXS"),
    "Nref_rho": (64, 0.25, "mlpXS"),
}
"""Nb of the Chebyshev component, share of the lattices, and networks of each ensemble."""

DRAWS, PART = 16, 25
"""Spectral densities of a lattice, and lattices of a file."""

HELD_OUT = 10
"""One lattice of so many is not trained on."""

BATCH, EPOCHS, RATE, DECAY = 1024, 40, 4e-3, 1e-2
"""Points of a batch; how often each is seen; largest rate of the one cycle; weight decay."""

FARTHEST = 30.0
"""Targets (rho - mean)/sd are cut here."""


def lattice(g: np.random.Generator) -> tuple[float, Observables]:
    """Return a unit of energy and observables, in lattice units."""
    while True:
        unit, n = log_uniform(g, 0.07, 4, 1)[0], int(log_uniform(g, 6, 56, 1)[0])
        first, stride = int(g.choice([1, 1, 1, 1, 2, 3])), int(g.choice([1, 1, 1, 1, 2]))
        last = first + stride * (n - 1)
        kernel = str(g.choice(["vector", "periodic", "exponential", "periodic-odd"], p=[0.3, 0.35, 0.25, 0.1]))
        period = int(2 * last * (1 if g.random() < 0.6 else g.uniform(1, 1.6)))
        sigma = np.sort(unit * log_uniform(g, 0.08, 1.3, 2))
        E = np.sort(unit * (0.02 + 8 * g.random(8) ** 2))
        seen = unit * last > 3 and unit * first < 4.5
        if seen and sigma[1] > 1.05 * sigma[0] and np.diff(E).min() > 1e-3 * unit:
            times = tuple(range(first, last + 1, stride))
            return unit, Observables(Kernel(kernel, period), times, tuple(sigma), tuple(E))


def noise_of(C: Array, times: tuple[int, ...], g: np.random.Generator) -> Noise:
    """Return noise relative to a clean correlator, or to the largest |C| nearby where it changes its sign."""
    n, r = len(C), log_uniform(g, 3e-5, 3e-2, 1)[0]
    growth = g.random() * np.log(0.3 / r) / times[-1]
    tau = log_uniform(g, 0.2, 30, 1)[0] if g.random() > 0.25 else 1e-6
    size = np.abs(C)
    if size.min() == 0 or abs(np.sum(np.sign(C))) < n:
        size = np.array([size[max(i - 3, 0) : i + 4].max() for i in range(n)])
    noise = synthetic(times, size, r, growth, tau)
    covariance = noise.covariance
    if g.random() < 0.4:
        rows = g.standard_normal((int(log_uniform(g, 2, 64, 1)[0] * n), n)) @ noise.cholesky.T
        covariance = rows.T @ rows / len(rows)
    return Noise(times, size, covariance, "drawn", floor=FLOOR)


def drawn(Nb: int, number: int) -> tuple[Array, Array]:
    """Return features (draw, sigma, E, feature) and targets (draw, sigma, E) of one lattice."""
    g = rng.generator(SEED, "teach", number)
    unit, grid = lattice(g)
    low = number * RNG_BLOCK
    draws = generate(Mixture(MIXTURE, ChebyshevPrior(Nb, unit=unit)), grid, SEED, low, low + DRAWS, "teach")
    features, targets = [], []
    for clean, truth in zip(draws.correlator, draws.smeared, strict=True):
        try:
            noise = noise_of(clean, grid.times, g)
            C = noise.draw(clean, 1, g)
            seen = Local.for_noise(grid, noise)(C[0], C)
        except UserError:  # a correlator that a float cannot hold at its last times
            continue
        features.append(seen.features[0])
        targets.append((truth - seen.mean[0]) / seen.sd)
    return np.array(features), np.array(targets)


def part(path: Path, Nb: int, first: int) -> None:
    """Write the draws of ``PART`` lattices."""
    each = [drawn(Nb, number) for number in range(first, first + PART)]
    each = [(x, z, np.full(len(x), first + i)) for i, (x, z) in enumerate(each) if len(x)]
    x, z, number = (np.concatenate(arrays) for arrays in zip(*each, strict=True))
    known = np.isfinite(z).all(axis=(1, 2))
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, x=x[known].astype(np.float32), z=z[known].astype(np.float32), lattice=number[known])
    partial.rename(path)


def draw_all(directory: Path, lattices: int, workers: int) -> None:
    """Write what is missing of the draws."""
    directory.mkdir(parents=True, exist_ok=True)
    sizes = sorted({Nb for Nb, _, _ in ENSEMBLES.values()}, reverse=True)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = []
        for first, Nb in product(range(0, lattices, PART), sizes):
            path = directory / f"Nb{Nb}-{first:05d}.npz"
            if not path.exists():
                waiting.append(pool.submit(part, path, Nb, first))
        for done in waiting:
            done.result()


@dataclass(frozen=True)
class Points:
    """Inputs (point, feature) and targets (point,) to train on, and those of lattices that are held out."""

    x: torch.Tensor
    z: torch.Tensor
    x_held: torch.Tensor
    z_held: torch.Tensor
    mean: Array
    matrix: Array

    @classmethod
    def read(cls, directory: Path, Nb: int, share: float) -> Points:
        """Return all points, or the first lattices up to a share of them, standardised."""
        parts = []
        for path in sorted(directory.glob(f"Nb{Nb}-*[0-9].npz")):
            with np.load(path) as content:
                parts.append([content[name] for name in ("x", "z", "lattice")])
        x, z, number = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        held = number % HELD_OUT == HELD_OUT - 1
        taken = ~held & (number < share * (number.max() + 1))
        mean, sd = x[taken].mean(axis=(0, 1, 2), dtype=float), x[taken].std(axis=(0, 1, 2), dtype=float) + 1e-3
        matrix = np.diag(1 / sd)

        def tensors(rows: NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
            seen = ((x[rows] - mean) / sd).clip(-CUT, CUT).reshape(-1, x.shape[-1])
            return torch.as_tensor(seen, dtype=torch.float32), torch.as_tensor(
                z[rows].clip(-FARTHEST, FARTHEST).ravel()
            )

        return cls(*tensors(taken), *tensors(held), mean, matrix)


def loss(outputs: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Return -log of the Laplace likelihood of z (point,) for outputs (1, point, 2), up to a constant."""
    value, log_error = architectures.split(outputs)
    off = torch.abs(z[None, :, None] - value) * torch.exp(-log_error)
    return torch.clamp(off + log_error, max=50.0).mean()


def train(points: Points, architecture: str, seed: int) -> dict[str, Any]:
    """Return the parameters of one network and its losses."""
    features = points.x.shape[-1]
    parameters = architectures.stack([architectures.initialise(architecture, features, 2, seed)])
    parameters = {name: value.float().requires_grad_() for name, value in parameters.items()}
    optimiser = torch.optim.AdamW(parameters.values(), lr=RATE, weight_decay=DECAY)
    batches = len(points.x) // BATCH
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * batches)
    generator = torch.Generator().manual_seed(seed)
    train_loss, val_loss = [], []
    for _ in range(EPOCHS):
        order, total = torch.randperm(len(points.x), generator=generator), 0.0
        for batch in order[: batches * BATCH].split(BATCH):
            here = loss(architectures.forward(parameters, points.x[batch][None]), points.z[batch])
            optimiser.zero_grad()
            here.backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimiser.step()
            cycle.step()
            total += float(here.detach())
        with torch.inference_mode():
            held = architectures.forward(parameters, points.x_held[None])
        train_loss.append(total / batches)
        val_loss.append(float(loss(held, points.z_held)))
    return {
        "parameters": {name: value.detach()[0].numpy() for name, value in parameters.items()},
        "train_loss": train_loss,
        "val_loss": val_loss,
        "mean_absolute": float(torch.abs(points.z_held - architectures.split(held)[0][0, :, 0]).mean()),
    }


def audience(directory: Path) -> list[dict[str, Any]]:
    """Return what is kept of every network."""
    networks = []
    for name, (Nb, share, architecture) in ENSEMBLES.items():
        points = Points.read(directory, Nb, share)
        posterior = float(torch.abs(points.z_held).mean())
        for replica in range(REPLICAS):
            began = time.time()
            seed = rng.torch_seed(SEED, "teach", name, replica)
            made = train(points, architecture, seed)
            off = made.pop("mean_absolute")
            print(f"{name} {replica}: {len(points.x)} points, held out: loss {made['val_loss'][-1]:.4f}, ", end="")
            print(f"mean |z| {off:.4f}, of the posterior {posterior:.4f}; {time.time() - began:.0f} s", flush=True)
            common = {"ensemble": name, "replica": replica, "architecture": architecture, "seed": SEED}
            losses = {"linear_loss": posterior, "posterior_loss": posterior, "best_epoch": EPOCHS - 1}
            networks.append(common | losses | made | {"mean": points.mean, "matrix": points.matrix})
    return networks


def manifest(sha256: str, lattices: int) -> dict[str, Any]:
    """Return what ``audience.json`` says: the hash of the networks, and the config that they stand for."""
    config, Nrho = plain(load_config(CONFIG)), lattices * DRAWS
    config["ensembles"] = {
        name: {"Nb": Nb, "Nrho": int(share * Nrho), "network": network}
        for name, (Nb, share, network) in ENSEMBLES.items()
    }
    config["spectra"] |= {"mixture": MIXTURE, "Nrho": Nrho}
    config["training"] |= {"inputs": "local", "head": "scale", "replicas": REPLICAS, "epochs": EPOCHS}
    return {"sha256": sha256, "sdpipe_version": sdpipe.__version__, "config": config}


def main() -> None:
    """Draw, train and, where asked to, ship."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lattices", type=int, default=850)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ship", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw_all(arguments.directory, arguments.lattices, arguments.workers)
    networks = audience(arguments.directory)
    if arguments.ship:
        content = manifest(shipped.write(networks, PLACE / "audience.npz"), arguments.lattices)
        files.write_text(PLACE / "audience.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
