"""The broad audience of networks as an estimator: rho_sigma(E) of every ensemble and replica."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.arrays import Array
from sdpipe.errors import UserError
from sdpipe.estimators.local import Local
from sdpipe.estimators.posterior import ClosedForm
from sdpipe.learn import architectures
from sdpipe.learn.audience import Audience
from sdpipe.learn.moments import CUT
from sdpipe.learn.trained import Network

PAIRS = 2048
"""Pairs (network, input) in one forward pass: few enough that a layer stays in the cache."""


class Networks:
    """Trained networks of one run, ``central`` the name of the ensemble whose mean over replicas is the result.

    Networks on features of the posterior correct it, those of the run or what they see at one energy
    (:class:`~sdpipe.estimators.local.Local`); they need ``posterior``, others do not. Raises UserError when a network
    of the grid ensemble x sigma x replica is missing.
    """

    summary = "the broad audience of neural networks"

    def __init__(
        self, members: Sequence[Network], audience: Audience, central: str, posterior: ClosedForm | None = None
    ) -> None:
        self.members, self.audience, self.central, self.posterior = members, audience, central, posterior
        self.head, self.on_features = audience.head, audience.on_features
        self.ensembles = list(dict.fromkeys(m.ensemble for m in members))
        self.replicas = sorted({m.replica for m in members})
        self._refuse_missing()

    @property
    def cut(self) -> float:
        """Standard deviations at which inputs are cut: those of lattices that none was trained on can be anywhere."""
        return CUT if self.audience.inputs == "local" else np.inf

    @cached_property
    def local(self) -> Local | None:
        """What networks see that see one energy at a time; None where they are others."""
        if self.audience.inputs != "local":
            return None
        return Local.around(self.posterior.posterior)

    def _refuse_missing(self) -> None:
        trained = [s for s in (None, *self.audience.observables.sigma) if s in {m.sigma for m in self.members}]
        present = {(m.sigma, m.ensemble, m.replica) for m in self.members}
        wanted = product(trained, self.ensembles, self.replicas)
        missing = [f"{e} sigma={s} replica {r}" for s, e, r in wanted if (s, e, r) not in present]
        if missing:
            more = " ..." if len(missing) > 5 else ""
            raise UserError(f"networks missing: {', '.join(missing[:5])}{more}")

    @property
    def source(self) -> str:
        """The source of error that is not the audience's: ``scale`` where networks say it, else ``resolution``."""
        return "scale" if self.head else "resolution"

    def of_inputs(self, inputs: NDArray, ensemble: str | None = None) -> xr.Dataset:
        """Return what networks make of their inputs (boot, input), those of one ``ensemble`` or of all.

        ``rho (sigma, ensemble, replica, boot, E)`` and, where they have an error head, ``scale`` likewise. The inputs
        are correlators in the units of the kernel, or features of the posterior, ``local`` ones (boot, sigma, E,
        input); of features, networks return (rho - mean)/sd and scale/sd. Networks of one architecture share each pass.
        """
        members = [m for m in self.members if ensemble in (None, m.ensemble)]
        ensembles, grid = [e for e in self.ensembles if ensemble in (None, e)], self.audience.observables
        sigma = list(grid.sigma)
        shape = (len(sigma), len(ensembles), len(self.replicas), len(inputs), len(grid.energies))
        rho = np.empty(shape, np.float32)
        error = np.empty(shape, np.float32) if self.head else None
        for architecture in dict.fromkeys(m.architecture for m in members):
            group = [m for m in members if m.architecture == architecture]
            values, errors = _forward(group, inputs.reshape(-1, inputs.shape[-1]), self.head, self.cut)
            for i, m in enumerate(group):
                place = slice(None) if m.sigma is None else sigma.index(m.sigma)
                where = place, ensembles.index(m.ensemble), self.replicas.index(m.replica)
                rho[where] = _per_sigma(values[i].reshape(len(inputs), -1), m, shape)
                if error is not None:
                    error[where] = _per_sigma(errors[i].reshape(len(inputs), -1), m, shape)
        dims = ("sigma", "ensemble", "replica", "boot", "E")
        coords = {
            "sigma": ("sigma", sigma, {"units": grid.kernel.unit}),
            "ensemble": np.array(ensembles, object),
            "replica": self.replicas,
            "boot": np.arange(len(inputs)),
            "E": ("E", list(grid.energies), {"units": grid.kernel.unit}),
        }
        variables = {"rho": (dims, rho, {"units": grid.units, "long_name": "smeared spectral density"})}
        if error is not None:
            words = {"units": grid.units, "long_name": "error that comes with the estimate"}
            variables["scale"] = (dims, error, words)
        return xr.Dataset(variables, coords)

    def predict(self, C: Array, samples: Array) -> xr.Dataset:
        """Return rho of bootstrap ``samples`` (..., boot, t) around C (..., t), the samples one after another.

        Returns what :meth:`of_inputs` does, ``boot`` standing for (..., boot). Where networks correct the posterior,
        they see its features and ``unresolved (..., sigma, E)`` is its error without that of noise at fixed weights.
        """
        if not self.on_features:
            return self.of_inputs(samples.reshape(-1, samples.shape[-1]))
        estimate, mean, features = self.posterior.with_features(C, samples)
        if self.local is not None:
            features = self.local.features(C, samples, estimate, mean, self.posterior.goodness(C)[0])
        prediction = self.of_inputs(features.reshape(-1, *features.shape[C.ndim :]))
        sd = sigma_first(np.repeat(estimate.sd[..., None, :, :], samples.shape[-2], axis=-3))
        for variable in prediction.values():
            variable.values *= sd[:, None, None].astype(np.float32)
        prediction.rho.values += sigma_first(mean)[:, None, None].astype(np.float32)
        resolved = np.diagonal(self.posterior.posterior.resolved(C, estimate), axis1=-2, axis2=-1)
        between = ("sample",)[: C.ndim - 1]
        prediction["unresolved"] = ((*between, "sigma", "E"), np.sqrt(np.maximum(estimate.sd**2 - resolved, 0)))
        return prediction


