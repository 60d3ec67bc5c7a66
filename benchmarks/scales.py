"""What it costs to fix a unit of energy, and what it gains to know rho >= 0: the closed forms on known densities.

    python -m benchmarks.scales [--draws N] [--steep FILE.h5]

Suites V and A of ``public.py``, and six families on lattices of their own, from states below 0.1/a to states above 2/a.
Rows are the posterior with its prior in one unit or another, in GeV; the posterior that integrates over the unit; the
shipped networks; the most probable rho >= 0; and HLT by marginal likelihood. Columns: mean and median of
Err = sum |rho - truth| / sum |truth| over energies in per cent; coverage of one and two errors; half width. Errors are
those of each method, and in the last columns times one factor for each level and method, the conformal one of
``CALIBRATION`` draws of all six families together. Settings of sdpipe were chosen on other draws of such families, what
is shown is of ``TEST``: no two have a draw in common.

With ``--steep``, element (0, 0) of the dataset ``matrix (configuration, 3, 3, t)`` of a file as well, at 12, 24 and 30
times from t = 1, covariance of the mean from blocks of 20: log evidence, chi^2 of the C(t) that is implied, and
rho_sigma(E) at sigma = 0.2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.public import SUITES
from benchmarks.table import markdown
from sdpipe.config.origins import PLACE, manifest
from sdpipe.estimators.conformal import conformal_factor
from sdpipe.estimators.hlt import Choice
from sdpipe.estimators.networks import Networks
from sdpipe.estimators.positive import Positive
from sdpipe.estimators.posterior import ClosedForm, Posterior, PriorMoments
from sdpipe.infer.calibration import beyond_noise
from sdpipe.learn import shipped
from sdpipe.learn.audience import Audience
from sdpipe.physics.families import (
    DeltaTanhFamily,
    FewStatesFamily,
    FiniteVolumeFamily,
    O3Family,
    PeaksFamily,
    ResonanceFamily,
    breit_wigner,
)
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import FLOOR, Noise, synthetic
from sdpipe.physics.spectra import ChebyshevPrior, Spectrum, peaks

Array = NDArray[np.float64]
Answer = tuple[Array, Array]

CALIBRATION, TEST = 20261130, 20261131
LEVELS = (0.683, 0.954)
UNITS = (0.35, 0.5, 0.7, 1.0, 1.4)
CENTRAL, BOOTS, SEED = "Nmax", 60, 1


@dataclass(frozen=True)
class Suite:
    """Correlators of one lattice: noises, C (n, t), and true rho (n, E)."""

    grid: Observables
    noises: list[Noise]
    C: Array
    truth: Array


def _light_levels(g: np.random.Generator) -> Spectrum:
    """Levels of a resonance and a continuum above twice a mass of 0.08 to 0.2, 8 to 100 of them."""
    m, count = g.uniform(0.08, 0.2), int(np.exp(g.uniform(np.log(8), np.log(100))))
    E = 2 * m + np.sort(g.uniform(0, 1, count)) ** g.uniform(0.5, 1.5) * g.uniform(2, 5)
    peak = g.uniform(1, 8) * breit_wigner(E, g.uniform(0.5, 1.1), g.uniform(0.08, 0.3))
    rho = (1 - (2 * m / E) ** 2).clip(0) ** 1.5 * (peak + (1 + np.tanh((E - 1.4) / 0.3)) / 2)
    return peaks(tuple(np.gradient(E) * rho * g.gamma(4, 0.25, count)), tuple(E))


def _thermal(g: np.random.Generator) -> Spectrum:
    """One to five Gaussians of either sign of omega, at beta = 20, as in suite A but at random."""
    count = int(g.integers(1, 6))
    widths = np.exp(g.uniform(np.log(0.05), 0, count)) if g.random() < 0.5 else np.full(count, 0.02)
    places, heights = g.uniform(-3.5, 3.5, count), g.uniform(0.2, 1, count) / widths

    def rho(omega: Array) -> Array:
        both = [np.exp(-(((sign * omega[:, None] - places) / widths) ** 2) / 2) for sign in (1, -1)]
        return omega / -np.expm1(-20 * np.maximum(omega, 1e-12)) * (sum(both) @ heights)

    return Spectrum(continuum=rho, breaks=tuple(np.sort(np.abs(places))))


def _steep(g: np.random.Generator) -> Spectrum:
    """2 to 12 states, the lowest between 1 and 2.2, the highest up to 2.2 times that."""
    m, count = g.uniform(1, 2.2), int(g.integers(1, 12))
    masses = np.sort(np.append(m, m * (1 + g.uniform(0.05, 1.2, count))))
    return peaks(tuple(g.uniform(0.2, 1.5, count + 1)), tuple(masses))


def _of(*families: object) -> Callable[[np.random.Generator], Spectrum]:
    return lambda g: families[g.integers(len(families))].draw(g)


FAMILIES: dict[str, tuple[Observables, Callable[[np.random.Generator], Spectrum], tuple[float, float]]] = {
    "light levels": (
        Observables(Kernel("vector", 64, 0.45), tuple(range(1, 33)), (0.25,), tuple(np.linspace(0.2, 2, 10))),
        _light_levels,
        (3e-4, 3e-3),
    ),
    "resonances": (
        Observables(Kernel("periodic", 48, 0.6), tuple(range(1, 25)), (0.3,), tuple(np.linspace(0.3, 2.4, 8))),
        _of(ResonanceFamily((0.5, 1.6), (0.03, 0.4), (0.15, 0.8))),
        (2e-4, 5e-3),
    ),
    "states and continua": (
        Observables(Kernel("vector", 32, 0.8), tuple(range(1, 17)), (0.44,), tuple(np.linspace(0.2, 2.8, 9))),
        _of(
            FewStatesFamily((0.3, 1.3)),
            O3Family((0.4, 1.5)),
            DeltaTanhFamily((0.4, 1.3)),
            FiniteVolumeFamily((0.4, 1.2)),
        ),
        (3e-4, 1e-2),
    ),
    "thermal": (
        Observables(Kernel("periodic", 40, 0.5), tuple(range(1, 21)), (0.5,), tuple(np.linspace(0.5, 4.5, 6))),
        _thermal,
        (1e-4, 1e-4),
    ),
    "steep": (
        Observables(Kernel("exponential", 48), tuple(range(1, 25)), (0.25,), tuple(np.linspace(1.2, 3, 7))),
        _steep,
        (3e-4, 3e-3),
    ),
    "small": (
        Observables(Kernel("periodic", 128), tuple(range(2, 50, 2)), (0.06,), tuple(np.linspace(0.05, 0.5, 8))),
        _of(
            ResonanceFamily((0.1, 0.4), (0.01, 0.08), (0.03, 0.15)),
            FewStatesFamily((0.05, 0.3)),
            O3Family((0.05, 0.3)),
            PeaksFamily((3, 30), (0.05, 0.8)),
        ),
        (3e-4, 3e-3),
    ),
}
"""Lattice, density, and range of the relative error at the first time; energies in GeV where the spacing is not 1."""


def drawn(name: str, seed: int, count: int) -> Suite:
    """Return ``count`` draws of a family; the relative error is LU in its range, and grows by up to 10 % a time."""
    grid, draw, (low, high) = FAMILIES[name]
    g = np.random.default_rng([seed, list(FAMILIES).index(name)])
    noises, C, truths = [], [], []
    for _ in range(count):
        clean, truth = grid.split(draw(g).integrals(grid))
        noise = synthetic(grid.times, clean, np.exp(g.uniform(np.log(low), np.log(high))), g.uniform(0, 0.1), 3.0)
        noises.append(noise)
        C.append(noise.draw(clean, 1, g)[0])
        truths.append(truth[0])
    return Suite(grid, noises, np.stack(C), np.stack(truths))


def public(name: str) -> Suite:
    """Return suite V or A."""
    (group,) = SUITES[name]()
    grid, C = group.grid, group.seen.mean(axis=1)
    noises = [Noise(grid.times, c, np.cov(s, rowvar=False), name) for c, s in zip(C, group.seen, strict=True)]
    return Suite(grid, noises, C, group.truth)


def _posterior(moments: Callable[[Observables], PriorMoments]) -> Callable[[Suite], Answer]:
    def answer(suite: Suite) -> Answer:
        prior = moments(suite.grid)
        found = [Posterior.for_noise(prior, n)(c) for n, c in zip(suite.noises, suite.C, strict=True)]
        return np.stack([e.mean[0] for e in found]), np.stack([e.sd[0] for e in found])

    return answer


def _positive(suite: Suite) -> Answer:
    noises = [Noise(n.times, n.mean, n.covariance, n.source, floor=FLOOR) for n in suite.noises]
    found = [Positive.for_noise(suite.grid, n)(c) for n, c in zip(noises, suite.C, strict=True)]
    return np.stack([e.mean[0] for e in found]), np.stack([e.error[0] for e in found])


def _networks(suite: Suite) -> Answer:
    """The shipped networks: their error, that of the noise in it, and what the posterior leaves open."""
    kept, g = shipped.read(PLACE / "audience.npz", manifest()["sha256"]), np.random.default_rng(SEED)
    found = []
    for n, c in zip(suite.noises, suite.C, strict=True):
        noise = Noise(n.times, n.mean, n.covariance, n.source, floor=FLOOR)
        audience = Audience(suite.grid, noise, ChebyshevPrior(64), 0.2, "local", True, None)
        networks = Networks([shipped.serve(k, audience, "") for k in kept], audience, CENTRAL, ClosedForm(audience))
        said = networks.predict(c, noise.draw(c, BOOTS, g)).isel(sigma=0).sel(ensemble=CENTRAL)
        latt = said.rho.mean("replica").std("boot")
        beyond = beyond_noise(said.scale.mean(("replica", "boot")), latt, said.unresolved)
        found.append((said.rho.mean(("replica", "boot")).values, np.hypot(latt, beyond).values))
    return np.stack([mean for mean, _ in found]), np.stack([error for _, error in found])


def _hlt(choice: Choice) -> Callable[[Suite], Answer]:
    def answer(suite: Suite) -> Answer:
        noises = [Noise(n.times, n.mean, n.covariance, n.source, floor=FLOOR) for n in suite.noises]
        built = [choice.build(suite.grid, n, 0.2) for n in noises]
        found = [hlt.around(c, c[None]) for hlt, c in zip(built, suite.C, strict=True)]
        return np.stack([r.mean[0] for r in found]), np.stack([r.error[0] for r in found])

    return answer


def _in_unit(unit: float) -> Callable[[Suite], Answer]:
    return _posterior(lambda grid: PriorMoments.from_prior(ChebyshevPrior(64, unit=unit), grid))


METHODS: dict[str, Callable[[Suite], Answer]] = {
    **{f"posterior, unit {unit:g}": _in_unit(unit) for unit in UNITS},
    "posterior, over units": _posterior(PriorMoments.over_scales),
    "shipped networks": _networks,
    "most probable rho >= 0": _positive,
    "HLT, E0 = 0.2 or lower": _hlt(Choice()),
    "HLT, E0 by marginal likelihood": _hlt(Choice(E0="evidence")),
}


def scores(answer: Answer, truth: Array, factors: Array) -> dict[str, float]:
    """Return what a row shows."""
    (mean, error), (one, two) = answer, factors
    off = np.abs(mean - truth)
    err = 100 * off.sum(axis=1) / np.abs(truth).sum(axis=1)
    return {
        "Err": err.mean(),
        "median": float(np.median(err)),
        "1 sd": 100 * np.mean(off < error),
        "2 sd": 100 * np.mean(off < 2 * error),
        "half width": error.mean(),
        "68.3 %": 100 * np.mean(off < one * error),
        "95.4 %": 100 * np.mean(off < two * error),
        "calibrated half width": one * error.mean(),
    }


def tables(count: int) -> None:
    """Print a table for each suite."""
    calibration = [drawn(name, CALIBRATION, count) for name in FAMILIES]
    factors = {}
    for name, method in METHODS.items():
        off = [np.abs((mean - s.truth) / error) for s in calibration for mean, error in [method(s)]]
        pooled = np.concatenate([x.ravel() for x in off])
        factors[name] = np.array([conformal_factor(pooled, level) for level in LEVELS])
    suites = {name: public(name) for name in ("V", "A")} | {name: drawn(name, TEST, count) for name in FAMILIES}
    for title, suite in suites.items():
        rows = {name: scores(method(suite), suite.truth, factors[name]) for name, method in METHODS.items()}
        print(
            f"\n{title}, {len(suite.C)} correlators\n\n{markdown(pd.DataFrame(rows).T.rename_axis('method'))}",
            flush=True,
        )


def steep(file: Path) -> None:
    """Print what real steep data give."""
    E, rows = (1.45, 1.93, 2.15, 2.41), {}
    with h5py.File(file) as content:
        data = content["matrix"][:, 0, 0]
    blocks = data[: len(data) // 20 * 20].reshape(-1, 20, data.shape[1]).mean(axis=1)
    for last in (12, 24, 30):
        grid = Observables(Kernel("exponential", 64), tuple(range(1, last + 1)), (0.2,), E)
        seen = slice(1, last + 1)
        C = data.mean(axis=0)[seen]
        noise = Noise(grid.times, C, np.cov(blocks[:, seen], rowvar=False) / len(blocks), file.name, floor=FLOOR)
        priors = {f"unit {u:g}": PriorMoments.from_prior(ChebyshevPrior(64, unit=u), grid) for u in (0.5, 1, 2, 4)}
        for name, prior in {**priors, "over units": PriorMoments.over_scales(grid)}.items():
            posterior = Posterior.for_noise(prior, noise)
            e = posterior(C)
            numbers = {"log evidence": e.log_evidence, "u": e.unit, "E0": e.threshold, "chi2": posterior.goodness(C)[0]}
            rows[last, f"posterior, {name}"] = numbers | {f"rho({x})": y for x, y in zip(E, e.mean[0], strict=True)}
        positive = Positive.for_noise(grid, noise)
        found = positive(C)
        numbers = {"chi2": found.chi2, "least chi2": positive.least_chi2(C)}
        rows[last, "most probable rho >= 0"] = numbers | {f"rho({x})": y for x, y in zip(E, found.mean[0], strict=True)}
        for name, choice in {"E0 = 0.2": Choice(), "E0 by marginal likelihood": Choice(E0="evidence")}.items():
            hlt = choice.build(grid, noise, 0.2).floored(C)
            r = hlt(C)
            numbers = {"E0": hlt.E0, "found": float(r.found.all())}
            rows[last, f"HLT, {name}"] = numbers | {f"rho({x})": y for x, y in zip(E, r.mean[0], strict=True)}
    frame = pd.DataFrame(rows).T.rename_axis(["times", "method"])
    print(f"\n{file.name}, sigma = 0.2\n\n{markdown(frame.astype(float))}")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--steep", type=Path)
    arguments = parser.parse_args()
    if arguments.steep:
        steep(arguments.steep)
    tables(arguments.draws)


if __name__ == "__main__":
    main()
