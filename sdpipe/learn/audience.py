"""What all networks and estimators of a run have in common: one file, ``networks/audience.nc``, which xarray opens."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdpipe.arrays import Array
from sdpipe.disk.files import read_recorded, write_bytes
from sdpipe.errors import DamageError, another_schema
from sdpipe.learn.moments import FEATURES, InputKind, InputTransform, LinearEstimator, Moments
from sdpipe.physics import smearing
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.prior import Mixture
from sdpipe.physics.samples import generate, is_validation
from sdpipe.physics.spectra import ChebyshevPrior
from sdpipe.version import SCHEMA, __version__

if TYPE_CHECKING:
    import xarray as xr  # where it is needed, since a config is read without it


DRAWS = 4096
"""Draws of the prior that know a lattice whose networks were trained elsewhere, or which has none."""

STORED_ROWS = 81_920
"""Samples read at once; four fifths of them train, which is what :class:`Moments` sums at once."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of C(t) and rho_sigma(E) over draws of the prior.

    Attributes
    ----------
    mean, covariance
        Those of the clean correlators, shapes (t,) and (t, t).
    typical
        Median of |C(t_ref)|.
    linear_weight, linear_offset
        The best linear estimator, rho = linear_offset + (C - mean) @ linear_weight; shapes (t, sigma, E), (sigma, E).
    linear_unresolved
        Covariance of truth - estimate without noise, shape (sigma, E, E).
    """

    mean: Array
    covariance: Array
    typical: float
    linear_weight: Array
    linear_offset: Array
    linear_unresolved: Array

    @classmethod
    def from_draws(cls, prior: Mixture, observables: Observables, noise: Noise, seed: int) -> Statistics:
        """Return those of DRAWS draws of the prior, made for this alone."""
        draws = generate(prior, observables, seed, 0, DRAWS, stream="lattice")
        smeared = draws.smeared.reshape(DRAWS, -1)
        moments = Moments.from_samples(lambda: [(draws.correlator, smeared)], noise)
        return cls._fitted(observables, [moments], "whiten", draws.correlator[:, noise.reference])

    @classmethod
    def from_training(
        cls, training: xr.Dataset, observables: Observables, noise: Noise, inputs: InputKind, joint: bool
    ) -> Statistics:
        """Return those of the samples of one training set, (sample, ...), that train.

        The linear estimator is fitted at each sigma or, where networks are ``joint``, at all of them together.
        """

        def parts(rows: slice) -> Iterator[tuple[NDArray, NDArray]]:
            for low in range(0, training.sizes["sample"], STORED_ROWS):
                block = training.isel(sample=slice(low, low + STORED_ROWS))
                train = ~is_validation(np.arange(low, low + block.sizes["sample"]))
                smeared = block.smeared.isel(sigma=rows).values[train]
                yield block.correlator.values[train], smeared.reshape(len(smeared), -1)

        each = [slice(None)] if joint else [slice(i, i + 1) for i in range(len(observables.sigma))]
        moments = [Moments.from_samples(lambda rows=rows: parts(rows), noise) for rows in each]
        train = ~is_validation(np.arange(training.sizes["sample"]))
        reference = training.correlator.isel(t=noise.reference).values[train]
        return cls._fitted(observables, moments, inputs, reference)

    @classmethod
    def _fitted(
        cls, observables: Observables, moments: list[Moments], inputs: InputKind, reference: NDArray
    ) -> Statistics:
        """Return the linear estimators of moments at one sigma each, or at all; ``reference`` (sample,) is C(t_ref)."""
        transforms = [InputTransform.fit(m, inputs if inputs == "standardise" else "whiten") for m in moments]
        fits = [LinearEstimator.fit(m, transform) for m, transform in zip(moments, transforms, strict=True)]
        weights = [transform.matrix @ fit.weight for transform, fit in zip(transforms, fits, strict=True)]
        sigmas, n = len(observables.sigma), len(observables.energies)
        blocks = [fit.unresolved[i : i + n, i : i + n] for fit in fits for i in range(0, len(fit.unresolved), n)]
        return cls(
            moments[0].mean,
            moments[0].covariance,
            float(np.median(np.abs(reference))),
            np.concatenate(weights, axis=1).reshape(-1, sigmas, n),
            np.concatenate([fit.offset for fit in fits]).reshape(sigmas, n),
            np.stack(blocks),
        )


@dataclass(frozen=True, eq=False)
class Audience:
    """What networks of one run share, and what estimators beside them are built from.

    Attributes
    ----------
    observables
        Kernel, times, sigma, energies and smearing.
    noise
        Noise that networks were trained with, or made to serve.
    prior
        The Chebyshev prior at the largest basis size.
    threshold
        The lowest threshold E0 of the prior in GeV.
    inputs, head
        What networks see, and whether they give an error, too.
    statistics
        Over draws of the prior; None where there were none with this smearing.
    smearing
        Kind and parameters of the smearing, as :func:`sdpipe.physics.smearing.from_kind` takes them.
    options
        Name of a method -> what it leaves open; not in the file, since a config may change it.
    """

    observables: Observables
    noise: Noise
    prior: ChebyshevPrior
    threshold: float
    inputs: InputKind
    head: bool
    statistics: Statistics | None
    smearing: Mapping[str, Any] = field(default_factory=lambda: {"kind": "gaussian"})
    options: Mapping[str, Any] = field(default_factory=dict)

    def with_smearing(self, f: smearing.Smearing) -> Audience:
        """Return the same for another smearing, of which no draws are known."""
        grid = replace(self.observables, smearing=f)
        return replace(self, observables=grid, statistics=None)

    @property
    def on_features(self) -> bool:
        """Whether networks correct the closed-form posterior, whose features they see."""
        return self.inputs in FEATURES

    @property
    def scaled(self) -> bool:
        """Whether the posterior integrates over the unit of energy: where no network was trained in one."""
        return self.inputs == "local"

    @cached_property
    def identity(self) -> str:
        """A hash of what every network of the run is made for, which its checkpoint names: grids, noise and prior.

        Statistics are not in it, since they are those of the central ensemble, which may change.
        """
        arrays = self.noise.mean.tobytes(), self.noise.covariance.tobytes()
        grids = [self.observables.sigma, self.observables.energies]
        named = json.dumps([self._attributes(), self.observables.times, grids], sort_keys=True).encode()
        return hashlib.sha256(b"".join([named, *arrays])).hexdigest()

    def _attributes(self) -> dict[str, Any]:
        kernel = self.observables.kernel
        return {
            "kernel": kernel.name,
            "period": kernel.period,
            "spacing": kernel.spacing,
            "smearing": json.dumps(dict(self.smearing)),
            "prior": json.dumps(asdict(self.prior)),
            "threshold": self.threshold,
            "floor": self.noise.floor,
            "inputs": self.inputs,
            "head": int(self.head),
        }

    def to_dataset(self) -> xr.Dataset:
        """Return everything but the options as a labelled dataset, see docs/files.md."""
        import xarray as xr

        o, s = self.observables, self.statistics
        unit = {"units": o.kernel.unit}
        pair, per_sigma = ("t", "t2"), ("sigma", "E")
        variables = {
            "noise_mean": ("t", self.noise.mean, "C(t) that the noise is relative to"),
            "noise_covariance": (pair, self.noise.covariance, "covariance of the noise"),
            "clean_mean": ("t", s.mean, "mean of clean C(t) over draws of the prior"),
            "clean_covariance": (pair, s.covariance, "their covariance"),
            "typical": ((), s.typical, "median of |C(t_ref)| over them"),
            "linear_weight": (("t", *per_sigma), s.linear_weight, "best linear estimator: weights"),
            "linear_offset": (per_sigma, s.linear_offset, "its mean"),
            "linear_unresolved": ((*per_sigma, "E2"), s.linear_unresolved, "covariance that it leaves without noise"),
        }
        coords = {
            "t": list(o.times),
            "sigma": ("sigma", list(o.sigma), unit),
            "E": ("E", list(o.energies), unit),
        }
        labelled = {name: (dims, values, {"long_name": words}) for name, (dims, values, words) in variables.items()}
        return xr.Dataset(labelled, coords, self._attributes())

    @classmethod
    def from_dataset(cls, data: xr.Dataset) -> Audience:
        """Return what :meth:`to_dataset` holds."""
        attrs, times = data.attrs, tuple(data.t.values.tolist())
        kernel = Kernel(str(attrs["kernel"]), int(attrs["period"]), float(attrs["spacing"]))
        kind, prior = json.loads(attrs["smearing"]), json.loads(attrs["prior"])

        sigma, energies = (tuple(data[name].values.tolist()) for name in ("sigma", "E"))
        names = ("linear_weight", "linear_offset", "linear_unresolved")
        clean = data.clean_mean.values, data.clean_covariance.values, data.typical.item()
        floor = float(attrs["floor"])
        return cls(
            Observables(kernel, times, sigma, energies, smearing.from_kind(**kind)),
            Noise(times, data.noise_mean.values, data.noise_covariance.values, "networks", floor=floor),
            ChebyshevPrior(**prior | {"E0": tuple(prior["E0"])}),
            float(attrs["threshold"]),
            str(attrs["inputs"]),
            bool(attrs["head"]),
            Statistics(*clean, *(data[name].values for name in names)),
            kind,
        )


def save(path: Path, audience: Audience) -> str:
    """Write the file in one step and return the SHA-256 of its bytes."""
    content = _as_netcdf(audience.to_dataset().assign_attrs(schema=SCHEMA, sdpipe_version=__version__))
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def load(path: Path, sha256: str) -> Audience:
    """Read a file whose bytes have the hash ``sha256``, the one that is recorded for it in the run.

    Raises DamageError where it is missing or has another hash, and UserError where it is of another schema.
    """
    return _audience(path, read_recorded(path, sha256))


def _as_netcdf(data: xr.Dataset) -> bytes:
    """Return a dataset as a NetCDF file, without the locks of Dask that xarray takes in a worker."""
    import h5netcdf

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        file.dimensions = dict(data.sizes)
        for name, variable in data.variables.items():
            stored = file.create_variable(name, variable.dims, data=variable.values)
            stored.attrs.update(variable.attrs)
        file.attrs.update(data.attrs)
    return buffer.getvalue()


def _from_netcdf(content: bytes) -> xr.Dataset:
    """Return the dataset of such a file."""
    import h5netcdf
    import xarray as xr

    with h5netcdf.File(io.BytesIO(content), "r") as file:
        variables = {name: (v.dimensions, v[...], dict(v.attrs)) for name, v in file.variables.items()}
        return xr.Dataset(variables, attrs=dict(file.attrs)).set_coords(variables.keys() & file.dimensions.keys())


@lru_cache(maxsize=8)
def _audience(path: Path, content: bytes) -> Audience:
    try:
        data = _from_netcdf(content)
    except (OSError, ValueError) as error:
        raise DamageError(path, f"not a readable file of an audience ({type(error).__name__})") from None
    if data.attrs.get("schema") != SCHEMA:
        raise another_schema(path, data.attrs)
    return Audience.from_dataset(data)
