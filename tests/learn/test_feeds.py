"""What members are shown: order, noise and copies, from memory and streamed."""

import math
from dataclasses import replace
from itertools import pairwise, product, starmap

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from sdpipe.learn import architectures
from sdpipe.learn.feeds import Chunk, Feed, Member, TrainingSet
from sdpipe.learn.training import CPU, Unfinished
from tests.learn.replicas import DEFAULT, DOUBLE, PUBLISHED, E, T, constant, make_data, members_of, run, same, set_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_replicas_differ_in_data_order_and_in_noise(monkeypatch):
    """Two replicas that start from the same weights: order matters in small batches, noise in a full one too."""
    initialise = architectures.initialise
    monkeypatch.setattr(
        architectures, "initialise", lambda name, inputs, outputs, _seed: initialise(name, inputs, outputs, 0)
    )

    def histories(batch, **changes):
        protocol = replace(DEFAULT, rate=constant(1e-3), batch=batch, epochs=3)
        outcomes = run(make_data(**changes), members_of(2), protocol).outcomes
        return [np.array(outcomes[i].val_loss) for i in range(2)]

    first, second = histories(4, noise=np.zeros((T, T)))
    assert np.abs(first - second).min() > 1e-6
    first, second = histories(40, noise=np.zeros((T, T)))
    assert first == pytest.approx(second, rel=1e-12)
    first, second = histories(40)
    assert np.abs(first - second).min() > 1e-8


def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own(monkeypatch):
    """What the networks are shown while they train, for two members over three epochs, without noise."""
    shown, forward = [], architectures.forward

    def spy(p, x):
        if torch.is_grad_enabled():
            shown.append(x.detach().numpy().copy())
        return forward(p, x)

    monkeypatch.setattr(architectures, "forward", spy)
    data = make_data(noise=np.zeros((T, T)))
    run(data, members_of(2), replace(DEFAULT, epochs=3, batch=7))
    x = data.read(0).x
    assert [x.shape[1] for x in shown] == 3 * [7, 7, 7, 7, 7, 5]
    orders = []
    for epoch in range(3):
        for member in range(2):
            rows = np.concatenate([x[member] for x in shown[6 * epoch : 6 * epoch + 6]])
            orders.append([int(np.argmin(np.abs(x - row).sum(axis=1))) for row in rows])
            assert np.array_equal(rows, x[orders[-1]])
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6


def test_every_pair_of_sample_and_noise_copy_counts_once_an_epoch():
    """At rate zero the training loss is the mean over all stored pairs, also with a last batch that is not full."""
    rng = np.random.default_rng(2)
    stored = rng.standard_normal((40, 3, T)) * 10.0 ** rng.uniform(-1, 1, (40, 3, 1))
    data = make_data(stored=stored, weight=np.zeros((T, E)), offset=np.zeros(E), scale=np.ones(E))
    protocol = replace(PUBLISHED, rate=constant(0.0), batch=7, epochs=3)
    outcome = run(data, members_of(1), protocol).outcomes[0]
    net = architectures.forward(
        {k: v[None] for k, v in outcome.parameters.items()}, torch.as_tensor(stored.reshape(1, -1, T))
    )
    expected = np.abs(net[0].detach().numpy().reshape(40, 3, E) - data.read(0).y[:, None]).mean()
    assert outcome.train_loss == pytest.approx([expected] * 3, rel=1e-12)


def test_fresh_noise_is_drawn_anew_in_every_epoch_and_fixed_copies_are_not():
    still = replace(DEFAULT, rate=constant(0.0), epochs=3)
    assert len(set(run(make_data(), members_of(1), still).outcomes[0].train_loss)) == 3
    fixed = run(make_data(), members_of(1), replace(still, fresh=False)).outcomes[0].train_loss
    assert fixed == pytest.approx([fixed[0]] * 3, rel=1e-12)
    silent = run(make_data(noise=np.zeros((T, T))), members_of(1), still).outcomes[0].train_loss
    assert silent == pytest.approx([silent[0]] * 3, rel=1e-12)


