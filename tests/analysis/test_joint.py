"""Several correlators of the same configurations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import sdpipe
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel

if TYPE_CHECKING:
    from pathlib import Path

    from sdpipe.run import Run
    from tests.fixtures import Finished

FEW = (
    "kernel=exponential",
    "lattice.first=1",
    "bin=1",
    "energies={min: 0.3, max: 1.4, count: 12}",
    "training.audience=none",
    "methods=[posterior]",
    "validation={samples: 60, levels: [0.683], families: {}, bootstrap: 2}",
    "bootstrap=100",
)


@pytest.fixture(scope="module")
def correlators() -> tuple[np.ndarray, np.ndarray]:
    """Two correlators (200, 12) of the same configurations, whose noise is common but for a tenth."""
    g = np.random.default_rng(5)
    t, kernel = np.arange(1, 13), Kernel("exponential", 64)
    mean = 0.8 * kernel(t, 0.6) + 0.5 * kernel(t, 1.2)
    noise = g.standard_normal((2, 200, 12))
    both = noise[0], noise[0] + 0.1 * noise[1]
    return tuple(mean * scale * (1 + 0.02 * x) for scale, x in zip((1.0, 2.0), both, strict=True))


@pytest.fixture(scope="module")
def three(correlators: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Three runs with three theta-function kernels: (E - omega)^l theta_sigma(E - omega), l = 0, 1, 2."""
    place = tmp_path_factory.mktemp("three")
    return [
        sdpipe.reconstruct(
            correlators[power % 2],
            *FEW,
            f"smearing={{kind: sigmoid, power: {power}, sigma: [0.2]}}",
            run=place / f"l{power}",
        )
        for power in range(3)
    ]


pytestmark = pytest.mark.filterwarnings("ignore:.*draws per family are too few")


def test_three_kernels_make_one_rate_with_the_covariance_between_them(three: list[Run]) -> None:
    together = sdpipe.joint(three)
    k = 6
    rate = together.of(lambda a, b, c: a[0, k] + 0.5 * b[0, k] - c[0, k])
    combined = sum(f * one.samples[:, 0, k] for f, one in zip((1, 0.5, -1), together.answers, strict=True))
    np.testing.assert_allclose(rate.error.sel(source="latt"), combined.std(), rtol=1e-9)
    alone = np.sqrt(
        sum((f * one.samples[:, 0, k].std()) ** 2 for f, one in zip((1, 0.5, -1), together.answers, strict=True))
    )
    assert abs(float(rate.error.sel(source="latt")) / alone - 1) > 0.02, "the noise is common, and it matters"
    unresolved = [f * np.sqrt(one.unresolved[k, k]) for f, one in zip((1, 0.5, -1), together.answers, strict=True)]
    np.testing.assert_allclose(rate.error.sel(source="unresolved"), np.linalg.norm(unresolved), rtol=1e-6)


def test_in_a_ratio_common_noise_falls_out(three: list[Run]) -> None:
    ratio = sdpipe.joint([three[0], three[0]]).of(lambda a, b: a[0] / b[0])
    np.testing.assert_allclose(ratio.central, 1)
    assert float(ratio.error.sel(source="latt").max()) < 1e-9


def test_a_function_of_sigma_and_energy_is_labelled_and_drawn(three: list[Run]) -> None:
    together, run = sdpipe.joint(three), three[0]
    found, flat = together.of(lambda a, b, c: a + b - c), together.of(lambda a, b, c: (a + b - c)[0])
    assert found.central.dims == ("sigma", "E")
    assert (flat.central.dims, found.covariance.dims) == (("number",), ("sigma", "E", "sigma2", "E2"))
    np.testing.assert_array_equal(found.E, run.config.energies.grid)
    np.testing.assert_array_equal(found.covariance.values[0, :, 0], flat.covariance)
    np.testing.assert_allclose(np.diag(flat.covariance), found.total.values[0] ** 2)
    ax = run.plot.joint(found, sigma=0.2)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), found.central.sel(sigma=0.2))
    assert next(text.get_text() for text in ax.get_legend().get_texts()) == "total error"
    run.plot.overlay(run.plot.reconstruction("array"), found, "rate", 0.2)
    with pytest.raises(UserError, match=r"needed: what Joint.of returns of a function \(sigma, E\)"):
        run.plot.joint(flat)
    with pytest.raises(UserError, match=r"no sigma = 0\.3; those there: 0\.2"):
        run.plot.joint(found, sigma=0.3)


def test_densities_at_other_energies_are_not_divided_by_each_other(three: list[Run]) -> None:
    together = sdpipe.joint(three[:2])
    first, second = together.answers
    moved = replace(together, answers=(first, replace(second, E=second.E + 0.1)))
    with pytest.raises(UserError, match="the runs differ in sigma or E, which this function compares; reconstruct all"):
        moved.of(lambda a, b: a / b)
    assert moved.of(lambda a, b: a[0, 0] / b[0, 0]).central.dims == ()


def test_samples_of_correlators_of_the_same_configurations_belong_together(three: list[Run]) -> None:
    one, other = (run.predictions["array"].correlator.isel(t=0).values for run in three[:2])
    assert np.corrcoef(one, other)[0, 1] > 0.98, "a tenth of the noise is not common"


def test_the_same_as_gvars_and_as_an_integral(three: list[Run]) -> None:
    gvar = pytest.importorskip("gvar")
    together = sdpipe.joint(three)
    V, A, P = together.to_gvar()
    total = together.integral(lambda E: E, lambda E: 0 * E + 1, lambda E: -(E**2))
    w = sdpipe.infer.integrals.quadrature_weights(together.answers[0].E)
    E = together.answers[0].E
    by_gvar = V[0] @ (w * E) + A[0] @ w - P[0] @ (w * E**2)
    np.testing.assert_allclose(gvar.mean(by_gvar), total.central.item(), rtol=1e-9)
    np.testing.assert_allclose(gvar.sdev(by_gvar), total.total.item(), rtol=1e-6)


