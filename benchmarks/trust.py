"""Which estimate to trust, on draws of known truth: the rule of ``compare`` beside fixed choices and other rules.

    python -m benchmarks trust

``reconstruct`` validates networks and methods on draws of each family, for a correlator in ``data/`` and some files of
``benchmarks files``. Each draw is one on which somebody chooses: one estimate always, the one with the smallest
calibrated error, HLT wherever two estimates differ by more than two errors, or what
:func:`sdpipe.infer.compare.compare` trusts. Errors are relative to the largest density of the draw, and
their median over draws counts: some draws have nothing at these energies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

import sdpipe
from benchmarks.files import drawn, said
from benchmarks.table import Row
from sdpipe.infer.compare import AGREE, LEAST, compare

FILES = (1001, 1002, 1003)
"""Seeds of files that no other table is of."""

LEVEL = 0.683

FAMILIES = ("resonance", "peaks", "few_states", "o3", "delta_tanh")

KEYS = (
    "seed=11",
    "methods=[hlt, posterior, positive]",
    f"validation={{samples: 400, bootstrap: 5, families: {{{', '.join(f'{n}: {{kind: {n}}}' for n in FAMILIES)}}}}}",
)
"""What ``reconstruct`` is given: a seed that no scheme was chosen with, and every estimator that reads C(t)."""


def measure(directory: Path) -> list[Row]:
    """Choose on each draw of each file by every rule; return errors and coverage, means over files and families."""
    root = directory / "trust"
    root.mkdir(parents=True, exist_ok=True)
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for path, keys in [(Path("data/pseudoscalar.txt"), []), *(_file(root, seed) for seed in FILES)]:
        run = sdpipe.reconstruct(path, *keys, *KEYS, run=root / path.stem)
        validation = run.validation.load()
        for family in [str(name) for name in validation.family.values if name != "mixture-auto"]:
            draws = [_scores(budget, truth) for budget, truth in _draws(validation.sel(family=family))]
            for name in draws[0]:
                errors, inside = np.transpose([d[name] for d in draws])
                scores[name].append((float(np.median(errors)), float(inside.mean())))
            words = {name: f"{100 * x[-1][0]:.2f} %, {100 * x[-1][1]:.0f} %" for name, x in scores.items()}
            print(path.name, family, len(draws), words, flush=True)
    rows = []
    for name, each in scores.items():
        error, inside = np.mean(each, axis=0)
        rows.append(Row(f"trust {name}: error / largest rho", 100 * float(error), "%"))
        rows.append(Row(f"trust {name}: covered by the calibrated error", 100 * float(inside), "%"))
    return rows


def _file(root: Path, seed: int) -> tuple[Path, list[str]]:
    mock = drawn(seed)
    return mock.write(root / f"file{seed}"), said(mock)


def _draws(validation: xr.Dataset) -> Iterator[tuple[xr.Dataset, xr.DataArray]]:
    """Yield the budget of each tested draw of a family, and its truth (sigma, E)."""
    factors = validation.sel(level=LEVEL).isel(scale_rule=0)
    for i in np.flatnonzero(validation.tested.values):
        draw = validation.isel(sample=i)
        budget = draw[["central", "estimator_central", "estimator_error"]]
        budget["total"] = (draw.error**2).sum("source") ** 0.5
        budget["calibrated"] = factors.factor * budget.total
        budget["estimator_calibrated"] = factors.estimator_factor * budget.estimator_error
        facts = {name: float(draw[name]) for name in ("goodness_of_fit", "p_value")}
        yield budget.drop_attrs().assign_attrs(level=LEVEL, **facts), draw.truth


def _scores(budget: xr.Dataset, truth: xr.DataArray) -> dict[str, tuple[float, float]]:
    """Return mean error and coverage of every choice; the first estimate where the rule trusts none."""
    compared = compare(budget)
    names = [str(name) for name in compared.estimate.values]
    sharpest = names[int(compared.calibrated.mean(("sigma", "E")).values.argmin())]
    trusted = str(compared.attrs["trusted"])
    agree = bool((np.abs(compared.pull) <= AGREE).all())
    chosen = {f"{name} always": name for name in names}
    chosen["the smallest error"] = sharpest
    chosen["HLT where two differ, else the smallest error"] = sharpest if agree else LEAST
    chosen["the rule of compare"] = trusted if trusted in names else names[0]
    off = np.abs(compared.central - truth)
    inside = (off <= compared.calibrated).mean(("sigma", "E"))
    relative = off.mean(("sigma", "E")) / float(np.abs(truth).max())
    return {how: (float(relative.sel(estimate=x)), float(inside.sel(estimate=x))) for how, x in chosen.items()}
