"""Files that nobody tuned to: does ``check`` conclude rightly, and does ``reconstruct`` without a key cover the truth.

    python -m benchmarks files

Each file is a mock whose density no prior of sdpipe holds: one to four states and a continuum above a threshold that
rises as a power and falls as another one. Its kernel, period, times, masses, errors, autocorrelation and format are
drawn, too. ``reconstruct`` is given what ``check`` asked for, and nothing else. Then some files are made wrong on
purpose, each in one of :data:`WRONG` ways, and must be flagged or refused. The number of files and the first seed are
``FILES`` and ``SEED``, the table is docs/universal.md's.
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import sdpipe
from benchmarks.table import Limit, Row
from sdpipe.errors import UserError
from sdpipe.physics.kernels import Kernel
from sdpipe.problem.suggest import Suggestion, suggest
from sdpipe.run import Run

Array = NDArray[np.float64]

FILES = 200
"""Files that are right; a quarter as many are made wrong."""

SEED = 29
"""Seed of the first file; the others count from it."""

WRONG = ("period", "kernel", "first", "partner", "slice", "error")
"""What is wrong with a file: another period or kernel is said, times are shifted by one, every other slice has another
sign of an oscillating partner, one slice is off by eight errors, errors are those of one configuration."""

DECADES = 40
"""C(t) of the lowest state falls by no more."""

HIDDEN = 30
"""A file is wrong where that moves C(t) by as many errors somewhere; else nobody could see it."""


@dataclass(frozen=True)
class Mock:
    """A file of known truth: the density as weights (i,) at omega (i,), and what the file says of C(t)."""

    omega: Array
    weights: Array
    kernel: Kernel
    times: tuple[int, ...]
    samples: Array
    form: str
    tau: float

    @property
    def lowest(self) -> float:
        """Mass of the lowest state."""
        return float(self.omega[0])

    @property
    def error(self) -> Array:
        """Error (t,) of the mean, autocorrelation included."""
        return self.samples.std(axis=0, ddof=1) * np.sqrt(2 * max(self.tau, 0.5) / len(self.samples))

    def smeared(self, sigma: Array, E: Array) -> Array:
        """Return the true rho_sigma(E), shape (sigma, E)."""
        s = sigma[:, None, None]
        gauss = np.exp(-(((E[:, None] - self.omega) / s) ** 2) / 2) / (np.sqrt(2 * np.pi) * s)
        return gauss @ self.weights

    def write(self, path: Path) -> Path:
        """Write the file, a table with errors of the mean or all configurations, and return its path."""
        if self.form == "table":
            path = path.with_suffix(".txt")
            np.savetxt(path, np.column_stack([self.times, self.samples.mean(axis=0), self.error]), fmt="%d %.12e %.6e")
        else:
            path = path.with_suffix(".npy")
            np.save(path, self.samples)
        return path


def drawn(seed: int) -> Mock:
    """Return one mock of this seed."""
    g = np.random.default_rng([SEED, seed])
    period = int(g.choice([16, 24, 32, 48, 64, 96, 128]))
    name = str(g.choice(["periodic", "periodic-odd", "exponential"], p=[0.5, 0.15, 0.35]))
    form = str(g.choice(["whole", "half", "part", "table"])) if name != "exponential" else "open"
    first = {"whole": 0, "half": 0, "part": int(g.integers(2, max(3, period // 8))), "table": 1, "open": 0}[form]
    last = {"whole": period - 1, "open": period // 2 - 1}.get(form, period // 2)
    kernel, times = Kernel(name, period), tuple(range(first, last + 1))
    heaviest = min(3.0, DECADES * np.log(10) / min(last, period // 2))
    mass = float(np.exp(g.uniform(np.log(max(0.05, 3 / period)), np.log(heaviest))))
    omega, weights = _density(g, mass)
    C = kernel(np.array(times)[:, None], omega) @ weights
    tau = 0.0 if form == "table" else float(g.choice([0, 0, 1, 5, 20]))
    return Mock(omega, weights, kernel, times, _configurations(g, C, times, period, tau), form, tau)


def _density(g: np.random.Generator, mass: float) -> tuple[Array, Array]:
    """Return states and a continuum, which is a comb so fine that no C(t) and no sigma sees it."""
    states = mass * np.cumprod([1.0, *g.uniform(1.3, 2.2, int(g.integers(0, 4)))])
    strengths = mass * g.uniform(0.1, 1.0, states.size)
    threshold = mass * g.uniform(1.8, 4.0)
    x = np.geomspace(1e-3, 30, 1500)
    rise, fall = g.uniform(0.5, 2.5), g.uniform(2.5, 5.0)
    height = g.uniform(0.0, 1.0) * mass**0.5 * threshold**-0.5 * x**rise / (1 + x) ** (rise + fall)
    return np.append(states, threshold * (1 + x)), np.append(strengths, height * threshold * np.gradient(x))


def _configurations(g: np.random.Generator, C: Array, times: tuple[int, ...], period: int, tau: float) -> Array:
    """Return configurations (n, t) around C: errors that grow with t, correlated over times and configurations."""
    count = int(np.exp(g.uniform(np.log(12 * (1 + 2 * tau)), np.log(2000))))
    near = np.minimum(times, period - np.array(times)) if times[-1] > period // 2 else np.array(times)
    relative = np.exp(g.uniform(np.log(1e-3), np.log(1e-1)) + g.uniform(0, 0.25) * near) * np.sqrt(1 + tau)
    correlation = np.exp(-np.abs(np.subtract.outer(near, near)) / g.uniform(1, 15))
    values, vectors = np.linalg.eigh(correlation)  # singular where t and T - t are both there
    root = vectors * np.sqrt(np.maximum(values, 0))
    rho = (2 * tau - 1) / (2 * tau + 1) if tau > 0.5 else 0.0
    z = g.standard_normal((count, len(times)))
    for i in range(1, count):
        z[i] = rho * z[i - 1] + np.sqrt(1 - rho**2) * z[i]
    few = np.sqrt(count / max(count, 100))  # so that some times of few configurations are known to 30 %
    return C * (1 + relative * few * (z @ root.T))


def spoiled(mock: Mock, how: str, seed: int) -> tuple[Mock, list[str]] | None:
    """Return the mock made wrong and keys that say so; None where it cannot be, or nobody could see it."""
    g = np.random.default_rng([SEED, 1, seed])
    C, error = mock.samples.mean(axis=0), mock.error
    keys = said(mock)
    if how == "period" and mock.form in ("half", "part"):
        other = replace(mock.kernel, period=2 * (mock.kernel.period // 2 + int(g.integers(2, 5))))
        keys = [f"lattice.period={other.period}", *(k for k in keys if "period" not in k)]
        return _seen(mock, keys, other, C, error)
    if how == "kernel" and mock.form in ("half", "part"):
        other = Kernel("exponential", mock.kernel.period)
        return _seen(mock, ["kernel=exponential", f"lattice.first={mock.times[0]}"], other, C, error)
    if how == "first" and mock.form == "part":
        moved = tuple(t - 1 for t in mock.times)
        keys = [f"lattice.period={mock.kernel.period}", f"lattice.first={moved[0]}"]
        keys += ["kernel=periodic-odd"] * (mock.kernel.name == "periodic-odd")
        return mock, keys
    if how == "partner" and mock.form == "open":
        wave = 1 + g.uniform(0.1, 0.4) * (-1.0) ** np.array(mock.times) * np.exp(-0.1 * np.array(mock.times))
        return replace(mock, samples=mock.samples * wave), keys
    if how == "slice" and mock.form in ("half", "open", "part"):
        i = int(g.integers(2, min(len(C) - 1, 8)))
        samples = mock.samples.copy()
        samples[:, i] += 8 * error[i]
        return replace(mock, samples=samples), keys
    if how == "error" and mock.form == "table":
        return replace(mock, samples=C + (mock.samples - C) * np.sqrt(len(mock.samples))), keys
    return None


def _seen(mock: Mock, keys: list[str], other: Kernel, C: Array, error: Array) -> tuple[Mock, list[str]] | None:
    """Return both where the other kernel moves C(t) by more than HIDDEN errors at some time that is known."""
    t = np.array(mock.times)[:, None]
    moved = np.abs((other(t, mock.omega) - mock.kernel(t, mock.omega)) @ mock.weights)
    known = (error < 0.3 * np.abs(C)) & (np.array(mock.times) > 0)
    return (mock, keys) if known.any() and (moved / error)[known].max() > HIDDEN else None


def said(mock: Mock) -> list[str]:
    """Return what a user who knows the lattice says of the file when asked."""
    if mock.form == "whole":
        return []
    if mock.kernel.name == "exponential":
        return ["kernel=exponential", f"lattice.first={mock.times[0]}"]
    keys = [f"lattice.period={mock.kernel.period}"]
    keys += ["kernel=periodic-odd"] * (mock.kernel.name == "periodic-odd")
    return keys + ([f"lattice.first={mock.times[0]}"] if mock.form == "part" else [])


def concluded(path: Path, mock: Mock) -> tuple[bool, list[str]]:
    """Return whether what follows from the file alone is right or is asked for, and the keys that were asked for."""
    try:
        suggestion = suggest(path)
    except UserError:
        return True, said(mock)
    return _right(suggestion, mock), []


def _right(suggestion: Suggestion, mock: Mock) -> bool:
    config = suggestion.config
    lattice = config["lattice"]
    there = lattice.get("first", mock.times[0]) == mock.times[0]
    period = mock.kernel.name == "exponential" or lattice["period"] == mock.kernel.period
    return there and period and config["kernel"] == mock.kernel.name


def made(path: Path, keys: Iterable[str]) -> Run | None:
    """Return the run of ``reconstruct``; None where it was refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return sdpipe.reconstruct(path, *keys, run=path.with_suffix(""))
        except UserError as error:
            print(f"{path.name}: {error}", flush=True)
            return None