def test_the_same_as_obs(three: list[Run]) -> None:
    pytest.importorskip("pyerrors")
    rho = sdpipe.joint(three[:2]).to_pyerrors("test of joint")
    difference = rho[0][0, 3] - rho[1][0, 3]
    difference.gamma_method()
    expected = sdpipe.joint(three[:2]).of(lambda a, b: a[0, 3] - b[0, 3])
    np.testing.assert_allclose([difference.value, difference.dvalue], [expected.central, expected.total], rtol=1e-6)


def test_what_differs_is_said(
    three: list[Run], finished: Finished, correlators: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    shorter = sdpipe.reconstruct(correlators[0][:150], *FEW, "smearing.sigma=[0.3]", run=tmp_path / "shorter")
    other_seed = sdpipe.reconstruct(correlators[0], *FEW, "seed=2", "smearing.sigma=[0.3]", run=tmp_path / "seed")
    for runs, words in (
        ([three[0], shorter], "not of the same samples: configurations 200 and 150"),
        ([three[0], other_seed], "not of the same samples: seed 1 and 2"),
        ([], "no runs are given"),
    ):
        with pytest.raises(UserError, match=words):
            sdpipe.joint(runs)
    with pytest.raises(UserError, match="o3 has no configurations"):
        sdpipe.joint([sdpipe.open_run(finished.root)], "o3")
    with pytest.raises(UserError, match="2 weights for 3 runs"):
        sdpipe.joint(three).integral(np.sin, np.cos)
    with pytest.raises(UserError, match="the function cannot be computed"):
        sdpipe.joint(three).of(lambda *rho: rho[0][7])
    with pytest.raises(UserError, match="not finite on every sample"):
        sdpipe.joint(three).of(lambda *rho: np.nan * rho[0])


def test_correlators_binned_by_their_own_autocorrelation_belong_together(tmp_path: Path) -> None:
    """The same noise in both, and in the second as much again, of long memory: bins differ, the joint errors hold."""
    g, t, kernel = np.random.default_rng(7), np.arange(1, 9), Kernel("exponential", 64)
    mean, memory = 0.8 * kernel(t, 0.6) + 0.5 * kernel(t, 1.2), np.exp(-1 / 6)
    white = g.standard_normal((2, 4000, 8))
    slow = np.zeros((4000, 8))
    for i in range(1, 4000):
        slow[i] = memory * slow[i - 1] + np.sqrt(1 - memory**2) * white[1, i]
    first, second = (mean * (1 + 0.02 * x) for x in (white[0] + slow, 0.3 * white[0] + slow))
    few = [key for key in FEW if not key.startswith("bin")]
    runs = [
        sdpipe.reconstruct(x, *few, "smearing.sigma=[0.3]", run=tmp_path / name)
        for x, name in ((first, "first"), (second, "second"))
    ]
    facts = [run.predictions["array"].correlator.attrs for run in runs]
    assert facts[0]["correlation_bin"] != facts[1]["correlation_bin"]
    together = sdpipe.joint(runs)
    for one, run in zip(together.answers, runs, strict=True):
        own = run.predictions["array"].estimator_rho.sel(estimator="posterior").std("boot").values
        np.testing.assert_allclose(one.samples.std(axis=0), own, rtol=0.3)
    kept = 1 if facts[0]["correlation_bin"] < facts[1]["correlation_bin"] else 0
    stored = runs[kept].predictions["array"].estimator_rho.sel(estimator="posterior").transpose("boot", "sigma", "E")
    np.testing.assert_array_equal(together.answers[kept].samples, stored.values)
    n = together.answers[0].central.size
    for k in (4, 8):
        V = together.latt
        found = V[k, n + k] / np.sqrt(V[k, k] * V[n + k, n + k])
        # variances of the means: white 1 and tau = 6 of memory 2 tau = 12; correlation of the two sums of them
        white_part, slow_part = 1.0, (1 + memory) / (1 - memory)
        expected = (0.3 * white_part + slow_part) / np.sqrt((white_part + slow_part) * (0.09 * white_part + slow_part))
        assert found == pytest.approx(expected, abs=0.05)


def test_targets_of_one_file_named_in_one_call_are_correlated(
    correlators: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    gvar, pyerrors = pytest.importorskip("gvar"), pytest.importorskip("pyerrors")
    for name, samples in zip("ab", correlators, strict=True):
        np.save(tmp_path / f"{name}.npy", samples)
    other = f"targets={{b: {{kind: correlator, path: {tmp_path}/b.npy, bin: 1}}}}"
    run = sdpipe.reconstruct(tmp_path / "a.npy", *FEW, other, run=tmp_path / "run")
    together = sdpipe.joint([run, run], ["a", "b"])
    differences = [y[0, 3] - 2 * x[0, 3] for x, y in (run.to_gvar("a", "b"), (run.to_gvar("a"), run.to_gvar("b")))]
    total = float(together.of(lambda x, y: y[0, 3] - 2 * x[0, 3]).total)
    assert gvar.sdev(differences[0]) == pytest.approx(total, rel=0.01)
    assert gvar.sdev(differences[0]) < gvar.sdev(differences[1])
    x, y = run.to_pyerrors("a", "b")
    one = y[0, 3] - 2 * x[0, 3]
    one.gamma_method()
    assert pyerrors.Obs is type(one)
    assert one.dvalue == pytest.approx(total, rel=0.01)
