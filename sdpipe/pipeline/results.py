"""What the driver makes of predictions: budgets, figures, the report. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from sdpipe.config.schema import Config
from sdpipe.disk import files, store
from sdpipe.disk.layout import Layout
from sdpipe.infer import trust
from sdpipe.pipeline.pieces import Piece, every_network, finish
from sdpipe.show import flags as wording
from sdpipe.show import plots, report, validation_figures
from sdpipe.show.picture import embedded, write

SHOWN = 16
"""Hexadecimal digits of a hash that the report shows."""


def draw_validation(layout: Layout, piece: Piece) -> None:
    """Draw the figures of ``validation.zarr``."""
    pictures = validation_figures.pictures(store.load(layout.validation))
    finish(layout, piece, [write(picture, layout.figures) for picture in pictures])


def analyze_target(config: Config, layout: Layout, piece: Piece) -> list[str]:
    """Write the error budget of one target and draw its figures; return what is doubtful that was not before."""
    name, budget = piece.name, config.budget
    data = store.load(layout.predictions / name)
    validation = store.load(layout.validation) if budget.calibration == "conformal" else None
    made = trust.assess(data, budget.central, budget.references, validation, budget.level)
    made.attrs["flags"] = wording.worded(made.attrs["flags"])
    written = store.write_dataset(layout.budget / name, made, store.attributes(piece.made_from, config.seed))
    pictures = plots.target_pictures(name, data, made, validation, config)
    finish(layout, piece, [*written, *(write(picture, layout.figures) for picture in pictures)])
    return sorted(set(made.attrs["flags"]) - set(data.attrs["flags"]))


def pictures_of_run(config: Config, layout: Layout) -> dict[str, Markup]:
    """Return the pictures that the receipts of a run list, by name, as parts of a page.

    Those alone: what an earlier config drew may lie beside them. Raises DamageError where one is not what was drawn.
    """
    pieces = [("train", "history"), ("validate", "@figures"), *(("analyze", name) for name in config.targets)]
    for error in layout.receipts.damage(pieces):
        raise error
    receipts = [receipt for piece in pieces if (receipt := layout.receipts.read(*piece))]
    drawn = [layout.root / name for receipt in receipts for name in receipt.files if name.endswith(".svg")]
    return {path.stem: embedded(path.read_text(encoding="utf-8")) for path in drawn}


def _number(value: object) -> str:
    return f"{value:.5f}" if isinstance(value, float) else "-"


def write_report(config: Config, layout: Layout, piece: Piece, data: list[tuple[str, Path, str]]) -> None:
    """Write ``report.html``; ``data`` are the data files: what for, where, and the hash of what was read."""
    names = list(config.targets)
    stores = [layout.training, layout.history, layout.validation]
    stores += [root / name for root in (layout.predictions, layout.budget) for name in names]
    keys = ("created", "config_hash", "seed", "sdpipe_version", "numpy_version")
    networks = []
    for network in every_network(config):
        if receipt := layout.receipts.read("train", network.stem):
            losses = [_number(receipt.facts.get(k)) for k in ("val_loss", "linear_loss")]
            hashes = ", ".join(sha256[:SHOWN] for sha256 in receipt.hashes.values())
            networks.append([network.stem, receipt.made_from, hashes, *losses])
    page = report.render(
        report.ReportData(
            config=config,
            root=layout.root,
            pictures=pictures_of_run(config, layout),
            budgets={name: store.load(layout.budget / name) for name in names},
            predictions={name: store.read(layout.predictions / name) for name in names},
            history=store.load(layout.history) if layout.history.exists() else None,
            validation=store.load(layout.validation) if layout.validation.exists() else None,
            sessions=layout.sessions(),
            data=[
                (what, f"{path}, {sha256 if sha256 == 'missing' else 'sha256 ' + sha256[:SHOWN]}")
                for what, path, sha256 in data
            ],
            stores=[
                [layout.relative(path), *(str(store.read_attributes(path)[k]) for k in keys)]
                for path in stores
                if path.exists()
            ],
            networks=networks,
        )
    )
    files.write_text(layout.report, page)
    finish(layout, piece, [layout.report])
