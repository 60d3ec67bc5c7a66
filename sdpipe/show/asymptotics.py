"""How the result moves with basis size, network size and number of samples: rho(E) against each N.

The broad audience stands in for the limit N -> infinity (arXiv:2307.00808, sec. 5). A series holds the central
ensemble and every ensemble that differs from it in one of Nb, Nrho and network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sdpipe.config.schema import Config, Ensemble, NetworkName
from sdpipe.infer.budget import central_value, lattice_error, network_error
from sdpipe.show.figures import COLOURS, STYLE, save, title_of

SHOWN_ENERGIES = 4
AXES = {"Nb": "basis size Nb", "Nrho": "samples Nρ", "network": "network"}


def series(ensembles: Mapping[str, Ensemble], central: str) -> dict[str, list[str]]:
    """Return key -> names of the ensembles that differ from the central one in that key alone, in ascending order.

    The central ensemble is one of them. Only keys with three members or more make a series.
    """
    rank = get_args(NetworkName).index
    sizes = {n: {"Nb": e.Nb, "Nrho": e.Nrho, "network": rank(e.network)} for n, e in ensembles.items()}
    found = {}
    for key in AXES:
        others = [k for k in AXES if k != key]
        members = [n for n, s in sizes.items() if all(s[k] == sizes[central][k] for k in others)]
        distinct = {sizes[n][key]: n for n in members} | {sizes[central][key]: central}
        if len(distinct) >= 3:
            found[key] = [distinct[size] for size in sorted(distinct)]
    return found


def draw(
    rho: xr.DataArray,
    budget: xr.Dataset,
    ensembles: Mapping[str, Ensemble],
    central: str,
    references: Mapping[str, str],
    sigma: float,
) -> Figure:
    """Draw rho(E) of each series against N at some energies, with Delta_stat, and the quoted Delta_X as a band.

    rho (sigma, ensemble, replica, boot, E) and the budget of one target; Delta_X is that of the source whose reference
    ensemble is in the series.
    """
    every, rho, budget = series(ensembles, central), rho.sel(sigma=sigma).astype(float), budget.sel(sigma=sigma)
    value = central_value(rho).compute()
    error = np.hypot(lattice_error(rho), network_error(rho)).compute()
    shown = np.unique(np.linspace(0, rho.sizes["E"] - 1, SHOWN_ENERGIES + 2).astype(int)[1:-1])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(every) + 1.2, 4.0), layout="constrained")
        for ax, (key, names) in zip(np.atleast_1d(figure.subplots(1, len(every))), every.items(), strict=True):
            at = np.arange(len(names))
            source = next((x for x, name in references.items() if name in names), None)
            for i, colour in zip(shown, COLOURS, strict=False):
                best = float(budget.central[i])
                points = [float(value.sel(ensemble=n)[i]) for n in names]
                bars = [float(error.sel(ensemble=n)[i]) for n in names]
                label = f"E = {float(rho.E[i]):.2f} GeV"
                ax.errorbar(at, points, bars, fmt="o-", ms=4, lw=1, color=colour, label=label)
                if source:
                    width = float(budget.error.sel(source=source)[i])
                    ax.axhspan(best - width, best + width, color=colour, alpha=0.2, lw=0)
            ax.set_xticks(at, [str(getattr(ensembles[n], key)) for n in names])
            ax.set(xlabel=AXES[key], ylabel=r"$\hat\rho_\sigma(E)$")
            band = f", band: systematic {source}" if source else ""
            ax.set_title(f"σ = {sigma:g} GeV{band}", fontsize=9, loc="left")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def draw_all(name: str, rho: xr.DataArray, budget: xr.Dataset, config: Config) -> list[Figure]:
    """Draw the series of one target, a figure for each sigma, where the config has any."""
    central, references = config.budget.central, config.budget.references
    if not series(config.ensembles, central):
        return []
    drawn = [draw(rho, budget, config.ensembles, central, references, float(sigma)) for sigma in rho.sigma.values]
    for figure in drawn:
        figure.suptitle(title_of(name, budget.attrs["flags"]), fontsize=10, x=0.01, ha="left")
    return drawn


def draw_target(directory: Path, name: str, rho: xr.DataArray, budget: xr.Dataset, config: Config) -> list[Path]:
    """Write the pictures of :func:`draw_all`; return the files."""
    drawn = draw_all(name, rho, budget, config)
    return [save(figure, directory / f"{name}-asymptotics-sigma{i}.png") for i, figure in enumerate(drawn)]
