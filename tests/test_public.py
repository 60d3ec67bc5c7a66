"""``python -m benchmarks public``: its suites, its scores, and peers that cannot be had or that raise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer_methods, peers, public
from sdpipe.physics.kernels import Observables
from sdpipe.physics.spectra import Spectrum


@pytest.fixture(scope="module")
def group() -> public.Group:
    """Return one correlator of suite V."""
    return next(public.vector(1))


def test_suite_a_is_that_of_the_thermal_spectrum():
    """The correlator and the smeared density of its second spectrum are those of adaptive quadrature."""
    made, beta = next(public.actest()), 20.0

    def rho(omega: np.ndarray) -> np.ndarray:
        both = np.exp(-((omega + 2) ** 2) / 2 / 0.8**2) + np.exp(-((omega - 2) ** 2) / 2 / 0.8**2)
        return omega * both / -np.expm1(-beta * omega) / (0.8 * np.sqrt(2 * np.pi))

    grid: Observables = made.grid
    C, truth = grid.split(Spectrum(continuum=rho, threshold=1e-9).integrals(grid, 8.0))
    pulls = (made.samples[1].mean(axis=0) - C) / (1e-4 * C)
    assert np.abs(made.truth[1] - truth[0]).max() < 1e-6
    assert np.abs(pulls).max() < 4
    assert made.truth.shape == (40, 6)


def test_scores_of_what_is_known():
    """Errors of 10 % inside and outside their intervals, and one correlator that failed."""
    truth, half = np.ones((3, 2)), np.array([[0.05], [0.2]])
    central = np.array([[1.1, 0.9], [1.0, 1.0], [np.nan, np.nan]])
    low, high = (central[:, None] + sign * half for sign in (-1, 1))
    made = public.Made(central, low, high, np.array([1.0, 3.0, 9.0]), np.zeros(3), np.array(["", "", "it failed"]))
    found = made.scores(truth)
    assert found.pop("f") == pytest.approx(0.95)
    assert found.pop("solved") == found.pop("seconds") == 2
    assert found.pop("seconds before") == 0
    covered = {"coverage at 68.3 %": 0.5, "coverage at 95.4 %": 1.0}
    assert found == pytest.approx({"Err_sigma": 0.05, "median of Err": 0.05, "half width": 0.05} | covered)


def test_a_peer_that_cannot_be_installed_says_why_and_the_next_is_asked(group, tmp_path, monkeypatch):
    """No network, and a version that there is not."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setitem(peers.INSTALL, "fredipy", (("fredipy==99.0",),))
    monkeypatch.setattr(public, "METHODS", {"fredipy": ("",), "ana-cont": ("",)})
    there = {"method": np.array([""]), "central": np.ones((1, 1, 4)), "error": np.full((1, 1, 4), np.nan)}
    there |= {"seconds": np.ones(1), "why": np.array([""])}
    monkeypatch.setattr(public, "ask", lambda peer, *rest: there if peer == "ana-cont" else peers.ask(peer, *rest))
    made = public.theirs(group, tmp_path)
    assert made["fredipy"].why[0] == "ERROR: No matching distribution found for fredipy==99.0"
    assert made["fredipy"].scores(group.truth) == {"solved": 0}
    assert set(made["ana-cont"].scores(group.truth)) == {
        "solved",
        "Err_sigma",
        "median of Err",
        "f",
        "seconds",
        "seconds before",
    }


def test_a_peer_that_raises_says_what_and_the_next_correlator_is_tried(group, monkeypatch):
    """The first of two correlators raises."""

    def fragile(samples: np.ndarray, _: dict) -> peer_methods.Answer:
        if samples[0, 0] < 0:
            raise ValueError("C(t) is\nnegative")
        return {"": (np.ones(4), np.ones(4))}

    monkeypatch.setitem(peer_methods.PEERS, "fredipy", fragile)
    samples = np.concatenate([-group.samples, group.samples])
    answer = peer_methods.answers("fredipy", group.question | {"samples": samples})
    assert answer["why"].tolist() == ["ValueError: C(t) is negative", ""]
    assert np.isnan(answer["central"][0]).all()
    assert (answer["central"][1] == 1).all()


def test_a_peer_of_two_methods_that_raises_on_the_only_correlator_fails_by_both(group, tmp_path, monkeypatch):
    """So that the correlators of another group have the same methods."""

    def fails(*_: object) -> peer_methods.Answer:
        raise ValueError("no plateau")

    monkeypatch.setitem(peer_methods.PEERS, "lsdensities", fails)
    monkeypatch.setattr(public, "METHODS", {"lsdensities": peers.METHODS["lsdensities"]})
    monkeypatch.setattr(public, "ask", lambda peer, question, _: peer_methods.answers(peer, question))
    made = public.theirs(group, tmp_path)
    assert set(made) == {"lsdensities, plateau", "lsdensities, likelihood"}
    assert all(one.scores(group.truth) == {"solved": 0} for one in made.values())
    assert {one.why[0] for one in made.values()} == {"ValueError: no plateau"}


def test_a_correlator_that_could_not_be_judged_is_tried_again_on_the_same_run(group, tmp_path, monkeypatch):
    """Where each correlator has a run of its own, that run stays until the correlator is done."""
    monkeypatch.setattr(
        public, "_reconstructed", lambda _, place, __: place.mkdir(exist_ok=True) or {"seconds": np.array(1.0)}
    )

    def judged(place: Path, _: np.ndarray) -> dict[str, np.ndarray]:
        assert place.is_dir()
        raise RuntimeError("interrupted")

    monkeypatch.setattr(public, "_judged", judged)
    for _ in range(2):
        (found,) = public._shipped(group, tmp_path)
        assert str(found["why"]) == "RuntimeError: interrupted"
    assert [path.is_dir() for path in tmp_path.iterdir()] == [True]


def test_a_correlator_that_sdpipe_cannot_do_says_why(group, tmp_path, monkeypatch):
    """Its training raises: every method of it fails, and says so."""

    def fails(*_: object) -> None:
        raise RuntimeError("no such\nthing")

    monkeypatch.setattr(public, "_trained", fails)
    monkeypatch.setattr(public, "_reconstructed", fails)
    made = public.ours(group, tmp_path)
    assert {one.why[0] for one in made.values()} == {"RuntimeError: no such thing"}
    assert all(one.scores(group.truth) == {"solved": 0} for one in made.values())
