"""What is done: damage and other files in the place of what was written are found, named, and mended alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.disk import files, store
from sdpipe.disk.bundle import packed
from sdpipe.disk.layout import Layout
from sdpipe.disk.receipts import seal, unseal
from sdpipe.errors import DamageError, UserError
from sdpipe.pipeline import pieces, tasks
from sdpipe.pipeline.pieces import Piece
from sdpipe.pipeline.stages import STAGES
from sdpipe.pipeline.state import State, verify
from sdpipe.version import SCHEMA
from tests.fixtures import ONE_TARGET
from tests.pipeline.test_pipeline import assert_like_network, assert_same_network, load_network, networks

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome, SerialPool

Cli = Callable[..., "Outcome"]
Snapshot = Callable[[Path], dict[str, str]]
VERIFIED = "verified: every file of what is done is as it was written"


def flip(path: Path, at: int, quietly: bool = False) -> None:
    """Change one bit; ``quietly`` as a failing disk does, which leaves the time of change."""
    data, stat = bytearray(path.read_bytes()), path.stat()
    data[at % len(data)] ^= 1 << (at % 8)
    path.write_bytes(data)
    if quietly:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def payload(root: Path) -> list[Path]:
    """Return every file that a run is made of; logs and the config, which people may edit, are not."""
    kept = ("logs", "config.yaml")
    found = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return [p for p in found if not p.relative_to(root).as_posix().startswith(kept)]


def look(root: Path) -> list[DamageError]:
    """Return all damage of a run, and leave it there."""
    state = State(load_config(root), Layout(root))
    return verify(
        state.layout, [piece for stage in STAGES.values() for piece in stage.pieces(state.identities)], forget=False
    )


def values(root: Path, snapshot: Snapshot) -> dict[str, str]:
    """Return all files but those that hold times: metadata of stores, receipts, the report, logs."""
    timed = ("logs", ".sdpipe/receipts", ".sdpipe/sessions", "report.html")
    content = {name: data for name, data in snapshot(root).items() if not name.startswith(timed)}
    return {name: data for name, data in content.items() if not name.endswith(("zarr.json", ".npz"))}


def test_a_sound_run_has_no_damage(cli: Cli, finished: Finished) -> None:
    assert look(finished.root) == []
    verified = cli("status", finished.root, "--verify")
    assert (verified.status, verified.out.splitlines()[-1]) == (0, VERIFIED)
    assert "verified" not in cli("status", finished.root).out


def test_damage_is_listed_for_scripts(cli: Cli, finished_copy: Path) -> None:
    def damaged(*options: str) -> list[dict[str, str]] | None:
        return json.loads(cli("status", finished_copy, "--json", *options).out)["damaged"]

    assert damaged() is None
    assert damaged("--verify") == []
    network = finished_copy / "networks/Nmax-sigma0-replica000.npz"
    flip(network, 1000)
    assert damaged("--verify") == [{"file": str(network), "what": "damaged (not what its receipt says)"}]


def test_a_flipped_bit_anywhere_is_found_and_named(finished_copy: Path) -> None:
    """One bit in every file of the run, at a place of its own, its time of change left as it was."""
    draw, layout = random.Random(1), Layout(finished_copy)
    paths = payload(finished_copy)
    assert len(paths) > 300
    assert {p.relative_to(finished_copy).parts[0] for p in paths} >= {".sdpipe", "figures", "report.html", "networks"}
    for path in paths:
        flip(path, draw.randrange(10**9), quietly=True)
    found = {error.file for error in look(finished_copy)}
    receipts = layout.receipts.directory
    # a damaged receipt vouches for nothing
    assert found == {p for p in paths if p.is_relative_to(receipts) or p.name == "sessions.txt"}
    shutil.rmtree(finished_copy)


def test_a_flipped_bit_in_any_file_with_a_receipt_is_found_and_named(finished_copy: Path) -> None:
    draw, layout = random.Random(2), Layout(finished_copy)
    paths = [p for p in payload(finished_copy) if not p.is_relative_to(layout.receipts.directory)]
    for path in paths:
        flip(path, draw.randrange(10**9), quietly=True)
    assert {error.file for error in look(finished_copy)} == set(paths)


@pytest.mark.parametrize(
    ("file", "how", "redone", "verified"),
    [
        ("training.zarr/smeared/c/1/2/0/0", "flipped", "generate-Nb16-0002", True),
        ("training.zarr/threshold/c/0/1", "cut short", "generate-Nb8-0001", False),
        ("training.zarr/correlator/c/0/0/0", "lost", "generate-Nb8-0000", False),
        ("training.zarr/E/c/0", "flipped", None, False),
        ("training.zarr/zarr.json", "cut short", None, False),
        ("training.zarr/correlator/zarr.json", "a directory", None, False),
        ("history.zarr/val_loss/c/0/0/0/0", "flipped", None, True),
        ("history.zarr/zarr.json", "lost", None, False),
        ("networks/Nref_b-sigma1-replica001.npz", "flipped", "train-Nref_b-0.63-r1", True),
        ("networks/Nref_b-sigma0-replica000.npz", "lost", "train-Nref_b-0.44-r0", False),
        ("predictions.zarr/zarr.json", "flipped", None, True),
        ("predictions.zarr/o3/rho/c/0/0/0/0/0", "a directory", "predict-o3", False),
        ("predictions.zarr/peaks/ensemble/c/0", "lost", "predict-peaks", False),
        ("budget.zarr/zarr.json", "lost", None, False),
        ("budget.zarr/prior/covariance/c/0/0/0", "cut short", None, False),
        ("figures/o3-reconstruction-sigma0.svg", "flipped", None, True),
        ("figures/validation-width-sigma1.svg", "lost", None, False),
        ("report.html", "flipped", None, True),
        (".sdpipe/draws.zarr/central/c/2/0/0/0", "flipped", "validate-o3-0000", False),
        (".sdpipe/draws.zarr/spread/c/0/0", "lost", "validate-chebyshev-0000", False),
        (".sdpipe/draws.zarr/E/c/0", "flipped", None, True),
        (".sdpipe/receipts/train/Nmax-sigma0-replica001.json", "flipped", "train-Nmax-0.44-r1", False),
        (".sdpipe/receipts/generate/template.json", "cut short", None, False),
        (".sdpipe/receipts/predict/o3.json", "flipped", "predict-o3", True),
        (".sdpipe/receipts/analyze/o3.json", "flipped", None, False),
        (".sdpipe/receipts/predict/peaks.json", "a directory", "predict-peaks", False),
        (".sdpipe/receipts/claim/config.json", "flipped", None, False),
        (".sdpipe/config.yaml", "flipped", None, True),
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
    verified: bool,
) -> None:
    """Where ``verified`` the damage is quiet: a plain run would not look at the bytes of every file.

    A network that is trained again without those that trained beside it is the same but for rounding.
    """
    trained_again = redone is not None and redone.startswith("train")
    rounded = ("history.zarr/",) if trained_again else ()

    def bits() -> dict[str, str]:
        return {name: found for name, found in values(finished_copy, snapshot).items() if not name.startswith(rounded)}

    path, before = finished_copy / file, bits()
    if how == "flipped":
        flip(path, path.stat().st_size // 2, quietly=verified)
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        path.unlink()
        if how == "a directory":
            path.mkdir()
    if verified:
        outcome = cli("status", finished_copy, "--verify")
        assert outcome.status == 2
        assert f"error: {path}: " in outcome.err
        assert "\nnext: sdpipe " in outcome.out or "config" in file
    outcome = cli("run", finished_copy)
    assert outcome.status == 0
    assert "have changed" not in outcome.err
    if not verified and "config" not in file:
        assert f"{path}: " in outcome.err
    assert serial.done == ([redone] if redone else [])
    assert bits() == before
    ours, theirs = networks(finished_copy), networks(finished.root)
    for name in theirs:
        agree = assert_like_network if trained_again and name == path.stem else assert_same_network
        agree(ours[name], theirs[name])
    sound = cli("status", finished_copy, "--verify")
    assert (sound.status, "next: " in sound.out) == (0, False)
    assert cli("run", finished_copy).err.startswith(f"{finished_copy}: everything is done; nothing to do")


@pytest.mark.parametrize("more", [[], ["bootstrap=51", ONE_TARGET]], ids=["damaged", "stale"])
def test_several_directories_in_place_of_files_of_one_piece_give_way(
    cli: Cli, finished_copy: Path, more: list[str]
) -> None:
    places = [finished_copy / "predictions.zarr/o3" / name for name in ("rho/c/0/0/0/0/0", "zarr.json")]
    places += [finished_copy / "figures" / f"o3-{what}-sigma0.svg" for what in ("reconstruction", "budget")]
    for place in places:
        place.unlink()
        place.mkdir()
        (place / "x").touch()
    outcome = cli("run", finished_copy, *more)
    assert outcome.status == 0
    assert more or " and 1 more files; making o3 anew" in outcome.err
    assert all(place.is_file() for place in places)
    assert cli("status", finished_copy, "--verify").status == 0


def test_a_store_that_another_worker_puts_in_place_before_the_receipt_is_not_done(
    finished_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker can that outlives its driver, for other inputs."""
    state = State(load_config(finished_copy), Layout(finished_copy))
    (piece,) = (p for p in STAGES["predict"].pieces(state.identities) if p.name == "o3")
    other = store.load(state.layout.predictions / "peaks")

    def finish(layout: Layout, piece: Piece, written: Any, **facts: Any) -> None:
        store.write_dataset(layout.predictions / "o3", other, store.attributes("other", 1))
        pieces.finish(layout, piece, written, **facts)

    monkeypatch.setattr(tasks, "finish", finish)
    tasks.predict_target(state.inputs.problem, finished_copy, piece, state.inputs.target("o3"))
    assert state.look(piece).condition == "damaged"
    monkeypatch.undo()
    tasks.predict_target(state.inputs.problem, finished_copy, piece, state.inputs.target("o3"))
    assert state.look(piece).condition == "done"


