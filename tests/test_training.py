"""Training: replicas are independent, runs resume exactly, the best epoch is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdpipe import networks
from sdpipe.training import PROTOCOLS, Data, Member, Outcome, Protocol, one_cycle_rate, published_rate, train

T, E, N, M = 8, 5, 60, 40


def make_data(seed: int, residual: bool = True, **changes: np.ndarray) -> Data:
    """Return a small smooth problem: y is a nonlinear function of x."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(T, E))
    x, x_val = rng.normal(size=(N, T)), rng.normal(size=(M, T))
    data = Data(
        x=x,
        s=rng.uniform(0.5, 1.5, N),
        y=np.tanh(x @ mix),
        noise=0.01 * np.eye(T),
        x_val=x_val,
        y_val=np.tanh(x_val @ mix),
        weight=0.1 * mix if residual else np.zeros((T, E)),
        offset=np.zeros(E),
        scale=np.full(E, 0.5) if residual else np.ones(E),
    )
    return replace(data, **changes)


def run(
    data: list[Data], members: list[Member], protocol: Protocol, seed: int = 1, **options: object
) -> dict[Member, Outcome]:
    """Train in float64 and return the outcome of each member."""
    outcomes: dict[Member, Outcome] = {}

    def finished(i: int, outcome: Outcome) -> None:
        outcomes[members[i]] = outcome

    train("arcS", data, members, protocol, seed, finished, dtype=torch.float64, **options)
    return outcomes


def members_of(count: int, data: int = 0) -> list[Member]:
    """Return ``count`` members with streams of their own."""
    return [Member(data, ("Nmax", 0, r)) for r in range(count)]


def assert_same(one: Outcome, other: Outcome, tolerance: float) -> None:
    """Assert that two outcomes have the same weights, histories and stopping epoch."""
    assert len(one.val_loss) == len(other.val_loss)
    assert one.best_epoch == other.best_epoch
    np.testing.assert_allclose(one.val_loss, other.val_loss, rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.train_loss, other.train_loss, rtol=0, atol=tolerance)
    for name in one.parameters:
        torch.testing.assert_close(one.parameters[name], other.parameters[name], rtol=0, atol=tolerance)


SHORT = {
    "default": replace(PROTOCOLS["default"], epochs=40, batch=16, rate=lambda *_: 1e-2, patience=3),
    "published": replace(PROTOCOLS["published"], epochs=12, batch=32, copies=3, rate=lambda *_: 1e-2, patience=2),
}
"""Each protocol at a size of some hundred steps, with a patience that stops some replicas early."""


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_replica_of_a_stack_follows_the_trajectory_that_it_has_alone(name: str, seed: int) -> None:
    data = [make_data(seed, residual=name == "default"), make_data(seed + 10, residual=name == "default")]
    members = [*members_of(3), Member(1, ("Nref", 1, 0))]
    together = run(data, members, SHORT[name], seed)
    lengths = {len(o.val_loss) for o in together.values()}
    assert len(lengths) > 1, "the test needs a replica that stops before another"
    for member in members:
        assert_same(together[member], run(data, [member], SHORT[name], seed)[member], 1e-9)
    pair = run(data, members[1:3], SHORT[name], seed)
    assert_same(together[members[2]], pair[members[2]], 1e-9)


def test_replicas_differ_in_weights_order_and_noise() -> None:
    a, b = run([make_data(1)], members_of(2), SHORT["default"]).values()
    assert any(not torch.equal(a.parameters[k], b.parameters[k]) for k in a.parameters)
    assert a.train_loss != b.train_loss


class Interrupted(Exception):
    """Stands for a killed training."""


@pytest.mark.parametrize("name", SHORT)
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, name: str) -> None:
    data, members, state = [make_data(3)], members_of(3), tmp_path / "stack.pt"
    expected = run(data, members, SHORT[name])

    def kill(epoch: int, _: object) -> None:
        if epoch == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(data, members, SHORT[name], state=state, identity="a", on_epoch=kill)
    assert state.exists()
    resumed = run(data, members, SHORT[name], state=state, identity="a")
    for member, outcome in resumed.items():
        assert_same(outcome, expected[member], 0)
    assert not state.exists()


