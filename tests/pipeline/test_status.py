"""``sdpipe status`` says what is done, missing, unfinished or stale, how large and how old it is, and what next."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdpipe.disk.receipts import seal
from sdpipe.pipeline.stages import STAGES

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome, SerialPool

Cli = Callable[..., "Outcome"]
TARGETS = ("o3", "delta_tanh", "peaks", "prior")


@pytest.fixture
def look(cli: Cli) -> Callable[..., dict[str, Any]]:
    """Return a function that reads the status of a run as JSON, its stages by name."""

    def status(*arguments: str | Path) -> dict[str, Any]:
        outcome = cli("status", *arguments, "--json")
        assert (outcome.status, outcome.err) == (0, "")
        facts = json.loads(outcome.out)
        return {**facts, "stages": {s["name"]: s for s in facts["stages"]}}

    return status


def states(facts: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return stage -> (state, how much of it is done)."""
    return {name: (s["state"], f"{s['done']}/{s['total']} {s['unit']}") for name, s in facts["stages"].items()}


def test_a_finished_run_is_done(look, finished: Finished) -> None:
    facts = look(finished.root)
    assert states(facts) == {
        "generate": ("done", "6/6 blocks"),
        "train": ("done", "12/12 networks"),
        "predict": ("done", "4/4 targets"),
        "validate": ("done", "3/3 blocks"),
        "analyze": ("done", "4/4 targets"),
        "report": ("done", "1/1 page"),
    }
    assert (facts["name"], facts["run"], facts["next"], facts["training"]) == ("tiny", str(finished.root), None, [])


def test_the_table_has_sizes_and_ages(cli: Cli, finished_copy: Path) -> None:
    report = finished_copy / "report.html"
    written = report.stat().st_mtime - 7300
    os.utime(report, (written, written))
    lines = [line.split() for line in cli("status", finished_copy).out.splitlines()]
    assert [line[0] for line in lines] == ["stage", *STAGES]
    assert lines[-1][:4] == ["report", "done", "1/1", "page"]
    assert float(lines[-1][4]) == pytest.approx(report.stat().st_size / 1e6, abs=0.05)
    assert lines[-1][5:] == ["MB", "2", "h", "ago"]


def test_sizes_and_times_are_those_on_disk(look, finished: Finished) -> None:
    stage = look(finished.root)["stages"]["generate"]
    files = [f.stat() for f in (finished.root / "training.zarr").rglob("*") if f.is_file()]
    assert stage["bytes"] == sum(f.st_size for f in files)
    assert datetime.fromisoformat(stage["modified"]).timestamp() == int(max(f.st_mtime for f in files))


def test_what_is_lost_or_changed_is_damaged(look, finished_copy: Path) -> None:
    next((finished_copy / "networks").iterdir()).unlink()
    shutil.rmtree(finished_copy / "budget.zarr")
    shutil.rmtree(finished_copy / "figures")
    shutil.rmtree(finished_copy / "predictions.zarr" / "o3")
    (finished_copy / "report.html").unlink()
    facts = look(finished_copy)
    assert states(facts) == {
        "generate": ("done", "6/6 blocks"),
        "train": ("damaged", "11/12 networks"),
        "predict": ("damaged", "3/4 targets"),
        "validate": ("damaged", "3/3 blocks"),
        "analyze": ("damaged", "0/4 targets"),
        "report": ("stale", "0/1 page"),
    }
    assert facts["stages"]["report"]["modified"] is None
    assert facts["next"] == f"sdpipe run {finished_copy}"


def test_what_was_never_made_is_unfinished_or_missing(look, finished_copy: Path) -> None:
    for receipt in ("train/Nmax-sigma0-replica000", "predict/@store", *(f"analyze/{n}" for n in ("@store", *TARGETS))):
        (finished_copy / ".sdpipe/receipts" / f"{receipt}.json").unlink()
    shutil.rmtree(finished_copy / "budget.zarr")
    shutil.rmtree(finished_copy / "figures")
    for receipt in ("train/history", "validate/@figures"):
        (finished_copy / ".sdpipe/receipts" / f"{receipt}.json").unlink()
    assert states(look(finished_copy)) == {
        "generate": ("done", "6/6 blocks"),
        "train": ("unfinished", "11/12 networks"),
        "predict": ("unfinished", "4/4 targets"),
        "validate": ("unfinished", "3/3 blocks"),
        "analyze": ("missing", "0/4 targets"),
        "report": ("stale", "0/1 page"),
    }


