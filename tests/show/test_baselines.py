"""The main figures look as they did: coarse grey images of them, kept in ``baselines``.

    python -m tests.show.test_baselines RUN

keeps those of a run of ``tests.fixtures.TINY`` anew, for whoever means to change a figure; look at them first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from numpy.typing import NDArray

from tests.fixtures import Finished

HERE = Path(__file__).parent / "baselines"
FIGURES = (
    *("o3-reconstruction", "o3-budget", "o3-methods", "o3-correlator", "history"),
    *("validation-pulls", "validation-coverage", "validation-coverage-energy", "validation-width"),
)
BLOCK = 8
"""Pixels of a figure, either way, that make one of its coarse image."""
FAR, FEW = 0.08, 0.005
"""A coarse pixel is another one where its grey differs by more than FAR of black; FEW of them, lines of numbers that
rounding moved, may."""


def coarse(path: Path) -> NDArray[np.float64]:
    """Return the mean grey, 0 to 1, of each block of pixels of an image."""
    grey = image.imread(path)[..., :3].mean(axis=-1)
    rows, columns = (n // BLOCK for n in grey.shape)
    return grey[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3))


def differing(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the share of pixels that are another one."""
    return float(np.mean(np.abs(one - other) > FAR))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_looks_as_it_did(finished: Finished, name: str) -> None:
    now, then = coarse(finished.root / "figures" / f"{name}.png"), image.imread(HERE / f"{name}.png")
    then = then if then.ndim == 2 else then[..., 0]
    assert now.shape == then.shape
    assert differing(now, then) <= FEW
    lost = np.where(np.arange(now.shape[0])[:, None] < now.shape[0] // 2, 1.0, now)  # its upper half is empty
    assert differing(lost, then) > 4 * FEW


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for stem in FIGURES:
        kept = coarse(Path(sys.argv[1]) / "figures" / f"{stem}.png")
        image.imsave(HERE / f"{stem}.png", kept, cmap="gray", vmin=0, vmax=1)
