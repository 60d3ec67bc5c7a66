"""Zarr stores: all or nothing, whole chunks, checksums."""

import json
import uuid

import numpy as np
import pytest
import xarray as xr
import zarr

from sdpipe.disk import files, store
from sdpipe.errors import DamageError, UserError
from sdpipe.version import SCHEMA

COORDS = {
    "Nb": ("Nb", [8, 16], {"long_name": "size of the basis"}),
    "sample": ("sample", np.arange(10)),
    "t": ("t", [1, 2, 3], {"units": "lattice units"}),
}
VARIABLES = {
    "correlator": store.Variable(("Nb", "sample", "t"), (1, 4, 3), "float32", "GeV^3", "clean correlator"),
    "threshold": store.Variable(("Nb", "sample"), (1, 4), "float64", "GeV", "threshold E0"),
}
TEMPLATE = store.Template(COORDS, VARIABLES)
BLOCKS = [(row, slice(low, min(low + 4, 10))) for row in range(2) for low in range(0, 10, 4)]


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal((2, 10, 3)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    """A template."""
    TEMPLATE.create(tmp_path / "a.zarr", store.attributes("abc", 7))
    return tmp_path / "a.zarr"


@pytest.fixture
def filled(path, values):
    """A complete store."""
    for row, rows in BLOCKS:
        arrays = {"correlator": values[row, rows], "threshold": values[row, rows, 0]}
        written = store.write_block(path, (row, rows), arrays)
        assert all(file.stat().st_size for file in written)
    return path


def flip(path, place=0.6):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def test_a_template_has_its_coordinates_attributes_and_chunks(path):
    data = store.read(path)
    assert data.correlator.dims == ("Nb", "sample", "t")
    assert data.Nb.values.tolist() == [8, 16]
    assert data.correlator.attrs == {"units": "GeV^3", "long_name": "clean correlator"}
    assert data.t.units == "lattice units"
    assert data.threshold.dtype == np.float64
    assert zarr.open_array(path / "correlator", mode="r").chunks == (1, 4, 3)
    for name in ("sdpipe_version", "schema", "config_hash", "seed", "numpy_version", "created"):
        assert name in data.attrs
    assert (data.attrs["config_hash"], data.attrs["seed"]) == ("abc", 7)


def test_an_array_may_have_further_attributes_and_be_of_integers(tmp_path):
    flags = {"flag_values": [0, 1], "flag_meanings": "first second"}
    which = {"which": store.Variable(("Nb", "sample"), (1, 4), "uint8", "1", "which", flags)}
    store.Template(COORDS, which).create(tmp_path / "a.zarr", store.attributes("abc", 7))
    made = xr.open_zarr(tmp_path / "a.zarr", consolidated=False).which
    assert (made.dtype, made.attrs) == (np.uint8, {"units": "1", "long_name": "which", **flags})
    assert (made == 255).all(), "a lost chunk is none of the values"


def test_what_an_interruption_left_does_not_stand_in_the_way(tmp_path):
    rubbish = tmp_path / f".a.zarr.{uuid.uuid4().hex}.partial"
    rubbish.mkdir()
    (rubbish / "zarr.json").write_text("{")
    TEMPLATE.create(tmp_path / "a.zarr", store.attributes("abc", 7))
    assert store.read(tmp_path / "a.zarr").sizes == {"Nb": 2, "sample": 10, "t": 3}
    files.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_chunks_are_never_longer_than_their_dimension(tmp_path):
    wide = {"a": store.Variable(("sample", "t"), (100, 3), "float32", "1", "a")}
    store.Template(COORDS, wide).create(tmp_path / "b.zarr", {})
    assert zarr.open_array(tmp_path / "b.zarr" / "a", mode="r").chunks == (10, 3)


def test_a_template_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"

    def interrupted(_self, name, **_options):
        raise KeyboardInterrupt(name)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Group, "create_array", interrupted)
        with pytest.raises(KeyboardInterrupt):
            TEMPLATE.create(path, store.attributes("abc", 7))
    assert not path.exists()
    TEMPLATE.create(path, store.attributes("abc", 7))
    assert set(store.read(path).data_vars) == {"correlator", "threshold"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_plain_xarray_reads_what_was_written(filled, values):
    data = xr.open_zarr(filled, consolidated=False)
    assert np.array_equal(data.correlator, values)
    assert np.array_equal(data.threshold, values[:, :, 0])
    assert np.array_equal(store.read(filled).correlator.sel(Nb=16, sample=slice(3, 8), t=2), values[1, 3:9, 1])


def test_blocks_may_be_written_in_any_order(path, values):
    for row, rows in reversed(BLOCKS):
        store.write_block(path, (row, rows), {"correlator": values[row, rows]})
    assert np.array_equal(store.read(path).correlator, values)


@pytest.mark.parametrize(
    "region",
    [
        (0, slice(1, 4)),
        (0, slice(0, 3)),
        (0, slice(2, 6)),
        (0, slice(4, 9)),
        (slice(0, 2), slice(0, 5)),
        (0, slice(0, 4), slice(0, 2)),
    ],
)
def test_regions_that_cut_a_chunk_are_refused_and_nothing_is_written(filled, values, region):
    with pytest.raises(ValueError, match="cuts chunks"):
        store.write_block(filled, region, {"correlator": np.zeros((1, 1, 1), np.float32)})
    assert np.array_equal(store.read(filled).correlator, values)


def test_regions_of_several_whole_chunks_are_taken(path, values):
    store.write_block(path, (slice(0, 2), slice(0, 8)), {"correlator": values[:, :8]})
    store.write_block(path, (slice(None), slice(8, 10)), {"correlator": values[:, 8:]})
    assert np.array_equal(store.read(path).correlator, values)


def test_values_that_do_not_fit_the_region_are_refused(path):
    with pytest.raises(ValueError, match="shape"):
        store.write_block(path, (0, slice(0, 4)), {"correlator": np.zeros((3, 3), np.float32)})


def test_blocks_of_zeros_are_written_too(path):
    """A chunk that is not there must always mean one that was not written."""
    store.write_block(path, (0, slice(0, 4)), {"correlator": np.zeros((4, 3), np.float32)})
    assert len([p for p in (path / "correlator" / "c").rglob("*") if p.is_file()]) == 1


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_a_flipped_bit_in_a_chunk_is_noticed_on_reading(filled, values, place):
    chunk = sorted(p for p in (filled / "correlator" / "c").rglob("*") if p.is_file())[0]
    flip(chunk, place)
    data = store.read(filled)
    assert np.array_equal(data.correlator[1], values[1])
    with pytest.raises(DamageError, match="checksum") as caught:
        data.correlator[0].load()
    assert caught.value.file == chunk
    with pytest.raises(ValueError, match="checksum"):
        xr.open_zarr(filled, consolidated=False).correlator.load()


def test_arrays_are_compressed_and_checked():
    codecs = [type(c).__name__ for c in store.COMPRESSORS]
    assert codecs[-1] == "Crc32cCodec"
    assert len(codecs) == 2


def test_another_schema_is_refused(filled):
    file = filled / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["schema"] = SCHEMA + 1
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"a\.zarr: .* with schema {SCHEMA + 1}, .* reads schema {SCHEMA}"):
        store.read(filled)


