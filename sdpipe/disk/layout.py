"""Where everything lies in a run directory, and which config owns it."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from sdpipe.config.load import load_config
from sdpipe.config.schema import SCHEMA, Config, another_schema, plain, to_yaml
from sdpipe.disk.files import OLD, PARTIAL, STATE, delete, links, put_back, sweep, write_text
from sdpipe.disk.receipts import Receipt, Receipts, seal, sha256, unseal
from sdpipe.errors import DamageError, UserError
from sdpipe.version import __version__

FIXED = ("seed", "lattice", "kernel", "smearing", "energies", "spectra", "noise")
"""Sections that a run directory keeps for life: its samples and networks are made from them."""

FIXED_TRAINING = ("audience", "protocol", "inputs", "head", "epochs", "batch")

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

    @cached_property
    def receipts(self) -> Receipts:
        return Receipts(self.root)

    def relative(self, path: Path) -> str:
        """Return a path of this run as tables spell it.

        >>> Layout(Path("runs/a")).relative(Path("runs/a/figures/o3.png"))
        'figures/o3.png'
        """
        return path.relative_to(self.root).as_posix()

    def refuse_links(self) -> None:
        """Raise UserError where sdpipe would write or delete elsewhere: at a link below the run directory.

        The run directory itself, and a whole store, may be links.
        """
        stores = [*self.root.glob("*.zarr"), self.draws]
        places = (self.root / STATE, self.networks, self.figures, self.logs, *stores)
        found = [place for place in places if place.is_symlink()] + [link for p in places for link in links(p)]
        for link in (link for link in found if link not in stores or not (link / "zarr.json").is_file()):
            raise UserError(
                f"{link}: a link; allowed: links to a run directory or to a whole store (*.zarr), so that nothing "
                "elsewhere is written or deleted; put the files themselves there"
            )

    def sweep(self) -> None:
        """Remove what killed drivers and workers left behind. Call it as the one driver."""
        for aside in list(self.root.glob(f"*.zarr{OLD}")):
            put_back(aside)
        for rubbish in [*self.root.glob(f"*{PARTIAL}"), self.running, self.certificates]:
            delete(rubbish)
        for place in (self.networks, self.figures, self.root / STATE, *self.root.glob("*.zarr")):
            sweep(place)

    def note_sitting(self, stage: str, begun: datetime, seconds: float) -> None:
        """Note how long a stage worked; one that was interrupted has several sittings."""
        told = {"stage": stage, "begun": begun.isoformat(timespec="seconds"), "seconds": seconds}
        with self._sittings.open("a", encoding="utf-8") as file:
            file.write("\n" + seal({**told, "host": socket.gethostname()}))  # a line of its own, even after a cut one

    def sittings(self) -> list[dict[str, Any]]:
        """Return what :meth:`note_sitting` noted, in the order of time; a damaged line counts as lost."""
        return [told for line in self._sitting_lines() if (told := unseal(line))]

    def check_sittings(self, mend: bool) -> Iterator[DamageError]:
        """Yield a fault where a line is not what was written; with ``mend`` such lines are then taken out."""
        lines = self._sitting_lines()
        whole = [line for line in lines if unseal(line)]
        if len(whole) < len(lines):
            yield DamageError(self._sittings, f"damaged ({len(lines) - len(whole)} lines are not what was written)")
            if mend:
                with suppress(OSError):  # a run that cannot be written can be verified all the same
                    write_text(self._sittings, "\n".join(["", *whole]))

    def _sitting_lines(self) -> list[str]:
        text = self._sittings.read_text(encoding="utf-8", errors="replace") if self._sittings.exists() else ""
        return [line for line in text.splitlines() if line]

    @property
    def _sittings(self) -> Path:
        return self.root / STATE / "sittings.txt"

    def in_training(self) -> list[dict[str, Any]]:
        """Return what the stacks in training last noted: network, epoch, epochs, losses, and when.

        A file that has just gone, with its stack, or is not what was written tells nothing.
        """
        rows = []
        for file in sorted(self.running.glob("*.json")):
            try:
                at, noted = file.stat().st_mtime, unseal(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
            rows += [{**row, "modified": at} for row in noted or []]
        return rows

    def require(self) -> None:
        """Raise UserError where this is not a run directory."""
        if not self.config.exists():
            self.refuse_without_config()
            raise UserError(f"{self.root}: not a run directory (no config.yaml in it); run: sdpipe run CONFIG")

    def refuse_without_config(self) -> None:
        """Raise UserError where ``config.yaml`` is lost and its copy is not, with the command that goes on."""
        if not self.config.exists() and self._copy.exists():
            command = shlex.join(["sdpipe", "run", str(self._copy), "--run", str(self.root)])
            raise UserError(f"{self.config}: missing; its copy is {self._copy}; run: {command}")

    def claim(self, config: Config) -> None:
        """Make the run directory, or check that it was made from this config, and save the resolved config.

        Targets, bootstrap, budget, cluster and the number of replicas may change, and ensembles may be added:
        what depends on them is made anew. Raises UserError where anything else differs.
        """
        self.check_owner(config)
        text = to_yaml(config)
        for file in (self._copy, self.config):
            if not file.exists() or file.read_text(encoding="utf-8", errors="replace") != text:
                write_text(file, text)
        receipt = self._claimed()
        if receipt is None or receipt.hashes != {self.relative(self._copy): sha256(self._copy)}:
            self.receipts.write(*CLAIM, "", [self._copy], schema=SCHEMA, sdpipe_version=__version__)

    @property
    def _copy(self) -> Path:
        """The config that last claimed the directory; ``config.yaml`` is the same, but lies where people edit it."""
        return self.root / STATE / "config.yaml"

    def _claimed(self) -> Receipt | None:
        try:
            return self.receipts.read(*CLAIM)
        except DamageError:
            return None

    def owns(self, config: Config) -> bool:
        """Return whether the directory was made, or last continued, with exactly this config."""
        return self.config.exists() and self.config.read_text(encoding="utf-8", errors="replace") == to_yaml(config)

    def check_owner(self, config: Config) -> None:
        """Raise UserError, naming every key that differs, where the directory belongs to another config.

        So does one of another schema, which this version can neither read nor may replace.
        """
        receipt = self._claimed()
        self._check_schema(receipt)
        copy_is_whole = self._copy.exists() and (
            receipt is None or receipt.hashes.get(self.relative(self._copy)) == sha256(self._copy)
        )
        owner = self._copy if copy_is_whole else self.config
        if not owner.exists():
            if self.root.exists() and (not self.root.is_dir() or {p.name for p in self.root.iterdir()} - {STATE}):
                raise UserError(f"{self.root}: not empty and not a run directory; choose another with --run")
            return
        if owner.read_text(encoding="utf-8", errors="replace") == to_yaml(config):
            return
        old, new = plain(load_config(owner)), plain(config)
        for one in (old, new):
            del one["lattice"]["first"]  # of data files, a new target's too; it counts in the hashes of these
        changed = [key for name in FIXED for key in _differences(old[name], new[name], name)]
        for key in FIXED_TRAINING:
            changed += _differences(old["training"][key], new["training"][key], f"training.{key}")
        for name in (n for n in old["ensembles"] if n in new["ensembles"]):
            changed += _differences(old["ensembles"][name], new["ensembles"][name], f"ensembles.{name}")
        if changed:
            words = f"made from another config: {'; '.join(changed)}"
            raise UserError(f"{self.root}: {words}; give this one another name (name=OTHER), or --run DIR")

    def _check_schema(self, receipt: Receipt | None) -> None:
        """Raise UserError where another version made this directory: by its claim or, without one, by its stores."""
        if receipt is not None:
            found = [(self.root, receipt.facts)]
        else:
            found = [(p, _attributes(p)) for p in (self.training, self.history, self.validation) if p.exists()]
        for path, facts in found:
            if isinstance(facts.get("schema"), int) and facts["schema"] != SCHEMA:
                raise another_schema(path, facts)


def _attributes(store: Path) -> dict[str, Any]:
    """Return the attributes of a store, none where they cannot be read."""
    try:
        return dict(json.loads((store / "zarr.json").read_bytes())["attributes"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [n for n in {**old, **new} if n != "path"]
        return [d for n in names for d in _differences(old.get(n), new.get(n), f"{key}.{n}")]
    return [] if old == new else [f"{key} was {old}, is {new}"]
