"""Open a run directory from Python: lazy labelled objects, and predictions for new correlators."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe.config.load import load_config
from sdpipe.config.schema import Config
from sdpipe.correlators.statistics import covariance_of_bootstrap
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.errors import UserError
from sdpipe.physics.noise import Noise
from sdpipe.pipeline import pending
from sdpipe.pipeline.pieces import every_network

if TYPE_CHECKING:
    from sdpipe.infer.integrals import Weight
    from sdpipe.learn.trained import Network
    from sdpipe.show.plots import Plots

STREAM = "predict"
"""Stream of bootstrap draws of what is given to :func:`predict`: not its path, so that a moved file gives the same."""


class Run:
    """A run directory. Stores are opened when first asked for, and read lazily."""

    def __init__(self, path: Path) -> None:
        self.layout = Layout(path)
        self.config: Config = load_config(path)

    @property
    def training(self) -> xr.Dataset:
        """correlator (Nb, sample, t), smeared (Nb, sample, sigma, E), threshold (Nb, sample)."""
        pending.require_training(self.config, self.layout)
        return store.read(self.layout.training)

    @property
    def history(self) -> xr.Dataset:
        """train_loss, val_loss (ensemble, sigma, replica, epoch), linear_loss (ensemble, sigma)."""
        return store.read(self.layout.history)

    @property
    def predictions(self) -> dict[str, xr.Dataset]:
        """Target -> rho (sigma, ensemble, replica, boot, E), correlator (boot, t), truth where known."""
        return self._groups(self.layout.predictions)

    @property
    def budget(self) -> dict[str, xr.Dataset]:
        """Target -> central, error, total, covariance, and truth and pull where known."""
        return self._groups(self.layout.budget)

    @property
    def validation(self) -> xr.Dataset:
        """Draws with known truth, the coverage of every error on them, and the factors that calibrate it."""
        return store.read(self.layout.validation)

    @cached_property
    def networks(self) -> list[Network]:
        """Every trained network of the config. Their files are enough: data files need not be there."""
        from sdpipe.learn import trained

        paths = [self.layout.network(*network) for network in every_network(self.config)]
        markers = self.layout.markers("train", "")
        return [trained.load(path, (markers.noted(path.stem) or {}).get("sha256")) for path in paths]

    def _groups(self, path: Path) -> dict[str, xr.Dataset]:
        return {name: store.read(path / name) for name in self.config.targets if (path / name).exists()}

    @property
    def plot(self) -> Plots:
        """Figures on matplotlib axes: reconstruction, budget, history, samples."""
        from sdpipe.show.plots import Plots

        return Plots(self)

    def integral(self, target: str, f: Weight, between: tuple[float, float] | None = None) -> xr.Dataset:
        """Return I = ∫ f(E) rho_sigma(E) dE of one target with every error of the budget, see :func:`sdpipe.integral`.

        Its errors are those of the total, not of the calibrated error, which is a promise for one energy at a time.
        Its attribute ``flags`` says what speaks against the result. Raises UserError where there is no prediction of
        the target, and for an f or limits that cannot be used.
        """
        from sdpipe.infer.assessment import judge, unresolved
        from sdpipe.infer.integrals import integral

        there = self.predictions
        if target not in there:
            raise UserError(f"there is no prediction of {target}; those there: {', '.join(there) or 'none'}")
        data, budget = there[target].load(), self.config.budget
        validation = self.validation.load() if budget.calibration == "conformal" else None
        resolution = None if validation is None else unresolved(data, validation)
        result = integral(data.rho, f, budget.central, budget.references, data.get("truth"), between, resolution)
        return result.assign_attrs(flags=judge(data, validation)[1])

    def __repr__(self) -> str:
        from sdpipe.pipeline.overview import as_text

        return as_text(self.config, self.layout)

    def _repr_html_(self) -> str:
        from sdpipe.pipeline.overview import as_html

        return as_html(self.config, self.layout)


def open_run(path: str | Path) -> Run:
    """Open the run directory ``path``.

    Raises UserError where it is not one.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory")
    return Run(path)


