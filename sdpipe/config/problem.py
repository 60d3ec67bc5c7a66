"""From the config to the objects of the physics: the one layer that knows both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdpipe.config import sections
from sdpipe.config.schema import SCHEMA, Config, digest, plain
from sdpipe.correlators import correlator, readers
from sdpipe.correlators.correlator import Correlator, Source
from sdpipe.errors import ConfigError, UserError
from sdpipe.physics import noise, rng, samples, spectra
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise

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


def spectrum(section: sections.Mock) -> spectra.Spectrum:
    """Return the known spectral density of a mock target."""
    if isinstance(section, sections.O3):
        return spectra.o3(section.threshold)
    if isinstance(section, sections.DeltaTanh):
        return spectra.delta_tanh(section.amplitude, section.mass, section.height, section.position, section.width)
    if isinstance(section, sections.Peaks):
        return spectra.peaks(tuple(section.amplitudes), tuple(section.masses))
    raise TypeError(f"{section.kind} is not a single known spectral density")


SIZES = (1e-37, 1e37)
"""What C(t_ref) of a known spectral density must lie between: the networks compute in 32 bits."""


def _integrals(config: Config, section: sections.Mock, *keys: str) -> tuple[Array, Array]:
    """Return C (t,) and rho_sigma (sigma, E) of a single known spectral density, which is at ``keys`` in the config.

    Raises ConfigError where its C(t) cannot be computed or is too small or too large.
    """
    grid, times = observables(config), config.lattice.slices
    try:
        with np.errstate(all="ignore"):
            C, rho = grid.split(spectrum(section).integrals(grid, config.spectra.omega_max))
    except RuntimeError as error:
        raise ConfigError((keys, f"its integrals cannot be computed on these grids ({error})")) from None
    at = times.index(1) if 1 in times else 0
    if not (np.isfinite(C).all() and np.isfinite(rho).all() and SIZES[0] <= abs(C[at]) <= SIZES[1]):
        allowed = f"{SIZES[0]:g} to {SIZES[1]:g} in size, and all values finite"
        raise ConfigError((keys, f"C(t = {times[at]}) = {C[at]:.3g}; allowed: {allowed}"))
    return C, rho


def _known(config: Config, name: str) -> tuple[Array, Array]:
    """Return C (t,) and rho_sigma (sigma, E) of a mock target; raise ConfigError where it cannot be used."""
    grid, section = observables(config), config.targets[name]
    if isinstance(section, sections.Chebyshev):
        i = section.sample
        draw = samples.generate(prior(config, section.Nb), grid, config.seed, i, i + 1, stream="target")
        return draw.correlator[0], draw.smeared[0]
    return _integrals(config, section, "targets", name)


def _correlator(config: Config, section: sections.Data | sections.HDF5Noise, *keys: str) -> Correlator:
    """Return the correlator of a section on the run's time slices, folded where the kernel is symmetric.

    Raises ConfigError, with ``keys``, the section's place in the config, for a file that cannot be used.
    """
    if isinstance(section, sections.HDF5Noise):
        source = Source(section.path, section.group, error="mean", covariance=section.covariance)
    else:
        source = Source(**{f.name: getattr(section, f.name) for f in fields(Source)})
    k = kernel(config)
    try:
        return correlator.load(source, k.period if k.symmetric else None, config.lattice.slices)
    except UserError as error:
        raise _at(error, section, *keys) from None


def _at(error: UserError, section: sections.Section, *keys: str) -> ConfigError:
    """Return the fault of a data file as one of the section of the config at ``keys``."""
    key = error.key or "path"
    if key not in type(section).model_fields:
        key = "group"
    return ConfigError(*(((*keys, key), fault) for fault in error.faults))


def lattice_noise(config: Config) -> Noise:
    """Return C_latt and Cov_latt of the run.

    Raises ConfigError for a file that cannot be used, see :func:`correlator.load` and :class:`Noise`, and for
    synthetic noise that is no covariance.
    """
    section, times = config.noise, config.lattice.slices
    if isinstance(section, sections.SyntheticNoise):
        return _synthetic(config, section)
    c = _correlator(config, section, "noise")
    try:
        return Noise(times, c.mean, c.covariance, c.where, c.flags)
    except UserError as error:
        raise _at(error, section, "noise") from None


def _synthetic(config: Config, section: sections.SyntheticNoise) -> Noise:
    times, mean = config.lattice.slices, _integrals(config, section.model, "noise", "model")[0]
    try:
        with np.errstate(all="ignore"):
            made = noise.synthetic(times, mean, section.r1, section.delta, section.tau)
        return Noise(times, mean, noise.treat(made.covariance, section.covariance, made.source), made.source)
    except UserError as error:
        key = error.key or ("delta" if section.delta else "model")
        raise ConfigError(*((("noise", key), fault) for fault in error.faults)) from None


@dataclass(frozen=True, eq=False)
class TargetData:
    """What is predicted: samples (boot, t), what scaled them, and the truth (sigma, E) or the data behind them.

    ``scale_rule`` is auto where the data themselves say the scale.
    """

    samples: Array
    scale: float
    scale_rule: str = "given"
    truth: Array | None = None
    correlator: Correlator | None = None


def target(config: Config, name: str, lattice: Noise, amplitude: Callable[[Array], float]) -> TargetData:
    """Return the bootstrap samples of one target.

    Mock targets: C + s L z, s = C(t_ref) / C_latt(t_ref) (44). Real data: bootstrap means, multiplied by
    ``scale``; ``scale: auto`` takes ``amplitude`` of their mean, which the linearity of the problem allows;
    predictions are divided by it.
    """
    section = config.targets[name]
    if isinstance(section, sections.Correlator):
        c = _real_target(config, name)
        scale, rule = (amplitude(c.mean), "auto") if section.scale == "auto" else (section.scale, "given")
        return TargetData(c.bootstrap(config.bootstrap, config.seed, name) * scale, scale, rule, correlator=c)
    correlator, truth = _known(config, name)
    boots = lattice.draw(correlator, config.bootstrap, rng.generator(config.seed, "target", name))
    return TargetData(boots, 1.0, truth=truth)


def _real_target(config: Config, name: str) -> Correlator:
    """Return the correlator of a target with real data; raise ConfigError where it cannot be used."""
    c = _correlator(config, config.targets[name], "targets", name)
    try:
        Noise(c.times, c.mean, c.covariance, c.where)
    except UserError as error:
        raise _at(error, config.targets[name], "targets", name) from None
    return c


def check_targets(config: Config) -> None:
    """Raise ConfigError, with every fault, when a target cannot be used: its file, or its spectral density."""
    faults = []
    for name, section in config.targets.items():
        try:
            if isinstance(section, sections.Correlator):
                _real_target(config, name)
            elif not isinstance(section, sections.Chebyshev):  # draws of the prior are all of one size
                _integrals(config, section, "targets", name)
        except ConfigError as error:
            faults += error.places
    if faults:
        raise ConfigError(*faults)


def data_keys(section: sections.Data) -> dict[str, object]:
    """Return the keys that say which data these are, without defaults: noise and targets share them."""
    return {
        k: v
        for k, v in section.model_dump(mode="json", exclude_defaults=True).items()
        if k in sections.Data.model_fields
    }


def _file_hash(path: Path) -> str:
    """Return the hash of a file; one that cannot be read has one too, so that a moved run can be looked at."""
    try:
        return readers.sha256(path)
    except OSError:
        return "missing"


def _with_content(section: sections.Section) -> dict[str, object]:
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


VERSION = 2
"""Of how correlators are sized, predicted and judged: with another one predictions and validation are made anew."""


def prediction_hash(config: Config, name: str) -> str:
    """Return the hash of everything that the predictions of one target depend on."""
    target = _with_content(config.targets[name])
    return digest(VERSION, audience_hash(config), target, config.bootstrap, name, config.budget.central)


def budget_hash(config: Config, name: str) -> str:
    """Return the hash of everything that the budget of one target depends on."""
    calibration = validation_hash(config) if config.budget.calibration == "conformal" else None
    return digest(prediction_hash(config, name), plain(config.budget), calibration)


def draws_hash(config: Config) -> str:
    """Return the hash of everything that the predictions of the validation draws depend on."""
    drawn = {k: v for k, v in plain(config.validation).items() if k != "levels"}
    return digest(VERSION, audience_hash(config), drawn, config.budget.central, config.budget.references)


def validation_hash(config: Config) -> str:
    """Return the hash of everything that ``validation.zarr`` depends on."""
    return digest(draws_hash(config), config.validation.levels, config.budget.level)


def audience_hash(config: Config) -> str:
    """Return the hash of everything that the set of all networks depends on."""
    return digest({e: network_hash(config, e) for e in config.ensembles}, config.training.replicas)


def report_hash(config: Config) -> str:
    """Return the hash of everything that the report depends on."""
    return digest(plain(config), {name: budget_hash(config, name) for name in config.targets})
