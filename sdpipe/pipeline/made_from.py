"""What everything in a run directory is made from, as hashes of the config and of the bytes of its data files."""

from __future__ import annotations

from functools import cached_property

from sdpipe.config.schema import HLTSection, digest, plain
from sdpipe.disk.layout import Layout
from sdpipe.errors import DamageError
from sdpipe.pipeline.ownership import FIXED_TRAINING
from sdpipe.problem.inputs import Inputs
from sdpipe.version import SCHEMA

VERSION = 3
"""Of how correlators are normalised, predicted and judged: another one makes predictions and validation anew."""


class MadeFrom:
    """The hashes of one config in its run directory."""

    def __init__(self, inputs: Inputs, layout: Layout) -> None:
        self.config, self._inputs, self._layout = inputs.config, inputs, layout

    @cached_property
    def _noise(self) -> dict[str, object]:
        return self._inputs.content(self.config.noise)

    @cached_property
    def training(self) -> str:
        """Everything that ``training.zarr`` depends on."""
        config = self.config
        parts = [plain(getattr(config, n)) for n in ("lattice", "smearing", "energies", "spectra")]
        del parts[0]["first"]  # it counts with the files that it is about
        noise = self._noise if config.copies else None
        features = config.training.corrects and config.training.inputs
        return digest(SCHEMA, config.seed, config.kernel, *parts, noise, features)

    @cached_property
    def networks(self) -> dict[str, str]:
        """Everything that the networks of each ensemble depend on."""
        training = {k: v for k, v in plain(self.config.training).items() if k in FIXED_TRAINING}
        if self.config.origin.served:
            training["sha256"] = self.config.origin.sha256
        return {
            name: digest(self.training, self._noise, plain(ensemble), training)
            for name, ensemble in self.config.ensembles.items()
        }

    @cached_property
    def shared(self) -> str:
        """Everything that the file of what all networks share depends on."""
        config = self.config
        central = config.ensembles.get(config.budget.central)
        trained = [central.Nb, central.Nrho] if central else []
        training = {k: v for k, v in plain(config.training).items() if k in FIXED_TRAINING}
        return digest(self.training, self._noise, trained, training, config.origin.sha256)

    @cached_property
    def audience(self) -> str:
        """Everything that the set of all networks depends on, and what these share."""
        return digest(self.networks, self.config.training.replicas, self.shared)

    @cached_property
    def predictions(self) -> dict[str, str]:
        """Everything that the predictions of each target depend on."""
        config, content = self.config, self._inputs.content
        intervals = [name for name in config.methods if name not in config.estimators]
        bounds = [config.budget.level, *intervals] if intervals else []
        return {
            name: digest(VERSION, self.audience, content(target), config.bootstrap, name, *self._methods, *bounds)
            for name, target in config.targets.items()
        }

    @cached_property
    def draws(self) -> str:
        """Everything that the predictions of the validation draws depend on."""
        budget = self.config.budget
        drawn = {k: v for k, v in plain(self.config.validation).items() if k != "levels"}
        return digest(VERSION, self.audience, drawn, budget.references, *self._methods)

    @property
    def _methods(self) -> tuple[object, ...]:
        config = self.config
        chosen = [plain(config.hlt)] if "hlt" in config.methods and config.hlt != HLTSection() else []
        return config.budget.central, config.estimators, *chosen

    @cached_property
    def validation(self) -> str:
        """Everything that ``validation.zarr`` depends on."""
        return digest(self.draws, self.config.validation.levels, self.config.budget.level)

    @cached_property
    def budgets(self) -> dict[str, str]:
        """Everything that the budget of each target depends on."""
        budget = self.config.budget
        calibration = self.validation if budget.calibration == "conformal" else None
        figures = ["on demand"] if self.config.many else []
        return {
            name: digest(prediction, plain(budget), calibration, *figures)
            for name, prediction in self.predictions.items()
        }

    @property
    def report(self) -> str:
        """What the report is about: the config, and what networks, history, validation and budgets are made of now."""
        trained = {piece: None for piece in self._layout.receipts.all() if piece[0] == "train"}
        shown = {**trained, ("validate", "validation"): self.validation}
        shown |= {("analyze", name): made_from for name, made_from in self.budgets.items()}
        return digest(plain(self.config), [self._hashes(*piece, made_from) for piece, made_from in shown.items()])

    def _hashes(self, stage: str, piece: str, made_from: str | None) -> dict[str, str] | None:
        """Return the hashes of the files of a piece, or None where it is not done."""
        receipts = self._layout.receipts
        try:
            receipt = receipts.read(stage, piece)
        except DamageError:
            return None
        if receipt is None or made_from not in (None, receipt.made_from) or any(receipts.check(receipt)):
            return None
        return receipt.hashes
