"""Two public suites and our own simulation: the same samples to sdpipe and to other packages.

    python -m benchmarks public

**V**, the synthetic vector correlator of lsdensities (LupoA/lsdensities, examples/syntheticVVCorrelator.py): a state at
0.775 GeV of weight U(0.35, 0.45), and 24 states at U(0.28, 3.6) GeV of weight U(0.005, 0.02); C(t) at t = 1..24 with a
relative error that rises exponentially from 0.002 to 0.15 and correlation exp(-|t - t'|/3); sigma = 0.4 GeV.

**A**, the 40 positive bosonic spectra of ACT100 (L. Huang, arXiv:2411.16412; huangli712/ACTest, src/dataset.jl):
A(omega) = sum A exp(-(omega - e)^2 / 2 G^2), normalised on [-8, 8], at beta = 20. With G(tau) = int d omega omega
e^(-tau omega) / (1 - e^(-beta omega)) A(omega), C = G(tau) + G(beta - tau) is of kernel ``periodic`` with

    rho(omega) = omega [A(omega) + A(-omega)] / (1 - e^(-beta omega)),    omega >= 0,

here at 20 of 40 times, with independent relative errors of 1e-4; sigma = 0.5.

**O**, the two-dimensional O(3) model by Monte Carlo, data/o3-montecarlo.h5, at three beta (docs/o3.md); energies in
units of 2m, sigma = 0.44. The truth is the two-particle density in the continuum: cutoff effects count as errors.

For each correlator Err = int |rho - truth| / int |truth| over the energies, f = max(1 - Err, 0). Rows are, over the
correlators that a method could do: the mean and the median of Err, the mean of f, the coverage at 68.3 and 95.4 %,
which for a peer is that of one and two of its errors, the mean half width at 68.3 %, and seconds of processor time.
Every method has the mean and the covariance of the same 800 samples; lsdensities gets 64 that have them, too.

Settings of the suites and of the peers (``peer_methods.py``) are of 2026-11-26, from before any score of a peer was
seen; the median was added after that, since a peer was off by 1e268 once. sdpipe's shipped networks, posterior and HLT
(by marginal likelihood) are what ``sdpipe.reconstruct`` makes of each correlator, with kernel, times, sigma and
energies given; bounds begin at E0 = 0. Dedicated networks are one
ensemble of the default mixture, 100,000 samples, two replicas, for one covariance: suite A, where each correlator has
another, has none.
"""

from __future__ import annotations

import resource
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

import sdpipe
from benchmarks.commands import run_stage
from benchmarks.o3_reconstruction import FILE, GROUPS
from benchmarks.peers import METHODS, Absent, ask
from benchmarks.table import Row, markdown, processor_seconds
from benchmarks.training_sets import MIXTURE
from sdpipe.correlators.correlator import Correlator
from sdpipe.disk import files
from sdpipe.disk.layout import Layout
from sdpipe.estimators.bounds import Bounds
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.spectra import o3, peaks

Array = NDArray[np.float64]

BOOTS, SEED, LEVELS = 800, 20261126, (0.683, 0.954)


@dataclass(frozen=True)
class Group:
    """Correlators of one lattice.

    ``samples (n, boot, t)`` are at t = 1, 2, ..., of which ``grid`` uses the last; ``truth (n, E)``. ``cutoff`` is
    where peers end their integrals over omega, ``A0cut`` the largest A/A0 that lsdensities may take, ``noise`` the
    section of that name for dedicated networks, "own" for that of the only correlator.
    """

    name: str
    grid: Observables
    samples: Array
    truth: Array
    cutoff: float
    A0cut: float
    noise: dict[str, Any] | str | None = None

    @property
    def seen(self) -> Array:
        """Samples (n, boot, t) at the times of the grid."""
        return self.samples[..., self.grid.times[0] - 1 :]

    @property
    def question(self) -> dict[str, Any]:
        """What a peer is asked."""
        kernel = self.grid.kernel
        return {
            "samples": self.samples,
            "slices": np.arange(1, self.grid.times[-1] + 1),
            "first": self.grid.times[0],
            "period": kernel.period if kernel.parity else 0,
            "spacing": kernel.spacing,
            "sigma": self.grid.sigma[0],
            "energies": np.array(self.grid.energies),
            "cutoff": self.cutoff,
            "digits": 50,
            "A0cut": self.A0cut,
            "thin": 64,
        }


