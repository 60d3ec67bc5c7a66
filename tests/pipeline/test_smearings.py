"""Runs with other smearings and kernels: from the config through training to the report, and what is refused before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.physics import smearing
from sdpipe.physics.smearing import Cauchy, Function, HalfNorm, Sigmoid, Sinh, Smearing, Tail, Tau

SMALL = (
    "energies={min: 0.4, max: 1.6, count: 4}",
    "spectra={Nb: [16], Nrho: 600, mixture: {chebyshev: 1, levels: 1}}",
    "ensembles={Nmax: {Nb: 16, Nrho: 600, network: arcS}}",
    "budget={central: Nmax, references: {}}",
    "validation={samples: 60, bootstrap: 4, levels: [0.683], families: {peaks: {kind: peaks}}}",
    "targets={peaks: {kind: peaks, amplitudes: [0.5, 0.25], masses: [0.7, 1.4]}}",
)
MINE = Function(lambda E, omega, s: omega**2 * np.exp(-omega / s) * np.cos(E), Tail(1 / 0.3, 2.0))
CASES: dict[str, tuple[Smearing, str, str, list[str]]] = {
    "halfnorm": (HalfNorm(), "kind: halfnorm", "1", []),
    "cauchy-im": (Cauchy("im"), "kind: cauchy", "1", []),
    "cauchy-re": (Cauchy("re"), "kind: cauchy, part: re", "1", ["spectra.omega_max=5"]),
    "sigmoid": (Sigmoid(2), "kind: sigmoid, power: 2", "1/a^3", []),
    "tau": (Tau("L", -1, "erf"), "kind: tau, part: L, power: -1, step: erf", "1/a", []),
    "sinh": (Sinh(), "kind: sinh", "1", ["kernel=thermal"]),
    "own": (MINE, "kind: own, name: mine", "1", []),
}


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(smearing.OWN, "mine", MINE)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("name", CASES)
def test_a_run_with_another_smearing(cli, tiny_config: Path, name: str) -> None:
    f, keys, units, more = CASES[name]
    bounds = name in ("halfnorm", "tau", "sinh", "own")
    methods = f"methods=[linear, posterior, hlt{', bounds' if bounds else ''}]"
    root = tiny_config.parent / "run"
    outcome = cli("run", tiny_config, *SMALL, f"smearing={{{keys}, sigma: [0.2, 0.3]}}", *more, methods, "--run", root)
    assert outcome.status == 0, outcome.err
    run = sdpipe.open_run(root)
    training, budget = run.training.load(), run.budget["peaks"].load()
    E, sigma = budget.E.values, budget.sigma.values[:, None]
    exact = sum(A * f(E, M, sigma) for A, M in ((0.5, 0.7), (0.25, 1.4)))
    np.testing.assert_allclose(budget.truth, exact, rtol=1e-9, atol=1e-12)
    pull = (budget.estimator_central - budget.truth) / budget.estimator_error
    assert (np.abs(pull.sel(estimator=["posterior", "hlt"])) < 4).all()
    spread = (training.smeared - training.smeared.mean("sample")).std("sample").isel(Nb=0)
    assert (np.abs(budget.central - budget.truth) < 2 * spread).all()
    if bounds:
        assert ((budget.lower < budget.truth) & (budget.truth < budget.upper)).all()
    assert {training.smeared.units, budget.central.units, budget.total.units, run.validation.truth.units} == {units}
    said = keys.removeprefix("kind: ").replace(": ", " ")
    assert f"{said}, " in run.layout.report.read_text()
    again = run.predictions["peaks"].rho
    xr.testing.assert_allclose(sdpipe.predict(run, run.predictions["peaks"].correlator, scale=1.0), again)
    assert cli("run", root).status == 0


def test_workers_know_a_function_of_ones_own_from_the_file_that_was_started(shell, tiny_config: Path) -> None:
    (tiny_config.parent / "mine.py").write_text(
        "import numpy as np\n"
        "from sdpipe.__main__ import main\n"
        "from sdpipe.physics.smearing import OWN, Function, Tail\n"
        "OWN['window'] = Function(lambda E, w, s: np.exp(-((w - E) / s) ** 4), Tail(np.inf))\n"
        "if __name__ == '__main__': raise SystemExit(main())\n"
    )
    keys = [*SMALL, "smearing={kind: own, name: window, sigma: [0.4]}", "--run", "run", "-q"]
    assert shell("mine.py", "generate", "tiny.yaml", *keys, cwd=tiny_config.parent).status == 0
    assert "window" in (tiny_config.parent / "run/config.yaml").read_text()
    outcome = shell("-m", "sdpipe", "status", "run", cwd=tiny_config.parent)
    assert "there is no smearing window of your own; allowed: none, put it into" in outcome.fault


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        (["smearing={kind: box, sigma: [0.4]}"], "smearing.kind", "must be one of 'gaussian', 'halfnorm', 'cauchy',"),
        (["smearing={kind: gaussian, power: 2, sigma: [0.4]}"], "smearing.power", "unknown key"),
        (["smearing={kind: cauchy, part: abs, sigma: [0.4]}"], "smearing.part", "'re' or 'im'"),
        (["smearing={kind: sigmoid, power: -1, sigma: [0.4]}"], "smearing.power", "greater than or equal to 0"),
        (["smearing={kind: cauchy, part: re, sigma: [0.4]}"], "smearing.kind", "needed: a finite spectra.omega_max"),
        (["smearing={kind: tau, sigma: [0.2]}", "energies.min=0"], "energies.min", "allowed: above 0"),
        (["smearing={kind: tau, sigma: [0.2]}", "spectra.unit=2"], "spectra.unit", "tau is for energies in GeV"),
        (["smearing={kind: own, name: yours, sigma: [0.2]}"], "smearing.name", "no smearing yours of your own"),
        (["smearing={kind: own, name: broken, sigma: [0.2]}"], "smearing.name", "gives nan at omega = "),
        (["smearing={kind: own, name: complex, sigma: [0.2]}"], "smearing.name", "complex values"),
        (["smearing={kind: own, name: flat, sigma: [0.2]}"], "smearing.kind", "needed: a finite spectra.omega_max"),
        (["smearing={kind: cauchy, sigma: [0.4]}", "methods=[bounds]"], "methods", "no bound is finite"),
        (["smearing={kind: sigmoid, sigma: [1.4]}", "methods=[bounds]"], "methods", "or a smaller sigma"),
        (
            ["smearing={kind: own, name: flat, sigma: [0.2]}", "spectra.omega_max=5", "methods=[hlt]"],
            "methods",
            "hlt: the integral of own squared diverges",
        ),
    ],
)
def test_what_has_no_answer_is_refused_in_one_line(
    cli, tiny_config: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str], key: str, words: str
) -> None:
    own = {
        "broken": Function(lambda _E, w, _s: np.where(w > 1, np.nan, 0), Tail(5.0)),
        "complex": Function(lambda E, w, s: 1 / (w - E - 1j * s), Tail(0.0, -2.0)),
        "flat": Function(lambda E, w, s: (1 + w) ** -0.4 + 0 * E + 0 * s, Tail(0.0, -0.4)),
    }
    for name, f in own.items():
        monkeypatch.setitem(smearing.OWN, name, f)
    fault = cli("run", tiny_config, *keys, "--run", tiny_config.parent / "run").fault
    assert fault.startswith(f"error: command line: {key}: ")
    assert words in fault
    assert not (tiny_config.parent / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("smearing={kind: cauchy, sigma: [0.4]}", "smearing.kind: the shipped audience does not know cauchy; allowed"),
        ("kernel=thermal", "kernel: the shipped audience does not know thermal; allowed: vector, periodic, "),
    ],
)
def test_the_shipped_audience_is_for_its_own_smearing_and_kernels(cli, repository, tmp_path, override, words) -> None:
    root = tmp_path / "run"
    fault = cli(
        "reconstruct", repository / "data/pseudoscalar.txt", override, "training.audience=shipped", "--run", root
    ).fault
    assert words in fault
    assert not root.exists()
