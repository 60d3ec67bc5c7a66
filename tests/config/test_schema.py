"""Sections of the config: what is shipped, defaults, values that are refused, and the objects that they build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpipe.config.load import load_config
from sdpipe.config.schema import Config, to_yaml
from sdpipe.correlators.correlator import Source
from sdpipe.physics import families, spectra
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.prior import Mixture
from tests.config.faults import check_fault

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
CONTRACT = ("quickstart", "broad-audience-T32", "reference-T32", "large", "lattice-data")

Write = Callable[..., Path]


def reloaded(config: Config, path: Path) -> Config:
    path.write_text(to_yaml(config), encoding="utf-8")
    return load_config(path)


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
    assert (config.seed, config.bootstrap, config.lattice.spacing, config.noise.copies) == (1, 800, 1.0, 0)
    assert (config.spectra.E0, config.spectra.epsilon, config.spectra.omega_max) == ((0.2, 1.3), 1e-7, None)
    assert (config.spectra.mixture, config.spectra.positive) == ({"chebyshev": 1}, False)
    training = "audience: own, replicas: 5, protocol: default, inputs: whiten, head: none, epochs: null"
    training += ", batch: null, device: auto"
    assert config.training.model_dump() == yaml.safe_load(f"{{{training}}}")
    assert (config.cluster.cpu, config.cluster.gpu) == ("local", "local")
    assert (config.methods, config.noise.floor) == (["linear", "posterior"], 1e-6)


@pytest.mark.parametrize("name", ["broad-audience-T32", "reference-T32"])
def test_the_audiences_of_the_paper_keep_its_prior_whatever_the_default(name: str) -> None:
    (path,) = (path for path in SHIPPED if path.stem == name)
    given = yaml.safe_load(path.read_text())["spectra"]
    assert given["mixture"] == {"chebyshev": 1}
    assert not load_config(path).spectra.positive


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    sigma=st.lists(st.floats(0.02, 10), min_size=1, max_size=4, unique=True),
    spacing=st.floats(1e-4, 40),
    threshold=st.floats(1e-4, 1e4),
)
def test_the_resolved_config_keeps_every_number_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, tiny_text: str, seed: int, sigma: list, spacing: float, threshold: float
) -> None:
    directory = tmp_path_factory.mktemp("numbers")
    (directory / "a.yaml").write_text(tiny_text)
    overrides = [f"seed={seed}", f"smearing.sigma={sigma}", f"lattice.spacing={spacing!r}"]
    overrides.append(f"targets.o3.threshold={threshold!r}")
    config = load_config(directory / "a.yaml", overrides)
    assert (config.seed, config.smearing.sigma, config.lattice.spacing) == (seed, sigma, spacing)
    assert config.targets["o3"].threshold == threshold
    assert reloaded(config, directory / "b.yaml") == config


def test_relative_paths_are_relative_to_the_working_directory(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(tiny_config, ["noise={kind: correlator, path: data/a.h5, dataset: x}"])
    assert config.noise.path == elsewhere / "data" / "a.h5"


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("kernel: vector", "kernel: vector\ncolour: red", "colour", "unknown key"),
        ("seed: 1", "sead: 1", "sead", "unknown key; did you mean seed?"),
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
        (
            "kernel: vector",
            "kernel: scalar",
            "kernel",
            "'scalar'; allowed: vector, periodic, periodic-odd, exponential, thermal",
        ),
        ("times: [1, 8]", "times: [1, 17]", "lattice.times", "0..16 (the period)"),
        ("times: [1, 8]", "times: [8, 1]", "lattice.times", "ascend"),
        ("times: [1, 8]", "times: [-1, 8]", "lattice.times.0", "greater than or equal to 0"),
        ("max: 2.3", "max: 0.1", "energies.min", "below max"),
        ("min: 0.2", "min: 2.2999999999999994", "energies.min", "8 energies up to 2.3 are not distinct in 12 digits"),
        ("count: 8", "count: 1", "energies.count", "greater than or equal to 2"),
        ("Nb: [8, 16]", "Nb: [8, 8]", "spectra.Nb", "differ"),
        ("Nb: [8, 16]", "E0: [1.3, 0.2], Nb: [8, 16]", "spectra.E0", "below"),
        ("Nb: [8, 16]", "omega_max: 1.0, Nb: [8, 16]", "spectra.omega_max", "threshold"),
        ("kind: synthetic", "kind: syntetic", "noise.kind", "'synthetic'"),
        ("{kind: synthetic, r1", "{r1", "noise.kind", "this key is missing"),
        (
            "{Nb: 8,  Nrho: 1200, network: arcS}",
            "{Nb: 8, Nrho: 1200, network: arcX}",
            "ensembles.Nref_b.network",
            "arcL",
        ),
        ("Nmax:     ", "N max:     ", "ensembles.N max", "pattern"),
        ("replicas: 2", "replicas: 1", "training.replicas", "greater than or equal to 2"),
        ("masses: [0.7, 1.4]", "masses: [0.7]", "targets.peaks.amplitudes", "masses has 1"),
        ("{kind: delta_tanh}", "{kind: delta_tan}", "targets.delta_tanh.kind", "'delta_tanh'"),
        ("bootstrap: 50", "bootstrap: 1", "bootstrap", "greater than or equal to 2"),
    ],
)
def test_a_fault_names_file_line_key_and_what_is_allowed(
    write_config: Write, old: str, new: str, key: str, words: str
) -> None:
    check_fault(write_config, old, new, key, words)


# --- what sections build -------------------------------------------------------------------------------------


def test_a_config_builds_what_is_computed_with(tiny_config: Path) -> None:
    config = load_config(tiny_config)
    assert config.kernel_function == Kernel("vector", 16, 1.0)
    assert config.energies.grid == (0.2, 0.5, 0.8, 1.1, 1.4, 1.7, 2.0, 2.3)
    assert config.observables == Observables(
        config.kernel_function, tuple(range(1, 9)), (0.44, 0.63), config.energies.grid
    )
    assert config.spectra.chebyshev(16) == spectra.ChebyshevPrior(16, (0.2, 1.3), 1e-7, None)
    assert config.spectra.prior(16) == Mixture({"chebyshev": 1}, config.spectra.chebyshev(16))


def test_a_mixture_has_the_given_shares_in_the_order_of_their_names(tiny_config: Path) -> None:
    shares = "spectra.mixture={states: 2, chebyshev: 6, levels: 0}"
    prior = load_config(tiny_config, [shares, "spectra.positive=true"]).spectra.prior(8)
    assert list(prior.shares.items()) == [("chebyshev", 6), ("levels", 0), ("states", 2)]
    assert prior.prior == spectra.ChebyshevPrior(8, positive=True)


def test_targets_build_their_spectral_density(tiny_config: Path) -> None:
    targets, omega = load_config(tiny_config).targets, np.linspace(1.1, 3, 5)
    assert np.array_equal(targets["o3"].spectrum().continuum(omega), spectra.o3(1.0).continuum(omega))
    assert targets["delta_tanh"].spectrum().peaks == ((1.5, 0.8),)
    assert targets["peaks"].spectrum() == spectra.peaks((0.5, 0.25), (0.7, 1.4))


def test_data_and_noise_say_which_correlator_they_are(tiny_config: Path) -> None:
    data = {"path": "/a.h5", "dataset": "x", "resampling": "jackknife", "bin": 3, "covariance": "shrink"}
    noise = load_config(tiny_config, [f"noise={dict(data, kind='correlator')}"]).noise
    assert noise.source == Source(Path("/a.h5"), "x", resampling="jackknife", bin=3, covariance="shrink")
    assert noise.source.keys() == data
    noise = load_config(tiny_config, ["noise={kind: hdf5, path: /a.h5, covariance: diagonal}"]).noise
    assert noise.source == Source(Path("/a.h5"), None, error="mean", covariance="diagonal")


def test_families_follow_the_prior_and_the_energies_where_they_are_left_open(tiny_config: Path) -> None:
    """Masses go from 1.5 times the lowest threshold halfway to the highest energy, widths with the smallest sigma."""
    kinds = ("o3", "resonance", "peaks", "delta_tanh", "finite_volume", "sign_changing", "few_states")
    open_ranges = {kind: {"kind": kind} for kind in kinds} | {"other": {"kind": "chebyshev", "Nb": 4}}
    config = load_config(tiny_config, [f"validation.families={open_ranges}"])
    low, middle = pytest.approx(0.3), pytest.approx(1.3)
    built = {name: section.build(config.ranges) for name, section in config.validation.families.items()}
    assert built["o3"] == families.O3Family((0.2, 1.3))
    assert (*built["resonance"].mass, *built["resonance"].width) == (low, middle, 0.2 * 0.44, 0.7 * 0.44)
    assert (built["peaks"].count, *built["peaks"].mass) == ((5, 50), low, 2.3)
    assert built["delta_tanh"].mass == built["few_states"].mass == (low, middle)
    assert built["finite_volume"] == families.FiniteVolumeFamily((0.2, 1.3), (4, 12))
    difference = built["sign_changing"]
    assert (*difference.mass, *difference.width) == (low, middle, 0.2 * 0.44, 0.7 * 0.44)
    assert difference.threshold == (0.2, 1.3)
    assert built["other"] == config.spectra.chebyshev(4)
    ranges = "x: {kind: resonance, mass: [1, 2], width: [0.1, 0.2]}, y: {kind: finite_volume, size: [2, 3]}"
    given = load_config(tiny_config, [f"validation.families={{{ranges}}}"])
    built = {name: section.build(given.ranges) for name, section in given.validation.families.items()}
    assert built["x"] == families.ResonanceFamily((1, 2), (0.1, 0.2), (0.2, 1.3))
    assert built["y"] == families.FiniteVolumeFamily((0.2, 1.3), (2, 3))