def test_noise_has_the_scale_and_covariance_of_the_data():
    """A linear estimate sees noise s z N: its mean absolute value is sqrt(2 / pi) s |N w|."""
    n, w = 20_000, np.linspace(-1, 1, T)[:, None] * np.ones((T, E))
    s, y = np.random.default_rng(1).uniform(2, 4, n), make_data(n=n).read(0).x @ w
    data = make_data(n=n, weight=w, scale=np.zeros(E), offset=np.zeros(E), s=s, y=y)
    loss = (
        run(data, members_of(1), replace(DEFAULT, rate=constant(0.0), epochs=1, batch=5000)).outcomes[0].train_loss[0]
    )
    expected = math.sqrt(2 / math.pi) * s.mean() * np.linalg.norm(data.noise @ w[:, 0])
    assert loss == pytest.approx(expected, rel=0.03)


def test_validation_data_never_enter_training():
    protocol = replace(DEFAULT, epochs=5)
    first = run(make_data(), members_of(2), protocol).outcomes
    other = run(make_data(x_val=np.full((4, T), 9.0), y_val=np.zeros((4, E))), members_of(2), protocol).outcomes
    for i in range(2):
        assert first[i].train_loss == other[i].train_loss
        assert first[i].val_loss != other[i].val_loss


# --- streamed ----------------------------------------------------------------------------------------------------


def streamed(data: TrainingSet, sizes: tuple[int, ...]) -> TrainingSet:
    """Cut data into chunks of these numbers of training samples, the validation samples into parts of their own."""
    whole, ends = data.read(0), np.cumsum([0, *sizes])
    cuts = np.linspace(0, len(whole.x_val), len(sizes) + 1).astype(int)
    chunks = []
    for rows, val in zip(starmap(slice, pairwise(ends)), starmap(slice, pairwise(cuts)), strict=True):
        stored = None if whole.stored is None else whole.stored[rows]
        chunks.append(Chunk(whole.x[rows], whole.s[rows], whole.y[rows], whole.x_val[val], whole.y_val[val], stored))
    return set_of(chunks, noise=data.noise, weight=data.weight, offset=data.offset, scale=data.scale)


SIZES = (8, 8, 5, 8, 8, 3)


def epochs(data, protocol, members, count=2, batch=7):
    """Return inputs and targets of each member in each epoch, as (epoch, member) -> (pair, t + E)."""
    source = Feed([data], protocol.copies, protocol.fresh, 1, DOUBLE)
    shown = []
    for epoch in range(count):
        batches = [torch.cat(pair, dim=2).numpy() for pair in source.batches(members, epoch, batch)]
        assert len(batches) == source.steps(epoch, batch)
        shown.append(np.concatenate(batches, axis=1))
    assert shown[0].shape[1] == source.pairs
    return shown


def in_order(rows):
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("copies", [1, 3])
def test_streamed_epochs_hold_the_samples_that_epochs_in_memory_hold(copies):
    """As a set, pair by pair with its target, for every member; in an order that every member has for itself."""
    stored = np.random.default_rng(3).standard_normal((40, copies, T))
    for data in (make_data(noise=np.zeros((T, T))), make_data(stored=stored)):
        protocol = replace(DEFAULT, copies=copies)
        ours, theirs = (epochs(d, protocol, members_of(2)) for d in (streamed(data, SIZES), data))
        orders = set()
        for epoch, member in product(range(2), range(2)):
            assert np.array_equal(in_order(ours[epoch][member]), in_order(theirs[epoch][member]))
            orders.add(ours[epoch][member].tobytes())
        assert len(orders) == 4


