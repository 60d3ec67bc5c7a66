"""The audience that comes with sdpipe: its file, and that its networks know no unit of energy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdpipe.config.origins import PLACE, manifest, shipped
from sdpipe.errors import DamageError
from sdpipe.estimators.networks import Networks
from sdpipe.estimators.posterior import ClosedForm
from sdpipe.learn import shipped as networks
from sdpipe.learn.audience import Audience
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise, synthetic
from sdpipe.physics.spectra import ChebyshevPrior, delta_tanh


@pytest.fixture(scope="module")
def kept() -> list[dict]:
    return networks.read(PLACE / "audience.npz", manifest()["sha256"])


def served(kept: list[dict], grid: Observables, noise: Noise) -> Networks:
    audience = Audience(grid, noise, ChebyshevPrior(64), 0.2, "local", True, None)
    members = [networks.serve(k, audience, "") for k in kept]
    return Networks(members, audience, "Nmax", ClosedForm(audience))


def test_the_file_is_small_and_of_the_config_beside_it(kept: list[dict]) -> None:
    assert (PLACE / "audience.npz").stat().st_size <= 6_000_000
    ensembles, replicas = shipped()["ensembles"], shipped()["training"]["replicas"]
    assert [(k["ensemble"], k["replica"]) for k in kept] == [(e, r) for e in ensembles for r in range(replicas)]
    for k in kept:
        assert k["architecture"] == ensembles[k["ensemble"]]["network"]


@pytest.mark.parametrize("kernel", ["periodic", "vector", "exponential", "periodic-odd"])
def test_the_unit_of_energy_changes_no_answer(kept: list[dict], kernel: str) -> None:
    times, found = tuple(range(1, 12)), []
    one = Observables(Kernel(kernel, 24), times, (0.3, 0.44), (0.5, 1.0, 1.5))
    C = one.split(delta_tanh().integrals(one))[0]
    boots = C * (1 + 1e-3 * np.random.default_rng(1).standard_normal((4, 11)))
    for unit in (1.0, 0.05, 20.0):
        # Energies in another unit: a times as large a spacing, energies a times smaller, and the units of C(t).
        sigma, energies = (tuple(unit * x for x in values) for values in (one.sigma, one.energies))
        grid, size = Observables(Kernel(kernel, 24, 1 / unit), times, sigma, energies), unit**one.kernel.power
        audience = served(kept, grid, synthetic(times, size * C, 1e-3, 0.0, 2.0))
        found.append(audience.predict(size * C, size * boots))
    for other in found[1:]:
        for name in ("rho", "scale", "unresolved"):
            size = float(np.abs(found[0][name]).max())
            np.testing.assert_allclose(other[name].values, found[0][name].values, atol=1e-4 * size, err_msg=name)


def test_they_are_nearer_to_a_known_density_than_their_error_says(kept: list[dict]) -> None:
    times = tuple(range(1, 13))
    grid = Observables(Kernel("periodic", 24), times, (0.44,), tuple(np.linspace(0.4, 2.0, 9).tolist()))
    C, truth = grid.split(delta_tanh().integrals(grid))
    found = served(kept, grid, synthetic(times, C, 1e-3, 0.0, 2.0)).predict(C, C[None])
    value, error = (found[name].sel(ensemble="Nmax").mean(("replica", "boot")) for name in ("rho", "scale"))
    pull = (value.values - truth) / error.values
    assert np.abs(pull).max() < 3
    assert float(error.max()) < 0.1 * truth.max()


def test_any_sigma_and_energy_is_served(kept: list[dict]) -> None:
    times = tuple(range(1, 13))
    grid = Observables(Kernel("periodic", 24), times, (0.03, 3.0), (0.0, 10.0))
    C = grid.split(delta_tanh().integrals(grid))[0]
    found = served(kept, grid, synthetic(times, C, 1e-3, 0.0, 2.0)).predict(C, C[None])
    assert bool(np.isfinite(found.rho).all())
    assert bool((found.scale > 0).all())


def test_another_byte_in_the_file_is_damage(tmp_path: Path) -> None:
    data = bytearray((PLACE / "audience.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "audience.npz").write_bytes(data)
    with pytest.raises(DamageError, match="install sdpipe again"):
        networks.read(tmp_path / "audience.npz", manifest()["sha256"])
