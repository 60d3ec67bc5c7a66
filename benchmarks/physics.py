"""From densities to physical numbers: the lattices of O(3), levels of real data, and how long limits take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

import sdpipe
from benchmarks.table import Row
from sdpipe.analysis.answers import answer
from sdpipe.analysis.combine import design_of, limit_of, together
from sdpipe.analysis.discrete import against_limit
from sdpipe.analysis.joint import Joint
from sdpipe.analysis.levels import fit_levels
from sdpipe.physics.smearing import GAUSSIAN
from sdpipe.physics.spectra import o3

Array = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
"""Where real data are that do not come with the project."""

FEW = "validation={samples: 200, levels: [0.683], families: {}, bootstrap: 2}"
GROUPS = ("beta1.40", "beta1.50", "beta1.60")


def measure(directory: Path) -> list[Row]:
    """Return how the limit of the three lattices of O(3) does, levels of real data, and how long calls take."""
    runs = lattices(directory)
    rows = of_o3(runs) + of_time(runs[0])
    return rows + (of_levels(directory) if SHARED.exists() else [])


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
    """Return the processor time of each call at 50 energies, 2 sigma, 5 ensembles, 800 samples, without reading runs.

    The density is that of two levels, so that their fit is one.
    """
    one, g = answer(run), np.random.default_rng(1)
    E, sigma, n = np.linspace(0.2, 2.5, 50), np.array([0.2, 0.3]), 100
    density = GAUSSIAN(E[:, None], np.array([0.6, 1.6]), sigma[:, None, None]) @ np.array([1.0, 0.8])
    samples = density + 0.01 * g.standard_normal((800, 2, 50))
    V = 1e-4 * np.exp(-np.abs(np.subtract.outer(np.tile(E, 2), np.tile(E, 2)))) + 1e-7 * np.eye(n)
    values = {"central": density, "error": 0 * density + 0.01, "samples": samples}
    big = replace(one, sigma=sigma, E=E, latt=V, unresolved=V, **values)
    points = [{"a": a, "mL": 4.0 + i % 2} for i, a in enumerate((0.1, 0.2, 0.3, 0.4, 0.5))]
    data = together([big] * 5, points, ("unresolved",))
    five = Joint((big,) * 5, np.concatenate([samples.reshape(800, -1)] * 5, axis=1))
    calls = {
        "limit, 8 models": lambda: limit_of(data, *design_of(data, ("a2", "a4", "exp(-mL)")), True),
        "limit sigma and a -> 0, 4 models": lambda: limit_of(data, *design_of(data, ("a2", "sigma2")), True),
        "levels that describe it, too": lambda: against_limit(big),
        "two levels": lambda: fit_levels(sigma, E, density, 2 * V, GAUSSIAN, 2).covariance,
        "joint, a ratio of sums": lambda: five.of(lambda a, b, c, d, e: (a[0] + b[0]) / (c[1] + d[0] + e[1])),
    }
    return [Row(f"{what}, processor time", _seconds(call), "s") for what, call in calls.items()]


def _seconds(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


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