def vector(count: int = 40) -> Iterator[Group]:
    """Suite V."""
    g = np.random.default_rng(SEED)
    grid = Observables(Kernel("exponential", 48), tuple(range(1, 25)), (0.4,), (0.3, 0.6, 0.9, 1.2))
    growth, samples, truths = float(np.log(0.15 / 0.002) / 23), [], []
    for _ in range(count):
        weights = (g.uniform(0.35, 0.45), *g.uniform(0.005, 0.02, 24))
        C, truth = grid.split(peaks(weights, (0.775, *g.uniform(0.28, 3.6, 24))).integrals(grid))
        noise = synthetic(grid.times, C, 0.002, growth, 3.0)
        samples.append(_around(noise.draw(C, 1, g)[0], noise.draw(C, BOOTS, g)))
        truths.append(truth[0])
    model = {
        "kind": "peaks",
        "amplitudes": [0.4] + 24 * [0.0125],
        "masses": [0.775, *np.linspace(0.28, 3.6, 24).round(4).tolist()],
    }
    noise = {"kind": "synthetic", "r1": 0.002, "delta": growth, "tau": 3.0, "model": model}
    yield Group("V", grid, np.stack(samples), np.stack(truths), 5.0, 0.2, noise)


GAUSSIANS = (
    ((1, 0.8, 0),),
    ((1, 0.8, -2),),
    ((1, 0.8, 2),),
    ((1, 0.5, -0.8), (1, 0.5, 0.8)),
    ((1, 0.5, -1.8), (1, 0.5, 1.8)),
    ((1, 0.5, -3), (1, 0.5, 3)),
    ((1, 0.4, 0), (1, 0.4, -3)),
    ((1, 0.4, 0), (1, 0.4, 3)),
    ((0.5, 0.5, -3), (1.5, 0.5, 3)),
    ((1.5, 0.5, -3), (0.5, 0.5, 3)),
    ((1, 0.1, 0), (0.5, 1, -1), (0.5, 1, 1)),
    ((1, 0.1, 0), (0.5, 1, -2), (0.5, 1, 2)),
    ((1, 0.05, 0), (0.5, 1, -3), (0.5, 1, 3)),
    ((1, 0.05, 0), (0.4, 0.5, -3.5), (0.4, 0.5, 3.5)),
    ((1, 0.05, -1), (0.1, 0.8, -3), (0.4, 0.8, 3)),
    ((1, 0.05, 1), (0.4, 0.8, -3), (0.1, 0.8, 3)),
    ((1, 0.2, 0), (0.6, 0.6, -1), (0.6, 0.6, -3)),
    ((1, 0.2, 0), (0.6, 0.6, 1), (0.6, 0.6, 3)),
    ((1, 0.2, 0), (0.1, 0.4, -2), (0.6, 1, 2)),
    ((1, 0.2, 0), (0.1, 0.4, 2), (0.6, 1, -2)),
)
"""(A, G, e) of the peaks of the continuum spectra of ACT100."""

DELTAS = (
    (-0.2,), (-2,), (2,), (-4,), (4,), (-2, 2), (-1, -3), (1, 3), (-0.5, 3), (-3, 0.5), (0, -0.5, 0.5), (0, -3, 3),
    (-1.5, -0.5, 0.5, 1.5), (-3, -0.5, 0.5, 3), (-3, -1, 1, 3), (0, -3, -2.5, 2.5, 3), (0, -3, -0.5, 0.5, 3),
    (0, -4, -2, 2, 4), (-4, -3.5, -3, 3, 3.5, 4), (-4, -1, -0.5, 0.5, 1, 4),
)  # fmt: skip
"""Their positions in its discrete spectra; A = 1, G = 0.02."""


