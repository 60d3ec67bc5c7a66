"""From predicted draws with known truth to ``validation.zarr``: calibration, coverage, width, bias, flags.

The first families are the prior, once for each of ``RULES``: half of their draws calibrate, each what is sized by
its rule; the other half and all other families, which are sized as given, test.
docs/error-budget.md defines every quantity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from sdpipe.infer.budget import RESOLUTION, total_error
from sdpipe.infer.calibration import RULES, Resolution, conformal_factor, conformal_rank, gaussian_quantile, rule_of
from sdpipe.infer.typicality import IMPOSSIBLE, SUSPICIOUS, Reference

BUDGETS = ("published", "total", "calibrated", "linear")
"""Published sources only; with the resolution; scaled to the level; the linear estimator's, scaled to the level."""

_PER_ENERGY = ("family", "sample", "sigma", "E")


def collect(draws: xr.Dataset, resolution: Resolution, levels: Sequence[float], quoted: float) -> xr.Dataset:
    """Return what ``validation.zarr`` holds.

    Parameters
    ----------
    draws
        truth, central, linear, linear_error (family, sample, sigma, E), error (family, sample, source, sigma, E),
        scale, noise_scale, distance, spread, back_check (family, sample); the first families calibrate.
    resolution
        Residuals of the central ensemble on noise-free draws of the prior.
    levels
        Coverages to calibrate and test, ``quoted`` among them: that of the widths.
    """
    draws = draws.copy()
    half, calibrating = draws.sizes["sample"] // 2, range(len(RULES))
    rule = [rule_of(i) for i in range(draws.sizes["family"])]
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
    chosen = list(levels).index(quoted)
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
        return xr.concat(parts.values(), dim=name).assign_coords({name: np.array(list(parts), object)})

    typical = [draws[k] for k in ("noise_scale", "distance", "spread")]
    references = [Reference(*(x.values[i, :half] for x in typical)) for i in calibrating]
    p_value = xr.concat(
        [
            xr.apply_ufunc(references[rule[i]].p_value, *(x.isel(family=i) for x in typical), vectorize=True)
            for i in range(len(rule))
        ],
        dim="family",
    )
    flagged = (p_value < SUSPICIOUS) | (draws.back_check < IMPOSSIBLE)
    score = scores["total"].values
    rank = np.stack([conformal_rank(s, score[rule[i], :half]) for i, s in enumerate(score)])
    coverage_of = by("budget", {k: mean(v, "E") for k, v in inside.items()})
    result = draws.drop_vars(["error", "source", "spread", "distance"]).assign(
        error=xr.concat(
            [draws.error, width.expand_dims(source=np.array([RESOLUTION], object))], dim="source"
        ).transpose("family", "sample", "source", "sigma", "E"),
        total=total,
        pull=error / total,
        rank=(_PER_ENERGY, rank),
        tested=tested,
        coverage=coverage_of.sel(budget="calibrated", drop=True).transpose("family", "sigma", "level"),
        coverage_of=coverage_of.transpose("budget", "family", "sigma", "level"),
        coverage_E=mean(inside["calibrated"]).transpose("family", "sigma", "level", "E"),
        width=by("budget", {k: mean(v, "E") for k, v in widths.items()}),
        mae=by("estimator", {"networks": mean(np.abs(error), "E"), "linear": mean(np.abs(linear), "E")}),
        bias=mean(error),
        distance=draws.distance,
        spread=draws.spread,
        p_value=p_value,
        flagged=flagged,
        flag_rate=mean(flagged.astype(float)),
        factor=factors["total"],
        linear_factor=factors["linear"],
        residual=(("draw", "sigma", "E"), resolution.residual),
        residual_scale=("draw", resolution.noise_scale),
    )
    for name, variable in result.data_vars.items():
        variable.attrs = {"units": "1", "long_name": LONG_NAMES.get(str(name), variable.attrs.get("long_name", ""))}
        if variable.dtype == float and _PER_ENERGY[:2] == variable.dims[:2] and variable.ndim > 2:
            result[name] = variable.astype(np.float32)
    return result.assign_coords(level=list(levels), scale_rule=np.array(RULES, object)).assign_attrs(quoted=quoted)


LONG_NAMES = {
    "error": "error by source",
    "total": "total error, resolution included",
    "pull": "(central - truth) / total error",
    "rank": "level at which the calibrated error just covers the truth",
    "tested": "draw tests; the others calibrate",
    "coverage": "share of energies and draws within the calibrated error",
    "coverage_of": "share of energies and draws within each error",
    "coverage_E": "share of draws within the calibrated error",
    "width": "mean half width of the error at the quoted level",
    "mae": "mean absolute error",
    "bias": "mean of central - truth",
    "p_value": "p-value under the prior with its noise",
    "flagged": "draw is flagged",
    "flag_rate": "share of draws flagged",
    "factor": "conformal factor of the total error",
    "linear_factor": "conformal factor of the linear estimator's error",
    "residual": "central ensemble - truth on noise-free draws of the prior",
    "residual_scale": "their noise scale",
}