def test_damage_is_found_on_reading_and_the_same_command_then_mends_it(
    cli: Cli, serial: SerialPool, finished: Finished, finished_copy: Path
) -> None:
    chunk = finished_copy / "training.zarr/smeared/c/1/1/0/0"
    flip(chunk, 1000, quietly=True)
    (finished_copy / "networks/Nmax-sigma0-replica000.npz").unlink()
    outcome = cli("train", finished_copy)
    assert outcome.status == 2
    assert f"error: {chunk}: damaged (wrong checksum)" in outcome.err
    assert cli("run", finished_copy).status == 0
    assert serial.done == ["generate-Nb16-0001", "train-Nmax-0.44-r0"]
    assert chunk.read_bytes() == (finished.root / chunk.relative_to(finished_copy)).read_bytes()


def test_a_network_without_a_receipt_is_not_used(cli: Cli, finished_copy: Path) -> None:
    (finished_copy / ".sdpipe/receipts/train/Nmax-sigma0-replica000.json").unlink()
    assert "not done: Nmax-sigma0-replica000 (missing)" in cli("predict", finished_copy, "bootstrap=60").fault
    with pytest.raises(UserError, match=r"Nmax-sigma0-replica000\.npz: missing; run: sdpipe train"):
        _ = sdpipe.open_run(finished_copy).networks


