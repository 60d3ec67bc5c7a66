"""Stacks of replicas on tiny data in float64: independence, stopping, and the published protocol."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, mannwhitneyu

from sdpipe.learn import networks
from sdpipe.learn.feeds import Data, Member
from sdpipe.learn.training import (
    PROTOCOLS,
    Outcome,
    Protocol,
    device_for,
    one_cycle_rate,
    published_rate,
)
from tests.learn.replicas import DEFAULT, PUBLISHED, constant, make_data, members_of, run, same

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_the_seed_decides():
    protocol = replace(DEFAULT, epochs=3)
    first, again, other = (run(make_data(), members_of(1), protocol, seed=s).outcomes[0] for s in (1, 1, 2))
    same(first, again, 0)
    assert first.val_loss != other.val_loss


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


def test_in_single_precision_stacked_and_lone_replicas_end_with_losses_of_one_distribution():
    """Final validation losses of 12 replicas of a stack and of 12 others trained alone: two independent samples.

    Kolmogorov-Smirnov and Mann-Whitney, each with p > 0.001: rounding, and so the draw, differs between processors.
    """
    data, members = make_data(m=100), members_of(24)
    protocol = replace(DEFAULT, rate=constant(1e-2), batch=8, epochs=12, patience=99)
    stacked = run(data, members[:12], protocol, dtype=torch.float32).outcomes
    lone = [run(data, [m], protocol, dtype=torch.float32).outcomes[0] for m in members[12:]]
    together, alone = [stacked[i].val_loss[-1] for i in range(12)], [o.val_loss[-1] for o in lone]
    assert ks_2samp(together, alone).pvalue > 0.001
    assert mannwhitneyu(together, alone).pvalue > 0.001