def actest() -> Iterator[Group]:
    """Suite A. Integrals are sums over omega in steps of 0.0005, a fortieth of the narrowest peak."""
    g, beta = np.random.default_rng(SEED + 1), 20.0
    energies = tuple(np.linspace(0.5, 4.5, 6).round(12).tolist())
    grid = Observables(Kernel("periodic", 40, beta / 40), tuple(range(1, 21)), (0.5,), energies)
    omega = np.linspace(0, 8, 16001)
    weight = np.full(omega.size, omega[1])
    weight[[0, -1]] /= 2
    columns, thermal = grid.columns(omega), omega / -np.expm1(-beta * np.maximum(omega, 1e-12))
    thermal[0], samples, truths = 1 / beta, [], []
    for spectrum in (*GAUSSIANS, *(tuple((1, 0.02, e) for e in deltas) for deltas in DELTAS)):
        both = sum(
            A * (np.exp(-((omega - e) ** 2) / 2 / G**2) + np.exp(-((omega + e) ** 2) / 2 / G**2))
            for A, G, e in spectrum
        )
        C, truth = grid.split((weight * thermal * both / (weight @ both)) @ columns)
        noise = synthetic(grid.times, C, 1e-4, 0.0, 0.01)
        samples.append(_around(noise.draw(C, 1, g)[0], noise.draw(C, BOOTS, g)))
        truths.append(truth[0])
    yield Group("A", grid, np.stack(samples), np.stack(truths), 8.0, 0.2)


def montecarlo() -> Iterator[Group]:
    """Suite O: times with 0.5 < 2m t < 5, as in configs/o3-montecarlo.yaml."""
    for name in GROUPS:
        with h5py.File(FILE) as content:
            m, period = float(content[name].attrs["mass"]), int(content[name].attrs["T"])
        a = 2 * m
        first, last = int(np.ceil(0.5 / a)), int(5.1 / a)
        data = Correlator.from_xarray(sdpipe.read_correlator(FILE, f"{name}/current", period=period, times=(1, last)))
        grid = Observables(Kernel("periodic", period, a), tuple(range(first, last + 1)), (0.44,), (0.5, 1.0, 1.5, 2.0))
        truth = grid.split(o3(1.0).integrals(grid))[1]
        samples = _around(data.mean, data.bootstrap(BOOTS, SEED, "public")) / a
        yield Group(f"O-{name}", grid, samples[None], truth, 20.0, 0.2, "own")


SUITES: dict[str, Callable[[], Iterator[Group]]] = {"V": vector, "A": actest, "O": montecarlo}


def _around(mean: Array, boots: Array) -> Array:
    """Return samples (boot, t), moved so that their mean is the datum."""
    return mean + boots - boots.mean(axis=0)


