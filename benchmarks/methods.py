"""The methods beside the networks on one core: HLT, the posterior, and bounds for rho >= 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.peers import INSTALL, Absent, ask
from benchmarks.table import Limit, Row, processor_seconds, turn_by_turn
from sdpipe.estimators.bounds import Bounds
from sdpipe.estimators.hlt_solution import HLT
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.physics.kernels import Kernel, Observables
from sdpipe.physics.noise import synthetic
from sdpipe.physics.spectra import ChebyshevPrior, o3

PEER = INSTALL["lsdensities"][-1][-1]
"""What HLT is measured beside, in an environment of its own."""

DIGITS = 64
"""Decimal digits of the peer, which inverts its matrices."""

ENERGIES, SIGMA, BOOTS, ALPHAS = 47, (0.44, 0.63), 800, (0.0, 1.0, 1.99)


def beside(directory: Path) -> Row:
    """HLT at one energy of kernel exponential, 16 times, 800 bootstraps and one alpha, beside lsdensities.

    Ours is the time of all energies over their number.
    """
    grid = Observables(
        Kernel("exponential", 32), tuple(range(1, 17)), SIGMA[:1], tuple(np.linspace(0.1, 2.5, ENERGIES))
    )
    C, _ = grid.split(o3(1.0).integrals(grid))
    noise = synthetic(grid.times, C, 1e-3, 0.0, 4.0)
    boots = noise.draw(C, BOOTS, np.random.default_rng(1))

    def ours() -> None:
        HLT.for_noise(grid, noise).by("plateau").bootstrap(boots)

    took = turn_by_turn({"ours": ours}, rounds=5)["ours"] / ENERGIES
    what, E = "hlt per energy, 16 times x 800 bootstraps, one alpha, plateau", grid.energies[ENERGIES // 2]
    question = {
        "samples": boots[None], "slices": np.array(grid.times), "first": 1, "period": 0, "spacing": 1.0,
        "sigma": SIGMA[0], "energies": np.array([E]), "cutoff": np.inf, "digits": DIGITS, "A0cut": 0.1, "thin": 0,
    }  # fmt: skip
    try:
        answer = ask("lsdensities", question, directory)
        if why := str(answer["why"][0]):
            raise Absent(why)
    except Absent as error:
        return Row(what, took, "s", None, (), True, f"no baseline: {PEER} cannot be had here: {error}")
    return Row(
        what, took, "s", float(answer["seconds"][0]), (Limit("ratio", "≥", 1000),), True, f"{PEER}, {DIGITS} digits"
    )


def measure(directory: Path) -> list[Row]:
    """Each method from the noise to numbers, by processor time."""
    grid = Observables(Kernel("vector", 32), tuple(range(1, 17)), SIGMA, tuple(np.linspace(0.10566, 2.53584, ENERGIES)))
    C, _ = grid.split(o3(1.0).integrals(grid))
    noise = synthetic(grid.times, C, 1e-3, 0.0, 4.0)
    boots = noise.draw(C, BOOTS, np.random.default_rng(1))
    central = boots.mean(axis=0)

    def hlt() -> None:
        for alpha in ALPHAS:
            method = HLT.for_noise(grid, noise, 0.0, alpha)
            method.bootstrap(boots)
            method.scan(central)

    def plateau() -> None:
        first, *others = (HLT.for_noise(grid, noise, 0.0, alpha) for alpha in ALPHAS)
        first.by("plateau", others).bootstrap(boots)

    t = turn_by_turn(
        {
            "hlt": hlt,
            "plateau": plateau,
            "posterior": lambda: Posterior.for_noise(PriorMoments.from_prior(ChebyshevPrior(128), grid), noise)(boots),
        },
        rounds=5,
    )
    bounds = processor_seconds(lambda: Bounds.for_noise(grid, noise, 0.15)(central))
    what = f"{ENERGIES} x {len(SIGMA)}"
    return [
        Row(
            f"hlt {what} x {BOOTS} bootstraps x {len(ALPHAS)} alpha", t["hlt"], "s", None,
            (Limit("ours", "≤", 1),), True, "lambda by marginal likelihood, and a stability scan",
        ),
        Row("the same, lambda by a plateau of three alpha", t["plateau"], "s", None, (Limit("ours", "≤", 1),), True),
        Row(f"posterior {what} x {BOOTS} bootstraps", t["posterior"], "s", None, (Limit("ours", "≤", 2),), True),
        Row(f"bounds {what}", bounds, "s", None, (Limit("ours", "≤", 15),), True),
        beside(directory),
    ]  # fmt: skip
