"""Draw docs/choosing.png: what the closed-form posterior resolves, against sigma, energy and the last time.

    python docs/choosing.py

The kernel, T and noise correlation of configs/quickstart.yaml. The error is the posterior's, relative to the largest
rho_sigma(E) of the O(3) density of threshold 0.5 GeV.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.spectra import ChebyshevPrior, o3
from sdpipe.show import figures

KERNEL, THRESHOLD = Kernel("vector", 32, 1.0), 0.5
NOISES = (1e-2, 1e-3, 1e-4)
SIGMAS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
ENERGIES = tuple(np.linspace(0.1, 3.1, 61).tolist())
LAST = tuple(range(4, 17))


def error(noise: float, sigma: tuple[float, ...], energies: tuple[float, ...], last: int = 16) -> NDArray:
    """Return sd(sigma, E) of the posterior over the largest rho_sigma(E) of each sigma."""
    grid = Observables(KERNEL, tuple(range(1, last + 1)), sigma, energies)
    C, rho = grid.split(o3(THRESHOLD).integrals(grid))
    lattice = synthetic(grid.times, C, noise, 0.0, 4.0)
    said = Posterior.for_noise(PriorMoments.from_prior(ChebyshevPrior(128), grid), lattice)(C)
    return said.sd / np.abs(rho).max(axis=-1, keepdims=True)


def main() -> None:
    """Draw and save the figure."""
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        left, middle, right = figure.subplots(1, 3, sharey=True)
        for noise, colour in zip(NOISES, figures.COLOURS, strict=False):
            words = {"color": colour, "label": f"C(t) known to {100 * noise:g} %"}
            left.plot(SIGMAS, error(noise, SIGMAS, (1.0,))[:, 0], "o-", ms=3, **words)
            middle.plot(ENERGIES, error(noise, (0.44,), ENERGIES)[0], **words)
            right.plot(LAST, [error(noise, (0.44,), (1.0,), last)[0, 0] for last in LAST], "o-", ms=3, **words)
        for ax, title, label in (
            (left, "E = 1 GeV, 16 times", "σ [GeV]"),
            (middle, "σ = 0.44 GeV, 16 times", "E [GeV]"),
            (right, "σ = 0.44 GeV, E = 1 GeV", "last time slice used"),
        ):
            ax.set(title=title, xlabel=label, yscale="log", ylim=(1e-4, 2))
            ax.axhline(0.05, color="0.6", lw=1, ls=":")
        left.set_ylabel("error of the posterior / largest ρ̂")
        left.legend()
        figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
