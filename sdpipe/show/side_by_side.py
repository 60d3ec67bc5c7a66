"""Estimates of one target side by side: each with its error, the pulls from the first, and in words which to trust."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes

from sdpipe.estimators import ESTIMATORS
from sdpipe.infer.budget import NETWORKS
from sdpipe.infer.compare import AGREE, Reason
from sdpipe.physics import units
from sdpipe.physics.units import equation
from sdpipe.show import figures
from sdpipe.show.figures import DENSITY, WIDEST_PULL, fill
from sdpipe.show.picture import COLOURS, Picture

MARKERS = "osD^vPX"
"""Markers of the estimators, in the order of their registry; each has a colour to it."""


def point(name: str) -> tuple[str, str]:
    """Return marker and colour of an estimator.

    >>> point("linear"), point("hlt")
    (('o', '#D55E00'), ('D', '#CC79A7'))
    """
    i = list(ESTIMATORS).index(name) if name in ESTIMATORS else len(ESTIMATORS)
    return MARKERS[i % len(MARKERS)], COLOURS[1 + i % (len(COLOURS) - 2)]


SHOWN_POINTS = 16
"""About how many energies a method is shown at."""

CAPTION = Markup(
    "{}: the upper panel shows {} with a band for the error, and the other estimates as points with theirs. Errors are "
    "the calibrated ones where there are any. Bounds for ρ ≥ 0, which hold at all energies at once, are grey, and a "
    "known truth is dashed. The lower panel shows the difference from {} over both errors in quadrature."
)

WHY: dict[Reason, str] = {
    "no_density": "No spectral density explains the data, so that no estimate is to be trusted.",
    "all_excluded": "The data or the bounds exclude every estimate; trust {trusted}.",
    "off_prior": "These data are unlike the prior, of which all other estimates are made; trust {trusted}, which takes "
    "its scale from the data.",
    "off_prior_alone": "These data are unlike the prior, of which every estimate here is made; trust {trusted}.",
    "first": "Trust {trusted}, chosen before the data were seen.",
    "first_excluded": "The data or the bounds exclude {first}; trust {trusted}.",
}
"""Why an estimate is trusted, in a sentence."""

NAMES = {
    **{NETWORKS: "the networks", "bounds": "the bounds alone", "none": "no estimate"},
    **{
        "linear": "the linear estimator",
        "posterior": "the posterior",
        "hlt": "HLT",
        "positive": "the most probable ρ ≥ 0",
    },
}
"""What sentences call an estimate that is not called by its name."""


def paragraph(compared: xr.Dataset) -> str:
    """Return in words what :func:`~sdpipe.infer.compare.compare` returns in numbers: who agrees, whom to trust why.

    >>> numbers = {"apart": ("estimate", [0, 0.25]), "farthest": ("estimate", [0, 3.5])}
    >>> numbers |= {f"farthest_{name}": ("estimate", [1.0, 1.0]) for name in ("sigma", "E")}
    >>> compared = xr.Dataset(numbers, {"estimate": ["networks", "hlt"], "sigma": [1.0]})
    >>> paragraph(compared.assign_attrs(trusted="networks", reason="first"))[:85]
    'HLT differs from the networks by more than 2 errors at 25% of all points, most at E ='
    """
    trusted, first = compared.attrs["trusted"], str(compared.estimate.values[0])
    why = WHY[compared.attrs["reason"]].format(trusted=NAMES.get(trusted, trusted), first=NAMES.get(first, first))
    sentences = [_agreement(compared), _within(compared), why]
    return " ".join(filter(None, [*sentences, _coverage(compared)]))


def _agreement(compared: xr.Dataset) -> str:
    """Return which estimates agree with the first, and where each other one is farthest from it."""
    first, *others = map(str, compared.estimate.values)
    lead, unit = NAMES.get(first, first), units.unit_of(compared)
    agreeing = [name for name in others if compared.apart.sel(estimate=name) == 0]
    clauses = []
    if agreeing:
        verb = "agrees" if len(agreeing) == 1 else "agree"
        who = _listed([NAMES.get(name, name) for name in agreeing])
        clauses.append(f"{who} {verb} with {lead} within {AGREE:g} errors everywhere")
    for name in others:
        if name in agreeing:
            continue
        one = compared.sel(estimate=name)
        place = f"{equation('E', float(one.farthest_E), unit, 3)}, {equation('σ', float(one.farthest_sigma), unit)}"
        by = f"by {float(one.farthest):.1f}" if np.isfinite(one.farthest) else "where it has no value"
        share = f"{float(one.apart):.0%} of all points"
        who = f"{NAMES.get(name, name)} differs from {lead}"
        clauses.append(f"{who} by more than {AGREE:g} errors at {share}, most at {place}, {by}")
    said = "; ".join(clauses)
    return f"{said[0].upper()}{said[1:]}." if said else ""


def _listed(names: list[str]) -> str:
    """Return names as a list in words.

    >>> _listed(["linear"]), _listed(["linear", "posterior", "hlt"])
    ('linear', 'linear, posterior and hlt')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _within(compared: xr.Dataset) -> str:
    """Return which estimates are outside the bounds for rho >= 0, where there are any bounds."""
    if "outside" not in compared:
        return ""
    outside = [NAMES.get(name, name) for name in map(str, compared.estimate.values[compared.outside.values])]
    if not outside:
        return "All estimates reach into the bounds for ρ ≥ 0 everywhere."
    return f"The bounds exclude {_listed(outside)} somewhere, errors included: if ρ ≥ 0, that is wrong there."


