"""A limit sigma -> 0 is held against separate levels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import sdpipe
from sdpipe.analysis.answers import Answer, answer
from sdpipe.analysis.discrete import against_limit
from sdpipe.physics import rng
from sdpipe.physics.smearing import GAUSSIAN
from sdpipe.show.flags import worded

if TYPE_CHECKING:
    from tests.fixtures import Finished

SIGMA, E = np.array([0.2, 0.25, 0.3]), np.linspace(0.2, 2.0, 37)


def answer_of(finished: Finished, masses: np.ndarray, amplitudes: np.ndarray, widths: float = 1.0) -> Answer:
    """Return what a run would say of such levels, with errors of 1 % of the largest value; sigma is ``widths`` wide."""
    s, x = np.repeat(widths * SIGMA, len(E)), np.tile(E, len(SIGMA))
    exact = GAUSSIAN(E[:, None], masses, widths * SIGMA[:, None, None]) @ amplitudes
    error = 0.01 * exact.max()
    V = error**2 * np.exp(-((x[:, None] - x) ** 2) / (2 * s.mean() ** 2) - np.abs(s[:, None] - s) / s.mean())
    V += 1e-4 * error**2 * np.eye(len(x))
    noise = np.linalg.cholesky(V) @ rng.generator(3, "discrete").standard_normal(len(x))
    parts = {"latt": V / 2, "unresolved": V / 2, "samples": np.zeros((2, *exact.shape))}
    values = {"central": exact + noise.reshape(exact.shape), "error": np.full(exact.shape, error)}
    return replace(answer(sdpipe.open_run(finished.root), "o3"), sigma=widths * SIGMA, E=E, **values, **parts)


def said(one: Answer) -> list[str]:
    return worded(against_limit(one))


def test_sigma_that_is_not_small_against_the_spacing_of_levels_is_said_to_be(finished: Finished) -> None:
    (words,) = said(answer_of(finished, np.array([0.5, 1.0, 1.5, 2.0]), np.array([0.4, 0.5, 0.4, 0.5])))
    assert "sigma = 0.2 to 0.3 is not small against their spacing" in words
    assert "levels at E = 0.5" in words


def test_sigma_that_is_small_against_the_spacing_is_said_to_be(finished: Finished) -> None:
    (words,) = said(answer_of(finished, np.array([0.5, 1.5]), np.array([0.4, 0.5]), 0.5))
    assert "sigma = 0.1 to 0.15 is small against their spacing, 1: masses and residues: run.levels" in words


def test_one_level_has_no_limit(finished: Finished) -> None:
    (words,) = said(answer_of(finished, np.array([0.9]), np.array([0.4])))
    assert "one level at E = 0." in words
    assert "no limit" in words


@pytest.mark.parametrize("spacing", [0.002, 0.15], ids=["smooth", "levels nearer than sigma"])
def test_a_density_that_is_smooth_over_sigma_has_its_limit(finished: Finished, spacing: float) -> None:
    masses = np.arange(0.4, 6, spacing)
    assert said(answer_of(finished, masses, np.full(len(masses), 0.5 * spacing))) == []


def test_limits_of_runs_carry_the_words(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    points = [{"a": a} for a in (0.3, 0.4, 0.5)]
    limit = sdpipe.combine([run] * 3, "o3", terms=("sigma2",), points=points, average=False)
    assert limit.attrs["says"] == run.extrapolate("o3").attrs["says"] == said(answer(run, "o3"))
    assert "says" not in sdpipe.combine([run] * 3, "o3", points=points, average=False).attrs
