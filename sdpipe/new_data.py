"""What a run says of a correlator that is given from Python: its prediction, and the whole error budget."""

from __future__ import annotations

import warnings
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.correlators.correlator import Correlator, Source, read_correlator
from sdpipe.correlators.objects import holds_errors
from sdpipe.correlators.record import first_line
from sdpipe.correlators.statistics import covariance_of_bootstrap
from sdpipe.errors import UserError
from sdpipe.physics.noise import check_size
from sdpipe.run import Run, open_run

NEW_DATA_STREAM = "predict"
"""Stream of bootstrap draws of what is given to :func:`predict`: not its path, so that a moved file gives the same."""


def predict(
    run: Run | str | Path, samples: xr.Dataset | xr.DataArray | NDArray, scale: float | Literal["auto"] = "auto"
) -> xr.DataArray:
    """Return rho (sigma, ensemble, replica, boot, E) for a correlator of any normalisation.

    ``run`` is an open run or its directory; ``samples`` are bootstrap means (boot, t), what
    :func:`sdpipe.read_correlator` returns at the time slices of the networks, or what it reads: gvars (T,) or at these
    times, a pyerrors Corr or a list of Obs.

    With ``scale="auto"`` the samples are scaled together to the amplitude that makes their mean most likely under the
    prior, and the prediction is scaled back, which the linearity of the problem allows. Networks are not exactly
    linear: with the ``scale`` that ``predictions.zarr`` records for a target, its stored samples give the stored
    prediction.

    The result carries what ``predictions.zarr`` records of a target as attributes, ``scale``, ``distance``, ``chi2``,
    ``dof``, ``goodness_of_fit`` and ``flags`` among them, and after ``validate`` ``p_value``. A flag, such as noise
    unlike that of the training (:mod:`sdpipe.infer.trust`), is also a warning. Where there are no more samples than
    times the noise is not known: it is not compared, and the goodness of fit takes that of the training.

    Raises
    ------
    UserError
        When ``run`` is not a run directory, ``samples`` or ``scale`` is none of these, the time slices are not those
        of the networks, a value is not finite, or the mean at t_ref is zero.

    Examples
    --------
    >>> run = sdpipe.open_run("runs/quickstart")
    >>> rho = sdpipe.predict(run, run.predictions["o3"].correlator)
    >>> rho.dims, rho.attrs["flags"]
    (('sigma', 'ensemble', 'replica', 'boot', 'E'), [])
    """
    run, prediction = _reconstructed(run, samples, scale)
    flags = prediction.attrs["flags"]
    for flag in flags[prediction.attrs.pop("known") :]:
        warnings.warn(flag, stacklevel=2)
    return prediction.rho.assign_attrs(prediction.attrs)


def judge(
    run: Run | str | Path, samples: xr.Dataset | xr.DataArray | NDArray, scale: float | Literal["auto"] = "auto"
) -> xr.Dataset:
    """Return the whole error budget of a correlator, as ``analyze`` stores it of a target.

    The arguments, and what they may be, are those of :func:`predict`. Returns ``central``, ``total``, ``calibrated``,
    ``band (sigma, E)``, ``error (source, sigma, E)``, ``covariance (sigma, E, E2)``, ``estimator_central``,
    ``estimator_error``, ``estimator_calibrated (estimator, sigma, E)``, and as attributes ``p_value``,
    ``goodness_of_fit``, ``scale`` and ``flags`` among others. Without ``validate`` what is calibrated is not there, and
    the budget is the published one. Raises UserError as :func:`predict` does.

    >>> run = sdpipe.open_run("runs/quickstart")
    >>> budget = sdpipe.judge(run, run.predictions["o3"].correlator)
    >>> sorted({"central", "total", "calibrated", "estimator_central"} - set(budget)), budget.attrs["flags"]
    ([], [])
    """
    from sdpipe.infer.trust import assess
    from sdpipe.show.flags import worded

    run, prediction = _reconstructed(run, samples, scale, judged=False)
    budget = run.config.budget
    judged = assess(prediction, budget.central, budget.references, _calibration(run), budget.level)
    return judged.assign_attrs(flags=worded(judged.attrs["flags"]))


