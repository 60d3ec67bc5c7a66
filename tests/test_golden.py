"""A run that an earlier sdpipe made: kept as it is, to be read by every later one of the same schema."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import xarray as xr

import sdpipe
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.errors import UserError
from sdpipe.infer import inference
from sdpipe.learn import trained
from sdpipe.pipeline import verify

if TYPE_CHECKING:
    from tests.conftest import Outcome

GOLDEN = Path(__file__).parent / "golden" / "run"

Cli = Callable[..., "Outcome"]


def test_it_is_small() -> None:
    assert sum(p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file()) < 300_000


def test_every_store_of_it_is_read_and_whole() -> None:
    assert list(verify.damage(Layout(GOLDEN))) == []
    run = sdpipe.open_run(GOLDEN)
    assert run.training.sizes == {"Nb": 1, "sample": 300, "t": 4, "sigma": 1, "E": 4}
    assert run.history.val_loss.load().notnull().all()
    assert run.predictions["o3"].rho.load().dims == ("sigma", "ensemble", "replica", "boot", "E")
    budget = run.budget["o3"].load()
    assert float(abs(budget.central - budget.truth).max()) < 1
    assert bool((budget.total > 0).all())
    assert len(run.networks) == 2


def test_its_networks_predict_what_they_did() -> None:
    run = sdpipe.open_run(GOLDEN)
    stored = run.predictions["o3"].load()
    scale = stored.attrs["scale"]
    again = inference.predict(run.networks, stored.correlator.values * scale) / np.float32(scale)
    assert again.values == pytest.approx(stored.rho.sel(ensemble=again.ensemble.values).values, rel=1e-5, abs=1e-6)


def test_plain_xarray_reads_it() -> None:
    for path in Layout(GOLDEN).stores():
        data = xr.open_zarr(path, consolidated=False).load()
        xr.testing.assert_identical(data, store.read(path).load())


def test_status_knows_it(cli: Cli, tmp_path: Path) -> None:
    copy = shutil.copytree(GOLDEN, tmp_path / "run")
    assert cli("status", copy).status == 0
    assert cli("generate", copy).err == f"{copy}: everything is done; nothing to do\n"


@pytest.mark.parametrize("name", ["training.zarr", "history.zarr", "predictions.zarr/o3", "budget.zarr/o3"])
@pytest.mark.parametrize("change", [-1, 1])
def test_another_schema_is_refused_and_left_as_it_is(
    cli: Cli, finished_copy: Path, snapshot: Callable[[Path], dict[str, bytes]], name: str, change: int
) -> None:
    file = finished_copy / name / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"] |= {"schema": store.SCHEMA + change, "sdpipe_version": "7.7"}
    file.write_text(json.dumps(content))
    store.seal(finished_copy / name)
    before = snapshot(finished_copy)
    for command in ("run", "generate", "train", "status"):
        fault = cli(command, finished_copy).fault
        assert f"{finished_copy / name}: written by sdpipe 7.7 with schema {store.SCHEMA + change}" in fault
    with pytest.raises(UserError, match=r"written by sdpipe 7\.7"):
        store.read(finished_copy / name)
    assert snapshot(finished_copy) == before


@pytest.mark.parametrize("version", [{"sdpipe_version": "7.7"}, {}], ids=["", "unsaid"])
def test_a_network_of_another_schema_is_refused_and_left_as_it_is(
    cli: Cli, finished_copy: Path, snapshot: Callable[[Path], dict[str, bytes]], version: dict[str, str]
) -> None:
    path = finished_copy / "networks" / "Nmax-sigma0-replica000.pt"
    content = torch.load(path, weights_only=True)
    del content["schema"], content["sdpipe_version"]
    torch.save({"schema": store.SCHEMA + 1, **version, **content}, path)
    marker = finished_copy / ".sdpipe" / "train" / f"{path.stem}.json"
    facts = json.loads(marker.read_text())
    del facts["sdpipe_version"]
    facts |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "schema": store.SCHEMA + 1, **version}
    marker.write_text(json.dumps(facts))
    before = snapshot(finished_copy)
    by = version.get("sdpipe_version", "of another version")
    words = f"{path}: written by sdpipe {by} with schema {store.SCHEMA + 1}, but this is sdpipe {sdpipe.__version__}"
    for command in (["run"], ["predict", "bootstrap=60"], ["status"], ["status", "--verify"]):
        assert words in cli(command[0], finished_copy, *command[1:]).fault
    with pytest.raises(UserError, match=re.escape(words)):
        trained.load(path)
    assert snapshot(finished_copy) == before
