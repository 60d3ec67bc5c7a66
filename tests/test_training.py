"""Stacks of replicas on tiny data in float64: independence, resuming, stopping, and the published protocol."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from sdpipe import networks
from sdpipe.stacks import Progress
from sdpipe.training import (
    PROTOCOLS,
    Data,
    Member,
    Outcome,
    Protocol,
    device_for,
    one_cycle_rate,
    published_rate,
    train,
)

T, E = 4, 3


@pytest.fixture(autouse=True)
def _one_thread():
    """Steps this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_data(seed=0, n=40, m=16, **changes) -> Data:
    """A noisy linear problem with a bend: y = tanh(x A)."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((T, E))
    x, x_val = rng.standard_normal((n, T)), rng.standard_normal((m, T))
    made = Data(
        x=x,
        s=rng.uniform(0.5, 1.5, n),
        y=np.tanh(x @ A),
        noise=0.05 * rng.standard_normal((T, T)),
        x_val=x_val,
        y_val=np.tanh(x_val @ A),
        weight=0.3 * A,
        offset=0.1 * rng.standard_normal(E),
        scale=rng.uniform(0.2, 0.6, E),
    )
    return replace(made, **changes)


def constant(rate):
    return lambda _done, _epochs: rate


DEFAULT = replace(PROTOCOLS["default"], batch=8, epochs=30)
PUBLISHED = replace(PROTOCOLS["published"], batch=8, epochs=8, copies=4)


@dataclass
class Trained:
    """Everything that training reported."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    epochs: list[tuple[int, list[tuple[int, float]]]] = field(default_factory=list)


def run(data, members, protocol, *, seed=1, on_epoch=None, into=None, **options) -> Trained:
    """Train arcS in float64, and note into ``into`` what was reported until the end or an interruption."""
    trained = into or Trained()

    def note(epoch, losses):
        trained.epochs.append((epoch, losses))
        if on_epoch:
            on_epoch(epoch, losses)

    data = data if isinstance(data, list) else [data]
    options = {"dtype": torch.float64} | options
    train("arcS", data, members, protocol, seed, trained.outcomes.__setitem__, on_epoch=note, **options)
    return trained


def same(a: Outcome, b: Outcome, tolerance: float) -> None:
    """Assert that two networks went the same way and ended with the same weights."""
    assert a.best_epoch == b.best_epoch
    assert a.diverged == b.diverged
    assert len(a.val_loss) == len(b.val_loss)
    assert a.val_loss == pytest.approx(b.val_loss, abs=tolerance)
    assert a.train_loss == pytest.approx(b.train_loss, abs=tolerance)
    for name, weights in a.parameters.items():
        torch.testing.assert_close(weights, b.parameters[name], rtol=0, atol=tolerance, msg=name)


def members_of(count, data=0):
    return [Member(data, ("Nmax", 0, r)) for r in range(count)]


@pytest.mark.parametrize(
    "protocol",
    [
        replace(DEFAULT, rate=constant(5e-3), batch=4, patience=3),
        replace(PUBLISHED, rate=constant(5e-3), epochs=12, copies=3, patience=2),
    ],
    ids=["default", "published"],
)
def test_each_replica_of_a_stack_is_what_it_is_alone(protocol):
    """Weights, history and stopping epoch, over more than a hundred steps and past early stops of others."""
    data = [make_data(0), make_data(1)]
    members = [*members_of(3), Member(1, ("Nref", 1, 0))]
    together = run(data, members, protocol)
    lengths = {i: len(o.val_loss) for i, o in together.outcomes.items()}
    assert sorted(lengths) == [0, 1, 2, 3]
    assert min(lengths.values()) < max(lengths.values())
    pairs = 40 * protocol.copies
    assert max(lengths.values()) * math.ceil(pairs / protocol.batch) > 100
    assert min(lengths.values()) < protocol.epochs
    for i, member in enumerate(members):
        same(together.outcomes[i], run(data, [member], protocol).outcomes[0], 1e-9)
    pair = run(data, [members[3], members[1]], protocol)
    same(pair.outcomes[0], together.outcomes[3], 1e-9)
    same(pair.outcomes[1], together.outcomes[1], 1e-9)


