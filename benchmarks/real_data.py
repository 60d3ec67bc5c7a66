"""Compare the reconstruction of a real correlator with a multi-exponential fit of the same data.

    python -m benchmarks.real_data RUN TARGET FIGURE.png

The fit C(t) = sum_n A_n [exp(-E_n t) + exp(-E_n (T - t))] gives an independent estimate of the low-energy part,
sum_n A_n G_sigma(E - E_n), for a run with kernel ``periodic`` in lattice units.
"""

from __future__ import annotations

import argparse

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import least_squares

import sdpipe
from sdpipe import correlators, figures, noise, problem
from sdpipe.kernels import gaussian

STATES = 3


def fit(times: NDArray, mean: NDArray, covariance: NDArray, period: int) -> tuple[NDArray, NDArray, NDArray, float]:
    """Return amplitudes, energies, the parameters' covariance and chi^2 per degree of freedom."""
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))

    def split(p: NDArray) -> tuple[NDArray, NDArray]:
        return np.exp(p[:STATES]), np.cumsum(np.exp(p[STATES:]))

    def residual(p: NDArray) -> NDArray:
        A, E = split(p)
        model = (np.exp(-np.outer(times, E)) + np.exp(-np.outer(period - times, E))) @ A
        return whiten @ (model - mean)

    best = least_squares(residual, np.log([0.05, 0.1, 0.2, 0.4, 0.5, 0.6]), x_scale="jac", max_nfev=20_000)
    A, E = split(best.x)
    return A, E, np.linalg.inv(best.jac.T @ best.jac), 2 * best.cost / (len(times) - 2 * STATES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("target")
    parser.add_argument("figure")
    parser.add_argument("--tmin", type=int, default=2)
    arguments = parser.parse_args()
    run = sdpipe.open_run(arguments.run)
    section, lattice = run.config.targets[arguments.target], run.config.lattice
    data = correlators.read_configurations(section.path, section.dataset)
    select = correlators.select(data.shape[1], problem.kernel(run.config), lattice.slices, "data")
    samples = data @ select.T
    late = np.array(lattice.slices) >= arguments.tmin
    times = np.array(lattice.slices)[late]
    covariance = noise.covariance_of_mean(samples[:, late])
    A, E, parameters, chi2 = fit(times, samples[:, late].mean(axis=0), covariance, lattice.period)
    print(f"t >= {arguments.tmin}: chi2/dof {chi2:.2f}; E = {np.round(E, 4)}, A = {np.round(A, 5)}")
    draws = np.random.default_rng(1).multivariate_normal(np.log([*A, *np.diff(E, prepend=0)]), parameters, 400)
    budget = run.budget[arguments.target].load()
    grid = budget.E.values
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(6.4 * 0.85 * budget.sizes["sigma"], 4), layout="constrained")
        for ax, sigma in zip(
            np.atleast_1d(figure.subplots(1, budget.sizes["sigma"])), budget.sigma.values, strict=True
        ):
            one = budget.sel(sigma=sigma)
            figures.reconstruction(one, ax)
            curve = gaussian(grid[:, None], E, sigma) @ A
            spread = np.std(
                [gaussian(grid[:, None], np.cumsum(np.exp(d[STATES:])), sigma) @ np.exp(d[:STATES]) for d in draws],
                axis=0,
            )
            ax.errorbar(grid, curve, spread, fmt=".", ms=4, color=figures.COLOURS[1], label=f"{STATES}-exponential fit")
            ax.set_title(f"{arguments.target}  σ = {sigma:g}", fontsize=10, loc="left")
            ax.legend()
            pull = (one.central.values - curve) / np.hypot(one.total.values, spread)
            for upper in (0.6, 1.0, grid[-1]):
                low = grid <= upper
                print(
                    f"sigma {sigma:g}, E <= {upper:g}: largest difference {np.abs(one.central.values - curve)[low].max():.4f}"
                    f" (peak {curve.max():.3f}), within 1 error at {np.mean(np.abs(pull[low]) <= 1):.0%},"
                    f" within 2 at {np.mean(np.abs(pull[low]) <= 2):.0%}"
                )
        figure.savefig(arguments.figure, dpi=150)


if __name__ == "__main__":
    main()