def _coverage(compared: xr.Dataset) -> str:
    """Return how often the calibrated error of the trusted estimate covers, over the families of the validation."""
    if "covered" not in compared:
        return ""
    covered = compared.covered
    least = str(covered.family.values[int(covered.argmin("family"))])
    error = f"its error, calibrated to {compared.attrs['level']:.1%}, covers"
    if covered.size == 1:
        return f"On draws of the prior {error} {float(covered.min()):.0%} of the truth."
    span = f"{float(covered.min()):.0%} to {float(covered.max()):.0%}"
    return f"Over the families of the validation {error} {span} of the truth, least on {least}."


def estimates(compared: xr.Dataset, ax: Axes) -> Axes:
    """Draw what :func:`~sdpipe.infer.compare.compare` returns at one sigma, with the pulls in axes below ``ax``."""
    E, quoted = compared.E.values, compared.get("calibrated", compared.error)
    below = figures.below(ax)
    lead = str(compared.estimate.values[0])
    every, one = max(1, round(E.size / SHOWN_POINTS)), compared.central.sel(estimate=lead)
    if "lower" in compared:
        band = {"color": figures.BOUNDS, "lw": 0, "zorder": 0.5, "label": "bounds, ρ ≥ 0"}
        ax.fill_between(E, compared.lower, compared.upper, **band)
    fill(ax, E, one.values, quoted.sel(estimate=lead).values, COLOURS[5], 0.45)
    ax.plot(E, one, color=COLOURS[0], label=lead)
    names = [name for name in map(str, compared.estimate.values) if name != lead]
    step = float(E[-1] - E[0]) / 120
    for i, name in enumerate(names):
        (marker, colour), rows = point(name), slice(every // 2, None, every)
        points, bars = (data.sel(estimate=name).isel(E=rows) for data in (compared, quoted))
        x = E[rows] + step * (i - (len(names) - 1) / 2)  # beside each other, so that none hides another
        ax.errorbar(x, points.central, bars, label=name, fmt=marker, ms=3, lw=1, color=colour)
        below.plot(x, np.clip(points.pull.sel(other=lead), -WIDEST_PULL, WIDEST_PULL), marker, ms=3, color=colour)
    if "truth" in compared:
        ax.plot(E, compared.truth, color=COLOURS[6], ls="--", lw=1, label="truth")
    centre, spread = one.values, float(np.ptp(one.values)) or 1.0
    ax.set(ylabel=DENSITY, xlim=(E[0], E[-1]), ylim=(centre.min() - 0.3 * spread, centre.max() + 0.3 * spread))
    figures.beside(ax)
    for sign in (-1, 1):
        below.axhline(sign * AGREE, color="0.6", lw=0.8, ls=":")
    below.axhline(0, color=COLOURS[0], lw=1)
    below.set(xlabel=figures.energy(compared), ylabel="pull", ylim=(-WIDEST_PULL * 1.05, WIDEST_PULL * 1.05))
    ax.legend(fontsize=8)
    return ax


def caption(compared: xr.Dataset, title: str) -> Markup:
    """Return what the picture shows."""
    first = str(compared.estimate.values[0])
    return CAPTION.format(title, first, NAMES.get(first, first))


def pictures(name: str, compared: xr.Dataset, title: str) -> Iterator[Picture]:
    """Draw all estimates of one target, a picture for each sigma."""
    for i, sigma in enumerate(compared.sigma.values):
        place = f"{title} at {equation('σ', sigma, units.unit_of(compared))}"
        words = f"Estimates of {place} by {_listed(list(map(str, compared.estimate.values)))}, and their pulls"
        yield Picture(f"{name}-methods-sigma{i}", figures.panels(estimates, compared.isel(sigma=[i]), title), words)
