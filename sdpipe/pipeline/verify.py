"""Find damage in a run directory, and see to it that the next run makes what is damaged anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from sdpipe.config.schema import Config
from sdpipe.disk import checked, store
from sdpipe.disk.files import STATE, delete, read_sealed, remove
from sdpipe.disk.layout import Layout
from sdpipe.errors import DamageError
from sdpipe.pipeline.pieces import Block, ValidationBlock, training_blocks, validation_blocks


def damage(layout: Layout) -> Iterator[DamageError]:
    """Yield every file that is lost or damaged: chunks and metadata of stores, and checkpoints.

    Bytes are compared with their checksums and not decoded. Work that is not done is not damage.
    """
    for path in layout.stores():
        yield from checked.damage(path)
    for root in (layout.predictions, layout.budget):
        if root.exists():
            try:
                store.check_root(root)
            except DamageError as error:
                yield error
    yield from checkpoints(layout)


def checkpoints(layout: Layout) -> Iterator[DamageError]:
    """Yield every damaged checkpoint, of networks and of unfinished trainings, and networks that no marker knows."""
    markers, pattern = layout.markers("train", ""), "*-sigma*-replica*"
    marked = {p.stem for p in markers.directory.glob(f"{pattern}.json")}
    for name in sorted(marked | {p.stem for p in layout.networks.glob(f"{pattern}.pt")}):
        path, noted = layout.networks / f"{name}.pt", markers.noted(name) or {}
        if not path.exists():
            yield DamageError(path, "lost")
        elif name not in marked:
            yield DamageError(path, "not known to be whole; to be made anew")
        else:
            yield from _unless_whole(path, noted.get("sha256"))
    for path in sorted(layout.state("train").glob("*.pt")):
        try:
            read_sealed(path)
        except DamageError as error:
            yield error
        except OSError as error:
            yield DamageError(path, f"cannot be read ({error.strerror})")


def _unless_whole(checkpoint: Path, sha256: str | None) -> Iterator[DamageError]:
    try:
        if hashlib.sha256(checkpoint.read_bytes()).hexdigest() != sha256:
            yield DamageError(checkpoint, "damaged (its SHA-256 is not the recorded one)")
    except OSError as error:
        yield DamageError(checkpoint, f"cannot be read ({error.strerror})")


def unfinished(config: Config, layout: Layout, file: Path) -> bool:
    """Return whether ``file`` is a chunk of a block that is still to be written, or a network that is not wanted."""
    if file.parent == layout.networks:
        unknown = layout.markers("train", "").noted(file.stem) is None
        sigmas, replicas = range(len(config.smearing.sigma)), range(config.training.replicas)
        wanted = (layout.network(*which) for which in product(config.ensembles, sigmas, replicas))
        return unknown and file not in wanted
    stage = "validate" if file.is_relative_to(layout.draws) else "generate"
    block = _block(config, layout, file)
    return block is not None and layout.markers(stage, "").noted(block) is None


def _block(config: Config, layout: Layout, file: Path) -> str | None:
    """Return the block of ``training.zarr``, or of the predicted draws, that a chunk belongs to."""
    blocks: list[Block] | list[ValidationBlock]
    if file.is_relative_to(layout.training):
        inside, blocks = file.relative_to(layout.training).parts, training_blocks(config)
    elif file.is_relative_to(layout.draws):
        inside, blocks = file.relative_to(layout.draws).parts, validation_blocks(config)
    else:
        return None
    if len(inside) < 4:  # NAME/c/ROW/COLUMN: blocks have two dimensions or more
        return None
    row, column = int(inside[2]), int(inside[3])
    names = [b.name for b in blocks if b.row == row]
    return names[column] if column < len(names) else None


def forget(config: Config, layout: Layout, file: Path) -> None:
    """Take the done-marker from what ``file`` belongs to, and from nothing else: the next run makes it anew.

    An unfinished training has none; it is removed and begins anew. So are the predicted draws of ``validate`` where
    their metadata or coordinates are damaged.
    """
    top, *inside = file.relative_to(layout.root).parts
    if file.is_dir():  # in place of a chunk: what is written next needs its name
        delete(file)
    if file.is_relative_to(layout.draws):
        if block := _block(config, layout, file):
            layout.markers("validate", "").forget(block)
        else:
            remove(layout.draws)
        return
    if top == STATE:
        file.unlink(missing_ok=True)
        return
    stage = {
        layout.training.name: "generate",
        layout.networks.name: "train",
        layout.history.name: "train",
        layout.predictions.name: "predict",
        layout.budget.name: "analyze",
        layout.validation.name: "validate",
    }[top]
    if top == layout.training.name:
        block = _block(config, layout, file) or "template"
    elif top in (layout.history.name, layout.validation.name):
        block = Path(top).stem
    elif top != layout.networks.name and len(inside) == 1:  # the file of a store of groups, which has no marker
        return
    else:
        block = Path(inside[0]).stem if top == layout.networks.name else inside[0]
    layout.markers(stage, "").forget(block)
