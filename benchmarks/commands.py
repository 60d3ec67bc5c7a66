"""Stages as a user runs them, timed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from sdpipe.disk.layout import Layout


def arguments(stage: str, config: Path, layout: Layout) -> list[str]:
    """Return the command line of one stage."""
    return [sys.executable, "-m", "sdpipe", stage, str(config), "--run", str(layout.root), "-q"]


def run_stage(stage: str, config: Path, layout: Layout) -> float:
    """Run one stage as a user would; return the wall seconds of the process."""
    begun = time.perf_counter()
    subprocess.run(arguments(stage, config, layout), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun
