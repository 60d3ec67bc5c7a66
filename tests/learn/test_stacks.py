"""The state of a stack: resuming, and progress for early stopping."""

import math
from dataclasses import replace

import pytest

from sdpipe.learn.stacks import Progress
from tests.learn.replicas import DEFAULT, PUBLISHED, Trained, constant, make_data, members_of, run, same

pytestmark = pytest.mark.usefixtures("one_thread")


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
