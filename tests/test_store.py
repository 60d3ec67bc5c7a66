"""Stores: made in one step, written in whole chunks, done only with a marker, damage found on read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sdpipe import store
from sdpipe.errors import UserError

COORDS = {"sample": ("sample", np.arange(10)), "t": ("t", np.arange(3), {"units": "lattice units"})}
VARIABLES = {"correlator": store.Variable(("sample", "t"), (4, 3), "float32", "GeV", "a correlator")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty store of ten samples in chunks of four."""
    path = tmp_path / "a.zarr"
    store.create(path, COORDS, VARIABLES, store.attributes("hash", 1))
    return path


def test_plain_xarray_reads_a_store_with_units_and_attributes(path: Path) -> None:
    for low in (0, 4, 8):
        high = min(low + 4, 10)
        store.write_block(path, "correlator", (slice(low, high),), np.full((high - low, 3), low, np.float32))
    data = xr.open_zarr(path, consolidated=False)
    np.testing.assert_array_equal(data.correlator.values[:, 0], [0, 0, 0, 0, 4, 4, 4, 4, 8, 8])
    assert data.correlator.attrs == {"units": "GeV", "long_name": "a correlator"}
    assert {"sdpipe_version", "schema", "config_hash", "seed", "created"} <= set(data.attrs)


@pytest.mark.parametrize("region", [slice(0, 3), slice(1, 5), slice(2, 10), slice(4, 9)])
def test_a_region_that_cuts_a_chunk_is_refused_and_writes_nothing(path: Path, region: slice) -> None:
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    with pytest.raises(ValueError, match="cuts chunks"):
        store.write_block(path, "correlator", (region,), np.ones((region.stop - region.start, 3), np.float32))
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file()} == before


def test_a_flipped_byte_in_a_chunk_is_found_on_read(path: Path) -> None:
    store.write_block(path, "correlator", (slice(0, 4),), np.random.default_rng(0).random((4, 3), np.float32))
    chunk = path / "correlator/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="[Cc]hecksum"):
        store.read(path).correlator[:4].load()


def test_a_stray_partial_store_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.zarr.partial").mkdir()
    (tmp_path / "a.zarr.partial/rubbish").write_text("x")
    store.create(tmp_path / "a.zarr", COORDS, VARIABLES, store.attributes("hash", 1))
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_another_schema_is_refused(path: Path) -> None:
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"]["schema"] = 99
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="schema 99"):
        store.read(path)


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.zarr: missing"):
        store.read(tmp_path / "nothing.zarr")


def test_a_block_is_done_only_with_a_marker_of_the_same_inputs(tmp_path: Path) -> None:
    markers = store.Markers(tmp_path / "m", "one")
    assert markers.missing(["a", "b"]) == ["a", "b"]
    markers.add("a", loss=0.5)
    assert markers.missing(["a", "b"]) == ["b"]
    assert markers.facts("a")["loss"] == 0.5
    assert store.Markers(tmp_path / "m", "two").missing(["a"]) == ["a"]
    (tmp_path / "m/b.json").write_text("{")
    assert markers.missing(["b"]) == ["b"]
    markers.clear()
    assert markers.missing(["a"]) == ["a"]


def test_groups_are_replaced_whole(tmp_path: Path) -> None:
    for value, size in ((1.0, 5), (2.0, 3)):
        data = xr.Dataset({"x": ("t", np.full(size, value))})
        store.write_group(tmp_path / "p.zarr", "o3", data, store.attributes("hash", 1))
    np.testing.assert_array_equal(store.read(tmp_path / "p.zarr/o3").x, [2.0, 2.0, 2.0])
    assert xr.open_datatree(tmp_path / "p.zarr", engine="zarr", consolidated=False)["o3/x"].size == 3
