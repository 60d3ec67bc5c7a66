"""Generation on one core: against its own matrix products, a plain trapezoid, and the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import eval_chebyt

from benchmarks.table import Limit, Row, turn_by_turn, wall_seconds
from benchmarks.training_sets import MIXTURE, empty_run, one_ensemble
from benchmarks.workers import local_pool
from sdpipe.config.schema import Config
from sdpipe.disk.layout import Layout
from sdpipe.physics.kernels import Observables, gaussian
from sdpipe.physics.prior import BATCH
from sdpipe.physics.quadrature import ORDER
from sdpipe.physics.spectra import ChebyshevPrior
from sdpipe.pipeline.pieces import training_blocks
from sdpipe.pipeline.tasks import generate_block
from sdpipe.workers.serial import Task, cores

NODES = 28 * 16
"""Panels x nodes of the plain composite rule, whose two products a sample are c V and (...) K."""

TRAPEZOID_SAMPLES = 4


def blocks_of(config: Config, root: Path) -> Callable[[], object]:
    """Return a function that writes one block after another of a new ``training.zarr``, round and round."""
    whole = cycle(empty_run(config, root)[:-1])
    return lambda: generate_block(*next(whole))


OMEGA = np.linspace(1e-6, 10, 4000)
"""Points of the trapezoid rule in GeV."""


def literal(prior: ChebyshevPrior, c: NDArray, E0: float) -> NDArray:
    """Return rho on OMEGA as eqs. (38) and (39) read, one mode after another."""
    x, x0 = 1 - 2 * np.exp(-OMEGA), 1 - 2 * np.exp(-E0)
    return sum(c[n] * (eval_chebyt(n, x) - eval_chebyt(n, x0)) for n in range(prior.Nb)) * (OMEGA >= E0)


def trapezoid(grid: Observables, rho: NDArray) -> NDArray:
    """Return C(t) and rho_sigma(E) of one sample by the trapezoid rule, one integral after another."""
    kernels = [grid.kernel(t, OMEGA) for t in grid.times] + [
        gaussian(E, OMEGA, s) for s in grid.sigma for E in grid.energies
    ]
    return np.array([np.trapezoid(rho * kernel, OMEGA) for kernel in kernels])


def speed(root: Path) -> list[Row]:
    """Samples per second of one core, by processor time: a busy machine does not count."""
    config = one_ensemble(128, 400_000, "arcL")
    large = one_ensemble(512, 400_000, "arcL")
    mixed = one_ensemble(128, 400_000, "arcL", f"spectra.mixture={MIXTURE}")
    posterior = one_ensemble(128, 400_000, "mlpM", f"spectra.mixture={MIXTURE}", "training.inputs=posterior")
    grid, prior = config.observables, config.spectra.prior(128).prior
    columns, size = grid.count, training_blocks(config)[0].stop
    g = np.random.default_rng(1)
    c, V, K = g.random((BATCH, 128)), g.random((128, NODES)), g.random((NODES, columns))
    own, inside, kernels = g.random((128, ORDER + columns)), g.random((BATCH, ORDER)), g.random((ORDER, columns))
    drawn, thresholds = prior.draw(1, "generate", 0, BATCH)
    rule = prior.quadrature(grid)

    def plain() -> None:
        for i in range(TRAPEZOID_SAMPLES):
            trapezoid(grid, literal(prior, drawn[i], thresholds[i]))

    def vectorised() -> None:
        for i in range(TRAPEZOID_SAMPLES):
            trapezoid(grid, prior.rho(OMEGA, drawn[i : i + 1], thresholds[i : i + 1])[0])

    t = turn_by_turn(
        {
            "whole": blocks_of(config, root / "generate-128"),
            "512": blocks_of(large, root / "generate-512"),
            "mixture": blocks_of(mixed, root / "generate-mixture"),
            "posterior": blocks_of(posterior, root / "generate-posterior"),
            "products": lambda: (c @ V) @ K,
            "own": lambda: (c @ own, inside @ kernels),
            "draw": lambda: prior.draw(1, "generate", 0, BATCH),
            "integrals": lambda: rule(drawn, thresholds),
            "plain": plain,
            "vectorised": vectorised,
        },
        rounds=9,
    )
    ours, per = size / t["whole"], BATCH / t["integrals"]
    return [
        Row(
            "generate Nb=128, draws and write included", ours, "samples/s/core", BATCH / t["products"],
            (Limit("ours", "≥", 80_000), Limit("ratio", "≥", 0.5)),
            note=f"baseline: the two products c V, (...) K of a composite rule with {NODES} nodes alone",
        ),
        Row(
            "the same, against its own products", ours, "samples/s/core", BATCH / t["own"],
            note="baseline: the products of our rule alone, which needs 5 times fewer operations",
        ),
        Row(
            "integrals alone, against its own products", per, "samples/s/core", BATCH / t["own"],
            note=f"draws take {t['draw'] / BATCH * 1e6:.2f} us a sample, integrals {1e6 / per:.2f}, "
            f"all with the compressed write {1e6 / ours:.2f}",
        ),
        Row(
            "the same, against a trapezoid", ours, "samples/s/core", TRAPEZOID_SAMPLES / t["plain"],
            (Limit("ratio", "≥", 5000),), note="4000 points on [0, 10] GeV, one sample at a time, mode by mode",
        ),
        Row(
            "the same, against a trapezoid with all modes at once", ours, "samples/s/core",
            TRAPEZOID_SAMPLES / t["vectorised"],
            note="the public reference code lay between the two on another machine, 66 ms a sample",
        ),
        Row(
            "generate Nb=512", training_blocks(large)[0].stop / t["512"], "samples/s/core", None,
            (Limit("ours", "≥", 15_000),), note=f"{large.spectra.prior(512).prior.quadrature(grid).nodes} nodes; "
            f"{rule.nodes} at Nb=128",
        ),
        Row(
            "generate Nb=128, the mixture prior", training_blocks(mixed)[0].stop / t["mixture"], "samples/s/core", ours,
            note="baseline: the Chebyshev prior alone",
        ),
        Row(
            "the same with noisy copies and what the posterior says of them",
            training_blocks(posterior)[0].stop / t["posterior"], "samples/s/core", ours,
            note=f"{posterior.copies} copies of each sample",
        ),
    ]  # fmt: skip


def _files(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()]


def _written() -> int:
    lines = Path("/proc/self/io").read_text().split()
    return int(lines[lines.index("wchar:") + 1])


def writes(root: Path) -> list[Row]:
    """Bytes written for each byte on disk, and stored noise copies by all workers against the disk's own bandwidth."""
    config = one_ensemble(128, 200 * 2048, "arcL", "noise={kind: synthetic, r1: 1.0e-3, copies: 20}")
    target, copy = root / "copies", root / "disk"
    blocks, before = empty_run(config, target), _written()
    for block in blocks:
        generate_block(*block)
    size = sum(f.stat().st_size for f in _files(Layout(target).training))
    amplification = (_written() - before) / size
    content = [f.read_bytes() for f in _files(target)]

    def disk() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for i, data in enumerate(content):
            (copy / str(i)).write_bytes(data)
        os.sync()

    with local_pool(cores(), root) as pool:

        def ours() -> None:
            list(pool.map(generate_block, [Task(piece.name, (*at, piece)) for *at, piece in empty_run(config, target)]))
            os.sync()

        t = turn_by_turn({"ours": ours, "disk": disk}, rounds=3, clock=wall_seconds)
    blocks = empty_run(config, target)
    core = turn_by_turn({"": lambda: generate_block(*blocks[0])}, rounds=5)[""] * len(blocks)
    return [
        Row("bytes written for each byte on disk", amplification, "", None, (Limit("ours", "≤", 1.01),)),
        Row(
            f"generate with noise.copies=20, {cores()} workers", size / t["ours"] / 1e6, "MB/s", size / t["disk"] / 1e6,
            (Limit("ratio", "≥", 0.5),), note="wall time, compressed bytes, until they are on disk; baseline: the "
            "same files, the same way",
        ),
        Row(
            "the same by processor time: what these cores give when nobody else works", cores() * size / core / 1e6,
            "MB/s", size / t["disk"] / 1e6, (Limit("ratio", "≥", 0.5),),
        ),
    ]  # fmt: skip
