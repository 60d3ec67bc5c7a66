"""Drivers and workers killed with -9 at a random moment of any stage, each followed by a plain re-run.

``SDPIPE_FAULTS=full`` tries sixty kills; by default a few. Each tenth re-run has workers of its own, the others take
their tasks one by one in this process.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sdpipe.disk.layout import Layout
from sdpipe.disk.receipts import sha256
from sdpipe.learn import trained
from sdpipe.pipeline import stages
from tests.faults.conftest import FULL, wait_for
from tests.fixtures import hashes

if TYPE_CHECKING:
    from tests.fixtures import Outcome

KILLS = 60 if FULL else 4
STAGES = list(stages.STAGES)

MADE = {
    "generate": ("training.zarr",),
    "train": ("networks", "history.zarr"),
    "predict": ("predictions.zarr",),
    "analyze": ("budget.zarr", "figures"),
    "validate": ("validation.zarr", ".sdpipe/draws.zarr"),
    "report": ("report.html",),
}
"""What each stage makes, with its receipts in ``.sdpipe/receipts/STAGE``."""


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run, and about how long each of its stages takes by itself, in seconds."""

    root: Path
    seconds: dict[str, float]


def content(root: Path) -> dict[str, object]:
    """Return the hash of every chunk of every store, and what is in every network."""
    found: dict[str, object] = {}
    for store in root.glob("*.zarr"):
        files = {f"{store.name}/{name}": hash_ for name, hash_ in hashes(store).items()}
        found |= {name: hash_ for name, hash_ in files.items() if not name.endswith("zarr.json")}  # it holds a time
    for path in (root / "networks").glob("*.npz"):
        n = trained.load(path, sha256(path))
        arrays = {"matrix": n.matrix, "weight": n.weight} | n.parameters
        digests = {k: hashlib.sha256(array.tobytes()).hexdigest() for k, array in arrays.items()}
        found[path.name] = (digests, n.train_loss, n.val_loss, n.best_epoch)
    return found


def assert_nothing_lost(now: dict[str, object], then: dict[str, object], begun: bool) -> None:
    """Samples and networks are the same to the last bit; networks up to rounding where no training had ``begun``.

    What trains side by side is cut for the workers there are when a training begins, and noted; this process, which
    runs it again, is one.
    """
    assert now.keys() == then.keys()
    for name, value in then.items():
        if name.startswith("training.zarr") or (begun and name.endswith(".npz")):
            assert now[name] == value, name
        elif name.endswith(".npz"):
            assert now[name][2] == pytest.approx(value[2], rel=1e-2), name


def drivers(root: Path) -> list[Path]:
    return list((root / ".sdpipe").glob("driver.json"))


@pytest.fixture(scope="module")
def reference(small: Path, tmp_path_factory: pytest.TempPathFactory, shell: Callable[..., Outcome]) -> Reference:
    """The small run. Its first stage waits for the workers to start, as each stage by itself does."""
    directory = tmp_path_factory.mktemp("reference")
    root = directory / "run"
    outcome = shell("-m", "sdpipe", "run", small, "--run", root, cwd=directory)
    assert outcome.status == 0, outcome.err
    seconds = {session["stage"]: session["seconds"] for session in Layout(root).sessions()}
    start = seconds.pop("generate")
    return Reference(root, {"generate": start} | {stage: start + work for stage, work in seconds.items()})


def prepared(reference: Reference, stage: str, root: Path) -> None:
    """Copy a run up to, and without, ``stage``."""
    shutil.copytree(reference.root, root)
    for later in STAGES[STAGES.index(stage) :]:
        for name in (*MADE[later], f".sdpipe/receipts/{later}"):
            path = root / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@pytest.mark.parametrize("number", range(KILLS))
def test_a_kill_at_any_moment_loses_nothing(
    number: int,
    reference: Reference,
    launch: Callable[..., subprocess.Popen[str]],
    shell: Callable[..., Outcome],
    cli: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    draw = random.Random(2026 * 1000 + number)
    stage, fraction, worker = STAGES[number % len(STAGES)], draw.random(), draw.random() < 0.4
    root = tmp_path / "run"
    prepared(reference, stage, root)
    process = launch(stage, root)
    wait_for(lambda: drivers(root), process)
    end = time.monotonic() + fraction * reference.seconds[stage]
    wait_for(lambda: time.monotonic() >= end, process)
    _kill(process, draw if worker else None)
    _, err = process.communicate()
    assert "Traceback" not in err, err
    assert cli("status", root).status == 0
    begun = Layout(root).stacks.exists() or any(root.glob("networks/*.npz"))
    again = shell("-m", "sdpipe", "run", root, cwd=tmp_path) if number % 10 == 0 else cli("run", root)
    assert again.status == 0, again.err
    assert cli("status", root, "--verify").status == 0
    assert_nothing_lost(content(root), content(reference.root), begun)
    stray = [p for p in root.rglob("*") if p.name.endswith((".partial", ".replaced"))]
    assert stray == [] == drivers(root)


def _kill(process: subprocess.Popen[str], draw: random.Random | None) -> None:
    """Kill the driver, or with ``draw`` one of its workers, where it still lives."""
    try:
        victims = [psutil.Process(process.pid)]
        if draw:
            children = victims[0].children(recursive=True)
            victims = [c for c in children if "spawn_main" in " ".join(c.cmdline())] or victims
        os.kill((draw.choice(victims) if draw else victims[0]).pid, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
