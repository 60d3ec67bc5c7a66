"""Many networks at once against one at a time, and the checkpoints that hold them."""

import pickle
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
import torch

from sdpipe.errors import UserError
from sdpipe.infer import inference
from sdpipe.learn import networks, trained
from sdpipe.learn.trained import Network

TIMES, E = [1, 2, 3, 4, 5, 6], [0.2, 0.7, 1.2, 1.7]
SIGMA, ENSEMBLES, REPLICAS = [0.63, 0.44], {"Nmax": "arcM", "Nref_n": "arcS", "Nref_b": "arcM"}, 2


def make_network(ensemble="Nmax", sigma_index=0, replica=0, architecture="arcM") -> Network:
    """A network with random weights and transforms, a function of its place in the grid."""
    seed = 100 * list(ENSEMBLES).index(ensemble) + 10 * sigma_index + replica
    rng = np.random.default_rng(seed)
    t, e = len(TIMES), len(E)
    drawn = networks.initialise(architecture, t, e, seed)
    root = rng.standard_normal((t, t))
    return Network(
        ensemble=ensemble,
        replica=replica,
        sigma=SIGMA[sigma_index],
        sigma_index=sigma_index,
        architecture=architecture,
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
        signal=np.eye(t),
        lattice_mean=rng.standard_normal(t),
        covariance=root @ root.T,
        linear_loss=0.01,
        train_loss=[0.3, 0.2, 0.1],
        val_loss=[0.3, 0.2, 0.25],
        best_epoch=1,
        seed=seed,
        config_hash="0123456789abcdef",
    )


@pytest.fixture
def audience() -> list[Network]:
    """Three ensembles of two architectures, two sigma, two replicas."""
    grid = product(ENSEMBLES, range(2), range(REPLICAS))
    return [make_network(e, s, r, ENSEMBLES[e]) for e, s, r in grid]


@pytest.fixture
def correlators() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((9, len(TIMES)))


def by_hand(n: Network, correlators: np.ndarray) -> np.ndarray:
    """offset + x @ weight + scale * network(x) with x = (C - mean) @ matrix, in float64."""
    x = (correlators - n.mean) @ n.matrix
    p = {k: v.double()[None] for k, v in n.parameters.items()}
    return n.offset + x @ n.weight + n.scale * networks.forward(p, torch.as_tensor(x)[None])[0].numpy()


def test_every_network_gives_its_own_estimate(audience, correlators):
    rho = inference.predict(audience, correlators)
    assert rho.dims == ("sigma", "ensemble", "replica", "boot", "E")
    assert rho.shape == (2, 3, 2, 9, 4)
    for n in audience:
        value = rho.sel(sigma=n.sigma, ensemble=n.ensemble, replica=n.replica).values
        assert value == pytest.approx(by_hand(n, correlators), rel=1e-4, abs=1e-4)


def test_all_networks_at_once_equal_one_at_a_time(audience, correlators):
    rho = inference.predict(audience, correlators)
    for n in audience:
        alone = inference.predict([n], correlators).values[0, 0, 0]
        assert rho.sel(sigma=n.sigma, ensemble=n.ensemble, replica=n.replica).values == pytest.approx(
            alone, rel=1e-5, abs=1e-5
        )


def test_all_correlators_at_once_equal_one_at_a_time(audience, correlators, monkeypatch):
    at_once = inference.predict(audience, correlators)
    for boot in range(9):
        alone = inference.predict(audience, correlators[boot : boot + 1])
        assert at_once.values[:, :, :, boot] == pytest.approx(alone.values[:, :, :, 0], rel=1e-5, abs=1e-5)
    monkeypatch.setattr(inference, "PAIRS", 32)
    assert inference.predict(audience, correlators).values == pytest.approx(at_once.values, rel=1e-5, abs=1e-5)


def test_order_of_the_networks_is_irrelevant(audience, correlators):
    rho = inference.predict(audience, correlators)
    backwards = inference.predict(audience[::-1], correlators)
    assert backwards.sel(ensemble=rho.ensemble).values == pytest.approx(rho.values, rel=1e-5, abs=1e-5)


