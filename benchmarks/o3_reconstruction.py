"""Compare data/o3-montecarlo.h5 with the exact two-particle density, as C(t) and, given a run, as rho_sigma(E).

    python -m benchmarks.o3_reconstruction RUN FIGURE.png

RUN is a finished run of configs/o3-montecarlo.yaml. The data are in lattice units, so that the densities made from them
are those of 1/a times C(t), a in units of 1/(2m).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

import sdpipe
from benchmarks.o3_montecarlo import CHAINS, LITERATURE
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.spectra import o3
from sdpipe.show import figures

Array = NDArray[np.float64]

FILE = Path(__file__).resolve().parents[1] / "data" / "o3-montecarlo.h5"

GROUPS = ("beta1.40", "beta1.50", "beta1.60")
"""Groups of the file whose rows are means over many updates."""

SHOWN = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5)
"""Values of m t at which the beta are compared."""


def exact(m: float, period: int, times: tuple[int, ...]) -> Array:
    """Return int d omega rho(omega) [e^(-omega t) + e^(-omega (T - t))], rho of ``o3`` with E_th = 2m."""
    grid = Observables(Kernel("periodic", period), times, (1.0,), (1.0,))
    return grid.split(o3(2 * m).integrals(grid))[0]


def ratio(group: str, file: Path = FILE) -> xr.Dataset:
    """Return C(t) over the exact one (t), its error, and that from the error of m; m is among the attributes."""
    with h5py.File(file) as content:
        said = dict(content[group].attrs)
    m, error, period = float(said["mass"]), float(said["mass_error"]), int(said["T"])
    data = sdpipe.read_correlator(file, f"{group}/current", period=period, times=(2, round(3.2 / m)))
    times = tuple(data.t.values.tolist())
    C = exact(m, period, times)
    of_mass = np.abs(exact(m + error, period, times) - exact(m - error, period, times)) / 2
    return xr.Dataset(
        {
            "ratio": ("t", data["mean"].values / C),
            "error": ("t", np.sqrt(np.diagonal(data.covariance)) / C),
            "error_of_mass": ("t", of_mass / C),
        },
        coords={"t": list(times)},
        attrs={"mass": m, "mass_error": error, "chi2": said["mass_chi2_per_dof"], "tau_int": data.attrs["tau_int"]},
    )


def of_run(run: object, target: str = "simulated") -> tuple[xr.Dataset, Array]:
    """Return the budget of a target at beta = 1.5 in units of rho, and the exact rho_sigma (sigma, E)."""
    config = run.config
    grid = config.observables
    budget = run.budget[target].load() / config.lattice.spacing
    return budget, grid.split(o3(1.0).integrals(grid, config.spectra.omega_max))[1]


def print_correlators() -> None:
    """Print m, and C(t) over the exact one at each beta at the same m t."""
    at = {}
    for group in GROUPS:
        r = ratio(group)
        m, error = r.attrs["mass"], r.attrs["mass_error"]
        known = "literature {} +- {}".format(*LITERATURE[group]) if group in LITERATURE else "no literature"
        length = f"1/m {1 / m:.3f} +- {error / m**2:.3f} ({known})"
        print(f"{group}: m {m:.5f} +- {error:.5f}, {length}, chi2/dof {r.attrs['chi2']:.2f}")
        at[group] = r.assign_coords(t=r.t * m).interp(t=list(SHOWN))
    for x in SHOWN:
        here = {group: r.sel({"t": x}) for group, r in at.items()}
        words = [
            f"{group} {float(r.ratio):.4f} +- {float(r.error):.4f} +- {float(r.error_of_mass):.4f}"
            for group, r in here.items()
        ]
        print(f"m t = {x}: {'; '.join(words)}")


def main() -> None:
    """Print how C(t) and rho_sigma compare with the exact ones, and draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("figure")
    arguments = parser.parse_args()
    print_correlators()
    run = sdpipe.open_run(arguments.run)
    budget, truth = of_run(run)
    E = budget.E.values
    for i, sigma in enumerate(budget.sigma.values):
        one = budget.sel({"sigma": sigma})
        off = one.central.values - truth[i]
        pull = off / one.calibrated.values
        low = E <= 1.5
        print(
            f"sigma {sigma:g}: relative to the exact one {np.mean((off / truth[i])[low]):+.3f} on average at E <= 1.5"
        )
        print(
            f"sigma {sigma:g}: exact one inside 1 and 2 calibrated errors at {np.mean(np.abs(pull) <= 1):.0%}, "
            f"{np.mean(np.abs(pull) <= 2):.0%} of {len(E)} energies; largest |pull| {np.abs(pull).max():.2f} at "
            f"E = {E[np.abs(pull).argmax()]:.2f}"
        )
        for k in range(0, len(E), 5):
            print(
                f"  E {E[k]:.2f}: {one.central.values[k]:.4f} +- {one.calibrated.values[k]:.4f}, "
                f"exact {truth[i, k]:.4f}, pull {pull[k]:+.2f}"
            )
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(5.4 * 2, 4), layout="tight")
        left, right = figure.subplots(1, 2)
        for colour, group in zip(figures.COLOURS, GROUPS, strict=False):
            r = ratio(group)
            label = f"β = {CHAINS[group].beta:g}, 1/m = {1 / r.attrs['mass']:.2f}"
            left.errorbar(r.t * r.attrs["mass"], r.ratio, r.error, fmt=".", ms=4, color=colour, label=label)
        left.axhline(1, color="k", lw=0.8)
        left.set(xlabel="m t", ylabel="C(t) / C(t) of two particles", xlim=(0, 2.2), ylim=(0.88, 1.04))
        left.legend()
        sigma = float(budget.sigma[0])
        figures.reconstruction(budget.sel({"sigma": sigma}), right)
        right.plot(E, truth[0], "k--", label="exact, two particles")
        right.set_title(f"σ = {sigma:g} × 2m", fontsize=10, loc="left")
        right.set_xlabel("E / 2m")
        right.legend()
        figure.savefig(arguments.figure, dpi=100)


if __name__ == "__main__":
    main()
