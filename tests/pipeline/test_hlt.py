"""Runs with HLT by the rules of the literature, and what of it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.disk.layout import Layout
from sdpipe.estimators.hlt import Choice
from sdpipe.infer.trust import unanswered
from sdpipe.pipeline.made_from import MadeFrom
from sdpipe.problem.inputs import Inputs
from sdpipe.show.flags import worded
from sdpipe.show.lambda_scan import RULE_WORDS
from tests.pipeline.test_smearings import SMALL


@pytest.mark.parametrize(("rule", "alpha"), [("plateau", 0.0), ("balance", 1.0), (0.002, 0.0)])
def test_a_run_by_a_rule_of_the_literature_or_by_hand(cli, tiny_config: Path, rule: str | float, alpha: float) -> None:
    root, few = tiny_config.parent / "run", ["smearing.sigma=[0.44]", "methods=[hlt]"]
    how = f"rule: {rule}" if isinstance(rule, str) else f"lambda: {rule}"
    keys = [f"hlt={{{how}, alpha: {alpha}, E0: 0.3}}", "--run", root]
    outcome = cli("run", tiny_config, *SMALL, *few, *keys)
    assert outcome.status == 0, outcome.err
    run = sdpipe.open_run(root)
    found, budget, problem = run.predictions["peaks"].load(), run.budget["peaks"].load(), Inputs(run.config).problem
    C = found.correlator.mean("boot").values
    hlt = Choice(rule, alpha, 0.3).build(problem.observables, problem.noise.at_scale(C), 0.2)(C)
    np.testing.assert_allclose(budget.estimator_central[0], hlt.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.estimator_error[0], hlt.error, rtol=1e-4)
    widths = np.sqrt(np.diagonal(found.estimator_covariance[0].values, axis1=1, axis2=2))
    np.testing.assert_allclose(widths, hlt.error, rtol=1e-4)
    flagged = [flag for flag in budget.attrs["flags"] if flag.startswith("hlt: its rule")]
    assert flagged == worded(unanswered("hlt", hlt.found[None]))
    assert found.alpha.values[0] == alpha
    words = RULE_WORDS[rule if isinstance(rule, str) else "hand"]
    assert f"The dotted line is λ′ by {words} for the first α" in run.layout.report.read_text()
    assert "hlt" in run.validation.estimator


def test_the_rule_of_hlt_changes_predictions_where_there_is_hlt(tiny_config: Path) -> None:
    def made(*keys: str) -> MadeFrom:
        return MadeFrom(Inputs(load_config(tiny_config, keys)), Layout(tiny_config.parent))

    plain, other, with_hlt = made(), made("hlt.rule=plateau"), made("methods=[hlt]")
    by_rule = made("methods=[hlt]", "hlt.rule=plateau")
    assert plain.predictions == other.predictions
    assert with_hlt.predictions["o3"] != by_rule.predictions["o3"]
    assert with_hlt.draws != by_rule.draws
    assert with_hlt.networks == by_rule.networks


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        (["hlt.rule=best"], "hlt.rule", "'evidence', 'plateau' or 'balance'"),
        (["hlt.lambda=0"], "hlt.lambda", "greater than 0"),
        (["hlt.lambda_=1e-3"], "hlt.lambda_", "unknown key"),
        (["hlt={lambda: 0.001, rule: plateau}"], "hlt.lambda", "rule plateau would choose; allowed: one of the two"),
        (["hlt.E0=0.3"], "hlt.E0", "0.3 is above an energy; allowed: up to energies.min (0.2)"),
        (["hlt.alpha=2"], "hlt.alpha", "b_T^2 diverges; allowed: a smaller one, such as 0"),
        (["hlt.alpha=1", "smearing={kind: cauchy, sigma: [0.4]}"], "hlt.alpha", "cauchy^2 or b_T^2 diverges"),
        (["hlt.E0=0", "smearing={kind: tau, sigma: [0.2]}"], "hlt.E0", "tau diverges at 0; allowed: above 0"),
    ],
)
def test_what_has_no_answer_is_refused_in_one_line(
    cli, tiny_config: Path, keys: list[str], key: str, words: str
) -> None:
    fault = cli("run", tiny_config, "methods=[hlt]", *keys, "--run", tiny_config.parent / "run").fault
    assert fault.startswith(f"error: command line: {key}: ")
    assert words in fault
    assert not (tiny_config.parent / "run").exists()
