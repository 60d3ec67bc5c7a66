"""Many networks at once against one at a time, and what an audience knows of its data."""

from itertools import product

import numpy as np
import pytest

from sdpipe.errors import UserError
from sdpipe.estimators import networks
from sdpipe.estimators.networks import Networks
from sdpipe.infer.predict import Measured, Predictor, reconstruct
from sdpipe.learn import architectures
from sdpipe.learn.trained import Network
from sdpipe.show.flags import worded
from tests.learn.test_trained import ENSEMBLES, REPLICAS, SIGMA, E, make_audience, make_network

TIMES = 6


@pytest.fixture
def members() -> list[Network]:
    """Three ensembles of two architectures, two sigma, two replicas."""
    grid = product(ENSEMBLES, range(2), range(REPLICAS))
    return [make_network(e, s, r, ENSEMBLES[e]) for e, s, r in grid]


@pytest.fixture
def correlators() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((9, TIMES))


def estimates(members: list[Network], correlators: np.ndarray):
    """What networks say of correlators."""
    return Networks(members, make_audience(), "Nmax").of_inputs(correlators)


def predictor_of(members: list[Network], central: str = "Nmax") -> Predictor:
    return Predictor(make_audience(), members, central, ["linear"])


def by_hand(n: Network, correlators: np.ndarray) -> np.ndarray:
    """offset + x @ weight + scale * network(x) with x = (C - mean) @ matrix, in float64."""
    x = (correlators - n.mean) @ n.matrix
    p = {k: v[None].astype(float) for k, v in n.parameters.items()}
    return n.offset + x @ n.weight + n.scale * architectures.forward(p, x[None])[0]


def test_every_network_gives_its_own_estimate(members, correlators):
    rho = estimates(members, correlators).rho
    assert rho.dims == ("sigma", "ensemble", "replica", "boot", "E")
    assert rho.shape == (2, 3, 2, 9, 4)
    for n in members:
        value = rho.sel(sigma=n.sigma, ensemble=n.ensemble, replica=n.replica).values
        assert value == pytest.approx(by_hand(n, correlators), rel=1e-4, abs=1e-4)


def test_all_networks_at_once_equal_one_at_a_time(members, correlators):
    rho = estimates(members, correlators).rho
    for ensemble in ENSEMBLES:
        for replica in range(REPLICAS):
            one = [n for n in members if (n.ensemble, n.replica) == (ensemble, replica)]
            alone = estimates(one, correlators).rho.values[:, 0, 0]
            together = rho.sel(ensemble=ensemble, replica=replica).values
            assert together == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_all_correlators_at_once_equal_one_at_a_time(members, correlators, monkeypatch):
    at_once = estimates(members, correlators).rho
    for boot in range(9):
        alone = estimates(members, correlators[boot : boot + 1]).rho
        assert at_once.values[:, :, :, boot] == pytest.approx(alone.values[:, :, :, 0], rel=1e-5, abs=1e-5)
    monkeypatch.setattr(networks, "PAIRS", 32)
    assert estimates(members, correlators).rho.values == pytest.approx(at_once.values, rel=1e-5, abs=1e-5)


def test_order_of_the_networks_is_irrelevant(members, correlators):
    rho = estimates(members, correlators).rho
    backwards = estimates(members[::-1], correlators).rho
    assert backwards.sel(ensemble=rho.ensemble).values == pytest.approx(rho.values, rel=1e-5, abs=1e-5)


def test_predictions_carry_the_grids_of_the_networks(members, correlators):
    rho = estimates(members, correlators).rho
    assert rho.sigma.values.tolist() == SIGMA
    assert rho.ensemble.values.tolist() == list(ENSEMBLES)
    assert rho.replica.values.tolist() == [0, 1]
    assert rho.boot.values.tolist() == list(range(9))
    assert rho.E.values.tolist() == E
    assert (rho.sigma.units, rho.E.units, rho.units) == ("1/a", "1/a", "1")


def test_missing_networks_are_refused_and_named(members, correlators):
    lacking = [n for n in members if (n.ensemble, n.sigma, n.replica) != ("Nref_n", 0.44, 1)]
    with pytest.raises(UserError, match=r"networks missing: Nref_n sigma=0\.44 replica 1$"):
        estimates(lacking, correlators)