@pytest.fixture(scope="module")
def went_on(finished: Finished, in_process: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run with more networks and more draws. Not to be written to."""
    root = Path(shutil.copytree(finished.root, tmp_path_factory.mktemp("went-on") / "run"))
    outcome = in_process("run", root, "training.replicas=3", "validation.samples=122", cwd=root.parent)
    assert outcome.status == 0, outcome.err
    return root


@pytest.mark.parametrize("store", ["budget.zarr", "history.zarr", "predictions.zarr", "validation.zarr"])
def test_a_store_put_back_from_an_older_backup_is_not_believed(
    cli: Cli, snapshot: Snapshot, finished: Finished, went_on: Path, tmp_path: Path, store: str
) -> None:
    root = Path(shutil.copytree(went_on, tmp_path / "run"))
    now = values(root, snapshot)
    shutil.rmtree(root / store)
    shutil.copytree(finished.root / store, root / store)
    stage = {"budget": "analyze", "history": "train", "predictions": "predict", "validation": "validate"}[store[:-5]]
    rows = {s["name"]: s["state"] for s in json.loads(cli("status", root, "--json").out)["stages"]}
    assert rows[stage] == "damaged"
    assert cli("status", root, "--verify").status == 2
    if store == "budget.zarr":
        assert "not done" in cli("report", root).fault
    with pytest.raises(DamageError):
        list(getattr(sdpipe.open_run(root), store[:-5]).values())
    assert cli("run", root).status == 0
    assert values(root, snapshot) == now


def test_a_lost_config_is_named_with_its_copy_and_one_command_goes_on(
    cli: Cli, serial: SerialPool, finished_copy: Path
) -> None:
    text = (finished_copy / "config.yaml").read_bytes()
    (finished_copy / "config.yaml").unlink()
    fault = cli("run", finished_copy).fault
    copy = finished_copy / ".sdpipe/config.yaml"
    assert fault == (
        f"error: {finished_copy}/config.yaml: missing; its copy is {copy}; run: sdpipe run {copy} --run {finished_copy}"
    )
    assert cli("status", finished_copy).fault == fault
    with pytest.raises(UserError, match="its copy is"):
        sdpipe.open_run(finished_copy)
    assert cli("run", copy, "--run", finished_copy).status == 0
    assert serial.done == []
    assert (finished_copy / "config.yaml").read_bytes() == text


@pytest.mark.parametrize("change", ["flipped bit", "unknown key", "another seed", "pipe"])
def test_a_damaged_config_is_named_with_its_copy_and_one_command_puts_it_back(
    cli: Cli, serial: SerialPool, finished_copy: Path, change: str
) -> None:
    config, copy = finished_copy / "config.yaml", finished_copy / ".sdpipe/config.yaml"
    text = config.read_bytes()
    changed = {
        "flipped bit": bytes([*text[:40], text[40] ^ 0x80, *text[41:]]),
        "unknown key": text.replace(b"seed:", b"sfed:"),
        "another seed": text.replace(b"seed: 1", b"seed: 3"),
    }
    if change == "pipe":
        config.unlink()
        os.mkfifo(config)
    else:
        config.write_bytes(changed[change])
    for command in ("run", "status"):
        fault = cli(command, finished_copy).fault
        assert fault.startswith(f"error: {finished_copy}")
        assert fault.endswith(
            f"; {config} was changed; its copy is {copy}; to put that back, "
            f"run: sdpipe run {copy} --run {finished_copy}"
        )
    assert cli("run", copy, "--run", finished_copy).status == 0
    assert serial.done == []
    assert config.read_bytes() == text


def test_a_flipped_byte_that_leaves_a_config_valid_is_told(cli: Cli, serial: SerialPool, finished_copy: Path) -> None:
    config, copy = finished_copy / "config.yaml", finished_copy / ".sdpipe/config.yaml"
    text = config.read_bytes()
    config.write_bytes(text.replace(b"bootstrap: 50", b"bootstrap: 40"))
    words = f"{config} was edited: bootstrap was 50, is 40"
    back = f"its copy is {copy}; to put that back, run: sdpipe run {copy} --run {finished_copy}"
    assert f"{words}; {back}" in cli("status", finished_copy).out
    assert cli("run", copy, "--run", finished_copy).status == 0
    assert serial.done == []
    assert config.read_bytes() == text
    assert "edited" not in cli("status", finished_copy).out
    config.write_bytes(text.replace(b"bootstrap: 50", b"bootstrap: 40"))
    assert words in cli("run", finished_copy).err


def test_a_fault_of_the_command_line_is_not_one_of_the_config_of_a_run(cli: Cli, finished_copy: Path) -> None:
    assert "its copy" not in cli("run", finished_copy, "wrong=1").fault
    config = finished_copy / "config.yaml"
    config.write_text(config.read_text().replace("bootstrap: 50", "bootstrap: 51"))
    assert cli("status", finished_copy).status == 0


@pytest.mark.parametrize("name", [".sdpipe/driver.json", ".sdpipe/sessions.txt", "networks/x.npz", "logs/x"])
def test_a_pipe_in_a_run_is_refused_and_does_not_hang(cli: Cli, finished_copy: Path, name: str) -> None:
    place = finished_copy / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    for command in (("run",), ("status", "--verify")):
        assert cli(command[0], finished_copy, *command[1:]).fault.startswith(f"error: {place}: not a file; remove it")


def test_sealed_notes_of_another_shape_count_as_lost(cli: Cli, finished_copy: Path) -> None:
    state = finished_copy / ".sdpipe"
    with (state / "sessions.txt").open("a") as file:
        file.write(f"\n{seal([1])}\n{seal({'stage': 1})}\n")
    (state / "running").mkdir(exist_ok=True)
    (state / "running" / "a.json").write_text(seal([{"task": 1}]))
    (state / "running" / "b.json").write_text(seal({"task": 1}))
    assert "in training" not in cli("status", finished_copy).out
    assert cli("status", finished_copy, "--json").status == 0
    assert "sessions.txt: damaged (2 lines are not what was written)" in cli("status", finished_copy, "--verify").err


def test_python_reads_no_damage(finished_copy: Path) -> None:
    run = sdpipe.open_run(finished_copy)
    lost = run.predictions["o3"].correlator
    (finished_copy / "predictions.zarr/o3/correlator/c/0/0").unlink()
    with pytest.raises(DamageError, match="correlator/c/0/0: lost"):
        lost.load()
    with pytest.raises(DamageError, match="correlator/c/0/0: lost"):
        _ = run.predictions["o3"]
    quiet = run.budget["o3"]
    flip(finished_copy / "budget.zarr/o3/central/c/0/0", 20, quietly=True)
    with pytest.raises(DamageError, match="central/c/0/0: damaged"):
        quiet.central.load()
    flip(finished_copy / "history.zarr/train_loss/zarr.json", 50)
    with pytest.raises(DamageError, match=r"history\.zarr/train_loss/zarr\.json: damaged"):
        _ = run.history
    flip(finished_copy / "networks/Nmax-sigma0-replica000.npz", 70000, quietly=True)
    with pytest.raises(DamageError, match=r"replica000\.npz: damaged"):
        _ = run.networks


def test_python_warns_of_what_was_made_from_other_inputs(cli: Cli, finished_copy: Path) -> None:
    assert cli("predict", finished_copy, "targets.o3.threshold=0.5").status == 0
    run = sdpipe.open_run(finished_copy)
    assert run.predictions["o3"].attrs["target"] == "o3"
    with pytest.warns(UserWarning, match=f"o3 was made from other inputs .* run: sdpipe run {finished_copy}"):
        _ = run.budget["o3"]


def test_the_state_of_an_unfinished_training_is_checked_and_begun_anew(finished_copy: Path, cli: Cli) -> None:
    state = finished_copy / ".sdpipe" / "unfinished" / "0123.pt"
    files.write_sealed(state, b"weights")
    assert cli("status", finished_copy, "--verify").status == 0
    flip(state, 3)
    assert f"{state}: damaged" in cli("status", finished_copy, "--verify").err
    assert not state.exists()


def test_damaged_timings_are_named_and_left_out_of_the_report(cli: Cli, finished_copy: Path) -> None:
    sessions, file = Layout(finished_copy).sessions(), finished_copy / ".sdpipe" / "sessions.txt"
    flip(file, 100)
    assert f"error: {file}: damaged (1 lines" in cli("status", finished_copy, "--verify").err
    left = Layout(finished_copy).sessions()
    assert len(left) == len(sessions) - 1
    assert all(told in sessions for told in left)
    assert cli("status", finished_copy, "--verify").status == 0


def test_what_the_config_no_longer_wants_is_no_damage(cli: Cli, finished_copy: Path) -> None:
    assert cli("run", finished_copy, "targets={prior: {kind: chebyshev, Nb: 16}}").status == 0
    (finished_copy / "figures/o3-budget-sigma0.svg").unlink()
    assert cli("status", finished_copy, "--verify").status == 0


def test_progress_that_vanishes_or_is_damaged_is_left_out(cli: Cli, finished_copy: Path) -> None:
    """As when a stack ends between two looks of ``status``."""
    running = Layout(finished_copy).running
    running.mkdir(exist_ok=True)
    (running / "gone.json").symlink_to(running / "nowhere")
    (running / "damaged.json").write_bytes(b"\xff[1]")
    assert json.loads(cli("status", finished_copy, "--json").out)["training"] == []


def test_a_checkpoint_of_another_make_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(packed({"schema": SCHEMA}))
    with pytest.raises(DamageError, match="not a checkpoint"):
        load_network(path)


def test_a_run_of_an_earlier_version_is_left_as_it_is_and_one_command_makes_it_anew(
    cli: Cli, tiny_text: str, tmp_path: Path, snapshot: Snapshot
) -> None:
    """Written by hand as schema 5 had it, with a key that is no more."""
    old, config = tmp_path / "old run", tiny_text.replace("epochs: 2}", "epochs: 2, stack: auto}")
    (old / ".sdpipe" / "receipts" / "claim").mkdir(parents=True)
    for place in (old, old / ".sdpipe"):
        (place / "config.yaml").write_text(config)
    hashes = {".sdpipe/config.yaml": [hashlib.sha256(config.encode()).hexdigest(), len(config), 1]}
    claim = {"made_from": "", "files": hashes, "facts": {"schema": 5, "sdpipe_version": "0.0.9"}}
    (old / ".sdpipe" / "receipts" / "claim" / "config.json").write_text(seal(claim))
    (old / "history.zarr").mkdir()
    (old / "history.zarr" / "zarr.json").write_text(json.dumps({"attributes": claim["facts"]}))
    before = snapshot(old)
    fault = cli("run", old).fault
    assert f"{old}: written by sdpipe 0.0.9 with schema 5, but this is sdpipe {sdpipe.__version__}" in fault
    assert "an earlier version made it; it stays as it is; to make it anew: " in fault
    for command in (["status", old], ["status", old, "--verify"], ["predict", old], ["run", old, "seed=2"]):
        assert cli(*command).fault == fault
    with pytest.raises(UserError, match="an earlier version made it"):
        sdpipe.open_run(old)
    program, *command = shlex.split(fault.partition("to make it anew: ")[2])
    assert (program, command[-1]) == ("sdpipe", f"{old}-anew")
    assert cli(*command, "--dry-run").status == 0
    assert snapshot(old) == before


@pytest.mark.parametrize("claimed", [True, False], ids=["by its claim", "by a store"])
def test_a_run_of_another_schema_is_refused_and_left_as_it_is(
    cli: Cli, snapshot: Snapshot, finished_copy: Path, claimed: bool
) -> None:
    claim = finished_copy / ".sdpipe/receipts/claim/config.json"
    if claimed:
        receipt = unseal(claim.read_text())
        receipt["facts"] |= {"schema": SCHEMA + 1, "sdpipe_version": "7.7"}
        claim.write_text(seal(receipt))
    else:
        claim.unlink()
        file = finished_copy / "training.zarr/zarr.json"
        content = json.loads(file.read_text())
        content["attributes"] |= {"schema": SCHEMA - 1, "sdpipe_version": "7.7"}
        file.write_text(json.dumps(content))
    before = snapshot(finished_copy)
    for command in ("run", "train", "status"):
        assert "written by sdpipe 7.7 with schema" in cli(command, finished_copy).fault
    assert snapshot(finished_copy) == before
