"""Properties of the physics that hold for any input, tried on inputs that Hypothesis makes up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import sdpipe
from sdpipe.infer.budget import error_budget
from sdpipe.physics import noise
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.spectra import peaks

if TYPE_CHECKING:
    from tests.fixtures import Finished

GRID = Observables(Kernel("vector", 16, 1.0), (1, 2, 3, 4, 5), (0.44, 0.63), (0.2, 0.8, 1.4, 2.0))

masses = st.lists(st.floats(0.3, 3.0), min_size=1, max_size=4)
amplitude = st.floats(-5.0, 5.0)


def observed(amplitudes: list[float], at: list[float]) -> np.ndarray:
    """Return C(t) and rho_sigma(E) of a sum of peaks, side by side."""
    correlator, smeared = GRID.split(peaks(tuple(amplitudes), tuple(at)).integrals(GRID, None))
    return np.concatenate([np.ravel(correlator), np.ravel(smeared)])


@settings(max_examples=50, deadline=None)
@given(at=masses, a=amplitude, b=amplitude, data=st.data())
def test_kernel_and_smearing_are_linear(at: list[float], a: float, b: float, data: st.DataObject) -> None:
    x, y = (data.draw(st.lists(amplitude, min_size=len(at), max_size=len(at))) for _ in range(2))
    both = observed([a * p + b * q for p, q in zip(x, y, strict=True)], at)
    apart = a * observed(x, at) + b * observed(y, at)
    size = abs(a) * observed([abs(v) for v in x], at) + abs(b) * observed([abs(v) for v in y], at)
    assert np.all(np.abs(both - apart) <= 1e-12 * np.abs(size) + 1e-300)


@pytest.mark.filterwarnings("ignore:no spectral density explains the data")  # samples are any numbers
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 20))
def test_a_prediction_does_not_depend_on_the_unit_of_the_correlator(
    finished: Finished, seed: int, exponent: int
) -> None:
    """In sdpipe.predict, samples are brought to the scale of the training set and their prediction back."""
    run = sdpipe.open_run(finished.root)
    samples = 1 + np.random.default_rng(seed).random((4, len(run.config.lattice.slices)))
    scaled = sdpipe.predict(run, samples * 2.0**exponent)
    plain = sdpipe.predict(run, samples)
    assert scaled.scale == pytest.approx(plain.scale / 2.0**exponent, rel=1e-12)
    back = scaled.values / 2.0**exponent
    assert back == pytest.approx(plain.values, rel=1e-4, abs=1e-5 * float(abs(plain.values).max()))


def predictions(rng: np.random.Generator, replicas: int, boots: int) -> xr.DataArray:
    shape = (1, 2, replicas, boots, 3)
    spread = sum(rng.exponential() * rng.standard_normal(shape[:i] + (1,) * (5 - i)) for i in range(2, 6))
    return xr.DataArray(
        1 + np.broadcast_to(spread, shape),
        dims=("sigma", "ensemble", "replica", "boot", "E"),
        coords={
            "sigma": [0.44],
            "ensemble": np.array(["a", "b"], object),
            "replica": range(replicas),
            "boot": range(boots),
            "E": [0.2, 0.8, 1.4],
        },
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), replicas=st.integers(2, 6), boots=st.integers(2, 30))
def test_a_budget_is_symmetric_and_positive(seed: int, replicas: int, boots: int) -> None:
    rng = np.random.default_rng(seed)
    rho = predictions(rng, replicas, boots)
    budget = error_budget(rho, "a", {"b": "b"})
    mixed = rho.isel(replica=rng.permutation(replicas), boot=rng.permutation(boots))
    mixed = mixed.assign_coords(replica=rho.replica, boot=rho.boot)
    again = error_budget(mixed, "a", {"b": "b"})
    size = float(abs(rho).max())
    for name in ("central", "error", "total"):
        assert again[name].values == pytest.approx(budget[name].values, rel=1e-9, abs=1e-12 * size), name
    assert again.covariance.values == pytest.approx(budget.covariance.values, rel=1e-9, abs=1e-12 * size**2)
    assert bool((budget.error >= 0).all())
    assert bool((budget.total >= budget.error).all())
    covariance = budget.covariance.values[0]
    assert np.array_equal(covariance, covariance.T)
    eigenvalues = np.linalg.eigvalsh(covariance)
    assert eigenvalues.min() >= -1e-12 * eigenvalues.max()


@settings(max_examples=50, deadline=None)
@given(r1=st.floats(1e-6, 1.0), delta=st.floats(-0.3, 0.5), tau=st.floats(0.05, 50.0), n=st.integers(2, 24))
def test_a_synthetic_covariance_is_positive(r1: float, delta: float, tau: float, n: int) -> None:
    times = tuple(range(1, n + 1))
    covariance = noise.synthetic(times, np.exp(-0.5 * np.array(times)), r1, delta, tau).covariance
    errors = np.sqrt(np.diag(covariance))
    assert np.array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance / np.outer(errors, errors)).min() > 0