@pytest.mark.parametrize("shape", [(9, 5), (9, 7), (6,)])
def test_correlators_at_other_times_are_refused(members, shape):
    with pytest.raises(UserError, match=r"the networks take \(boot, 6\), t = 1\.\.6"):
        predictor_of(members).predict(np.ones(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_correlators_that_are_not_finite_are_refused(members, correlators, bad):
    correlators[3, 2] = bad
    with pytest.raises(UserError, match="not finite"):
        predictor_of(members).predict(correlators)


def test_networks_and_estimators_are_apart(members, correlators):
    found = predictor_of(members, "Nref_n").predict(correlators)
    assert found.rho.ensemble.values.tolist() == list(ENSEMBLES)
    np.testing.assert_array_equal(found.rho, estimates(members, correlators).rho)
    assert found.estimator_rho.dims == ("estimator", "sigma", "boot", "E")
    s = make_audience().statistics
    expected = np.einsum("bt,tse->sbe", correlators - s.mean, s.linear_weight) + s.linear_offset[:, None]
    np.testing.assert_allclose(found.estimator_rho.sel(estimator="linear"), expected, rtol=1e-5, atol=1e-5)


def test_without_networks_the_estimators_answer_alone(correlators):
    found = predictor_of([], "linear").predict(correlators)
    assert "rho" not in found
    np.testing.assert_array_equal(found.estimator_rho, predictor_of([], "linear").predict(correlators).estimator_rho)
    assert predictor_of([], "linear").answered_by == "linear"


def test_several_samples_at_once_are_each_divided_by_their_own_scale(members, correlators):
    predictor, scale = predictor_of(members), np.array([1.0, -2.0, 50.0])
    together = predictor.predict(correlators.reshape(3, 3, TIMES), scale).rho
    assert together.dims == ("sigma", "ensemble", "replica", "sample", "boot", "E")
    for i, factor in enumerate(scale):
        alone = predictor.predict(correlators[3 * i : 3 * i + 3], factor).rho
        np.testing.assert_allclose(together.sel(sample=i), alone, rtol=1e-5, atol=1e-5)


def test_a_reconstruction_scales_its_data_and_scales_the_result_back(members, correlators):
    predictor, samples = predictor_of(members), correlators + 5
    given, auto = (
        reconstruct(predictor, samples, Measured(samples.mean(axis=0), flags=["doubtful"]), 3.0),
        reconstruct(predictor, samples),
    )
    assert (given.attrs["scale"], given.attrs["scale_rule"], auto.attrs["scale_rule"]) == (3.0, "given", "auto")
    assert auto.attrs["scale"] == predictor.amplitude(samples.mean(axis=0))
    assert given.attrs["flags"][0] == "doubtful"
    np.testing.assert_allclose(given.correlator, samples, rtol=1e-12)
    np.testing.assert_array_equal(given.rho, predictor.predict(3 * samples, 3.0).rho)
    scaled = reconstruct(predictor, 1e6 * samples)
    assert scaled.attrs["scale"] == pytest.approx(auto.attrs["scale"] / 1e6, rel=1e-9)
    np.testing.assert_allclose(scaled.rho, 1e6 * auto.rho, rtol=1e-4)
    assert scaled.attrs["distance"] == pytest.approx(auto.attrs["distance"], rel=1e-6)


def test_the_posterior_of_the_linear_estimator_has_the_noise_of_the_correlator(members, correlators):
    predictor = predictor_of(members)
    one, ten = (reconstruct(predictor, f * (correlators + 5), None, 1.0) for f in (1, 10))
    for made in (one, ten):
        s = predictor.audience.statistics
        V = np.einsum("tse,tu,usf->sef", s.linear_weight, predictor.noise.covariance, s.linear_weight)
        expected = s.linear_unresolved + made.attrs["noise_scale"] ** 2 * V
        covariance = made.estimator_covariance.sel(estimator="linear")
        np.testing.assert_allclose(covariance, expected)
        error = made.estimator_error.sel(estimator="linear")
        np.testing.assert_allclose(error, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)))
    assert ten.attrs["noise_scale"] == pytest.approx(10 * one.attrs["noise_scale"])


def test_noise_unlike_that_of_the_training_is_flagged_with_its_remedy(members, correlators):
    predictor = predictor_of(members)
    mean, noise = predictor.noise.mean, predictor.noise.covariance
    samples = mean + 0 * correlators
    plain = reconstruct(predictor, samples, Measured(mean, noise), 1.0)
    assert not any("remedy" in f for f in worded(plain.attrs["flags"], "the remedy"))
    louder = reconstruct(predictor, samples, Measured(mean, 9 * noise), 1.0)
    flags = worded(louder.attrs["flags"], "the remedy")
    assert flags[0].startswith("the variance of its noise is 9 times")
    assert flags[0].endswith("; the remedy")
