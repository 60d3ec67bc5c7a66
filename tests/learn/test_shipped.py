"""The audience that comes with sdpipe: its file, and what its networks give between the points of their grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdpipe.config.shipped import PLACE, manifest, shipped
from sdpipe.errors import DamageError
from sdpipe.learn import architectures
from sdpipe.learn import shipped as audience
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.prior import Mixture
from sdpipe.physics.spectra import ChebyshevPrior, delta_tanh

TIMES = tuple(range(1, 13))


def lattice(sigma=(0.44,), energies=(0.5, 1.0, 1.5), unit: float = 1.0) -> audience.Lattice:
    grid, one = (Observables(Kernel("periodic", 24, 0.8 / u), TIMES, sigma, energies) for u in (unit, 1.0))
    C = unit * one.split(delta_tanh().integrals(one))[0]
    prior = Mixture(shipped()["spectra"]["mixture"], ChebyshevPrior(16, unit=unit))
    return audience.Lattice.of(grid, synthetic(TIMES, C, 1e-3, 0.0, 2.0), prior, seed=1)


@pytest.fixture(scope="module")
def kept() -> list[dict]:
    return audience.read(PLACE / "audience.pt", manifest()["sha256"])


def outputs(network, features: np.ndarray) -> np.ndarray:
    x = torch.as_tensor((features - network.mean) @ network.matrix, dtype=torch.float32)
    parameters = {name: values[None].float() for name, values in network.parameters.items()}
    made = architectures.forward(parameters, x[None])[0].numpy()
    return made.reshape(len(features), len(network.sigmas), len(network.energies))


def test_the_file_is_small_and_of_the_config_beside_it(kept: list[dict]) -> None:
    assert (PLACE / "audience.pt").stat().st_size <= 10_000_000
    ensembles, replicas = shipped()["ensembles"], shipped()["training"]["replicas"]
    assert [(k["ensemble"], k["replica"]) for k in kept] == [(e, r) for e in ensembles for r in range(replicas)]
    for k in kept:
        assert k["architecture"] == ensembles[k["ensemble"]]["network"]
        assert k["sigmas"] == shipped()["smearing"]["sigma"]
        assert len(k["energies"]) == shipped()["energies"]["count"]


def test_on_the_grid_networks_give_what_they_gave(kept: list[dict]) -> None:
    k = kept[0]
    features = k["mean"].numpy() + np.random.default_rng(1).standard_normal((5, len(k["mean"]))) / np.diag(k["matrix"])
    every = audience.serve(k, lattice(tuple(k["sigmas"]), tuple(k["energies"])), "")
    x = torch.as_tensor((features - k["mean"].numpy()) @ k["matrix"].numpy(), dtype=torch.float32)
    raw = architectures.forward(architectures.stack([{n: v.float() for n, v in k["parameters"].items()}]), x[None])[0]
    np.testing.assert_allclose(outputs(every, features).reshape(5, -1), raw.numpy(), atol=1e-4)


def test_between_the_points_of_the_grid_networks_are_smooth(kept: list[dict]) -> None:
    k = kept[0]
    features = k["mean"].numpy() + np.random.default_rng(1).standard_normal((50, len(k["mean"]))) / np.diag(k["matrix"])
    E = tuple(np.linspace(0.2, 3.0, 29).tolist())
    given = [outputs(audience.serve(k, lattice((s,), E), ""), features)[:, 0] for s in (0.44, 0.47, 0.5, 0.57)]
    size = np.abs(np.stack(given)).mean()
    for between in given[1:3]:
        inside = np.minimum(np.abs(between - given[0]), np.abs(between - given[3])) <= np.abs(given[3] - given[0])
        assert inside.mean() > 0.9
    assert np.abs(np.diff(given[1], n=2, axis=1)).mean() < 0.2 * size


def test_units_change_no_answer(kept: list[dict]) -> None:
    one = audience.serve(kept[0], lattice(), "")
    other = audience.serve(kept[0], lattice((0.22,), (0.25, 0.5, 0.75), unit=0.5), "")
    for name, values in one.parameters.items():
        np.testing.assert_allclose(other.parameters[name], values, rtol=1e-5, atol=1e-6)
    C = 0.5 * one.lattice_mean
    np.testing.assert_allclose(C @ other.linear_weight, one.lattice_mean @ one.linear_weight, rtol=1e-5)
    assert (other.seen_sigmas, other.prior["unit"]) == ([0.5 * s for s in one.seen_sigmas], 0.5)


def test_another_byte_in_the_file_is_damage(tmp_path) -> None:
    data = bytearray((PLACE / "audience.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "audience.pt").write_bytes(data)
    with pytest.raises(DamageError, match="install sdpipe again"):
        audience.read(tmp_path / "audience.pt", manifest()["sha256"])