def test_replicas_differ_from_each_other():
    outcomes = run(make_data(), members_of(3), replace(DEFAULT, epochs=3)).outcomes
    assert len({o.val_loss[-1] for o in outcomes.values()}) == 3
    assert len({o.parameters["conv1.weight"].numpy().tobytes() for o in outcomes.values()}) == 3


def test_replicas_differ_in_data_order_and_in_noise(monkeypatch):
    """Two replicas that start from the same weights: order matters in small batches, noise in a full one too."""
    initialise = networks.initialise
    monkeypatch.setattr(
        networks, "initialise", lambda name, inputs, outputs, _seed: initialise(name, inputs, outputs, 0)
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
    shown, forward = [], networks.forward

    def spy(p, x):
        if torch.is_grad_enabled():
            shown.append(x.detach().numpy().copy())
        return forward(p, x)

    monkeypatch.setattr(networks, "forward", spy)
    data = make_data(noise=np.zeros((T, T)))
    run(data, members_of(2), replace(DEFAULT, epochs=3, batch=7))
    assert [x.shape[1] for x in shown] == 3 * [7, 7, 7, 7, 7, 5]
    orders = []
    for epoch in range(3):
        for member in range(2):
            rows = np.concatenate([x[member] for x in shown[6 * epoch : 6 * epoch + 6]])
            orders.append([int(np.argmin(np.abs(data.x - row).sum(axis=1))) for row in rows])
            assert np.array_equal(rows, data.x[orders[-1]])
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6


def test_the_seed_decides():
    protocol = replace(DEFAULT, epochs=3)
    first, again, other = (run(make_data(), members_of(1), protocol, seed=s).outcomes[0] for s in (1, 1, 2))
    same(first, again, 0)
    assert first.val_loss != other.val_loss


@pytest.mark.parametrize(
    "protocol", [replace(DEFAULT, epochs=8), replace(PUBLISHED, epochs=6)], ids=["default", "published"]
)
@pytest.mark.parametrize("stop_at", [1, 4])
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, protocol, stop_at):
    data, members, state = make_data(), members_of(2), tmp_path / "deep" / "state.pt"
    whole = run(data, members, protocol)

    def interrupt(epoch, _losses):
        if epoch == stop_at + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, members, protocol, state=state, identity="a", on_epoch=interrupt)
    assert state.exists()
    resumed = run(data, members, protocol, state=state, identity="a")
    assert resumed.epochs[0][0] == stop_at + 1
    for i in range(2):
        same(resumed.outcomes[i], whole.outcomes[i], 0)
    assert not list(state.parent.iterdir())


def test_an_interruption_after_a_member_has_left_resumes_to_the_same_weights(tmp_path):
    data, members, state = make_data(), members_of(3), tmp_path / "state.pt"
    protocol = replace(DEFAULT, rate=constant(5e-3), batch=4, patience=3)
    whole = run(data, members, protocol)
    lengths = sorted(len(o.val_loss) for o in whole.outcomes.values())
    assert lengths[0] + 1 < lengths[-1]

    def interrupt(epoch, _losses):
        if epoch == lengths[0] + 2:
            raise KeyboardInterrupt

    partly = Trained()
    with pytest.raises(KeyboardInterrupt):
        run(data, members, protocol, state=state, identity="a", on_epoch=interrupt, into=partly)
    resumed = run(data, members, protocol, state=state, identity="a")
    assert 0 < len(partly.outcomes) < 3
    outcomes = partly.outcomes | resumed.outcomes
    assert sorted(outcomes) == [0, 1, 2]
    for i, outcome in outcomes.items():
        same(outcome, whole.outcomes[i], 0)


def test_the_state_of_another_training_is_not_taken_up(tmp_path):
    data, members, state = make_data(), members_of(1), tmp_path / "state.pt"
    protocol = replace(DEFAULT, epochs=4)

    def interrupt(epoch, _losses):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_data(5), members, protocol, state=state, identity="old", on_epoch=interrupt)
    fresh = run(data, members, protocol, state=state, identity="new")
    same(fresh.outcomes[0], run(data, members, protocol).outcomes[0], 0)


def validation_loss(data: Data, outcome: Outcome) -> float:
    x, y = torch.as_tensor(data.x_val), torch.as_tensor(data.y_val)
    net = networks.forward({k: v[None] for k, v in outcome.parameters.items()}, x[None])[0].detach()
    estimate = torch.as_tensor(data.offset) + x @ torch.as_tensor(data.weight) + torch.as_tensor(data.scale) * net
    return float((estimate - y).abs().mean())


