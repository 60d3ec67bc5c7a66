"""Do errors of limits, levels, known states and elements of a matrix hold? Mocks whose truth is known, 400 draws."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr

import sdpipe
from benchmarks.table import Row
from sdpipe.analysis import averaging
from sdpipe.analysis.averaging import Model, models
from sdpipe.analysis.levels import fit_levels
from sdpipe.analysis.put_back import smeared_states
from sdpipe.config.load import config_of
from sdpipe.config.schema import Config
from sdpipe.correlators.known import ground_state, last_time, state
from sdpipe.correlators.states import as_key
from sdpipe.estimators.posterior import ClosedForm
from sdpipe.physics import rng
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import Noise
from sdpipe.physics.smearing import GAUSSIAN
from sdpipe.physics.spectra import Spectrum
from sdpipe.problem.problem import Problem
from sdpipe.problem.suggest import LARGEST_ERROR, suggest

Array = NDArray[np.float64]

DRAWS = 400
MATRICES = 48
"""Draws that are reconstructed with everything that a run has, at ten seconds each."""

FEW = "validation={samples: 200, levels: [0.683], families: {}, bootstrap: 2}"

A2, ML = np.repeat([0.04, 0.08, 0.12], 2), np.tile([3.5, 5.0], 3)
DESIGN = np.stack([np.ones(6), A2, A2**2, np.exp(-ML)], axis=1)
NOISE, COMMON = 0.002 * np.array([1.5, 1.5, 1, 1, 0.7, 0.7]), 0.004
"""Three spacings at two volumes: squared spacings, m L, terms, and errors of each and of all together."""

A4 = (0.0, 2.0, 4.0, 6.0, 8.0)
"""Sizes of the a^4 effect; errors of the ensembles are 0.14 to 0.3 %, so that 6 shows and 2 hardly does."""

SIGMA, ENERGIES = np.array([0.2, 0.3]), np.linspace(0.2, 1.6, 15)
LEVEL = (0.9, 1.3)
"""Widths, energies, and mass and residue of the one level of mocks of densities."""

SECOND, START = (0.9, 1.2), (1.2, 1.4)
"""Ranges of the second level and of the continuum above it, of mocks whose first level is at 0.5."""

LOW = 0.8001
"""Energies up to here are below the second level."""

SAID = ("kernel=exponential", "lattice.first=1", "smearing.sigma=[0.2, 0.3]", "bootstrap=200", FEW)
SAID += ("energies={min: 0.3, max: 1.5, count: 25}", "training.audience=none", "methods=[posterior]")


def measure(directory: Path) -> list[Row]:
    """Return coverage of everything that follows densities, over mocks; an hour of one core."""
    rows = [row for a4 in A4 for row in of_limits(np.full(DRAWS, a4), f"a^4 effect {a4:g}")]
    rows += of_limits(rng.generator(1, "a4").uniform(0, 8, DRAWS), "a^4 effect anything from 0 to 8")
    return rows + of_levels() + of_known_states() + of_matrices(directory)


def of_limits(a4: Array, which: str) -> list[Row]:
    """Return coverage of the fit of all terms and of the average, and its error over that of the best single model."""
    g = rng.generator(1, "mock limits")
    noise = NOISE * g.standard_normal((len(a4), 6)) + COMMON * g.standard_normal((len(a4), 1))
    y = np.array([1.0, -1.5, 0.0, 1.0]) @ DESIGN.T + a4[:, None] * DESIGN[:, 2] + noise
    sources = {"latt": np.diag(NOISE**2), "unresolved": np.full((6, 6), COMMON**2)}
    names, rows = [str(i) for i in range(6)], []
    whole = [Model((0, 1, 2, 3), tuple(range(6)))]
    for what, chosen in (("all terms", whole), ("average over models", models(DESIGN, range(6), 0))):
        limit = averaging.average(y, sources, DESIGN, chosen, names)
        off = np.abs(limit.central - 1) / limit.total
        rows += coverage(f"limit of {len(a4)} mocks, {which}, {what}", np.stack([off < 1, off < 2])[:, None])
    best = np.sqrt(np.mean((limit.value - 1) ** 2, axis=-1)).min()
    ratio = np.sqrt(np.mean((limit.central - 1) ** 2)) / best
    words = "average over models: error over that of the best single model by hindsight"
    return [*rows, Row(f"limit of {len(a4)} mocks, {which}, {words}", float(ratio), "")]


def coverage(what: str, inside: NDArray[np.bool_]) -> list[Row]:
    """Return shares inside one and two errors, (one or two, number, draw), with the error of the share."""
    rows = []
    for words, within in zip(("one error", "two errors"), inside, strict=True):
        share = within.mean(axis=0)
        error = share.std() / np.sqrt(len(share))
        rows.append(Row(f"{what}: inside {words}", 100 * float(share.mean()), "%", note=f"+- {100 * error:.0f}"))
    return rows


def of_levels(count: int = DRAWS) -> list[Row]:
    """Return the coverage of mass and residue of one isolated level, errors correlated between energies and widths."""
    s, x = np.repeat(SIGMA, len(ENERGIES)), np.tile(ENERGIES, len(SIGMA))
    V = 0.03**2 * np.exp(-((x[:, None] - x) ** 2) / (2 * 0.3**2) - np.abs(s[:, None] - s)) + 1e-8 * np.eye(len(x))
    exact = LEVEL[1] * GAUSSIAN(ENERGIES, LEVEL[0], SIGMA[:, None]).ravel()
    z, off = rng.generator(1, "levels").standard_normal((count, len(V))), []
    for draw in exact + z @ np.linalg.cholesky(V).T:
        one = fit_levels(SIGMA, ENERGIES, draw.reshape(len(SIGMA), -1), V, GAUSSIAN)
        off.append((np.array([one.mass[0], one.amplitude[0]]) - LEVEL) / np.sqrt(np.diag(one.covariance)))
    pull = np.abs(np.array(off)).T[:, None]
    names = ("mass", "residue")
    return [row for n, p in zip(names, pull, strict=True) for row in coverage(f"one level, {n}", _within(p))]


def _within(pull: Array) -> NDArray[np.bool_]:
    """Return (one or two, number, draw) of pulls (number, draw)."""
    return np.stack([pull < 1, pull < 2])


def of_known_states(count: int = DRAWS) -> list[Row]:
    """Return the mean half width without the state at 0.5 over that with it, and coverage, by the posterior alone."""
    names = ("", "fitted to t = 16..24", "known exactly")
    seen = [[half_widths(i, name) for name in names] for i in range(count)]
    half, pull, low = (np.array([[one[k] for one in each] for each in seen]) for k in range(3))
    rows = coverage(f"two levels and a continuum, {count} draws", _within(pull[:, 0].T))
    for k, name in list(enumerate(names))[1:]:
        what = f"state at 0.5 taken off, {name}, {count} draws"
        of_all, of_low = half[:, k].mean() / half[:, 0].mean(), low[:, k].mean() / low[:, 0].mean()
        rows += [
            Row(f"{what}: mean half width over that without", float(of_all), ""),
            Row(f"{what}: the same at E up to 0.8", float(of_low), ""),
            *coverage(what, _within(pull[:, k].T)),
        ]
    few = min(count, 40)
    exact = np.array([[half_widths_of_family(i, known) for known in (False, True)] for i in range(few)]).mean(axis=0)
    words = f"the same where the family of the mocks is the prior, state known exactly, sigma = 0.2, {few} draws"
    below = exact[:, np.array(mock_of_states(0)[2].energies) < LOW].mean(axis=1)
    return [
        *rows,
        Row(f"{words}: mean half width over that without", float(exact[1].mean() / exact[0].mean()), ""),
        Row(f"{words}: the same at E up to 0.8", float(below[1] / below[0]), ""),
    ]


def mock_of_states(i: int) -> tuple[Array, Array, Observables, Array]:
    """Return C (t,), rho (sigma, E), grid and bootstrap means (boot, t) of draw i of two levels and a continuum.

    Errors are 0.1 % of C(t), correlated over four times; the bootstrap is around a mean that has them.
    """
    kernel, t = Kernel("exponential", 64), np.arange(1, 25)
    grid = Observables(kernel, tuple(t.tolist()), (0.2, 0.3), tuple(np.linspace(0.3, 1.5, 25)))
    L, g = np.linalg.cholesky(np.exp(-np.abs(t[:, None] - t) / 4)), rng.generator(1, "known state", i)
    M, A, start, height = (g.uniform(*r) for r in (SECOND, (0.2, 0.6), START, (0.2, 0.5)))
    whole = Spectrum(((1.0, 0.5), (A, M)), lambda omega: height + 0 * omega, start)
    C, truth = grid.split(whole.integrals(grid))
    mean = C * (1 + 1e-3 * L @ g.standard_normal(24))
    z = g.standard_normal((200, 24))
    return C, truth, grid, mean + 1e-3 * C * ((z - z.mean(axis=0)) @ L.T)


def half_widths(i: int, known: str) -> tuple[float, Array, float]:
    """Return mean half width, pulls (sigma E,) and half width at low energies of draw i, a state ``known`` or not."""
    _, truth, grid, samples = mock_of_states(i)
    back, rest, times = np.zeros((len(samples), *truth.shape)), samples, grid.times
    if known:
        A, M = np.ones((len(samples), 1)), np.full((len(samples), 1), 0.5)
        if known.startswith("fitted"):
            A, M = (x[:, None] for x in ground_state(samples, grid.times, grid.kernel, (16, 24)))
        rest, back = samples - state(A, M, grid.kernel, grid.times), smeared_states(A, M, grid, GAUSSIAN)
        good = rest.std(axis=0) < LARGEST_ERROR * np.abs(rest.mean(axis=0))
        last = last_time(len(good) if good.all() else int(np.argmin(good)), grid.times)
        times = grid.times[: min(last, 15) if known.startswith("fitted") else last]
    rest = rest[:, : len(times)]
    config = prior_of_rest() if known else prior_of_whole()
    noise = Noise(times, rest.mean(axis=0), np.cov(rest.T), "mock", floor=config.noise.floor)
    audience = Problem(config, noise).audience
    grid = replace(grid, times=times)
    found = ClosedForm(replace(audience, observables=grid)).estimate(rest.mean(axis=0), rest)
    wider = (found.samples + back).var(axis=0) - found.samples.var(axis=0)
    half = np.sqrt(np.maximum(found.error**2 + wider, 0))
    pull = np.abs(found.mean + back.mean(axis=0) - truth) / half
    return float(half.mean()), pull.ravel(), float(half[:, np.array(grid.energies) < LOW].mean())


@cache
def prior_of_whole() -> Config:
    """Return the config that :func:`sdpipe.reconstruct` makes for draw 0; its posterior knows that before the data."""
    return _config()


@cache
def prior_of_rest() -> Config:
    """Return the same without the state at 0.5, whose threshold is above it."""
    return _config("spectra.E0=[0.8, 1.3]", *as_key([{"amplitude": 1.0, "mass": 0.5}]))


def _config(*keys: str) -> Config:
    with TemporaryDirectory() as place:
        np.save(file := Path(place) / "mock.npy", mock_of_states(0)[3])
        return config_of(suggest(file, [*SAID, "resampling=bootstrap", *keys]).config, "mock")


def half_widths_of_family(i: int, known: bool) -> Array:
    """Return the half widths (E,) of the posterior whose prior is the family of the mocks: masses and thresholds on a
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
    return np.sqrt(w @ np.array(variance) + w @ (m - w @ m) ** 2)


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


