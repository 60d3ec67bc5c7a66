"""Open a run directory from Python: lazy labelled objects, and predictions for new correlators."""

from __future__ import annotations

from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdpipe import pending, store
from sdpipe.config import Config
from sdpipe.configfile import load_config
from sdpipe.errors import UserError
from sdpipe.layout import Layout

if TYPE_CHECKING:
    from sdpipe.checkpoint import Network


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

    @cached_property
    def networks(self) -> list[Network]:
        """Every trained network of the config. Their files are enough: data files need not be there."""
        from sdpipe import checkpoint

        c, sigmas = self.config, range(len(self.config.smearing.sigma))
        every = product(c.ensembles, sigmas, range(c.training.replicas))
        return [checkpoint.load(self.layout.network(*which)) for which in every]

    def _groups(self, path: Path) -> dict[str, xr.Dataset]:
        return {name: store.read(path / name) for name in self.config.targets if (path / name).exists()}

    def __repr__(self) -> str:
        from sdpipe.status import status_rows
        from sdpipe.tables import table

        return f"sdpipe run {self.config.name!r} in {self.layout.root}\n" + table(
            *status_rows(self.config, self.layout)
        )


def open_run(path: str | Path) -> Run:
    """Open the run directory ``path``.

    Raises UserError where it is not one.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory")
    return Run(path)


def predict(run: Run, samples: xr.DataArray | NDArray, scale: float | Literal["auto"] = "auto") -> xr.DataArray:
    """Return rho (sigma, ensemble, replica, boot, E) for correlators ``samples`` (boot, t) of any normalisation.

    With ``scale="auto"`` the samples are scaled together so that their mean |C(t_ref)| is typical of the training
    set, and the prediction is scaled back, which the linearity of the problem allows. Networks are not exactly
    linear: with the ``scale`` that ``predictions.zarr`` records for a target, its stored samples give the stored
    prediction. The result carries ``scale`` as an attribute.

    Raises
    ------
    UserError
        When the time slices are not those of the networks, a value is not finite, or the mean at t_ref is zero.
    """
    from sdpipe import inference

    times = list(run.config.lattice.slices)
    if isinstance(samples, xr.DataArray):
        if set(samples.dims) != {"boot", "t"}:
            raise UserError(f"samples have dimensions {samples.dims}; needed (boot, t)")
        samples = samples.transpose("boot", "t")
        if "t" in samples.coords and list(samples.t.values) != times:
            raise UserError(
                f"samples are at t = {samples.t.values.tolist()}; the networks take {times[0]}..{times[-1]}"
            )
    values = np.asarray(samples, float)
    if values.ndim != 2 or values.shape[1] != len(times):
        raise UserError(f"samples of shape {values.shape}; needed (boot, {len(times)}), t = {times[0]}..{times[-1]}")
    central = next(n for n in run.networks if n.ensemble == run.config.budget.central)
    reference = times.index(1) if 1 in times else 0
    size = abs(values.mean(axis=0)[reference])
    if not np.isfinite(values).all() or size == 0:
        raise UserError(f"samples must be finite, and their mean at t = {times[reference]} other than zero")
    factor = central.typical / size if scale == "auto" else float(scale)
    rho = inference.predict(run.networks, values * factor) / np.float32(factor)
    return rho.assign_attrs(units="1", long_name="smeared spectral density", scale=factor)
