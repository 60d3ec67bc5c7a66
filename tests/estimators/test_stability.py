"""The scan over lambda that is kept of a target: that of HLT, with the floor of the noise, in the units of the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdpipe.estimators.hlt import kept, stability
from sdpipe.estimators.hlt_lambda import ALPHAS
from sdpipe.estimators.hlt_solution import HLT
from tests.estimators.test_hlt import data, grid_of


def test_it_is_the_scan_of_each_alpha_and_marks_the_evidence() -> None:
    grid = grid_of(sigma=(0.44, 0.63))
    noise, C, rho = data(grid)
    floored = replace(noise, floor=1e-5)
    hlts = [HLT.for_noise(grid, floored, 0.2, alpha) for alpha in ALPHAS]
    found = stability(hlts, 3 * C, [0, 2], factor=3.0)
    assert list(found.E_scan.values) == [grid.energies[0], grid.energies[2]]
    for alpha in ALPHAS:
        expected = HLT.for_noise(grid, floored.at_scale(C), 0.2, alpha).scan(C)
        one = found.sel(alpha=alpha)
        np.testing.assert_allclose(one.scan_mean, expected.mean[:, [0, 2]], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(one.scan_error, expected.error[:, [0, 2]], rtol=1e-6)
        np.testing.assert_allclose(one.scan_misfit, expected.misfit[:, [0, 2]], rtol=1e-5, atol=1e-12)
    at_best = np.abs(np.log(found["lambda"] / found.scan_chosen.sel(alpha=0.0))).argmin("lambda")
    near = found.sel(alpha=0.0).isel({"lambda": at_best})
    quoted = hlts[0].floored(C)(C)
    np.testing.assert_allclose(near.scan_mean, quoted.mean[:, [0, 2]], atol=0.2 * quoted.error.max())
    assert (np.abs(quoted.mean - rho) < 3 * quoted.error).all()


@pytest.mark.parametrize("count", [2, 3, 8, 47])
def test_kept_energies_are_inside_the_grid(count) -> None:
    rows = kept(count)
    assert len(set(rows)) == 2
    assert 0 <= min(rows) <= max(rows) < count