@dataclass(frozen=True)
class Made:
    """What one method made of correlators: central (n, E), low and high (n, level, E) or NaN, seconds (n,) of each.

    ``before (n,)`` are the seconds of training or calibration, ``why (n,)`` says what failed.
    """

    central: Array
    low: Array
    high: Array
    seconds: Array
    before: Array
    why: NDArray[np.str_]

    @classmethod
    def together(cls, parts: list[Made]) -> Made:
        """Return all, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def scores(self, truth: Array) -> dict[str, float]:
        """Return the scores of those that did not fail, see above; truth (n, E)."""
        done = np.isfinite(self.central).all(axis=1)
        found = {"solved": float(done.sum())}
        if not done.any():
            return found
        truth, low, high = truth[done], self.low[done], self.high[done]
        err = np.abs(self.central[done] - truth).sum(axis=1) / np.abs(truth).sum(axis=1)
        found |= {"Err_sigma": float(err.mean()), "median of Err": float(np.median(err))}
        found["f"] = float(np.maximum(1 - err, 0).mean())
        if np.isfinite(low).all():
            inside = (low <= truth[:, None]) & (truth[:, None] <= high)
            found |= {f"coverage at {100 * level:g} %": float(inside[:, i].mean()) for i, level in enumerate(LEVELS)}
            found["half width"] = float((high - low)[:, 0].mean() / 2)
        return found | {"seconds": float(self.seconds[done].mean()), "seconds before": float(self.before[done].mean())}


OWN = {
    "spectra": {"Nb": [64], "Nrho": 100000, "mixture": yaml.safe_load(MIXTURE)},
    "ensembles": {"Nmax": {"Nb": 64, "Nrho": 100000, "network": "mlpM"}},
    "budget": {"central": "Nmax", "references": {}},
    "training": {"replicas": 2, "inputs": "posterior", "epochs": 8},
    "validation": {"samples": 4000, "bootstrap": 10, "levels": list(LEVELS), "families": {}},
}  # fmt: skip
"""The dedicated networks."""


def _config(path: Path, group: Group, noise: Any) -> Path:
    """Write a config of the group."""
    grid = group.grid
    kernel, E = grid.kernel, grid.energies
    content = {
        "name": f"suite-{group.name}",
        "lattice": {"period": kernel.period, "times": [grid.times[0], grid.times[-1]], "spacing": kernel.spacing},
        "kernel": kernel.name,
        "smearing": {"sigma": list(grid.sigma)},
        "energies": {"min": E[0], "max": E[-1], "count": len(E)},
        "noise": noise,
        "methods": ["posterior", "hlt"],
        "targets": {"o3": {"kind": "o3"}},
    }
    if noise["kind"] == "correlator":
        content["lattice"]["first"] = grid.times[0]
    files.write_text(path, yaml.safe_dump(content | OWN, sort_keys=False))
    return path


def _data(path: Path, samples: Array) -> dict[str, Any]:
    """Write samples (boot, t) and return the section that reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, samples=samples)
    return {"kind": "correlator", "path": str(path), "resampling": "bootstrap"}


def _reconstructed(group: Group, place: Path, samples: Array) -> dict[str, Array]:
    """Run ``sdpipe.reconstruct`` on one correlator as a user would; return its seconds, of all processes."""
    grid, path = group.grid, place.with_name(f"{place.name}.npz")
    _data(path, samples)
    E, sigma = grid.energies, list(grid.sigma)
    keys = [f"kernel={grid.kernel.name}", f"smearing.sigma={sigma}", "resampling=bootstrap", "methods=[posterior, hlt]"]
    keys += [f"lattice={{period: {grid.kernel.period}, spacing: {grid.kernel.spacing}, first: {grid.times[0]}}}"]
    keys += [f"lattice.times=[{grid.times[0]}, {grid.times[-1]}]"]
    keys += [f"energies={{min: {E[0]}, max: {E[-1]}, count: {len(E)}}}"]
    began = _processor_seconds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sdpipe.reconstruct(path, *keys, run=place)
    return {"seconds": np.array(_processor_seconds() - began)}


