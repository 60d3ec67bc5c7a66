"""Where everything lies in a run directory, and which config owns it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpipe.config import Config, plain, to_yaml
from sdpipe.configfile import load_config
from sdpipe.errors import UserError
from sdpipe.store import STATE, Markers, write_text

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
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def state(self, stage: str) -> Path:
        """Return the directory of markers and unfinished work of one stage."""
        return self.root / STATE / stage

    def progress(self, task: str) -> Path:
        """Return the file in which a running stack notes epoch and losses of its networks."""
        return self.state("train") / "running" / f"{task}.json"

    def markers(self, stage: str, config_hash: str) -> Markers:
        """Return the done-markers of one stage for work made from ``config_hash``."""
        return Markers(self.state(stage), config_hash)

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
        text = to_yaml(config)
        if not self.config.exists() or self.config.read_text(encoding="utf-8") != text:
            write_text(self.config, text)

    def check_owner(self, config: Config) -> None:
        """Raise UserError, naming every key that differs, where the directory belongs to another config."""
        if not self.config.exists():
            if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
                raise UserError(f"{self.root}: not empty and not a run directory; choose another with --run")
            return
        old, new = plain(load_config(self.root)), plain(config)
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
