"""The main figures look as they did: coarse grey images of them, kept in ``baselines``.

    python -m tests.show.test_baselines RUN

keeps those of a run of ``tests.fixtures.TINY`` anew, for whoever means to change a figure; look at them first.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from matplotlib import image
from numpy.typing import NDArray

import sdpipe
from sdpipe.show import figures, picture, plots, validation_figures
from tests.fixtures import Finished

HERE = Path(__file__).parent / "baselines"
FIGURES = (
    *("o3-reconstruction", "o3-budget", "o3-methods", "o3-correlator", "history"),
    "o3-effective-mass",
    *("validation-pulls", "validation-coverage", "validation-coverage-energy", "validation-width"),
)
"""Those of every sigma are beside each other in one baseline."""
BLOCK = 8
"""Pixels of a figure, either way, that make one of its coarse image."""
FAR, FEW = 0.08, 0.005
"""A coarse pixel is another one where its grey differs by more than FAR of black; FEW of them, lines of numbers that
rounding moved, may."""


@pytest.fixture(scope="module")
def drawn(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of the finished run as PNG."""
    return draw(finished.root, tmp_path_factory.mktemp("drawn"))


def draw(path: Path, directory: Path) -> Path:
    """Draw the pictures of o3, of the training and of the validation of a run in a directory, and return it."""
    run = sdpipe.open_run(path)
    validation, o3 = run.validation.load(), (run.predictions["o3"], run.budget["o3"].load())
    pictures = [figures.history_pictures(run.history.load()), validation_figures.pictures(validation)]
    pictures.append(plots.target_pictures("o3", *o3, validation, run.config))
    for one in chain.from_iterable(pictures):
        picture.save(one.figure, directory / f"{one.name}.png")
    return directory


def coarse(directory: Path, name: str) -> NDArray[np.float64]:
    """Return the mean grey, 0 to 1, of each block of pixels of one figure, all sigma side by side."""
    files = sorted(directory.glob(f"{name}-sigma*.png")) or [directory / f"{name}.png"]
    grey = np.hstack([image.imread(file)[..., :3].mean(axis=-1) for file in files])
    rows, columns = (n // BLOCK for n in grey.shape)
    return grey[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3))


def differing(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the share of pixels that are another one."""
    return float(np.mean(np.abs(one - other) > FAR))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_looks_as_it_did(drawn: Path, name: str) -> None:
    now, then = coarse(drawn, name), image.imread(HERE / f"{name}.png")
    then = then if then.ndim == 2 else then[..., 0]
    assert now.shape == then.shape
    assert differing(now, then) <= FEW
    lost = np.where(np.arange(now.shape[0])[:, None] < now.shape[0] // 2, 1.0, now)  # its upper half is empty
    assert differing(lost, then) > 4 * FEW


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    with TemporaryDirectory() as place:
        pictures = draw(Path(sys.argv[1]), Path(place))
        for stem in FIGURES:
            image.imsave(HERE / f"{stem}.png", coarse(pictures, stem), cmap="gray", vmin=0, vmax=1)
