"""HLT as an estimator: what it leaves open, E0 of each correlator by marginal likelihood, and its stored scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from sdpipe.arrays import Array
from sdpipe.estimators.hlt_lambda import ALPHAS, Rule
from sdpipe.estimators.hlt_solution import HLT, Reconstruction, around
from sdpipe.estimators.posterior import Posterior, PriorMoments
from sdpipe.estimators.protocol import Estimate, Estimator
from sdpipe.learn.audience import Audience
from sdpipe.physics.kernels import Observables
from sdpipe.physics.noise import Noise

if TYPE_CHECKING:
    import xarray as xr  # where it is needed, since a config is read without it


BELOW = 0.95
"""E0 by marginal likelihood is the next step of a ladder below this share of the posterior's.

Above a state it would be wrong.
"""

LADDER = 2**0.125
"""Ratio of the steps of that ladder, so that few factorisations serve all correlators."""
SCANNED = 2
"""Energies that are kept of each target and width."""


@dataclass(frozen=True)
class Choice:
    """What HLT leaves open.

    Attributes
    ----------
    rule
        How lambda is chosen, or lambda' itself, see :class:`HLT`.
    alpha
        Weight e^(alpha a omega) of the result; a plateau agrees with those of ``ALPHAS``.
    E0
        Where integrals begin in GeV; None is the lower of a threshold and the lowest energy; "evidence" follows from
        each correlator, see :class:`ByThreshold`.
    """

    rule: Rule | float = "evidence"
    alpha: float = 0.0
    E0: float | Literal["evidence"] | None = None

    def build(self, observables: Observables, noise: Noise, threshold: float) -> HLT | ByThreshold:
        """Return HLT by these choices, for densities that are zero below a threshold in GeV."""
        if self.E0 == "evidence":
            return ByThreshold.for_noise(self, observables, noise)
        if self.rule == "plateau":
            return self.each(observables, noise, threshold)[0]
        return HLT.for_noise(observables, noise, self._start(observables, threshold), self.alpha).by(self.rule)

    def each(self, observables: Observables, noise: Noise, threshold: float) -> list[HLT]:
        """Return HLT for ``alpha``, then for each of ``ALPHAS`` for which it exists."""
        E0 = self._start(observables, threshold)
        more = [alpha for alpha in ALPHAS if alpha != self.alpha and observables.norm_ends(alpha) is not None]
        plain = [HLT.for_noise(observables, noise, E0, alpha) for alpha in (self.alpha, *more)]
        beside = [[other for other in plain if other is not one and self.rule == "plateau"] for one in plain]
        return [one.by(self.rule, others) for one, others in zip(plain, beside, strict=True)]

    def _start(self, observables: Observables, threshold: float) -> float:
        if self.E0 == "evidence":
            raise ValueError("E0 by marginal likelihood is that of a correlator: see ByThreshold.choice")
        return min(threshold, *observables.energies) if self.E0 is None else self.E0


BY_EVIDENCE = Choice()
"""By marginal likelihood at alpha = 0."""


@dataclass(frozen=True, eq=False)
class ByThreshold:
    """HLT whose E0 is by marginal likelihood, for each correlator its own.

    Where rho is zero below E0, kernels of lower energies say nothing of it but are larger by orders of magnitude: for
    data that fall steeply no double precision is left for what counts. E0 is a step of a ladder below the ``threshold``
    of the posterior over scales (:class:`~sdpipe.estimators.posterior.PosteriorEstimate`); it may be above an energy E.

    Attributes
    ----------
    choices, observables, noise
        As given.
    posterior
        What knows thresholds.
    made
        The HLT of each E0 that was asked for.
    """

    choices: Choice
    observables: Observables
    noise: Noise
    posterior: Posterior
    built: dict[float, HLT] = field(default_factory=dict)

    @classmethod
    def for_noise(cls, choices: Choice, observables: Observables, noise: Noise) -> ByThreshold:
        """Return the method for one covariance; E0 of ``choices`` does not matter."""
        o = observables
        grid = Observables(o.kernel, o.times, o.sigma[:1], o.energies[:1])
        moments = PriorMoments.over_scales(grid, floor=noise.floor)
        return cls(choices, o, noise, Posterior.for_noise(moments, noise))

    def choice(self, C: Array) -> Choice:
        """Return the choices with E0 in GeV, that of one C (t,)."""
        a = self.observables.kernel.spacing
        steps = np.log(a * BELOW * self.posterior(C).threshold) / np.log(LADDER)
        return replace(self.choices, E0=float(LADDER ** np.floor(steps) / a))

    def floored(self, C: Array) -> HLT:
        """Return the HLT of one C (t,), the floor of its noise included."""
        choice = self.choice(C)
        if choice.E0 not in self.built:
            self.built[choice.E0] = choice.build(self.observables, self.noise, choice.E0)
        return self.built[choice.E0].floored(C)

    def around(self, centre: ArrayLike, C: ArrayLike) -> Reconstruction:
        """Return the estimate for each ``centre`` (..., t), with samples C (..., boot, t) around it, as HLT does."""
        return around(self.floored, centre, C)


class HLTEstimator(Estimator):
    """HLT by a :class:`Choice`, ``hlt`` among the options of the audience.

    Without one it is by marginal likelihood at alpha = 0.
    """

    summary = "the method of Hansen, Lupo and Tantalo"

    def __init__(self, audience: Audience) -> None:
        self.audience, self.choice = audience, audience.options.get("hlt", BY_EVIDENCE)
        self.hlt = self.choice.build(audience.observables, audience.noise, audience.threshold)

    def estimate(self, C: ArrayLike, samples: ArrayLike | None = None) -> Estimate:
        """Return rho with both errors; samples have the lambda of their C."""
        C = np.asarray(C, float)
        r = self.hlt.around(C, C[..., None, :] if samples is None else samples)
        return Estimate(r.mean, r.error, None if samples is None else r.samples, r.found)

    def covariance(self, C: ArrayLike) -> Array:
        """Return the covariance (sigma, E, E), both errors in one, for C (t,)."""
        return np.einsum("sesf->sef", self.hlt.floored(np.asarray(C, float)).covariance(C))

    def scans(self, C: Array, rows: Sequence[int], scale: float) -> xr.Dataset:
        """Return :func:`stability` of one C (t,), ``scale`` times too large, at some of the energies."""
        s = self.audience
        choice = self.hlt.choice(C) if isinstance(self.hlt, ByThreshold) else self.choice
        return stability(choice.each(s.observables, s.noise, s.threshold), C, rows, scale)

    def diagnostics(self, C: Array, scale: float) -> xr.Dataset:
        """Return the scans at two of the energies."""
        return self.scans(C, kept(len(self.audience.observables.energies)), scale)


def kept(count: int) -> list[int]:
    """Return which of ``count`` energies are kept: a third and two thirds of the way up.

    >>> kept(47), kept(2)
    ([15, 31], [0, 1])
    """
    return [count * (k + 1) // (SCANNED + 1) for k in range(SCANNED)]


def stability(hlts: Sequence[HLT], C: Array, rows: Sequence[int], factor: float = 1.0) -> xr.Dataset:
    """Return the scans of one correlator ``factor`` times C, shape (t,), at some of the energies.

    ``hlts`` differ in alpha alone. Returns ``scan_mean``, ``scan_error``, ``scan_misfit`` (A/A[0]) and ``scan_noise``
    (B), each (alpha, sigma, E_scan, lambda) against lambda' = lambda / (1 - lambda), and ``scan_chosen (alpha, sigma,
    E_scan)``, the lambda' that each chooses by its rule. The floor of the noise enters as that of this correlator.
    """
    import xarray as xr

    rows, floored = list(rows), [hlt.floored(C) for hlt in hlts]
    scans = [hlt.scan(C) for hlt in floored]
    dims, first = ("alpha", "sigma", "E_scan", "lambda"), hlts[0].observables
    rule = hlts[0].rule if isinstance(hlts[0].rule, str) else "hand"

    def stacked(name: str, unit: float = 1.0) -> Array:
        return np.stack([getattr(scan, name)[:, rows] for scan in scans]) / unit

    chosen = np.stack([(hlt(C).mu / hlt.unit)[:, rows] for hlt in floored])
    unit, units = first.kernel.unit, first.units
    variables = {
        "scan_mean": (dims, stacked("mean", factor), units, "HLT against lambda'"),
        "scan_error": (dims, stacked("error", abs(factor)), units, "its statistical error"),
        "scan_misfit": (dims, stacked("misfit"), "1", "A/A[0]"),
        "scan_noise": (dims, stacked("noise"), "1", "B"),
        "scan_chosen": (dims[:3], chosen, "1", f"lambda' by {rule}"),
    }
    coords = {
        "alpha": [hlt.alpha for hlt in hlts],
        "sigma": ("sigma", list(first.sigma), {"units": unit}),
        "E_scan": ("E_scan", [first.energies[i] for i in rows], {"units": unit}),
        "lambda": scans[0].lambdas,
    }
    return xr.Dataset({k: (d, v, {"units": u, "long_name": w}) for k, (d, v, u, w) in variables.items()}, coords)
