"""From densities to physical numbers: do limits, levels and known states hold, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr

import sdpipe
from benchmarks.table import Row
from sdpipe.analysis import averaging
from sdpipe.analysis.answers import answer
from sdpipe.analysis.averaging import models
from sdpipe.analysis.combine import design_of, limit_of, together
from sdpipe.physics import rng
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.smearing import GAUSSIAN
from sdpipe.physics.spectra import Spectrum, o3

Array = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
"""Where real data are that do not come with the project."""

FEW = "validation={samples: 200, levels: [0.683], families: {}, bootstrap: 2}"
GROUPS = ("beta1.40", "beta1.50", "beta1.60")
SECOND, START = (0.9, 1.2), (1.2, 1.4)
"""Ranges of the second level and of the continuum above it, of mocks whose first level is at 0.5."""

A4 = (0.0, 2.0, 4.0, 6.0, 8.0)
"""Sizes of the a^4 effect; errors of the ensembles are 0.14 to 0.3 %, so that 6 shows and 2 hardly does."""


def measure(directory: Path) -> list[Row]:
    """Return coverage of limits, the three lattices of O(3), levels of real data, and widths without a known state."""
    rows = [row for a4 in A4 for row in of_mocks(a4)]
    runs = lattices(directory)
    rows += of_o3(runs)
    rows += of_time(runs[0])
    if SHARED.exists():
        rows += of_levels(directory)
    return rows + of_subtraction(directory) + of_matrices(directory)


def of_mocks(a4: float) -> list[Row]:
    """Return the coverage of the average over models and its error over that of the best model by hindsight."""
    a2, mL = np.repeat([0.04, 0.08, 0.12], 2), np.tile([3.5, 5.0], 3)
    D = np.stack([np.ones(6), a2, a2**2, np.exp(-mL)], axis=1)
    noise, common = 0.002 * np.array([1.5, 1.5, 1, 1, 0.7, 0.7]), 0.004
    g = rng.generator(1, "mock limits")
    y = D @ np.array([1.0, -1.5, a4, 1.0]) + noise * g.standard_normal((400, 6)) + common * g.standard_normal((400, 1))
    sources = {"latt": np.diag(noise**2), "unresolved": np.full((6, 6), common**2)}
    limit = averaging.average(y, sources, D, models(D, range(6), 0), [str(i) for i in range(6)])
    off = np.abs(limit.central - 1) / limit.total
    best = np.sqrt(np.mean((limit.value - 1) ** 2, axis=-1)).min()
    ratio = np.sqrt(np.mean((limit.central - 1) ** 2)) / best
    what = f"limit of mocks, average over models, a^4 effect {a4:g}"
    return [
        Row(f"{what}: coverage at 1 error", 100 * float(np.mean(off < 1)), "%"),
        Row(f"{what}: coverage at 2 errors", 100 * float(np.mean(off < 2)), "%"),
        Row(f"{what}: error over that of the best model by hindsight", float(ratio), ""),
    ]


def lattices(directory: Path) -> list[sdpipe.run.Run]:
    """Return runs of the three lattices of data/o3-montecarlo.h5, in units of 2m."""
    file, runs = ROOT / "data" / "o3-montecarlo.h5", []
    for group in GROUPS:
        with h5py.File(file) as content:
            m, T = float(content[group].attrs["mass"]), int(content[group].attrs["T"])
        times = [max(1, round(0.2 / m)), round(3.2 / m)]
        keys = [f"dataset={group}/current", "kernel=periodic", f"lattice.period={T}", f"lattice.spacing={2 * m:.6g}"]
        keys += [f"lattice.times={times}", "smearing.sigma=[0.44, 0.63]", FEW, "bootstrap=400"]
        keys += ["energies={min: 0.2, max: 2.5, count: 24}"]
        runs.append(sdpipe.reconstruct(file, *keys, run=directory / f"continuum-{group}"))
    return runs


def of_o3(runs: list[sdpipe.run.Run]) -> list[Row]:
    """Return where the continuum density is inside the error of each lattice and of their limit."""
    points = [{"factor": 1 / run.config.lattice.spacing} for run in runs]
    grid = runs[0].config.observables
    truth, rows = grid.split(o3(1.0).integrals(grid))[1], []
    for run, point, group in zip(runs, points, GROUPS, strict=True):
        one = answer(run)
        off = point["factor"] * one.central - truth
        inside = (np.abs(off) < point["factor"] * one.error).mean(axis=1)
        rows += _shares(f"O(3), {group} alone", run.config.smearing.sigma, off / truth, inside)
    for terms, average in ((("a", "a2"), True), (("a",), False), (("a2",), False)):
        limit = sdpipe.combine(runs, terms=terms, points=points, average=average)
        off = limit.central.values - truth
        inside = (np.abs(off) < limit.total.values).mean(axis=1)
        what = f"O(3), limit with {' and '.join(terms)}{', averaged' * average}"
        rows += _shares(what, limit.sigma.values, off / truth, inside)
    return rows


def _shares(what: str, sigma: Sequence[float], off: Array, inside: Array) -> list[Row]:
    words = [f"off by {100 * x:+.1f} % on average" for x in off.mean(axis=1)]
    each = zip(sigma, inside, words, strict=True)
    return [Row(f"{what}, sigma {s:g}: energies inside its error", 100 * float(x), "%", note=w) for s, x, w in each]


def of_time(run: sdpipe.run.Run) -> list[Row]:
    """Return the time of the algebra of 50 energies, 2 sigma, 5 ensembles, 800 samples, three terms averaged."""
    one, g = answer(run), np.random.default_rng(1)
    E, n = np.linspace(0.2, 2.5, 50), 100
    samples = 1 + 0.01 * g.standard_normal((800, 2, 50))
    V = 1e-4 * np.exp(-np.abs(np.subtract.outer(np.tile(E, 2), np.tile(E, 2)))) + 1e-7 * np.eye(n)
    values = {"central": samples.mean(axis=0), "error": 0 * samples[0] + 0.01, "samples": samples}
    big = replace(one, E=E, latt=V, unresolved=V, **values)
    points = [{"a": a, "mL": 4.0 + i % 2} for i, a in enumerate((0.1, 0.2, 0.3, 0.4, 0.5))]
    begun = time.perf_counter()
    data = together([big] * 5, points, ("unresolved",))
    limit_of(data, *design_of(data, ("a2", "a4", "exp(-mL)")), True)
    what = "limit of 50 energies, 2 sigma, 5 ensembles, 800 samples, 8 models, without reading the runs"
    return [Row(what, time.perf_counter() - begun, "s")]


def of_levels(directory: Path) -> list[Row]:
    """Return the lowest levels of real data whose masses are known."""
    with h5py.File(SHARED / "openqxd-matrix.h5") as file:
        C = file["matrix"][:, 0, 0]
    keys = ["kernel=exponential", "lattice.first=0", "lattice.times=[1, 28]", FEW, "bootstrap=200"]
    run = sdpipe.reconstruct(C, *keys, "energies={min: 1.0, max: 4.0, count: 31}", run=directory / "openqxd")
    heavy = run.levels("array", E=(1.4, 2.6), rest=True)
    C = np.load(SHARED / "analysistoolbox.npy")
    C = np.concatenate([(C[:, 1:22] + C[:, :22:-1]) / 2, C[:, 22:23]], axis=1)
    keys = ["kernel=periodic", "lattice.period=64", "lattice.first=11", FEW, "bootstrap=200"]
    keys += ["smearing.sigma=[0.08, 0.12]", "energies={min: 0.05, max: 0.8, count: 31}"]
    run = sdpipe.reconstruct(C, *keys, run=directory / "analysistoolbox")
    light = [run.levels("array", E=(0.1, 0.5), rest=rest) for rest in (False, True)]
    return [
        _mass("openqxd-matrix (0, 0), one level and a rest; known: 2.1525(9)", heavy),
        _mass("analysistoolbox, one level; known: 0.29500(56)", light[0]),
        _mass("analysistoolbox, one level and a rest", light[1]),
    ]


def _mass(what: str, found: xr.Dataset) -> Row:
    note = f"+- {float(found.mass_error[0]):.4f}, chi2/dof {found.attrs['chi2']:.1f}/{found.attrs['freedom']}"
    return Row(what, float(found.mass[0]), "1/a", note=note)


def mock_of_matrices(i: int) -> tuple[Array, Array, Array]:
    """Return configurations (cfg, t, 2, 2) of four states that two operators see, their masses and couplings.

    Both couple to the lowest state with one sign; errors are 0.2 % of sqrt(C_ii C_jj), growing by 5 % a time.
    """
    g, t, n = rng.generator(1, "matrix", i), np.arange(1, 21), 300
    M, c = 0.1 + np.cumsum(g.uniform(0.2, 0.7, 4)), g.standard_normal((2, 4))
    c[1, 0] = abs(c[1, 0]) * np.sign(c[0, 0])
    C = np.einsum("in,jn,tn->tij", c, c, np.exp(-M * t[:, None]))
    size = np.sqrt(np.einsum("tii,tjj->tij", C, C)) * np.exp(0.05 * t)[:, None, None]
    root = np.linalg.cholesky(np.exp(-np.abs(t[:, None] - t) / 4))
    z = np.einsum("ts,nsij->ntij", root, g.standard_normal((n, 20, 2, 2)))
    return C + 2e-3 * np.sqrt(n) * size * (z + z.swapaxes(2, 3)) / 2, M, c


def of_matrices(directory: Path, count: int = 14) -> list[Row]:
    """Return where densities off the diagonal are inside their errors, by what answers there and by the networks."""
    keys = ["component=[0,1]", "kernel=exponential", "lattice.first=1", "smearing.sigma=[0.2, 0.3]", FEW]
    keys += ["energies={min: 0.1, max: 2.5, count: 25}", "bootstrap=100"]
    rows = []
    for name, more in {"posterior": (), "shipped networks": ("training.audience=shipped",)}.items():
        seen = []
        for i in range(count):
            data, M, c = mock_of_matrices(i)
            run = sdpipe.reconstruct(data, *keys, *more, run=directory / f"matrix-{i}-{len(more)}")
            (budget,) = (one.load() for one in run.budget.values())
            E, sigma = budget.E.values[:, None], budget.sigma.values[:, None, None]
            off = np.abs(budget.central.values - GAUSSIAN(E, M, sigma) @ (c[0] * c[1])) / budget.calibrated.values
            seen.append([np.mean(off < 1), np.mean(off < 2)])
        one, two = 100 * np.mean(seen, axis=0)
        what = f"element off the diagonal, {name}, {count} draws: energies inside"
        rows += [Row(f"{what} one error", float(one), "%"), Row(f"{what} two errors", float(two), "%")]
    return rows


def mock_of_states(i: int) -> tuple[Array, Array, Observables, Array]:
    """Return C (t,), rho (sigma, E), grid and configurations (cfg, t) of draw i of two levels and a continuum."""
    kernel, t = Kernel("exponential", 64), np.arange(1, 25)
    grid = Observables(kernel, tuple(t.tolist()), (0.2, 0.3), tuple(np.linspace(0.3, 1.5, 25)))
    L, g = np.linalg.cholesky(np.exp(-np.abs(t[:, None] - t) / 4)), rng.generator(1, "known state", i)
    M, A, start, height = (g.uniform(*r) for r in (SECOND, (0.2, 0.6), START, (0.2, 0.5)))
    whole = Spectrum(((1.0, 0.5), (A, M)), lambda omega: height + 0 * omega, start)
    C, truth = grid.split(whole.integrals(grid))
    return C, truth, grid, C * (1 + 0.02 * g.standard_normal((400, 24)) @ L.T)


def of_subtraction(directory: Path, count: int = 10) -> list[Row]:
    """Return the mean half width without the state at 0.5 over that with it, and both coverages."""
    keys = ["training.audience=none", "methods=[posterior]", FEW, "spectra.E0=[0.8, 1.3]"]
    said = ["kernel=exponential", "lattice.first=1", "smearing.sigma=[0.2, 0.3]", "bootstrap=200"]
    said += ["energies={min: 0.3, max: 1.5, count: 25}"]
    states = {"fitted to t = 16..24": {"between": (16, 24)}, "known exactly": {"amplitude": 1.0, "mass": 0.5}}
    seen: dict[str, list[list[float]]] = {name: [] for name in ("", *states)}
    for i in range(count):
        _, truth, _, data = mock_of_states(i)
        run = sdpipe.reconstruct(data, *said, *keys[:3], run=directory / f"whole{i}")
        seen[""].append(_widths(run.budget["array"].load(), truth))
        for k, (name, state) in enumerate(states.items()):
            run = sdpipe.reconstruct(data, *said, *keys, run=directory / f"rest{k}-{i}", subtract=[state])
            seen[name].append(_widths(run.budget["array"].load(), truth))
    width, inside, off, low = np.mean(seen[""], axis=0)
    rows = []
    for name in states:
        width2, inside2, off2, low2 = np.mean(seen[name], axis=0)
        what = f"state at 0.5 taken off, {name}, {count} draws"
        rows += [
            Row(f"{what}: mean half width over that without", float(width2 / width), ""),
            Row(f"{what}: the same at E up to 0.8", float(low2 / low), ""),
            Row(f"{what}: mean |error| over that without", float(off2 / off), ""),
            Row(f"{what}: energies inside the error", 100 * float(inside2), "%", note=f"before {inside:.0%}"),
        ]
    exact = np.mean([_exact(i, True) / _exact(i, False) for i in range(count)])
    words = "the same where the family of the mocks is the prior, state known exactly, sigma = 0.2"
    return [*rows, Row(f"{words}: mean half width over that without", float(exact), "")]


def _widths(budget: xr.Dataset, truth: Array) -> list[float]:
    """Return mean half width, share of energies inside of it, mean |error|, and the half width at low energies."""
    off, half = np.abs(budget.central.values - truth), budget.calibrated
    inside = float(np.mean(off < half.values))
    return [float(half.mean()), inside, float(off.mean()), float(half.sel(E=slice(0, 0.8001)).mean())]


def _exact(i: int, known: bool) -> float:
    """Return the mean half width of the posterior whose prior is the family of the mocks: masses and thresholds on a
    grid, amplitudes Gaussian.
    """
    C, _, grid, _ = mock_of_states(i)
    t, E, error = np.array(grid.times), np.array(grid.energies), 1e-3 * C
    whiten = np.linalg.inv(error[:, None] * np.linalg.cholesky(np.exp(-np.abs(t[:, None] - t) / 4)))
    y = whiten @ C + rng.generator(1, "exact", i).standard_normal(len(t))
    log_weight, mean, variance = [], [], []
    first = [0.5] if known else np.linspace(0.497, 0.503, 13)
    for M0, M, start in product(first, *(np.linspace(*r, 21) for r in (SECOND, START))):
        B = whiten @ np.stack([np.exp(-M0 * t), np.exp(-M * t), np.exp(-start * t) / t], axis=1)
        F = np.stack([GAUSSIAN(E, M0, 0.2), GAUSSIAN(E, M, 0.2), ndtr((E - start) / 0.2)], axis=1)
        mu, width = np.array([1.0, 0.4, 0.35]), np.array([1e-9 if known else 0.5, 0.18, 0.14])
        S = np.linalg.inv(B.T @ B + np.diag(width**-2))
        r = y - B @ mu
        b = B.T @ r
        log_weight.append((b @ S @ b - r @ r + np.linalg.slogdet(S)[1]) / 2)
        mean.append(F @ (mu + S @ b))
        variance.append(np.einsum("ek,kl,el->e", F, S, F))
    w = np.exp(np.array(log_weight) - max(log_weight))
    w, m = w / w.sum(), np.array(mean)
    return float(np.sqrt(w @ np.array(variance) + w @ (m - w @ m) ** 2).mean())
