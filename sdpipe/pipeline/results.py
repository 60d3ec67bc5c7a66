"""What is made of predictions: budgets and figures, by workers for each target, and the report. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr
from markupsafe import Markup

from sdpipe.config.schema import Config
from sdpipe.disk import files, store
from sdpipe.disk.layout import Layout
from sdpipe.infer import trust
from sdpipe.pipeline.pieces import Piece, every_network, finish
from sdpipe.show import flags as wording
from sdpipe.show import plots, report, validation_figures
from sdpipe.show.picture import Picture, embedded, write
from sdpipe.workers.forks import forked
from sdpipe.workers.serial import cores

SHOWN_DIGITS = 16
"""Hexadecimal digits of a hash that the report shows."""


def draw_validation(layout: Layout, piece: Piece) -> None:
    """Draw the figures of ``validation.zarr``."""
    finish(layout, piece, _written(validation_figures.pictures(store.load(layout.validation)), layout))


def _written(pictures: Iterable[Picture], layout: Layout) -> list[Path]:
    """Write pictures, on all cores, and return their paths."""
    return forked(partial(write, directory=layout.figures), list(pictures), cores())


def analyze_target(config: Config, root: Path, piece: Piece) -> list[str]:
    """Write the error budget of one target and draw its figures; return what is doubtful that was not before."""
    layout, name, budget = Layout(root), piece.name, config.budget
    data = store.load(layout.predictions / name)
    validation = store.load(layout.validation) if budget.calibration == "conformal" else None
    judged = trust.assess(data, budget.central, budget.references, validation, budget.level)
    judged.attrs["flags"] = wording.worded(judged.attrs["flags"])
    written = store.write_dataset(layout.budget / name, judged, store.attributes(piece.made_from, config.seed))
    pictures = [] if config.many else plots.target_pictures(name, data, judged, validation, config)
    finish(layout, piece, [*written, *_written(pictures, layout)])
    return sorted(set(judged.attrs["flags"]) - set(data.attrs["flags"]))


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


def _short(sha256: str) -> str:
    return sha256 if sha256 == "missing" else f"sha256 {sha256[:SHOWN_DIGITS]}"


def _number(value: object) -> str:
    return f"{value:.5f}" if isinstance(value, float) else "-"


def _without_places(text: str, files: Iterable[Path]) -> str:
    """Return text with ``files`` as one would type them here, and those from elsewhere by their name alone.

    >>> _without_places("see /a/b/c.h5", [Path("/a/b/c.h5")])
    'see c.h5'
    """
    for place in (Path.cwd(), *(file.parent for file in files)):
        if place != Path(place.anchor):
            text = text.replace(f"{place}/", "")
    return text


def _for_others(config: Config, files: Sequence[Path]) -> Config:
    """Return a config to be shown, its data files as :func:`_without_places` names them."""

    def shown(section: Any) -> Any:
        path = getattr(section, "path", None)
        return section.model_copy(update={"path": Path(_without_places(str(path), files))}) if path else section

    targets = {name: shown(target) for name, target in config.targets.items()}
    return config.model_copy(update={"noise": shown(config.noise), "targets": targets})


def _flags_for_others(budget: xr.Dataset, files: Sequence[Path]) -> xr.Dataset:
    return budget.assign_attrs(flags=[_without_places(flag, files) for flag in budget.attrs["flags"]])


def write_report(
    config: Config, layout: Layout, pieces: Sequence[Piece], data: list[tuple[str, Path, str]], host: bool = False
) -> None:
    """Write the pages of the report; ``data`` are the data files: what for, where, and the hash of what was read.

    Whoever gets a page learns no absolute path, and only with ``host`` the names of machines.
    """
    shown = _report_data(config, layout, data, host)
    for piece in pieces:
        path = layout.pages / f"{piece.work}.html" if piece.work else layout.report
        files.write_text(path, report.render_target(shown, piece.work) if piece.work else report.render(shown))
        finish(layout, piece, [path])


def _report_data(config: Config, layout: Layout, data: list[tuple[str, Path, str]], host: bool) -> report.ReportData:
    """Return what the pages are made from."""
    elsewhere = [layout.root, *(path for _, path, _ in data)]
    sessions = [{k: v for k, v in session.items() if host or k != "host"} for session in layout.sessions()]
    names = list(config.targets)
    stores = [layout.training, layout.history, layout.validation]
    stores += [root / name for root in (layout.predictions, layout.budget) for name in names]
    keys = ("created", "config_hash", "seed", "sdpipe_version", "numpy_version")
    networks = []
    for network in every_network(config):
        if receipt := layout.receipts.read("train", network.stem):
            losses = [_number(receipt.facts.get(k)) for k in ("val_loss", "linear_loss")]
            hashes = ", ".join(sha256[:SHOWN_DIGITS] for sha256 in receipt.hashes.values())
            networks.append([network.stem, receipt.made_from, hashes, *losses])
    return report.ReportData(
        config=_for_others(config, elsewhere),
        root=layout.root,
        pictures=pictures_of_run(config, layout),
        budgets={name: _flags_for_others(store.load(layout.budget / name), elsewhere) for name in names},
        predictions={name: store.read(layout.predictions / name, dask=False) for name in names},
        history=store.load(layout.history) if layout.history.exists() else None,
        validation=store.load(layout.validation) if layout.validation.exists() else None,
        sessions=sessions,
        data=[(what, f"{_without_places(str(path), elsewhere)}, {_short(sha256)}") for what, path, sha256 in data],
        stores=[
            [layout.relative(path), *(str(store.read_attributes(path)[k]) for k in keys)]
            for path in stores
            if path.exists()
        ],
        networks=networks,
    )
