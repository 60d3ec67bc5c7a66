"""What docs/extending.md says of adding a thing, as typed: a component of the prior, and an estimator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import xarray as xr

from tests.fixtures import REPOSITORY

if TYPE_CHECKING:
    from tests.fixtures import Outcome

FEW = ["validation={samples: 60, levels: [0.683], bootstrap: 2, families: {}}", "bootstrap=20", "training.epochs=1"]


def examples() -> list[str]:
    """Return the code that the page shows, in its order."""
    text = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    return [dedent(block) for block in re.findall(r"\n\n((?:      .*\n)+)", text)]


def test_a_component_and_an_estimator_of_ones_own_work_as_typed(
    shell: Callable[..., Outcome], tiny_config: Path
) -> None:
    component, estimator = examples()
    body, _, last = component.partition("if __name__")
    (tiny_config.parent / "mine.py").write_text(f"{body}\n{estimator}\nif __name__{last}", encoding="utf-8")
    keys = ["methods=[linear, doubled]", "spectra.mixture={chebyshev: 1, pole: 1}", "--run", "run", "-q"]
    outcome = shell("mine.py", "run", "tiny.yaml", *keys, *FEW, cwd=tiny_config.parent)
    assert outcome.status == 0, outcome.err
    run = tiny_config.parent / "run"
    training, budget = (xr.open_zarr(run / name, consolidated=False) for name in ("training.zarr", "budget.zarr/o3"))
    assert training.component.flag_meanings == "chebyshev pole"
    errors = budget.estimator_error
    assert (errors.sel(estimator="doubled") == 2 * errors.sel(estimator="linear")).all()
