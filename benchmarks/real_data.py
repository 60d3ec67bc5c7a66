"""Compare the reconstruction of a real correlator with a multi-exponential fit of the same data.

    python -m benchmarks.real_data RUN TARGET FIGURE.png

The fit C(t) = sum_n A_n [exp(-E_n t) + exp(-E_n (T - t))] gives an independent estimate of the low-energy part,
sum_n A_n G_sigma(E - E_n), for a calibrated run with kernel ``periodic`` in lattice units.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.optimize import approx_fprime, least_squares

import sdpipe
from sdpipe.physics.kernels import gaussian
from sdpipe.show import figures
from sdpipe.show.picture import save

STATES = 3
START = np.log([0.05, 0.1, 0.2, 0.4, 0.5, 0.6])
SHOWN = 1.2


def amplitudes_and_energies(p: NDArray) -> tuple[NDArray, NDArray]:
    """Return A_n and ascending E_n from the logarithms of A_n and of the gaps."""
    return np.exp(p[:STATES]), np.cumsum(np.exp(p[STATES:]))


def fit(times: NDArray, mean: NDArray, covariance: NDArray, period: int) -> tuple[NDArray, NDArray, float]:
    """Return parameters, their covariance and chi^2 per degree of freedom of the correlated fit."""
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))

    def residual(p: NDArray) -> NDArray:
        A, E = amplitudes_and_energies(p)
        return whiten @ ((np.exp(-np.outer(times, E)) + np.exp(-np.outer(period - times, E))) @ A - mean)

    best = least_squares(residual, START, x_scale="jac", max_nfev=20_000)
    return best.x, np.linalg.inv(best.jac.T @ best.jac), 2 * best.cost / (len(times) - 2 * STATES)


def smeared(p: NDArray, grid: NDArray, sigma: float) -> NDArray:
    """Return sum_n A_n G_sigma(E - E_n) on ``grid``."""
    A, E = amplitudes_and_energies(p)
    return gaussian(grid[:, None], E, sigma) @ A


def main() -> None:
    """Fit, print how the two compare, and draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("target")
    parser.add_argument("figure")
    parser.add_argument("--tmin", type=int, default=4)
    arguments = parser.parse_args()
    run = sdpipe.open_run(arguments.run)
    section, lattice = run.config.targets[arguments.target], run.config.lattice
    times = (max(arguments.tmin, lattice.times[0]), lattice.times[1])
    data = sdpipe.read_correlator(section.path, section.dataset, period=lattice.period, times=times)
    p, errors, chi2 = fit(data.t.values, data["mean"].values, data.covariance.values, lattice.period)
    A, E = amplitudes_and_energies(p)
    print(f"t >= {arguments.tmin}: chi2/dof {chi2:.2f}; E = {np.round(E, 4)}, A = {np.round(A, 5)}")
    budget = run.budget[arguments.target].sel(E=slice(None, SHOWN)).load()
    grid = budget.E.values

    def draw(one: xr.Dataset, ax: Axes) -> Axes:
        sigma = float(one.sigma)
        curve = smeared(p, grid, sigma)
        slope = approx_fprime(p, lambda q: smeared(q, grid, sigma), 1e-6)
        spread = np.sqrt(np.einsum("ei,ij,ej->e", slope, errors, slope))
        figures.reconstruction(one, ax)
        ax.errorbar(grid, curve, spread, fmt=".", ms=4, color=figures.COLOURS[1], label=f"{STATES}-exponential fit")
        ax.legend()
        difference = one.central.values - curve
        pull = np.abs(difference) / np.hypot(one.calibrated.values, spread)
        for upper in (0.6, SHOWN):
            low = grid <= upper
            print(
                f"sigma {sigma:g}, E <= {upper:g}: largest difference {np.abs(difference)[low].max():.4f} at "
                f"rho up to {one.central.values[low].max():.3f}; within 1 joint (calibrated) error at "
                f"{np.mean(pull[low] <= 1):.0%}, within 2 at {np.mean(pull[low] <= 2):.0%} of energies"
            )
        return ax

    with mpl.rc_context(figures.STYLE):
        save(figures.panels(draw, budget, arguments.target), Path(arguments.figure))


if __name__ == "__main__":
    main()
