"""A series holds what differs from the central ensemble in one size, and its figure what was predicted."""

from __future__ import annotations

import numpy as np
import xarray as xr

import sdpipe
from sdpipe import asymptotics
from sdpipe.config import Ensemble
from sdpipe.configfile import load_config

from .conftest import REPOSITORY


def ensembles(**sizes: tuple[int, int, str]) -> dict[str, Ensemble]:
    return {name: Ensemble(Nb=Nb, Nrho=Nrho, network=network) for name, (Nb, Nrho, network) in sizes.items()}


AUDIENCE = ensembles(
    big=(64, 4000, "arcL"),
    b16=(16, 4000, "arcL"),
    b32=(32, 4000, "arcL"),
    few=(64, 1000, "arcL"),
    other=(16, 1000, "arcL"),
)


def test_a_series_differs_from_the_central_ensemble_in_one_size() -> None:
    assert asymptotics.series(AUDIENCE, "big") == {"Nb": ["b16", "b32", "big"]}


def test_the_shipped_config_has_all_three_series() -> None:
    config = load_config(REPOSITORY / "configs" / "asymptotics.yaml")
    found = asymptotics.series(config.ensembles, config.budget.central)
    assert found == {
        "Nb": ["Nb8", "Nref_b", "Nb32", "Nmax"],
        "Nrho": ["Nrho5k", "Nref_rho", "Nrho20k", "Nmax"],
        "network": ["Nref_n", "medium", "Nmax"],
    }


def test_the_figure_shows_values_errors_and_the_quoted_band() -> None:
    rng = np.random.default_rng(1)
    rho = xr.DataArray(
        1 + 0.1 * rng.standard_normal((1, 5, 3, 20, 6)),
        dims=("sigma", "ensemble", "replica", "boot", "E"),
        coords={"sigma": [0.44], "ensemble": np.array(list(AUDIENCE), object), "E": np.linspace(0.5, 2, 6)},
    )
    budget = sdpipe.error_budget(rho, "big", {"b": "b16"})
    (ax,) = asymptotics.draw(rho, budget, AUDIENCE, "big", {"b": "b16"}, 0.44).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["16", "32", "64"]
    drawn = [container[0].get_ydata() for container in ax.containers]
    values = rho.mean(("replica", "boot")).sel(ensemble=["b16", "b32", "big"], sigma=0.44)
    for i, points in zip((1, 2, 3, 4), drawn, strict=True):
        np.testing.assert_allclose(np.array(points, float), values.isel(E=i).values)
    band = ax.patches[0]
    width = float(budget.error.sel(source="b", sigma=0.44)[1])
    assert np.isclose(band.get_height(), 2 * width)
