"""Reading a config: overrides, and every fault with its line; files that are no config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdpipe.config.load import load_config
from tests.config.faults import faults_of, line_of

Write = Callable[..., Path]


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_loads(tiny_config: Path, tiny_text: str) -> None:
    expected = load_config(tiny_config)
    tiny_config.write_bytes(b"\xef\xbb\xbf" + tiny_text.replace("\n", "\r\n").encode())
    assert load_config(tiny_config) == expected


def test_overrides_replace_add_and_remove(tiny_config: Path) -> None:
    config = load_config(
        tiny_config,
        [
            "training.epochs=3",
            "targets.o3.threshold=0.8",
            "targets.more.kind=o3",
            "spectra.E0=[0.3, 0.9]",
            "training.epochs=null",
            "noise={kind: synthetic, r1: 0.5}",
        ],
    )
    assert config.training.epochs is None
    assert config.targets["o3"].threshold == 0.8
    assert config.targets["more"].kind == "o3"
    assert config.spectra.E0 == (0.3, 0.9)
    assert config.noise.r1 == 0.5
    assert load_config(tiny_config).training.epochs == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epoch=3", "training.epoch: unknown key"),
        ("trainig.epochs=3", "trainig: unknown key"),
        ("training.epochs=many", "training.epochs: "),
        ("training.epochs=0", "training.epochs: "),
        ("smearing.sigma=[0.4, -0.1]", "smearing.sigma.1: "),
        ("targets.o3.treshold=0.8", "targets.o3.treshold: unknown key"),
        ("ensembles.Nmax.Nb=77", "ensembles.Nmax.Nb: 77 is not in spectra.Nb"),
        ("budget.central=Nmx", "budget.central: there is no ensemble Nmx"),
        ("training.epochs", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        (".epochs=3", "KEY=VALUE"),
        ("training..epochs=3", "KEY=VALUE"),
        ("seed.value=3", "seed holds a value, not a section"),
        ("targets.new.threshold=1", "targets.new.kind: this key is missing"),
        ("smearing.sigma.0=3", "smearing.sigma holds a value, not a section"),
        ("training.epochs=[1, 2", "not valid YAML"),
        ("training={epochs: 1, epochs: 2}", "not valid YAML"),
    ],
)
def test_a_fault_in_an_override_is_reported_as_such(tiny_config: Path, override: str, words: str) -> None:
    (fault,) = faults_of(tiny_config, override)
    assert fault.startswith("command line: ")
    assert words in fault
    assert str(tiny_config) not in fault


def test_faults_of_the_file_and_of_the_command_line_come_together(write_config: Write) -> None:
    path = write_config(("kernel: vector", "kernel: scalar"))
    faults = faults_of(path, "training.epoch=3")
    assert sorted(f.split(": ")[0] for f in faults) == sorted(["command line", f"{path}:{line_of(path, 'scalar')}"])


def test_a_missing_section_is_named(tmp_path: Path, tiny_text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("".join(line for line in tiny_text.splitlines(True) if not line.startswith("kernel")))
    assert faults_of(path) == [f"{path}:1: kernel: this key is missing"]


def test_a_merged_section_may_be_changed_and_its_faults_have_their_line(write_config: Write) -> None:
    old = "{Nb: 8,  Nrho: 1200, network: arcS}"
    path = write_config(("Nmax:     {", "Nmax:     &base {"), (old, "{<<: *base, Nb: 8}"))
    assert load_config(path).ensembles["Nref_b"].Nb == 8
    path = write_config(("Nmax:     {", "Nmax:     &base {"), (old, "{<<: *base, Nb: 0}"))
    assert faults_of(path)[0].startswith(f"{path}:{line_of(path, 'Nb: 0')}: ensembles.Nref_b.Nb: ")


def test_every_fault_of_a_file_is_reported_at_once_each_with_its_line(write_config: Write) -> None:
    path = write_config(
        ("seed: 1", "seed: one"),
        ("kernel: vector", "kernel: scalar"),
        ("sigma: [0.44, 0.63]", "sigma: [-0.44, 0.63]"),
        ("{kind: delta_tanh}", "{kind: delta_tanh, wdth: 3}"),
        ("lattice: {period: 16, times: [1, 8], spacing: 1.0}", "lattice:\n  period: 16\n  times: [1, 99]"),
        ("bootstrap: 50", "bootstrap: 50\nbotstrap: 50"),
    )
    pieces = ["one", "scalar", "-0.44", "wdth", "99", "botstrap"]
    lines = [int(fault.removeprefix(f"{path}:").split(":")[0]) for fault in faults_of(path)]
    assert sorted(lines) == sorted(line_of(path, piece) for piece in pieces)


NO_CONFIG = {
    "empty": (b"", 1, "KEY: VALUE"),
    "comment": (b"# nothing but a comment\n", 1, "KEY: VALUE"),
    "list": (b"- a\n- b\n", 1, "KEY: VALUE"),
    "scalar": (b"just words\n", 1, "KEY: VALUE"),
    "binary": (b"\x89HDF\r\n\x1a\n\x00\xff\xfe", 1, "not a text file in UTF-8"),
    "null byte": (b"name: a\x00b\n", 1, "not valid YAML"),
    "twice": (b"seed: 1\nname: a\nseed: 2\n", 3, "'seed' appears twice"),
    "twice within a section": (b"name: a\ntraining:\n  epochs: 1\n  epochs: 2\n", 4, "'epochs' appears twice"),
    "unclosed": (b"name: a\nlattice: {period: 16\nseed: 1\n", 3, "not valid YAML"),
    "tab": (b"name: a\n\tseed: 1\n", 2, "not valid YAML"),
    "key that is a list": (b"name: a\n? [b, c]\n: d\n", 2, "not valid YAML"),
    "python object": (b"name: !!python/object/apply:os.getcwd []\n", 1, "not valid YAML"),
    "bottomless": (b"name: " + b"[" * 1000, 1, "not valid YAML"),
    "no timestamp": (b"name: !!timestamp x\n", 1, "not valid YAML"),
    "no truth value": (b"name: !!bool x\n", 1, "not valid YAML"),
}


@pytest.mark.parametrize(("content", "line", "words"), NO_CONFIG.values(), ids=NO_CONFIG)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path: Path, content: bytes, line: int, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}:{line}: ")
    assert words in fault


def test_a_path_that_leads_to_no_config_is_named(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "a.yaml") == [f"{tmp_path / 'a.yaml'}: no such file or run directory"]
    assert faults_of(tmp_path)[0].startswith(f"{tmp_path}: not a run directory")


def test_hostile_keys_stay_on_one_line(write_config: Write) -> None:
    path = write_config(("kernel: vector", 'kernel: vector\n"a\\nerror: b\\e[31m": 1'))
    (fault,) = faults_of(path)
    assert fault.isprintable()
    assert "unknown key" in fault
