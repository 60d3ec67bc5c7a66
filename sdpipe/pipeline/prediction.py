"""What a worker does for ``predict``: one target through the whole audience, with what speaks against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.config import problem
from sdpipe.config.schema import Config
from sdpipe.correlators import labelled
from sdpipe.correlators.correlator import Correlator
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.infer import guard, inference
from sdpipe.infer.typicality import IMPOSSIBLE, KernelSpan, chi2_p_value
from sdpipe.learn.trained import Network
from sdpipe.physics.noise import Noise
from sdpipe.pipeline.audience import load_networks


def predict_target(config: Config, root: Path, name: str) -> dict[str, Any]:
    """Write the predictions of every network for one target."""
    layout = Layout(root)
    networks, lattice = load_networks(config, layout), problem.lattice_noise(config)
    central, grid = config.budget.central, problem.observables(config)
    target = problem.target(config, name, lattice, inference.amplitude_rule(networks, central))
    rho = inference.predict(networks, target.samples, central) / np.float32(target.scale)
    rho.attrs = {"units": "1", "long_name": "smeared spectral density"}
    attrs = _facts(config, root, name, target, networks, lattice)
    facts = target.correlator.facts if target.correlator else {}
    predictions = xr.Dataset({"rho": rho}, attrs=attrs)
    unresolved, from_noise = inference.linear_covariance(networks, central)
    predictions["linear_covariance"] = (
        ("sigma", "E", "E2"),
        (unresolved + attrs["noise_scale"] ** 2 * from_noise) / target.scale**2,
        {"units": "1", "long_name": "posterior covariance of the linear estimator"},
    )
    predictions["E2"] = ("E2", rho.E.values, {"units": "GeV"})
    predictions["correlator"] = (
        ("boot", "t"),
        target.samples / target.scale,
        {"units": grid.kernel.units, "long_name": "bootstrap samples of C(t)", **facts},
    )
    predictions["t"] = ("t", list(grid.times), {"units": "lattice units"})
    if target.truth is not None:
        predictions["truth"] = (("sigma", "E"), target.truth, {"units": "1", "long_name": "true smeared density"})
    identity = problem.prediction_hash(config, name)
    store.write_dataset(layout.predictions / name, predictions, store.attributes(identity, config.seed))
    layout.markers("predict", identity).add(name)
    return {"flags": attrs["flags"], "data": labelled.describe(facts) if facts else ""}


def _facts(
    config: Config, root: Path, name: str, target: problem.TargetData, networks: list[Network], lattice: Noise
) -> dict[str, Any]:
    """Return the attributes of a prediction: what scaled it, how typical it is, and what speaks against it."""
    mean, own, samples, flags = target.samples.mean(axis=0), lattice, None, []
    if target.correlator is not None:
        data, samples = target.correlator, target.correlator.estimated_from
        mean = target.scale * data.mean
        own = Noise(data.times, mean, target.scale**2 * data.covariance, data.where)
        flags = data_flags(config, root, name, data, networks)
    return {
        "target": name,
        "scale": target.scale,
        "scale_rule": target.scale_rule,
        **typical(config, networks, lattice, mean, own, samples, [f"noise: {f}" for f in lattice.flags] + flags),
    }


def typical(
    config: Config,
    networks: list[Network],
    lattice: Noise,
    mean: NDArray,
    own: Noise,
    samples: int | None,
    flags: list[str],
) -> dict[str, Any]:
    """Return how typical a correlator C (t,) is, as the networks see it, with what speaks against it in ``flags``.

    The back-check is of the data with their ``own`` noise, whatever noise the networks know; ``samples`` is how many
    that was estimated from, None where it is known.
    """
    chi2, dof = KernelSpan.of(problem.kernel(config), own, config.spectra.E0[0]).check(mean[None])
    back_check = float(chi2_p_value(chi2, dof, samples)[0])
    if back_check < IMPOSSIBLE:
        flags = [
            *flags,
            f"no spectral density explains the data: chi2/dof = {chi2[0]:.1f}/{dof[0]} to the nearest correlator "
            f"of kernel {config.kernel} at T = {config.lattice.period}",
        ]
    return {
        "noise_scale": float(abs(lattice.scale(mean))),
        "distance": float(inference.prior_of_data(networks, config.budget.central).distance(mean[None])[0]),
        "chi2": float(chi2[0]),
        "dof": int(dof[0]),
        "back_check": back_check,
        "flags": flags,
    }


def data_flags(config: Config, root: Path, name: str, correlator: Correlator, networks: list[Network]) -> list[str]:
    """Return what is doubtful about a target with real data, and about these networks for it."""
    central = [n for n in networks if n.ensemble == config.budget.central and n.replica == 0]
    wrong = guard.compare(central, correlator.mean, correlator.covariance)
    if wrong is None:
        return list(correlator.flags)
    return [*correlator.flags, f"{wrong}; {guard.remedy(str(root), name, problem.data_keys(config.targets[name]))}"]
