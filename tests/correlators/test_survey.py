"""What is said of a correlator before anything is computed from it, on correlators whose states are known."""

from __future__ import annotations

import numpy as np
import pytest

from sdpipe.correlators.correlator import Correlator
from sdpipe.correlators.survey import Survey, effective_mass
from sdpipe.physics.kernels import Kernel

T, M, SPACING = 32, 0.35, 0.5


def correlator(kernel: Kernel, relative: float | np.ndarray = 1e-4, times=tuple(range(17))) -> Correlator:
    t = np.array(times, float)
    if kernel.parity < 0:
        times, t = times[1:-1], t[1:-1]
    C = kernel(t, M)
    return Correlator(times, C, np.diag((relative * np.abs(C)) ** 2), None, "", "x", {})


@pytest.mark.parametrize("name", ["periodic", "periodic-odd", "exponential", "vector"])
def test_a_single_state_has_its_mass_at_every_time(name: str) -> None:
    survey = Survey.from_correlator(correlator(Kernel(name, T, SPACING)), Kernel(name, T, SPACING))
    known = np.isfinite(survey.mass)
    assert known.sum() >= len(survey.mass) - 2
    assert survey.mass[known] == pytest.approx(M, rel=1e-9)
    assert survey.late_mass == pytest.approx(M, rel=1e-9)


@pytest.mark.parametrize("name", ["periodic", "exponential"])
def test_the_error_of_an_effective_mass_is_the_spread_that_noise_makes(name: str) -> None:
    kernel = Kernel(name, T, SPACING)
    one = correlator(kernel, 1e-3)
    drawn = np.random.default_rng(1).multivariate_normal(one.mean, one.covariance, 4000)
    masses = np.array([effective_mass(C, one.covariance, kernel)[0] for C in drawn])[:, 2:9]
    expected = effective_mass(one.mean, one.covariance, kernel)[1][2:9]
    assert np.nanstd(masses, axis=0) == pytest.approx(expected, rel=6 / np.sqrt(2 * 4000))


def test_usable_times_end_where_errors_grow() -> None:
    kernel = Kernel("exponential", T, SPACING)
    relative = np.where(np.arange(17) < 11, 0.01, 0.5)
    assert Survey.from_correlator(correlator(kernel, relative), kernel).usable(0.3) == (1, 10)
    assert Survey.from_correlator(correlator(kernel, 0.5), kernel).usable(0.3) is None


def test_a_prior_that_begins_elsewhere_than_the_data_is_doubtful() -> None:
    kernel = Kernel("periodic", T, SPACING)
    survey = Survey.from_correlator(correlator(kernel), kernel)
    assert survey.doubts((0.2, 1.3)) == []
    for E0 in ((0.4, 1.3), (0.05, 0.2)):
        (words,) = survey.doubts(E0)
        assert "falls to 0.35, " in words
        assert words.endswith("are lattice.spacing and spectra.E0 right?")
    assert Survey.from_correlator(correlator(kernel, 0.9), kernel).doubts((0.4, 1.3)) == []


def test_noise_has_no_late_mass() -> None:
    kernel = Kernel("exponential", T, SPACING)
    assert Survey.from_correlator(correlator(kernel, 0.9), kernel).late_mass is None


def test_the_error_with_few_configurations_is_that_of_the_jackknife() -> None:
    kernel, t = Kernel("exponential", T), np.arange(1, 25)
    C, errors, spread = np.exp(-0.3 * t), [], []
    for seed in range(60):
        # Each configuration has a size of its own, 20 %, which the ratio of neighbouring times does not see.
        g = np.random.default_rng(seed)
        samples = C * (1 + 0.2 * g.standard_normal((12, 1)) + 0.01 * g.standard_normal((12, len(t))))
        known = {"correlation_bin": 1, "independent": 12, "covariance": "diagonal"}
        covariance = np.diag(samples.var(axis=0, ddof=1)) / 12
        one = Correlator(tuple(t), samples.mean(axis=0), covariance, samples, "cfg", "x", known)
        survey = Survey.from_correlator(one, kernel)
        errors.append(survey.mass_error[:-1])
        spread.append(survey.mass[:-1])
    expected = np.std(spread, axis=0).mean()
    assert np.mean(errors) == pytest.approx(expected, rel=0.1)
    assert effective_mass(one.mean, one.covariance, kernel)[1][5] > 5 * expected