def test_a_state_of_another_identity_is_not_resumed(tmp_path: Path) -> None:
    data, members, state = [make_data(3)], members_of(1), tmp_path / "stack.pt"
    epochs: list[int] = []

    def kill(epoch: int, _: object) -> None:
        if epoch == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(data, members, SHORT["default"], state=state, identity="a", on_epoch=kill)
    run(data, members, SHORT["default"], state=state, identity="b", on_epoch=lambda e, _: epochs.append(e))
    assert epochs[0] == 1


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    data, member = make_data(5), members_of(1)[0]
    protocol = replace(SHORT["default"], rate=lambda done, _: 3e-3 if done < 6 else 0.5, epochs=9, patience=20)
    outcome = run([data], [member], protocol)[member]
    assert outcome.best_epoch == int(np.argmin(outcome.val_loss)) < 8
    p = {k: v[None] for k, v in outcome.parameters.items()}
    x = torch.as_tensor(data.x_val)[None]
    estimate = x @ torch.as_tensor(data.weight) + torch.as_tensor(data.scale) * networks.forward(p, x)
    loss = float((torch.as_tensor(data.y_val) - estimate).abs().mean())
    assert loss == pytest.approx(min(outcome.val_loss), abs=1e-12)


def test_early_stopping_counts_falls_of_at_least_1e_5() -> None:
    protocol = replace(SHORT["default"], rate=lambda *_: 1e-9, epochs=30, patience=3)
    outcome = run([make_data(1)], members_of(1), protocol)[members_of(1)[0]]
    assert len(outcome.val_loss) == 4
    assert outcome.val_loss[-1] <= outcome.val_loss[0]


def test_a_member_whose_loss_is_not_finite_leaves_and_the_others_are_untouched() -> None:
    good, bad = make_data(1), make_data(2)
    bad.y[0, 0] = math.inf
    members = [Member(0, ("a", 0, 0)), Member(1, ("b", 0, 0)), Member(0, ("a", 0, 1))]
    outcomes = run([good, bad], members, SHORT["default"])
    assert outcomes[members[1]].diverged == 0
    for member in (members[0], members[2]):
        assert outcomes[member].diverged is None
        assert_same(outcomes[member], run([good], [member], SHORT["default"])[member], 1e-9)


def test_training_does_not_depend_on_the_validation_samples() -> None:
    data, member = make_data(1), members_of(1)[0]
    protocol = replace(SHORT["default"], epochs=4, patience=9)
    other = replace(data, x_val=data.x_val * 3, y_val=data.y_val - 2)
    one, two = run([data], [member], protocol)[member], run([other], [member], protocol)[member]
    assert one.train_loss == two.train_loss
    assert one.val_loss != two.val_loss


def test_training_learns() -> None:
    outcome = run([make_data(1)], members_of(1), replace(SHORT["default"], patience=40))[members_of(1)[0]]
    assert min(outcome.val_loss) < 0.7 * outcome.val_loss[0]


def test_stored_copies_replace_drawn_noise() -> None:
    data = make_data(1)
    stored = np.repeat(data.x[:, None], 2, axis=1)
    protocol = replace(SHORT["default"], epochs=2)
    drawn = replace(data, noise=np.full((T, T), 1e3))
    outcomes = [
        run([replace(d, stored=stored)], members_of(1), protocol)[members_of(1)[0]].train_loss for d in (data, drawn)
    ]
    assert outcomes[0] == outcomes[1]


def test_published_learning_rate() -> None:
    assert published_rate(0.0, 200) == published_rate(24.99, 200) == 2e-4
    assert published_rate(25.0, 200) == pytest.approx(2e-4 / (1 + 4e-4))
    assert published_rate(199.5, 200) == pytest.approx(2e-4 / (1 + 4e-4 * 175))
    published = PROTOCOLS["published"]
    assert (published.epochs, published.batch, published.copies, published.patience) == (200, 32, 20, 15)
    assert not published.fresh
    assert not published.residual


def test_one_cycle_rate_rises_then_falls_to_zero() -> None:
    rates = [one_cycle_rate(e, 20) for e in np.linspace(0, 20, 101)]
    peak = int(np.argmax(rates))
    assert peak == 30
    assert all(a < b for a, b in zip(rates[:peak], rates[1 : peak + 1], strict=True))
    assert all(a > b for a, b in zip(rates[peak:-1], rates[peak + 1 :], strict=True))
    assert rates[-1] == pytest.approx(0, abs=1e-12)
