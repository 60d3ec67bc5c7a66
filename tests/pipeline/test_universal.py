"""An audience for every covariance: what is stored, what is trained, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sdpipe
from sdpipe.config.problem import Inputs
from sdpipe.physics.posterior import Posterior
from sdpipe.run import Run
from tests.fixtures import TINY, Outcome

RANGE = (
    "noise={kind: range, relative: [1.0e-3, 1.0e-2], copies: 2}",
    "spectra.mixture={chebyshev: 2, smooth: 1, levels: 1, states: 1, signed: 1}",
    "training.inputs=posterior",
    "ensembles.Nmax.network=mlpS",
)


@pytest.fixture(scope="module")
def run(shell: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("range")
    (directory / "tiny.yaml").write_text(TINY)
    outcome = shell("-m", "sdpipe", "run", "tiny.yaml", *RANGE, "--run", "run", "-q", cwd=directory)
    assert outcome.status == 0, outcome.err
    return sdpipe.open_run(directory / "run")


def test_each_copy_has_the_posterior_of_its_own_covariance(run: Run) -> None:
    problem, part = Inputs(run.config).problem, run.training.isel(Nb=0, sample=slice(64, 128)).load()
    assert np.unique(part.covariance, axis=0).tolist() == [[2, 3]]
    for copy, noise in enumerate(problem.covariances.draw(run.config.seed, 2, 4)):
        one = part.isel(copy=copy)
        said = Posterior.of(problem.moments, noise)(one.noisy.values)
        np.testing.assert_allclose(one.posterior_mean, said.mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one.features, said.features, rtol=1e-4, atol=1e-4)


def test_noise_of_copies_is_as_large_as_their_covariance_says(run: Run) -> None:
    noises = Inputs(run.config).problem.covariances.draw(run.config.seed, 0, 8)
    part = run.training.isel(Nb=0, sample=slice(0, 256)).load()
    for number, noise in enumerate(noises):
        rows = slice(64 * (number // 2), 64 * (number // 2) + 64)
        clean, noisy = part.correlator[rows].values, part.noisy[rows, number % 2].values
        s = np.abs(noise.scale(clean))[:, None]
        error = np.hypot(s * np.sqrt(np.diag(noise.covariance)), noise.floor * clean)
        assert np.mean(((noisy - clean) / error) ** 2) == pytest.approx(1, abs=6 * np.sqrt(2 / 64))


def test_a_network_gives_every_sigma_together(run: Run) -> None:
    assert [n.sigma for n in run.networks] == [None] * len(run.networks)
    found = run.predictions["o3"].load()
    assert found.rho.sigma.values.tolist() == [0.44, 0.63]
    sd = found.method_error.sel({"method": "posterior"})
    off = np.abs(found.rho.sel(ensemble="Nmax") - found.rho.sel(ensemble="posterior")) / sd
    assert float(off.max()) < 10
    assert (off.mean(("replica", "boot", "E")) > 0).all()
    loss = run.history.val_loss.min("epoch")
    assert (loss < 2 * run.history.posterior_loss).all()
    assert (loss.sel(sigma=0.44) == loss.sel(sigma=0.63)).all()


def test_only_networks_on_the_posterior_learn_to_live_with_every_covariance(
    cli: Callable[..., Outcome], tiny_config: Path
) -> None:
    outcome = cli("run", tiny_config, "noise={kind: range}", "--dry-run")
    assert outcome.status == 2
    (fault,) = outcome.faults
    assert "noise.kind" in fault
    assert "training.inputs: posterior" in fault
