"""Where everything lies in a run directory, and which config owns it."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from sdpipe.disk.files import LEFTOVER, OLD, PARTIAL, STATE, delete, odd, read, sweep, write_text
from sdpipe.disk.receipts import Receipt, Receipts, seal, unseal
from sdpipe.errors import DamageError, UserError


class Session(BaseModel):
    """How long a stage worked in one go."""

    stage: str
    begun: str
    seconds: float
    host: str


class InTraining(BaseModel):
    """How far a network is."""

    task: str
    epoch: int
    epochs: int
    val_loss: float
    linear_loss: float
    posterior_loss: float


SESSION, IN_TRAINING = TypeAdapter(Session), TypeAdapter(list[InTraining])

CLAIM = ("claim", "config")
"""The receipt of the config that last claimed the directory."""


@dataclass(frozen=True)
class Layout:
    """Paths of one run directory."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def training(self) -> Path:
        return self.root / "training.zarr"

    @property
    def networks(self) -> Path:
        return self.root / "networks"

    @property
    def audience(self) -> Path:
        """What all networks share."""
        return self.networks / "audience.nc"

    @property
    def history(self) -> Path:
        return self.root / "history.zarr"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.zarr"

    @property
    def budget(self) -> Path:
        return self.root / "budget.zarr"

    @property
    def validation(self) -> Path:
        return self.root / "validation.zarr"

    @property
    def given(self) -> Path:
        """Data that came from no file."""
        return self.root / STATE / "array.npz"

    @property
    def draws(self) -> Path:
        """Predictions for the draws of all families, of which ``validation.zarr`` is made."""
        return self.root / STATE / "draws.zarr"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def pages(self) -> Path:
        """Where there are many targets, the page of each."""
        return self.root / "report"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def driver(self) -> Path:
        """The lock of the one driver."""
        return self.root / STATE / "driver.json"

    @property
    def certificates(self) -> Path:
        return self.root / STATE / "tls"

    @property
    def running(self) -> Path:
        """Epoch and losses of what is being trained, a file for each stack."""
        return self.root / STATE / "running"

    @property
    def unfinished(self) -> Path:
        """Weights of what is being trained, a file for each stack."""
        return self.root / STATE / "unfinished"

    @property
    def stacks(self) -> Path:
        """Which networks train side by side, while they do."""
        return self.unfinished / "stacks.json"

    @cached_property
    def receipts(self) -> Receipts:
        return Receipts(self.root)

    def relative(self, path: Path) -> str:
        """Return a path of this run as tables spell it.

        >>> Layout(Path("runs/a")).relative(Path("runs/a/figures/o3.svg"))
        'figures/o3.svg'
        """
        return path.relative_to(self.root).as_posix()

    def refuse_links(self) -> None:
        """Raise UserError where sdpipe would write or delete elsewhere, at a link below the run directory, or in what
        is no file, such as a pipe.

        The run directory itself, and a whole store, may be links.
        """
        stores = [*self.root.glob("*.zarr"), self.draws]
        places = (self.root / STATE, self.networks, self.figures, self.pages, self.logs, *stores)
        odd_places = [place for place in places if place.is_symlink()] + [path for p in places for path in odd(p)]
        for path in (path for path in odd_places if path not in stores or not (path / "zarr.json").is_file()):
            if not path.is_symlink():
                raise UserError(f"{path}: not a file; remove it")
            raise UserError(
                f"{path}: a link; allowed: links to a run directory or to a whole store (*.zarr), so that nothing "
                "elsewhere is written or deleted; put the files themselves there"
            )

    @property
    def stores(self) -> tuple[Path, ...]:
        """All that sdpipe writes as Zarr; whatever else ends in .zarr is somebody's own."""
        return self.training, self.history, self.predictions, self.budget, self.validation, self.draws

    def sweep(self) -> None:
        """Remove what killed drivers and workers left behind, by the names that only they give. Call it as the driver.

        Whatever else lies in the run directory stays, see :meth:`foreign`.
        """
        for place in (self.root, self.networks, self.figures, self.pages):
            sweep(place, deep=False)
        for place in (self.root / STATE, *self.stores):
            sweep(place)
        for rubbish in (self.running, self.certificates):
            delete(rubbish)

    def foreign(self) -> list[Path]:
        """Return what lies in the run directory and is none of sdpipe's: it is neither read nor removed."""
        kept = (self.networks, self.figures, self.pages)
        own = {self.config, *kept, self.report, self.logs, self.root / STATE, *self.stores}
        paths = [path for path in self.root.glob("*") if path not in own]
        noted = {name for receipt in self._whole_receipts() for name in receipt.files}
        paths += [p for place in kept for p in place.glob("*") if self.relative(p) not in noted]
        paths += [p for store in self.stores for p in store.rglob("*") if p.suffix in (PARTIAL, OLD)]
        return sorted(path for path in paths if not LEFTOVER.fullmatch(path.name))

    def _whole_receipts(self) -> Iterator[Receipt]:
        for piece in self.receipts.all():
            with suppress(DamageError):
                if receipt := self.receipts.read(*piece):
                    yield receipt

    def note_session(self, stage: str, begun: datetime, seconds: float) -> None:
        """Note how long a stage worked; one that was interrupted has several sessions."""
        told = {"stage": stage, "begun": begun.isoformat(timespec="seconds"), "seconds": seconds}
        with self._sessions.open("a", encoding="utf-8") as file:
            file.write("\n" + seal({**told, "host": socket.gethostname()}))  # a line of its own, even after a cut one

    def sessions(self) -> list[dict[str, Any]]:
        """Return what :meth:`note_session` noted, in the order of time; a damaged line counts as lost."""
        return [told.model_dump() for line in self._session_lines() if (told := unseal(line, SESSION))]

    def check_sessions(self, mend: bool) -> Iterator[DamageError]:
        """Yield a fault where a line is not what was written; with ``mend`` such lines are then taken out."""
        lines = self._session_lines()
        whole = [line for line in lines if unseal(line, SESSION)]
        if len(whole) < len(lines):
            yield DamageError(self._sessions, f"damaged ({len(lines) - len(whole)} lines are not what was written)")
            if mend:
                with suppress(OSError):  # a run that cannot be written can be verified all the same
                    write_text(self._sessions, "\n".join(["", *whole]))

    def _session_lines(self) -> list[str]:
        text = read(self._sessions).decode(errors="replace") if self._sessions.exists() else ""
        return [line for line in text.splitlines() if line]

    @property
    def _sessions(self) -> Path:
        return self.root / STATE / "sessions.txt"

    def in_training(self) -> list[dict[str, Any]]:
        """Return what the stacks in training last noted: network, epoch, epochs, losses, and when.

        A file that has just gone, with its stack, or is not what was written tells nothing.
        """
        rows = []
        for file in sorted(self.running.glob("*.json")):
            try:
                changed, noted = file.stat().st_mtime, unseal(read(file).decode(), IN_TRAINING)
            except (OSError, UnicodeDecodeError):
                continue
            rows += [{**row.model_dump(), "modified": changed} for row in noted or []]
        return rows

    def require(self) -> None:
        """Raise UserError where this is not a run directory."""
        if not self.config.exists():
            self.refuse_without_config()
            raise UserError(f"{self.root}: not a run directory (no config.yaml in it); run: sdpipe run CONFIG")

    def refuse_without_config(self) -> None:
        """Raise UserError where ``config.yaml`` is lost and its copy is not, with the command that goes on."""
        if not self.config.exists() and self.config_copy.exists():
            raise UserError(f"{self.config}: missing; its copy is {self.config_copy}; run: {self.go_on}")

    @property
    def go_on(self) -> str:
        """The command that goes on with the copy of the config, and writes ``config.yaml`` anew."""
        return shlex.join(["sdpipe", "run", str(self.config_copy), "--run", str(self.root)])

    @property
    def config_copy(self) -> Path:
        """The config that last claimed the directory; ``config.yaml`` is the same, but lies where people edit it."""
        return self.root / STATE / "config.yaml"
