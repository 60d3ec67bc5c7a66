"""Reading a config: overrides, and every fault with its line; files that are no config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sdpipe.config.load import KeyPlaces, load_config
from tests.config.faults import check_fault, faults_of, line_of

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
        ("training.epoch=3", "training.epoch: unknown key; did you mean epochs?"),
        ("trainig.epochs=3", "trainig: unknown key; did you mean training?"),
        ("training.epochs=many", "training.epochs: "),
        ("training.epochs=0", "training.epochs: "),
        ("smearing.sigma=[0.4, -0.1]", "smearing.sigma.1: "),
        ("targets.o3.treshold=0.8", "targets.o3.treshold: unknown key; did you mean threshold?"),
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


def test_an_alias_stands_for_its_value_and_its_faults_have_their_line(write_config: Write) -> None:
    lines = [("epochs: 2", "epochs: &few 2"), ("bootstrap: 4,", "bootstrap: *few,")]
    assert load_config(write_config(*lines)).validation.bootstrap == 2
    path = write_config(*lines[1:], ("epochs: 2", "epochs: &few 1"))
    assert faults_of(path)[0].startswith(f"{path}:{line_of(path, '*few')}: validation.bootstrap: ")


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


def tower(section: str) -> bytes:
    """Return a small file whose last key stands for ten to the power of twenty values."""
    floors = [f"a{i}: &a{i} " + section % ", ".join(10 * [f"*a{i - 1}"]) for i in range(1, 20)]
    return "\n".join(["a0: &a0 {b: 1}", *floors]).encode()


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
    "a merge key": (b"a: &a {b: 1}\nc:\n  <<: *a\n", 3, "merge keys (<<) are not read; write out the keys"),
    "a bomb of merges": (tower("{<<: [%s]}"), 2, "merge keys (<<) are not read"),
    "a bomb of aliases": (tower("[%s]"), 6, "more than 100000 keys and values"),
    "an alias in itself": (b"a: &a\n  b: *a\n", 2, "an alias inside of what it stands for"),
    "many values": (b"a:\n" + 100_000 * b"- 1\n", 100_001, "more than 100000 keys and values"),
}


@pytest.mark.parametrize(("content", "line", "words"), NO_CONFIG.values(), ids=NO_CONFIG)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path: Path, content: bytes, line: int, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}:{line}: ")
    assert words in fault


@pytest.mark.parametrize(
    "number",
    [
        "1" * 4300,
        "-" + "1_" * 4300 + "1",
        "0x" + "f" * 4300,
        "0b" + "1" * 4300,
        "0" + "7" * 4300,
        "1" + ":1" * 4300,
        "1" + ":1" * 4300 + ".5",
        "1" * 4300 + ".0",
        "!!int " + "1" * 4300,
    ],
    ids=lambda number: number[:6],
)
def test_a_number_of_thousands_of_digits_is_refused_in_any_base(
    write_config: Write, tiny_config: Path, number: str
) -> None:
    words = f"a number of {len(number.removeprefix('!!int '))} characters; allowed: at most 100"
    path = write_config(("seed: 1", f"seed: {number}"))
    assert faults_of(path) == [f"{path}:3: not valid YAML: {words}"]
    (fault,) = faults_of(tiny_config, f"seed={number}")
    assert fault.startswith("command line: seed: ")
    assert fault.endswith(f"is not valid YAML: {words}")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("seed: 1", "seed: yes", "seed"),
        ("seed: 1", "seed: False", "seed"),
        ("[0.44, 0.63]", "[0.44, on]", "smearing.sigma.1"),
        ("times: [1, 8]", "times: [yes, 8]", "lattice.times.0"),
        ("epochs: 2", "epochs: on", "training.epochs"),
        ("Nb: [8, 16]", "mixture: {chebyshev: yes}, Nb: [8, 16]", "spectra.mixture.chebyshev"),
        ("threshold: 1.0", "threshold: true", "targets.o3.threshold"),
        ("families: {o3: {kind: o3}}", "families: {x: {kind: peaks, count: [on, 3]}}", "validation.families.x.count.0"),
    ],
)
def test_yes_and_no_are_no_numbers(write_config: Write, old: str, new: str, key: str) -> None:
    check_fault(write_config, old, new, key, "a number is needed; yes, no, on, off, true and false are none")


def test_yes_and_no_are_truth_values(write_config: Write) -> None:
    assert load_config(write_config(("Nb: [8, 16]", "positive: yes, Nb: [8, 16]"))).spectra.positive is True


def test_a_path_that_leads_to_no_config_is_named(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "a.yaml") == [f"{tmp_path / 'a.yaml'}: no such file or run directory"]
    assert faults_of(tmp_path)[0].startswith(f"{tmp_path}: not a run directory")


def test_hostile_keys_stay_on_one_line(write_config: Write) -> None:
    path = write_config(("kernel: vector", 'kernel: vector\n"a\\nerror: b\\e[31m": 1'))
    (fault,) = faults_of(path)
    assert fault.isprintable()
    assert "unknown key" in fault


def test_thousands_of_faults_look_through_a_section_once(tiny_config: Path) -> None:
    class Counted(list):
        looked_through = 0

        def __iter__(self):
            Counted.looked_through += 1
            return super().__iter__()

    text = tiny_config.read_text() + "".join(f"key{i}: 1\n" for i in range(1000))
    node = yaml.compose(text, yaml.SafeLoader)
    node.value = Counted(node.value)
    origin = KeyPlaces(tiny_config, node, [])
    lines = origin.describe([((f"key{i}",), "unknown key") for i in range(1000)])
    first = len(text.splitlines()) - 999
    assert lines == [f"{tiny_config}:{first + i}: key{i}: unknown key" for i in range(1000)]
    assert Counted.looked_through == 1
