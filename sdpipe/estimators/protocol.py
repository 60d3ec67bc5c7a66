"""What every way from C(t) to rho_sigma(E) has in common: what it is built from, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdpipe.arrays import Array
from sdpipe.learn.audience import Audience

if TYPE_CHECKING:
    import xarray as xr  # where it is needed, since a config is read without it


@dataclass(frozen=True, eq=False)
class Estimate:
    """rho_sigma(E) of correlators (..., t) with its error.

    Attributes
    ----------
    mean, error
        rho_sigma(E) and its whole error, shape (..., sigma, E).
    samples
        rho_sigma(E) of bootstrap samples, shape (..., boot, sigma, E), where there were any.
    found
        False where there was no answer and the nearest was taken, shape (..., sigma, E); None where there always is.
    """

    mean: Array
    error: Array
    samples: Array | None = None
    found: NDArray[np.bool_] | None = None


class Estimator(Protocol):
    """One way from C(t) to rho_sigma(E), built for an audience; :data:`sdpipe.estimators.ESTIMATORS` names them.

    ``summary`` says in a phrase what it is. One that is ``fitted`` to draws of the prior serves their smearing alone,
    all others serve every kernel and smearing without training.
    """

    summary: ClassVar[str]
    fitted: ClassVar[bool] = False

    def __init__(self, audience: Audience) -> None: ...

    def estimate(self, C: ArrayLike, samples: ArrayLike | None = None) -> Estimate:
        """Return the estimate for C (..., t), and for bootstrap ``samples`` (..., boot, t) around it."""
        ...

    def covariance(self, C: ArrayLike) -> Array:
        """Return the covariance between energies, shape (sigma, E, E), for one C (t,)."""
        ...

    def diagnostics(self, _C: Array, _scale: float) -> xr.Dataset:
        """Return what else there is to store of one C (t,), ``scale`` times too large; nothing by default."""
        import xarray as xr

        return xr.Dataset()


@dataclass(frozen=True, eq=False)
class Bounded:
    """Bounds on rho_sigma(E) of one correlator.

    Attributes
    ----------
    lower, upper
        Shape (sigma, E); NaN where they are not certified.
    certified
        Whether they are, shape (sigma, E).
    chi2_min
        No rho >= 0 has a smaller chi^2; NaN where it was not found.
    chi2_max
        The chi^2 up to which the bounds hold.
    excluded
        Whether chi2_min is above it: no rho >= 0 agrees with the data.
    repair
        What the repair cost, as a share of half the distance between the bounds, shape (sigma, E).
    """

    lower: Array
    upper: Array
    certified: NDArray[np.bool_]
    chi2_min: float
    chi2_max: float
    excluded: bool
    repair: Array


class Interval(Protocol):
    """Bounds without a prior, built for an audience; :data:`sdpipe.estimators.INTERVALS` names them."""

    summary: ClassVar[str]

    def __init__(self, audience: Audience, level: float) -> None: ...

    def bounds(self, C: ArrayLike) -> Bounded:
        """Return bounds on rho_sigma(E), all at once at the level, for one C (t,)."""
        ...