def test_streamed_samples_are_shuffled_across_the_chunks_of_a_buffer():
    first = epochs(streamed(make_data(noise=np.zeros((T, T))), (10,) * 4), DEFAULT, members_of(1), count=1)[0][0]
    x = make_data().read(0).x
    chunk = [int(np.argmin(np.abs(x - row[:T]).sum(axis=1))) // 10 for row in first[:20]]
    assert len(set(chunk)) == 4


def test_streamed_noise_is_fresh_or_fixed_as_the_protocol_says():
    data = streamed(make_data(), SIZES)
    fresh = epochs(data, replace(DEFAULT, copies=2), members_of(1))
    fixed = epochs(data, replace(DEFAULT, copies=2, fresh=False), members_of(1))
    assert np.array_equal(*(in_order(e[0]) for e in fixed))
    assert not np.isclose(in_order(fresh[0][0]), in_order(fresh[1][0])).any(axis=0)[:T].all()
    assert not np.array_equal(fixed[0][0], fixed[1][0])


@pytest.mark.parametrize("protocol", [DEFAULT, PUBLISHED], ids=["default", "published"])
def test_each_replica_of_a_streamed_stack_is_what_it_is_alone(protocol):
    data = [streamed(make_data(0), SIZES), streamed(make_data(1), SIZES)]
    protocol = replace(protocol, rate=constant(5e-3), batch=8, epochs=12, patience=2)
    members = [*members_of(2), Member(1, ("Nref", 1, 0))]
    together = run(data, members, protocol).outcomes
    assert len({len(o.val_loss) for o in together.values()}) > 1
    for i, member in enumerate(members):
        same(together[i], run(data, [member], protocol).outcomes[0], 1e-9)


def test_streamed_validation_is_that_in_memory():
    still = replace(DEFAULT, rate=constant(0.0), epochs=1)
    ours, theirs = (run(d, members_of(2), still).outcomes for d in (streamed(make_data(), SIZES), make_data()))
    for i in range(2):
        assert ours[i].val_loss == pytest.approx(theirs[i].val_loss, rel=1e-12)


def test_streamed_and_in_memory_trainings_end_with_losses_of_one_distribution():
    """Mann-Whitney on the final validation losses of 16 replicas each, whose order and noise differ: p > 0.05."""
    data = make_data(n=40, m=200)
    protocol = replace(DEFAULT, rate=lambda done, n: 5e-3 * (1 - done / n), batch=8, epochs=12)
    ours, theirs = (
        [o.val_loss[-1] for o in run(d, members_of(16), protocol, options=CPU).outcomes.values()]
        for d in (streamed(data, SIZES), data)
    )
    assert not set(ours) & set(theirs)
    assert mannwhitneyu(ours, theirs).pvalue > 0.05
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.05)


def test_an_interrupted_streamed_training_resumes_to_the_same_weights(tmp_path):
    data, state = streamed(make_data(), SIZES), tmp_path / "state.pt"
    protocol = replace(DEFAULT, epochs=5)

    def interrupt(epoch, _losses):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, members_of(2), protocol, unfinished=Unfinished(state, "a"), on_epoch=interrupt)
    resumed = run(data, members_of(2), protocol, unfinished=Unfinished(state, "a")).outcomes
    whole = run(data, members_of(2), protocol).outcomes
    for i in range(2):
        same(resumed[i], whole[i], 0)


def test_a_chunk_that_cannot_be_read_ends_the_training():
    def read(_: int) -> Chunk:
        raise OSError("bad checksum")

    with pytest.raises(OSError, match="bad checksum"):
        run(replace(streamed(make_data(), SIZES), read=read), members_of(1), DEFAULT)


def test_a_floor_adds_an_error_of_its_own_to_every_time():
    rng = np.random.default_rng(5)
    floor, matrix = rng.uniform(0.5, 2, (3, 4)), rng.standard_normal((4, 4))
    quiet = {"noise": np.zeros((4, 4)), "weight": np.zeros((4, 3)), "offset": np.zeros(3), "scale": np.ones(3)}
    data = make_data(n=3, floor=floor, **quiet)
    source = Feed([replace(data, matrix=matrix)], 20_000, True, 1, DOUBLE)
    ((inputs, _),) = source.batches([Member(0, ("a",))], 0, 60_000)
    centre = torch.as_tensor(data.read(0).x)
    spread = (inputs[0] - centre.mean(dim=0)).numpy()
    between = np.cov(np.asarray(centre).T, bias=True)
    expected = between + np.mean([matrix.T @ np.diag(f**2) @ matrix for f in floor], axis=0)
    np.testing.assert_allclose(spread.T @ spread / len(spread), expected, atol=0.05 * np.abs(expected).max())