def _judged(place: Path, samples: Array) -> dict[str, Array]:
    """Return central values, half widths at both levels and seconds of each method for one correlator (boot, t).

    The error at another level than the quoted one is as many times as large as its conformal factor.
    """
    run, found = sdpipe.open_run(place), {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the variance of its noise")  # in suite V it is relative to its C(t)
        budget = sdpipe.judge(run, samples).isel(sigma=0)
    factors = run.validation.sel(scale_rule="auto").isel(sigma=0)
    for name in ("networks", *run.config.methods):
        if name == "networks":
            central, half, factor = budget.central, budget.calibrated, factors.factor
        else:
            own = budget.sel(estimator=name)
            central, half = own.estimator_central, own.estimator_calibrated
            factor = factors.estimator_factor.sel(estimator=name)
        halves = np.stack([(half * factor.sel(level=x) / factor.sel(level=run.config.budget.level)) for x in LEVELS])
        found |= {f"{name} central": central.values, f"{name} low": central.values - halves}
        found |= {f"{name} high": central.values + halves}
    predictor, scale = run._predictor, budget.attrs["scale"]
    audience, C, alone = predictor.audience, samples * scale, replace(predictor, methods=())
    mean = C.mean(axis=0)
    estimators = predictor.estimators
    each = {
        "networks": lambda: alone.predict(C.copy(), scale),
        "posterior": lambda: estimators["posterior"].estimate(mean, C.copy()),
        "hlt": lambda: estimators["hlt"].estimate(mean, C),
    }
    for name, function in each.items():
        function()
        found[f"{name} seconds"] = np.array(processor_seconds(function))
    began = time.process_time()
    limits = [
        Bounds.for_noise(audience.observables, audience.noise.at_scale(mean), 0.0, level)(mean) for level in LEVELS
    ]
    found["bounds seconds"] = np.array((time.process_time() - began) / len(LEVELS))
    found["bounds low"], found["bounds high"] = (
        np.stack([getattr(x, side)[0] for x in limits]) / scale for side in ("lower", "upper")
    )
    return found | {"bounds central": (found["bounds low"] + found["bounds high"])[0] / 2}


def _trained(group: Group, place: Path, samples: Array | None) -> dict[str, Array]:
    """Run all stages before the first prediction of networks of one's own, with noise of ``samples`` or of the group.

    Returns the seconds that it took, of all processes.
    """
    noise = group.noise if samples is None else _data(place.with_name(f"{place.name}.data.npz"), samples)
    path = _config(place.with_name(f"{place.name}.yaml"), group, noise)
    began = _processor_seconds()
    for stage in ("generate", "train", "validate"):
        run_stage(stage, path, Layout(place))
    return {"seconds": np.array(_processor_seconds() - began)}


def _processor_seconds() -> float:
    """Return the processor time of this process and of those that it has started and that have ended."""
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in each)


