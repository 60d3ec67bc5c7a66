"""The config file: defaults, overrides, and every fault at once with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpipe.config.load import load_config
from sdpipe.config.schema import Config, to_yaml
from sdpipe.errors import UserError

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
CONTRACT = ("quickstart", "broad-audience-T32", "reference-T32", "large", "lattice-data")

Write = Callable[..., Path]


def faults_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert all("\n" not in fault for fault in caught.value.faults)
    return list(caught.value.faults)


def line_of(path: Path, piece: str) -> int:
    """Return the number of the one line that holds ``piece``."""
    (line,) = [i for i, text in enumerate(path.read_text().splitlines(), 1) if piece in text]
    return line


def reloaded(config: Config, path: Path) -> Config:
    path.write_text(to_yaml(config), encoding="utf-8")
    return load_config(path)


# --- what is shipped, and what is there without being said ---------------------------------------------------


def test_the_configs_of_the_contract_are_shipped() -> None:
    assert {path.stem for path in SHIPPED} >= set(CONTRACT)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_config_loads_and_its_resolved_form_is_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    again = reloaded(config, tmp_path / "config.yaml")
    assert again == config
    assert to_yaml(again) == to_yaml(config)


def test_the_defaults_are_those_of_the_contract(tiny_config: Path) -> None:
    text = tiny_config.read_text().replace("training: {replicas: 2, epochs: 2}\n", "").replace("bootstrap: 50\n", "")
    tiny_config.write_text(text)
    config = load_config(tiny_config)
    assert (config.seed, config.bootstrap) == (1, 800)
    assert config.lattice.spacing == 1.0
    assert config.spectra.E0 == (0.2, 1.3)
    assert config.spectra.epsilon == 1e-7
    assert config.spectra.omega_max is None
    assert config.noise.copies == 0
    assert config.training.model_dump() == {
        "replicas": 5,
        "protocol": "default",
        "inputs": "whiten",
        "epochs": None,
        "batch": None,
        "device": "auto",
        "stack": "auto",
        "replicas_per_task": None,
    }
    assert (config.cluster.cpu, config.cluster.gpu) == ("local", "local")


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    sigma=st.lists(st.floats(0.02, 10), min_size=1, max_size=4, unique=True),
    spacing=st.floats(1e-4, 900),
    threshold=st.floats(1e-4, 1e4),
)
def test_the_resolved_config_keeps_every_number_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_text: str,
    seed: int,
    sigma: list[float],
    spacing: float,
    threshold: float,
) -> None:
    directory = tmp_path_factory.mktemp("numbers")
    (directory / "a.yaml").write_text(tiny_text)
    overrides = [
        f"seed={seed}",
        f"smearing.sigma={sigma}",
        f"lattice.spacing={spacing!r}",
        f"targets.o3.threshold={threshold!r}",
    ]
    config = load_config(directory / "a.yaml", overrides)
    assert config.seed == seed
    assert config.smearing.sigma == sigma
    assert config.lattice.spacing == spacing
    assert reloaded(config, directory / "b.yaml") == config


def test_relative_paths_are_relative_to_the_working_directory(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(tiny_config, ["noise={kind: correlator, path: data/a.h5, dataset: x}"])
    assert config.noise.path == elsewhere / "data" / "a.h5"


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_loads(tiny_config: Path, tiny_text: str) -> None:
    expected = load_config(tiny_config)
    tiny_config.write_bytes(b"\xef\xbb\xbf" + tiny_text.replace("\n", "\r\n").encode())
    assert load_config(tiny_config) == expected


# --- overrides -----------------------------------------------------------------------------------------------


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


# --- one fault, its line, its key, what is allowed -----------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("kernel: vector", "kernel: vector\ncolour: red", "colour", "unknown key"),
        ("seed: 1", "sead: 1", "sead", "unknown key"),
        ("{replicas: 2, epochs: 2}", "{replicas: 2, epoch: 2}", "training.epoch", "unknown key"),
        ("threshold: 1.0", "threshhold: 1.0", "targets.o3.threshhold", "unknown key"),
        ("name: tiny", "name: [tiny]", "name", "string"),
        ("name: tiny", "name: ../tiny", "name", "pattern"),
        ("seed: 1", "seed: one", "seed", "integer"),
        ("seed: 1", "seed: -1", "seed", "greater than or equal to 0"),
        ("seed: 1", "seed:", "seed", "integer"),
        ("smearing:\n  kind: gaussian\n  sigma: [0.44, 0.63]", "smearing: 3", "smearing", "dict"),
        ("sigma: [0.44, 0.63]", "sigma: 0.44", "smearing.sigma", "list, such as [0.44]"),
        ("sigma: [0.44, 0.63]", "sigma: [0.44, 0]", "smearing.sigma.1", "greater than or equal to 0.0001"),
        ("sigma: [0.44, 0.63]", "sigma: [-0.44, 0.63]", "smearing.sigma.0", "greater than or equal to 0.0001"),
        ("sigma: [0.44, 0.63]", "sigma: [0.44, .nan]", "smearing.sigma.1", "finite"),
        ("sigma: [0.44, 0.63]", "sigma: []", "smearing.sigma", "at least 1"),
        ("sigma: [0.44, 0.63]", "sigma: [0.44, 0.44]", "smearing.sigma", "differ"),
        ("kernel: vector", "kernel: scalar", "kernel", "'vector', 'periodic' or 'exponential'"),
        ("times: [1, 8]", "times: [1, 17]", "lattice.times", "0..16 (the period)"),
        ("times: [1, 8]", "times: [8, 1]", "lattice.times", "ascend"),
        ("times: [1, 8]", "times: [-1, 8]", "lattice.times.0", "greater than or equal to 0"),
        ("times: [1, 8]", "times: [0, 8]", "lattice.times", "omega_max"),
        ("times: [1, 8]", "times: [1, 16]", "lattice.times", "omega_max"),
        ("max: 2.3", "max: 0.1", "energies.min", "below max"),
        ("count: 8", "count: 1", "energies.count", "greater than or equal to 2"),
        ("Nb: [8, 16]", "Nb: [8, 8]", "spectra.Nb", "differ"),
        ("Nb: [8, 16]", "E0: [1.3, 0.2], Nb: [8, 16]", "spectra.E0", "below"),
        ("Nb: [8, 16]", "omega_max: 1.0, Nb: [8, 16]", "spectra.omega_max", "threshold"),
        ("kind: synthetic", "kind: syntetic", "noise.kind", "'synthetic'"),
        ("{kind: synthetic, r1", "{r1", "noise.kind", "this key is missing"),
        ("{Nb: 8,", "{Nb: 32,", "ensembles.Nref_b.Nb", "allowed: [8, 16]"),
        ("Nrho: 400,", "Nrho: 1201,", "ensembles.Nref_rho.Nrho", "more than spectra.Nrho (1200)"),
        (
            "{Nb: 8,  Nrho: 1200, network: arcS}",
            "{Nb: 8, Nrho: 1200, network: arcX}",
            "ensembles.Nref_b.network",
            "arcL",
        ),
        ("Nmax:     ", "N max:     ", "ensembles.N max", "pattern"),
        ("central: Nmax", "central: Nbest", "budget.central", "allowed: Nmax, Nref_b, Nref_rho"),
        ("b: Nref_b,", "b: Nref_c,", "budget.references.b", "allowed: Nmax, Nref_b, Nref_rho"),
        ("b: Nref_b,", "b: Nmax,", "budget.references.b", "central"),
        ("b: Nref_b,", "latt: Nref_b,", "budget.references.latt", "another source of error"),
        ("replicas: 2", "replicas: 1", "training.replicas", "greater than or equal to 2"),
        ("masses: [0.7, 1.4]", "masses: [0.7]", "targets.peaks.amplitudes", "masses has 1"),
        ("{kind: delta_tanh}", "{kind: delta_tan}", "targets.delta_tanh.kind", "'delta_tanh'"),
        ("bootstrap: 50", "bootstrap: 1", "bootstrap", "greater than or equal to 2"),
    ],
)
def test_a_fault_names_file_line_key_and_what_is_allowed(
    write_config: Write, old: str, new: str, key: str, words: str
) -> None:
    path = write_config((old, new))
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}:{line_of(path, new.splitlines()[-1])}: {key}: ")
    assert words in fault


def test_a_missing_section_is_named(tmp_path: Path, tiny_text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("".join(line for line in tiny_text.splitlines(True) if not line.startswith("kernel")))
    assert faults_of(path) == [f"{path}:1: kernel: this key is missing"]


def test_a_fault_in_a_section_over_several_lines_points_to_its_key(write_config: Write) -> None:
    path = write_config(
        (
            "lattice: {period: 16, times: [1, 8], spacing: 1.0}",
            "lattice:\n  period: 16\n  times: [1, 99]\n  spacing: 1",
        ),
        ("count: 8", "count: 0"),
    )
    assert any(fault.startswith(f"{path}:{line_of(path, 'times')}: lattice.times: ") for fault in faults_of(path))


def test_every_fault_of_a_file_is_reported_at_once_each_with_its_line(write_config: Write) -> None:
    path = write_config(
        ("seed: 1", "seed: one"),
        ("kernel: vector", "kernel: scalar"),
        ("sigma: [0.44, 0.63]", "sigma: [-0.44, 0.63]"),
        ("central: Nmax", "central: Nbest"),
        ("b: Nref_b,", "b: Nref_c,"),
        ("{Nb: 8,", "{Nb: 32,"),
        ("{kind: delta_tanh}", "{kind: delta_tanh, wdth: 3}"),
        ("bootstrap: 50", "bootstrap: 50\nbotstrap: 50"),
    )
    pieces = ["one", "scalar", "-0.44", "Nbest", "Nref_c", "Nb: 32", "wdth", "botstrap"]
    lines = [int(fault.removeprefix(f"{path}:").split(":")[0]) for fault in faults_of(path)]
    assert sorted(lines) == sorted(line_of(path, piece) for piece in pieces)


def test_a_vector_correlator_at_time_zero_needs_a_finite_omega_max(write_config: Write) -> None:
    path = write_config(("times: [1, 8]", "times: [0, 8]"))
    (fault,) = faults_of(path)
    assert "t = 0" in fault
    assert "kernel vector" in fault
    assert load_config(path, ["spectra.omega_max=10"]).lattice.slices == tuple(range(9))


# --- files that are no config --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", 1, "KEY: VALUE"),
        (b"# nothing but a comment\n", 1, "KEY: VALUE"),
        (b"- a\n- b\n", 1, "KEY: VALUE"),
        (b"just words\n", 1, "KEY: VALUE"),
        (b"\x89HDF\r\n\x1a\n\x00\xff\xfe", 1, "not a text file in UTF-8"),
        (b"name: a\x00b\n", 1, "not valid YAML"),
        (b"seed: 1\nname: a\nseed: 2\n", 3, "'seed' appears twice"),
        (b"name: a\ntraining:\n  epochs: 1\n  epochs: 2\n", 4, "'epochs' appears twice"),
        (b"name: a\nlattice: {period: 16\nseed: 1\n", 3, "not valid YAML"),
        (b"name: a\n\tseed: 1\n", 2, "not valid YAML"),
        (b"name: a\n? [b, c]\n: d\n", 2, "not valid YAML"),
        (b"name: !!python/object/apply:os.getcwd []\n", 1, "not valid YAML"),
        (b"name: " + b"[" * 1000, 1, "not valid YAML"),
        (b"name: !!timestamp x\n", 1, "not valid YAML"),
        (b"name: !!bool x\n", 1, "not valid YAML"),
    ],
    ids=[
        "empty",
        "comment",
        "list",
        "scalar",
        "binary",
        "null byte",
        "twice",
        "twice within a section",
        "unclosed",
        "tab",
        "key that is a list",
        "python object",
        "bottomless",
        "no timestamp",
        "no truth value",
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path: Path, content: bytes, line: int, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}:{line}: ")
    assert words in fault


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert faults_of(path) == [f"{path}: no such file or run directory"]


def test_a_directory_without_a_config_is_not_a_run_directory(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path)
    assert fault.startswith(f"{tmp_path}: not a run directory")


def test_hostile_keys_stay_on_one_line(write_config: Write) -> None:
    path = write_config(("kernel: vector", 'kernel: vector\n"a\\nerror: b\\e[31m": 1'))
    (fault,) = faults_of(path)
    assert fault.isprintable()
    assert "unknown key" in fault
