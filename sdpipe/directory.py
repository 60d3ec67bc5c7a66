"""A run directory as labelled objects: its stores, opened when they are first asked for and read lazily."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from sdpipe.config.schema import Config
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.pipeline import ownership, stages
from sdpipe.pipeline.state import State

if TYPE_CHECKING:
    from sdpipe.infer.predict import Predictor
    from sdpipe.learn.trained import Network
    from sdpipe.show.run_status import Table


class Groups(Mapping[str, xr.Dataset]):
    """Target -> its dataset, for the targets that are done.

    Each is held against its receipt, and opened, when it is asked for: a run may have hundreds.
    """

    def __init__(self, run: RunDirectory, stage: str, path: Path) -> None:
        self._run, self._stage, self._path = run, stage, path

    def __getitem__(self, name: str) -> xr.Dataset:
        if name not in self or not self._run._checked(self._stage, name):
            raise KeyError(name)
        return store.read(self._path / name)

    def __contains__(self, name: object) -> bool:
        targets, receipts = self._run.config.targets, self._run.layout.receipts
        return name in targets and receipts.path(self._stage, str(name)).exists()

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._run.config.targets if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"


class RunDirectory:
    """The stores of a run directory.

    What is damaged is not read: DamageError says which file, and the command that makes it anew. What was made from
    other inputs than the config and its data files have now is read with a warning that says the command.
    """

    def __init__(self, path: Path) -> None:
        self.layout = Layout(path)
        self.config: Config = ownership.own_config(self.layout)[0]

    @property
    def training(self) -> xr.Dataset:
        """correlator (Nb, sample, t), smeared (Nb, sample, sigma, E), threshold and component (Nb, sample)."""
        stages.require(self._state, "train")
        return store.read(self.layout.training)

    @property
    def history(self) -> xr.Dataset:
        """train_loss, val_loss (ensemble, sigma, replica, epoch), linear_loss, posterior_loss (ensemble, sigma)."""
        self._checked("train", "history")
        return store.read(self.layout.history)

    @property
    def predictions(self) -> Mapping[str, xr.Dataset]:
        """Target -> rho (sigma, ensemble, replica, boot, E), correlator (boot, t), truth where known."""
        return Groups(self, "predict", self.layout.predictions)

    @property
    def budget(self) -> Mapping[str, xr.Dataset]:
        """Target -> central, error, total, covariance, and truth and pull where known."""
        return Groups(self, "analyze", self.layout.budget)

    @property
    def validation(self) -> xr.Dataset:
        """Draws with known truth, the coverage of every error on them, and the factors that calibrate it."""
        self._checked("validate", "validation")
        return store.read(self.layout.validation)

    @cached_property
    def networks(self) -> list[Network]:
        """Every trained network of the config. Their files are enough: data files need not be there."""
        from sdpipe.pipeline.tasks import load_audience, load_networks

        return load_networks(self.config, self.layout, load_audience(self.layout))

    @cached_property
    def _predictor(self) -> Predictor:
        from sdpipe.pipeline.tasks import load_predictor

        return load_predictor(self.config, self.layout)

    @property
    def _state(self) -> State:
        """What is done now, from the data files as they are now."""
        return State(self.config, self.layout)

    def _checked(self, stage: str, name: str) -> bool:
        """Return whether the piece ``name`` is there; raise where it is damaged, warn where it is stale.

        Of all targets only one of that name is looked at, and its data file alone is read.
        """
        only = {target: section for target, section in self.config.targets.items() if target == name}
        state = State(self.config.model_copy(update={"targets": only or self.config.targets}), self.layout)
        (piece,) = (piece for piece in stages.STAGES[stage].pieces(state.identities) if piece.name == name)
        status = state.look(piece)
        if status.condition == "damaged":
            raise status.damage[0]
        if status.condition == "stale" and not state.inputs.unreadable:
            words = f"{stage}: {name} was made from other inputs than those of now"
            command = shlex.join(["sdpipe", "run", str(self.layout.root)])
            warnings.warn(f"{words}; run: {command}", stacklevel=3)  # the line that asked
        return status.receipt is not None

    def __repr__(self) -> str:
        from sdpipe.show.run_status import run_as_text

        return run_as_text(self.config, self.layout, *self._stages())

    def _repr_html_(self) -> str:
        from sdpipe.show.run_status import run_as_html

        return run_as_html(self.config, self.layout, *self._stages())

    def _stages(self) -> tuple[Table, str | None]:
        from sdpipe.show.run_status import stages_table

        survey = stages.survey(self._state)
        return stages_table(survey), stages.next_stage(survey)
