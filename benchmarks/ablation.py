"""What each part of the default is worth: inputs, error head, prior, each of its components, and knowing rho >= 0.

    python -m benchmarks ablation

trains one ensemble of the quickstart's problem for each row and tests it on spectra of known truth: mean absolute error
and half width at 68.3 % at the smaller sigma, coverage at both sigma and at the worst single energy, and the interval
score at 68.3 % (T. Gneiting and A. Raftery, J. Am. Stat. Assoc. 102 (2007) 359). Tables of every family lie in
DIR/ablation/*.txt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import sdpipe
from benchmarks.commands import run_stage
from benchmarks.table import Row
from sdpipe.config.load import load_config
from sdpipe.config.schema import to_yaml
from sdpipe.disk import files, store
from sdpipe.disk.layout import Layout
from sdpipe.infer.calibration import rules_of
from sdpipe.infer.coverage import predict_draws
from sdpipe.physics.prior import Mixture
from sdpipe.physics.samples import generate
from sdpipe.pipeline.tasks import load_predictor

CONFIG = Path("configs/quickstart.yaml")
LEVEL = 0.683
FAMILIES = ("chebyshev", "o3", "resonance", "peaks", "delta_tanh", "finite_volume", "sign_changing", "few_states")
SAMPLES = 2000


def _variants() -> dict[str, list[str]]:
    """Return what is varied: name -> overrides of the quickstart."""
    mixture = dict(load_config(CONFIG).spectra.mixture)
    found = {}
    for prior, inputs, head in product(("chebyshev", "mixture"), ("whiten", "posterior"), ("none", "scale")):
        shares = mixture if prior == "mixture" else {"chebyshev": 1}
        choice = [f"spectra.mixture={json.dumps(shares)}", f"training.inputs={inputs}", f"training.head={head}"]
        found[f"{prior} {inputs} {head}"] = choice
    for name in mixture:
        rest = json.dumps({k: v for k, v in mixture.items() if k != name})
        found[f"without {name}"] = [f"spectra.mixture={rest}", "training.inputs=posterior", "training.head=none"]
    positive = json.dumps({k: v for k, v in mixture.items() if k != "signed"})
    known = [f"spectra.mixture={positive}", "spectra.positive=true"]
    found["positive"] = [*known, "training.inputs=posterior", "training.head=none"]
    few = ["ensembles={Nmax: {Nb: 64, Nrho: 4096, network: mlpXS}}", "spectra.Nrho=4096", "training.epochs=4"]
    found["mixture local scale"] = [*few, "training.inputs=local", "training.head=scale"]
    return found


def _scores(validation: xr.Dataset) -> dict[str, dict[str, list[float]]]:
    """Return mae, width, score, and coverage and its least over E, per family and sigma."""
    names, found = [str(f) for f in validation.family.values], {}
    for family in FAMILIES:
        i = names.index(family)
        one = validation.isel(family=i)
        one = one.isel(sample=one.tested.values)
        q = validation.factor.sel(level=LEVEL).isel(scale_rule=rules_of(validation)[i])
        off, half = np.abs(one.central - one.truth), one.total * q
        score = 2 * half + 2 / (1 - LEVEL) * np.maximum(off - half, 0)
        inside = off <= half
        found[family] = {
            "mae": off.mean(("sample", "E")).values.tolist(),
            "width": half.mean(("sample", "E")).values.tolist(),
            "score": score.mean(("sample", "E")).values.tolist(),
            "coverage": inside.mean(("sample", "E")).values.tolist(),
            "coverage 95": validation.coverage.sel(family=family, level=0.954).values.tolist(),
            "worst": inside.mean("sample").min("E").values.tolist(),
        }
    return found


def table(scores: dict[str, dict[str, list[float]]]) -> str:
    """Return the scores of one variant as text, both sigma side by side."""

    def cell(key: str, values: list[float]) -> str:
        percent = key in ("coverage", "coverage 95", "worst")
        return " / ".join(f"{100 * v:.1f}" if percent else f"{v:.5f}" for v in values)

    keys = list(next(iter(scores.values())))
    rows = [["family", *keys], *([f, *(cell(k, one[k]) for k in keys)] for f, one in scores.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _unseen(layout: Layout, component: str) -> NDArray:
    """Return the factor (sigma,) by which calibrated errors must grow to cover LEVEL of an unseen component's draws."""
    run = sdpipe.open_run(layout.root)
    config, validation = run.config, run.validation.load()
    prior = Mixture({component: 1}, config.spectra.chebyshev(64))
    made = generate(prior, config.observables, config.seed, 0, SAMPLES, stream="unseen")
    predictor = load_predictor(config, layout)
    boots, generator = config.validation.bootstrap, np.random.default_rng(1)
    found = predict_draws(predictor, config.budget.references, made.correlator, boots, False, generator)
    total = np.sqrt(np.sum(found["error"] ** 2, axis=1) + found["beyond"] ** 2)
    q = validation.factor.sel(level=LEVEL).isel(scale_rule=0).transpose("sigma", "E").values
    score = np.abs(found["central"] - made.smeared) / (total * q)
    return np.quantile(score, LEVEL, axis=(0, 2))


def measure(directory: Path, names: Sequence[str] = ()) -> list[Row]:
    """Train and test every variant, or those of ``names``; a row for each, of its means over the families."""
    rows, root = [], directory / "ablation"
    root.mkdir(parents=True, exist_ok=True)
    for name, overrides in ((n, v) for n, v in _variants().items() if not names or n in names):
        layout = Layout(root / name.replace(" ", "-"))
        only = ["ensembles={Nmax: {Nb: 64, Nrho: 20000, network: mlpM}}", "budget.references={}", "spectra.Nb=[64]"]
        only += [
            "spectra.Nrho=20000",
            "training.replicas=2",
            "training.epochs=8",
            f"validation.samples={SAMPLES}",
            "methods=[posterior]",
        ]
        path = root / f"{layout.root.name}.yaml"
        files.write_text(path, to_yaml(load_config(CONFIG, [*only, *overrides])))
        seconds = {stage: run_stage(stage, path, layout) for stage in ("generate", "train", "validate")}
        scores = _scores(store.load(layout.validation))
        files.write_text(root / f"{layout.root.name}.txt", table(scores) + "\n")
        for key in ("mae", "width", "score", "coverage", "worst"):
            pick = min if key == "worst" else np.mean
            value = float(pick([one[key][0] for one in scores.values()]))
            rows.append(Row(f"ablation, {name}: {key}", value, "1"))
        rows.append(Row(f"ablation, {name}: training", seconds["train"], "s"))
        if name.startswith("without "):
            for sigma, factor in enumerate(_unseen(layout, name.removeprefix("without "))):
                rows.append(Row(f"ablation, {name}: factor of the unseen, sigma {sigma}", float(factor), "1"))
    return rows