def judged(run: Run, mock: Mock) -> dict[str, float | bool]:
    """Return whether the window holds the lowest state, coverage at both levels, and whether anything is flagged."""
    (name,) = run.budget
    budget, validation = run.budget[name].load(), run.validation
    truth = mock.smeared(budget.sigma.values, budget.E.values)
    off = np.abs(budget.central.transpose("sigma", "E").values - truth)
    factor = validation.factor.isel(scale_rule=0)
    one = off <= budget.calibrated.transpose("sigma", "E").values
    two = off <= (factor.sel(level=0.954) * budget.total).transpose("sigma", "E").values
    largest = truth.max()
    return {
        "inside": float(budget.E.min()) <= mock.lowest <= float(budget.E.max()),
        "one": float(one.mean()),
        "two": float(two.mean()),
        "width": float(budget.calibrated.mean()) / largest,
        "flagged": bool(budget.attrs["flags"]),
    }


def measure(directory: Path) -> list[Row]:
    """Make the files, ask ``check`` and ``reconstruct``, and return how often they are right."""
    root = directory / "files"
    root.mkdir(parents=True, exist_ok=True)
    right, scores, refused = [], [], 0
    for seed in range(FILES):
        mock = drawn(seed)
        path = mock.write(root / f"{seed:03d}")
        fine, keys = concluded(path, mock)
        right.append(fine)
        if not fine:
            print(
                f"{path.name}: {mock.kernel.name} T = {mock.kernel.period} {mock.form}: concluded wrongly", flush=True
            )
        run = made(path, keys)
        if run is None:
            refused += 1
            continue
        scores.append(judged(run, mock))
        words = {k: v if isinstance(v, bool) else round(v, 2) for k, v in scores[-1].items()}
        print(path.name, mock.kernel.name, mock.form, len(mock.samples), f"m = {mock.lowest:.3g}", words, flush=True)
        shutil.rmtree(path.with_suffix(""))
    return [*_of_right(right, scores, refused), *_of_wrong(root)]


