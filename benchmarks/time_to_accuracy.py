"""Validation error over time: ``protocol: default`` against ``protocol: published``, one arcL network each.

    python -m benchmarks.time_to_accuracy DIR PROTOCOL INPUTS

trains one network on one thread and notes every epoch in DIR, so that a training that is cut short says
something too, and goes on when it is started again. The published protocol takes an hour or two.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import Limit, Row
from benchmarks.training_sets import make, one_ensemble
from sdpipe.config.problem import Inputs
from sdpipe.disk import files
from sdpipe.learn import dataset
from sdpipe.learn.feeds import Member
from sdpipe.learn.training import PROTOCOLS, train

Nb, NRHO, NETWORK, SIGMA_INDEX = 128, 50_000, "arcL", 0


def curve(root: Path, protocol: str, inputs: str) -> Path:
    """Train one network and return the JSON file of its validation losses, wall times and processor times."""
    config = one_ensemble(Nb, NRHO, NETWORK, "smearing.sigma=[0.44]", f"training.inputs={inputs}")
    path = make(config, root / "data")
    chosen = PROTOCOLS[protocol]
    noise = Inputs(config).problem.noise
    fitted = dataset.load(path, Nb, NRHO, SIGMA_INDEX, noise, inputs, chosen, config.seed, "Nmax")
    file = root / f"{protocol}-{inputs}.json"
    old = json.loads(file.read_text()) if file.exists() else {"val_loss": [], "wall": [], "cpu": []}
    noted = {"linear_loss": fitted.linear_loss, "done": False, **{k: old[k] for k in ("val_loss", "wall", "cpu")}}
    begun = [time.perf_counter() - (noted["wall"] or [0])[-1], time.process_time() - (noted["cpu"] or [0])[-1]]

    def on_epoch(epoch: int, losses: list[tuple[int, float]]) -> None:
        for key, value in (
            ("val_loss", losses[0][1]),
            ("wall", time.perf_counter() - begun[0]),
            ("cpu", time.process_time() - begun[1]),
        ):
            noted[key] = [*noted[key][: epoch - 1], value]
        files.write_text(file, json.dumps(noted))

    def finished(_row: int, _outcome: object) -> None:
        noted["done"] = True

    torch.set_num_threads(1)
    if old.get("done"):
        return file
    state = root / f"{protocol}-{inputs}.pt"
    members = [Member(0, ("Nmax", SIGMA_INDEX, 0))]
    train(NETWORK, [fitted.data], members, chosen, config.seed, finished, state=state, on_epoch=on_epoch)
    files.write_text(file, json.dumps(noted))
    return file


def rows(root: Path) -> list[Row]:
    """Return what the noted trainings say; of one that is not finished, what it has reached so far."""
    noted = {name: json.loads((root / f"{name}.json").read_text()) for name in ("default-whiten", "published-whiten")}
    ours, theirs = noted.values()
    best = int(np.argmin(theirs["val_loss"]))
    target = theirs["val_loss"][best]
    reached = next((i for i, loss in enumerate(ours["val_loss"]) if loss <= target), None)
    state = "stopped by itself" if theirs["done"] else f"NOT finished: so far {len(theirs['val_loss'])} epochs"
    linear = ours["linear_loss"]
    made = [
        Row(
            "final validation error of default over linear", min(ours["val_loss"]) / linear, "", target / linear,
            (Limit("ours", "≤", 0.9),), True, f"baseline: published, {state}",
        ),
    ]  # fmt: skip
    if reached is None:
        return made
    for clock in ("wall", "cpu"):
        made.append(
            Row(
                f"{clock} time to the best error of published", ours[clock][reached], "s", theirs[clock][best],
                (Limit("ratio", "≥", 10),), True,
                f"published best at epoch {best + 1}, default there after {reached + 1}; "
                f"whole trainings {ours[clock][-1]:.0f} s and {theirs[clock][-1]:.0f} s",
            )
        )  # fmt: skip
    return made


def measure(root: Path) -> list[Row]:
    """Train one network by each protocol to its own end, or go on where an interruption left them."""
    for protocol in ("default", "published"):
        curve(root / "time-to-accuracy", protocol, "whiten")
    return rows(root / "time-to-accuracy")


def main() -> None:
    """Train one network and note its losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("protocol", choices=list(PROTOCOLS))
    parser.add_argument("inputs", choices=["whiten", "standardise"])
    arguments = parser.parse_args()
    print(curve(arguments.dir, arguments.protocol, arguments.inputs).read_text())


if __name__ == "__main__":
    main()
