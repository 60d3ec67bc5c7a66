"""The command line: help, exit status, what goes to stdout and to stderr, dry runs, status."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

import sdpipe
from sdpipe import __version__, command
from sdpipe import cli as command_line
from sdpipe.cli import SAYS
from sdpipe.config.load import load_config
from sdpipe.disk import store
from sdpipe.physics.kernels import KERNELS
from sdpipe.pipeline.stages import STAGES
from tests.fixtures import HANGING, REPOSITORY

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome, SerialPool

Cli = Callable[..., "Outcome"]

HEAVY = ("torch", "dask", "distributed", "xarray", "zarr", "matplotlib", "h5py", "scipy", "pandas")

PROBE = """
import sys
from sdpipe.__main__ import main
try:
    status = main()
except SystemExit as exit_:
    status = exit_.code
print("imported:", *sorted({name.split(".")[0] for name in sys.modules}))
sys.exit(status)
"""
"""Runs a command and says which packages it has imported."""


def imported(outcome: Outcome) -> set[str]:
    return set(outcome.out.splitlines()[-1].removeprefix("imported: ").split())


# --- terminals -----------------------------------------------------------------------------------------------


def test_a_terminal_that_knows_ascii_alone_gets_all_that_is_printed(
    shell: Cli, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    tables = shell("-m", "sdpipe", "analyze", finished.root, "-v", cwd=tmp_path)
    assert tables.status == 0, tables.err
    assert tables.out.isascii()
    header, *rows = tables.out.splitlines()[1:9]
    assert "+-posterior" in header
    assert {len(row) for row in rows} == {len(header)}
    fault = shell("-m", "sdpipe", "check", "ρ±ü.txt", cwd=tmp_path).fault
    assert fault == f"error: {tmp_path}/rho+-\\xfc.txt: no such file"


HOSTILE = "a\x1b[31m\x9b\u202eb\x07"
ESCAPED = r"a\x1b[31m\x9b\u202eb\x07"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_escape_sequences_in_names_do_not_reach_the_terminal(
    shell: Cli,
    write_hdf5: Callable[..., Path],
    configurations: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    path = write_hdf5("data.h5", {HOSTILE: configurations, "other": configurations})
    path = path.rename(tmp_path / f"{HOSTILE}.h5")
    refused = shell("-m", "sdpipe", "check", path, cwd=tmp_path).fault
    assert refused.endswith(f"{ESCAPED}.h5: say which dataset to read; those there: {ESCAPED}, other")
    said = shell("-m", "sdpipe", "check", path, f"dataset={json.dumps(HOSTILE)}", cwd=tmp_path)
    assert said.out.startswith(f"{tmp_path}/{ESCAPED}.h5: {ESCAPED}: 40 configurations")
    assert said.out.replace("\n", "").isprintable()
    assert ESCAPED in shell("-m", "sdpipe", HOSTILE, cwd=tmp_path).fault


def test_escape_sequences_of_another_library_do_not_reach_the_terminal(
    cli: Cli, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: object) -> None:
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr(command, "read_config", fails)
    outcome = cli("run", tiny_config)
    assert (outcome.status, outcome.err) == (1, f"error: RuntimeError: {ESCAPED} (-v shows where)\n")


# --- help ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [None, *SAYS])
def test_help_names_its_stage_and_imports_nothing_heavy(stage: str | None, shell: Cli, tmp_path: Path) -> None:
    outcome = shell("-c", PROBE, *([stage] if stage else []), "--help", cwd=tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    assert imported(outcome).isdisjoint(HEAVY)
    assert ("CONFIG is a YAML file, or the directory of a run" in outcome.out) == (
        stage not in ("new", "docs", "reconstruct", "check")
    )
    assert ("FILE holds a correlator" in outcome.out) == (stage in ("reconstruct", "check"))
    if stage is None:
        assert all(text in outcome.out for text in SAYS)
    else:
        assert f"usage: sdpipe {stage}" in outcome.out
        assert f"Example: {SAYS[stage][1]}\n" in outcome.out


@pytest.mark.parametrize("stage", SAYS)
def test_the_example_of_a_stage_can_be_typed(stage: str) -> None:
    program, *words = shlex.split(SAYS[stage][1].partition(" > ")[0])
    arguments = command_line._arguments(words)
    assert (program, arguments.stage) == ("sdpipe", stage)
    assert all("=" in override for override in getattr(arguments, "overrides", []))


def test_the_example_of_predict_adds_a_file_to_a_trained_run(
    cli: Cli, finished_copy: Path, write_hdf5: Callable[..., Path], configurations: np.ndarray
) -> None:
    data = write_hdf5("other.h5", {"C": configurations})
    _, *words = SAYS["predict"][1].replace("runs/mine", str(finished_copy)).replace("other.h5", str(data)).split()
    outcome = cli(*words)
    assert outcome.status == 0, outcome.err
    assert "other" in sdpipe.open_run(finished_copy).predictions
    assert load_config(finished_copy).targets["other"].kind == "correlator"


def test_version(cli: Cli) -> None:
    outcome = cli("--version")
    assert (outcome.status, outcome.out, outcome.err) == (0, f"sdpipe {__version__}\n", "")


@pytest.mark.parametrize("more", ["-v", "--verbose"])
def test_the_version_says_with_verbose_what_a_bug_report_needs(cli: Cli, more: str) -> None:
    outcome = cli("--version", more)
    assert (outcome.status, outcome.err) == (0, "")
    rows = dict(line.split(None, 1) for line in outcome.out.splitlines())
    assert rows["sdpipe"].startswith(__version__)
    assert {"python", "numpy", "torch", "OMP_NUM_THREADS", "BLAS"} <= rows.keys()


@pytest.mark.parametrize("arguments", [(), ("fly",), ("run",), ("run", "a.yaml", "--fast"), ("run", "a.yaml", "--run")])
def test_a_wrong_command_line_is_a_fault_of_the_user(cli: Cli, arguments: tuple[str, ...]) -> None:
    outcome = cli(*arguments)
    assert outcome.status == 2
    assert "error: " in outcome.err.splitlines()[-1]
    assert outcome.out == ""


def test_docs_says_where_the_pages_are(cli: Cli) -> None:
    outcome = cli("docs")
    assert (outcome.status, outcome.err) == (0, "")
    path = Path(outcome.out.splitlines()[0].removeprefix("documentation: "))
    assert path in (REPOSITORY / "site" / "index.html", REPOSITORY / "docs" / "index.md")


def test_check_and_a_dry_run_end_with_the_next_command(cli: Cli, tiny_config: Path, tmp_path: Path) -> None:
    file, where = REPOSITORY / "data" / "pseudoscalar.txt", tmp_path / "run"
    assert cli("check", file, "bin=4").out.splitlines()[-1] == f"next: sdpipe reconstruct {file} bin=4"
    assert cli("check", tiny_config).out.splitlines()[-1] == f"next: sdpipe run {tiny_config} --dry-run"
    planned = cli("run", tiny_config, "seed=2", "--run", where, "--dry-run")
    assert planned.out.splitlines()[-1] == f"next: sdpipe run {tiny_config} seed=2 --run {where}"


# --- a new config ---------------------------------------------------------------------------------------------


def test_new_writes_the_template_once(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli("new", "my.yaml")
    assert (outcome.status, outcome.err) == (0, "")
    assert "my.yaml: edit the lines marked <-, then: sdpipe run my.yaml --dry-run" in outcome.out
    written = Path("my.yaml").read_text()
    assert written == (REPOSITORY / "configs" / "lattice-data.yaml").read_text()
    assert all(f"{kernel}:" in written for kernel in KERNELS)
    assert cli("new", "my.yaml").fault == "error: my.yaml: there already; choose another name"
    assert cli("new", "no/my.yaml").fault == "error: no/my.yaml: cannot be written: No such file or directory"
    assert "noise.path: " in cli("run", "my.yaml").faults[0]
    assert [p.name for p in tmp_path.iterdir()] == ["my.yaml"]


def test_a_wheel_brings_the_template_and_the_audience(shell: Cli, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("sdpipe", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True)
    build = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    outcome = shell(*build, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "there")
        (metadata,) = (file.read(n).decode() for n in file.namelist() if n.endswith("METADATA"))
    assert "Author: the sdpipe developers" in metadata
    assert "Project-URL: Method, https://arxiv.org/abs/2307.00808" in metadata
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'there')!r}); from sdpipe.__main__ import main; main()"
    outcome = shell("-c", code, "new", "my.yaml", cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert load_config(tmp_path / "my.yaml").name == "lattice-data"
    shipped = (REPOSITORY / "sdpipe" / "data" / "audience.npz").read_bytes()
    assert (tmp_path / "there" / "sdpipe" / "data" / "audience.npz").read_bytes() == shipped
    assert (tmp_path / "there" / "sdpipe" / "py.typed").exists()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (citation["version"], citation["cff-version"]) == (__version__, "1.2.0")
    assert citation["preferred-citation"]["identifiers"][0]["value"] == "arXiv:2307.00808"


# --- exit status ---------------------------------------------------------------------------------------------


def test_a_fault_of_the_user_is_one_line_and_no_traceback(shell: Cli, tmp_path: Path) -> None:
    outcome = shell("-m", "sdpipe", "run", tmp_path / "none.yaml", cwd=tmp_path)
    assert outcome.fault == f"error: {tmp_path / 'none.yaml'}: no such file or run directory"
    assert list(tmp_path.iterdir()) == []


def test_any_other_fault_is_exit_status_1_in_one_line(
    cli: Cli, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(*_arguments: Any, **_options: Any) -> None:
        raise RuntimeError("a strange fault")

    monkeypatch.setattr(store.Template, "create", strange)
    outcome = cli("generate", tiny_config, "--run", tmp_path / "run")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith("error: RuntimeError: a strange fault")
    assert "Traceback" not in outcome.err
    with pytest.raises(RuntimeError, match="a strange fault"):
        cli("generate", tiny_config, "--run", tmp_path / "run", "-v")


def test_an_interruption_is_exit_status_130_and_loses_nothing(
    cli: Cli, serial: SerialPool, tiny_config: Path, tmp_path: Path
) -> None:
    serial.fail_after = 2
    outcome = cli("generate", tiny_config, "--run", tmp_path / "run")
    assert (outcome.status, outcome.out) == (130, "")
    assert outcome.err.splitlines()[-1].startswith("interrupted: ")
    serial.fail_after = None
    assert cli("generate", tiny_config, "--run", tmp_path / "run").status == 0
    assert len(serial.done) == len(set(serial.done)) == 6


# --- stdout and stderr ---------------------------------------------------------------------------------------


def test_stdout_carries_the_tables_and_stderr_the_rest(finished: Finished) -> None:
    config, outcome = load_config(finished.root), finished.outcome
    headings = [f"{target}, with calibrated error" for target in config.targets]
    assert [line for line in outcome.out.splitlines() if "with calibrated error" in line] == headings
    assert max(map(len, outcome.out.splitlines())) <= 100
    assert "Traceback" not in outcome.err
    assert "Warning" not in outcome.err
    assert "\x1b" not in outcome.out + outcome.err
    assert not any(heading in outcome.err for heading in headings)
    assert "generate: 6/6" in outcome.err


def test_quiet_says_nothing_and_verbose_says_more(cli: Cli, finished_copy: Path) -> None:
    quiet = cli("run", finished_copy, "-q")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")
    verbose = cli("run", finished_copy, "-v")
    assert all(f"{stage}: nothing to do" in verbose.err for stage in STAGES)
    assert verbose.out == ""


def test_analyze_prints_its_tables_again_without_doing_the_work_again(
    cli: Cli, finished: Finished, finished_copy: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    before = snapshot(finished_copy)
    validation, analysis = cli("validate", finished_copy).out, cli("analyze", finished_copy).out
    assert f"{validation}\n{analysis}" == finished.outcome.out
    verdict = validation.splitlines()
    assert verdict[0] == "validation, truth inside the calibrated error at level 0.683"
    assert [line.split()[0] for line in verdict[2:5]] == ["chebyshev", "chebyshev-auto", "o3"]
    validation, analysis = cli("validate", finished_copy, "-v").out, cli("analyze", finished_copy, "-v").out
    assert "o3, a sigma = 0.44" in analysis
    coverage, accuracy = (part.splitlines() for part in validation.strip().split("\n\n"))
    assert coverage[0] == "validation, truth inside each error at level 0.683"
    assert accuracy[0] == "validation, mean absolute errors and mean half widths at level 0.683"
    assert coverage[1].split()[:5] == ["family", "sigma", "published", "%", "total"]
    assert [line.split()[0] for line in accuracy[1:]] == [line.split()[0] for line in coverage[1:]]
    assert max(map(len, [*coverage, *accuracy])) <= 120
    assert snapshot(finished_copy) == before


def test_a_run_ends_with_the_path_of_its_report(finished: Finished) -> None:
    assert finished.outcome.err.splitlines()[-1] == f"report: {finished.root / 'report.html'}"


def test_a_stage_says_what_is_to_follow_and_nothing_once_all_is_done(cli: Cli, finished_copy: Path) -> None:
    override = "targets.o3.threshold=0.8"
    predicted = cli("predict", finished_copy, override)
    assert predicted.err.splitlines()[-1] == f"next: sdpipe run {finished_copy} {override}"
    assert cli("analyze", finished_copy).err.splitlines()[-1] == f"next: sdpipe report {finished_copy}"
    assert cli("report", finished_copy).status == 0
    assert "next" not in cli("analyze", finished_copy).err


def test_a_reader_who_has_read_enough_is_no_fault(start: Callable[..., Any], finished: Finished) -> None:
    with start(["-m", "sdpipe", "status", str(finished.root)], finished.root.parent) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=HANGING) == 0


# --- a second run --------------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_says_so_and_imports_no_torch(
    shell: Cli, finished: Finished, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    before = snapshot(finished.root)
    outcome = shell("-c", PROBE, "run", finished.config, cwd=finished.config.parent)
    assert outcome.status == 0
    assert "nothing to do" in outcome.err
    assert outcome.err.splitlines()[1:] == [f"report: {finished.root / 'report.html'}"]
    assert len(outcome.out.splitlines()) == 1
    assert imported(outcome).isdisjoint({"torch", "distributed", "matplotlib"})
    assert snapshot(finished.root) == before


def test_status_imports_nothing_heavy(shell: Cli, finished: Finished) -> None:
    outcome = shell("-c", PROBE, "status", finished.root, cwd=finished.root.parent)
    assert outcome.status == 0, outcome.err
    assert imported(outcome).isdisjoint(HEAVY)


def test_what_trains_no_network_imports_no_torch(shell: Cli, finished_copy: Path) -> None:
    for made in ("predictions.zarr/o3", "budget.zarr/o3"):
        shutil.rmtree(finished_copy / made)
    outcome = shell("-c", PROBE, "run", finished_copy, cwd=finished_copy.parent)
    assert outcome.status == 0, outcome.err
    assert (finished_copy / "budget.zarr/o3").is_dir()
    assert "torch" not in imported(outcome)


# --- dry runs ------------------------------------------------------------------------------------------------


def test_a_dry_run_names_blocks_bytes_and_networks_and_writes_nothing(
    cli: Cli, tiny_config: Path, tmp_path: Path
) -> None:
    outcome = cli("run", tiny_config, "--run", tmp_path / "run", "--dry-run")
    assert (outcome.status, outcome.err) == (0, "")
    assert "6 of 6 blocks" in outcome.out
    assert "kB" in outcome.out
    assert re.search(r"12 of 12 networks to make\n  in [1-9]\d* tasks", outcome.out)
    assert "4 of 4 targets" in outcome.out
    assert str(tmp_path / "run") in outcome.out
    assert list(tmp_path.iterdir()) == [tiny_config]


def test_a_dry_run_of_a_finished_run_has_nothing_left(
    cli: Cli, finished_copy: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    before = snapshot(finished_copy)
    outcome = cli("run", finished_copy, "--dry-run")
    assert "0 of 6 blocks" in outcome.out
    assert "0 of 12 networks to make" in outcome.out
    more = cli("train", finished_copy, "training.replicas=3", "--dry-run")
    assert "6 of 18 networks to make" in more.out
    assert snapshot(finished_copy) == before


SHIPPED = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_config_can_be_tried_without_a_file_to_bring(cli: Cli, path: Path, tmp_path: Path) -> None:
    without = ["noise={kind: synthetic, r1: 1.0e-3}", "targets={o3: {kind: o3}}", "cluster={}"]
    outcome = cli("run", path, *without, "--run", tmp_path / "run", "--dry-run")
    assert outcome.status == 0, outcome.err
    assert "networks to make" in outcome.out


def test_a_dry_run_reports_the_faults_of_the_config(cli: Cli, tiny_config: Path, tmp_path: Path) -> None:
    assert "kernel" in cli("run", tiny_config, "kernel=scalar", "--run", tmp_path / "run", "--dry-run").fault


# --- overrides and run directories ---------------------------------------------------------------------------


def test_the_run_directory_is_named_after_the_config(
    cli: Cli, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("generate", tiny_config, "name=other", "training.epochs=1").status == 0
    resolved = load_config(tmp_path / "runs" / "other")
    assert (resolved.name, resolved.training.epochs) == ("other", 1)
    assert resolved == load_config(tiny_config, ["name=other", "training.epochs=1"])


@pytest.mark.parametrize("order", [(1, 2, 0), (0, 1, 2), (1, 0, 2)])
def test_overrides_may_stand_before_and_after_options(
    cli: Cli, tiny_config: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    parts = [["seed=2"], ["--run", str(tmp_path / "run")], ["--dry-run"]]
    outcome = cli("generate", tiny_config, *(piece for i in order for piece in parts[i]))
    assert outcome.status == 0, outcome.err
    assert str(tmp_path / "run") in outcome.out
