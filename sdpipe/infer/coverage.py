"""From draws with known truth to ``validation.zarr``: predictions, calibration, coverage, width, bias, flags.

The first families are the prior, once for each of ``RULES``: half of their draws calibrate, each what is sized by
its rule; the other half and all other families, which are sized as given, test.
docs/error-budget.md defines every quantity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.infer.budget import LINEAR, RESOLUTION, signed_errors, spread, total_error
from sdpipe.infer.calibration import RULES, Resolution, conformal_factor, conformal_rank, gaussian_quantile, rule_of
from sdpipe.infer.predict import Audience, estimates
from sdpipe.infer.trust import IMPOSSIBLE, SUSPICIOUS, Reference

Array = NDArray[np.float64]

ROWS = 5000
"""Correlators, bootstrap samples included, that are predicted at once: bounds the memory."""

BUDGETS = ("published", "total", "calibrated", "linear")
"""Published sources only; with the resolution; scaled to the level; the linear estimator's, scaled to the level."""

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

    They are sized as given or, as ``scale: auto`` does, ``by_evidence``. Returns central, linear, linear_error
    (sample, sigma, E), error (sample, source, sigma, E), scale, noise_scale, distance, spread, back_check (sample,).
    """
    data = audience.noise.draw(clean, 1, generator)[:, 0]
    scale = np.array([audience.amplitude(C) for C in data]) if by_evidence else np.ones(len(data))
    data *= scale[:, None]
    parts, step = [], max(1, ROWS // boots)
    for part in (slice(low, low + step) for low in range(0, len(data), step)):
        rho = audience.predict(audience.noise.draw(data[part], boots, generator), scale[part])
        value, errors = signed_errors(rho, audience.central, references)
        linear = rho.sel(ensemble=LINEAR).isel(replica=0).mean("boot").astype(float)
        made = {"central": value, "error": np.abs(errors), "linear": linear}
        made = {k: v.transpose("sample", ..., "sigma", "E").values for k, v in made.items()}
        parts.append({**made, "spread": spread(rho).values * scale[part]})
    checks = audience.checks(data)
    unresolved, from_noise = (np.diagonal(c, axis1=1, axis2=2) for c in audience.linear_covariance)
    variance = unresolved + checks["noise_scale"][:, None, None] ** 2 * from_noise
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} | {
        "linear_error": np.sqrt(variance) / scale[:, None, None],
        "scale": scale,
        **{name: checks[name] for name in ("noise_scale", "distance", "back_check")},
    }


def residuals(audience: Audience, clean: Array, truth: Array) -> Resolution:
    """Return what the central ensemble does not resolve of noise-free draws C (draw, t) with ``truth``."""
    central = [n for n in audience.networks if n.ensemble == audience.central]
    estimate = estimates(central, clean).isel(ensemble=0).mean("replica").transpose("boot", "sigma", "E")
    return Resolution(estimate.values - truth, audience.noise.scale(clean))


def measure(draws: xr.Dataset, resolution: Resolution, levels: Sequence[float], quoted: float) -> xr.Dataset:
    """Return what ``validation.zarr`` holds.

    Parameters
    ----------
    draws
        truth and what :func:`predict_draws` returns, (family, sample, ...); the first families calibrate.
    resolution
        Residuals of the central ensemble on noise-free draws of the prior.
    levels
        Coverages to calibrate and test, ``quoted`` among them: that of the widths.
    """
    half, calibrating = draws.sizes["sample"] // 2, range(len(RULES))
    rule, chosen = [rule_of(i) for i in range(draws.sizes["family"])], list(levels).index(quoted)
    width = xr.DataArray(np.stack([resolution.width(s) for s in draws.noise_scale.values]), dims=_PER_ENERGY)
    width = width / draws.scale
    published = total_error(draws.error.astype(float))
    total, linear_error = np.hypot(published, width), draws.linear_error.astype(float)
    error, linear = draws.central - draws.truth, draws.linear - draws.truth
    scores = {"total": np.abs(error) / total, "linear": np.abs(linear) / linear_error}
    factors = {
        name: xr.DataArray(
            [[conformal_factor(score.values[i, :half], level) for level in levels] for i in calibrating],
            dims=("scale_rule", "level", "sigma", "E"),
        )
        for name, score in scores.items()
    }
    own = {name: factor.isel(scale_rule=xr.DataArray(rule, dims="family")) for name, factor in factors.items()}
    quantile = xr.DataArray([gaussian_quantile(level) for level in levels], dims="level")
    tested = xr.DataArray(np.ones(draws.noise_scale.shape, bool), dims=("family", "sample"))
    tested[list(calibrating), :half] = False
    inside = {
        "published": np.abs(error) <= quantile * published,
        "total": scores["total"] <= quantile,
        "calibrated": scores["total"] <= own["total"],
        "linear": scores["linear"] <= own["linear"],
    }
    widths = {
        "published": published * quantile[chosen],
        "total": total * quantile[chosen],
        "calibrated": total * own["total"].isel(level=chosen),
        "linear": linear_error * own["linear"].isel(level=chosen),
    }

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
    score = scores["total"].values
    rank = np.stack([conformal_rank(s, score[rule[i], :half]) for i, s in enumerate(score)])
    coverage = by("budget", inside).transpose("budget", "family", "sigma", "level")
    every_error = xr.concat([draws.error, width.expand_dims(source=np.array([RESOLUTION], object))], dim="source")
    made = {
        "error": (every_error.transpose("family", "sample", "source", "sigma", "E"), "error by source"),
        "total": (total, "total error, resolution included"),
        "pull": (error / total, "(central - truth) / total error"),
        "rank": ((_PER_ENERGY, rank), "level at which the calibrated error just covers the truth"),
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
        "width": (by("budget", widths), "mean half width of the error at the quoted level"),
        "mae": (by("estimator", {"networks": np.abs(error), "linear": np.abs(linear)}), "mean absolute error"),
        "bias": (mean(error), "mean of central - truth"),
        "p_value": (p_value, "p-value under the prior with its noise"),
        "flagged": (flagged, "draw is flagged"),
        "flag_rate": (mean(flagged.astype(float)), "share of draws flagged"),
        "factor": (factors["total"], "conformal factor of the total error"),
        "linear_factor": (factors["linear"], "conformal factor of the linear estimator's error"),
        "residual": (
            (("draw", "sigma", "E"), resolution.residual),
            "central ensemble - truth on noise-free draws of the prior",
        ),
        "residual_scale": (("draw", resolution.noise_scale), "their noise scale"),
    }
    result = draws.drop_vars(["error", "source"]).assign({name: values for name, (values, _) in made.items()})
    for name, variable in result.data_vars.items():
        words = made[name][1] if name in made else variable.attrs.get("long_name", "")
        if variable.dtype == float and _PER_ENERGY[:2] == variable.dims[:2] and variable.ndim > 2:
            variable = variable.astype(np.float32)
        result[name] = variable.assign_attrs(units="1", long_name=words)
    return result.assign_coords(level=list(levels), scale_rule=np.array(RULES, object)).assign_attrs(quoted=quoted)