def sigma_first(values: Array) -> Array:
    """Return (..., sigma, E) as (sigma, ..., E), the dimensions before sigma joined into one."""
    return np.moveaxis(values.reshape(-1, *values.shape[-2:]), 1, 0)


def _per_sigma(outputs: NDArray, network: Network, shape: tuple[int, ...]) -> NDArray:
    """Return outputs (boot, sigma E) of a network of all sigma as (sigma, boot, E); of one sigma as (boot, E)."""
    if network.sigma is not None:
        return outputs
    return outputs.reshape(len(outputs), shape[0], shape[-1]).swapaxes(0, 1)


def _forward(group: list[Network], inputs: NDArray, head: bool, cut: float) -> tuple[NDArray, NDArray | None]:
    """Return estimates and errors (network, boot, E) of networks of one architecture, these None without a head."""

    def single(arrays: list[NDArray]) -> NDArray[np.float32]:
        return np.stack(arrays).astype(np.float32)

    keys = [(m.mean.tobytes(), m.matrix.tobytes()) for m in group]
    transforms = dict(zip(keys, group, strict=True))  # those of all networks that were trained on one set are the same
    parameters = architectures.stack([m.parameters for m in group])
    weight = single([m.weight for m in group])
    offset = single([m.offset for m in group])[:, None]
    scale = single([m.scale for m in group])[:, None]
    rows = max(1, PAIRS // len(group))
    values, errors = [], []
    for low in range(0, len(inputs), rows):
        batch = inputs[low : low + rows]
        seen = {key: ((batch - m.mean) @ m.matrix).clip(-cut, cut) for key, m in transforms.items()}
        x = single([seen[key] for key in keys])
        outputs = architectures.forward(parameters, x)
        if head:
            outputs, log_error = architectures.split(outputs)
            errors.append(scale * np.exp(log_error))
        values.append(offset + x @ weight + scale * outputs)
    return np.concatenate(values, axis=1), np.concatenate(errors, axis=1) if head else None
