"""What docs/extending.md says of adding a thing, as typed, in one run: nothing else is changed for any of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

from tests.fixtures import REPOSITORY, TINY

if TYPE_CHECKING:
    from tests.fixtures import Outcome

CONFIG = [
    "kernel=current",
    "smearing={kind: own, name: flat, sigma: [0.3]}",
    "spectra.mixture={chebyshev: 1, pole: 1}",
    "methods=[linear, doubled]",
    "targets={peak: {kind: peaks, amplitudes: [0.5], masses: [0.7]}, raw: {kind: correlator, path: x.raw}}",
]
FEW = ["validation={samples: 60, levels: [0.683], bootstrap: 2, families: {}}", "bootstrap=20", "training.epochs=1"]
T = 16


def code() -> str:
    """Return all code that the page shows, as one file."""
    text = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    return "\n".join(dedent(block) for block in re.findall(r"\n\n((?:      .*\n)+)", text))


@dataclass(frozen=True)
class Mine:
    """A run by ``mine.py``, whose command line is ``call``; ``samples`` (n, T) are what its file of data holds."""

    root: Path
    call: Callable[..., Outcome]
    samples: np.ndarray

    def open(self, store: str) -> xr.Dataset:
        return xr.open_zarr(self.root / store, consolidated=False).load()


def of_pole(mass: float) -> np.ndarray:
    """Return C(t) (T,) of rho = delta(omega - mass) with the kernel of the page, a = 1."""
    t = np.arange(T)
    return mass * (np.exp(-mass * t) + np.exp(-mass * (T - t)))


@pytest.fixture(scope="module")
def mine(shell: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Mine:
    home = tmp_path_factory.mktemp("adding")
    (home / "mine.py").write_text(code(), encoding="utf-8")
    (home / "tiny.yaml").write_text(TINY, encoding="utf-8")
    generator = np.random.default_rng(1)
    samples = of_pole(0.7) * (1 + 1e-2 * generator.standard_normal((200, T)))
    np.array([T, *samples.ravel()]).tofile(home / "x.raw")
    outcome = shell("mine.py", "run", "tiny.yaml", *CONFIG, *FEW, "--run", "run", "-q", cwd=home)
    assert outcome.status == 0, outcome.err
    return Mine(home / "run", lambda *arguments: shell("mine.py", *arguments, cwd=home), samples)


def test_a_kernel_and_a_smearing_make_the_correlator_and_the_truth(mine: Mine) -> None:
    made = mine.open("predictions.zarr/peak")
    assert made.correlator.attrs["units"] == "1/a^2"
    np.testing.assert_allclose(made.correlator.mean("boot"), 0.5 * of_pole(0.7)[1:9], rtol=1e-2)
    expected = 0.5 * np.exp(-(((0.7 - made.E) / 0.3) ** 4))
    np.testing.assert_allclose(made.truth.sel(sigma=0.3), expected, rtol=1e-5, atol=1e-12)
    assert "ω · [e<sup>−aωt</sup> + e<sup>−aω(T−t)</sup>] (<b>current</b>)" in (mine.root / "report.html").read_text()


def test_a_component_is_drawn(mine: Mine) -> None:
    training = mine.open("training.zarr")
    assert training.component.flag_meanings == "chebyshev pole"
    pole = training.correlator.where(training.component == 1, drop=True).isel(Nb=0).values
    pole = pole[np.isfinite(pole).all(axis=1)]
    assert len(pole) > 100
    mass = np.arccosh((pole[:, 1] + pole[:, 3]) / (2 * pole[:, 2]))  # as for a single state
    assert ((mass > 0.45) & (mass < 1.05)).all()


def test_a_method_is_in_the_budget(mine: Mine) -> None:
    errors = mine.open("budget.zarr/peak").estimator_error
    assert (errors.sel(estimator="doubled") == 2 * errors.sel(estimator="linear")).all()


def test_a_format_is_read(mine: Mine) -> None:
    folded = (mine.samples + mine.samples[:, -np.arange(T) % T])[:, 1:9] / 2
    error = folded.std(axis=0) / len(folded) ** 0.5
    means = mine.open("predictions.zarr/raw").correlator
    assert (np.abs(means.mean("boot") - folded.mean(axis=0)) < 2 * error).all()
    np.testing.assert_allclose(means.std("boot"), error, rtol=0.7)


def test_a_stage_is_done_once_and_has_its_row(mine: Mine) -> None:
    for name in ("peak", "raw"):
        central = mine.open(f"budget.zarr/{name}").central.isel(sigma=0)
        assert float((mine.root / "peaks" / f"{name}.txt").read_text()) == central.E[np.argmax(central.values)]
    rows = json.loads(mine.call("status", "run", "--json").out)["stages"]
    assert {"name": "peaks", "state": "done", "done": 2}.items() <= rows[-1].items()
    assert "write at which energy each target is largest" in mine.call("--help").out
    (mine.root / "peaks" / "raw.txt").unlink()
    again = mine.call("peaks", "run")
    assert again.status == 0, again.err
    assert (mine.root / "peaks" / "raw.txt").exists()
