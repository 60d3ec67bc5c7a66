"""Where everything lies in a run directory, and which config owns it."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sdpipe.config.load import load_config
from sdpipe.config.schema import Config, plain, to_yaml
from sdpipe.disk import store
from sdpipe.disk.files import OLD, PARTIAL, STATE, Markers, delete, put_back, sweep, write_text
from sdpipe.errors import UserError

FIXED = ("seed", "lattice", "kernel", "smearing", "energies", "spectra", "noise")
"""Sections that a run directory keeps for life: its samples and networks are made from them."""

FIXED_TRAINING = ("protocol", "inputs", "epochs", "batch")


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

    def network(self, ensemble: str, sigma_index: int, replica: int) -> Path:
        """Return the checkpoint of one network.

        >>> Layout(Path("runs/a")).network("Nmax", 0, 3).name
        'Nmax-sigma0-replica003.pt'
        """
        return self.networks / f"{ensemble}-sigma{sigma_index}-replica{replica:03d}.pt"

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
    def draws(self) -> Path:
        """Predictions for the draws of all families, of which ``validation.zarr`` is made."""
        return self.state("validate") / "draws.zarr"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def relative(self, path: Path) -> str:
        """Return a path of this run as markers and tables spell it.

        >>> Layout(Path("runs/a")).relative(Path("runs/a/figures/o3.png"))
        'figures/o3.png'
        """
        return path.relative_to(self.root).as_posix()

    def stores(self) -> list[Path]:
        """Return every store that is there; of those with groups, each group."""
        groups = [*self._groups(self.predictions), *self._groups(self.budget)]
        return [p for p in (self.training, self.history, self.validation, self.draws, *groups) if p.exists()]

    @staticmethod
    def _groups(path: Path) -> list[Path]:
        return sorted(p for p in path.glob("*") if p.is_dir() and not p.name.endswith(OLD))

    @property
    def drivers(self) -> Path:
        return self.root / STATE / "drivers"

    def sweep(self) -> None:
        """Remove what killed drivers and workers left behind. Call it as the one driver."""
        for aside in list(self.root.glob(f"*.zarr{OLD}")):
            put_back(aside)
        for rubbish in [*self.root.glob(f".*{PARTIAL}"), self.state("running"), self.state("tls")]:
            delete(rubbish)
        for place in (self.networks, self.figures, self.root / STATE, *self.root.glob("*.zarr")):
            sweep(place)

    def state(self, stage: str) -> Path:
        """Return the directory of markers and unfinished work of one stage."""
        return self.root / STATE / stage

    def progress(self, task: str) -> Path:
        """Return the file in which a running stack notes epoch and losses of its networks."""
        return self.state("running") / f"{task}.json"

    def markers(self, stage: str, config_hash: str) -> Markers:
        """Return the done-markers of one stage for work made from ``config_hash``."""
        return Markers(self.state(stage), config_hash)

    def note_sitting(self, stage: str, begun: datetime, seconds: float) -> None:
        """Note how long a stage worked; one that was interrupted has several sittings."""
        sitting = {
            "stage": stage,
            "begun": begun.isoformat(timespec="seconds"),
            "seconds": seconds,
            "host": socket.gethostname(),
        }
        path = self.state("sittings.jsonl")
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(sitting))  # on a line of its own, even after one that a kill cut short

    def sittings(self) -> list[dict[str, Any]]:
        """Return what :meth:`note_sitting` noted, in the order of time."""
        path, found = self.state("sittings.jsonl"), []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def require(self) -> None:
        """Raise UserError where this is not a run directory."""
        if not self.config.exists():
            raise UserError(f"{self.root}: not a run directory (no config.yaml in it); run: sdpipe run CONFIG")

    def claim(self, config: Config) -> None:
        """Make the run directory, or check that it was made from this config, and save the resolved config.

        Targets, bootstrap, budget, cluster and the number of replicas may change, and ensembles may be added:
        what depends on them is made anew. Raises UserError where anything else differs.
        """
        self.check_owner(config)
        for file in (self._claimed, self.config):
            if not file.exists() or file.read_text(encoding="utf-8") != to_yaml(config):
                write_text(file, to_yaml(config))

    @property
    def _claimed(self) -> Path:
        """The config that last claimed the directory; ``config.yaml`` is the same, but lies where people edit it."""
        return self.root / STATE / "config.yaml"

    def owns(self, config: Config) -> bool:
        """Return whether the directory was made, or last continued, with exactly this config."""
        return self.config.exists() and self.config.read_text(encoding="utf-8") == to_yaml(config)

    def check_owner(self, config: Config) -> None:
        """Raise UserError, naming every key that differs, where the directory belongs to another config.

        So does a store of another schema, which this version can neither read nor may replace.
        """
        for path in self.stores():
            store.identity(path)
        if not self.config.exists():
            if self.root.exists() and (not self.root.is_dir() or {p.name for p in self.root.iterdir()} - {STATE}):
                raise UserError(f"{self.root}: not empty and not a run directory; choose another with --run")
            return
        claimed = load_config(self._claimed if self._claimed.exists() else self.root)
        old, new = plain(claimed), plain(config)
        changed = [key for name in FIXED for key in _differences(old[name], new[name], name)]
        for key in FIXED_TRAINING:
            changed += _differences(old["training"][key], new["training"][key], f"training.{key}")
        for name in old["ensembles"].keys() & new["ensembles"].keys():
            changed += _differences(old["ensembles"][name], new["ensembles"][name], f"ensembles.{name}")
        if changed:
            raise UserError(*(f"{self.root}: made from another config: {c}; use another --run for it" for c in changed))


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [n for n in {**old, **new} if n != "path"]
        return [d for n in names for d in _differences(old.get(n), new.get(n), f"{key}.{n}")]
    return [] if old == new else [f"{key} was {old}, is {new}"]
