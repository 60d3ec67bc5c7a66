"""Stages as a user runs them, timed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from sdpipe.layout import Layout


def run_stage(stage: str, config: Path, layout: Layout) -> float:
    """Run one stage as a user would; return the wall seconds of the process."""
    command = [sys.executable, "-m", "sdpipe", stage, str(config), "--run", str(layout.root), "-q"]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun
