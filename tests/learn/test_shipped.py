"""The audience that comes with sdpipe: its file, and what its networks give between the points of their grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdpipe.config.origins import PLACE, manifest, shipped
from sdpipe.errors import DamageError
from sdpipe.learn import architectures
from sdpipe.learn import shipped as networks
from sdpipe.learn.audience import Audience, Statistics
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.prior import Mixture
from sdpipe.physics.spectra import ChebyshevPrior, delta_tanh

TIMES = tuple(range(1, 13))


def lattice(sigma=(0.44,), energies=(0.5, 1.0, 1.5), unit: float = 1.0) -> Audience:
    grid, one = (Observables(Kernel("periodic", 24, 0.8 / u), TIMES, sigma, energies) for u in (unit, 1.0))
    C = unit * one.split(delta_tanh().integrals(one))[0]
    prior = Mixture(shipped()["spectra"]["mixture"], ChebyshevPrior(16, unit=unit))
    noise = synthetic(TIMES, C, 1e-3, 0.0, 2.0)
    statistics = Statistics.from_draws(prior, grid, noise, seed=1)
    return Audience(grid, noise, prior.prior, 0.2 * unit, "posterior", True, grid, statistics)


@pytest.fixture(scope="module")
def kept() -> list[dict]:
    return networks.read(PLACE / "audience.pt", manifest()["sha256"])[1]


@pytest.fixture(scope="module")
def shared() -> dict:
    return networks.read(PLACE / "audience.pt", manifest()["sha256"])[0]


def outputs(network, audience: Audience, features: np.ndarray) -> np.ndarray:
    x = torch.as_tensor((features - network.mean) @ network.matrix, dtype=torch.float32)
    parameters = {name: values[None].float() for name, values in network.parameters.items()}
    made = architectures.forward(parameters, x[None])[0].numpy()
    return made.reshape(len(features), len(audience.observables.sigma), len(audience.observables.energies))


def test_the_file_is_small_and_of_the_config_beside_it(kept: list[dict], shared: dict) -> None:
    assert (PLACE / "audience.pt").stat().st_size <= 10_000_000
    ensembles, replicas = shipped()["ensembles"], shipped()["training"]["replicas"]
    assert [(k["ensemble"], k["replica"]) for k in kept] == [(e, r) for e in ensembles for r in range(replicas)]
    for k in kept:
        assert k["architecture"] == ensembles[k["ensemble"]]["network"]
    assert shared["sigmas"] == shipped()["smearing"]["sigma"]
    assert len(shared["energies"]) == shipped()["energies"]["count"]


def test_on_the_grid_networks_give_what_they_gave(kept: list[dict], shared: dict) -> None:
    k = kept[0]
    features = k["mean"].numpy() + np.random.default_rng(1).standard_normal((5, len(k["mean"]))) / np.diag(k["matrix"])
    audience = lattice(tuple(shared["sigmas"]), tuple(shared["energies"]))
    every = networks.serve(k, shared, audience, "")
    x = torch.as_tensor((features - k["mean"].numpy()) @ k["matrix"].numpy(), dtype=torch.float32)
    raw = architectures.forward(architectures.stack([{n: v.float() for n, v in k["parameters"].items()}]), x[None])[0]
    np.testing.assert_allclose(outputs(every, audience, features).reshape(5, -1), raw.numpy(), atol=1e-4)


def test_between_the_points_of_the_grid_networks_are_smooth(kept: list[dict], shared: dict) -> None:
    k = kept[0]
    features = k["mean"].numpy() + np.random.default_rng(1).standard_normal((50, len(k["mean"]))) / np.diag(k["matrix"])
    E = tuple(np.linspace(0.2, 3.0, 29).tolist())
    lattices = [lattice((s,), E) for s in (0.44, 0.47, 0.5, 0.57)]
    given = [outputs(networks.serve(k, shared, one, ""), one, features)[:, 0] for one in lattices]
    size = np.abs(np.stack(given)).mean()
    for between in given[1:3]:
        inside = np.minimum(np.abs(between - given[0]), np.abs(between - given[3])) <= np.abs(given[3] - given[0])
        assert inside.mean() > 0.9
    assert np.abs(np.diff(given[1], n=2, axis=1)).mean() < 0.2 * size


def test_units_change_no_answer(kept: list[dict], shared: dict) -> None:
    here, there = lattice(), lattice((0.22,), (0.25, 0.5, 0.75), unit=0.5)
    one, other = (networks.serve(kept[0], shared, audience, "") for audience in (here, there))
    for name, values in one.parameters.items():
        np.testing.assert_allclose(other.parameters[name], values, rtol=1e-5, atol=1e-6)
    C = here.noise.mean
    weights = [audience.statistics.linear_weight[:, 0] for audience in (here, there)]
    np.testing.assert_allclose(0.5 * C @ weights[1], C @ weights[0], rtol=1e-5)
    assert (one.audience, other.audience) == (here.identity, there.identity)


def test_another_byte_in_the_file_is_damage(tmp_path) -> None:
    data = bytearray((PLACE / "audience.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "audience.pt").write_bytes(data)
    with pytest.raises(DamageError, match="install sdpipe again"):
        networks.read(tmp_path / "audience.pt", manifest()["sha256"])
