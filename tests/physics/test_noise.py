"""Lattice noise: its covariance, its scale, what it refuses, and the regularised covariances."""

import numpy as np
import pytest
from scipy import stats

from sdpipe.correlators.statistics import covariance_of_mean
from sdpipe.errors import UserError
from sdpipe.physics import rng
from sdpipe.physics.noise import Noise, ledoit_wolf, synthetic, treat

TIMES = (1, 2, 3, 4)
MEAN = np.array([2.0, 0.7, 0.3, 0.1])


def covariance(seed: int = 0, size: int = 4) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((size + 5, size)) * 10.0 ** -np.arange(size)
    return x.T @ x


def noise(cov: np.ndarray | None = None) -> Noise:
    return Noise(TIMES, MEAN, covariance() if cov is None else cov, "test.h5: mean")


def test_cholesky_factor_squares_to_the_covariance():
    L, cov = noise().cholesky, covariance()
    error = np.sqrt(np.diag(cov))
    assert np.array_equal(L, np.tril(L))
    assert L @ L.T / np.outer(error, error) == pytest.approx(cov / np.outer(error, error), abs=1e-14)


def test_noise_scales_with_the_correlator_at_t_ref():
    C = np.array([[4.0, 1, 1, 1], [-6.0, 0, 0, 0]])
    assert noise().scale(C).tolist() == [2.0, -3.0]
    late = Noise((3, 4), MEAN[2:], covariance()[2:, 2:], "late")
    assert late.scale(np.array([0.6, 5.0])) == pytest.approx(2.0)
    with_zero = Noise((0, 1), MEAN[:2], covariance()[:2, :2], "from t = 0")
    assert with_zero.scale(np.array([9.0, 1.4])) == pytest.approx(2.0)


def test_noisy_copies_scatter_around_the_correlator_with_the_scaled_covariance():
    C, count = np.array([6.0, 3.0, 2.0, 1.0]), 200_000
    draws = noise().draw(C, count, np.random.default_rng(1))
    cov = 9 * covariance()
    error = np.sqrt(np.diag(cov))
    assert draws.shape == (count, 4)
    assert (draws.mean(axis=0) - C) / error == pytest.approx(np.zeros(4), abs=5 / np.sqrt(count))
    normalised = np.cov(draws.T) / np.outer(error, error)
    assert normalised == pytest.approx(cov / np.outer(error, error), abs=8 / np.sqrt(count))


def test_each_correlator_of_a_block_has_noise_of_its_own_scale():
    C = np.array([[2.0, 1, 1, 1], [20.0, 1, 1, 1]])
    draws = noise().draw(C, 20_000, np.random.default_rng(2))
    assert draws.shape == (2, 20_000, 4)
    small, large = (draws - C[:, None]).std(axis=1)
    assert large == pytest.approx(10 * small, rel=0.05)
    assert np.abs(np.corrcoef(draws[0, :, 0], draws[1, :, 0])[0, 1]) < 0.04


