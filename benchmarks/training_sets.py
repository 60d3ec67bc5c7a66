"""Configs and training sets for the benchmarks: the reference scale of the method, with synthetic noise."""

from __future__ import annotations

import shutil
from pathlib import Path

from sdpipe.config.load import load_config
from sdpipe.config.schema import Config
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.pipeline import ownership
from sdpipe.pipeline.made_from import MadeFrom
from sdpipe.pipeline.pieces import Piece, of_training
from sdpipe.pipeline.tasks import generate_block, training_template
from sdpipe.problem.inputs import Inputs
from sdpipe.problem.problem import Problem

REFERENCE = Path(__file__).parents[1] / "configs" / "broad-audience-T32.yaml"
SYNTHETIC = "noise={kind: synthetic, r1: 1.0e-3}"
MIXTURE = "{chebyshev: 3, smooth: 1, levels: 2, states: 2, signed: 1}"
"""Value of ``spectra.mixture`` in the configs that are calibrated."""


def one_ensemble(Nb: int, Nrho: int, network: str, *overrides: str) -> Config:
    """Return the reference config with synthetic noise, cut down to one ensemble ``Nmax``."""
    return load_config(
        REFERENCE,
        [
            SYNTHETIC,
            f"spectra.Nb=[{Nb}]",
            f"spectra.Nrho={Nrho}",
            f"ensembles={{Nmax: {{Nb: {Nb}, Nrho: {Nrho}, network: {network}}}}}",
            "budget={central: Nmax, references: {}}",
            *overrides,
        ],
    )


def empty_run(config: Config, root: Path) -> list[tuple[Problem, Path, Piece]]:
    """Make ``root`` anew as a run directory whose ``training.zarr`` is empty; return what each block is made with.

    These are the arguments of :func:`sdpipe.pipeline.tasks.generate_block`.
    """
    shutil.rmtree(root, ignore_errors=True)
    layout, inputs = Layout(root), Inputs(config)
    layout.driver.parent.mkdir(parents=True)
    ownership.claim(layout, config)
    made = MadeFrom(inputs, layout)
    training_template(config).create(layout.training, store.attributes(made.training, config.seed))
    return [(inputs.problem, root, piece) for piece in of_training(made) if piece.work]


def make(config: Config, root: Path) -> Path:
    """Write ``training.zarr`` of a config in this process, unless it is there; return its path."""
    layout = Layout(root)
    if not layout.training.exists():
        for block in empty_run(config, root):
            generate_block(*block)
    return layout.training
