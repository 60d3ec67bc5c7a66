"""What the driver makes of predictions: budgets, figures, the report. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

from sdpipe.config.schema import Config
from sdpipe.disk import files, store
from sdpipe.disk.layout import Layout
from sdpipe.infer import trust
from sdpipe.infer.compare import compare
from sdpipe.pipeline.pieces import Piece, every_network, finish
from sdpipe.show import correlator_figure, figures, report, side_by_side, validation_figures

SHOWN = 16
"""Hexadecimal digits of a hash that the report shows."""


def draw_validation(layout: Layout, piece: Piece) -> None:
    """Draw the figures of ``validation.zarr``."""
    finish(layout, piece, validation_figures.draw_all(layout.figures, store.load(layout.validation)))


def analyze_target(config: Config, layout: Layout, piece: Piece) -> list[str]:
    """Write the error budget of one target and draw its figures; return what is doubtful that was not before."""
    name, budget = piece.name, config.budget
    data = store.load(layout.predictions / name)
    validation = store.load(layout.validation) if budget.calibration == "conformal" else None
    made = trust.assess(data, budget.central, budget.references, validation, budget.level)
    written = store.write_dataset(layout.budget / name, made, store.attributes(piece.made_from, config.seed))
    drawn = figures.draw_target(layout.figures, name, data.rho, made, config)
    title = figures.title_of(name, made.attrs["flags"])
    if "implied" in data:
        figure = correlator_figure.draw(data, config.observables.kernel, title)
        drawn.append(figures.save(figure, layout.figures / f"{name}-correlator.png"))
    if "method" in made:
        drawn.append(side_by_side.draw(layout.figures, name, compare(made, validation), title))
    finish(layout, piece, [*written, *drawn])
    return sorted(set(made.attrs["flags"]) - set(data.attrs["flags"]))


def write_report(config: Config, layout: Layout, piece: Piece, data: list[tuple[str, Path, str]]) -> None:
    """Write ``report.html``; ``data`` are the data files: what for, where, and the hash of what was read."""
    names = list(config.targets)
    stores = [layout.training, layout.history, layout.validation]
    stores += [root / name for root in (layout.predictions, layout.budget) for name in names]
    keys = ("created", "config_hash", "seed", "sdpipe_version", "numpy_version")
    networks = []
    for network in every_network(config):
        if receipt := layout.receipts.read("train", network.stem):
            losses = [f"{receipt.facts[k]:.5f}" for k in ("val_loss", "linear_loss")]
            (sha256,) = receipt.hashes.values()
            networks.append([network.stem, receipt.made_from, sha256[:SHOWN], *losses])
    page = report.render(
        report.Source(
            config=config,
            root=layout.root,
            budgets={name: store.load(layout.budget / name) for name in names},
            predictions={name: store.read(layout.predictions / name) for name in names},
            history=store.load(layout.history),
            validation=store.load(layout.validation) if layout.validation.exists() else None,
            sittings=layout.sittings(),
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
