"""Rules between sections of a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdpipe.config.load import load_config
from tests.config.faults import check_fault, faults_of, line_of

Write = Callable[..., Path]

ALLOWED = "allowed: chebyshev, smooth, levels, states, resonances, signed"


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("times: [1, 8]", "times: [0, 8]", "lattice.times", "C(t) diverges at t = 0 for kernel vector"),
        ("times: [1, 8]", "times: [1, 16]", "lattice.times", "omega_max"),
        ("spacing: 1.0", "spacing: 1000", "lattice.spacing", "allowed: spacing * t * E0 up to 1e4"),
        ("sigma: [0.44, 0.63]", "sigma: [0.0002, 0.63]", "smearing.sigma.0", "allowed here: from 0.00063 on"),
        ("Nb: [8, 16]", "mixture: {gas: 1}, Nb: [8, 16]", "spectra.mixture.gas", "component 'gas'; " + ALLOWED),
        ("Nb: [8, 16]", "mixture: {smooth: -1}, Nb: [8, 16]", "spectra.mixture.smooth", "share -1 of smooth"),
        ("Nb: [8, 16]", "mixture: {smooth: 0}, Nb: [8, 16]", "spectra.mixture", "positive share; " + ALLOWED),
        ("Nb: [8, 16]", "mixture: {}, Nb: [8, 16]", "spectra.mixture", "positive share; " + ALLOWED),
        ("Nb: [8, 16]", "positive: true, Nb: [8, 16, 2]", "spectra.Nb.2", "needs a basis of 3 or more"),
        ("Nb: [8, 16]", "positive: true, mixture: {signed: 1}, Nb: [8, 16]", "spectra.mixture.signed", "not positive"),
        (
            "epochs: 2}",
            "epochs: 2, protocol: published, head: scale}",
            "training.head",
            "the published protocol has no error head",
        ),
        ("{Nb: 8,", "{Nb: 32,", "ensembles.Nref_b.Nb", "allowed: [8, 16]"),
        ("Nrho: 400,", "Nrho: 1201,", "ensembles.Nref_rho.Nrho", "more than spectra.Nrho (1200)"),
        ("Nref_b:   {", "linear: {Nb: 8, Nrho: 400, network: arcS}\n  Nref_b:   {", "ensembles.linear", "another"),
        ("central: Nmax", "central: Nbest", "budget.central", "allowed: Nmax, Nref_b, Nref_rho"),
        ("b: Nref_b,", "b: Nref_c,", "budget.references.b", "allowed: Nmax, Nref_b, Nref_rho"),
        ("b: Nref_b,", "b: Nmax,", "budget.references.b", "central"),
        ("b: Nref_b,", "latt: Nref_b,", "budget.references.latt", "a meaning of its own in a budget"),
        ("b: Nref_b,", "total: Nref_b,", "budget.references.total", "a meaning of its own in a budget"),
        ("b: Nref_b,", "scale: Nref_b,", "budget.references.scale", "a meaning of its own in a budget"),
        ("samples: 120,", "samples: 40,", "validation.samples", "at least 42 are needed"),
        ("families: {o3: {", "families: {chebyshev: {", "validation.families.chebyshev", "choose another name"),
        ("{o3: {", "{chebyshev-auto: {", "validation.families.chebyshev-auto", "choose another name"),
        ("Nb: [8, 16]", "E0: [2, 2.2], Nb: [8, 16]", "spectra.E0", "allowed: from below 1.53333 (energies.max / 1.5)"),
        ("{o3: {kind: o3}}", "{o3: {kind: o3, threshold: [1, 9]}}", "validation.families.o3.threshold", "0.2 ("),
    ],
)
def test_a_fault_between_sections(write_config: Write, old: str, new: str, key: str, words: str) -> None:
    if "\n" in new:
        path = write_config((old, new))
        assert faults_of(path)[0].startswith(f"{path}:{line_of(path, 'linear')}: {key}: ")
    else:
        check_fault(write_config, old, new, key, words)


def test_networks_need_a_pool_of_workers(write_config: Write) -> None:
    (fault,) = faults_of(write_config(("bootstrap: 50", "bootstrap: 50\ncluster: {gpu: serial}")))
    assert "cluster.gpu: serial is for cluster.cpu; allowed: local, or a section of jobqueue.yaml" in fault


def test_an_odd_correlator_has_nothing_at_half_the_period(write_config: Write) -> None:
    (fault,) = faults_of(write_config(("kernel: vector", "kernel: periodic-odd")))
    assert "lattice.times: C(T/2) is zero for kernel periodic-odd: keep to 1..7" in fault
    path = write_config(("kernel: vector", "kernel: periodic-odd"), ("times: [1, 8]", "times: [1, 7]"))
    assert load_config(path).kernel_function.parity == -1


def test_every_rule_is_checked_where_each_section_is_valid_by_itself(write_config: Write) -> None:
    path = write_config(("{Nb: 8,", "{Nb: 32,"), ("central: Nmax", "central: Nbest"), ("b: Nref_b,", "b: Nref_c,"))
    lines = [int(fault.removeprefix(f"{path}:").split(":")[0]) for fault in faults_of(path)]
    assert sorted(lines) == sorted(line_of(path, piece) for piece in ("Nb: 32", "Nbest", "Nref_c"))
    assert [fault.split(": ")[1] for fault in faults_of(path, "seed=one")] == ["seed"]


def test_a_learned_error_is_not_called_calibrated_where_nothing_calibrates_it(write_config: Write) -> None:
    path = write_config(("epochs: 2}", "epochs: 2, head: scale}"))
    load_config(path)
    (fault,) = faults_of(path, "budget.calibration=none")
    assert "budget.calibration: none: an error that networks give" in fault
    assert "allowed: conformal" in fault


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lattice.times=[4, 4]"], "a posterior needs two times or more; lattice.times has 1"),
        (
            ["lattice.period=600", "lattice.times=[1, 300]"],
            "lattice.times has 300 slices; allowed with a posterior: at",
        ),
    ],
)
def test_a_posterior_needs_two_times_and_no_more_than_it_can_hold(
    tiny_config: Path, overrides: list, words: str
) -> None:
    (fault,) = faults_of(tiny_config, *overrides)
    assert f"methods: {words}" in fault
    load_config(tiny_config, [*overrides, "methods=[linear]"])
    assert len(faults_of(tiny_config, *overrides, "training.inputs=posterior")) == 2


def test_local_features_are_for_networks_without_convolutions_and_for_spectra_without_an_end(tiny_config: Path) -> None:
    local = ("training.inputs=local", *(f"ensembles.{name}.network=mlpXS" for name in ("Nmax", "Nref_b", "Nref_rho")))
    load_config(tiny_config, [*local])
    (fault,) = faults_of(tiny_config, *local, "ensembles.Nref_b.network=arcS")
    assert "ensembles.Nref_b.network: arcS has convolutions over C(t)" in fault
    assert fault.endswith("allowed: mlpXXS, mlpXS, mlpS, mlpM, mlpL")
    (fault,) = faults_of(tiny_config, *local, "spectra.omega_max=5")
    assert "spectra.omega_max: 5 is a unit of energy, and training.inputs: local has none" in fault
    (fault,) = faults_of(tiny_config, *local, "lattice.times=[0, 7]")
    assert fault.endswith("give a finite spectra.omega_max, and training.inputs: posterior, whiten or standardise")


def test_an_ensemble_cannot_have_the_name_of_a_method(write_config: Write) -> None:
    path = write_config(("Nref_b:   {", "posterior: {Nb: 8, Nrho: 400, network: arcS}\n  Nref_b:   {"))
    assert "ensembles.posterior: posterior is the name of a method" in faults_of(path)[0]


def test_every_draw_of_a_positive_prior_needs_a_basis_of_three(write_config: Write) -> None:
    path = write_config(("{kind: chebyshev, Nb: 16}", "{kind: chebyshev, Nb: 2}"))
    load_config(path)
    faults = faults_of(path, "spectra.positive=true", "validation.families.c={kind: chebyshev, Nb: 2}")
    assert [fault.split(": ")[1] for fault in faults] == ["targets.prior.Nb", "validation.families.c.Nb"]


def test_a_vector_correlator_at_time_zero_is_possible_with_a_finite_omega_max(write_config: Write) -> None:
    path = write_config(("times: [1, 8]", "times: [0, 8]"))
    assert load_config(path, ["spectra.omega_max=10"]).lattice.slices == tuple(range(9))


def test_thresholds_beyond_what_the_networks_can_see(write_config: Write) -> None:
    """As [100, 200] was: samples were drawn, and the training found nothing but zeros."""
    path = write_config(("Nb: [8, 16]", "E0: [100, 200], Nb: [8, 16]"))
    small, empty = faults_of(path)
    assert small.endswith("C(t = 8) is too small for numbers of 32 bits; allowed here: a lowest threshold up to 7.78")
    assert "every threshold is at 100 or above, but energies.max is 2.3 in lattice units" in empty
    assert faults_of(path, "energies.max=300") == [small]


@pytest.mark.parametrize("name", ["hlt", "bounds"])
def test_a_method_without_a_cutoff_takes_no_time_zero(write_config: Write, name: str) -> None:
    path = write_config(("times: [1, 8]", "times: [0, 8]"), ("Nb: [8, 16]", "omega_max: 30, Nb: [8, 16]"))
    load_config(path)
    (fault,) = faults_of(path, f"methods=[{name}]")
    assert f"methods: {name} knows no cutoff" in fault
    assert "allowed: lattice.times from 1 on" in fault