def predict(
    run: Run | str | Path, samples: xr.Dataset | xr.DataArray | NDArray, scale: float | Literal["auto"] = "auto"
) -> xr.DataArray:
    """Return rho (sigma, ensemble, replica, boot, E) for a correlator of any normalisation.

    ``run`` is an open run or its directory; ``samples`` are bootstrap means (boot, t), or what
    :func:`sdpipe.read_correlator` returns at the time slices of the networks.

    With ``scale="auto"`` the samples are scaled together to the amplitude that makes their mean most likely under the
    prior, and the prediction is scaled back, which the linearity of the problem allows. Networks are not exactly
    linear: with the ``scale`` that ``predictions.zarr`` records for a target, its stored samples give the stored
    prediction.

    The result carries what ``predictions.zarr`` records of a target as attributes, ``scale``, ``distance``, ``chi2``,
    ``dof``, ``back_check`` and ``flags`` among them, and after ``validate`` ``p_value``. A flag, such as noise unlike
    that of the training (:mod:`sdpipe.infer.guard`), is also a warning. Where there are no more samples than times the
    noise is not known: it is not compared, and the back-check takes that of the training.

    Raises
    ------
    UserError
        When ``run`` is not a run directory, ``samples`` or ``scale`` is none of these, the time slices are not those
        of the networks, a value is not finite, or the mean at t_ref is zero.
    """
    from sdpipe.infer import guard, inference
    from sdpipe.infer.assessment import judge
    from sdpipe.pipeline.prediction import typical

    if scale != "auto" and not (isinstance(scale, Real) and np.isfinite(scale) and scale):
        raise UserError(f"scale: {scale!r} is not allowed; allowed: 'auto', or a finite number other than 0")
    run = run if isinstance(run, Run) else open_run(run)
    data, central = _data(run, samples), run.config.budget.central
    times, lattice = run.config.lattice.slices, inference.prior_of_data(run.networks, central).noise
    if not np.isfinite(data.values).all() or data.mean[lattice.reference] == 0:
        raise UserError(f"samples must be finite, and their mean at t = {times[lattice.reference]} other than zero")
    factor = inference.amplitude_rule(run.networks, central)(data.mean) if scale == "auto" else float(scale)
    rho = inference.predict(run.networks, data.values * factor, central) / np.float32(factor)
    flags, own = list(data.flags), lattice
    if data.covariance is not None:
        own = Noise(times, factor * data.mean, factor**2 * data.covariance, "samples")
        wrong = guard.compare(inference.of_ensemble(run.networks, central), data.mean, data.covariance)
        unsaved = " (FILE holds these samples)" if data.keys["path"] == "FILE" else ""
        flags += [f"{wrong}; {guard.remedy(str(run.layout.root), 'mine', data.keys)}{unsaved}"] if wrong else []
    facts = {"scale": factor, "scale_rule": "auto" if scale == "auto" else "given"}
    facts |= typical(run.config, run.networks, lattice, factor * data.mean, own, data.estimated_from, flags)
    p_value, facts["flags"] = judge(xr.Dataset({"rho": rho}, attrs=facts), _calibration(run))
    for flag in facts["flags"][len(data.flags) :]:
        warnings.warn(flag, stacklevel=2)
    rho.attrs = {"units": "1", "long_name": "smeared spectral density", **facts}
    return rho if p_value is None else rho.assign_attrs(p_value=p_value)


def _calibration(run: Run) -> xr.Dataset | None:
    """Return what ``validate`` wrote, None where it did not, or when nothing was sized by evidence yet."""
    if run.config.budget.calibration != "conformal" or not run.layout.validation.exists():
        return None
    return run.validation if "scale_rule" in run.validation.coords else None


@dataclass(frozen=True, eq=False)
class _Data:
    """Bootstrap means (boot, t) with what is known of them; ``keys`` would read them from their file."""

    values: NDArray[np.float64]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64] | None
    keys: dict[str, Any]
    flags: tuple[str, ...] = ()
    estimated_from: int | None = None


def _data(run: Run, samples: xr.Dataset | xr.DataArray | NDArray) -> _Data:
    """Return what was given to :func:`predict`; raise UserError where it cannot be used."""
    from sdpipe.correlators import labelled

    if not isinstance(samples, xr.Dataset):
        values = _values(run, samples)
        covariance = covariance_of_bootstrap(values) if len(values) > values.shape[1] else None
        attrs = getattr(samples, "attrs", {})
        keys = labelled.keys(attrs) if "sha256" in attrs else {"path": "FILE", "resampling": "bootstrap"}
        return _Data(values, values.mean(axis=0), covariance, keys)
    if not {"mean", "covariance"} <= samples.keys():
        raise UserError(
            f"samples: a Dataset of {', '.join(map(str, samples))}; allowed: what sdpipe.read_correlator returns, "
            "or an array (boot, t) such as run.predictions[TARGET].correlator"
        )
    c = labelled.unlabelled(samples)
    _check_times(run, c.times)
    values = c.bootstrap(run.config.bootstrap, run.config.seed, STREAM)
    return _Data(values, c.mean, c.covariance, labelled.keys(c.facts), tuple(c.flags), c.estimated_from)


def _values(run: Run, samples: xr.DataArray | NDArray) -> NDArray[np.float64]:
    """Return samples as an array (boot, t); raise UserError where they are not at the times of the networks."""
    if isinstance(samples, xr.DataArray):
        if set(samples.dims) != {"boot", "t"}:
            raise UserError(f"samples have dimensions {samples.dims}; needed (boot, t)")
        samples = samples.transpose("boot", "t")
        if "t" in samples.coords:
            _check_times(run, tuple(samples.t.values.tolist()))
    times, values = run.config.lattice.slices, np.asarray(samples)
    if values.dtype.kind not in "fiu":
        raise UserError(f"samples must be real numbers, not {values.dtype}")
    if values.ndim != 2 or values.shape[1] != len(times):
        raise UserError(f"samples of shape {values.shape}; needed (boot, {len(times)}), t = {times[0]}..{times[-1]}")
    return values.astype(float)


def _check_times(run: Run, times: tuple[int, ...]) -> None:
    needed, symmetric = run.config.lattice.slices, run.config.kernel != "exponential"
    if times != needed:
        how = f"times=({needed[0]}, {needed[-1]})" + (f", period={run.config.lattice.period}" if symmetric else "")
        raise UserError(
            f"samples are at t = {', '.join(map(str, times))}; the networks take {needed[0]}..{needed[-1]}: "
            f"sdpipe.read_correlator(..., {how})"
        )
