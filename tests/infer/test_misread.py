"""Data that were misread or are damaged are named by what the nearest rho >= 0 makes of them; right ones are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sdpipe.correlators.statistics import covariance_of_bootstrap, covariance_of_mean
from sdpipe.infer.misread import misread
from sdpipe.physics.kernels import Kernel
from sdpipe.physics.noise import FLOOR, Noise
from sdpipe.show.flags import words

KERNEL, TIMES, N = Kernel("periodic", 32), tuple(range(1, 17)), 120
C = KERNEL(np.array(TIMES)[:, None], np.array([0.3, 0.7, 1.4])) @ np.array([1.0, 0.8, 2.0])
CONFIGURATIONS = {"resampling": "configurations", "configurations": N, "covariance": "full"}
TABLE = {"resampling": "none", "error_of": "mean", "covariance": "diagonal"}


def configurations(seed: int, memory: float = 5.0) -> np.ndarray:
    """Return C with 10 % of noise that is correlated over so many times."""
    noise = np.exp(-np.abs(np.subtract.outer(TIMES, TIMES)) / memory)
    return C * (1 + 0.1 * np.random.default_rng(seed).multivariate_normal(np.zeros(len(C)), noise, N))


def found(mean: np.ndarray, covariance: np.ndarray, facts: dict[str, Any], count: int | None = None) -> list[Any]:
    return misread(KERNEL, Noise(TIMES, mean, covariance, "test", floor=FLOOR), mean, facts, count)


def as_configurations(x: np.ndarray) -> list[Any]:
    facts = CONFIGURATIONS | {"configurations": len(x)}
    return found(x.mean(axis=0), covariance_of_mean(x), facts, len(x))


def table(x: np.ndarray, factor: float = 1.0) -> list[Any]:
    return found(x.mean(axis=0), factor * np.diag(np.diag(covariance_of_mean(x))), TABLE)


def test_right_files_of_correlated_times_are_not_doubted() -> None:
    """Of tables of their errors, whose chi2 is then small, one in a hundred is: those correlated over all times."""
    every = [configurations(seed, memory=1 + seed % 15) for seed in range(60)]
    assert [flag for x in every for flag in as_configurations(x)] == []
    assert sum(bool(table(x)) for x in every) <= 1


def test_errors_of_one_configuration_in_place_of_those_of_the_mean_are_told() -> None:
    flags = [table(configurations(seed), N) for seed in range(20)]
    assert sum(map(bool, flags)) >= 18
    assert "are they errors of one configuration? Then error=sample" in words(next(f for f in flags if f)[0])
    x = configurations(0)
    several = found(x.mean(axis=0), N * np.diag(np.diag(covariance_of_mean(x))), TABLE | {"resampling": "bootstrap"})
    assert several == []


@pytest.mark.parametrize("kind", ["jackknife", "bootstrap"])
def test_samples_that_are_no_configurations_are_told_with_their_kind(kind: str) -> None:
    for seed in range(10):
        x, g = configurations(seed), np.random.default_rng(seed)
        drawn = [(x.sum(axis=0) - row) / (N - 1) for row in x]
        if kind == "bootstrap":
            drawn = [x[g.integers(N, size=N)].mean(axis=0) for _ in range(500)]
        (flag,) = as_configurations(np.array(drawn))
        assert flag.facts["kind"] == kind
        right = np.sqrt(np.diag(covariance_of_mean(x) if kind == "jackknife" else covariance_of_bootstrap(drawn))[0])
        read = np.sqrt(covariance_of_mean(np.array(drawn))[0, 0])
        assert flag.facts["larger"] == pytest.approx(right / read)
        assert f"resampling={kind}" in words(flag)


@pytest.mark.parametrize("at", [2, 4, 11])
def test_one_slice_that_is_off_is_named(at: int) -> None:
    for seed in range(5):
        x = configurations(seed)
        x[:, at] += 12 * np.sqrt(covariance_of_mean(x)[at, at])
        (flag,) = as_configurations(x)
        assert (flag.code, flag.facts["t"]) == ("one_time", [TIMES[at]])
        assert f"t = {TIMES[at]} is off by " in words(flag)


def test_a_second_slice_that_is_off_is_not_told_from_the_first() -> None:
    """A state that is heavy enough is seen at the first alone."""
    x = configurations(1)
    x[:, 1] += 12 * np.sqrt(covariance_of_mean(x)[1, 1])
    (flag,) = as_configurations(x)
    assert flag.facts["t"] == [1, 2]
    assert words(flag).startswith("t = 1 or 2 is off by ")


def test_a_kernel_that_is_wrong_everywhere_blames_no_single_time() -> None:
    x = configurations(1) * (1 + 0.3 * (-1.0) ** np.array(TIMES))
    assert as_configurations(x) == []


@pytest.mark.parametrize("at", [0, 1, 5])
def test_first_times_are_not_blamed_where_a_density_of_either_sign_explains_them(at: int) -> None:
    """An improved action has heavy states of negative weight: t = 1 is below every rho >= 0."""
    x = configurations(3)
    x[:, at] *= 0.5
    facts, noise = CONFIGURATIONS, Noise(TIMES, x.mean(axis=0), covariance_of_mean(x), "test", floor=FLOOR)
    either, positive = (misread(KERNEL, noise, noise.mean, facts, N, signed) for signed in (True, False))
    assert positive[0].code == "one_time"
    assert either == ([] if at < 2 else positive)


def test_nothing_is_said_where_rho_is_of_either_sign() -> None:
    x = configurations(2)
    x[:, 4] += 12 * np.sqrt(covariance_of_mean(x)[4, 4])
    assert found(x.mean(axis=0), covariance_of_mean(x), CONFIGURATIONS | {"component": [0, 1]}) == []
