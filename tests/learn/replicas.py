"""Tiny stacks for the tests of training: data, protocols, and everything that a training reports."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from sdpipe.learn.feeds import Chunk, Member, TensorOptions, TrainingSet
from sdpipe.learn.training import PROTOCOLS, Outcome, Recipe, train

T, E = 4, 3
DOUBLE = TensorOptions(torch.device("cpu"), torch.float64)


def set_of(chunks: list[Chunk], **matrices) -> TrainingSet:
    """The training set of these chunks."""
    rows, held_out = (tuple(len(getattr(c, name)) for c in chunks) for name in ("x", "x_val"))
    copies = 0 if chunks[0].stored is None else chunks[0].stored.shape[1]
    return TrainingSet(chunks.__getitem__, rows, held_out, copies, **matrices)


def make_data(seed=0, n=40, m=16, **changes) -> TrainingSet:
    """A noisy linear problem with a bend, y = tanh(x A), in one chunk; ``changes`` replace arrays of it."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((T, E))
    x, x_val = rng.standard_normal((n, T)), rng.standard_normal((m, T))
    s, noise = rng.uniform(0.5, 1.5, n), 0.05 * rng.standard_normal((T, T))
    offset, scale = 0.1 * rng.standard_normal(E), rng.uniform(0.2, 0.6, E)
    matrices = {"noise": noise, "weight": 0.3 * A, "offset": offset, "scale": scale}
    matrices |= {name: changes.pop(name) for name in matrices.keys() & changes.keys()}
    return set_of([replace(Chunk(x, s, np.tanh(x @ A), x_val, np.tanh(x_val @ A)), **changes)], **matrices)


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
    options = {"options": DOUBLE} | options

    def note(epoch, losses):
        trained.epochs.append((epoch, losses))
        if on_epoch:
            on_epoch(epoch, losses)

    data = data if isinstance(data, list) else [data]
    train(Recipe("arcS", protocol, seed), data, members, trained.outcomes.__setitem__, on_epoch=note, **options)
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
