"""C(t) of the data against C(t) of the posterior mean: pulls, words and the figure."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sdpipe.physics.kernels import Kernel, gaussian
from sdpipe.show import correlator_figure

KERNEL = Kernel("periodic", 32)
T = np.arange(1, 16)


def prediction(pull: np.ndarray, sign: float = 1.0, treatment: str = "full") -> xr.Dataset:
    """Return a single state of 0.5 GeV with errors of 0.1 %, its data ``pull`` errors above what is implied."""
    clean, generator = KERNEL(T, 0.5), np.random.default_rng(3)
    noise = 1e-3 * clean * generator.standard_normal((400, T.size))
    noise = (noise - noise.mean(axis=0)) / noise.std(axis=0, ddof=1) * 1e-3 * clean
    C = xr.DataArray(sign * (clean * (1 + 1e-3 * pull) + noise), dims=("boot", "t"), coords={"t": T})
    implied = ("t", sign * clean, {"chi2": float(pull @ pull)})
    return xr.Dataset({"correlator": C.assign_attrs(covariance=treatment), "implied": implied})


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_pulls_are_in_errors_of_the_data(sign: float) -> None:
    pull = np.linspace(-2, 2, T.size)
    np.testing.assert_allclose(correlator_figure.pulls(prediction(pull, sign)), sign * pull, rtol=1e-9, atol=1e-9)


def test_the_sentence_says_whether_data_are_what_is_implied_and_where_they_are_not() -> None:
    near, far = np.full(T.size, 0.5), np.where(T == 7, 4.2, 0.5)
    assert correlator_figure.words(prediction(near)).startswith("The posterior mean implies the C(t) of the data")
    said = correlator_figure.words(prediction(far))
    assert said.startswith("The data are not what is reconstructed: they differ by at most 4.2 errors, at t = 7")
    assert f"χ² = {far @ far:.3g} at 15 times." in said
    assert "covariance (shrink) that makes it small" in correlator_figure.words(prediction(near, treatment="shrink"))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_figure_shows_data_pulls_and_a_plateau_at_the_mass(sign: float) -> None:
    data = prediction(np.zeros(T.size), sign)
    top, middle = correlator_figure.draw(data, "one state").axes
    (mass,) = correlator_figure.draw_mass(data, KERNEL, "one state").axes
    np.testing.assert_allclose(top.lines[0].get_ydata(), KERNEL(T, 0.5))
    np.testing.assert_allclose(middle.lines[-1].get_ydata(), 0, atol=1e-9)
    implied = mass.lines[0].get_ydata()
    assert len(implied) > 5
    np.testing.assert_allclose(implied, 0.5, rtol=1e-9)
    assert top.get_yscale() == "log"


def test_a_correlator_that_changes_sign_is_drawn() -> None:
    data = prediction(np.zeros(T.size))
    data["correlator"] = data.correlator * np.sign(7.5 - data.t)
    figure = correlator_figure.draw(data, "changes sign")
    figure.draw_without_rendering()
    assert figure.axes[0].get_yscale() == "symlog"


@pytest.mark.parametrize(("t", "share"), [(1, 0.676), (4, 0.194), (8, 0.00435)])
def test_a_smeared_density_at_the_energies_of_a_run_does_not_hold_its_correlator(t: int, share: float) -> None:
    sigma, mass, E = 0.44, 0.5, np.linspace(-9, 9, 40_001)
    terms = gaussian(E, mass, sigma) * np.exp(-E * t - (sigma * t) ** 2 / 2) * (E[1] - E[0])
    assert terms.sum() == pytest.approx(np.exp(-mass * t))
    there = (E > 0.10566) & (E < 2.53584)
    assert terms[there].sum() / terms.sum() == pytest.approx(share, rel=0.03)
