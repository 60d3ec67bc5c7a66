"""From draws with known truth to ``validation.zarr``: predictions, calibration, coverage, width, bias, flags.

The first families are the prior, once for each ``scale_rule``: half of their draws calibrate, each what is normalised
by its rule; the other half and all other families, which keep their size, test.
docs/error-budget.md defines every quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import xarray as xr

from sdpipe.arrays import Array
from sdpipe.estimators.conformal import conformal_factor, conformal_rank, gaussian_quantile
from sdpipe.infer.budget import NETWORKS, beyond_latt, lead_errors, spread, total_error
from sdpipe.infer.calibration import ROWS, Resolution, beyond_noise, correlation, errors_off, integral_error, rules_of
from sdpipe.infer.predict import Predictor
from sdpipe.infer.trust import SUSPICIOUS, Reference
from sdpipe.physics.noise import IMPOSSIBLE

MOST_DRAWS = 50
"""Draws that are predicted at once: so few that cores share them evenly."""

WINDOWS = ("all", "low", "middle", "high")
"""Energies over which the coverage of integrals is tested: all, and each third."""

_PER_ENERGY = ("family", "sample", "sigma", "E")


def predict_draws(
    predictor: Predictor,
    references: Mapping[str, str],
    clean: Array,
    boots: int,
    normalise: bool,
    generator: np.random.Generator,
    each: Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]] = map,
) -> dict[str, Array]:
    """Predict draws C (sample, t) as if they were data, each with its own noise and ``boots`` bootstrap samples.

    They keep their size or, as ``scale: auto`` does, are ``normalise``d to the most likely one. Returns central
    (sample, sigma, E), error (sample, source, sigma, E), estimator_central, estimator_error (sample, estimator, sigma,
    E), scale, noise_scale, unlike, distance, spread, goodness_of_fit (sample,), and ``beyond`` (sample, sigma, E), the
    error of the source that is not the audience's, where it does not come from residuals. ``each`` maps a function over
    parts of the draws, which are the same whoever computes them.
    """
    data = predictor.noise.draw(clean, 1, generator)[:, 0]
    scale = np.array([predictor.amplitude(C) for C in data]) if normalise else np.ones(len(data))
    data *= scale[:, None]
    step = max(1, min(MOST_DRAWS, ROWS // boots))
    slices = [slice(low, low + step) for low in range(0, len(data), step)]
    parts = [(data[part], predictor.noise.draw(data[part], boots, generator), scale[part]) for part in slices]
    predicted = list(each(partial(_predicted, predictor, references), parts))
    return {name: np.concatenate([one[name] for one in predicted]) for name in predicted[0]} | {"scale": scale}


def _predicted(
    predictor: Predictor, references: Mapping[str, str], part: tuple[Array, Array, Array]
) -> dict[str, Array]:
    """Return what is kept of some draws: their data (sample, t), bootstrap samples (sample, boot, t) and scale."""
    data, samples, scale = part
    checks = predictor.checks(data)
    kept = _summarised(predictor.predict(samples, scale, data), predictor, references, scale)
    return kept | {name: checks[name] for name in ("noise_scale", "unlike", "distance", "goodness_of_fit")}


def _summarised(
    predicted: xr.Dataset, predictor: Predictor, references: Mapping[str, str], scale: Array
) -> dict[str, Array]:
    """Return what is kept of the predictions for some draws, samples first."""
    central, errors = lead_errors(predicted, predictor.central, references)
    kept = {"central": central, "error": np.abs(errors), "spread": spread(predicted) * scale}
    if "estimator" in predicted:
        kept["estimator_central"] = predicted.estimator_rho.mean("boot").astype(float)
        kept["estimator_error"] = predicted.estimator_error
    latt = np.abs(errors.sel(source="latt", drop=True))
    if "rho" not in predicted:
        kept["beyond"] = beyond_latt(predicted, predictor.central, latt)
    elif "scale" in predicted:
        own = predicted.scale.sel(ensemble=predictor.central).mean(("replica", "boot")).astype(float)
        kept["beyond"] = beyond_noise(own, latt, predicted.get("unresolved"))
    elif "unresolved" in predicted:
        kept["beyond"] = predicted.unresolved
    order = ("sample", "estimator", "source", "sigma", "E")
    return {name: v.transpose(*(d for d in order if d in v.dims)).values for name, v in kept.items()}


def measure(
    draws: xr.Dataset,
    levels: Sequence[float],
    quoted: float,
    source: str = "resolution",
    resolution: Resolution | None = None,
    answered_by: str = NETWORKS,
) -> xr.Dataset:
    """Return what ``validation.zarr`` holds.

    Parameters
    ----------
    draws
        truth and what :func:`predict_draws` returns, (family, sample, ...); the first families calibrate.
    levels
        Coverages to calibrate and test, ``quoted`` among them: that of the widths.
    source
        Name of the source of error that is not the audience's.
    resolution
        Residuals of the central ensemble on noise-free draws of the prior: that source, where draws have no ``beyond``.
    answered_by
        Who gives the central value: the networks, or an estimator where there are none.
    """
    test = _Test.of_draws(draws, levels, quoted, resolution, answered_by)
    named = test.per_draw(source) | test.coverages() | test.accuracy() | test.flagged() | test.factors_by_rule()
    if resolution is not None:
        words = "central ensemble - truth on noise-free draws of the prior"
        named["residual"] = ((("draw", "sigma", "E"), resolution.residual), words)
        named["residual_scale"] = (("draw", resolution.noise_scale), "their noise scale")
    result = draws.drop_vars(["error", "source", "beyond"], errors="ignore")
    result = result.assign({name: values for name, (values, _) in named.items()})
    density = draws.truth.attrs.get("units", "1")
    for name, variable in result.data_vars.items():
        words = named[name][1] if name in named else variable.attrs.get("long_name", "")
        own = "1" if name in named else variable.attrs.get("units", "1")
        units = density if name == "residual" else own
        if variable.dtype == float and _PER_ENERGY[:2] == variable.dims[:2] and variable.ndim > 2:
            variable = variable.astype(np.float32)
        result[name] = variable.assign_attrs(units=units, long_name=words)
    coords = {"window": np.array(WINDOWS, object), "flag": [False, True]}
    return result.assign_coords(level=list(levels), **coords).assign_attrs(quoted=quoted)


Named = dict[str, tuple[Any, str]]
"""Name of a variable -> its values, and what they are."""


@dataclass(frozen=True, eq=False)
class _Test:
    """Errors of draws with known truth against what they are off by, and the factors that the first families give.

    Scores are |estimate - truth| over an error; an error covers the truth where its score is at most the factor that
    belongs to a level. ``widths`` and ``off`` are errors and what estimates are off by, by name.
    """

    draws: xr.Dataset
    levels: Sequence[float]
    quoted: float
    answered_by: str
    beyond: xr.DataArray
    published: xr.DataArray
    widths: Mapping[str, xr.DataArray]
    off: Mapping[str, xr.DataArray]

    @classmethod
    def of_draws(
        cls,
        draws: xr.Dataset,
        levels: Sequence[float],
        quoted: float,
        resolution: Resolution | None,
        answered_by: str,
    ) -> _Test:
        """Collect the errors of networks and estimators."""
        if "beyond" in draws:
            beyond = draws.beyond.astype(float)
        else:
            beyond = xr.DataArray(np.stack([resolution.width(s) for s in draws.noise_scale.values]), dims=_PER_ENERGY)
            beyond = beyond / draws.scale
        published = total_error(draws.error.astype(float))
        widths = {"calibrated": np.hypot(published, beyond)}
        off = {"calibrated": np.abs(draws.central - draws.truth)}
        for name in map(str, draws.estimator.values) if "estimator" in draws else ():
            own = draws.sel(estimator=name, drop=True)
            widths[name], off[name] = own.estimator_error.astype(float), np.abs(own.estimator_central - draws.truth)
        return cls(draws, levels, quoted, answered_by, beyond, published, widths, off)

    @property
    def half(self) -> int:
        """Draws of a family that calibrates which do so; the others test."""
        return self.draws.sizes["sample"] // 2

    @property
    def calibrating(self) -> range:
        return range(self.draws.sizes["scale_rule"])

    @cached_property
    def rule(self) -> list[int]:
        """Which family calibrates each family."""
        return rules_of(self.draws)

    @cached_property
    def tested(self) -> xr.DataArray:
        tested = xr.DataArray(np.ones(self.draws.noise_scale.shape, bool), dims=("family", "sample"))
        tested[list(self.calibrating), : self.half] = False
        return tested

    @property
    def total(self) -> xr.DataArray:
        return self.widths["calibrated"]

    @cached_property
    def error(self) -> xr.DataArray:
        """central - truth, with its sign."""
        return self.draws.central - self.draws.truth

    @cached_property
    def scores(self) -> dict[str, xr.DataArray]:
        """Of the total error, by the name of what calibrates it, and of each estimator."""
        return {name: errors_off(self.off[name], width) for name, width in self.widths.items()}

    @cached_property
    def joint_scores(self) -> dict[str, xr.DataArray]:
        """Of the band over all energies at once, and of integrals."""
        standardised = errors_off(self.error, self.total).transpose(*_PER_ENERGY).values
        correlations = np.stack([correlation(standardised[i, : self.half]) for i in self.calibrating])
        integral = _integral_scores(self.error, self.total, correlations, self.rule)
        return {"band": self.scores["calibrated"].max("E"), "integral": integral}

    @cached_property
    def factors(self) -> dict[str, xr.DataArray]:
        """Conformal factors (scale_rule, level, ...) of every score, from the draws that calibrate."""
        return {
            name: xr.DataArray(
                [
                    [conformal_factor(score.values[i, : self.half], level) for level in self.levels]
                    for i in self.calibrating
                ],
                dims=("scale_rule", "level", *score.dims[2:]),
            )
            for name, score in (self.scores | self.joint_scores).items()
        }

    def factor_of_family(self, name: str) -> xr.DataArray:
        """Return the factors (family, level, ...) that apply to the draws of each family."""
        return self.factors[name].isel(scale_rule=xr.DataArray(self.rule, dims="family"))

    @cached_property
    def quantile(self) -> xr.DataArray:
        """Standard deviations that hold each level of a normal density."""
        return xr.DataArray([gaussian_quantile(level) for level in self.levels], dims="level")

    @cached_property
    def inside(self) -> dict[str, xr.DataArray]:
        """Whether each error covers the truth at each level."""
        inside = {
            "published": np.abs(self.error) <= self.quantile * self.published,
            "total": self.scores["calibrated"] <= self.quantile,
        }
        return inside | {name: score <= self.factor_of_family(name) for name, score in self.scores.items()}

    @property
    def half_width(self) -> dict[str, xr.DataArray]:
        """Every error at the quoted level."""
        chosen = list(self.levels).index(self.quoted)
        plain = {"published": self.published, "total": self.total}
        plain = {name: error * self.quantile[chosen] for name, error in plain.items()}
        own = {name: width * self.factor_of_family(name).isel(level=chosen) for name, width in self.widths.items()}
        return plain | own

    def mean(self, x: xr.DataArray, *over: str) -> xr.DataArray:
        """Return the mean over tested draws; NaN where one of them is NaN."""
        known = (x.notnull() | ~self.tested).all(("sample", *over))
        return x.where(self.tested).mean(("sample", *over)).where(known)

    def by(self, name: str, parts: Mapping[str, xr.DataArray]) -> xr.DataArray:
        """Return the means of several quantities along a new dimension of their names."""
        means = [self.mean(v, "E") for v in parts.values()]
        return xr.concat(means, dim=name).assign_coords({name: np.array(list(parts), object)})

    def ranks(self, name: str) -> Array:
        """Return the level (family, sample, sigma, E) at which each calibrated error just covers the truth."""
        score = self.scores[name].transpose(*_PER_ENERGY).values
        return np.stack([conformal_rank(s, score[self.rule[i], : self.half]) for i, s in enumerate(score)])

    def per_draw(self, source: str) -> Named:
        """Return what is known of every draw: errors by source, pulls, ranks."""
        beyond = self.beyond.expand_dims(source=np.array([source], object))
        every_error = xr.concat([self.draws.error, beyond], dim="source")
        covers = "level at which the calibrated error"
        named = {
            "error": (every_error.transpose("family", "sample", "source", "sigma", "E"), "error by source"),
            "total": (self.total, "total error, all sources included"),
            "pull": (errors_off(self.error, self.total), "(central - truth) / total error"),
            "covering_level": ((_PER_ENERGY, self.ranks("calibrated")), f"{covers} just covers the truth"),
            "tested": (self.tested, "draw tests; the others calibrate"),
        }
        if estimators := list(self.scores)[1:]:
            ranks = np.stack([self.ranks(name) for name in estimators], axis=2)
            dims = ("family", "sample", "estimator", "sigma", "E")
            named["estimator_covering_level"] = ((dims, ranks), f"{covers} of each estimator just covers the truth")
        return named

    def coverages(self) -> Named:
        """Return the share of tested draws within each error."""
        each = self.by("budget", self.inside).transpose("budget", "family", "sigma", "level")
        band = self.joint_scores["band"] <= self.factor_of_family("band")
        integral = self.joint_scores["integral"] <= self.factor_of_family("integral")
        return {
            "coverage": (
                each.sel(budget="calibrated", drop=True),
                "share of energies and draws within the calibrated error",
            ),
            "coverage_of": (each, "share of energies and draws within each error"),
            "coverage_E": (
                self.mean(self.inside["calibrated"]).transpose("family", "sigma", "level", "E"),
                "share of draws within the calibrated error",
            ),
            "coverage_band": (
                self.mean(band).transpose("family", "sigma", "level"),
                "share of draws within the band at all energies at once",
            ),
            "coverage_integral": (
                self.mean(integral).transpose("window", "family", "sigma", "level"),
                "share of draws whose integral over a window is within its calibrated error",
            ),
        }

    def accuracy(self) -> Named:
        """Return how far estimates are off, and how wide their errors are."""
        off = {self.answered_by if name == "calibrated" else name: x for name, x in self.off.items()}
        return {
            "width": (self.by("budget", self.half_width), "mean half width of the error at the quoted level"),
            "mae": (self.by("estimate", off), "mean absolute error"),
            "bias": (self.mean(self.error), "mean of central - truth"),
        }

    def flagged(self) -> Named:
        """Return which draws are flagged, and how often the calibrated error covers those that are and are not."""
        typical = [self.draws[k] for k in ("noise_scale", "distance", "spread")]
        references = [Reference(*(x.values[i, : self.half] for x in typical)) for i in self.calibrating]
        p_values = [
            xr.apply_ufunc(references[r].p_value, *(x.isel(family=i) for x in typical), vectorize=True)
            for i, r in enumerate(self.rule)
        ]
        p_value = xr.concat(p_values, dim="family")
        flagged = (p_value < SUSPICIOUS) | (self.draws.goodness_of_fit < IMPOSSIBLE)
        inside = self.inside["calibrated"]
        shares = [_share(inside, self.tested & (flagged == yes)) for yes in (False, True)]
        words = "share of energies and draws within the calibrated error, of those not flagged and flagged"
        return {
            "coverage_flagged": (xr.concat(shares, "flag"), words),
            "p_value": (p_value, "p-value under the prior with its noise"),
            "flagged": (flagged, "draw is flagged"),
            "flag_rate": (self.mean(flagged.astype(float)), "share of draws flagged"),
        }

    def factors_by_rule(self) -> Named:
        """Return the conformal factors that budgets are calibrated with."""
        named = {
            "factor": (self.factors["calibrated"], "conformal factor of the total error"),
            "band_factor": (
                self.factors["band"],
                "conformal factor of the total error for all energies at once",
            ),
        }
        if estimators := list(self.scores)[1:]:
            joined = xr.concat([self.factors[name] for name in estimators], "estimator")
            named["estimator_factor"] = (joined, "conformal factor of the error of each estimator")
        return named


def _share(inside: xr.DataArray, of: xr.DataArray) -> xr.DataArray:
    """Return the share of draws and energies inside, (family, sigma, level), of those that are ``of``; NaN of none."""
    return inside.where(of).mean(("sample", "E")).transpose("family", "sigma", "level")


def _integral_scores(error: xr.DataArray, total: xr.DataArray, correlations: Array, rule: list[int]) -> xr.DataArray:
    """Return |integral of the error| over the error of the integral, (family, sample, sigma, window)."""
    error, total = (x.transpose(*_PER_ENERGY).values.astype(float) for x in (error, total))
    thirds = np.array_split(np.arange(error.shape[-1]), 3)
    scores = []
    for rows in (np.arange(error.shape[-1]), *thirds):
        weight = np.zeros(error.shape[-1])
        weight[rows] = 1
        width = np.stack([integral_error(weight, t, correlations[r]) for t, r in zip(total, rule, strict=True)])
        scores.append(errors_off(np.abs(error @ weight), width))
    return xr.DataArray(np.stack(scores, axis=-1), dims=("family", "sample", "sigma", "window"))
