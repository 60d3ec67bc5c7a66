"""What users open in Python: runs, predictions, budgets, and plain Zarr without sdpipe."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import xarray as xr

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.disk import store
from sdpipe.errors import DamageError, UserError
from sdpipe.problem.inputs import Inputs

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome

Cli = Callable[..., "Outcome"]

ATTRIBUTES = {"sdpipe_version", "schema", "config_hash", "seed", "created"}

pytestmark = pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated metadata:RuntimeWarning")

VARIABLES = {
    "training": {
        "correlator": ("Nb", "sample", "t"),
        "smeared": ("Nb", "sample", "sigma", "E"),
        "threshold": ("Nb", "sample"),
    },
    "history": {
        "train_loss": ("ensemble", "sigma", "replica", "epoch"),
        "val_loss": ("ensemble", "sigma", "replica", "epoch"),
        "linear_loss": ("ensemble", "sigma"),
        "posterior_loss": ("ensemble", "sigma"),
    },
    "predictions": {
        "rho": ("sigma", "ensemble", "replica", "boot", "E"),
        "correlator": ("boot", "t"),
        "truth": ("sigma", "E"),
    },
    "budget": {
        "central": ("sigma", "E"),
        "error": ("source", "sigma", "E"),
        "total": ("sigma", "E"),
        "covariance": ("sigma", "E", "E2"),
        "truth": ("sigma", "E"),
        "pull": ("sigma", "E"),
    },
}
"""The contract: store -> variable -> dimensions."""

UNITS = {"t": "lattice units", "sigma": "1/a", "E": "1/a", "E2": "1/a"}


@pytest.fixture(scope="module")
def run(finished: Finished) -> sdpipe.run.Run:
    return sdpipe.open_run(finished.root)


# --- plain Zarr ----------------------------------------------------------------------------------------------


def check(dataset: xr.Dataset, store: str) -> None:
    """Assert names, dimensions and attributes of the contract, and that nothing is missing inside."""
    for name, dims in VARIABLES[store].items():
        assert dataset[name].dims == dims
    for name, variable in dataset.data_vars.items():
        assert {"units", "long_name"} <= variable.attrs.keys(), name
        assert variable.size == np.isfinite(variable).sum(), name
    for dim in dataset.dims:
        assert dim in dataset.coords
        assert dataset[dim].attrs.get("units") == UNITS.get(str(dim)), dim
    assert dataset.attrs.keys() >= ATTRIBUTES
    assert dataset.attrs["seed"] == 1
    assert dataset.attrs["sdpipe_version"] == sdpipe.__version__


@pytest.mark.parametrize("store", ["training", "history"])
def test_a_store_is_plain_zarr(finished: Finished, store: str) -> None:
    with xr.open_zarr(finished.root / f"{store}.zarr") as dataset:
        check(dataset, store)


@pytest.mark.parametrize("store", ["predictions", "budget"])
def test_a_store_of_targets_is_a_tree_with_a_group_for_each(finished: Finished, store: str) -> None:
    with xr.open_datatree(finished.root / f"{store}.zarr", engine="zarr") as tree:
        assert set(tree.children) == set(load_config(finished.root).targets)
        assert tree.attrs.keys() >= ATTRIBUTES
        for group in tree.children.values():
            check(group.to_dataset(), store)


def test_coordinates_are_those_of_the_config(run: sdpipe.run.Run) -> None:
    config, rho = run.config, run.predictions["o3"].rho
    assert list(rho.ensemble.values) == [*config.ensembles]
    assert list(rho.sigma.values) == config.smearing.sigma
    assert rho.sizes["replica"] == config.training.replicas
    assert rho.sizes["boot"] == config.bootstrap
    np.testing.assert_allclose(rho.E, np.linspace(config.energies.min, config.energies.max, config.energies.count))
    assert list(run.training.Nb.values) == config.spectra.Nb
    assert list(run.training.t.values) == list(config.lattice.slices)
    assert list(run.budget["o3"].source.values) == ["latt", "net", *config.budget.references, "resolution"]


def test_groups_of_the_training_store_are_zarr_version_3_with_named_dimensions(finished: Finished) -> None:
    import zarr

    group = zarr.open_group(finished.root / "training.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    for name, dims in VARIABLES["training"].items():
        assert group[name].metadata.dimension_names == dims
        assert group[name].dtype == ("float64" if name == "threshold" else "float32")


# --- the numbers in the stores -------------------------------------------------------------------------------


def test_training_data_obey_the_physics(run: sdpipe.run.Run) -> None:
    """A threshold lies in E0, and the smeared density at any E is the same linear functional at every Nb."""
    data, spectra = run.training.load(), run.config.spectra
    low, high = spectra.E0
    assert float(data.threshold.min()) >= low
    assert float(data.threshold.max()) <= high
    decay = np.abs(data.correlator.isel(t=-1)) / np.abs(data.correlator.isel(t=0))
    fall = math.exp(-low * run.config.lattice.spacing * (data.t[-1] - data.t[0]))
    assert float(np.median(decay)) < 10 * fall
    assert not np.array_equal(data.correlator[0], data.correlator[1])


def test_mock_targets_carry_their_truth_and_their_noise(run: sdpipe.run.Run) -> None:
    grid, noise = run.config.observables, Inputs(run.config).problem.noise
    for name, data in run.predictions.items():
        if (section := run.config.targets[name]).kind != "chebyshev":
            C, rho = grid.split(section.spectrum().integrals(grid))
            np.testing.assert_allclose(data.truth, rho, rtol=1e-12)
            pull = (data.correlator.values - C) / (noise.scale(C) * np.sqrt(np.diag(noise.covariance)))
            assert np.abs(pull.mean(axis=0)).max() < 5 / math.sqrt(run.config.bootstrap), name
            assert 0.6 < pull.std() < 1.4, name
        assert data.attrs["scale"] == 1.0


def test_the_budget_can_be_redone_by_hand(run: sdpipe.run.Run) -> None:
    budget, rho = run.budget["o3"].load(), run.predictions["o3"].rho.load().astype(float)
    central = rho.sel(ensemble=run.config.budget.central)
    latt = central.mean("replica").std("boot")
    net = central.mean("boot").std("replica", ddof=1)
    xr.testing.assert_allclose(budget.central, central.mean(("boot", "replica")).drop_vars("ensemble"))
    xr.testing.assert_allclose(budget.error.sel(source="latt", drop=True), latt.drop_vars("ensemble"))
    xr.testing.assert_allclose(budget.error.sel(source="net", drop=True), net.drop_vars("ensemble"))
    np.testing.assert_allclose(budget.total**2, (budget.error**2).sum("source"))
    diagonal = np.diagonal(budget.covariance, axis1=1, axis2=2)
    np.testing.assert_allclose(diagonal, budget.total**2)
    np.testing.assert_allclose(budget.covariance, budget.covariance.transpose("sigma", "E2", "E"))
    np.testing.assert_allclose(budget.pull, (budget.central - budget.truth) / budget.total)


def test_error_budget_from_python_is_that_of_the_stage(run: sdpipe.run.Run) -> None:
    rho = run.predictions["o3"].rho
    again = sdpipe.error_budget(rho, central="Nmax", references={"b": "Nref_b", "rho": "Nref_rho"})
    stored = run.budget["o3"]
    np.testing.assert_allclose(again.central, stored.central, rtol=1e-12)
    np.testing.assert_allclose(again.error, stored.error.drop_sel(source="resolution"), rtol=1e-12, atol=1e-300)
    resolution = stored.error.sel(source="resolution")
    np.testing.assert_allclose(again.total**2 + resolution**2, stored.total**2, rtol=1e-12)
    assert "pull" not in again
    fewer = sdpipe.error_budget(rho, central="Nmax", references={})
    assert list(fewer.source.values) == ["latt", "net"]
    assert bool((fewer.total <= again.total).all())
    with pytest.raises(UserError, match="there is no ensemble Nbest; those there: Nmax, Nref_b, Nref_rho"):
        sdpipe.error_budget(rho, central="Nbest", references={})


# --- open_run ------------------------------------------------------------------------------------------------


def test_a_run_is_lazy(run: sdpipe.run.Run) -> None:
    data = [run.training.correlator, run.history.val_loss, run.predictions["o3"].rho, run.budget["o3"].central]
    assert all(array.chunks is not None for array in data)


def test_a_target_is_opened_alone(run: sdpipe.run.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def read(path: Path) -> xr.Dataset:
        opened.append(path.relative_to(run.layout.root).as_posix())
        return store_read(path)

    store_read = store.read
    monkeypatch.setattr(store, "read", read)
    predictions, budget = run.predictions, run.budget
    assert list(predictions) == list(budget) == list(run.config.targets)
    assert len(budget) == len(run.config.targets)
    assert "o3" in predictions
    assert "nothing" not in budget
    assert budget.get("nothing") is None
    assert repr(budget) == f"Groups({', '.join(run.config.targets)})"
    assert opened == []
    assert predictions["o3"].sizes["boot"] == run.config.bootstrap
    assert opened == ["predictions.zarr/o3"]


def test_the_damage_of_one_target_does_not_hide_the_others(finished_copy: Path) -> None:
    (finished_copy / "budget.zarr" / "o3" / "zarr.json").unlink()
    budget = sdpipe.open_run(finished_copy).budget
    with pytest.raises(DamageError, match=r"o3/zarr\.json: lost"):
        _ = budget["o3"]
    assert budget["peaks"].sizes["sigma"] == 2


def test_a_run_shows_its_state(run: sdpipe.run.Run) -> None:
    text, page = repr(run), run._repr_html_()
    for words in (
        "tiny",
        "12/12 networks",
        "kernel vector",
        "lattice units",
        "sigma = 0.44, 0.63 at 8",
        "o3, delta_tanh, peaks, prior",
    ):
        assert words in text
        assert words in page
    assert text.splitlines()[-1].startswith('next: run.plot.reconstruction("o3"), or open ')
    assert ElementTree.fromstring(page).tag == "div"
    assert list(run.predictions) == list(run.budget) == list(run.config.targets)
    assert len(run.networks) == 12


def test_a_run_says_what_to_do_next_and_escapes_its_path(finished: Finished, tmp_path: Path, monkeypatch) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "a <b> 'c'"))
    (root / "report.html").unlink()
    monkeypatch.chdir(tmp_path)
    run = sdpipe.open_run(root)
    assert repr(run).splitlines()[0] == "sdpipe run 'tiny' in a <b> 'c'"
    assert shlex.split(repr(run).splitlines()[-1])[1:] == ["sdpipe", "report", "a <b> 'c'"]
    page = run._repr_html_()
    assert "<b>sdpipe run tiny</b>" in page
    assert ElementTree.fromstring(page).find("code").text == "a <b> 'c'"
    shutil.rmtree(root / "budget.zarr")
    assert shlex.split(repr(run).splitlines()[-1])[1:] == ["sdpipe", "run", "a <b> 'c'"]


def test_what_is_not_a_run_is_refused(tmp_path: Path, finished_copy: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        sdpipe.open_run(tmp_path / "none")
    with pytest.raises(UserError, match="not a run directory"):
        sdpipe.open_run(tmp_path)
    (finished_copy / ".sdpipe/receipts/generate" / "generate-Nb8-0000.json").unlink()
    with pytest.raises(UserError, match=r"not done: generate-Nb8-0000 \(missing\); run: sdpipe generate"):
        _ = sdpipe.open_run(finished_copy).training
    (finished_copy / ".sdpipe/receipts/analyze/o3.json").unlink()
    assert "o3" not in sdpipe.open_run(finished_copy).budget
    shutil.rmtree(finished_copy / "history.zarr")
    with pytest.raises(UserError, match=r"history\.zarr/.*: lost"):
        _ = sdpipe.open_run(finished_copy).history


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predictt'"):
        _ = sdpipe.predictt


# --- predict -------------------------------------------------------------------------------------------------


def test_predict_of_a_target_is_close_to_its_prediction(run: sdpipe.run.Run) -> None:
    """It differs by the scale only, in which a network is nearly linear."""
    data = run.predictions["o3"].load()
    again = sdpipe.predict(run, data.correlator)
    assert again.dims == VARIABLES["predictions"]["rho"]
    assert again.attrs["units"] == "1"
    np.testing.assert_allclose(again, data.rho, atol=0.05 * float(np.abs(data.rho).max()))


def test_predict_takes_labelled_and_plain_samples_alike(run: sdpipe.run.Run) -> None:
    samples = run.predictions["o3"].correlator.load()
    expected = sdpipe.predict(run, samples)
    xr.testing.assert_identical(sdpipe.predict(run, samples.values), expected)
    xr.testing.assert_identical(sdpipe.predict(run, samples.transpose("t", "boot")), expected)


@pytest.mark.parametrize("factor", [1e-12, 3.0, 1e9])
def test_predict_is_linear_in_the_normalisation(run: sdpipe.run.Run, factor: float) -> None:
    samples = run.predictions["o3"].correlator.values
    expected = factor * sdpipe.predict(run, samples)
    np.testing.assert_allclose(sdpipe.predict(run, factor * samples), expected, rtol=1e-4, atol=1e-6 * factor)


def test_predict_refuses_other_times_and_values_that_are_not_finite(run: sdpipe.run.Run) -> None:
    samples = run.predictions["o3"].correlator.load()
    with pytest.raises(UserError, match=r"needed \(boot, 8\), t = 1\.\.8"):
        sdpipe.predict(run, samples.values[:, :5])
    with pytest.raises(UserError, match=r"needed \(boot, 8\)"):
        sdpipe.predict(run, samples.values[0])
    with pytest.raises(UserError, match=r"the networks take 1\.\.8"):
        sdpipe.predict(run, samples.assign_coords(t=samples.t + 1))
    with pytest.raises(UserError, match=r"needed \(boot, t\)"):
        sdpipe.predict(run, samples.rename(boot="cfg"))
    with pytest.raises(UserError, match="finite"):
        sdpipe.predict(run, samples.where(samples.t != 3))
    with pytest.raises(UserError, match=r"C\(t = 1\) = 0; allowed: 1e-100 to 1e\+100"):
        sdpipe.predict(run, 0 * samples)
    with pytest.raises(UserError, match=r"samples of shape \(0, 8\); needed \(boot, 8\)"):
        sdpipe.judge(run, samples.values[:0])
    with pytest.raises(UserError, match="samples: list is not an array"):
        sdpipe.judge(run, [[1.0, 0.5], [1.0]])
    with pytest.raises(UserError, match=r"samples: Tensor is not an array \(Can't call numpy\(\) on Tensor"):
        sdpipe.judge(run, torch.as_tensor(samples.values).requires_grad_())


@pytest.mark.parametrize("power", [-98, -42, -38, -29, 29, 38, 42, 98])
def test_a_budget_is_linear_in_the_normalisation_where_32_bits_end(run: sdpipe.run.Run, power: int) -> None:
    samples, factor = run.predictions["o3"].correlator.values, 10.0**power
    one, scaled = sdpipe.judge(run, samples), sdpipe.judge(run, factor * samples)
    largest = np.abs(one).max("E")
    for name in ("central", "estimator_central", "estimator_error"):
        np.testing.assert_allclose(scaled[name] / factor / largest[name], one[name] / largest[name], atol=1e-6)
    for name in ("total", "calibrated"):  # of differences between numbers of 32 bits
        np.testing.assert_allclose(scaled[name] / factor, one[name], rtol=1e-4)
    np.testing.assert_allclose(
        scaled.covariance / factor**2 / largest.total.values[:, None, None] ** 2,
        one.covariance / largest.total.values[:, None, None] ** 2,
        atol=1e-3,
    )
    assert scaled.attrs["flags"] == one.attrs["flags"]


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e-101, 1e101, 1e160, 1e300])
@pytest.mark.parametrize("scale", ["auto", 1.0])
def test_a_size_that_cannot_be_computed_with_is_refused_before_any_network_is_read(
    run: sdpipe.run.Run, tmp_path: Path, factor: float, scale: float | str
) -> None:
    shutil.copy(run.layout.config, tmp_path)
    samples = 100 * run.predictions["o3"].correlator.values
    with pytest.raises(UserError, match=r"samples: C\(t = 1\) = .*; allowed: 1e-100 to 1e\+100 in size"):
        sdpipe.judge(tmp_path, factor * samples, scale=scale)


@pytest.mark.parametrize("scale", [1e300, 1e-300, -1e40, 1e-40])
def test_a_scale_that_32_bits_do_not_hold_is_refused(run: sdpipe.run.Run, scale: float) -> None:
    with pytest.raises(UserError, match=r"samples times the scale .*: C\(t = 1\) = .*; allowed: 1e-30 to 1e\+30"):
        sdpipe.judge(run, run.predictions["o3"].correlator, scale=scale)


@pytest.mark.parametrize("scale", [0, np.inf, "none", None])
def test_predict_refuses_other_scales_and_says_which_it_takes(run: sdpipe.run.Run, scale: object) -> None:
    with pytest.raises(UserError, match=r"scale: .* allowed: 'auto', or a finite number other than 0"):
        sdpipe.predict(run, run.predictions["o3"].correlator, scale=scale)


def test_predict_refuses_a_group_of_predictions_and_names_what_is_in_it(run: sdpipe.run.Run) -> None:
    with pytest.raises(UserError, match=r"a Dataset of .*rho.*; allowed: .*run\.predictions\[TARGET\]\.correlator"):
        sdpipe.predict(run, run.predictions["o3"])


def test_a_run_predicts_where_its_noise_file_is_not_there(
    cli: Cli, tiny_config: Path, tmp_path: Path, write_hdf5: Callable[..., Path], configurations: np.ndarray
) -> None:
    """Networks are self-sufficient: a run directory alone, on another machine, is enough to use them."""
    path = write_hdf5("noise.h5", {"x": configurations})
    overrides = [f"noise={{kind: correlator, path: {path}, dataset: x}}", "kernel=periodic", "training.epochs=1"]
    assert cli("generate", tiny_config, *overrides, "--run", tmp_path / "run").status == 0
    assert cli("train", tmp_path / "run").status == 0
    data = sdpipe.read_correlator(path, "x", period=16, times=(1, 8))
    path.unlink()
    moved = sdpipe.open_run(shutil.move(tmp_path / "run", tmp_path / "moved"))
    rho = sdpipe.predict(moved, data)
    assert rho.attrs["flags"] == []
    assert bool(np.isfinite(rho).all())
    assert moved.history.sizes["replica"] == 2
    assert "moved" in repr(moved)


def test_the_recorded_scale_gives_the_stored_prediction(run: sdpipe.run.Run) -> None:
    stored = run.predictions["o3"]
    again = sdpipe.predict(run, stored.correlator, scale=stored.attrs["scale"])
    np.testing.assert_allclose(again, stored.rho, rtol=0, atol=1e-6)
    assert again.attrs["scale"] == stored.attrs["scale"]
