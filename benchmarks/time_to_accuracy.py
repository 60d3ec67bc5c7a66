"""Validation error over time: ``protocol: default`` against ``protocol: published``, one arcL network each.

Both see C(t), on the prior of arXiv:2307.00808. Beside them a network mlpM that corrects the closed-form posterior, on
the mixture prior, and that posterior, which needs no training: what a unit of accuracy costs.

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
from numpy.typing import NDArray

from benchmarks.table import Limit, Row, machine, show
from benchmarks.training_sets import MIXTURE, make, one_ensemble
from sdpipe.disk import files
from sdpipe.learn import dataset
from sdpipe.learn.feeds import Member
from sdpipe.learn.training import PROTOCOLS, Recipe, Unfinished, train
from sdpipe.problem.inputs import Inputs

Nb, NRHO, SIGMA_INDEX = 128, 50_000, 0


def fitted_set(root: Path, protocol: str, inputs: str) -> tuple[str, dataset.Fitted, int]:
    """Return the network, its training set, made below ``root`` unless it is there, and the seed."""
    data, network, keys = "data", "arcL", ()
    if inputs == "posterior":
        data, network, keys = "mixture", "mlpM", (f"spectra.mixture={MIXTURE}",)
    config = one_ensemble(Nb, NRHO, network, "smearing.sigma=[0.44]", f"training.inputs={inputs}", *keys)
    path = make(config, root / data)
    residual, problem = PROTOCOLS[protocol].residual, Inputs(config).problem
    samples, key = dataset.StoredSamples(path, Nb, NRHO, SIGMA_INDEX), (config.seed, "Nmax")

    def posterior(C: NDArray) -> NDArray:
        return problem.posterior(C).mean[:, SIGMA_INDEX]

    return network, dataset.fit(samples, problem.noise, inputs, residual, key, posterior), config.seed


def curve(root: Path, protocol: str, inputs: str) -> Path:
    """Train one network and return the JSON file of its validation losses, wall times and processor times."""
    network, fitted, seed = fitted_set(root, protocol, inputs)
    file = root / f"{protocol}-{inputs}.json"
    old = json.loads(file.read_text()) if file.exists() else {"val_loss": [], "wall": [], "cpu": []}
    noted = {"linear_loss": fitted.linear_loss, "posterior_loss": fitted.posterior_loss}
    noted |= {"done": False, **{k: old[k] for k in ("val_loss", "wall", "cpu")}}
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
    recipe, members = Recipe(network, PROTOCOLS[protocol], seed), [Member(0, ("Nmax", SIGMA_INDEX, 0))]
    unfinished = Unfinished(root / f"{protocol}-{inputs}.pt", identity="")
    train(recipe, [fitted.data], members, finished, on_epoch=on_epoch, unfinished=unfinished)
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


def per_accuracy(root: Path) -> list[Row]:
    """Return for each noted training what every few epochs cost, over the posterior's error, and what that one cost."""
    made = []
    for file in sorted(root.glob("*.json")):
        noted = json.loads(file.read_text())
        posterior, best = noted["posterior_loss"], np.minimum.accumulate(noted["val_loss"])
        made.append(
            Row(f"{file.stem}: error of the posterior over linear", posterior / noted["linear_loss"], "",
                note="it needs no training")
        )  # fmt: skip
        made += [
            Row(f"{file.stem}: epoch {i + 1}, {noted['cpu'][i]:.0f} s: error over that of the posterior",
                best[i] / posterior, "")
            for i in np.unique(np.geomspace(1, len(best), 5).astype(int)) - 1
        ]  # fmt: skip
    return made


def measure(root: Path) -> list[Row]:
    """Train one network by each protocol to its own end, or go on where an interruption left them."""
    for protocol, inputs in (("default", "whiten"), ("default", "posterior"), ("published", "whiten")):
        curve(root / "time-to-accuracy", protocol, inputs)
    return [*rows(root / "time-to-accuracy"), *per_accuracy(root / "time-to-accuracy")]


def main() -> None:
    """Train one network and note its losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("protocol", choices=list(PROTOCOLS))
    parser.add_argument("inputs", choices=["whiten", "standardise", "posterior"])
    arguments = parser.parse_args()
    curve(arguments.dir, arguments.protocol, arguments.inputs)
    print(show(per_accuracy(arguments.dir), machine()))


if __name__ == "__main__":
    main()
