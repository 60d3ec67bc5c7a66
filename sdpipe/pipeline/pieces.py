"""How work is cut: blocks of ``training.zarr`` with its template, and stacks of networks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from sdpipe.config import mocks, problem
from sdpipe.config.schema import Config
from sdpipe.disk import store
from sdpipe.physics.samples import BATCH, is_validation
from sdpipe.physics.spectra import RNG_BLOCK


@dataclass(frozen=True)
class Block:
    """A contiguous range of samples at one Nb: the unit of work of ``generate``."""

    name: str
    row: int
    Nb: int
    start: int
    stop: int


def chunk_samples(config: Config) -> int:
    """Return the samples in a chunk: about 16 MiB, at least four chunks a set, whole batches where there is one."""
    largest = store.CHUNK_BYTES // (4 * len(config.smearing.sigma) * config.energies.count)
    quarter = -(-config.spectra.Nrho // 4)
    unit = BATCH if min(largest, quarter) >= BATCH else RNG_BLOCK
    return unit * max(min(largest // unit, -(-quarter // unit)), 1)


def training_blocks(config: Config) -> list[Block]:
    """Return every block of ``training.zarr``."""
    step, total = chunk_samples(config), config.spectra.Nrho
    return [
        Block(f"generate-Nb{Nb}-{i:04d}", row, Nb, start, min(start + step, total))
        for row, Nb in enumerate(config.spectra.Nb)
        for i, start in enumerate(range(0, total, step))
    ]


def training_template(config: Config) -> tuple[dict[str, Any], dict[str, store.Variable]]:
    """Return coordinates and arrays of ``training.zarr``."""
    chunk, n_t, n_E = chunk_samples(config), len(config.lattice.slices), config.energies.count
    n_sigma, copies, units = len(config.smearing.sigma), config.noise.copies, problem.kernel(config).units
    sample = np.arange(config.spectra.Nrho)
    coords = {
        "Nb": ("Nb", np.array(config.spectra.Nb), {"long_name": "size of the Chebyshev basis"}),
        "sample": ("sample", sample),
        "t": ("t", np.array(config.lattice.slices), {"units": "lattice units"}),
        "sigma": ("sigma", np.array(config.smearing.sigma), {"units": "GeV"}),
        "E": ("E", np.array(problem.energies(config)), {"units": "GeV"}),
        "validation": ("sample", is_validation(sample), {"long_name": "sample validates; the others train"}),
    }
    variables = {
        "correlator": store.Variable(("Nb", "sample", "t"), (1, chunk, n_t), "float32", units, "clean correlator"),
        "smeared": store.Variable(
            ("Nb", "sample", "sigma", "E"), (1, chunk, n_sigma, n_E), "float32", "1", "smeared spectral density"
        ),
        "threshold": store.Variable(("Nb", "sample"), (1, chunk), "float64", "GeV", "threshold E0"),
    }
    if copies:
        coords["copy"] = ("copy", np.arange(copies))
        variables["noisy"] = store.Variable(
            ("Nb", "sample", "copy", "t"), (1, chunk, copies, n_t), "float32", units, "correlator with lattice noise"
        )
    return coords, variables


VALIDATION_BLOCK = 500
"""Draws of one family that one task takes."""


@dataclass(frozen=True)
class ValidationBlock:
    """A contiguous range of draws of one validation family: the unit of work of ``validate``."""

    name: str
    family: str
    row: int
    start: int
    stop: int


def validation_blocks(config: Config) -> list[ValidationBlock]:
    """Return every block of draws that ``validate`` predicts."""
    total = config.validation.samples
    return [
        ValidationBlock(f"validate-{family}-{i:04d}", family, row, start, min(start + VALIDATION_BLOCK, total))
        for row, family in enumerate(mocks.families_of(config))
        for i, start in enumerate(range(0, total, VALIDATION_BLOCK))
    ]


def validation_template(config: Config) -> tuple[dict[str, Any], dict[str, store.Variable]]:
    """Return coordinates and arrays of the store of predicted draws."""
    sources = ["latt", "net", *config.budget.references]
    n_sigma, n_E = len(config.smearing.sigma), config.energies.count
    coords = {
        "family": np.array(list(mocks.families_of(config)), object),
        "sample": np.arange(config.validation.samples),
        "source": np.array(sources, object),
        "sigma": ("sigma", np.array(config.smearing.sigma), {"units": "GeV"}),
        "E": ("E", np.array(problem.energies(config)), {"units": "GeV"}),
    }
    dims, chunks = ("family", "sample", "sigma", "E"), (1, VALIDATION_BLOCK, n_sigma, n_E)

    def per_energy(long_name: str) -> store.Variable:
        return store.Variable(dims, chunks, "float32", "1", long_name)

    def per_sample(long_name: str) -> store.Variable:
        return store.Variable(dims[:2], chunks[:2], "float64", "1", long_name)

    return coords, {
        "truth": per_energy("true smeared spectral density"),
        "central": per_energy("central value"),
        "error": store.Variable(
            ("family", "sample", "source", "sigma", "E"),
            (1, VALIDATION_BLOCK, len(sources), n_sigma, n_E),
            "float32",
            "1",
            "error by source",
        ),
        "linear": per_energy("estimate of the best linear estimator"),
        "linear_error": per_energy("its posterior error"),
        "scale": per_sample("factor on the correlator before the networks see it"),
        "noise_scale": per_sample("noise scale C(t_ref) / C_latt(t_ref) of the correlator that they see"),
        "distance": per_sample("squared Mahalanobis distance of C(t) from the prior"),
        "spread": per_sample("standard deviation over networks, mean over sigma and E"),
        "back_check": per_sample("p-value of the nearest correlator in the span of the kernel"),
    }


class NetworkId(NamedTuple):
    """Which network of the broad audience."""

    ensemble: str
    sigma_index: int
    replica: int


def network_name(config: Config, network: NetworkId) -> str:
    """Return the name of one network in messages, such as train-Nmax-0.44-r3."""
    return f"train-{network.ensemble}-{config.smearing.sigma[network.sigma_index]:g}-r{network.replica}"


@dataclass(frozen=True)
class StackTask:
    """Networks of one architecture and training-set size that train side by side; those of ``wanted`` are kept."""

    name: str
    networks: tuple[NetworkId, ...]
    wanted: tuple[NetworkId, ...]


def stack_name(config: Config, networks: tuple[NetworkId, ...]) -> str:
    """Return the name of a stack on the dashboard.

    It is train-Nmax-0.44-r0-4, or train-Nmax-0.44-r0-to-Nref_b-0.63-r4 where it goes over ensembles and sigma.
    """
    first, last = networks[0], networks[-1]
    if first == last:
        return network_name(config, first)
    whither = str(last.replica) if first[:2] == last[:2] else network_name(config, last).replace("train", "to", 1)
    return f"{network_name(config, first)}-{whither}"


def every_network(config: Config) -> list[NetworkId]:
    """Return the whole broad audience."""
    sigmas, replicas = range(len(config.smearing.sigma)), range(config.training.replicas)
    return [NetworkId(*choice) for choice in product(config.ensembles, sigmas, replicas)]