@pytest.mark.parametrize(
    "lost",
    ["networks/Nmax-sigma0-replica000.npz", "budget.zarr/o3/central/c/0/0", "history.zarr/zarr.json"],
)
def test_the_report_is_not_done_where_what_it_shows_is_not(
    cli: Cli, look, serial: SerialPool, finished_copy: Path, lost: str
) -> None:
    (finished_copy / lost).unlink()
    assert states(look(finished_copy))["report"] == ("stale", "0/1 page")
    assert "report: 1 of 1 page to make" in cli("run", finished_copy, "--dry-run").out
    assert cli("run", finished_copy).status == 0
    assert states(look(finished_copy))["report"] == ("done", "1/1 page")
    assert "report: 0 of 1 page to make" in cli("run", finished_copy, "--dry-run").out
    assert all("train" in task for task in serial.done)


@pytest.mark.parametrize(
    ("override", "done", "validate"),
    [
        ("bootstrap=51", 0, ("done", "3/3 blocks")),
        ("targets.o3.threshold=0.8", 3, ("done", "3/3 blocks")),
        ("budget.central=Nref_rho", 0, ("stale", "0/3 blocks")),
    ],
)
def test_what_an_override_makes_stale_is_stale(
    look, finished: Finished, override: str, done: int, validate: tuple[str, str]
) -> None:
    overrides = [override, "budget.references={b: Nref_b}"] if override.startswith("budget") else [override]
    facts = look(finished.root, *overrides)
    assert states(facts) == {
        "generate": ("done", "6/6 blocks"),
        "train": ("stale" if override.startswith("budget") else "done", "12/12 networks"),
        "predict": ("stale", f"{done}/4 targets"),
        "validate": validate,
        "analyze": ("stale", f"{done}/4 targets"),
        "report": ("stale", "0/1 page"),
    }


def test_new_targets_and_replicas_are_unfinished_work_not_stale(look, finished: Finished) -> None:
    facts = look(finished.root, "targets.more={kind: o3}", "training.replicas=3")
    assert states(facts)["train"] == ("unfinished", "12/18 networks")
    assert states(look(finished.root, "targets.more={kind: o3}"))["predict"] == ("unfinished", "4/5 targets")


def test_an_ensemble_less_leaves_the_history_stale(look, finished: Finished) -> None:
    text = finished.config.read_text().splitlines()
    less = finished.config.with_name("less.yaml")
    less.write_text("\n".join(line for line in text if "Nref_rho:" not in line).replace(", rho: Nref_rho", ""))
    facts = look(less, "--run", finished.root)
    assert states(facts)["train"] == ("stale", "8/8 networks")


def test_the_next_command_has_the_overrides(cli: Cli, finished: Finished) -> None:
    out = cli("status", finished.config, "bootstrap=51", "--run", finished.root).out
    assert out.splitlines()[-1] == f"next: sdpipe run {finished.config} bootstrap=51 --run {finished.root}"


def test_networks_in_training_are_shown(cli: Cli, look, finished_copy: Path) -> None:
    row = {"task": "train-Nmax-0.44-r0", "epoch": 3, "epochs": 20, "val_loss": 0.0123, "linear_loss": 0.014}
    row["posterior_loss"] = 0.013
    running = finished_copy / ".sdpipe" / "running"
    running.mkdir(exist_ok=True)
    (running / "train-Nmax-0.44-r0+1.json").write_text(seal([row]))
    assert [{k: r[k] for k in row} for r in look(finished_copy)["training"]] == [row]
    assert "Nmax-0.44-r0   3/20  0.01230     0.01400" in cli("status", finished_copy).out


def test_status_of_what_is_no_run_directory_is_a_fault(cli: Cli, tiny_config: Path, tmp_path: Path) -> None:
    assert "not a run directory" in cli("status", tmp_path).fault
    assert "not a run directory" in cli("status", tiny_config, "--run", tmp_path / "none").fault


def test_json_is_of_status_only(cli: Cli, tiny_config: Path) -> None:
    assert "--json" in cli("run", tiny_config, "--json").fault
