"""Blocks of mock data: any block regenerates bit for bit, and the split is by sample."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.quadrature import nodes_and_weights
from sdpipe.physics.samples import generate, is_validation, noisy_copies
from sdpipe.physics.spectra import RNG_BLOCK, ChebyshevPrior

PRIOR = ChebyshevPrior(24)
GRID = Observables(Kernel("vector", 16), tuple(range(1, 9)), (0.44, 0.63), (0.3, 0.9, 1.7))
NOISE = synthetic(GRID.times, np.exp(-np.arange(8.0)), r1=1e-2, delta=0.1, tau=4.0)
N = 9 * RNG_BLOCK + 17


@pytest.fixture(scope="module")
def whole():
    return generate(PRIOR, GRID, 1, 0, N)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(1, N - 1), min_size=1, max_size=3, unique=True))
def test_samples_do_not_depend_on_block_boundaries(whole, cuts):
    """Bit for bit, also where a boundary cuts a random stream or leaves one sample alone."""
    edges = [0, *sorted(cuts), N]
    blocks = [generate(PRIOR, GRID, 1, low, high) for low, high in pairwise(edges)]
    for name in ("correlator", "smeared", "threshold"):
        assert np.array_equal(np.concatenate([getattr(b, name) for b in blocks]), getattr(whole, name)), name


def test_one_sample_alone_is_the_sample_it_is_among_others(whole):
    for i in (0, 1, RNG_BLOCK - 1, RNG_BLOCK, N - 1):
        alone = generate(PRIOR, GRID, 1, i, i + 1)
        assert np.array_equal(alone.correlator[0], whole.correlator[i])
        assert np.array_equal(alone.smeared[0], whole.smeared[i])


def test_samples_carry_the_grids(whole):
    assert whole.correlator.shape == (N, 8)
    assert whole.smeared.shape == (N, 2, 3)
    assert whole.threshold.shape == (N,)


def test_samples_are_the_integrals_of_the_drawn_densities(whole):
    c, E0 = PRIOR.draw(1, "generate", 0, 3)
    assert np.array_equal(whole.threshold[:3], E0)
    for i in range(3):
        omega, weights = (a.ravel() for a in nodes_and_weights(np.linspace(E0[i], 51, 101)))
        rho = PRIOR.rho(omega, c[i : i + 1], E0[i : i + 1])[0]
        C, smeared = GRID.split((weights * rho) @ GRID.columns(omega))
        assert whole.correlator[i] == pytest.approx(C, rel=1e-9, abs=1e-12)
        assert whole.smeared[i] == pytest.approx(smeared, abs=1e-10)


def test_seeds_and_streams_give_other_samples(whole):
    others = [generate(PRIOR, GRID, 2, 0, 5), generate(PRIOR, GRID, 1, 0, 5, stream="target")]
    for other in others:
        assert not np.isin(other.threshold, whole.threshold).any()


def test_the_split_is_disjoint_and_holds_one_sample_in_five():
    validation = is_validation(np.arange(1000))
    assert validation.dtype == bool
    assert validation.sum() == 200
    for first in range(0, 1000, 50):
        assert validation[first : first + 50].sum() == 10


def test_the_split_is_nested():
    large = is_validation(np.arange(5000))
    for n in (100, 1234):
        assert np.array_equal(is_validation(np.arange(n)), large[:n])
    assert is_validation(np.array([4, 5, 9])).tolist() == [large[4], large[5], large[9]]


def test_noisy_copies_do_not_depend_on_block_boundaries(whole):
    every = noisy_copies(whole.correlator, NOISE, 3, seed=1, Nb=24, start=0)
    assert every.shape == (N, 3, 8)
    for start, stop in ((0, RNG_BLOCK), (RNG_BLOCK, 4 * RNG_BLOCK), (8 * RNG_BLOCK, N)):
        part = noisy_copies(whole.correlator[start:stop], NOISE, 3, seed=1, Nb=24, start=start)
        assert np.array_equal(part, every[start:stop])


def test_noisy_copies_differ_between_samples_seeds_and_basis_sizes(whole):
    C = np.tile(whole.correlator[:1], (2 * RNG_BLOCK, 1))
    first = noisy_copies(C, NOISE, 2, seed=1, Nb=24, start=0)
    assert len(np.unique(first[:, :, 0])) > 0.99 * first[:, :, 0].size
    for seed, Nb, start in ((2, 24, 0), (1, 16, 0), (1, 24, 2 * RNG_BLOCK)):
        assert np.mean(noisy_copies(C, NOISE, 2, seed=seed, Nb=Nb, start=start) == first) < 0.01


def test_noisy_copies_have_the_covariance_of_the_lattice(whole):
    """Noise in units of its scale s = C(t_ref) / C_latt(t_ref), over all samples and copies."""
    noisy = noisy_copies(whole.correlator, NOISE, 20, seed=1, Nb=24, start=0)
    s = whole.correlator[:, 0] / NOISE.mean[0]
    error = np.sqrt(np.diag(NOISE.covariance))
    large = np.abs(s) > np.median(np.abs(s))
    deviation = ((noisy - whole.correlator[:, None]) / s[:, None, None] / error)[large].reshape(-1, 8)
    bound = 8 / np.sqrt(len(deviation))
    assert deviation.mean(axis=0) == pytest.approx(np.zeros(8), abs=bound)
    assert np.cov(deviation.T) == pytest.approx(NOISE.covariance / np.outer(error, error), abs=bound)
