"""An audience for every covariance: what is stored, what is trained, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.samples import generate
from sdpipe.pipeline.tasks import load_audience
from sdpipe.problem.inputs import Inputs
from sdpipe.run import Run
from tests.fixtures import TINY, Outcome

RANGE = (
    "noise={kind: range, relative: [1.0e-3, 1.0e-2], lattices: [{kernel: periodic, period: 30, times: [1, 12]}]}",
    "spectra.mixture={chebyshev: 2, smooth: 1, levels: 1, states: 1, signed: 1}",
    "training.inputs=posterior",
    "ensembles.Nmax.network=mlpS",
)


@pytest.fixture(scope="module")
def run(in_process: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("range")
    (directory / "tiny.yaml").write_text(TINY)
    outcome = in_process("run", "tiny.yaml", *RANGE, "--run", "run", "-q", cwd=directory)
    assert outcome.status == 0, outcome.err
    return sdpipe.open_run(directory / "run")


def test_each_copy_has_the_posterior_of_its_own_lattice_and_covariance(run: Run) -> None:
    config, part = run.config, run.training.isel(Nb=0, sample=slice(64, 128)).load()
    assert part.lattice.values.tolist() == [0, 1]
    assert np.unique(part.covariance, axis=0).tolist() == [[2, 3]]
    prior, problem = config.spectra.prior(8), Inputs(config).problem
    for k, kernel in enumerate((Kernel("vector", 16), Kernel("periodic", 30))):
        times, E = (tuple(range(1, 9)), tuple(range(1, 13)))[k], tuple(part.E.values.tolist())
        grid = Observables(kernel, times, (0.44, 0.63), E)
        clean = generate(prior, grid, config.seed, 64, 128).correlator
        (noise,) = problem.covariances[k].draw(config.seed, 2 + k, 3 + k)
        noisy = noise.draw(clean, 1, np.random.default_rng(1))[:, 0]
        said = Posterior.for_noise(PriorMoments.from_prior(config.spectra.chebyshev(16), grid), noise)(noisy)
        # Other noise, and so another mean: as far from the stored one as two draws are from each other.
        pull = (part.posterior_mean[:, k] - said.mean) / np.hypot(part.posterior_sd[:, k], said.sd)
        assert 0.05 < float(np.sqrt((pull**2).mean())) < 1.5
        ratio = np.log(part.posterior_sd[:, k] / said.sd)
        assert float(np.abs(ratio.median())) < 0.1


def test_a_network_gives_every_sigma_together(run: Run) -> None:
    assert [n.sigma for n in run.networks] == [None] * len(run.networks)
    found = run.predictions["o3"].load()
    assert found.rho.sigma.values.tolist() == [0.44, 0.63]
    sd = found.estimator_error.sel(estimator="posterior")
    off = np.abs(found.rho.sel(ensemble="Nmax") - found.estimator_rho.sel(estimator="posterior")) / sd
    assert float(off.max()) < 10
    assert (off.mean(("replica", "boot", "E")) > 0).all()
    loss = run.history.val_loss.min("epoch")
    assert (loss < 2 * run.history.posterior_loss).all()
    assert (loss.sel(sigma=0.44) == loss.sel(sigma=0.63)).all()


def test_the_same_config_makes_the_same_file_of_an_audience_again(
    run: Run, in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    for stage in ("generate", "train"):
        outcome = in_process(stage, run.layout.root / "config.yaml", "--run", "again", "-q", cwd=tmp_path)
        assert outcome.status == 0, outcome.err
    again = sdpipe.open_run(tmp_path / "again")
    one, other = (load_audience(made.layout).to_dataset() for made in (run, again))
    xr.testing.assert_identical(one, other)
    for here, there in zip(run.networks, again.networks, strict=True):
        assert all(bool((there.parameters[name] == values).all()) for name, values in here.parameters.items())


def test_only_networks_on_the_posterior_learn_to_live_with_every_covariance(
    cli: Callable[..., Outcome], tiny_config: Path
) -> None:
    outcome = cli("run", tiny_config, "noise={kind: range}", "--dry-run")
    assert outcome.status == 2
    (fault,) = outcome.faults
    assert "noise.kind" in fault
    assert "training.inputs: local or posterior" in fault
