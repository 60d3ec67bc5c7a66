"""What docs/extending.md says of adding a thing, as typed, in one run: nothing else is changed for any of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
    "methods=[linear, tikhonov]",
    "targets={peak: {kind: peaks, amplitudes: [0.5], masses: [0.7]}, raw: {kind: correlator, path: x.raw}}",
]
FEW = ["validation={samples: 60, levels: [0.683], bootstrap: 2, families: {}}", "bootstrap=20", "training.epochs=1"]
T = 16
END = 'if __name__ == "__main__":\n    raise SystemExit(main())\n'


def code() -> dict[str, str]:
    """Return the files that the page shows: the test, and all else together with its last lines at the end."""
    text = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (test,) = (block for block in blocks if "def test_" in block)
    rest = "\n".join(block for block in blocks if block is not test)
    assert rest.count(END) == 1
    return {"mine.py": rest.replace(END, "") + END, "test_mine.py": test}


@dataclass(frozen=True)
class Mine:
    """A run by ``mine.py``, beside which ``call`` runs Python; ``samples`` (n, T) are what its file of data holds."""

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
    for name, text in code().items():
        (home / name).write_text(text, encoding="utf-8")
    (home / "tiny.yaml").write_text(TINY, encoding="utf-8")
    generator = np.random.default_rng(1)
    samples = of_pole(0.7) * (1 + 1e-2 * generator.standard_normal((200, T)))
    np.array([T, *samples.ravel()]).tofile(home / "x.raw")
    outcome = shell("mine.py", "run", "tiny.yaml", *CONFIG, *FEW, "--run", "run", "-q", cwd=home)
    assert outcome.status == 0, outcome.err
    return Mine(home / "run", partial(shell, cwd=home), samples)


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


def test_an_estimator_is_in_the_budget_and_calibrated(mine: Mine) -> None:
    made, store = mine.open("predictions.zarr/peak"), mine.open("budget.zarr/peak").sel(estimator="tikhonov")
    np.testing.assert_allclose(
        store.estimator_central, made.estimator_rho.sel(estimator="tikhonov").mean("boot"), rtol=1e-5
    )
    assert (store.estimator_calibrated >= store.estimator_error * (1 - 1e-6)).all()
    assert (abs(store.estimator_central - made.truth) < 3 * store.estimator_calibrated).all()
    assert "Tikhonov regularisation of fixed strength" in (mine.root / "report.html").read_text(encoding="utf-8")


def test_the_test_of_an_estimator_passes_as_typed(mine: Mine) -> None:
    """It needs nothing but the file beside it."""
    outcome = mine.call("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")
    assert outcome.status == 0, outcome.out
    assert "2 passed" in outcome.out


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
    rows = json.loads(mine.call("mine.py", "status", "run", "--json").out)["stages"]
    assert {"name": "peaks", "state": "done", "done": 2}.items() <= rows[-1].items()
    assert "write at which energy each target is largest" in mine.call("mine.py", "--help").out
    (mine.root / "peaks" / "raw.txt").unlink()
    again = mine.call("mine.py", "peaks", "run")
    assert again.status == 0, again.err
    assert (mine.root / "peaks" / "raw.txt").exists()
