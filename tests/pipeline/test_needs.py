"""Sizes at the edge: what does not fit into memory is refused before work, with the need in GB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdpipe.config.load import load_config
from sdpipe.pipeline import needs
from sdpipe.pipeline.stages import STAGES
from sdpipe.workers import pools

if TYPE_CHECKING:
    from tests.fixtures import Outcome

Cli = Callable[..., "Outcome"]

EDGES = {
    "energies": ["energies.count=4096"],
    "times": ["lattice={period: 256, times: [1, 128]}"],
    "basis": ["spectra.Nb=[8, 16, 2048]"],
    "targets": [f"targets.x{i}={{kind: o3}}" for i in range(60)],
    "draws": ["validation.samples=5000", "validation.bootstrap=1000"],
}


@pytest.mark.parametrize("edge", EDGES)
def test_a_size_at_the_edge_fits_into_a_usual_machine(cli: Cli, tiny_config: Path, edge: str, monkeypatch) -> None:
    """With eight workers in 64 GB, or four for 4,096 energies."""
    worker = 16e9 if edge == "energies" else 8e9
    monkeypatch.setattr(pools, "memory", lambda _config, kind, _logs: worker if kind else 64e9)
    run = tiny_config.parent / "run"
    assert cli("run", tiny_config, *EDGES[edge], "--run", run, "--dry-run").status == 0


@pytest.mark.parametrize(
    ("overrides", "stage", "need"),
    [
        (EDGES["energies"], "train", "2.9 GB"),
        (["validation.bootstrap=100000", "training.replicas=200", "training.device=cpu"], "validate", "36 GB"),
        (["bootstrap=100000", "training.replicas=200"], "predict", "23 GB"),
    ],
)
def test_what_does_not_fit_is_refused_before_work(
    cli: Cli, tiny_config: Path, overrides: list[str], stage: str, need: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "memory", lambda _config, kind, _logs: 1.5e9 if kind else 64e9)
    run = tiny_config.parent / "run"
    for more in ([], ["--dry-run"]):
        fault = cli("run", tiny_config, *overrides, "--run", run, *more).fault
        assert fault.startswith(f"error: {stage}: about {need} of memory are needed, and a worker of cluster.")
        assert "has 1.5 GB; lower energies.count, " in fault
    assert not run.exists()


def test_the_memory_of_a_worker_is_its_part_of_the_machine_or_of_its_job(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(tiny_config)
    whole, part = (pools.memory(config, kind, tmp_path) for kind in (None, "cpu"))
    assert 0 < part <= whole
    Path("jobqueue.yaml").write_text("jobqueue: {mine: {cores: 4, processes: 2, memory: 8GB}}")
    assert pools.memory(load_config(tiny_config, ["cluster.cpu=mine"]), "cpu", tmp_path) == 4_000_000_000


def test_the_peaks_are_those_that_were_measured(tiny_config: Path) -> None:
    """In MB, of one process that did all the work of a stage."""
    measured = {"train": 614, "predict": 588, "validate": 783, "analyze": 634, "report": 587}
    config = load_config(tiny_config, ["energies.count=1024"])
    for stage in (name for name in STAGES if name in measured):
        assert max(needs.peaks(config, stage)) / 1e6 == pytest.approx(measured[stage], rel=0.2), stage
    config = load_config(tiny_config, ["energies.count=256", "validation.samples=5000", "validation.bootstrap=2"])
    assert max(needs.peaks(config, "validate")) / 1e6 == pytest.approx(2284, rel=0.2)
