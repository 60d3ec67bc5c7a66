"""Which config a run directory belongs to: what may change in it, and what makes it another run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdpipe.config.load import KeyPlaces, load_config, read_config
from sdpipe.config.schema import Config, plain, to_yaml
from sdpipe.disk.files import STATE, read, write_text
from sdpipe.disk.layout import CLAIM, Layout
from sdpipe.disk.receipts import Receipt, sha256
from sdpipe.errors import DamageError, UserError, another_schema
from sdpipe.version import SCHEMA, __version__

FIXED = ("seed", "lattice", "kernel", "smearing", "energies", "spectra", "noise")
"""Sections that a run directory keeps for life: its samples and networks are made from them."""

FIXED_TRAINING = ("audience", "protocol", "inputs", "head", "epochs", "batch")
"""Keys of ``training`` that it keeps for life, too."""


def own_config(layout: Layout, overrides: Iterable[str] = ()) -> tuple[Config, KeyPlaces]:
    """Return the config in a run directory, and where its keys come from; raises UserError as ``read_config`` does.

    Where ``config.yaml`` is not what was claimed, the last line says where that is, and what puts it back. Raises
    UserError, too, where another version made the directory.
    """
    layout.refuse_without_config()
    _check_schema(layout, _claimed(layout))  # before keys that only another version knows
    try:
        return read_config(layout.root, overrides)
    except UserError as error:
        *others, last = error.faults
        raise UserError(*others, last + _put_back(layout)) from None


def _put_back(layout: Layout) -> str:
    """Say what puts ``config.yaml`` back where it is not what was claimed; else nothing."""
    if not _differs(layout):
        return ""
    return f"; {layout.config} was changed; its copy is {layout.config_copy}; to put that back, run: {layout.go_on}"


def _differs(layout: Layout) -> bool:
    """Return whether there is a whole copy of the config that was claimed, and ``config.yaml`` is not the same."""
    receipt, copy = _claimed(layout), layout.config_copy
    return receipt is not None and _owner(layout, receipt) == copy and _read(copy) != _read(layout.config)


def edited(layout: Layout) -> list[str]:
    """Return every key of a valid ``config.yaml`` that is not what was claimed, in words."""
    if not _differs(layout):
        return []
    try:
        old, new = (plain(load_config(file)) for file in (layout.config_copy, layout.root))
    except UserError:
        return []
    return [words for key in new for words in _differences(old[key], new[key], key)]


def claim(layout: Layout, config: Config) -> list[str]:
    """Make the run directory, or check that it was made from this config, and save the resolved config.

    Targets, bootstrap, budget, cluster and the number of replicas may change, and ensembles may be added:
    what depends on them is made anew. Raises UserError where anything else differs. Returns what :func:`edited` does.
    """
    check_owner(layout, config)
    text, keys = to_yaml(config), edited(layout)
    for file in (layout.config_copy, layout.config):
        if _read(file) != text:
            write_text(file, text)
    receipt = _claimed(layout)
    if receipt is None or receipt.hashes != {layout.relative(layout.config_copy): sha256(layout.config_copy)}:
        layout.receipts.write(*CLAIM, "", [layout.config_copy], schema=SCHEMA, sdpipe_version=__version__)
    return keys


def owns(layout: Layout, config: Config) -> bool:
    """Return whether the directory was made, or last continued, with exactly this config."""
    return _read(layout.config) == to_yaml(config)


def check_owner(layout: Layout, config: Config) -> None:
    """Raise UserError, naming every key that differs, where the directory belongs to another config.

    So does one of another schema, which this version can neither read nor may replace.
    """
    receipt = _claimed(layout)
    _check_schema(layout, receipt)
    owner = _owner(layout, receipt)
    if not owner.exists():
        root = layout.root
        if root.exists() and (not root.is_dir() or {p.name for p in root.iterdir()} - {STATE}):
            raise UserError(f"{root}: not empty and not a run directory; choose another with --run")
        return
    if _read(owner) == to_yaml(config):
        return
    if changed := _changed(plain(load_config(owner)), plain(config)):
        words = f"made from another config: {'; '.join(changed)}"
        remedy = f"give this one another name (name=OTHER), or --run DIR{_put_back(layout)}"
        raise UserError(f"{layout.root}: {words}; {remedy}")


def _read(file: Path) -> str:
    """Return the text of a file, none where it cannot be read."""
    try:
        return read(file).decode(errors="replace")
    except OSError:
        return ""


def _claimed(layout: Layout) -> Receipt | None:
    try:
        return layout.receipts.read(*CLAIM)
    except DamageError:
        return None


def _owner(layout: Layout, receipt: Receipt | None) -> Path:
    """Return the config that the directory belongs to: its copy, or where that is damaged, the one that people edit."""
    copy = layout.config_copy
    if not copy.exists():
        return layout.config
    try:
        whole = receipt is None or receipt.hashes.get(layout.relative(copy)) == sha256(copy)
    except DamageError:
        whole = False
    return copy if whole else layout.config


def _check_schema(layout: Layout, receipt: Receipt | None) -> None:
    """Raise UserError where another version made this directory: by its claim or, without one, by its stores."""
    if receipt is not None:
        claims = [(layout.root, receipt.facts)]
    else:
        stores = (layout.training, layout.history, layout.validation)
        claims = [(path, _attributes(path)) for path in stores if path.exists()]
    for path, facts in claims:
        if isinstance(facts.get("schema"), int) and facts["schema"] != SCHEMA:
            raise another_schema(path, facts)


def _attributes(store: Path) -> dict[str, Any]:
    """Return the attributes of a store, none where they cannot be read."""
    try:
        return dict(json.loads(read(store / "zarr.json"))["attributes"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return every key that a run directory keeps for life and that differs, in words."""
    for one in (old, new):
        del one["lattice"]["first"]  # of data files, a new target's too; it counts in the hashes of these
    changed = [key for name in FIXED for key in _differences(old[name], new[name], name)]
    for key in FIXED_TRAINING:
        changed += _differences(old["training"][key], new["training"][key], f"training.{key}")
    for name in (name for name in old["ensembles"] if name in new["ensembles"]):
        changed += _differences(old["ensembles"][name], new["ensembles"][name], f"ensembles.{name}")
    return changed


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [n for n in {**old, **new} if n != "path"]
        return [d for n in names for d in _differences(old.get(n), new.get(n), f"{key}.{n}")]
    return [] if old == new else [f"{key} was {old}, is {new}"]
