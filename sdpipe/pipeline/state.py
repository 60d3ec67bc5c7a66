"""What is done in a run directory, and what is missing, stale or damaged: receipts held against files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpipe.config.schema import Config
from sdpipe.disk import files
from sdpipe.disk.layout import CLAIM, Layout
from sdpipe.disk.receipts import Receipt
from sdpipe.errors import DamageError
from sdpipe.pipeline.made_from import MadeFrom
from sdpipe.pipeline.pieces import Piece
from sdpipe.problem.inputs import Inputs

Condition = Literal["done", "stale", "damaged", "missing"]


@dataclass(frozen=True)
class PieceState:
    """One piece as it is: done, stale (made from other inputs), damaged or missing, with its receipt and all damage."""

    piece: Piece
    condition: Condition
    receipt: Receipt | None = None
    damage: tuple[DamageError, ...] = ()


class State:
    """What is done in one run directory, for one config."""

    def __init__(self, config: Config, layout: Layout, inputs: Inputs | None = None) -> None:
        self.config, self.layout = config, layout
        self.inputs = inputs or Inputs(config)
        self.identities = MadeFrom(self.inputs, layout)

    def look(self, piece: Piece) -> PieceState:
        """Return how a piece is now."""
        receipts = self.layout.receipts
        try:
            receipt = receipts.read(piece.stage, piece.name)
        except DamageError as error:
            return PieceState(piece, "damaged", damage=(error,))
        if receipt is None:
            return PieceState(piece, "missing")
        damage = tuple(receipts.check(receipt))
        if receipt.made_from != piece.made_from:
            return PieceState(piece, "stale", receipt, damage)
        return PieceState(piece, "damaged" if damage else "done", receipt, damage)

    def to_do(self, pieces: Iterable[Piece]) -> list[PieceState]:
        """Return those of ``pieces`` that are not done."""
        return [status for piece in pieces if (status := self.look(piece)).condition != "done"]


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is. ``state`` is done, damaged, stale (made from other inputs), unfinished or missing.

    ``modified`` is when its files last changed, in seconds since 1970, or None where there are none.
    """

    name: str
    state: str
    done: int
    total: int
    unit: str
    bytes: int
    modified: float | None


def survey_of(state: State, name: str, unit: str, pieces: list[Piece], places: list[Path]) -> StageProgress:
    """Return how far the stage ``name`` is, which makes ``pieces`` in ``places``."""
    statuses = [state.look(piece) for piece in pieces]
    stats = [stat for place in places for stat in files.below(place)]
    counted = [f for f in statuses if f.piece.counted]
    conditions, all_there = {f.condition for f in statuses}, all(f.condition == "done" for f in counted)
    if "damaged" in conditions:
        told = "damaged"
    elif any(f.condition == "stale" and (f.piece.counted or all_there) for f in statuses):
        told = "stale"
    elif conditions == {"done"}:
        told = "done"
    else:
        told = "unfinished" if stats or "done" in conditions else "missing"
    done, changed = sum(f.condition == "done" for f in counted), max((s.st_mtime for s in stats), default=None)
    return StageProgress(name, told, done, len(counted), unit, sum(s.st_size for s in stats), changed)


def verify(layout: Layout, pieces: Iterable[Piece], forget: bool) -> list[DamageError]:
    """Return every file of ``pieces``, of unfinished work, and of the claim, that is not what was written.

    All bytes are read. With ``forget`` each such file is set aside, where the directory can be written, so that what it
    belongs to is not done from now on.
    """
    damaged = [*layout.receipts.damage([CLAIM, *((p.stage, p.name) for p in pieces)]), *_unfinished(layout)]
    faults = [*damaged, *layout.check_sessions(mend=forget)]
    for error in damaged if forget else []:
        with suppress(OSError):
            files.set_aside(error.file)
    return faults


def _unfinished(layout: Layout) -> Iterable[DamageError]:
    for path in sorted(layout.unfinished.glob("[!.]*")):
        try:
            files.read_sealed(path)
        except DamageError as error:
            yield error
        except OSError as error:
            yield DamageError(path, f"cannot be read ({error.strerror})")
