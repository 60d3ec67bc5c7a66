"""Silent damage: every chunk, all metadata and every checkpoint are covered; damage is named, and mended alone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sdpipe
from sdpipe.disk import checked, files
from sdpipe.disk.layout import Layout
from sdpipe.errors import DamageError
from sdpipe.learn import stacks, trained
from sdpipe.pipeline import verify
from tests.pipeline.test_pipeline import assert_same_network

if TYPE_CHECKING:
    from tests.conftest import Finished, Outcome, SerialPool

Cli = Callable[..., "Outcome"]
VERIFIED = "verified: every chunk, all metadata and every checkpoint of what is done are as written"

Snapshot = Callable[[Path], dict[str, bytes]]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 8)
    path.write_bytes(data)


def payload(root: Path) -> list[Path]:
    """Return every chunk, every piece of metadata and every checkpoint of a run."""
    found = [p for s in root.glob("*.zarr") for p in s.rglob("*") if p.is_file()]
    return sorted(found) + sorted((root / "networks").glob("*.pt"))


def found(layout: Layout, path: Path) -> list[DamageError]:
    """Return the damage of the store that ``path`` is in, or that of the checkpoints."""
    if path.parent in (layout.predictions, layout.budget):
        return [e for e in verify.damage(layout) if e.file == path]
    stores = [s for s in layout.stores() if path.is_relative_to(s)]
    return list(checked.damage(stores[0]) if stores else verify.checkpoints(layout))


def test_a_sound_run_has_no_damage(cli: Cli, finished: Finished) -> None:
    assert list(verify.damage(Layout(finished.root))) == []
    verified = cli("status", finished.root, "--verify")
    assert (verified.status, verified.out.splitlines()[-1]) == (0, VERIFIED)
    assert "verified" not in cli("status", finished.root).out


def test_damage_is_listed_for_scripts(cli: Cli, finished_copy: Path) -> None:
    def damaged(*options: str) -> list[dict[str, str]] | None:
        return json.loads(cli("status", finished_copy, "--json", *options).out)["damaged"]

    assert damaged() is None
    assert damaged("--verify") == []
    network = finished_copy / "networks/Nmax-sigma0-replica000.pt"
    flip(network, 1000)
    assert damaged("--verify") == [{"file": str(network), "what": "damaged (its SHA-256 is not the recorded one)"}]


def test_a_flipped_byte_anywhere_is_found_and_named(finished_copy: Path) -> None:
    """One byte in every file of the run, at a place of its own."""
    draw, layout = random.Random(1), Layout(finished_copy)
    for path in payload(finished_copy):
        sound = path.read_bytes()
        flip(path, draw.randrange(len(sound)))
        named = [error.file for error in found(layout, path)]
        at = path if path.suffix == ".pt" or path.name != "zarr.json" else None
        expected = {at} if at else {path, path.parent / "zarr.json", path.parents[1] / "zarr.json"}
        assert named, path
        assert set(named) <= expected, path
        path.write_bytes(sound)
    assert len(payload(finished_copy)) > 150


@pytest.mark.parametrize(
    ("file", "how", "redone"),
    [
        ("training.zarr/smeared/c/1/2/0/0", "flipped", "generate-Nb16-0002"),
        ("training.zarr/threshold/c/0/1", "cut short", "generate-Nb8-0001"),
        ("training.zarr/correlator/c/0/0/0", "lost", "generate-Nb8-0000"),
        ("training.zarr/E/c/0", "flipped", None),
        ("training.zarr/zarr.json", "cut short", None),
        ("training.zarr/correlator/zarr.json", "lost", None),
        ("history.zarr/val_loss/c/0/0/0/0", "flipped", None),
        ("history.zarr/zarr.json", "lost", None),
        ("networks/Nref_b-sigma1-replica001.pt", "flipped", "train-Nref_b-0.63-r0-1"),
        ("networks/Nref_b-sigma0-replica000.pt", "lost", "train-Nref_b-0.44-r0-1"),
        ("predictions.zarr/o3/rho/c/0/0/0/0/0", "flipped", "predict-o3"),
        ("predictions.zarr/peaks/ensemble/c/0", "lost", "predict-peaks"),
        ("budget.zarr/prior/covariance/c/0/0/0", "cut short", None),
        (".sdpipe/validate/draws.zarr/central/c/2/0/0/0", "flipped", "validate-o3-0000"),
        (".sdpipe/validate/draws.zarr/spread/c/0/0", "lost", "validate-chebyshev-0000"),
    ],
)
def test_what_is_damaged_is_made_anew_and_nothing_else(
    cli: Cli,
    serial: SerialPool,
    snapshot: Snapshot,
    finished: Finished,
    finished_copy: Path,
    file: str,
    how: str,
    redone: str | None,
) -> None:
    path = finished_copy / file
    before = snapshot(finished_copy)
    if how == "flipped":
        flip(path, len(before[file]) // 2)
    elif how == "lost":
        path.unlink()
    else:
        path.write_bytes(before[file][:-5])
    outcome = cli("status", finished_copy, "--verify")
    assert outcome.status == 2
    assert str(finished_copy / file.split("/")[0]) in outcome.err
    assert "\nnext: sdpipe " in outcome.out
    assert cli("run", finished_copy).status == 0
    assert serial.done == ([redone] if redone else [])
    after = snapshot(finished_copy)
    same = {name for name in before if after[name] == before[name]}
    if path.suffix == ".pt":
        assert_same_network(trained.load(path), trained.load(finished.root / file))
        same.add(file)
    # Metadata hold the time of creation, and a report that of the stores; all values are the same bytes.
    assert {n for n in before if n.split("/")[-1] != "zarr.json" and not n.startswith(("logs", ".sdpipe"))} <= same | {
        "report.html"
    }
    verified = cli("status", finished_copy, "--verify")
    assert (verified.status, "next: " in verified.out) == (0, False)


def test_damage_is_found_on_reading_and_the_same_command_then_mends_it(
    cli: Cli, serial: SerialPool, finished: Finished, finished_copy: Path
) -> None:
    chunk = finished_copy / "training.zarr/smeared/c/1/1/0/0"
    flip(chunk, 1000)
    (finished_copy / ".sdpipe/train/Nmax-sigma0-replica000.json").unlink()
    outcome = cli("train", finished_copy)
    assert outcome.status == 2
    assert f"error: {chunk}: damaged (wrong checksum)" in outcome.err
    assert cli("run", finished_copy).status == 0
    assert serial.done == ["generate-Nb16-0001", "train-Nmax-0.44-r0-1"]
    assert chunk.read_bytes() == (finished.root / chunk.relative_to(finished_copy)).read_bytes()
    network = "networks/Nmax-sigma0-replica000.pt"
    assert_same_network(trained.load(finished_copy / network), trained.load(finished.root / network))


@pytest.mark.parametrize("name", ["budget.zarr/o3", "training.zarr", "history.zarr"])
def test_a_flipped_schema_is_damage_and_no_other_version(
    cli: Cli, serial: SerialPool, finished_copy: Path, name: str
) -> None:
    file = finished_copy / name / "zarr.json"
    file.write_text(file.read_text().replace('"schema": 2', '"schema": 3'))
    assert f"error: {file}: damaged" in cli("status", finished_copy, "--verify").err
    assert cli("run", finished_copy).status == 0
    assert serial.done == []
    assert cli("status", finished_copy, "--verify").status == 0


@pytest.mark.parametrize(("stage", "name"), [("predict", "predictions.zarr"), ("analyze", "budget.zarr")])
@pytest.mark.parametrize("how", ["flipped", "seal renamed", "lost", "not JSON"])
def test_the_file_of_a_store_of_groups_is_checked_and_made_anew_alone(
    cli: Cli, serial: SerialPool, snapshot: Snapshot, finished_copy: Path, stage: str, name: str, how: str
) -> None:
    file, before = finished_copy / name / "zarr.json", snapshot(finished_copy)
    changed = {
        "flipped": file.read_text().replace('"seed": 1', '"seed": 3'),
        "seal renamed": file.read_text().replace("metadata_sha256", "metadata_sha257"),
        "not JSON": file.read_text()[:-2],
    }
    if how == "lost":
        file.unlink()
    else:
        file.write_text(changed[how])
    outcome = cli("status", finished_copy, "--verify")
    assert outcome.status == 2
    assert f"error: {file}: " in outcome.err
    assert f"next: sdpipe {stage} {finished_copy}" in outcome.out
    assert cli("run", finished_copy).status == 0
    assert serial.done == []
    after = snapshot(finished_copy)
    assert {k for k in before if before[k] != after[k]} <= {f"{name}/zarr.json", ".sdpipe/sittings.jsonl"}
    assert cli("status", finished_copy, "--verify").out.splitlines()[-1] == VERIFIED
    assert cli(stage, finished_copy).err.startswith(f"{finished_copy}: everything is done; nothing to do")


def test_the_file_of_a_store_of_groups_needs_no_hash(cli: Cli, finished_copy: Path) -> None:
    """As one that sdpipe wrote before there was one."""
    file = finished_copy / "budget.zarr/zarr.json"
    content = json.loads(file.read_text())
    del content["attributes"]["metadata_sha256"]
    file.write_text(json.dumps(content))
    assert cli("status", finished_copy, "--verify").status == 0
    content["attributes"]["sded"] = content["attributes"].pop("seed")
    file.write_text(json.dumps(content))
    assert f"{file}: damaged" in cli("status", finished_copy, "--verify").err


def test_a_network_found_damaged_on_reading_is_named_until_it_is_made_anew(
    cli: Cli, finished: Finished, finished_copy: Path
) -> None:
    network = finished_copy / "networks/Nmax-sigma0-replica000.pt"
    flip(network, 1000)
    read = cli("predict", finished_copy, "targets.o3.threshold=0.9")
    assert f"error: {network}: damaged" in read.err
    assert f"sdpipe status {finished_copy} --verify lists all damage, sdpipe run {finished_copy} then" in read.err
    for _ in range(2):
        verified = cli("status", finished_copy, "--verify")
        assert f"error: {network}: not known to be whole; to be made anew" in verified.err
        assert "verified" not in verified.out
    outcome = cli("train", finished_copy)
    assert "train: 1 networks are missing or stale; training them anew" in outcome.err
    assert_same_network(trained.load(network), trained.load(finished.root / "networks" / network.name))
    assert cli("status", finished_copy, "--verify").status == 0


def test_a_network_that_the_config_no_longer_wants_needs_no_marker(cli: Cli, finished_copy: Path) -> None:
    networks = finished_copy / "networks"
    shutil.copy(networks / "Nmax-sigma0-replica000.pt", networks / "Nmax-sigma0-replica007.pt")
    assert cli("status", finished_copy, "--verify").status == 0


@pytest.mark.parametrize(
    ("name", "redone"),
    [
        ("training.zarr/smeared/c/1/2/0/0", ["generate-Nb16-0002"]),
        ("training.zarr/E/c/0", []),
        ("budget.zarr/o3/central/c/0/0", []),
        (".sdpipe/validate/draws.zarr/truth/c/2/0/0/0", ["validate-o3-0000"]),
    ],
)
def test_a_directory_in_place_of_a_chunk_is_damage(
    cli: Cli, serial: SerialPool, finished_copy: Path, name: str, redone: list[str]
) -> None:
    chunk = finished_copy / name
    before = chunk.read_bytes()
    chunk.unlink()
    chunk.mkdir()
    assert f"error: {chunk}: cannot be read (Is a directory)" in cli("status", finished_copy, "--verify").err
    assert cli("run", finished_copy).status == 0
    assert serial.done == redone
    assert chunk.read_bytes() == before


@pytest.mark.parametrize("how", ["deleted", "metadata", "coordinate", "chunk lost", "array lost"])
def test_status_and_validate_agree_on_damaged_draws(
    cli: Cli, serial: SerialPool, snapshot: Snapshot, finished_copy: Path, how: str
) -> None:
    draws = finished_copy / ".sdpipe/validate/draws.zarr"
    before = snapshot(draws)
    if how == "deleted":
        shutil.rmtree(draws)
    elif how == "metadata":
        flip(draws / "zarr.json", 100)
    elif how == "coordinate":
        flip(draws / "E/c/0", 3)
        assert f"error: {draws / 'E/c/0'}: damaged" in cli("status", finished_copy, "--verify").err
    elif how == "chunk lost":
        (draws / "truth/c/1/0/0/0").unlink()
    else:
        shutil.rmtree(draws / "truth")
    assert f"next: sdpipe validate {finished_copy}" in cli("status", finished_copy).out
    assert "nothing to do" not in cli("validate", finished_copy).err
    every = ["validate-chebyshev-0000", "validate-chebyshev-auto-0000", "validate-o3-0000"]
    assert serial.done == (every[1:2] if how == "chunk lost" else every)
    assert {k: v for k, v in snapshot(draws).items() if "/c/" in k} == {k: v for k, v in before.items() if "/c/" in k}
    assert cli("run", finished_copy).status == 0
    assert "next: " not in cli("status", finished_copy, "--verify").out
    assert "nothing to do" in cli("run", finished_copy).err


@pytest.mark.parametrize("size", [0, 1, 4])
def test_a_chunk_cut_to_its_checksum_or_less_is_damage(
    cli: Cli, serial: SerialPool, finished: Finished, finished_copy: Path, size: int
) -> None:
    """The CRC-32C of nothing is four NUL bytes."""
    chunk = finished_copy / "predictions.zarr/o3/rho/c/0/0/0/0/0"
    chunk.write_bytes(bytes(size))
    assert f"error: {chunk}: damaged (cut to {size} bytes)" in cli("status", finished_copy, "--verify").err
    marker = finished_copy / ".sdpipe/predict/o3.json"
    assert not marker.exists()
    marker.write_bytes((finished.root / ".sdpipe/predict/o3.json").read_bytes())
    (finished_copy / ".sdpipe/analyze/o3.json").unlink()
    assert f"error: {chunk}: damaged (cut to {size} bytes)" in cli("analyze", finished_copy).err
    assert not marker.exists()
    assert cli("run", finished_copy).status == 0
    assert serial.done == ["predict-o3"]
    assert chunk.read_bytes() == (finished.root / chunk.relative_to(finished_copy)).read_bytes()


def test_python_reads_no_damage(finished_copy: Path) -> None:
    run = sdpipe.open_run(finished_copy)
    (finished_copy / "predictions.zarr/o3/correlator/c/0/0").unlink()
    lost = run.predictions["o3"].correlator
    with pytest.raises(DamageError, match="correlator/c/0/0: lost"):
        lost.load()
    flip(finished_copy / "budget.zarr/o3/central/c/0/0", 20)
    with pytest.raises(DamageError, match="central/c/0/0: damaged"):
        run.budget["o3"].central.load()
    flip(finished_copy / "history.zarr/train_loss/zarr.json", 50)
    with pytest.raises(DamageError, match=r"history\.zarr/zarr\.json: damaged"):
        _ = run.history
    flip(finished_copy / "networks/Nmax-sigma0-replica000.pt", 70000)
    with pytest.raises(DamageError, match=r"replica000\.pt: damaged"):
        _ = run.networks


def test_a_run_that_cannot_be_written_is_verified_all_the_same(cli: Cli, finished_copy: Path) -> None:
    """A driver at work keeps the markers to itself: damage is named and nothing is written."""
    path = finished_copy / "networks/Nmax-sigma0-replica000.pt"
    flip(path, 5)
    shutil.rmtree(finished_copy / ".sdpipe" / "train")
    files.write_text(finished_copy / ".sdpipe" / "train", "no directory")
    outcome = cli("status", finished_copy, "--verify")
    assert "Traceback" not in outcome.err


def test_the_state_of_an_unfinished_training_is_checked(finished_copy: Path, cli: Cli) -> None:
    state = finished_copy / ".sdpipe" / "train" / "0123.pt"
    files.write_sealed(state, b"weights")
    assert cli("status", finished_copy, "--verify").status == 0
    flip(state, 3)
    with pytest.raises(DamageError, match=r"0123\.pt: damaged"):
        stacks.Stack.load(state, "", stacks.torch.device("cpu"))
    assert f"{state}: damaged" in cli("status", finished_copy, "--verify").err
    assert not state.exists()
