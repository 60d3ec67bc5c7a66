"""Measure: ``python -m benchmarks [NAME ...] [--dir DIR] [--section NAME]``. Prints a table, JSON beside it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    ablation,
    driver,
    files,
    generation,
    goodness,
    gpu,
    gpu_steps,
    growth,
    inference,
    interruption,
    limits,
    methods,
    o3_montecarlo,
    physics,
    public,
    reference,
    scaling,
    stages,
    steps,
    time_to_accuracy,
    trust,
    universal,
    workers,
)
from benchmarks.table import Row, as_json, machine, show

REGISTRY: dict[str, Callable[[Path], list[Row]]] = {
    "generation": generation.speed,
    "writes": generation.writes,
    "stages": stages.measure,
    "workers": workers.measure,
    "steps": steps.measure,
    "inference": inference.measure,
    "interruption": interruption.measure,
    "methods": methods.measure,
    "driver": driver.measure,
    "scaling": scaling.measure,
    "growth": growth.measure,
    "gpu": gpu.measure,
    "gpu-steps": gpu_steps.measure,
    "o3": o3_montecarlo.measure,
    "ablation": ablation.measure,
    "time-to-accuracy": time_to_accuracy.measure,
    "universal": universal.measure,
    "files": files.measure,
    "trust": trust.measure,
    "goodness": goodness.measure,
    "physics": physics.measure,
    "limits": limits.measure,
    "public": public.measure,
    "reference": reference.measure,
}

LONG = (
    "o3",
    "ablation",
    "time-to-accuracy",
    "universal",
    "files",
    "trust",
    "goodness",
    "physics",
    "limits",
    "public",
    "reference",
)
"""Not measured unless named: minutes to hours."""


def main() -> None:
    """Measure what is named, or everything but the long ones."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(REGISTRY))
    parser.add_argument("--dir", type=Path, default=Path("runs/benchmarks"), help="where data and results go")
    parser.add_argument("--section", help="scaling: a section of ./jobqueue.yaml to measure on, too")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in REGISTRY]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; allowed: {', '.join(REGISTRY)}")
    scaling.section = arguments.section
    arguments.dir.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or [n for n in REGISTRY if n not in LONG]:
        where = machine()
        rows = REGISTRY[name](arguments.dir)
        if not rows:
            continue
        print(f"\n{name}\n{show(rows, where)}", flush=True)
        date = datetime.now(UTC).isoformat(timespec="minutes")
        results = {"name": name, "date": date, "rows": as_json(rows, where)}
        (arguments.dir / f"{name}.json").write_text(json.dumps(results, indent=1, ensure_ascii=False))
    if not arguments.names:
        print(f"\nnot measured, since they take minutes to hours: {', '.join(LONG)}", file=sys.stderr)


if __name__ == "__main__":
    main()
