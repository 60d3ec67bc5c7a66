"""Configs and training sets for the benchmarks: the reference scale of the method, with synthetic noise."""

from __future__ import annotations

import shutil
from pathlib import Path

from sdpipe.config import problem
from sdpipe.config.load import load_config
from sdpipe.config.schema import Config
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.pipeline.generation import generate_block
from sdpipe.pipeline.pieces import training_blocks, training_template

REFERENCE = Path(__file__).parents[1] / "configs" / "broad-audience-T32.yaml"
SYNTHETIC = "noise={kind: synthetic, r1: 1.0e-3}"


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


def empty_run(config: Config, root: Path) -> Layout:
    """Make ``root`` anew as a run directory whose ``training.zarr`` waits for its blocks."""
    shutil.rmtree(root, ignore_errors=True)
    layout = Layout(root)
    layout.state("generate").mkdir(parents=True)
    layout.claim(config)
    identity = problem.training_hash(config)
    store.create(layout.training, *training_template(config), store.attributes(identity, config.seed))
    return layout


def make(config: Config, root: Path) -> Path:
    """Write ``training.zarr`` of a config in this process, unless it is there; return its path."""
    layout = Layout(root)
    if not layout.training.exists():
        empty_run(config, root)
        for block in training_blocks(config):
            generate_block(config, root, block)
    return layout.training
