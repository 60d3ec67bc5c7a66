"""Several ensembles, one limit: continuum, infinite volume, physical masses, sigma -> 0."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import xarray as xr

from sdpipe.analysis import averaging
from sdpipe.analysis.answers import Answer, Answers, answer, each_target
from sdpipe.analysis.averaging import Average, Model
from sdpipe.arrays import Array
from sdpipe.correlators.record import first_line
from sdpipe.errors import UserError
from sdpipe.infer.budget import squared
from sdpipe.infer.least_squares import fit
from sdpipe.physics.noise import chi2_p_value

Point = Mapping[str, float]
Term = str | Callable[[Point], float]

SOURCES = ("latt", "unresolved")
"""Noise of the lattice; what the data do not resolve, and systematic shifts."""


@dataclass(frozen=True, eq=False)
class Ensembles:
    """Answers of ensembles on one grid, y (ensemble, sigma, E), and where each is: ``points``.

    ``sources`` are covariances (ensemble sigma E, ensemble sigma E) by source, ``samples`` (boot, ensemble, sigma, E).
    """

    answers: tuple[Answer, ...]
    points: tuple[dict[str, float], ...]
    y: Array
    samples: Array
    sources: dict[str, Array]

    @property
    def names(self) -> list[str]:
        """How each ensemble is called: by its run, with its number where two are called alike."""
        names = [one.run.config.name for one in self.answers]
        return names if len(set(names)) == len(names) else [f"{name} ({i})" for i, name in enumerate(names)]


def gather(
    runs: Sequence[Answers], target: str | Sequence[str] | None, points: Sequence[Point] | None, common: Sequence[str]
) -> Ensembles:
    """Return the answers of runs on their common grid; raise UserError, saying which differs, where there is none."""
    targets = each_target(runs, target, "combine")
    given = [{}] * len(runs) if points is None else list(points)
    if len(given) != len(runs):
        raise UserError(f"combine: {len(runs)} runs and {len(given)} points; needed: one for each run")
    for point in given:
        if not isinstance(point, Mapping) or not all(isinstance(x, Real) for x in point.values()):
            raise UserError(
                f"combine: points: {point!r} is not allowed; allowed: numbers by name, such as {{'a': 0.3}}"
            )
    return together([answer(run, name) for run, name in zip(runs, targets, strict=True)], given, common)


def together(answers: Sequence[Answer], points: Sequence[Point], common: Sequence[str]) -> Ensembles:
    """Return answers at their points on their common grid; raises as :func:`gather` does."""
    _check_alike(answers)
    answers = _on_common_energies(answers)
    placed = tuple({"a": one.run.config.lattice.spacing, **p} for one, p in zip(answers, points, strict=True))
    factors = np.array([p.get("factor", 1.0) for p in placed])
    boot = min(len(one.samples) for one in answers)
    y = np.stack([f * one.central for f, one in zip(factors, answers, strict=True)])
    samples = np.stack([f * one.samples[:boot] for f, one in zip(factors, answers, strict=True)], axis=1)
    sources = {
        "latt": _noise(answers, factors, samples if "latt" in common else None),
        "unresolved": _unresolved(answers, factors, "unresolved" in common),
    }
    return Ensembles(tuple(answers), placed, y, samples, sources)


def _check_alike(answers: Sequence[Answer]) -> None:
    """Raise UserError for runs whose answers are not the same quantity."""
    first = answers[0]
    for one in answers[1:]:
        for what, of in (
            ("kernel", lambda a: a.run.config.kernel),
            ("smearing", lambda a: (a.run.config.smearing.kind, a.run.config.smearing.parameters)),
            ("units of rho", lambda a: a.units),
            ("unit of energy", lambda a: a.unit),
            ("sigma", lambda a: tuple(float(f"{s:.9g}") for s in a.sigma)),
        ):
            if of(one) != of(first):
                words = f"{what} {of(first)} in {first.run.config.name}, {of(one)} in {one.run.config.name}"
                raise UserError(f"runs that cannot be combined: {words}; allowed: the same in all")


def _on_common_energies(answers: Sequence[Answer]) -> list[Answer]:
    first = answers[0]
    rows = [[np.flatnonzero(np.isclose(one.E, E, rtol=1e-9)) for one in answers] for E in first.E]
    rows = [[int(r[0]) for r in row] for row in rows if all(len(r) for r in row)]
    if not rows:
        spans = "; ".join(f"{one.run.config.name} {one.E[0]:g}..{one.E[-1]:g}" for one in answers)
        raise UserError(f"runs that cannot be combined: no energy is common to all of them: {spans}")
    return [one.rows([row[i] for row in rows]) for i, one in enumerate(answers)]


def _noise(answers: Sequence[Answer], factors: Array, samples: Array | None) -> Array:
    """Return the covariance of the noise: in blocks or, from common ``samples``, between all ensembles."""
    if samples is not None:
        return np.cov(samples.reshape(len(samples), -1).T, ddof=0)
    return _blocks([f**2 * one.latt for f, one in zip(factors, answers, strict=True)])


def _unresolved(answers: Sequence[Answer], factors: Array, common: bool) -> Array:
    """Return the covariance of what is not resolved: in blocks, or U (11^T x R) U, R the mean correlation."""
    parts = [f**2 * one.unresolved for f, one in zip(factors, answers, strict=True)]
    if not common:
        return _blocks(parts)
    widths = [np.sqrt(np.maximum(np.diag(part), 0)) for part in parts]
    R = np.mean([one / np.maximum(np.outer(w, w), 1e-300) for one, w in zip(parts, widths, strict=True)], axis=0)
    signed = np.concatenate([np.sign(f) * w for f, w in zip(factors, widths, strict=True)])
    return signed[:, None] * np.tile(R, 2 * (len(parts),)) * signed


def _blocks(parts: Sequence[Array]) -> Array:
    n = len(parts[0])
    covariance = np.zeros((len(parts), n, len(parts), n))
    for i, part in enumerate(parts):
        covariance[i, :, i] = part
    return covariance.reshape(2 * (len(parts) * n,))


def design_of(data: Ensembles, terms: Sequence[Term]) -> tuple[Array, list[str]]:
    """Return f_k (ensemble, sigma, 1 + term), the first of them 1, and their names."""
    labels, columns = ["limit"], [np.ones(data.y.shape[:2])]
    for term in terms:
        labels.append(term if isinstance(term, str) else getattr(term, "__name__", "function"))
        of = _named(term) if isinstance(term, str) else term
        column = np.empty(data.y.shape[:2])
        for i, point in enumerate(data.points):
            for j, sigma in enumerate(data.answers[i].sigma):
                try:
                    column[i, j] = of({**point, "sigma": float(sigma)})
                except (TypeError, ValueError, ArithmeticError) as error:
                    raise UserError(f"terms: {labels[-1]} cannot be computed ({first_line(error)})") from None
                except KeyError as error:
                    raise UserError(
                        f"terms: {labels[-1]} needs {error} at each of points; there: {sorted(point)}"
                    ) from None
        if not np.isfinite(column).all():
            raise UserError(f"terms: {labels[-1]} is not finite at every ensemble")
        columns.append(column)
    if len(set(labels)) < len(labels):
        raise UserError(f"terms: {', '.join(labels[1:])}; they must differ")
    for label, column in zip(labels[1:], columns[1:], strict=True):
        if len(data.answers) > 1 and (column == column[0, 0]).all():
            raise UserError(f"terms: {label} is {column[0, 0]:g} at every ensemble; needed: points that differ in it")
    return np.stack(columns, axis=-1), labels


def _named(term: str) -> Callable[[Point], float]:
    if term == "exp(-mL)":
        return lambda x: float(np.exp(-x["mL"]))
    if match := re.fullmatch(r"(a|sigma)([1-9]?)", term):
        name, power = match[1], int(match[2] or 1)
        return lambda x: x[name] ** power
    raise UserError(f"terms: {term!r} is not allowed; allowed: a, a2, a4, sigma2, sigma4, exp(-mL), or a function")


def with_sigma(design: Array) -> bool:
    """Return whether a term depends on sigma."""
    return bool((design != design[:, :1]).any())


def limit_of(
    data: Ensembles, design: Array, labels: list[str], averaged: bool = False, leave_out: int = 0
) -> xr.Dataset:
    """Return the labelled result of one choice of what is common."""
    n_ens, n_sigma, n_E = data.y.shape
    together = with_sigma(design)
    widths = [np.arange(n_sigma)] if together else [np.array([j]) for j in range(n_sigma)]
    parts = []
    for chosen in widths:
        D = design[:, chosen].reshape(-1, design.shape[-1])
        ensemble = np.repeat(np.arange(n_ens), len(chosen))
        whole = [Model(tuple(range(D.shape[1])), tuple(range(len(D))))]
        names = [f"{data.names[i]}, sigma {data.answers[0].sigma[j]:g}" for i in range(n_ens) for j in chosen]
        y = np.moveaxis(data.y[:, chosen], -1, 0).reshape(n_E, -1)
        sources = {name: _at_each_energy(V, data.y.shape, chosen) for name, V in data.sources.items()}
        which = averaging.models(D, ensemble.tolist(), leave_out) if averaged else whole
        parts.append(averaging.average(y, sources, D, which, names))
    return _labelled(data, design, labels, widths, parts)


def _at_each_energy(V: Array, shape: tuple[int, ...], chosen: Array) -> Array:
    """Return the covariance (E, row, row) between ensembles and some of the widths at each energy."""
    n_ens, n_sigma, n_E = shape
    V = V.reshape(n_ens, n_sigma, n_E, n_ens, n_sigma, n_E)[:, chosen][:, :, :, :, chosen]
    same = np.einsum("iaejbe->eiajb", V)
    return same.reshape(n_E, n_ens * len(chosen), -1)


def _labelled(
    data: Ensembles, design: Array, labels: list[str], widths: Sequence[Array], parts: Sequence[Average]
) -> xr.Dataset:
    first, (n_ens, n_sigma) = data.answers[0], data.y.shape[:2]
    sigma = first.sigma if len(parts) == n_sigma and not with_sigma(design) else np.zeros(1)
    units, grid = first.units, ("sigma", "E")

    def stacked(name: str, axis: int) -> Array:
        return np.stack([getattr(part, name) for part in parts], axis=axis)

    maps = _maps(data, widths, parts)
    weight, value, central = stacked("weight", 1), stacked("value", 1), stacked("central", 0)
    n, P = data.y.size, central.size
    weighed = (np.sqrt(weight)[..., None, None, None] * maps).reshape(-1, P, n)
    V = sum(data.sources.values())
    off = (np.sqrt(weight) * (value - central)).reshape(len(weight), P)
    covariance = sum(one @ V @ one.T for one in weighed) + off.T @ off
    mean_map = (weight[..., None, None, None] * maps).sum(axis=0).reshape(P, n)
    samples = (data.samples.reshape(len(data.samples), n) @ mean_map.T).reshape(-1, *central.shape)
    error, total = stacked("error", 1), stacked("total", 0)
    chi2, freedom = stacked("chi2", 1), parts[0].freedom[:, None, None]
    p_values = np.where(freedom > 0, chi2_p_value(chi2, freedom), np.nan)
    words = [_in_words(model, labels, n_ens, data.names, len(widths[0])) for model in parts[0].models]
    variables = {
        "central": (grid, central, {"units": units, "long_name": "limit of the smeared spectral density"}),
        "error": (("source", *grid), error, {"units": units, "long_name": "error by source"}),
        "total": (grid, total, {"units": units, "long_name": "total error"}),
        "covariance": (
            ("sigma", "E", "sigma2", "E2"),
            covariance.reshape(2 * central.shape),
            {"units": squared(units)},
        ),
        "samples": (("boot", *grid), samples, {"units": units, "long_name": "limit for each bootstrap sample"}),
        "value": (("model", *grid), value, {"units": units, "long_name": "limit by each model"}),
        "weight": (("model", *grid), weight, {"units": "1", "long_name": "weight of each model"}),
        "chi2": (("model", *grid), stacked("chi2", 1), {"units": "1"}),
        "p_value": (("model", *grid), p_values, {"units": "1"}),
        "freedom": ("model", parts[0].freedom),
        "coefficients": (("model", "term", *grid), stacked("coefficients", 2), {"units": f"{units} per term"}),
        "data": (("ensemble", "width", "E"), data.y, {"units": units}),
        "data_error": (("ensemble", "width", "E"), np.sqrt(np.diag(V)).reshape(data.y.shape), {"units": units}),
        "design": (("ensemble", "width", "term"), design),
    }
    unit = {"units": first.unit}
    coords = {
        "sigma": ("sigma", sigma, unit),
        "sigma2": ("sigma2", sigma, unit),
        "E": ("E", first.E, unit),
        "E2": ("E2", first.E, unit),
        "width": ("width", first.sigma, unit),
        "source": [*data.sources, "model"],
        "term": labels,
        "ensemble": data.names,
        "model": words,
    }
    return xr.Dataset(variables, coords)


def _maps(data: Ensembles, widths: Sequence[Array], parts: Sequence[Average]) -> Array:
    """Return the limits as linear functions of all data, (model, limit, E, ensemble, sigma, E)."""
    n_ens, n_sigma, n_E = data.y.shape
    maps = np.zeros((len(parts[0].models), len(parts), n_E, n_ens, n_sigma, n_E))
    for j, (chosen, part) in enumerate(zip(widths, parts, strict=True)):
        G = part.maps.reshape(len(part.models), n_E, n_ens, len(chosen))
        for e in range(n_E):
            maps[:, j, e, :, chosen, e] = np.moveaxis(G[:, e], -1, 0)
    return maps


def _in_words(model: Model, labels: list[str], n_ens: int, names: list[str], widths: int) -> str:
    """Return a model in words.

    >>> _in_words(Model((0, 1), (0, 2)), ["limit", "a2"], 3, ["coarse", "middle", "fine"], 1)
    '1 + a2, without middle'
    """
    absent = [names[i] for i in range(n_ens) if i * widths not in model.rows]
    without = f", without {', '.join(absent)}" if absent else ""
    return " + ".join(["1", *(labels[k] for k in model.columns[1:])]) + without


def in_turn(data: Ensembles, design: Array) -> xr.Dataset:
    """Return the limits with all terms taken one after the other, in both orders, where they are determined.

    Terms that hold both sigma and the ensemble cannot be taken in turn: then nothing is returned.
    """
    n_ens, n_sigma, n_E = data.y.shape
    of_ensemble = [k for k in range(1, design.shape[-1]) if (design[:, :, k] == design[:, :1, k]).all()]
    of_sigma = [k for k in range(1, design.shape[-1]) if (design[:, :, k] == design[:1, :, k]).all()]
    if len(of_ensemble) + len(of_sigma) < design.shape[-1] - 1:
        return xr.Dataset()
    if n_ens < 1 + len(of_ensemble) or n_sigma < 1 + len(of_sigma):
        return xr.Dataset()
    V = sum(_at_each_energy(one, data.y.shape, np.arange(n_sigma)) for one in data.sources.values())
    V = V.reshape(n_E, n_ens, n_sigma, n_ens, n_sigma)
    D_ens, D_sigma = design[:, 0, [0, *of_ensemble]], design[0, :, [0, *of_sigma]].T
    names, sigmas = data.names, [f"sigma {s:g}" for s in data.answers[0].sigma]
    y, limits = np.moveaxis(data.y, -1, 0), {}
    G = np.stack([fit(D_ens, V[:, :, j, :, j], names).G[:, 0] for j in range(n_sigma)], axis=1)
    left = np.einsum("eai,eiajb,ebj->eab", G, V, G)
    last = fit(D_sigma, left, sigmas)
    limits["sigma last"] = last(np.einsum("eai,eia->ea", G, y))[:, 0], last.covariance[:, 0, 0]
    H = np.stack([fit(D_sigma, V[:, i, :, i], sigmas).G[:, 0] for i in range(n_ens)], axis=1)
    left = np.einsum("eia,eiajb,ejb->eij", H, V, H)
    last = fit(D_ens, left, names)
    limits["sigma first"] = last(np.einsum("eia,eia->ei", H, y))[:, 0], last.covariance[:, 0, 0]
    value, variance = (np.stack([one[k] for one in limits.values()]) for k in (0, 1))
    variables = {"in_turn": (("order", "E"), value), "in_turn_error": (("order", "E"), np.sqrt(variance))}
    return xr.Dataset(variables, {"order": list(limits), "E": data.answers[0].E})
