"""Checkpoints hold all there is to a network, and only what was recorded is loaded."""

from dataclasses import fields, replace

import numpy as np
import pytest
import xarray as xr

from sdpipe.disk.receipts import sha256
from sdpipe.errors import UserError
from sdpipe.learn import architectures, trained
from sdpipe.learn.audience import Audience, Statistics, load, save
from sdpipe.learn.trained import Network
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.spectra import ChebyshevPrior

TIMES, E = [1, 2, 3, 4, 5, 6], [0.2, 0.7, 1.2, 1.7]
SIGMA, ENSEMBLES, REPLICAS = [0.63, 0.44], {"Nmax": "arcM", "Nref_n": "arcS", "Nref_b": "arcM"}, 2


def make_network(ensemble="Nmax", sigma_index=0, replica=0, architecture="arcM") -> Network:
    """A network with random weights and transforms, a function of its place in the grid."""
    seed = 100 * list(ENSEMBLES).index(ensemble) + 10 * sigma_index + replica
    rng = np.random.default_rng(seed)
    t, e = len(TIMES), len(E)
    drawn = architectures.initialise(architecture, t, e, seed)
    return Network(
        ensemble=ensemble,
        replica=replica,
        sigma=SIGMA[sigma_index],
        architecture=architecture,
        parameters={k: v.float().numpy() + np.float32(0.1) for k, v in drawn.items()},
        mean=rng.standard_normal(t),
        matrix=rng.standard_normal((t, t)),
        weight=rng.standard_normal((t, e)),
        offset=rng.standard_normal(e),
        scale=rng.uniform(0.5, 2, e),
        linear_loss=0.01,
        posterior_loss=0.009,
        train_loss=[0.3, 0.2, 0.1],
        val_loss=[0.3, 0.2, 0.25],
        best_epoch=1,
        seed=seed,
        audience="f00d",
        config_hash="0123456789abcdef",
    )


def make_audience() -> Audience:
    """What the networks of :func:`make_network` share, with random statistics."""
    rng = np.random.default_rng(99)
    t, e, n = len(TIMES), len(E), len(SIGMA)
    root = rng.standard_normal((t, t))
    grid = Observables(Kernel("vector", 12), tuple(TIMES), tuple(SIGMA), tuple(E))
    noise = Noise(tuple(TIMES), rng.standard_normal(t), root @ root.T, "networks")
    linear = rng.standard_normal((t, n, e)), rng.standard_normal((n, e)), np.stack([np.eye(e)] * n)
    statistics = Statistics(rng.standard_normal(t), np.eye(t), 0.3, *linear)
    return Audience(grid, noise, ChebyshevPrior(16), 0.2, "whiten", False, statistics)


def test_what_all_networks_share_is_one_file_that_xarray_opens(tmp_path):
    audience = make_audience()
    path = tmp_path / "networks" / "audience.nc"
    digest = save(path, audience)
    assert save(path, audience) == digest
    loaded = load(path, digest)
    assert loaded.identity == audience.identity
    assert loaded.to_dataset().identical(audience.to_dataset())
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        assert np.array_equal(opened.noise_covariance, audience.noise.covariance)
        assert opened.linear_weight.dims == ("t", "sigma", "E")
    with pytest.raises(UserError, match="not the recorded one"):
        load(path, "0" * 64)


def test_the_identity_of_an_audience_is_that_of_its_grids_noise_and_prior():
    audience = make_audience()
    louder = replace(audience.noise, covariance=4 * audience.noise.covariance)
    others = [replace(audience, noise=louder), replace(audience, threshold=0.3), replace(audience, head=True)]
    assert len({audience.identity, *(other.identity for other in others)}) == 4
    assert replace(audience, statistics=None).identity == audience.identity


def test_a_checkpoint_holds_everything(tmp_path):
    network = make_network()
    path = tmp_path / "networks" / "Nmax.npz"
    loaded = trained.load(path, trained.save(path, network))
    for f in fields(Network):
        old, new = getattr(network, f.name), getattr(loaded, f.name)
        if isinstance(old, np.ndarray):
            assert new.dtype == old.dtype, f.name
            assert np.array_equal(new, old), f.name
        elif f.name in ("prior", "smearing"):
            assert new == old
        elif isinstance(old, dict):
            assert list(old) == list(new)
            assert all(np.array_equal(old[k], new[k]) and old[k].dtype == new[k].dtype for k in old)
        else:
            assert new == old, f.name
            assert type(new) is type(old), f.name
    assert [p.name for p in path.parent.iterdir()] == ["Nmax.npz"]


@pytest.mark.parametrize("place", [0.0, 0.1, 0.37, 0.5, 0.93, 1.0])
def test_a_flipped_bit_is_refused(tmp_path, place):
    path = tmp_path / "a.npz"
    recorded = trained.save(path, make_network())
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.npz: damaged"):
        trained.load(path, recorded)


@pytest.mark.parametrize("length", [0, 1, 200, 5000])
def test_a_truncated_checkpoint_is_refused_even_where_that_is_recorded(tmp_path, length):
    path = tmp_path / "a.npz"
    trained.save(path, make_network())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        trained.load(path, sha256(path))


def test_a_checkpoint_that_is_missing_or_of_which_there_is_no_record_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.npz: missing"):
        trained.load(tmp_path / "a.npz", "")
    trained.save(tmp_path / "a.npz", make_network())
    for record in ("", None):
        with pytest.raises(UserError, match=r"a\.npz: damaged"):
            trained.load(tmp_path / "a.npz", record)


def test_a_checkpoint_of_another_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "SCHEMA", trained.SCHEMA + 1)
    recorded = trained.save(tmp_path / "a.npz", make_network())
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"with schema {trained.SCHEMA + 1}"):
        trained.load(tmp_path / "a.npz", recorded)


def test_a_checkpoint_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.npz"
    first = trained.save(path, make_network())
    second = trained.save(path, replace(make_network(), best_epoch=2))
    assert first != second
    assert trained.load(path, second).best_epoch == 2
    assert trained.save(path, make_network()) == first