def _of_right(right: list[bool], scores: list[dict[str, float | bool]], refused: int) -> list[Row]:
    plain = [s for s in scores if not s["flagged"]]
    mean = {k: float(np.mean([s[k] for s in plain])) for k in ("one", "two", "width")}
    return [
        Row("files: concluded rightly or asked", float(np.mean(right)), "1", limits=(Limit("ours", "≥", 0.98),)),
        Row("files: refused", float(refused), "files"),
        Row(
            "files: lowest state in the window",
            float(np.mean([s["inside"] for s in scores])),
            "1",
            limits=(Limit("ours", "≥", 0.98),),
        ),
        Row("files: coverage of one error, unflagged", mean["one"], "1", limits=(Limit("ours", "≥", 0.62),)),
        Row("files: coverage of two errors, unflagged", mean["two"], "1", limits=(Limit("ours", "≥", 0.92),)),
        Row("files: half width / largest rho", mean["width"], "1"),
        Row("files: flagged", float(np.mean([s["flagged"] for s in scores])), "1", limits=(Limit("ours", "≤", 0.1),)),
    ]


def _of_wrong(root: Path) -> list[Row]:
    told, count = Counter(), Counter()
    seed = FILES
    while sum(count.values()) < FILES // 4 and seed < 20 * FILES:
        how = WRONG[sum(count.values()) % len(WRONG)]
        spoilt = spoiled(drawn(seed), how, seed)
        seed += 1
        if spoilt is None:
            continue
        mock, keys = spoilt
        path = mock.write(root / f"wrong-{seed:04d}")
        run = made(path, keys)
        known = run is None or bool(run.budget[next(iter(run.budget))].attrs["flags"])
        told[how] += known
        count[how] += 1
        print(path.name, how, mock.kernel.name, mock.form, "told" if known else "silent", flush=True)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    share = sum(told.values()) / sum(count.values())
    rows = [Row("wrong files: flagged or refused", share, "1", limits=(Limit("ours", "≥", 0.9),))]
    return rows + [Row(f"wrong files, {how}: flagged or refused", told[how] / n, "1") for how, n in count.items()]
