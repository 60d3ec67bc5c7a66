"""The data files that a config names, each read once, and what they make: the noise of the problem, the targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sdpipe.arrays import Array
from sdpipe.config import densities, sources
from sdpipe.config.origins import shipped
from sdpipe.config.schema import Config, plain
from sdpipe.config.section import Section
from sdpipe.correlators import formats, known
from sdpipe.correlators.correlator import Correlator
from sdpipe.correlators.record import Snapshot
from sdpipe.errors import ConfigError, UserError
from sdpipe.physics import noise, rng, samples
from sdpipe.physics.noise import Noise
from sdpipe.physics.spectra import Spectrum
from sdpipe.problem.problem import Problem

TARGET_STREAM = "target"
"""Stream of the bootstrap draws of real data: the same for all, so that correlators of the same configurations have
the same ones in every sample."""

LATER = ("component", "gevp", "subtract")
"""Keys that a hash has where they are said: they came after runs that are still there."""

MOCK_SIZES = (1e-37, 1e37)
"""What C(t_ref) of a known spectral density must lie between: the networks compute in 32 bits."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be predicted: samples (boot, t) of C(t), and the truth (sigma, E) or the data behind them.

    ``scale`` multiplies the samples before the networks see them; None lets the data themselves say it.
    """

    samples: Array
    scale: float | None = 1.0
    truth: Array | None = None
    correlator: Correlator | None = None


TOLERATED = 2.0
"""Factor by which noise may be outside of what the shipped audience was trained with: draws with it calibrate."""


def beyond_range(config: Config, noise: Noise) -> list[str]:
    """Return a flag, with by how much, where noise is far outside of what the shipped audience was trained with."""
    if not config.origin.served:
        return []
    low, high = shipped()["noise"]["relative"]
    i = noise.reference
    relative = float(np.sqrt(noise.covariance[i, i]) / abs(noise.mean[i]))
    if low / TOLERATED <= relative <= TOLERATED * high:
        return []
    words = (
        f"{relative / high:.2g} times the largest" if relative > high else f"{low / relative:.2g} times below the least"
    )
    return [
        f"the relative error at t = {noise.times[i]} is {relative:.2g}, {words} that the shipped audience was trained "
        f"with ({low:g} to {high:g})"
    ]


class Inputs:
    """A config with the data files that it names, each read once, when it is first asked for.

    What is made of a file, and the hash that says what it was made from, are of the same bytes.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._snapshots: dict[Path, Snapshot | UserError] = {}
        self._correlators: dict[tuple[str, ...], Correlator] = {}

    def hold(self, snapshot: Snapshot) -> None:
        """Take this for a file that is not written yet."""
        self._snapshots[snapshot.path] = snapshot

    def sha256(self, path: Path) -> str:
        """Return the hash of a file; one that cannot be read has one too, so that a moved run can be looked at."""
        snapshot = self._snapshot(path)
        return "missing" if isinstance(snapshot, UserError) else snapshot.sha256

    def _snapshot(self, path: Path) -> Snapshot | UserError:
        if path not in self._snapshots:
            try:
                self._snapshots[path] = formats.snapshot(path)
            except UserError as error:
                self._snapshots[path] = error
        return self._snapshots[path]

    def content(self, section: Section) -> dict[str, Any]:
        """Return a section as plain data, with the hash of its file in place of the path and ``lattice.first``."""
        data, first = plain(section), self.config.lattice.first
        data = {key: value for key, value in data.items() if value or key not in LATER}
        if "path" not in data:
            return data
        return data | {"path": self.sha256(Path(data["path"]))} | ({} if first is None else {"first": first})

    @property
    def unreadable(self) -> list[Path]:
        """Data files that are named and cannot be read."""
        return [path for _, path in self.data if self.sha256(path) == "missing"]

    @property
    def data(self) -> list[tuple[str, Path]]:
        """Where the config names a data file, and which."""
        named = {"noise": self.config.noise, **self.config.targets}
        return [(where, part.path) for where, part in named.items() if hasattr(part, "path")]

    @cached_property
    def problem(self) -> Problem:
        """What the tasks of this command compute with.

        Raises ConfigError for a file that cannot be used, see :func:`known.load` and :class:`Noise`, and for
        synthetic noise that is no covariance.
        """
        section, times = self.config.noise, self.config.lattice.slices
        if isinstance(section, sources.RangeNoise):
            return Problem(self.config, self._synthetic(section.middle))
        if isinstance(section, sources.SyntheticNoise):
            return Problem(self.config, self._synthetic(section))
        c = self._correlator(section, "noise")
        noise = Noise(times, c.mean, c.covariance, c.where, c.flags, section.floor)
        return Problem(self.config, replace(noise, flags=(*c.flags, *beyond_range(self.config, noise))))

    def correlators(self) -> list[Correlator]:
        """Return every correlator that the config takes from a file, each once."""
        sections = {("noise",): self.config.noise} | {("targets", n): s for n, s in self.config.targets.items()}
        places = {s.source: keys for keys, s in reversed(sections.items()) if hasattr(s, "source")}
        return [self._correlator(sections[keys], *keys) for keys in reversed(places.values())]

    def _synthetic(self, section: sources.SyntheticNoise) -> Noise:
        times, mean = self.config.lattice.slices, self._integrals(section.model.spectrum(), "noise", "model")[0]
        try:
            with np.errstate(all="ignore"):
                synthetic = noise.synthetic(times, mean, section.r1, section.delta, section.tau)
            covariance = noise.treat(synthetic.covariance, section.covariance, synthetic.source)
            return Noise(times, mean, covariance, synthetic.source, floor=section.floor)
        except UserError as error:
            key = error.key or ("delta" if section.delta else "model")
            raise ConfigError(*((("noise", key), fault) for fault in error.faults)) from None

    def _correlator(self, section: sources.CorrelatorSection | sources.HDF5Noise, *keys: str) -> Correlator:
        """Return the correlator of a section on the run's time slices, folded as the kernel says."""
        if keys not in self._correlators:
            kernel, snapshot = self.config.observables.kernel, self._snapshot(section.path)
            with _at(section, *keys):
                if isinstance(snapshot, UserError):
                    raise snapshot
                lattice, draws = self.config.lattice, (self.config.bootstrap, self.config.seed, TARGET_STREAM)
                c = known.load(section.source, kernel, lattice.slices, snapshot, lattice.first, draws)
                Noise(c.times, c.mean, c.covariance, c.where)
            self._correlators[keys] = c
        return self._correlators[keys]

    def _integrals(self, spectrum: Spectrum, *keys: str) -> tuple[Array, Array]:
        """Return C (t,) and rho_sigma (sigma, E) of a known spectral density, which is at ``keys`` in the config.

        Raises ConfigError where its C(t) cannot be computed or is too small or too large.
        """
        grid, times = self.config.observables, self.config.lattice.slices
        try:
            with np.errstate(all="ignore"):
                C, rho = grid.split(spectrum.integrals(grid, self.config.spectra.omega_max))
        except RuntimeError as error:
            raise ConfigError((keys, f"its integrals cannot be computed on these grids ({error})")) from None
        row = times.index(1) if 1 in times else 0
        if not (np.isfinite(C).all() and np.isfinite(rho).all() and MOCK_SIZES[0] <= abs(C[row]) <= MOCK_SIZES[1]):
            allowed = f"{MOCK_SIZES[0]:g} to {MOCK_SIZES[1]:g} in size, and all values finite"
            raise ConfigError((keys, f"C(t = {times[row]}) = {C[row]:.3g}; allowed: {allowed}"))
        return C, rho

    def target(self, name: str) -> Target:
        """Return the bootstrap samples of one target.

        Mock targets: C + s L z, s = C(t_ref) / C_latt(t_ref) (44). Real data: bootstrap means, with the same draws for
        all correlators of as many configurations.

        Raises ConfigError where its file, or its spectral density, cannot be used.
        """
        config, section = self.config, self.config.targets[name]
        if isinstance(section, sources.CorrelatorTarget):
            c = self._correlator(section, "targets", name)
            scale = None if section.scale == "auto" else section.scale
            stream = name if c.samples is None else TARGET_STREAM
            return Target(c.bootstrap(config.bootstrap, config.seed, stream), scale, correlator=c)
        if isinstance(section, densities.ChebyshevMock):
            i, prior = section.sample, config.spectra.chebyshev(section.Nb)
            draw = samples.generate(prior, config.observables, config.seed, i, i + 1, stream="target")
            C, truth = draw.correlator[0], draw.smeared[0]
        else:
            C, truth = self._integrals(section.spectrum(), "targets", name)
        generator = rng.generator(config.seed, "target", name)
        return Target(self.problem.noise.draw(C, config.bootstrap, generator), truth=truth)

    def check(self, targets: bool) -> None:
        """Raise ConfigError, with every fault, when the noise or, with ``targets``, one of these cannot be used."""
        assert self.problem
        faults = []
        for name, section in self.config.targets.items() if targets else ():
            try:
                if isinstance(section, sources.CorrelatorTarget):
                    c = self._correlator(section, "targets", name)
                    if section.scale != "auto":
                        noise.check_size(section.scale * c.mean, c.times, "C times scale", noise.SINGLE)
                elif not isinstance(section, densities.ChebyshevMock):  # draws of the prior are all of one size
                    self._integrals(section.spectrum(), "targets", name)
            except ConfigError as error:
                faults += error.places
            except UserError as error:
                faults.append((("targets", name, "scale"), str(error)))
        if faults:
            raise ConfigError(*faults)


@contextmanager
def _at(section: Section, *keys: str) -> Iterator[None]:
    """Report the fault of a data file as one of the section of the config at ``keys``."""
    try:
        yield
    except UserError as error:
        key = error.key or "path"
        own = (*keys, key if key in type(section).model_fields else "group")
        where = ("lattice", key) if key in ("first", "period") else own
        raise ConfigError(*((where, fault) for fault in error.faults)) from None
