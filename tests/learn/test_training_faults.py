"""Networks that must not enter an average: told by name, and not kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdpipe.learn import training
from tests.pipeline.test_pipeline import LONG

if TYPE_CHECKING:
    from tests.conftest import Outcome

Cli = Callable[..., "Outcome"]


@pytest.mark.parametrize(
    ("rate", "words"),
    [(1e30, "at epoch 0, seed 1"), (3.0, "above that of predicting the mean")],
    ids=["not finite", "worse than the mean"],
)
def test_a_network_that_diverges_is_named_and_not_kept(
    cli: Cli, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, words: str
) -> None:
    wild = replace(training.PROTOCOLS["published"], rate=lambda _done, _epochs: rate, copies=1)
    monkeypatch.setitem(training.PROTOCOLS, "published", wild)
    root = tmp_path / "run"
    overrides = [*LONG[:-1], "training={replicas: 2, epochs: 2, protocol: published}"]
    assert cli("generate", tiny_config, *overrides, "--run", root).status == 0
    outcome = cli("train", root)
    assert outcome.status == 1
    line = outcome.err.splitlines()[-1]
    assert line.startswith("error: training diverged: train-Nmax-0.44-r0 ")
    assert words in line
    assert "train-Nmax-0.44-r1" in line
    assert not list(root.glob("networks/*.pt"))
    assert "networks missing" in cli("predict", root).fault