def of_matrices(directory: Path, count: int = MATRICES) -> list[Row]:
    """Return where densities off the diagonal are inside the errors of each estimate, and how large these are."""
    keys = ["component=[0,1]", "kernel=exponential", "lattice.first=1", "smearing.sigma=[0.2, 0.3]", FEW]
    keys += ["energies={min: 0.1, max: 2.5, count: 25}", "bootstrap=100", "training.audience=shipped"]
    pulls: dict[str, list[Array]] = {}
    widths: dict[str, list[float]] = {}
    for i in range(count):
        data, M, c = mock_of_matrices(i)
        run = sdpipe.reconstruct(data, *keys, "methods=[posterior, linear, hlt]", run=directory / f"matrix-{i}")
        compared = run.compare(next(iter(run.budget)))
        E, sigma = compared.E.values[:, None], compared.sigma.values[:, None, None]
        truth = GAUSSIAN(E, M, sigma) @ (c[0] * c[1])
        for name in compared.estimate.values:
            one: xr.Dataset = compared.sel(estimate=name)
            pulls.setdefault(name, []).append((np.abs(one.central.values - truth) / one.calibrated.values).ravel())
            widths.setdefault(name, []).append(float(one.calibrated.mean()) / float(np.abs(truth).max()))
    rows = []
    for name, each in pulls.items():
        what = f"element off the diagonal, {name}, {count} draws"
        rows += coverage(what, _within(np.array(each).T))
        rows.append(Row(f"{what}: mean error over the largest |rho|", float(np.mean(widths[name])), ""))
    return rows
