"""From the config to the objects of the physics: the one layer that knows both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdpipe import config as cfg
from sdpipe import correlators, noise, rng, samples, spectra
from sdpipe.config import Config, digest, plain
from sdpipe.errors import UserError
from sdpipe.kernels import Kernel, Observables
from sdpipe.noise import Noise
from sdpipe.store import SCHEMA

Array = NDArray[np.float64]


def kernel(config: Config) -> Kernel:
    """Return the kernel of the run."""
    return Kernel(config.kernel, config.lattice.period, config.lattice.spacing)


def energies(config: Config) -> tuple[float, ...]:
    """Return the energies E in GeV."""
    grid = np.linspace(config.energies.min, config.energies.max, config.energies.count)
    return tuple(float(f"{e:.12g}") for e in grid)


def observables(config: Config) -> Observables:
    """Return C(t) and rho_sigma(E) on the grids of the run."""
    return Observables(kernel(config), config.lattice.slices, tuple(config.smearing.sigma), energies(config))


def prior(config: Config, Nb: int) -> spectra.ChebyshevPrior:
    """Return the prior at basis size ``Nb``."""
    s = config.spectra
    return spectra.ChebyshevPrior(Nb, s.E0, s.epsilon, s.omega_max)


def spectrum(section: cfg.Mock) -> spectra.Spectrum:
    """Return the known spectral density of a mock target."""
    if isinstance(section, cfg.O3):
        return spectra.o3(section.threshold)
    if isinstance(section, cfg.DeltaTanh):
        return spectra.delta_tanh(section.amplitude, section.mass, section.height, section.position, section.width)
    if isinstance(section, cfg.Peaks):
        return spectra.peaks(tuple(section.amplitudes), tuple(section.masses))
    raise TypeError(f"{section.kind} is not a single known spectral density")


def _known(config: Config, section: cfg.Mock) -> tuple[Array, Array]:
    """Return C (t,) and rho_sigma (sigma, E) of a mock target."""
    grid = observables(config)
    if isinstance(section, cfg.Chebyshev):
        i = section.sample
        draw = samples.generate(prior(config, section.Nb), grid, config.seed, i, i + 1, stream="target")
        return draw.correlator[0], draw.smeared[0]
    return grid.split(spectrum(section).integrals(grid, config.spectra.omega_max))


def _on_slices(config: Config, data: Array, where: str) -> Array:
    """Return the matrix product that takes data (..., T) to the run's time slices, folded where it must be."""
    return data @ correlators.select(data.shape[-1], kernel(config), config.lattice.slices, where).T


def lattice_noise(config: Config) -> Noise:
    """Return C_latt and Cov_latt of the run.

    Raises UserError for a file that cannot be used, see :mod:`sdpipe.correlators` and :class:`Noise`.
    """
    section, times = config.noise, config.lattice.slices
    if isinstance(section, cfg.SyntheticNoise):
        grid = observables(config)
        mean = grid.split(spectrum(section.model).integrals(grid, config.spectra.omega_max))[0]
        made = noise.synthetic(times, mean, section.r1, section.delta, section.tau)
        return Noise(times, mean, noise.treat(made.covariance, section.covariance, made.source), made.source)
    if isinstance(section, cfg.CorrelatorNoise):
        where = f"{section.path}: {section.dataset}"
        data = _on_slices(config, correlators.read_configurations(section.path, section.dataset), where)
        covariance = noise.treat(noise.covariance_of_mean(data), section.covariance, where, data)
        return Noise(times, data.mean(axis=0), covariance, where)
    where = f"{section.path}: {section.group}"
    mean, cov = correlators.read_mean_and_covariance(section.path, section.group)
    select = correlators.select(mean.size, kernel(config), times, where)
    covariance = noise.treat(select @ cov @ select.T, section.covariance, where)
    return Noise(times, select @ mean, covariance, where)


@dataclass(frozen=True, eq=False)
class TargetData:
    """What is predicted: samples (boot, t), the truth (sigma, E) where known, and what scaled them."""

    samples: Array
    truth: Array | None
    scale: float


def target(config: Config, name: str, lattice: Noise, typical: float) -> TargetData:
    """Return the bootstrap samples of one target.

    Mock targets: C + s L z, s = C(t_ref) / C_latt(t_ref) (44). Real data: bootstrap means over
    configurations, multiplied by ``scale``; ``scale: auto`` makes |C(t_ref)| the training set's ``typical``
    one, which the linearity of the problem allows; predictions are divided by it.
    """
    section = config.targets[name]
    if isinstance(section, cfg.Correlator):
        where = f"{section.path}: {section.dataset}"
        data = _on_slices(config, correlators.read_configurations(section.path, section.dataset), where)
        reference = abs(data.mean(axis=0)[lattice.reference])
        scale = typical / reference if section.scale == "auto" else section.scale
        boots = correlators.bootstrap(data, config.bootstrap, config.seed, name)
        return TargetData(boots * scale, None, scale)
    correlator, truth = _known(config, section)
    boots = lattice.draw(correlator, config.bootstrap, rng.generator(config.seed, "target", name))
    return TargetData(boots, truth, 1.0)


def check_targets(config: Config) -> None:
    """Raise UserError, with every fault, when the file of a target cannot be used."""
    faults: list[str] = []
    for name, section in config.targets.items():
        if isinstance(section, cfg.Correlator):
            try:
                data = correlators.read_configurations(section.path, section.dataset)
                _on_slices(config, data, f"{section.path}: {section.dataset}")
            except UserError as error:
                faults += [f"targets.{name}: {fault}" for fault in error.faults]
    if faults:
        raise UserError(*faults)


def _file_hash(path: Path) -> str:
    """Return the hash of a file; a file that is not there has one too, so that a moved run can be looked at."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def _with_content(section: cfg.Section) -> dict[str, object]:
    """Return a section as plain data, with the hash of its file in place of the path."""
    data = plain(section)
    if "path" in data:
        data["path"] = _file_hash(Path(data["path"]))
    return data


def training_hash(config: Config) -> str:
    """Return the hash of everything that ``training.zarr`` depends on."""
    parts = [plain(getattr(config, n)) for n in ("lattice", "smearing", "energies", "spectra")]
    stored = _with_content(config.noise) if config.noise.copies else None
    return digest(SCHEMA, config.seed, config.kernel, *parts, stored)


def network_hash(config: Config, ensemble: str) -> str:
    """Return the hash of everything that the networks of one ensemble depend on."""
    training = {k: v for k, v in plain(config.training).items() if k in ("protocol", "inputs", "epochs", "batch")}
    return digest(training_hash(config), _with_content(config.noise), plain(config.ensembles[ensemble]), training)


def prediction_hash(config: Config, name: str) -> str:
    """Return the hash of everything that the predictions of one target depend on."""
    return digest(
        audience_hash(config), _with_content(config.targets[name]), config.bootstrap, name, config.budget.central
    )


def budget_hash(config: Config, name: str) -> str:
    """Return the hash of everything that the budget of one target depends on."""
    return digest(prediction_hash(config, name), plain(config.budget))


def audience_hash(config: Config) -> str:
    """Return the hash of everything that the set of all networks depends on."""
    return digest({e: network_hash(config, e) for e in config.ensembles}, config.training.replicas)


def report_hash(config: Config) -> str:
    """Return the hash of everything that the report depends on."""
    return digest(plain(config), {name: budget_hash(config, name) for name in config.targets})
