"""A stack of networks while it is trained: weights, optimiser state, progress, and its file."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sdpipe.disk.files import read_sealed, write_sealed
from sdpipe.learn.networks import Parameters

MIN_FALL = 1e-5
"""A validation loss that falls by less does not count as progress for early stopping."""


@dataclass
class Progress:
    """Losses and the best epoch of one living member."""

    row: int
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = -1
    reference: float = math.inf
    since: int = 0

    def add(self, train: float, val: float) -> bool:
        """Note the losses of an epoch; return whether it is the best so far."""
        self.train_loss.append(train)
        self.val_loss.append(val)
        fell = val < self.reference - MIN_FALL
        self.reference, self.since = (val, 0) if fell else (self.reference, self.since + 1)
        if not val < self.best_loss:
            return False
        self.best_loss, self.best_epoch = val, len(self.val_loss) - 1
        return True


class Stack:
    """Weights, optimiser and progress of the living members; the first axis of every tensor is the member."""

    def __init__(self, parameters: Parameters, best: Parameters, progress: list[Progress]) -> None:
        self.parameters = {k: v.requires_grad_() for k, v in parameters.items()}
        self.best = best
        self.progress = progress
        self.epoch = 0
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), fused=True)

    def step(self, losses: Tensor, rate: float) -> None:
        """Take one step of Adam on every member; the sum of their losses keeps their gradients apart."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimizer.step()

    def keep(self, rows: list[int]) -> Stack:
        """Return the stack of the members at ``rows``, with their own weights and optimiser state."""
        smaller = Stack(
            {k: v.detach()[rows].clone() for k, v in self.parameters.items()},
            {k: v[rows].clone() for k, v in self.best.items()},
            [self.progress[r] for r in rows],
        )
        smaller.epoch = self.epoch
        for old, new in zip(self.parameters.values(), smaller.parameters.values(), strict=True):
            moments = self.optimizer.state[old]
            smaller.optimizer.state[new] = {
                "step": moments["step"].clone(),
                "exp_avg": moments["exp_avg"][rows].clone(),
                "exp_avg_sq": moments["exp_avg_sq"][rows].clone(),
            }
        return smaller

    def save(self, path: Path, identity: str) -> None:
        """Write everything that training goes on from, in one step."""
        state = {
            "identity": identity,
            "epoch": self.epoch,
            "parameters": {k: v.detach() for k, v in self.parameters.items()},
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "progress": [asdict(p) for p in self.progress],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_sealed(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, identity: str, device: torch.device) -> Stack | None:
        """Return the stack saved at ``path``, or None where there is none of this identity.

        Raises DamageError where the file is damaged.
        """
        if not path.exists():
            return None
        state = torch.load(io.BytesIO(read_sealed(path)), map_location=device, weights_only=True)
        if state["identity"] != identity:
            return None
        stack = cls(state["parameters"], state["best"], [Progress(**p) for p in state["progress"]])
        stack.optimizer.load_state_dict(state["optimizer"])
        stack.epoch = state["epoch"]
        return stack
