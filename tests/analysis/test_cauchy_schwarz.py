"""The bound of Cauchy and Schwarz: the exact one of known densities, and what is said of a density beyond it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sdpipe.analysis.cauchy_schwarz import band, diagonal
from sdpipe.config.load import config_of
from sdpipe.config.schema import Config
from sdpipe.errors import UserError
from sdpipe.physics.smearing import GAUSSIAN, OWN, Function, Tail
from sdpipe.problem.suggest import suggest
from sdpipe.show.flags import worded
from tests.pipeline.test_matrices import COUPLINGS, KEYS, MASSES, matrix

E, SIGMA = np.linspace(0.1, 1.9, 10), 0.25


def config_for(file: Path, *keys: str) -> Config:
    section = "{{kind: correlator, path: {}, component: [{}, {}]}}"
    diagonal = [f"targets.{name}={section.format(file, k, k)}" for k, name in enumerate("ab")]
    return config_of(suggest(file, ["component=[0,1]", *diagonal, *KEYS, *keys]).config, "x")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return config_for(matrix(tmp_path_factory.mktemp("matrix") / "x.npy"))


def budget(couplings: np.ndarray, error: float) -> xr.Dataset:
    central = GAUSSIAN(E[:, None], MASSES, SIGMA) @ couplings
    values = {"central": central[None], "total": np.full((1, len(E)), error)}
    made = {name: (("sigma", "E"), value) for name, value in values.items()}
    return xr.Dataset(made, {"sigma": [SIGMA], "E": ("E", E, {"units": "1/a"})})


def budgets(factor: float = 1.0, error: float = 1e-3) -> dict[str, xr.Dataset]:
    first, second = COUPLINGS
    return {
        "x-0-1": budget(factor * first * second, error),
        "a": budget(first**2, error),
        "b": budget(second**2, error),
    }


def test_exact_densities_are_within_the_bound_of_their_diagonal(config: Config) -> None:
    found = band(config, budgets(), "x-0-1")
    assert float(found.pull.max()) < 0
    assert found.attrs["says"] == []
    assert found.attrs["diagonal"] == ["a", "b"]
    one, two = (budgets()[name].central for name in "ab")
    np.testing.assert_allclose(found.upper, np.sqrt(one * two))
    np.testing.assert_array_equal(found.lower, -found.upper)


def test_a_density_beyond_the_bound_is_said_to_be(config: Config) -> None:
    found = band(config, budgets(factor=3.0), "x-0-1")
    (words,) = worded(found.attrs["says"])
    assert "errors above sqrt(rho rho) of a and b at sigma = 0.25" in words
    assert float(found.pull.max()) > 3
    assert band(config, budgets(factor=3.0, error=1.0), "x-0-1").attrs["says"] == []


def test_a_diagonal_without_a_value_leaves_the_room_of_its_error(config: Config) -> None:
    empty = budgets() | {"a": budget(np.full(3, -1e-3), 0.01)}
    found = band(config, empty, "x-0-1")
    assert float(found.upper.max()) == 0
    assert (found.bound_error > 0).all()


def test_there_is_no_band_without_the_diagonal(config: Config, tmp_path: Path) -> None:
    assert diagonal(config, "a") is None
    for name, there in (("a", budgets()), ("x-0-1", {"x-0-1": budgets()["x-0-1"]}), ("other", budgets())):
        with pytest.raises(UserError, match=r"no band; needed: a budget of component \[i, j\]"):
            band(config, there, name)
    alone = config_of(suggest(matrix(tmp_path / "x.npy"), ["component=[0,1]", *KEYS]).config, "x")
    assert diagonal(alone, "x-0-1") is None


def test_a_smearing_that_is_negative_somewhere_has_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = Function(lambda E, omega, sigma: np.cos(5 * omega) * np.exp(-omega / sigma) + 0 * E, Tail(4.0))
    monkeypatch.setitem(OWN, "wave", wave)
    waves = config_for(matrix(tmp_path / "x.npy"), "smearing.kind=own", "smearing.name=wave")
    with pytest.raises(UserError, match="is negative somewhere: there is no such bound"):
        band(waves, budgets(), "x-0-1")
