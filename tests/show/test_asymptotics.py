"""A series holds what differs from the central ensemble in one size, and its figure what was predicted."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.config.schema import Ensemble
from sdpipe.show import asymptotics
from tests.conftest import REPOSITORY


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


@pytest.fixture
def rho() -> xr.DataArray:
    return xr.DataArray(
        1 + 0.1 * np.random.default_rng(1).standard_normal((1, 5, 3, 20, 6)),
        dims=("sigma", "ensemble", "replica", "boot", "E"),
        coords={"sigma": [0.44], "ensemble": np.array(list(AUDIENCE), object), "E": np.linspace(0.5, 2, 6)},
    )


def test_the_figure_shows_values_errors_and_the_quoted_band(rho: xr.DataArray) -> None:
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


@pytest.mark.parametrize(("flags", "title"), [([], "o3"), (["off the prior"], "o3 (flagged)")])
def test_the_title_says_whether_the_target_is_flagged(rho: xr.DataArray, flags: list[str], title: str) -> None:
    config = load_config(REPOSITORY / "configs" / "asymptotics.yaml")
    budget = sdpipe.error_budget(rho, "big", {"b": "b16"}).assign_attrs(flags=flags)
    budgets = config.budget.model_copy(update={"central": "big", "references": {"b": "b16"}})
    config = config.model_copy(update={"ensembles": AUDIENCE, "budget": budgets})
    (figure,) = asymptotics.draw_all("o3", rho, budget, config)
    assert figure.get_suptitle() == title


def test_the_legend_covers_no_point(rho: xr.DataArray) -> None:
    budget = sdpipe.error_budget(rho, "big", {"b": "b16"})
    figure = asymptotics.draw(rho, budget, AUDIENCE, "big", {"b": "b16"}, 0.44)
    figure.draw_without_rendering()
    (legend,), (ax,) = figure.legends, figure.axes
    assert len(legend.get_texts()) == 4
    assert not legend.get_window_extent().overlaps(ax.get_window_extent())
