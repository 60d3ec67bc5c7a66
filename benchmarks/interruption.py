"""From SIGTERM, Slurm's warning before a walltime, to the end of the process: moments all over every long stage."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.commands import arguments, run_stage
from benchmarks.table import Limit, Row
from benchmarks.training_sets import one_ensemble
from sdpipe.config.schema import to_yaml
from sdpipe.disk.layout import Layout

MOMENTS = 6


def seconds_to_exit(stage: str, config: Path, layout: Layout, after: float) -> float | None:
    """Return the seconds from SIGTERM, ``after`` seconds into a stage, to its exit; None where it ended before."""
    process = subprocess.Popen(arguments(stage, config, layout), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        begun = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate()
        if process.returncode not in (0, 130, -signal.SIGTERM) or b"Traceback" in words:  # the last: after its end
            raise RuntimeError(f"sdpipe {stage} ended with {process.returncode}: {words.decode()}") from None
        return time.perf_counter() - begun
    return None


def measure(root: Path) -> list[Row]:
    """Interrupt ``generate``, ``train`` and ``validate`` at evenly spaced moments; report the slowest exit of each."""
    config = one_ensemble(128, 200_000, "arcM", "training.epochs=2", "validation.families={o3: {kind: o3}}")
    layout, file = Layout(root / "interrupted"), root / "interrupted.yaml"
    shutil.rmtree(layout.root, ignore_errors=True)
    file.write_text(to_yaml(config))
    rows = []
    for stage in ("generate", "train", "validate"):
        before = root / "before"
        shutil.rmtree(before, ignore_errors=True)
        if layout.root.exists():
            shutil.copytree(layout.root, before)
        whole, slowest, count = run_stage(stage, file, layout), 0.0, 0
        for i in range(MOMENTS):
            trial = Layout(root / "trial")
            shutil.rmtree(trial.root, ignore_errors=True)
            if before.exists():
                shutil.copytree(before, trial.root)
            took = seconds_to_exit(stage, file, trial, whole * (i + 0.5) / MOMENTS)
            if took is not None:
                slowest, count = max(slowest, took), count + 1
        note = f"the slowest of {count}, at moments all over the {whole:.0f} s of the stage"
        rows.append(Row(f"from SIGTERM to exit, {stage}", slowest, "s", None, (Limit("ours", "≤", 10),), True, note))
    return rows
