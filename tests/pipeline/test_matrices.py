"""Matrices of correlators from the command line and a config to an answer, and what is refused of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import sdpipe
from sdpipe.config.load import config_of
from sdpipe.errors import UserError
from sdpipe.physics.smearing import GAUSSIAN
from sdpipe.problem.suggest import suggest

if TYPE_CHECKING:
    from tests.fixtures import Outcome

Cli = Callable[..., "Outcome"]

MASSES, COUPLINGS = np.array([0.4, 0.9, 1.5]), np.array([[1.0, 0.6, 0.8], [0.7, -0.9, 0.5]])
TIMES, COUNT = 20, 300
KEYS = ("kernel=exponential", "lattice.first=1", "smearing.sigma=[0.25]", "energies={min: 0.1, max: 1.9, count: 10}")
FEW = ("validation={samples: 60, bootstrap: 2, levels: [0.683], families: {}}", "bootstrap=40")


def matrix(path: Path) -> Path:
    """Write configurations (cfg, t, i, j) of two operators and three states, t from 1 on, with errors of 0.2 %."""
    t, rng = np.arange(1, TIMES + 1), np.random.default_rng(5)
    C = np.einsum("in,jn,tn->tij", COUPLINGS, COUPLINGS, np.exp(-MASSES * t[:, None]))
    size = np.sqrt(np.einsum("tii,tjj->tij", C, C))
    root = np.linalg.cholesky(np.exp(-np.abs(t[:, None] - t) / 3))
    z = np.einsum("ts,nsij->ntij", root, rng.standard_normal((COUNT, TIMES, 2, 2)))
    np.save(path, C + 2e-3 * np.sqrt(COUNT) * size * (z + z.swapaxes(2, 3)) / 2)
    return path


def density(i: int, j: int, E: np.ndarray, sigma: float) -> np.ndarray:
    return GAUSSIAN(E[:, None], MASSES, sigma) @ (COUPLINGS[i] * COUPLINGS[j])


def test_check_shows_the_mass_of_each_projected_state(cli: Cli, tmp_path: Path) -> None:
    file = matrix(tmp_path / "x.npy")
    outcome = cli("check", file, "gevp.t0=2", "gevp.td=6", "gevp.state=1", *KEYS)
    assert outcome.status == 0, outcome.err
    assert "state 1 of 2 operators, GEVP at t0 = 2, td = 6; 300 configurations" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("6 ")]
    assert float(rows[0][4]) == pytest.approx(MASSES[1], rel=0.05)
    assert not (tmp_path / "runs").exists()


def test_an_element_off_the_diagonal_is_taken_for_either_sign(tmp_path: Path) -> None:
    file = matrix(tmp_path / "x.npy")
    crossed = suggest(file, ["component=[0,1]", *KEYS]).config
    assert crossed["training"]["audience"] == "none"
    assert set(crossed["spectra"]["mixture"]) == {"chebyshev", "signed"}
    assert crossed["methods"][0] == config_of(crossed, "x").budget.central == "hlt"
    assert crossed["name"] == "x-0-1"
    assert config_of(crossed, "x").targets["x-0-1"].source.crossed
    assert suggest(file, ["component=[1,1]", *KEYS]).config["training"]["audience"] == "shipped"
    with pytest.raises(UserError, match=r"component \[0, 1\] is off the diagonal, .*; allowed: false"):
        suggest(file, ["component=[0,1]", "spectra.positive=true", *KEYS])
    scale = suggest(file, ["component=[0,1]", *KEYS[:2]]).config["spectra"]["unit"]
    assert scale == suggest(file, ["component=[0,0]", *KEYS[:2]]).config["spectra"]["unit"]


def test_methods_for_positive_densities_are_refused_off_the_diagonal(tmp_path: Path) -> None:
    file = matrix(tmp_path / "x.npy")
    for method in ("positive", "bounds"):
        asked = suggest(file, ["component=[0,1]", f"methods=[posterior, {method}]", *KEYS])
        with pytest.raises(UserError, match=f"methods: {method} is for rho >= 0, and x-0-1 is off the diagonal"):
            config_of(asked.config, "x")


def test_elements_of_a_matrix_are_reconstructed_within_their_errors(tmp_path: Path) -> None:
    file = matrix(tmp_path / "x.npy")
    run = sdpipe.reconstruct(file, "component=[0,1]", *KEYS, *FEW, run=tmp_path / "run")
    budget = run.budget["x-0-1"].load()
    truth = density(0, 1, budget.E.values, 0.25)
    off = np.abs(budget.central[0] - truth)
    assert float(off.mean()) < 0.2 * np.abs(truth).max()
    assert float((off / budget.calibrated[0]).mean()) < 2.5
    assert float(budget.central.min()) < 0
    assert run.predictions["x-0-1"].correlator.attrs["component"] == [0, 1]


def test_targets_of_a_config_are_elements_and_states(cli: Cli, tmp_path: Path) -> None:
    file, out = matrix(tmp_path / "x.npy"), tmp_path / "run"
    keys = [f"targets.state.{key}" for key in ("kind=correlator", f"path={file}", "gevp={t0: 2, td: 6}")]
    keys += [f"targets.cross.{key}" for key in ("kind=correlator", f"path={file}", "component=[0,1]")]
    keys += [f"targets.second.{key}" for key in ("kind=correlator", f"path={file}", "component=[1,1]")]
    none = ("training.audience=none", "spectra.mixture={chebyshev: 1, signed: 1}")
    assert cli("reconstruct", file, "component=[0,0]", *none, *KEYS, *FEW, *keys, "--run", out).status == 0
    run = sdpipe.open_run(out)
    assert list(run.budget) == ["x-0-0", "state", "cross", "second"]
    E = run.budget["state"].E.values
    assert E[int(run.budget["state"].central[0].values.argmax())] == pytest.approx(MASSES[0], abs=0.21)
    band = run.band("cross")
    assert band.attrs["diagonal"] == ["x-0-0", "second"]
    assert float(band.pull.max()) < 3
    page = run.layout.report.read_text()
    assert "the bound of Cauchy and Schwarz, ± √(ρ ρ) of x-0-0 and second." in page
    assert "above sqrt(rho rho)" not in page
    outcome = cli("run", out, "targets.state.gevp.td=2")
    assert outcome.status == 2
    assert "targets.state.gevp" in outcome.fault
    assert "t0: 2 is not below td (2)" in outcome.fault


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([], "a 2 x 2 matrix of correlators: say component: [i, j], or gevp"),
        (["component=[0,2]"], "component: [0, 2] is not there; allowed: 0 to 1"),
        (["component=[0,-1]"], "component.1"),
        (["component=3"], "component: input should be"),
        (["gevp.t0=2"], "gevp.td: this key is missing"),
        (["gevp={t0: 2, td: 30}"], "td: 30 is not among its times, 1..20"),
        (["gevp={t0: 3, td: 3}"], "t0: 3 is not below td (3)"),
        (["gevp={t0: 2, td: 3, state: 2}"], "state: 2 is not there; allowed: 0 to 1"),
    ],
)
@pytest.mark.parametrize("command", ["check", "reconstruct"])
def test_what_a_matrix_does_not_have_is_one_line(
    cli: Cli, tmp_path: Path, command: str, keys: list[str], words: str
) -> None:
    outcome = cli(command, matrix(tmp_path / "x.npy"), *keys, *KEYS, *(FEW if command == "reconstruct" else ()))
    assert outcome.status == 2
    assert words in outcome.fault
    assert [f.name for f in tmp_path.iterdir()] == ["x.npy"]
