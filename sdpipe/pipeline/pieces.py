"""How work is cut: the pieces of every stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from sdpipe.config.schema import Config
from sdpipe.disk.layout import Layout
from sdpipe.physics.prior import BATCH
from sdpipe.physics.spectra import RNG_BLOCK
from sdpipe.pipeline.made_from import MadeFrom
from sdpipe.problem.problem import families

CHUNK_BYTES = 16 * 2**20
BLOCK_SECONDS = 0.22
"""What a block of so many bytes takes one core (docs/performance.md)."""
PAGE = "page-"
"""How the pieces of the report begin that are pages of one target."""
VALIDATION_BLOCK = 500
"""Draws of one family that one task takes."""


@dataclass(frozen=True)
class Piece:
    """What is made in one go and has one receipt.

    ``work`` is what makes it: a block, a network, the name of a target. ``counted`` is false for what accompanies the
    pieces that people count, such as the metadata of a store; ``needed`` where no later stage needs it.
    """

    stage: str
    name: str
    made_from: str
    work: Any = None
    counted: bool = True
    needed: bool = True


def finish(layout: Layout, piece: Piece, written: Iterable[Path], **facts: Any) -> None:
    """Write the receipt of a piece, when all that was ``written`` for it is on disk."""
    layout.receipts.write(piece.stage, piece.name, piece.made_from, written, **facts)


@dataclass(frozen=True)
class Block:
    """A contiguous range of samples in one row of a store: the unit of work of ``generate`` and ``validate``.

    ``of`` is the basis size, or the validation family, of the row.
    """

    name: str
    row: int
    of: Any
    start: int
    stop: int

    @property
    def region(self) -> tuple[int, slice]:
        """Where the block lies in an array (row, sample, ...)."""
        return self.row, slice(self.start, self.stop)


def _blocks(stage: str, rows: list[tuple[str, Any]], total: int, step: int) -> list[Block]:
    return [
        Block(f"{stage}-{name}-{i:04d}", row, of, start, min(start + step, total))
        for row, (name, of) in enumerate(rows)
        for i, start in enumerate(range(0, total, step))
    ]


def chunk_samples(config: Config) -> int:
    """Return the samples in a chunk: about 16 MiB, at least four chunks a set, whole batches where there is one."""
    numbers = len(config.smearing.sigma) * config.energies.count
    if config.training.inputs == "local":
        from sdpipe.estimators.local import FEATURES  # and SciPy, which commands do without that compute nothing

        numbers *= FEATURES
    largest = CHUNK_BYTES // (4 * numbers)
    quarter = -(-config.spectra.Nrho // 4)
    unit = BATCH if min(largest, quarter) >= BATCH else RNG_BLOCK
    return unit * max(min(largest // unit, -(-quarter // unit)), 1)


def training_blocks(config: Config) -> list[Block]:
    """Return every block of ``training.zarr``."""
    rows = [(f"Nb{Nb}", Nb) for Nb in config.spectra.Nb]
    return _blocks("generate", rows, config.spectra.Nrho, chunk_samples(config))


def validation_blocks(config: Config) -> list[Block]:
    """Return every block of draws that ``validate`` predicts."""
    return _blocks("validate", [(f, f) for f in families(config)], config.validation.samples, VALIDATION_BLOCK)


def of_training(identities: MadeFrom) -> list[Piece]:
    """Return metadata and blocks of ``training.zarr``; none where networks need no training."""
    if not identities.config.origin.trains:
        return []
    blocks = [Piece("generate", b.name, identities.training, b) for b in training_blocks(identities.config)]
    return [Piece("generate", "template", identities.training, counted=False), *blocks]


def of_audience(identities: MadeFrom) -> list[Piece]:
    """Return what all networks share, every network, and the history of all."""
    shared = Piece("train", "audience", identities.shared, counted=not identities.config.origin.networks)
    networks = [Piece("train", n.stem, identities.networks[n.ensemble], n) for n in every_network(identities.config)]
    history = [Piece("train", "history", identities.audience, counted=False, needed=False)] if networks else []
    return [shared, *networks, *history]


def of_predictions(identities: MadeFrom) -> list[Piece]:
    """Return the store of predictions, and its targets."""
    targets = [Piece("predict", name, made_from, name) for name, made_from in identities.predictions.items()]
    return [Piece("predict", "@store", identities.audience, counted=False, needed=False), *targets]


def of_validation(identities: MadeFrom) -> list[Piece]:
    """Return metadata and blocks of the predicted draws, and what is made of them."""
    blocks = [
        Piece("validate", b.name, identities.draws, b, needed=False) for b in validation_blocks(identities.config)
    ]
    return [
        Piece("validate", "template", identities.draws, counted=False, needed=False),
        *blocks,
        Piece("validate", "validation", identities.validation, counted=False),
        Piece("validate", "@figures", identities.validation, counted=False, needed=False),
    ]


def of_budgets(identities: MadeFrom) -> list[Piece]:
    """Return the store of budgets, and its targets with their figures."""
    targets = [Piece("analyze", name, made_from, name) for name, made_from in identities.budgets.items()]
    return [Piece("analyze", "@store", identities.audience, counted=False, needed=False), *targets]


def of_report(identities: MadeFrom) -> list[Piece]:
    """Return the page and, of many targets, a page for each."""
    pages = identities.budgets.items() if identities.config.many else ()
    return [
        *(Piece("report", f"{PAGE}{name}", made_from, name) for name, made_from in pages),
        Piece("report", "report", identities.report),
    ]


class NetworkId(NamedTuple):
    """Which network of the broad audience."""

    ensemble: str
    sigma_index: int | None
    """None where it gives all sigma."""
    replica: int

    @property
    def stem(self) -> str:
        """The name of its file.

        >>> NetworkId("Nmax", 0, 3).stem, NetworkId("Nmax", None, 3).stem
        ('Nmax-sigma0-replica003', 'Nmax-replica003')
        """
        sigma = "" if self.sigma_index is None else f"-sigma{self.sigma_index}"
        return f"{self.ensemble}{sigma}-replica{self.replica:03d}"

    @property
    def set(self) -> tuple[str, int | None]:
        """Which training set is its own."""
        return self.ensemble, self.sigma_index

    @property
    def stream(self) -> tuple[int | str, ...]:
        """The key of its random numbers."""
        return tuple("all" if part is None else part for part in self)

    def label(self, config: Config) -> str:
        """Return its name in messages, such as train-Nmax-0.44-r3."""
        sigma = "all" if self.sigma_index is None else f"{config.smearing.sigma[self.sigma_index]:g}"
        return f"train-{self.ensemble}-{sigma}-r{self.replica}"


def every_network(config: Config) -> list[NetworkId]:
    """Return the whole broad audience."""
    sigmas = [None] if config.sigma_together else range(len(config.smearing.sigma))
    replicas = range(config.training.replicas)
    return [NetworkId(*choice) for choice in product(config.ensembles, sigmas, replicas)]
