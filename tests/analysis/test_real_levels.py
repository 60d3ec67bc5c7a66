"""Levels of real correlators whose masses are known from fits to the correlators themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import sdpipe

if TYPE_CHECKING:
    import xarray as xr

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MATRIX, FOLDED = DATA / "openqxd-matrix.h5", DATA / "analysistoolbox.npy"

FEW = (
    "training.audience=none",
    "validation={samples: 60, levels: [0.683], families: {}, bootstrap: 2}",
    "bootstrap=60",
)

pytestmark = pytest.mark.filterwarnings("ignore:.*draws per family are too few")


def assert_mass(found: xr.Dataset, known: float, error: float) -> None:
    """Within two errors of both, and known to a tenth."""
    mass, own = float(found.mass[0]), float(found.mass_error[0])
    assert abs(mass - known) < 2 * np.hypot(own, error)
    assert own < 0.1 * known


@pytest.mark.skipif(not MATRIX.exists(), reason=f"{MATRIX.name}, a real matrix, is not in ../shared/data")
@pytest.mark.parametrize("estimator", ["hlt", "posterior"])
@pytest.mark.parametrize("which", ["component=[0, 0]", "gevp={t0: 5, td: 10, state: 0}"])
def test_the_lowest_level_of_a_real_matrix(which: str, estimator: str, tmp_path: Path) -> None:
    keys = [
        "kernel=exponential",
        "lattice.first=0",
        "lattice.times=[1, 28]",
        "energies={min: 1.0, max: 4.0, count: 16}",
        f"methods=[{estimator}]",
    ]
    run = sdpipe.reconstruct(MATRIX, "dataset=matrix", which, *keys, *FEW, run=tmp_path / "run")
    (name,) = run.budget
    assert_mass(run.levels(name, E=(1.4, 2.6), rest=True), 2.1525, 9e-4)


@pytest.mark.skipif(not FOLDED.exists(), reason=f"{FOLDED.name}, a real correlator, is not in ../shared/data")
def test_the_level_of_a_real_correlator_of_one_state(tmp_path: Path) -> None:
    C = np.load(FOLDED)  # t = 10..53 of T = 64
    C = np.concatenate([(C[:, 1:22] + C[:, :22:-1]) / 2, C[:, 22:23]], axis=1)
    keys = ["kernel=periodic", "lattice.period=64", "lattice.first=11", "methods=[hlt]", "smearing.sigma=[0.08, 0.12]"]
    run = sdpipe.reconstruct(C, *keys, "energies={min: 0.05, max: 0.8, count: 16}", *FEW, run=tmp_path / "run")
    assert_mass(run.levels("array", E=(0.1, 0.5)), 0.29500, 5.6e-4)
