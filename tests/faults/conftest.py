"""A run that is smaller than tiny, and ways to disturb it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures import HANGING

SMALL = """\
name: small
seed: 3
lattice: {period: 16, times: [1, 6]}
kernel: vector
smearing: {sigma: [0.5]}
energies: {min: 0.2, max: 2.3, count: 6}
spectra: {Nb: [4, 8], Nrho: 1100}
noise: {kind: synthetic, r1: 1.0e-3, tau: 4.0}
ensembles:
  Nmax:   {Nb: 8, Nrho: 1100, network: arcS}
  Nref_b: {Nb: 4, Nrho: 1100, network: arcS}
budget: {central: Nmax, references: {b: Nref_b}}
training: {replicas: 2, epochs: 6}
targets:
  o3: {kind: o3}
  prior: {kind: chebyshev, Nb: 8}
bootstrap: 20
validation: {samples: 40, bootstrap: 4, levels: [0.683], families: {o3: {kind: o3}}}
"""

FULL = os.environ.get("SDPIPE_FAULTS") == "full"
"""Whether to try as often as a release asks for, in place of as often as a day's work can bear."""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config file of the small run."""
    path = tmp_path_factory.mktemp("small") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def launch(start: Callable[..., subprocess.Popen[str]], tmp_path: Path):
    """Start commands of their own process group, which is killed at the end of the test at the latest."""
    running: list[subprocess.Popen[str]] = []

    def launch(*arguments: str | Path) -> subprocess.Popen[str]:
        running.append(start(["-m", "sdpipe", *map(str, arguments)], tmp_path, start_new_session=True))
        return running[-1]

    yield launch
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> bool:
    """Wait until ``condition`` holds or ``process`` ends; return whether it holds."""
    end = time.monotonic() + HANGING
    while not condition():
        if process.poll() is not None:
            return bool(condition())
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)
    return True