def test_the_weights_of_the_best_epoch_are_kept():
    data = make_data()
    protocol = replace(DEFAULT, rate=constant(3e-2), patience=5)
    outcomes = run(data, members_of(3), protocol).outcomes
    assert any(o.best_epoch < len(o.val_loss) - 1 for o in outcomes.values())
    for outcome in outcomes.values():
        assert outcome.best_epoch == int(np.argmin(outcome.val_loss))
        assert validation_loss(data, outcome) == pytest.approx(min(outcome.val_loss), rel=1e-12)


def test_training_stops_when_the_validation_loss_no_longer_falls():
    outcome = run(make_data(), members_of(1), replace(DEFAULT, rate=constant(0.0), patience=4)).outcomes[0]
    assert len(outcome.val_loss) == 1 + 4
    assert outcome.best_epoch == 0


@pytest.mark.parametrize(
    ("losses", "since", "best"),
    [
        ([1.0, 0.9, 0.8], 0, 2),
        ([1.0, 1.1, 1.2], 2, 0),
        ([1.0, 1.0 - 0.6e-5], 1, 1),
        ([1.0, 1.0 - 0.6e-5, 1.0 - 1.2e-5], 0, 2),
        ([1.0, 0.5, 0.6, 0.4, 0.41, 0.42], 2, 3),
        ([math.nan, 0.5], 0, 1),
    ],
)
def test_a_fall_by_less_than_1e_5_is_no_progress_but_may_be_the_best_epoch(losses, since, best):
    progress = Progress(0)
    for loss in losses:
        progress.add(loss, loss)
    assert (progress.since, progress.best_epoch) == (since, best)


def test_a_member_that_diverges_leaves_the_others_as_they_are():
    bad = make_data(1)
    bad.y[3, 1] = np.inf
    data, members = [make_data(0), bad], [Member(0, ("a", 0)), Member(1, ("b", 0)), Member(0, ("a", 1))]
    protocol = replace(DEFAULT, epochs=5)
    outcomes = run(data, members, protocol).outcomes
    assert outcomes[1].diverged == 0
    assert [outcomes[i].diverged for i in (0, 2)] == [None, None]
    for i in (0, 2):
        same(outcomes[i], run(data[:1], [members[i]], protocol).outcomes[0], 1e-9)
        assert all(torch.isfinite(w).all() for w in outcomes[i].parameters.values())


def test_a_member_may_diverge_on_its_way():
    """A huge learning rate from epoch 2 on drives the loss to overflow."""
    protocol = replace(DEFAULT, epochs=6, rate=lambda done, _: 1e-3 if done < 2 else 1e200)
    outcome = run(make_data(), members_of(1), protocol).outcomes[0]
    assert outcome.diverged == 2
    assert outcome.best_epoch in (0, 1)
    assert all(torch.isfinite(w).all() for w in outcome.parameters.values())


def test_validation_data_never_enter_training():
    protocol = replace(DEFAULT, epochs=5)
    first = run(make_data(), members_of(2), protocol).outcomes
    other = run(make_data(x_val=np.full((4, T), 9.0), y_val=np.zeros((4, E))), members_of(2), protocol).outcomes
    for i in range(2):
        assert first[i].train_loss == other[i].train_loss
        assert first[i].val_loss != other[i].val_loss


def test_every_pair_of_sample_and_noise_copy_counts_once_an_epoch():
    """At rate zero the training loss is the mean over all stored pairs, also with a last batch that is not full."""
    rng = np.random.default_rng(2)
    stored = rng.standard_normal((40, 3, T)) * 10.0 ** rng.uniform(-1, 1, (40, 3, 1))
    data = make_data(stored=stored, weight=np.zeros((T, E)), offset=np.zeros(E), scale=np.ones(E))
    protocol = replace(PUBLISHED, rate=constant(0.0), batch=7, epochs=3)
    outcome = run(data, members_of(1), protocol).outcomes[0]
    net = networks.forward(
        {k: v[None] for k, v in outcome.parameters.items()}, torch.as_tensor(stored.reshape(1, -1, T))
    )
    expected = np.abs(net[0].detach().numpy().reshape(40, 3, E) - data.y[:, None]).mean()
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
    data = make_data(n=n, weight=w, scale=np.zeros(E), offset=np.zeros(E))
    data = replace(data, y=data.x @ w, s=np.random.default_rng(1).uniform(2, 4, n))
    loss = (
        run(data, members_of(1), replace(DEFAULT, rate=constant(0.0), epochs=1, batch=5000)).outcomes[0].train_loss[0]
    )
    expected = math.sqrt(2 / math.pi) * data.s.mean() * np.linalg.norm(data.noise @ w[:, 0])
    assert loss == pytest.approx(expected, rel=0.03)