def test_draws_are_a_function_of_the_generator():
    a, b, c = (noise().draw(MEAN, 3, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_normal_deviates_in_single_precision_are_normal_and_independent():
    z = rng.normals(rng.generator(1, "test"), (500_001, 2))
    assert z.shape == (500_001, 2)
    assert z.dtype == np.float32
    assert stats.kstest(z[:, 0], "norm").pvalue > 1e-3
    assert np.mean(np.abs(z) > 4) == pytest.approx(2 * stats.norm.sf(4), rel=0.5)
    both = np.array([[np.mean(a * b) for a in (z[:, 0], z[:, 0] ** 2 - 1)] for b in (z[:, 1], z[:, 1] ** 2 - 1)])
    assert np.abs(both).max() < 5 * 2 / np.sqrt(len(z))
    halves = np.array_split(z.ravel(), 2)  # radius times cosine and sine of one angle
    assert np.corrcoef(np.abs(halves[0][:500_000]), np.abs(halves[1][:500_000]))[0, 1] == pytest.approx(0, abs=0.007)


def asymmetric():
    cov = covariance()
    cov[0, 1] *= 1.001
    return cov


def indefinite():
    cov = covariance()
    cov[0, 1] = cov[1, 0] = 1.1 * np.sqrt(cov[0, 0] * cov[1, 1])
    return cov


def singular():
    x = np.random.default_rng(0).standard_normal((3, 4))
    return x.T @ x


def without_variance():
    cov = covariance()
    cov[:, 2] = cov[2, :] = 0
    return cov


@pytest.mark.parametrize(
    ("cov", "words"),
    [
        (asymmetric(), "not symmetric"),
        (indefinite(), "not positive definite"),
        (singular(), "not positive definite"),
        (without_variance(), "variance 0 at t = 3"),
        (covariance(size=5), "does not fit 4 times"),
        (covariance()[:, :3], "does not fit 4 times"),
    ],
)
def test_a_covariance_that_cannot_be_one_is_refused(cov, words):
    with pytest.raises(UserError, match=rf"test\.h5: mean: .*{words}"):
        noise(cov)


def test_a_mean_that_does_not_fit_or_vanishes_at_t_ref_is_refused():
    with pytest.raises(UserError, match="does not fit 4 times"):
        Noise(TIMES, MEAN[:3], covariance(), "x")
    with pytest.raises(UserError, match="C_latt is zero at t_ref = 1"):
        Noise(TIMES, MEAN * [0, 1, 1, 1], covariance(), "x")


def test_a_refused_covariance_names_its_remedies():
    with pytest.raises(UserError, match="shrink") as caught:
        noise(singular())
    assert "diagonal" in str(caught.value)


def test_errors_of_very_different_size_are_no_reason_to_refuse():
    scale = 10.0 ** -np.arange(0, 40, 10)
    cov = np.outer(scale, scale) * (0.3 + 0.7 * np.eye(4))
    L = noise(cov).cholesky
    assert (L @ L.T) / cov == pytest.approx(np.ones((4, 4)), rel=1e-12)


def test_fewer_samples_than_times_are_refused_unless_regularised():
    samples = np.random.default_rng(3).standard_normal((4, 4))
    cov = covariance_of_mean(samples)
    with pytest.raises(UserError, match="4 samples do not determine a covariance of 4 times") as caught:
        treat(cov, "full", "x", samples)
    assert "shrink" in str(caught.value)
    assert "diagonal" in str(caught.value)
    for treatment in ("shrink", "diagonal"):
        assert np.linalg.eigvalsh(treat(cov, treatment, "x", samples))[0] > 0
    enough = np.random.default_rng(3).standard_normal((5, 4))
    assert treat(covariance_of_mean(enough), "full", "x", enough) is not None


def test_shrinking_without_samples_is_refused():
    with pytest.raises(UserError, match=r"covariance: shrink needs samples"):
        treat(covariance(), "shrink", "x")


def test_full_leaves_the_covariance_and_diagonal_keeps_the_variances():
    cov = covariance()
    assert np.array_equal(treat(cov, "full", "x"), cov)
    assert np.array_equal(treat(cov, "diagonal", "x"), np.diag(np.diag(cov)))


def test_covariance_of_the_mean_is_that_of_a_sample_over_their_number():
    x = np.random.default_rng(4).standard_normal((7, 3))
    by_hand = sum(np.outer(r, r) for r in x - x.mean(axis=0)) / 6 / 7
    assert covariance_of_mean(x) == pytest.approx(by_hand, rel=1e-13)
    assert covariance_of_mean(x[:, :1]).shape == (1, 1)


def literal_ledoit_wolf(x):
    """Sums over samples and elements as they stand in the paper, eqs. (8) to (14)."""
    n, p = x.shape
    S = sum(np.outer(r, r) for r in x) / n
    m = np.trace(S) / p
    d2 = np.sum((S - m * np.eye(p)) ** 2) / p
    b2 = sum(np.sum((np.outer(r, r) - S) ** 2) / p for r in x) / n**2
    return min(b2, d2) / d2


@pytest.mark.parametrize(("n", "p"), [(3, 8), (10, 4), (200, 5)])
def test_ledoit_wolf_intensity_is_that_of_the_paper(n, p):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, p)) @ rng.standard_normal((p, p))
    x -= x.mean(axis=0)
    assert ledoit_wolf(x, np.eye(p)) == pytest.approx(literal_ledoit_wolf(x), rel=1e-10)
    assert 0 <= ledoit_wolf(x, np.eye(p)) <= 1


def test_ledoit_wolf_shrinks_all_the_way_where_there_is_nothing_but_noise():
    assert ledoit_wolf(np.random.default_rng(5).standard_normal((100, 20)), np.eye(20)) > 0.7


def test_ledoit_wolf_intensity_vanishes_with_many_samples():
    root = np.linalg.cholesky(0.2 * np.eye(4) + 0.8)
    x = np.random.default_rng(6).standard_normal((100_000, 4)) @ root.T
    few, many = ledoit_wolf(x[:100], np.eye(4)), ledoit_wolf(x, np.eye(4))
    assert 10 * many < few < 0.2
    assert many < 1e-3


def correlated(count, reach, seed, size=30):
    """Configurations (count, size) of noise that is correlated over ``reach`` times."""
    t = np.arange(size)
    root = np.linalg.cholesky(np.exp(-np.abs(t[:, None] - t) / reach))
    return np.random.default_rng(seed).standard_normal((count, size)) @ root.T


def test_few_samples_have_a_positive_definite_covariance_near_the_true_one():
    t = np.arange(12)
    samples = correlated(6, 6, 7, 12) * 10.0**-t
    cov = covariance_of_mean(samples)
    shrunk = treat(cov, "shrink", "x", samples)
    Noise(tuple(range(1, 13)), 1.0 + 0 * t, shrunk, "x")
    with pytest.raises(UserError, match="not positive definite"):
        Noise(tuple(range(1, 13)), 1.0 + 0 * t, cov, "x")
    error = np.sqrt(np.diag(shrunk))
    assert np.log(error / np.sqrt(np.diag(cov))) == pytest.approx(np.zeros(12), abs=0.7)
    R = shrunk / np.outer(error, error)
    assert np.diag(R, 1).mean() == pytest.approx(np.exp(-1 / 6), abs=0.25)


