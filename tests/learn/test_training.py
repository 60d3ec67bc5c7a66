"""Stacks of replicas on tiny data in float64: independence, stopping, resuming, and the published protocol."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, mannwhitneyu

from sdpipe.learn import architectures
from sdpipe.learn.feeds import Member, TrainingSet
from sdpipe.learn.training import CPU, PROTOCOLS, MemberHistory, Outcome, Unfinished, one_cycle_rate, published_rate
from tests.learn.replicas import DEFAULT, PUBLISHED, Trained, constant, make_data, members_of, run, same

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "protocol",
    [
        replace(DEFAULT, rate=constant(5e-3), batch=4, patience=3),
        replace(PUBLISHED, rate=constant(5e-3), epochs=12, copies=3, patience=2),
        replace(DEFAULT, rate=constant(5e-3), batch=4, patience=3, head=True),
    ],
    ids=["default", "published", "head"],
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


def test_the_seed_decides():
    protocol = replace(DEFAULT, epochs=3)
    first, again, other = (run(make_data(), members_of(1), protocol, seed=s).outcomes[0] for s in (1, 1, 2))
    same(first, again, 0)
    assert first.val_loss != other.val_loss


def validation_loss(data: TrainingSet, outcome: Outcome) -> float:
    x, y = torch.as_tensor(data.read(0).x_val), torch.as_tensor(data.read(0).y_val)
    net = architectures.forward({k: v[None] for k, v in outcome.parameters.items()}, x[None])[0].detach()
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
    bad.read(0).y[3, 1] = np.inf
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
    single = run(make_data(), members_of(1), protocol, options=CPU).outcomes[0]
    assert single.parameters["conv1.weight"].dtype == torch.float32
    assert single.val_loss != run(make_data(), members_of(1), protocol).outcomes[0].val_loss
    assert validation_loss(make_data(), replace_weights(single)) == pytest.approx(single.val_loss[0], rel=1e-5)


def replace_weights(outcome: Outcome) -> Outcome:
    return replace(outcome, parameters={k: v.double() for k, v in outcome.parameters.items()})


def test_published_rate_is_flat_and_then_decays():
    rates = [published_rate(done, 200) for done in (0, 24.99, 25, 25.97, 49, 199)]
    assert rates == pytest.approx([2e-4 / f for f in (1, 1, 1.0004, 1.0004, 1.01, 1.07)], rel=1e-12)


def test_one_cycle_rises_to_its_peak_and_falls_to_zero():
    rate = np.array([one_cycle_rate(done, 10, peak=1.0) for done in np.linspace(0, 10, 101)])
    assert rate[[0, 30, 100]] == pytest.approx([0.1, 1, 0], abs=1e-12)
    assert np.array_equal(np.diff(rate) > 0, np.arange(100) < 30)


def test_in_single_precision_stacked_and_lone_replicas_end_with_losses_of_one_distribution():
    """Final validation losses of 12 replicas of a stack and of 12 others trained alone: two independent samples.

    Kolmogorov-Smirnov and Mann-Whitney, each with p > 0.001: rounding, and so the draw, differs between processors.
    """
    data, members = make_data(m=100), members_of(24)
    protocol = replace(DEFAULT, rate=constant(1e-2), batch=8, epochs=12, patience=99)
    stacked = run(data, members[:12], protocol, options=CPU).outcomes
    lone = [run(data, [m], protocol, options=CPU).outcomes[0] for m in members[12:]]
    together, alone = [stacked[i].val_loss[-1] for i in range(12)], [o.val_loss[-1] for o in lone]
    assert ks_2samp(together, alone).pvalue > 0.001
    assert mannwhitneyu(together, alone).pvalue > 0.001


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
        run(data, members, protocol, unfinished=Unfinished(state, "a"), on_epoch=interrupt)
    assert state.exists()
    resumed = run(data, members, protocol, unfinished=Unfinished(state, "a"))
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
        run(data, members, protocol, unfinished=Unfinished(state, "a"), on_epoch=interrupt, into=partly)
    resumed = run(data, members, protocol, unfinished=Unfinished(state, "a"))
    assert 0 < len(partly.outcomes) < 3
    outcomes = partly.outcomes | resumed.outcomes
    assert sorted(outcomes) == [0, 1, 2]
    for i, outcome in outcomes.items():
        same(outcome, whole.outcomes[i], 0)


@pytest.mark.parametrize("damage", [False, True])
def test_a_state_that_is_damaged_or_of_another_training_is_not_taken_up(tmp_path, damage):
    data, members, state = make_data(), members_of(1), tmp_path / "state.pt"
    protocol = replace(DEFAULT, epochs=4)

    def interrupt(epoch, _losses):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_data(5), members, protocol, unfinished=Unfinished(state, "old"), on_epoch=interrupt)
    if damage:
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    fresh = run(data, members, protocol, unfinished=Unfinished(state, "old" if damage else "new"))
    assert [epoch for epoch, _ in fresh.epochs] == [1, 2, 3, 4]
    same(fresh.outcomes[0], run(data, members, protocol).outcomes[0], 0)


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
    history = MemberHistory(0)
    for loss in losses:
        history.add(loss, loss)
    assert (history.since, history.best_epoch) == (since, best)


@pytest.mark.parametrize(
    ("rate", "words"),
    [(1e30, "at epoch 0, seed 1"), (3.0, "above that of predicting the mean")],
    ids=["not finite", "worse than the mean"],
)
def test_a_network_that_diverges_is_named_and_not_kept(cli, tiny_config, tmp_path, monkeypatch, rate, words):
    wild = replace(PROTOCOLS["published"], rate=lambda _done, _epochs: rate, copies=1)
    monkeypatch.setitem(PROTOCOLS, "published", wild)
    root, small = tmp_path / "run", "ensembles={Nmax: {Nb: 16, Nrho: 1200, network: arcS}}"
    overrides = [small, "smearing.sigma=[0.44]", "budget.references={}", "training.protocol=published"]
    assert cli("generate", tiny_config, *overrides, "--run", root).status == 0
    outcome = cli("train", root)
    assert outcome.status == 1
    line = outcome.err.splitlines()[-1]
    assert line.startswith("error: training diverged: train-Nmax-0.44-r0 ")
    assert words in line
    assert "train-Nmax-0.44-r1" in line
    assert not list(root.glob("networks/*.npz"))
    assert "networks: not done" in cli("predict", root).fault


def test_a_head_learns_how_far_off_the_estimate_is():
    """|y - rho| of Laplace noise of width b(x): the loss |r|/b + ln b is least where b is the mean of |r|."""
    rng = np.random.default_rng(3)
    x, x_val = rng.standard_normal((2000, 4)), rng.standard_normal((500, 4))
    width = np.where(x[:, :1] > 0, 0.4, 0.1)
    y = width * rng.laplace(size=(2000, 3))
    linear = {"weight": np.zeros((4, 3)), "offset": np.zeros(3), "scale": np.ones(3), "noise": np.zeros((4, 4))}
    data = make_data(x=x, s=np.ones(2000), y=y, x_val=x_val, y_val=np.zeros((500, 3)), **linear)
    protocol = replace(DEFAULT, batch=64, epochs=25, patience=25, head=True)
    (outcome,) = run(data, members_of(1), protocol).outcomes.values()
    p = {name: v[None] for name, v in outcome.parameters.items()}
    _, log_error = architectures.split(architectures.forward(p, torch.as_tensor(x_val)[None]))
    b = torch.exp(log_error)[0].numpy()
    assert np.median(b[x_val[:, 0] > 0.3]) == pytest.approx(0.4, rel=0.25)
    assert np.median(b[x_val[:, 0] < -0.3]) == pytest.approx(0.1, rel=0.35)
