"""Checkpoints hold all there is to a network, and only what was recorded is loaded."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from sdpipe.disk.receipts import sha256
from sdpipe.errors import UserError
from sdpipe.learn import architectures, trained
from sdpipe.learn.trained import Network

TIMES, E = [1, 2, 3, 4, 5, 6], [0.2, 0.7, 1.2, 1.7]
SIGMA, ENSEMBLES, REPLICAS = [0.63, 0.44], {"Nmax": "arcM", "Nref_n": "arcS", "Nref_b": "arcM"}, 2


def make_network(ensemble="Nmax", sigma_index=0, replica=0, architecture="arcM") -> Network:
    """A network with random weights and transforms, a function of its place in the grid."""
    seed = 100 * list(ENSEMBLES).index(ensemble) + 10 * sigma_index + replica
    rng = np.random.default_rng(seed)
    t, e = len(TIMES), len(E)
    drawn = architectures.initialise(architecture, t, e, seed)
    root = rng.standard_normal((t, t))
    return Network(
        ensemble=ensemble,
        replica=replica,
        sigma=SIGMA[sigma_index],
        sigmas=SIGMA,
        seen_sigmas=SIGMA,
        seen_energies=E,
        architecture=architecture,
        inputs="whiten",
        head=False,
        prior={"Nb": 16},
        kernel="vector",
        period=12,
        spacing=1.0,
        times=TIMES,
        energies=E,
        parameters={k: v.float() + 0.1 for k, v in drawn.items()},
        mean=rng.standard_normal(t),
        matrix=rng.standard_normal((t, t)),
        weight=rng.standard_normal((t, e)),
        offset=rng.standard_normal(e),
        scale=rng.uniform(0.5, 2, e),
        linear_weight=rng.standard_normal((t, e)),
        linear_offset=rng.standard_normal(e),
        linear_unresolved=np.eye(e),
        typical=0.3,
        data_mean=rng.standard_normal(t),
        signal=np.eye(t),
        lattice_mean=rng.standard_normal(t),
        covariance=root @ root.T,
        floor=0.0,
        linear_loss=0.01,
        posterior_loss=0.009,
        train_loss=[0.3, 0.2, 0.1],
        val_loss=[0.3, 0.2, 0.25],
        best_epoch=1,
        seed=seed,
        config_hash="0123456789abcdef",
    )


def test_a_checkpoint_holds_everything(tmp_path):
    network = make_network()
    path = tmp_path / "networks" / "Nmax.pt"
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
            assert all(torch.equal(old[k], new[k]) for k in old)
        else:
            assert new == old, f.name
            assert type(new) is type(old), f.name
    assert [p.name for p in path.parent.iterdir()] == ["Nmax.pt"]


@pytest.mark.parametrize("place", [0.0, 0.1, 0.37, 0.5, 0.93, 1.0])
def test_a_flipped_bit_is_refused(tmp_path, place):
    path = tmp_path / "a.pt"
    recorded = trained.save(path, make_network())
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.pt: damaged"):
        trained.load(path, recorded)


@pytest.mark.parametrize("length", [0, 1, 200, 5000])
def test_a_truncated_checkpoint_is_refused_even_where_that_is_recorded(tmp_path, length):
    path = tmp_path / "a.pt"
    trained.save(path, make_network())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        trained.load(path, sha256(path))


def test_a_checkpoint_that_is_missing_or_of_which_there_is_no_record_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.pt: missing"):
        trained.load(tmp_path / "a.pt", "")
    trained.save(tmp_path / "a.pt", make_network())
    for record in ("", None):
        with pytest.raises(UserError, match=r"a\.pt: damaged"):
            trained.load(tmp_path / "a.pt", record)


def test_a_checkpoint_of_another_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "SCHEMA", trained.SCHEMA + 1)
    recorded = trained.save(tmp_path / "a.pt", make_network())
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"with schema {trained.SCHEMA + 1}"):
        trained.load(tmp_path / "a.pt", recorded)


def test_a_checkpoint_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.pt"
    first = trained.save(path, make_network())
    second = trained.save(path, replace(make_network(), best_epoch=2))
    assert first != second
    assert trained.load(path, second).best_epoch == 2
    assert trained.save(path, make_network()) == first
