"""The simulation that is shipped, against the exact answer, and its algorithm against definitions on small lattices."""

from __future__ import annotations

from importlib.util import find_spec

import h5py
import numpy as np
import pytest

import sdpipe
from benchmarks import o3_montecarlo as simulation
from benchmarks.o3_reconstruction import FILE, GROUPS, exact, ratio
from sdpipe.config.load import load_config
from tests.fixtures import REPOSITORY

numba = pytest.mark.skipif(find_spec("numba") is None, reason="needs numba: pip install 'sdpipe[benchmarks]'")

CUTOFF = {"beta1.40": 0.09, "beta1.50": 0.07}
"""Largest cutoff effects of C(t) at m t >= 1/2 that docs/o3.md states, relative."""


def plain(sigma: np.ndarray, axis: int, beta: float) -> np.ndarray:
    """Return sum_ab of J^ab_mu(0) J^ab_mu(t) / L by its definition, mu = ``axis``, time along the first axis."""
    L = len(sigma)
    J = beta * np.cross(sigma, np.roll(sigma, -1, axis)).sum(axis=1)
    return np.array([2 * (J * np.roll(J, -t, 0)).sum() / L**2 for t in range(L // 2 + 1)])


@pytest.fixture(scope="module")
def chain() -> dict[str, np.ndarray]:
    """Correlators of a 6 x 6 lattice: by definition and by clusters."""
    beta, L, updates = 1.3, 6, 12_000
    sweep, generator = simulation.compiled(), np.random.default_rng(3)
    sigma = generator.standard_normal((L, L, 3))
    sigma /= np.linalg.norm(sigma, axis=-1, keepdims=True)
    found: dict[str, list[np.ndarray]] = {"time": [], "space": [], "clusters": [], "spin": [], "plain spin": []}
    for _ in range(updates):
        other = sigma.transpose(1, 0, 2)
        found["time"].append((plain(sigma, 0, beta) + plain(other, 0, beta)) / 2)
        found["space"].append((plain(sigma, 1, beta) + plain(other, 1, beta)) / 2)
        S = sigma.sum(axis=1)
        found["plain spin"].append(np.array([(S * np.roll(S, -t, 0)).sum() / L**2 for t in range(L // 2 + 1)]))
        current, spin = np.zeros((2, L // 2 + 1))
        sweep(sigma, beta, simulation.frame_of(generator), generator, current, spin)
        found["clusters"].append(3 * beta**2 * current / (2 * L**2))
        found["spin"].append(3 * spin / (2 * L**2))
    np.testing.assert_allclose(np.linalg.norm(sigma, axis=-1), 1, rtol=1e-12)
    return {name: np.array(rows[200:]) for name, rows in found.items()}


def mean_and_error(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and its error from bins of 50 updates."""
    bins = rows[: len(rows) // 50 * 50].reshape(-1, 50, rows.shape[1]).mean(axis=1)
    return bins.mean(axis=0), bins.std(axis=0, ddof=1) / np.sqrt(len(bins))


@numba
def test_the_current_is_conserved(chain: dict[str, np.ndarray]) -> None:
    """The charge of all time slices is the same: away from the contact term its correlator does not depend on t."""
    mean, error = mean_and_error(chain["time"])
    assert (mean[1:] < -20 * error[1:]).all(), "the charge is there"
    for t in (2, 3):
        difference, its_error = mean_and_error(chain["time"][:, [t]] - chain["time"][:, [1]])
        assert abs(difference[0]) < 3.5 * its_error[0]
    space, error = mean_and_error(chain["space"][:, [2]] - chain["space"][:, [1]])
    assert space[0] < -10 * error[0], "its space component does depend on t"


@numba
@pytest.mark.parametrize(("clusters", "definition"), [("clusters", "space"), ("spin", "plain spin")])
def test_clusters_give_the_correlators_of_the_definition(
    chain: dict[str, np.ndarray], clusters: str, definition: str
) -> None:
    difference, error = mean_and_error(chain[clusters] - chain[definition])
    assert (np.abs(difference) < 3.5 * error).all()
    assert (error < 0.02 * chain[definition].mean(axis=0)[0]).all()


@numba
def test_the_energy_is_that_of_the_strong_coupling_expansion() -> None:
    """<sigma . sigma'> = y + 2 y^3 + O(y^5) with y = coth(beta) - 1/beta in two dimensions."""
    beta = 0.5
    y = 1 / np.tanh(beta) - 1 / beta
    energy = simulation.simulate(simulation.Simulation(beta, 16, 100, 20, 50, 5))[2]
    assert energy.mean() == pytest.approx(y + 2 * y**3, abs=4 * energy.std() / 10 + y**5 * 10)
    again = simulation.simulate(simulation.Simulation(beta, 16, 100, 20, 50, 5))[2]
    assert (energy == again).all(), "the same seed, the same chain"


def test_the_file_is_small_and_says_what_it_is() -> None:
    assert FILE.stat().st_size <= 2_000_000
    with h5py.File(FILE) as file:
        assert file.attrs["licence"] == simulation.LICENCE
        for name, plan in simulation.CHAINS.items():
            group = file[name]
            assert group["current"].shape == (plan.rows, plan.L // 2 + 1)
            assert plan.rows >= (250 if name == "beta1.60" else 1000)
            assert (group.attrs["beta"], group.attrs["L"], group.attrs["seed"]) == (plan.beta, plan.L, plan.seed)
            assert group["current"].attrs["first_time"] == 0


@pytest.mark.parametrize("name", list(simulation.LITERATURE))
def test_the_mass_is_that_of_the_literature(name: str) -> None:
    with h5py.File(FILE) as file:
        group, L = file[name], simulation.CHAINS[name].L
        m, error, chi2 = simulation.mass(group["spin"][()].astype(float), L)
        assert m == pytest.approx(float(group.attrs["mass"]), abs=0.02 * error)
    xi, its_error = simulation.LITERATURE[name]
    assert 1 / m == pytest.approx(xi, abs=3 * np.hypot(error / m**2, its_error))
    assert error < 0.003 * m
    assert chi2 < 1.8


def test_rows_of_many_updates_are_independent_and_rows_of_one_are_not() -> None:
    taus = {}
    for name in ("beta1.50", "single"):
        data = sdpipe.read_correlator(FILE, f"{name}/current", period=192, times=(2, 12))
        assert data.attrs["flags"] == []
        taus[name] = (data.attrs["tau_int"], data.attrs["tau_int_error"])
    assert taus["beta1.50"][0] < 0.5 + 3 * taus["beta1.50"][1]
    assert taus["single"][0] > 0.5 + 3 * taus["single"][1]


@pytest.mark.parametrize("name", list(simulation.LITERATURE))
def test_the_correlator_is_the_exact_one_up_to_cutoff_effects(name: str) -> None:
    """No normalisation is fitted."""
    with h5py.File(FILE) as file:
        m, error, L = (float(file[name].attrs[key]) for key in ("mass", "mass_error", "L"))
    data = sdpipe.read_correlator(FILE, f"{name}/current", period=int(L), times=(round(0.5 / m), round(2.5 / m)))
    t = tuple(data.t.values.tolist())
    C = exact(m, int(L), t)
    of_mass = np.abs(exact(m + error, int(L), t) - exact(m - error, int(L), t)) / 2
    allowed = CUTOFF[name] * C + 4 * np.hypot(np.sqrt(np.diagonal(data.covariance)), of_mass)
    assert (np.abs(data["mean"].values - C) < allowed).all()


def test_cutoff_effects_shrink_with_the_lattice_spacing() -> None:
    """At m t = 1/2: C(t) is below that of the continuum, by less at each larger beta."""
    off = {name: float(r.ratio.interp(t=0.5 / r.attrs["mass"])) - 1 for name in GROUPS for r in [ratio(name)]}
    assert -0.08 < off["beta1.40"] < 1.3 * off["beta1.50"]
    assert off["beta1.50"] < 1.3 * off["beta1.60"] < 0


def test_the_config_has_the_mass_of_the_file() -> None:
    config = load_config(REPOSITORY / "configs" / "o3-montecarlo.yaml")
    with h5py.File(FILE) as file:
        m, error = (float(file["beta1.50"].attrs[key]) for key in ("mass", "mass_error"))
    assert config.lattice.spacing == pytest.approx(2 * m, abs=2 * error)
