"""What ``validate`` does: predict draws with known truth as if they were data, and see whether error bars hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdpipe.config import mocks, problem
from sdpipe.config.schema import Config
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.infer import inference
from sdpipe.infer.budget import LINEAR, signed_errors, spread
from sdpipe.infer.calibration import Resolution
from sdpipe.infer.typicality import KernelSpan, chi2_p_value
from sdpipe.learn.trained import Network
from sdpipe.physics import rng
from sdpipe.pipeline import audience
from sdpipe.pipeline.pieces import ValidationBlock

Array = NDArray[np.float64]

ROWS = 5000
"""Correlators, bootstrap samples included, that are predicted at once: bounds the memory."""


def validate_block(config: Config, root: Path, block: ValidationBlock, threads: int) -> dict[str, Any]:
    """Predict one block of draws, each with its own noise and bootstrap, and write what the networks say."""
    torch.set_num_threads(threads)
    layout = Layout(root)
    networks, lattice = audience.load_networks(config, layout), problem.lattice_noise(config)
    clean, truth = mocks.draw(config, block.family, block.start, block.stop)
    generator = rng.generator(config.seed, "validation noise", block.family, block.start)
    data = lattice.draw(clean, 1, generator)[:, 0]
    scale = np.ones(len(data))
    if block.family == mocks.PRIOR_AUTO:
        amplitude = inference.amplitude_rule(networks, config.budget.central)
        scale = np.array([amplitude(C) for C in data])
    data *= scale[:, None]
    step = max(1, ROWS // config.validation.bootstrap)
    parts = [
        _as_data(config, networks, lattice.draw(data[part], config.validation.bootstrap, generator), scale[part])
        for part in (slice(i, i + step) for i in range(0, len(data), step))
    ]
    noise_scale = lattice.scale(data)
    unresolved, from_noise = (np.diagonal(c, axis1=1, axis2=2) for c in _linear(config, networks))
    span = KernelSpan.of(problem.kernel(config), lattice, config.spectra.E0[0])
    values = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} | {
        "truth": truth,
        "linear_error": np.sqrt(unresolved + noise_scale[:, None, None] ** 2 * from_noise) / scale[:, None, None],
        "scale": scale,
        "noise_scale": noise_scale,
        "distance": inference.prior_of_data(networks, config.budget.central).distance(data),
        "back_check": chi2_p_value(*span.check(data)),
    }
    for name, value in values.items():
        store.write_block(layout.draws, name, (block.row, slice(block.start, block.stop)), value)
    layout.markers("validate", problem.draws_hash(config)).add(block.name)
    return {"samples": block.stop - block.start}


def _linear(config: Config, networks: list[Network]) -> tuple[Array, Array]:
    return inference.linear_covariance(networks, config.budget.central)


def _as_data(config: Config, networks: list[Network], samples: Array, scale: Array) -> dict[str, Array]:
    """Return what predict and budget make of bootstrap samples (sample, boot, t), as arrays with samples first.

    ``scale`` (sample,) is in the samples, and is divided out of the predictions, but not out of their spread.
    """
    rho = inference.predict(networks, samples.reshape(-1, samples.shape[-1]), config.budget.central)
    coords = {d: rho[d] for d in ("sigma", "ensemble", "replica", "E")}
    split = rho.values.reshape(*rho.shape[:3], *samples.shape[:2], rho.shape[4])
    split /= scale[:, None, None].astype(np.float32)
    rho = xr.DataArray(split, dims=("sigma", "ensemble", "replica", "sample", "boot", "E"), coords=coords)
    value, errors = signed_errors(rho, config.budget.central, config.budget.references)
    linear = rho.sel(ensemble=LINEAR).isel(replica=0).mean("boot").astype(float)
    return {
        "central": value.transpose("sample", "sigma", "E").values,
        "error": np.abs(errors).transpose("sample", "source", "sigma", "E").values,
        "linear": linear.transpose("sample", "sigma", "E").values,
        "spread": spread(rho).values * scale,
    }


def residuals(config: Config, layout: Layout) -> Resolution:
    """Return the residuals of the central ensemble on noise-free draws of the prior, from a stream of their own."""
    networks = audience.load_networks(config, layout)
    clean, truth = mocks.draw(config, mocks.PRIOR, 0, config.validation.samples, stream="resolution")
    central = [n for n in networks if n.ensemble == config.budget.central]
    estimate = inference.predict(central, clean).isel(ensemble=0).mean("replica").transpose("boot", "sigma", "E")
    return Resolution(estimate.values - truth, problem.lattice_noise(config).scale(clean))
