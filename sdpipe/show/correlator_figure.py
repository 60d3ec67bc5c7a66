"""C(t) and the effective mass of a target: the data against what the reconstruction implies, with pulls."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sdpipe.correlators.survey import effective_mass
from sdpipe.physics.kernels import Kernel
from sdpipe.physics.units import label
from sdpipe.show import figures
from sdpipe.show.picture import COLOURS, STYLE, Picture

FAR_PULL = 3.0
"""Standard deviations of C(t) from which on data are not what the reconstruction implies."""

KNOWN_ENOUGH = 0.5
"""Relative error up to which an effective mass is shown."""

CAPTION = (
    "{}: the panels show C(t) with its pulls, and the effective mass. Points are data, lines C(t) of the posterior "
    "mean, pulls are their difference over the error of the data. Neighbouring times are correlated{}."
)


def pulls(prediction: xr.Dataset) -> NDArray[np.float64]:
    """Return [C(t) - C_implied(t)] / sd C(t) for a group of ``predictions.zarr``, shape (t,)."""
    C = prediction.correlator
    return ((C.mean("boot") - prediction.implied) / C.std("boot", ddof=1)).values


def words(prediction: xr.Dataset) -> str:
    """Return in a sentence whether the data are what the reconstruction implies.

    >>> C = xr.DataArray([[2.0, 1.0], [2.2, 1.1]], dims=("boot", "t"), coords={"t": [1, 2]})
    >>> implied = (C.mean("boot") + [0.1, 0.0]).assign_attrs(chi2=1.25)
    >>> words(xr.Dataset({"correlator": C, "implied": implied}))[:94]
    'The posterior mean implies the C(t) of the data: they differ by at most 0.7 errors, at t = 1; '
    """
    pull = np.abs(pulls(prediction))
    worst, within = int(pull.argmax()), bool((pull <= FAR_PULL).all())
    verdict = "The posterior mean implies the C(t) of the data" if within else "The data are not what is reconstructed"
    treatment = prediction.correlator.attrs.get("covariance", "full")
    weak = "" if treatment == "full" else f", with a covariance ({treatment}) that makes it small"
    return (
        f"{verdict}: they differ by at most {pull[worst]:.1f} errors, at t = {int(prediction.t[worst])}; "
        f"χ² = {prediction.implied.attrs['chi2']:.3g} at {pull.size} times{weak}."
    )


@mpl.rc_context(STYLE)
def draw(prediction: xr.Dataset, title: str) -> Figure:
    """Draw C(t), and the pulls in axes below, for a group of ``predictions.zarr`` with ``implied``."""
    figure = _figure()
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4), gridspec_kw={"hspace": 0.08})
    C, implied, t = prediction.correlator, prediction.implied.values, prediction.t.values
    mean, error = C.mean("boot").values, C.std("boot", ddof=1).values
    sign = -1 if mean[0] < 0 else 1
    _both(upper, t, sign * mean, error, sign * implied)
    if np.ptp(np.sign(mean)):
        upper.set_yscale("symlog", linthresh=float(error.min()))
    else:
        upper.set_yscale("log")
    upper.minorticks_off()
    upper.set(ylabel="C(t)" if sign > 0 else "−C(t)")
    upper.set_title(figures.short(title), fontsize=10, loc="left")
    upper.legend()
    figures.fill(lower, t[[0, -1]], 0, 1, "0.85", 1)
    lower.axhline(0, color=COLOURS[0], lw=1)
    lower.plot(t, pulls(prediction), "o", ms=4, color=COLOURS[6])
    widest = max(1.5, 1.1 * float(np.abs(pulls(prediction)).max()))
    lower.set(xlabel="t", ylabel="pull", ylim=(-widest, widest))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    figures.place_labels(figure)
    return figure


@mpl.rc_context(STYLE)
def draw_mass(prediction: xr.Dataset, kernel: Kernel, title: str) -> Figure:
    """Draw the effective mass where it is known, and that of the implied C(t)."""
    figure = _figure()
    ax = figure.subplots()
    C, t = prediction.correlator, prediction.t.values
    covariance = np.cov(C.values.T)
    data, implied = (effective_mass(c, covariance, kernel) for c in (C.mean("boot").values, prediction.implied.values))
    shown = data[1] < KNOWN_ENOUGH * np.abs(data[0])
    if shown.any():
        _both(ax, t[shown], data[0][shown], data[1][shown], implied[0][shown])
        ax.legend()
    ax.set(xlabel="t", ylabel=label(r"$m_\mathrm{eff}(t)$", kernel.unit), xlim=(t[0] - 0.5, t[-1] + 0.5))
    ax.set_title(figures.short(title), fontsize=10, loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figures.place_labels(figure)
    return figure


def _figure() -> Figure:
    """Return an empty figure that lies beside another one in the report."""
    width, height, m = figures.WIDTH, figures.HEIGHT, figures.MARGINS
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=m["left"] / width, right=1 - m["right"] / width, bottom=m["bottom"] / height, top=1 - m["top"] / height
    )
    return figure


def _both(ax: Axes, t: NDArray, data: NDArray, error: NDArray, implied: NDArray) -> None:
    """Draw data with their errors, and what is implied."""
    ax.plot(t, implied, color=COLOURS[0], label="implied by the reconstruction")
    ax.errorbar(t, data, error, fmt="o", ms=4, lw=1, color=COLOURS[6], mfc="white", label="data")


def pictures(name: str, prediction: xr.Dataset, kernel: Kernel, title: str) -> Iterator[Picture]:
    """Draw C(t) and the effective mass of one target; nothing where there is no posterior."""
    if "implied" in prediction:
        held = prediction[["correlator", "implied"]].load()
        words = f"of {title} with what the reconstruction implies, against t"
        yield Picture(f"{name}-correlator", draw(held, title), f"C(t) {words}, and pulls")
        yield Picture(f"{name}-effective-mass", draw_mass(held, kernel, title), f"Effective mass {words}")


def caption(prediction: xr.Dataset, title: str) -> str:
    """Return what the picture of the correlator shows."""
    exact = "; samples of a mock target scatter around its exact C(t)" if "truth" in prediction else ""
    return CAPTION.format(title, exact)