def test_metadata_are_written_anew_and_blocks_stay(filled, values):
    chunks = {file: file.read_bytes() for file in store.files(filled) if "/c/" in str(file)}
    written = TEMPLATE.create(filled, store.attributes("new", 7))
    assert store.read_attributes(filled)["config_hash"] == "new"
    assert {file: file.read_bytes() for file in chunks} == chunks
    assert {file.name for file in written} == {"zarr.json", "0"}
    assert np.array_equal(store.read(filled).correlator, values)


def test_a_missing_or_damaged_store_is_refused(tmp_path, filled):
    with pytest.raises(UserError, match=r"b\.zarr: missing"):
        store.read(tmp_path / "b.zarr")
    (filled / "zarr.json").write_text('{"attributes": ')
    with pytest.raises(UserError, match=r"zarr\.json: damaged"):
        store.read(filled)


def test_small_files_are_replaced_in_one_step(tmp_path):
    path = tmp_path / "below" / "a.txt"
    files.write_text(path, "one σ\n")
    files.write_text(path, "two\n")
    assert path.read_text(encoding="utf-8") == "two\n"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def history(scale):
    return xr.Dataset(
        {"val_loss": (("ensemble", "epoch"), scale * np.ones((2, 3)), {"units": "1"})},
        coords={"ensemble": np.array(["Nmax", "Nref_rho"], object), "epoch": np.arange(3)},
    )


def test_a_dataset_is_written_whole_and_replaced(tmp_path):
    path = tmp_path / "history.zarr"
    for scale in (1.0, 2.0):
        store.write_dataset(path, history(scale), store.attributes("abc", 1))
    xr.testing.assert_equal(store.read(path).load(), history(2.0))
    assert store.read_attributes(path)["config_hash"] == "abc"
    assert xr.open_zarr(path, consolidated=False).ensemble.values.tolist() == ["Nmax", "Nref_rho"]
    assert [p.name for p in tmp_path.iterdir()] == ["history.zarr"]


def test_a_dataset_is_checked_on_reading(tmp_path):
    path = tmp_path / "history.zarr"
    store.write_dataset(path, history(1.0), store.attributes("abc", 1))
    flip(next(p for p in (path / "val_loss" / "c").rglob("*") if p.is_file()))
    with pytest.raises(DamageError, match="checksum"):
        store.read(path).val_loss.load()


def test_groups_share_a_store_and_are_replaced_one_by_one(tmp_path):
    path = tmp_path / "budget.zarr"
    for name, scale in (("o3", 1.0), ("peaks", 2.0), ("o3", 3.0)):
        store.create_groups(path, store.attributes("all", 1))
        store.write_dataset(path / name, history(scale), store.attributes(name, 1))
    xr.testing.assert_equal(store.read(path / "o3").load(), history(3.0))
    xr.testing.assert_equal(store.read(path / "peaks").load(), history(2.0))
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    assert set(tree.children) == {"o3", "peaks"}
    assert tree["peaks"].val_loss[0, 0].item() == 2.0
    assert tree.attrs["schema"] == SCHEMA
