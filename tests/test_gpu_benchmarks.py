"""``python -m benchmarks gpu gpu-steps`` without a GPU, and the step that it times."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_steps


@pytest.mark.parametrize("benchmark", [gpu, gpu_steps])
def test_without_a_gpu_one_line_says_so(
    benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.measure(tmp_path) == []
    (line,) = capsys.readouterr().out.splitlines()
    assert "no NVIDIA GPU here" in line
    assert not list(tmp_path.iterdir())


def test_the_step_that_is_timed_trains_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps as there are calls, each on all weights: the graph replays this."""
    made = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *a, **k: made.append(adam(*a, **k)) or made[-1])
    step = gpu_steps.step_of(2, "cpu")
    before = [w.detach().clone() for w in made[0].param_groups[0]["params"]]
    step()
    step()
    after = made[0].param_groups[0]["params"]
    assert all(bool((old != new).any()) for old, new in zip(before, after, strict=True))
    assert {int(state["step"]) for state in made[0].state.values()} == {2}