def test_predictions_carry_the_grids_of_the_networks(audience, correlators):
    rho = inference.predict(audience, correlators)
    assert rho.sigma.values.tolist() == SIGMA
    assert rho.ensemble.values.tolist() == list(ENSEMBLES)
    assert rho.replica.values.tolist() == [0, 1]
    assert rho.boot.values.tolist() == list(range(9))
    assert rho.E.values.tolist() == E
    assert (rho.sigma.units, rho.E.units, rho.units) == ("GeV", "GeV", "1")


def test_missing_networks_are_refused_and_named(audience, correlators):
    lacking = [n for n in audience if (n.ensemble, n.sigma, n.replica) != ("Nref_n", 0.44, 1)]
    with pytest.raises(UserError, match=r"networks missing: Nref_n sigma=0\.44 replica 1$"):
        inference.predict(lacking, correlators)


@pytest.mark.parametrize("shape", [(9, 5), (9, 7), (6,), (2, 9, 6)])
def test_correlators_at_other_times_are_refused(audience, shape):
    with pytest.raises(UserError, match=r"the networks take \(boot, 6\), t = 1\.\.6"):
        inference.predict(audience, np.ones(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_correlators_that_are_not_finite_are_refused(audience, correlators, bad):
    correlators[3, 2] = bad
    with pytest.raises(UserError, match="not finite"):
        inference.predict(audience, correlators)


def test_a_checkpoint_holds_everything(tmp_path, correlators):
    network = make_network()
    path = tmp_path / "networks" / "Nmax.pt"
    sha256 = trained.save(path, network)
    loaded = trained.load(path, sha256)
    for f in fields(Network):
        old, new = getattr(network, f.name), getattr(loaded, f.name)
        if isinstance(old, np.ndarray):
            assert new.dtype == old.dtype, f.name
            assert np.array_equal(new, old), f.name
        elif isinstance(old, dict):
            assert list(old) == list(new)
            assert all(torch.equal(old[k], new[k]) for k in old)
        else:
            assert new == old, f.name
            assert type(new) is type(old), f.name
    assert np.array_equal(inference.predict([loaded], correlators), inference.predict([network], correlators))
    assert [p.name for p in path.parent.iterdir()] == ["Nmax.pt"]


def test_a_checkpoint_loads_without_executing_code(tmp_path):
    path = tmp_path / "a.pt"
    trained.save(path, make_network())
    content = torch.load(path, weights_only=True)
    assert {f.name for f in fields(Network)} < set(content)


class Intruder:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, protocol=2))])
def test_a_file_with_code_in_it_is_refused_and_not_executed(tmp_path, write):
    write({"schema": 1, "ensemble": Intruder(tmp_path / "executed")}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        trained.load(tmp_path / "a.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("place", [0.0, 0.1, 0.37, 0.5, 0.93, 1.0])
def test_a_flipped_bit_is_refused(tmp_path, place):
    path = tmp_path / "a.pt"
    sha256 = trained.save(path, make_network())
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.pt: damaged"):
        trained.load(path, sha256)


@pytest.mark.parametrize("length", [0, 1, 200, 5000])
def test_a_truncated_checkpoint_is_refused_even_without_its_hash(tmp_path, length):
    path = tmp_path / "a.pt"
    trained.save(path, make_network())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        trained.load(path)


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.pt: missing"):
        trained.load(tmp_path / "a.pt")


def test_a_checkpoint_of_another_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "SCHEMA", trained.SCHEMA + 1)
    trained.save(tmp_path / "a.pt", make_network())
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"with schema {trained.SCHEMA + 1}"):
        trained.load(tmp_path / "a.pt")


def test_a_checkpoint_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.pt"
    first = trained.save(path, make_network())
    second = trained.save(path, replace(make_network(), best_epoch=2))
    assert first != second
    assert trained.load(path, second).best_epoch == 2
    assert trained.save(path, make_network()) == first