def _once(place: Path, function: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """Return what ``function`` returns, and keep it: it is not called again."""
    file = place.with_name(f"{place.name}.npz")
    if not file.exists():
        content = BytesIO()
        np.savez(content, **function())
        files.write_bytes(file, content.getvalue())
    with np.load(file) as content:
        return dict(content)


def _failed(group: Group, error: Exception) -> dict[str, Array]:
    """Return nothing for every method of one correlator, and what was raised."""
    found: dict[str, Array] = {"why": np.array(f"{type(error).__name__}: {' '.join(str(error).split())}")}
    for name in ("networks", "posterior", "hlt", "bounds"):
        E = len(group.grid.energies)
        found |= {f"{name} central": np.full(E, np.nan), f"{name} seconds": np.array(np.nan)}
        found |= {f"{name} {side}": np.full((len(LEVELS), E), np.nan) for side in ("low", "high")}
    return found


def _of(found: list[dict[str, Array]], name: str, before: float = 0.0) -> Made:
    """Return what one method of sdpipe made of all correlators, ``before`` each of which so many seconds went."""
    parts = [np.stack([one[f"{name} {what}"] for one in found]) for what in ("central", "low", "high", "seconds")]
    missing = np.isnan(parts[0]).any(axis=1)
    raised = np.array([str(one.get("why", "")) for one in found])
    why = np.where(missing & (raised == ""), "not certified at every energy", raised)
    return Made(*parts, np.full(len(found), before / len(found)), why)


def _shipped(group: Group, root: Path) -> list[dict[str, Array]]:
    """Return what ``reconstruct`` makes of every correlator of a group, one by one."""
    return [_one(group, root, "shipped", i, partial(_reconstructed, group)) for i in range(len(group.seen))]


def _dedicated(group: Group, root: Path) -> tuple[list[dict[str, Array]], float]:
    """Return what networks trained for a group make of its correlators, and the seconds that they took before."""
    place, noise = root / f"{group.name}-dedicated", None if isinstance(group.noise, dict) else group.seen[0]
    try:
        before = _once(root / f"{place.name}-before", partial(_trained, group, place, noise))
    except Exception as error:
        return [_failed(group, error)] * len(group.seen), np.nan
    return [_one(group, root, "dedicated", i) for i in range(len(group.seen))], float(before["seconds"])


def _one(
    group: Group, root: Path, name: str, i: int, make: Callable[[Path, Array], dict[str, Array]] | None = None
) -> dict[str, Array]:
    """Return what a run says of one correlator; a run of its own, if there is what makes it, which then goes."""
    place, samples = root / (f"{group.name}-{name}-{i:03d}" if make else f"{group.name}-{name}"), group.seen[i]

    def judged() -> dict[str, Array]:
        made = make(place, samples) if make else {}
        return _judged(place, samples) | made

    try:
        one = _once(root / f"{group.name}-{name}-judged-{i:03d}", judged)
    except Exception as error:
        one = _failed(group, error)
    else:
        if make:
            shutil.rmtree(place, ignore_errors=True)
    print(f"suite {group.name}: {name} networks, correlator {i + 1} of {len(group.seen)}", flush=True)
    return one


def ours(group: Group, root: Path) -> dict[str, Made]:
    """Return what sdpipe makes of a group."""
    found = _shipped(group, root)
    before = float(np.nansum([one.get("seconds", 0.0) for one in found]))
    names = {"shipped networks": "networks", "posterior": "posterior", "HLT": "hlt"}
    made = {f"sdpipe, {words}": _of(found, name, before) for words, name in names.items()}
    made["sdpipe, bounds"] = _of(found, "bounds")
    if group.noise:
        found, before = _dedicated(group, root)
        made["sdpipe, dedicated networks"] = _of(found, "networks", before)
    return made


def theirs(group: Group, directory: Path) -> dict[str, Made]:
    """Return what the peers make of a group; what a peer cannot do, or all where it cannot be had, says why."""
    made: dict[str, Made] = {}
    n, E = len(group.samples), len(group.grid.energies)
    for peer, methods in METHODS.items():
        print(f"suite {group.name}: {peer}", flush=True)
        try:
            answer = ask(peer, group.question, directory)
        except Absent as error:
            answer = {"method": np.array([]), "seconds": np.full(n, np.nan), "why": np.full(n, str(error))}
        there = answer["method"].tolist()
        for method in methods:
            central, error = np.full((2, n, E), np.nan)
            if method in there:
                central, error = (answer[key][:, there.index(method)] for key in ("central", "error"))
            low, high = (central[:, None] + sign * np.array([[1.0], [2.0]]) * error[:, None] for sign in (-1, 1))
            name = f"{peer}, {method}" if method else peer
            made[name] = Made(central, low, high, answer["seconds"], np.zeros(n), answer["why"])
    return made


COLUMNS = (
    "Err_sigma",
    "median of Err",
    "f",
    *(f"coverage at {100 * level:g} %" for level in LEVELS),
    "half width",
    "seconds",
    "seconds before",
    "solved",
)


def measure(directory: Path) -> list[Row]:
    """Score every method on every suite, and write a table of each to ``public/tables.md``."""
    root, rows, tables = directory.resolve() / "public", [], []
    root.mkdir(parents=True, exist_ok=True)
    for suite, groups in SUITES.items():
        made: dict[str, list[Made]] = {}
        truths = []
        for group in groups():
            truths.append(group.truth)
            for name, one in (ours(group, root) | theirs(group, directory)).items():
                made.setdefault(name, []).append(one)
        truth = np.concatenate(truths)
        scores = {name: Made.together(parts).scores(truth) for name, parts in made.items()}
        why = {name: Counter(w for part in parts for w in part.why if w) for name, parts in made.items()}
        tables.append(f"## Suite {suite}, {len(truth)} correlators\n\n")
        tables.append(markdown(pd.DataFrame(scores, index=COLUMNS).T.rename_axis("method")))
        tables.append("\n\n")
        tables += [f"- {name}, {n} times: {words}\n" for name, each in why.items() for words, n in each.items()]
        tables.append("\n")
        for name, found in scores.items():
            what = f"suite {suite}, {name}"
            rows += [Row(f"{what}: {k}", v, "s" if "seconds" in k else "") for k, v in found.items() if k != "solved"]
            if why[name]:
                words = "; ".join(f"{n} times: {w}" for w, n in why[name].items())
                rows.append(Row(f"{what}: correlators solved, of {len(truth)}", found["solved"], "", note=words))
        files.write_text(root / "tables.md", "".join(tables))
    return rows
