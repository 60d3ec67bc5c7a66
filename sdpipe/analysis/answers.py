"""What a run says of one target, as plain arrays: central value, bootstrap samples, covariance by origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.arrays import Array
from sdpipe.config.schema import Config
from sdpipe.errors import UserError
from sdpipe.infer.calibration import calibrating, correlation
from sdpipe.physics.units import unit_of


class Answers(Protocol):
    """What is taken of a run, see :class:`sdpipe.run.Run`."""

    config: Config
    predictions: Mapping[str, xr.Dataset]
    budget: Mapping[str, xr.Dataset]
    validation: xr.Dataset

    def resampled(self, target: str, bin: int) -> Array:  # noqa: A002 - the name of the config's key
        """Return samples (boot, sigma, E) from bins of one length."""


@dataclass(frozen=True, eq=False)
class Answer:
    """rho_sigma(E) of one target, with n = sigma E numbers in the order of ``central``.

    Attributes
    ----------
    run, target
        Whose it is, for messages.
    sigma, E
        In the ``unit`` of energy.
    central, error
        (sigma, E), with the calibrated error.
    samples
        (boot, sigma, E), of the noise of the lattice alone.
    latt
        (n, n), the covariance of the samples.
    unresolved
        (n, n), U R U with U^2 = max(calibrated^2 - Delta_latt^2, 0) and R the correlation of the pulls of the draws of
        ``validation.zarr`` that calibrate this target: what the data do not resolve, and every systematic shift.
    units
        Those of rho_sigma(E).
    """

    run: Answers
    target: str
    sigma: Array
    E: Array
    unit: str
    central: Array
    error: Array
    samples: Array
    latt: Array
    unresolved: Array
    units: str

    @property
    def covariance(self) -> Array:
        """The whole covariance (n, n)."""
        return self.latt + self.unresolved

    def rows(self, rows: Sequence[int] | NDArray[np.intp]) -> Answer:
        """Return the same at some energies."""
        rows, n_sigma, n_E = np.asarray(rows), len(self.sigma), len(self.E)
        flat = (np.arange(n_sigma)[:, None] * n_E + rows).ravel()
        parts = {name: getattr(self, name)[np.ix_(flat, flat)] for name in ("latt", "unresolved")}
        values = {name: getattr(self, name)[..., rows] for name in ("central", "error", "samples")}
        return replace(self, **parts, **values, E=self.E[rows])


def check_runs(runs: Sequence[Answers], call: str) -> None:
    """Raise UserError where ``runs`` are no list of open runs, or there are none."""
    if not isinstance(runs, Sequence) or isinstance(runs, str) or any(not hasattr(run, "budget") for run in runs):
        raise UserError(f"{call}: runs: {type(runs).__name__} is not allowed; allowed: a list of sdpipe.open_run(...)")
    if not runs:
        raise UserError(f"{call}: no runs are given")


def only_target(run: Answers, target: str | None) -> str:
    """Return the target, the only one of the run where none is named; raise UserError where there is no such budget."""
    targets = list(run.budget)
    if target is None and len(targets) == 1:
        return targets[0]
    if target not in targets:
        asked = "name the target" if target is None else f"there is no budget of {target}"
        raise UserError(f"{run.config.name}: {asked}; those there: {', '.join(targets) or 'none'}")
    return target


def each_target(runs: Sequence[Answers], target: str | Sequence[str] | None, call: str) -> list[str | None]:
    """Return a target for each run; raise UserError where runs are none, or there are more or fewer targets."""
    check_runs(runs, call)
    targets = [target] * len(runs) if target is None or isinstance(target, str) else list(target)
    if len(targets) != len(runs):
        raise UserError(f"{call}: {len(runs)} runs and {len(targets)} targets; needed: one for each run")
    return targets


def answer(run: Answers, target: str | None = None) -> Answer:
    """Return what a run says of one target.

    Raises UserError where there is no budget of it, and without ``validate``, which the correlations come from.
    """
    target = only_target(run, target)
    budget, predictions = run.budget[target], run.predictions[target]
    if "calibrated" not in budget:
        raise UserError(f"{run.config.name}: a covariance needs the calibrated error: set budget.calibration=conformal")
    budget = budget[["central", "calibrated"]].load(scheduler="synchronous")
    samples = lead_samples(predictions, run.config.budget.central)
    central, error = (budget[n].transpose("sigma", "E").values.astype(float) for n in ("central", "calibrated"))
    latt = np.cov(samples.reshape(len(samples), -1).T, ddof=0).reshape(2 * (central.size,))
    pulls = calibrating(run.validation, predictions.attrs["scale_rule"]).pull.load(scheduler="synchronous")
    R = correlation(pulls.transpose("sample", "sigma", "E").values.astype(float).reshape(pulls.sizes["sample"], -1))
    width = np.sqrt(np.maximum(error.ravel() ** 2 - np.diag(latt), 0))
    units, sigma, E = budget.central.attrs.get("units", "1"), budget.sigma.values, budget.E.values
    return Answer(
        run=run,
        target=target,
        sigma=sigma,
        E=E,
        unit=unit_of(budget),
        central=central,
        error=error,
        samples=samples,
        latt=latt,
        unresolved=width[:, None] * R * width,
        units=units,
    )


def lead_samples(predictions: xr.Dataset, central: str) -> Array:
    """Return bootstrap samples (boot, sigma, E) of who gives the central value: networks, or an estimator."""
    if "rho" in predictions:
        rho = predictions.rho.sel(ensemble=central).load(scheduler="synchronous").mean("replica")
    else:
        rho = predictions.estimator_rho.sel(estimator=central).load(scheduler="synchronous")
    return rho.transpose("boot", "sigma", "E").values.astype(float)