def test_training_lowers_the_loss_of_both_protocols():
    for protocol, rate in ((DEFAULT, one_cycle_rate), (PUBLISHED, constant(2e-3))):
        losses = run(make_data(n=160), members_of(1), replace(protocol, rate=rate, batch=16, epochs=10)).outcomes[0]
        assert min(losses.val_loss) < 0.7 * losses.val_loss[0]
        assert losses.train_loss[-1] < 0.7 * losses.train_loss[0]


def test_a_single_step_is_one_of_adam():
    """Weights move by the rate against the sign of their gradient, rate 1 epoch = 1 full batch."""
    data, rate = make_data(), 1e-3
    protocol = replace(DEFAULT, rate=constant(rate), batch=1000, epochs=1)
    start = run(data, members_of(1), replace(protocol, rate=constant(0.0))).outcomes[0].parameters
    moved = run(data, members_of(1), protocol).outcomes[0].parameters
    for name, weights in moved.items():
        step = (weights - start[name]).abs()
        taken = step[step > 0]
        assert taken.numel() > 0
        assert taken.max().item() == pytest.approx(rate, rel=1e-3)
        assert taken.median().item() == pytest.approx(rate, rel=1e-2)


def test_epochs_are_reported_as_they_end():
    trained = run(make_data(), members_of(2), replace(DEFAULT, epochs=3))
    assert [epoch for epoch, _ in trained.epochs] == [1, 2, 3]
    for epoch, losses in trained.epochs:
        assert losses == [(i, trained.outcomes[i].val_loss[epoch - 1]) for i in range(2)]


def test_single_precision_is_the_default_and_agrees_at_first():
    protocol = replace(DEFAULT, epochs=1)
    single = run(make_data(), members_of(1), protocol, dtype=torch.float32).outcomes[0]
    assert single.parameters["conv1.weight"].dtype == torch.float32
    assert single.val_loss != run(make_data(), members_of(1), protocol).outcomes[0].val_loss
    assert validation_loss(make_data(), replace_weights(single)) == pytest.approx(single.val_loss[0], rel=1e-5)


def replace_weights(outcome: Outcome) -> Outcome:
    return replace(outcome, parameters={k: v.double() for k, v in outcome.parameters.items()})


@pytest.mark.parametrize(
    ("done", "rate"),
    [
        (0, 2e-4),
        (24.99, 2e-4),
        (25, 2e-4 / 1.0004),
        (25.97, 2e-4 / 1.0004),
        (49, 2e-4 / 1.01),
        (199, 2e-4 / 1.07),
    ],
)
def test_published_rate_is_flat_and_then_decays(done, rate):
    assert published_rate(done, 200) == pytest.approx(rate, rel=1e-12)


def test_published_protocol_is_that_of_the_paper():
    assert PROTOCOLS["published"] == Protocol(
        epochs=200, batch=32, rate=published_rate, copies=20, fresh=False, residual=False, patience=15
    )
    default = PROTOCOLS["default"]
    assert default.fresh
    assert default.residual


def test_one_cycle_rises_to_its_peak_and_falls_to_zero():
    rate = [one_cycle_rate(done, 10, peak=1.0) for done in np.linspace(0, 10, 101)]
    assert rate[0] == pytest.approx(0.1)
    assert int(np.argmax(rate)) == 30
    assert max(rate) == pytest.approx(1)
    assert rate[-1] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(rate[:31]) > 0)
    assert np.all(np.diff(rate[30:]) < 0)


def test_auto_takes_a_gpu_where_there_is_one():
    assert device_for("cpu") == torch.device("cpu")
    assert device_for("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
