"""Draws of the prior pass, correlators that no spectral density or no prior makes are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.infer.assessment import judge
from sdpipe.infer.budget import LINEAR
from sdpipe.infer.typicality import (
    IMPOSSIBLE,
    KernelSpan,
    PriorOfData,
    Reference,
    chi2_p_value,
    nearest,
    rank_p_value,
)
from sdpipe.learn.linear import Moments
from sdpipe.physics import samples
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise, synthetic
from sdpipe.physics.spectra import ChebyshevPrior, o3

DATA = Path(__file__).parents[3] / "shared" / "data" / "etas-Ds.h5"
TIMES = tuple(range(1, 17))
E = tuple(np.linspace(0.2, 2.0, 5))
PRIOR = ChebyshevPrior(32)


def grid(period: int = 32, times: tuple[int, ...] = TIMES, kernel: str = "vector") -> Observables:
    return Observables(Kernel(kernel, period), times, (0.44,), E)


def correlator_of(spectrum, observables: Observables) -> np.ndarray:
    return observables.split(spectrum.integrals(observables))[0]


@pytest.fixture(scope="module")
def noise() -> Noise:
    return synthetic(TIMES, correlator_of(o3(), grid()), 1e-3, 0.0, 4.0)


def drawn(noise: Noise, observables: Observables, count: int, stream: str) -> np.ndarray:
    clean = samples.generate(PRIOR, observables, 1, 0, count, stream).correlator
    return noise.draw(clean, 1, np.random.default_rng(len(stream)))[:, 0]


@pytest.fixture(scope="module")
def prior(noise: Noise) -> PriorOfData:
    made = samples.generate(PRIOR, grid(), 1, 0, 8192)
    moments = Moments.of(made.correlator, made.smeared[:, 0], noise)
    return PriorOfData(moments.mean, moments.covariance, noise)


@pytest.fixture(scope="module")
def reference(prior: PriorOfData, noise: Noise) -> Reference:
    data = drawn(noise, grid(), 2000, "reference")
    return Reference(noise.scale(data), prior.distance(data), np.ones(2000))


def flag_rate(prior: PriorOfData, reference: Reference, data: np.ndarray) -> float:
    distances, scales = prior.distance(data), prior.noise.scale(data)
    values = [reference.p_value(s, d, 0.5) for s, d in zip(scales, distances, strict=True)]
    return float(np.mean(np.array(values) < 0.01))


def test_the_distance_is_the_mahalanobis_distance_with_the_noise_of_each() -> None:
    rng = np.random.default_rng(4)
    S, N = (a @ a.T for a in rng.standard_normal((2, 4, 4)))
    prior = PriorOfData(rng.standard_normal(4), S, Noise((1, 2, 3, 4), np.array([2.0, 1.0, 0.5, 0.3]), N, "random"))
    C = rng.standard_normal((20, 4))
    for c, d in zip(C, prior.distance(C), strict=True):
        inverse = np.linalg.inv(S + (c[0] / 2) ** 2 * N)
        assert d == pytest.approx((c - prior.mean) @ inverse @ (c - prior.mean), rel=1e-9)


def test_distances_of_gaussian_data_follow_chi_squared() -> None:
    rng = np.random.default_rng(5)
    unit = 10.0 ** -np.arange(0, 24, 2)
    S = 0.99 ** np.abs(np.subtract.outer(np.arange(12), np.arange(12))) * np.outer(unit, unit)
    noise = Noise(tuple(range(1, 13)), unit, 1e-6 * np.diag(unit**2), "noise")
    C = unit * (np.linalg.cholesky(S / np.outer(unit, unit)) @ rng.standard_normal((12, 4000))).T
    d2 = PriorOfData(np.zeros(12), S, noise).distance(noise.draw(C, 1, rng)[:, 0])
    assert d2.mean() == pytest.approx(12, rel=0.03)
    assert d2.var() == pytest.approx(24, rel=0.12)


def test_the_prior_raises_few_false_alarms(prior: PriorOfData, reference: Reference, noise: Noise) -> None:
    assert flag_rate(prior, reference, drawn(noise, grid(), 1000, "other draws")) <= 0.02


def test_o3_is_typical(prior: PriorOfData, reference: Reference, noise: Noise) -> None:
    C = np.stack([correlator_of(o3(threshold), grid()) for threshold in np.linspace(0.4, 1.2, 20)])
    data = noise.draw(C, 5, np.random.default_rng(3)).reshape(-1, len(TIMES))
    assert flag_rate(prior, reference, data) <= 0.02


@pytest.mark.parametrize("period", [24, 28])
def test_a_wrong_period_is_seen(noise: Noise, period: int) -> None:
    span = KernelSpan.of(Kernel("vector", 32), noise, 0.2)
    wrong = correlator_of(o3(0.5), grid(period))[None]
    right = noise.draw(correlator_of(o3(0.5), grid()), 1, np.random.default_rng(1))
    assert chi2_p_value(*span.check(wrong))[0] < IMPOSSIBLE < chi2_p_value(*span.check(right))[0]


def test_the_back_check_raises_few_false_alarms(noise: Noise) -> None:
    span = KernelSpan.of(Kernel("vector", 32), noise, 0.2)
    chi2, dof = span.check(drawn(noise, grid(), 2000, "back-check"))
    p = chi2_p_value(chi2, dof)
    assert np.mean(dof > 0) > 0.95
    assert np.mean(p < 0.01) <= 0.02
    assert np.mean(p[dof > 0] < 0.5) == pytest.approx(0.5, abs=0.06)


def test_an_oscillating_partner_is_seen_by_the_back_check(noise: Noise) -> None:
    span = KernelSpan.of(Kernel("vector", 32), noise, 0.2)
    C = correlator_of(o3(0.8), grid())
    oscillating = C * (1 + 0.05 * (-1.0) ** np.array(TIMES))
    assert chi2_p_value(*span.check(oscillating[None]))[0] < 1e-6


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA.name} is not there")
def test_real_data_etas_is_not_flagged_and_ds_is() -> None:
    times, kernel = tuple(range(1, 33)), Kernel("periodic", 64)
    observables = Observables(kernel, times, (0.3,), E)
    data = {name: sdpipe.read_correlator(DATA, name, period=64, times=(1, 32)) for name in ("etas", "Ds")}
    noise = Noise(times, data["etas"]["mean"].values, data["etas"].covariance.values, "etas")
    made = samples.generate(PRIOR, observables, 1, 0, 8192)
    moments = Moments.of(made.correlator, made.smeared[:, 0], noise)
    prior = PriorOfData(moments.mean, moments.covariance, noise)
    noisy = noise.draw(made.correlator[:2000], 1, np.random.default_rng(2))[:, 0]
    reference = Reference(noise.scale(noisy), prior.distance(noisy), np.ones(2000))
    span, typical = KernelSpan.of(kernel, noise, 0.2), float(np.median(np.abs(made.correlator[:, 0])))
    found = {}
    for name, values in data.items():
        C = values["mean"].values
        scale = prior.amplitude(C, typical)
        C = scale * C
        p = reference.p_value(float(noise.scale(C)), float(prior.distance(C[None])[0]), 0.5)
        own = KernelSpan.of(kernel, Noise(times, C, scale**2 * values.covariance.values, name), 0.2)
        checks = [chi2_p_value(*s.check(C[None]))[0] < IMPOSSIBLE for s in (span, own)]
        found[name] = p < 0.01, *map(bool, checks)
    assert found == {"etas": (False, False, False), "Ds": (True, True, True)}


def test_the_amplitude_does_not_depend_on_the_normalisation(prior: PriorOfData) -> None:
    C = correlator_of(o3(0.7), grid())
    typical = abs(C[0])
    assert prior.amplitude(1e6 * C, typical) * 1e6 == pytest.approx(prior.amplitude(C, typical), rel=1e-6)


def test_the_amplitude_of_prior_draws_is_near_one(prior: PriorOfData) -> None:
    clean = samples.generate(PRIOR, grid(), 1, 0, 200, "amplitude").correlator
    found = [prior.amplitude(c, abs(c[0])) for c in clean]
    assert 0.5 < np.median(found) < 2


def test_rank_p_values_are_uniform_for_exchangeable_values() -> None:
    rng = np.random.default_rng(6)
    values, scales = rng.standard_cauchy(2000), np.exp(rng.standard_normal(2000))
    p = [rank_p_value(v, s, values, scales) for v, s in zip(rng.standard_cauchy(2000), scales, strict=True)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(p) == pytest.approx(0.5, abs=0.03)


def test_nearest_is_in_ratio_and_whatever_the_sign() -> None:
    assert sorted(nearest(1.0, np.array([0.1, -0.9, 1.2, 10.0, 5.0, 0.2, 20.0, 0.01]))) == [1, 2]


def test_with_a_covariance_from_few_configurations_the_back_check_still_holds(noise: Noise) -> None:
    clean = correlator_of(o3(0.5), grid())
    rng, p = np.random.default_rng(11), []
    for _ in range(200):
        configurations = noise.draw(clean, 40, rng)
        own = Noise(noise.times, configurations.mean(axis=0), np.cov(configurations, rowvar=False) / 40, "own")
        chi2, dof = KernelSpan.of(Kernel("vector", 32), own, 0.2).check(own.mean[None])
        p.append(chi2_p_value(chi2, dof, 40)[0])
    assert np.mean(np.array(p) < IMPOSSIBLE) <= 0.01
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.12)


def judged(distance: float, spread: float, count: int = 800, rule: str = "given") -> tuple[float, list[str]]:
    """Judge a target against draws with distances and spreads around 1; those sized by evidence are 5 times as far."""
    rng = np.random.default_rng(5)
    around_one = rng.uniform(0.5, 1.5, (2, 2, 2 * count))
    dims = ("family", "sample")
    validation = xr.Dataset(
        {
            "noise_scale": (dims, np.ones((2, 2 * count))),
            "distance": (dims, around_one[0] * [[1.0], [5.0]]),
            "spread": (dims, around_one[1]),
            "tested": (dims, np.arange(4 * count).reshape(2, -1) % 2 == 1),
        }
    )
    values = spread * np.array([[1.0, -1.0], [1.0, -1.0], [0.0, 0.0]]).reshape(1, 3, 2, 1, 1)
    rho = xr.DataArray(
        values, dims=("sigma", "ensemble", "replica", "boot", "E"), coords={"ensemble": ["a", "b", LINEAR]}
    )
    attrs = {"flags": [], "scale": 1.0, "scale_rule": rule, "noise_scale": 1.0, "distance": distance}
    return judge(xr.Dataset({"rho": rho}, attrs=attrs), validation)


def test_a_target_is_flagged_for_its_distance_and_for_the_spread_of_the_networks() -> None:
    p_value, flags = judged(1.0, 1.0)
    assert p_value > 0.3
    assert flags == []
    for off in ((10.0, 1.0), (1.0, 10.0)):
        (flag,) = judged(*off)[1]
        assert flag.startswith("out of distribution: p <= 0.00995 that")
    assert judged(5.0, 1.0, rule="auto")[1] == []


def test_a_p_value_within_the_range_of_the_draws_is_printed_as_such() -> None:
    p_value, (flag,) = judged(1.497, 1.0, count=8000)
    assert 2 / 2001 < p_value < 0.01
    assert flag.startswith(f"out of distribution: p = {p_value:.3g} that")


def test_without_validation_only_the_data_speak_against_a_target() -> None:
    assert judge(xr.Dataset(attrs={"flags": ["noise: doubtful"]}), None) == (None, ["noise: doubtful"])
