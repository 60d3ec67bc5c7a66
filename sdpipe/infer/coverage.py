"""From draws with known truth to ``validation.zarr``: predictions, calibration, coverage, width, bias, flags.

The first families are the prior, once for each ``scale_rule``: half of their draws calibrate, each what is sized by
its rule; the other half and all other families, which are sized as given, test.
docs/error-budget.md defines every quantity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.estimators.conformal import conformal_factor, conformal_rank, gaussian_quantile
from sdpipe.infer.budget import signed_errors, spread, total_error
from sdpipe.infer.calibration import Resolution, beyond_noise, correlation, integral_error, rules_of
from sdpipe.infer.trust import IMPOSSIBLE, SUSPICIOUS, Reference

if TYPE_CHECKING:
    from sdpipe.infer.predict import Audience

Array = NDArray[np.float64]

ROWS = 5000
"""Correlators, bootstrap samples included, that are predicted at once: bounds the memory."""

WINDOWS = ("all", "low", "middle", "high")
"""Energies over which the coverage of integrals is tested: all, and each third."""

_PER_ENERGY = ("family", "sample", "sigma", "E")


def predict_draws(
    audience: Audience,
    references: Mapping[str, str],
    clean: Array,
    boots: int,
    by_evidence: bool,
    generator: np.random.Generator,
) -> dict[str, Array]:
    """Predict draws C (sample, t) as if they were data, each with its own noise and ``boots`` bootstrap samples.

    They are sized as given or, as ``scale: auto`` does, ``by_evidence``. Returns central (sample, sigma, E), error
    (sample, source, sigma, E), method_central, method_error (sample, method, sigma, E), scale, noise_scale, distance,
    spread, back_check (sample,), and ``beyond`` (sample, sigma, E), the error of the source that is not the audience's,
    where networks give one or correct the posterior.
    """
    data = audience.noise.draw(clean, 1, generator)[:, 0]
    scale = np.array([audience.amplitude(C) for C in data]) if by_evidence else np.ones(len(data))
    data *= scale[:, None]
    parts, step = [], max(1, ROWS // boots)
    for part in (slice(low, low + step) for low in range(0, len(data), step)):
        found = audience.predict(audience.noise.draw(data[part], boots, generator), scale[part], data[part])
        value, errors = signed_errors(found.rho, audience.central, references)
        made = {"central": value, "error": np.abs(errors), "spread": spread(found.rho) * scale[part]}
        if audience.methods:
            estimate = found.rho.sel(ensemble=found.method.values).isel(replica=0).mean("boot").astype(float)
            made |= {"method_central": estimate.rename(ensemble="method"), "method_error": found.method_error}
        unresolved = found.get("unresolved")
        if "scale" in found:
            own = found.scale.sel(ensemble=audience.central).mean(("replica", "boot")).astype(float)
            made["beyond"] = beyond_noise(own, np.abs(errors.sel(source="latt", drop=True)), unresolved)
        elif unresolved is not None:
            made["beyond"] = unresolved
        order = [("sample", *(d for d in ("method", "source", "sigma", "E") if d in v.dims)) for v in made.values()]
        parts.append({k: v.transpose(*dims).values for (k, v), dims in zip(made.items(), order, strict=True)})
    checks = audience.checks(data)
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} | {
        "scale": scale,
        **{name: checks[name] for name in ("noise_scale", "distance", "back_check")},
    }


def measure(
    draws: xr.Dataset,
    levels: Sequence[float],
    quoted: float,
    source: str = "resolution",
    resolution: Resolution | None = None,
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
    """
    half, calibrating = draws.sizes["sample"] // 2, range(draws.sizes["scale_rule"])
    rule, chosen = rules_of(draws), list(levels).index(quoted)
    if "beyond" in draws:
        beyond = draws.beyond.astype(float)
    else:
        beyond = xr.DataArray(np.stack([resolution.width(s) for s in draws.noise_scale.values]), dims=_PER_ENERGY)
        beyond = beyond / draws.scale
    published = total_error(draws.error.astype(float))
    total, error = np.hypot(published, beyond), draws.central - draws.truth
    methods = [str(name) for name in draws.method.values] if "method" in draws else []
    widths, scores = {"calibrated": total}, {"calibrated": np.abs(error) / total}
    off = {"networks": np.abs(error)}
    for name in methods:
        own = draws.sel({"method": name}, drop=True)
        off[name], widths[name] = np.abs(own.method_central - draws.truth), own.method_error.astype(float)
        scores[name] = off[name] / widths[name]
    standardised = (error / total).transpose(*_PER_ENERGY).values
    correlations = np.stack([correlation(standardised[i, :half]) for i in calibrating])
    joint = {"band": scores["calibrated"].max("E"), "integral": _integral_scores(error, total, correlations, rule)}
    factors = {
        name: xr.DataArray(
            [[conformal_factor(score.values[i, :half], level) for level in levels] for i in calibrating],
            dims=("scale_rule", "level", *score.dims[2:]),
        )
        for name, score in (scores | joint).items()
    }
    of_family = {name: factor.isel(scale_rule=xr.DataArray(rule, dims="family")) for name, factor in factors.items()}
    quantile = xr.DataArray([gaussian_quantile(level) for level in levels], dims="level")
    tested = xr.DataArray(np.ones(draws.noise_scale.shape, bool), dims=("family", "sample"))
    tested[list(calibrating), :half] = False
    inside = {"published": np.abs(error) <= quantile * published, "total": scores["calibrated"] <= quantile}
    half_width = {"published": published * quantile[chosen], "total": total * quantile[chosen]}
    for name in scores:
        inside[name] = scores[name] <= of_family[name]
        half_width[name] = widths[name] * of_family[name].isel(level=chosen)

    def mean(x: xr.DataArray, *over: str) -> xr.DataArray:
        """Return the mean over tested draws; NaN where one of them is NaN."""
        known = (x.notnull() | ~tested).all(("sample", *over))
        return x.where(tested).mean(("sample", *over)).where(known)

    def by(name: str, parts: dict[str, xr.DataArray]) -> xr.DataArray:
        means = [mean(v, "E") for v in parts.values()]
        return xr.concat(means, dim=name).assign_coords({name: np.array(list(parts), object)})

    typical = [draws[k] for k in ("noise_scale", "distance", "spread")]
    references = [Reference(*(x.values[i, :half] for x in typical)) for i in calibrating]
    p_values = [
        xr.apply_ufunc(references[r].p_value, *(x.isel(family=i) for x in typical), vectorize=True)
        for i, r in enumerate(rule)
    ]
    p_value = xr.concat(p_values, dim="family")
    flagged = (p_value < SUSPICIOUS) | (draws.back_check < IMPOSSIBLE)

    def ranks(name: str) -> Array:
        score = scores[name].transpose(*_PER_ENERGY).values
        return np.stack([conformal_rank(s, score[rule[i], :half]) for i, s in enumerate(score)])

    coverage = by("budget", inside).transpose("budget", "family", "sigma", "level")
    every_error = xr.concat([draws.error, beyond.expand_dims(source=np.array([source], object))], dim="source")
    made = {
        "error": (every_error.transpose("family", "sample", "source", "sigma", "E"), "error by source"),
        "total": (total, "total error, all sources included"),
        "pull": (error / total, "(central - truth) / total error"),
        "rank": ((_PER_ENERGY, ranks("calibrated")), "level at which the calibrated error just covers the truth"),
        "tested": (tested, "draw tests; the others calibrate"),
        "coverage": (
            coverage.sel(budget="calibrated", drop=True),
            "share of energies and draws within the calibrated error",
        ),
        "coverage_of": (coverage, "share of energies and draws within each error"),
        "coverage_E": (
            mean(inside["calibrated"]).transpose("family", "sigma", "level", "E"),
            "share of draws within the calibrated error",
        ),
        "coverage_band": (
            mean(joint["band"] <= of_family["band"]).transpose("family", "sigma", "level"),
            "share of draws within the band at all energies at once",
        ),
        "coverage_integral": (
            mean(joint["integral"] <= of_family["integral"]).transpose("window", "family", "sigma", "level"),
            "share of draws whose integral over a window is within its calibrated error",
        ),
        "coverage_flagged": (
            xr.concat([_share(inside["calibrated"], tested & (flagged == f)) for f in (False, True)], "flag"),
            "share of energies and draws within the calibrated error, of those not flagged and flagged",
        ),
        "width": (by("budget", half_width), "mean half width of the error at the quoted level"),
        "mae": (by("estimator", off), "mean absolute error"),
        "bias": (mean(error), "mean of central - truth"),
        "p_value": (p_value, "p-value under the prior with its noise"),
        "flagged": (flagged, "draw is flagged"),
        "flag_rate": (mean(flagged.astype(float)), "share of draws flagged"),
        "factor": (factors["calibrated"], "conformal factor of the total error"),
        "band_factor": (factors["band"], "conformal factor of the total error for all energies at once"),
    }
    if methods:
        of_methods = [factors[name] for name in methods]
        made["method_factor"] = (xr.concat(of_methods, "method"), "conformal factor of the error of each method")
        dims = ("family", "sample", "method", "sigma", "E")
        made["method_rank"] = (
            (dims, np.stack([ranks(name) for name in methods], axis=2)),
            "level at which the calibrated error of each method just covers the truth",
        )
    if resolution is not None:
        made["residual"] = (
            (("draw", "sigma", "E"), resolution.residual),
            "central ensemble - truth on noise-free draws of the prior",
        )
        made["residual_scale"] = (("draw", resolution.noise_scale), "their noise scale")
    result = draws.drop_vars(["error", "source", "beyond"], errors="ignore")
    result = result.assign({name: values for name, (values, _) in made.items()})
    density = draws.truth.attrs.get("units", "1")
    for name, variable in result.data_vars.items():
        words = made[name][1] if name in made else variable.attrs.get("long_name", "")
        units = density if name == "residual" else "1" if name in made else variable.attrs.get("units", "1")
        if variable.dtype == float and _PER_ENERGY[:2] == variable.dims[:2] and variable.ndim > 2:
            variable = variable.astype(np.float32)
        result[name] = variable.assign_attrs(units=units, long_name=words)
    coords = {"window": np.array(WINDOWS, object), "flag": [False, True]}
    return result.assign_coords(level=list(levels), **coords).assign_attrs(quoted=quoted)


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
        scores.append(np.abs(error @ weight) / width)
    return xr.DataArray(np.stack(scores, axis=-1), dims=("family", "sample", "sigma", "window"))