@pytest.mark.parametrize("count", [10, 15, 30])
@pytest.mark.parametrize("reach", [1, 5, 15])
def test_the_error_of_a_fit_to_few_samples_holds(count, reach):
    design, pulls, of_diagonal = np.stack([np.ones(30), np.linspace(-0.5, 0.5, 30)], axis=1), [], []
    for seed in range(120):
        samples = 3 + correlated(count, reach, seed)
        cov = covariance_of_mean(samples)
        for treatment, found in (("shrink", pulls), ("diagonal", of_diagonal)):
            weighted = np.linalg.solve(treat(cov, treatment, "x", samples), design)
            error = np.linalg.inv(design.T @ weighted)
            found.append((error @ weighted.T @ (samples.mean(axis=0) - 3))[0] / np.sqrt(error[0, 0]))
    assert np.mean(np.abs(pulls) < 1) > 0.5
    assert np.mean(np.abs(pulls) < 2) > 0.78
    assert np.mean(np.abs(of_diagonal) < 1) < 0.65


def test_many_samples_keep_their_errors_and_their_correlation():
    samples = correlated(20_000, 3, 5, 8) * np.array([1.0, 3, 1, 1, 5, 1, 1, 2])
    cov = covariance_of_mean(samples)
    shrunk = treat(cov, "shrink", "x", samples)
    error = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert shrunk / error == pytest.approx(cov / error, abs=0.02)


def test_synthetic_noise_has_the_stated_errors_and_correlation():
    mean, r1, delta, tau = np.array([3.0, -1.0, 0.5]), 1e-3, 0.2, 5.0
    times = (1, 3, 6)
    made = synthetic(times, mean, r1, delta, tau)
    for i, t in enumerate(times):
        for j, u in enumerate(times):
            errors = r1 * np.exp(delta * (t - 1)) * abs(mean[i]) * r1 * np.exp(delta * (u - 1)) * abs(mean[j])
            assert made.covariance[i, j] == pytest.approx(errors * np.exp(-abs(t - u) / tau), rel=1e-13)
    assert made.times == times
    assert np.array_equal(made.mean, mean)


def test_a_floor_adds_independent_noise_relative_to_the_correlator():
    """Also where C(t) falls much more slowly than the C_latt to which the noise belongs."""
    C, count, floor = np.array([[4.0, 3.0, 2.0, 1.5], [-2.0, 1.0, 5.0, 0.0]]), 200_000, 0.5
    made = Noise(TIMES, MEAN, covariance(), "x", floor=floor)
    draws = made.draw(C, count, np.random.default_rng(6))
    assert draws.shape == (2, count, 4)
    for c, d in zip(C, draws, strict=True):
        cov = made.scale(c) ** 2 * covariance() + np.diag((floor * c) ** 2)
        error = np.sqrt(np.diag(cov))
        assert (d.mean(axis=0) - c) / error == pytest.approx(np.zeros(4), abs=5 / np.sqrt(count))
        assert np.cov(d.T) / np.outer(error, error) == pytest.approx(
            cov / np.outer(error, error), abs=8 / np.sqrt(count)
        )


def test_without_a_floor_noise_is_as_it_was():
    """One deviate a time: C + s L z, in this order."""
    C, z = np.array([[4.0, 3.0, 2.0, 1.5]]), np.random.default_rng(7).standard_normal((1, 5, 4))
    assert noise().deviates == 4
    assert np.array_equal(noise().added(C, z)[0], (z[0] @ noise().cholesky.T) * 2.0 + C)
    assert Noise(TIMES, MEAN, covariance(), "x", floor=1e-6).deviates == 8


def test_a_correlator_is_like_the_data_whatever_its_size_and_where_noise_hides_it() -> None:
    times = tuple(range(1, 9))
    mean = np.exp(-1.5 * np.array(times))
    noise = Noise(times, mean, np.diag((1e-2 * mean) ** 2), "example")
    falls = np.exp(-0.5 * np.array(times)) * mean
    np.testing.assert_allclose(noise.unlike(np.stack([mean, 7 * mean])), 0, atol=1e-12)
    assert noise.unlike(-mean[None])[0] == pytest.approx(np.log(101), rel=1e-6)
    assert noise.unlike(falls[None])[0] == pytest.approx(0.5 * 7, rel=0.1)
    hidden = Noise(times, mean, np.diag((100 * mean) ** 2), "example")
    assert hidden.unlike(falls[None])[0] < 0.02
    wrong = mean * np.where(np.array(times) == 5, -1, 1)
    assert noise.unlike(wrong[None])[0] == pytest.approx(np.log(101), rel=1e-6)