def _reconstructed(
    run: Run | str | Path,
    samples: xr.Dataset | xr.DataArray | NDArray,
    scale: float | Literal["auto"],
    judged: bool = True,
) -> tuple[Run, xr.Dataset]:
    """Return an open run and what its audience predicts; ``judged`` with its p-value, and how many flags were known."""
    from sdpipe.infer import trust
    from sdpipe.infer.predict import Measured, reconstruct
    from sdpipe.show import flags as wording

    if scale != "auto" and not (isinstance(scale, Real) and np.isfinite(scale) and scale):
        raise UserError(f"scale: {scale!r} is not allowed; allowed: 'auto', or a finite number other than 0")
    run = run if isinstance(run, Run) else open_run(run)
    values, known, keys = _data(run, samples)
    remedy = wording.remedy(str(run.layout.root), "mine", keys, run.config.origin.trains)
    remedy += f" lattice.first={known.pop('first')}" if "first" in known else ""
    remedy += " (FILE holds these samples)" if keys["path"] == "FILE" else ""
    predicted = reconstruct(run._predictor, values, Measured(**known), scale)
    flags = wording.worded(predicted.attrs["flags"], remedy)
    if judged:
        p_value, more = trust.judge(predicted, _calibration(run))
        flags += wording.worded(more)
        predicted.attrs |= {"known": len(known["flags"])} | ({} if p_value is None else {"p_value": p_value})
    return run, predicted.assign_attrs(flags=flags)


def _calibration(run: Run) -> xr.Dataset | None:
    """Return what ``validate`` wrote, None where it did not."""
    if run.config.budget.calibration != "conformal" or not run.layout.validation.exists():
        return None
    return run.validation


def _data(
    run: Run, samples: xr.Dataset | xr.DataArray | NDArray
) -> tuple[NDArray[np.float64], dict[str, Any], dict[str, Any]]:
    """Return bootstrap means (boot, t), what is known of them, and the keys that read them from their file.

    Raises UserError where they cannot be used.
    """
    if isinstance(samples, xr.Dataset):
        if not {"mean", "covariance"} <= samples.keys():
            raise UserError(
                f"samples: a Dataset of {', '.join(map(str, samples))}; allowed: what sdpipe.read_correlator returns, "
                "or an array (boot, t) such as run.predictions[TARGET].correlator"
            )
        c = Correlator.from_xarray(samples)
        _check_times(run, c.times)
        check_size(c.mean, c.times, "samples")
        known = {"mean": c.mean, "covariance": c.covariance, "count": c.estimated_from}
        known |= {"flags": c.flags, "facts": c.facts}
        known |= {"first": c.facts["first"]} if c.facts.get("first") else {}
        return (
            c.bootstrap(run.config.bootstrap, run.config.seed, NEW_DATA_STREAM),
            known,
            Source.from_facts(c.facts).keys(),
        )
    if holds_errors(samples):
        lattice, parity = run.config.lattice, run.config.kernel_function.parity
        how = {"period": lattice.period, "parity": parity} if parity else {}
        first = lattice.times[0] if np.shape(samples) == (len(lattice.slices),) else lattice.first
        return _data(run, read_correlator(samples, times=lattice.times, first=first, **how))
    values, attrs = _values(run, samples), getattr(samples, "attrs", {})
    covariance = covariance_of_bootstrap(values) if len(values) > values.shape[1] else None
    keys = Source.from_facts(attrs).keys() if "sha256" in attrs else {"path": "FILE", "resampling": "bootstrap"}
    return values, {"mean": values.mean(axis=0), "covariance": covariance, "flags": ()}, keys


def _values(run: Run, samples: xr.DataArray | NDArray) -> NDArray[np.float64]:
    """Return samples as an array (boot, t); raise UserError where they are not at the times of the networks."""
    if isinstance(samples, xr.DataArray):
        if set(samples.dims) != {"boot", "t"}:
            raise UserError(f"samples have dimensions {samples.dims}; needed (boot, t)")
        samples = samples.transpose("boot", "t")
        if "t" in samples.coords:
            _check_times(run, tuple(samples.t.values.tolist()))
    times = run.config.lattice.slices
    try:
        values = np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"samples: {type(samples).__name__} is not an array ({first_line(error)})") from None
    if values.dtype.kind not in "fiu":
        raise UserError(f"samples must be real numbers, not {values.dtype}")
    if values.ndim != 2 or values.shape[1] != len(times) or not len(values):
        raise UserError(f"samples of shape {values.shape}; needed (boot, {len(times)}), t = {times[0]}..{times[-1]}")
    values = values.astype(float)
    if not np.isfinite(values).all():
        raise UserError("samples must be finite")
    check_size(np.abs(values).max(axis=0), times, "samples")
    check_size(values.mean(axis=0), times, "the mean of samples")
    return values


def _check_times(run: Run, times: tuple[int, ...]) -> None:
    needed, parity = run.config.lattice.slices, run.config.kernel_function.parity
    if times != needed:
        how = f"times=({needed[0]}, {needed[-1]})" + (f", period={run.config.lattice.period}" if parity else "")
        how += ", parity=-1" if parity < 0 else ""
        raise UserError(
            f"samples are at t = {', '.join(map(str, times))}; the networks take {needed[0]}..{needed[-1]}: "
            f"sdpipe.read_correlator(..., {how})"
        )
