"""The house stands: imports go down only, Dask lives in one place, the training core needs PyTorch and NumPy only."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import sdpipe

PACKAGE = Path(sdpipe.__file__).parent

FLOORS = [
    {"errors", "rng", "sections", "console"},
    {"config", "files", "kernels", "networks", "noise", "records", "resampling", "folding"},
    {"lock", "quadrature", "containers", "stacks", "transforms", "feeds", "checked", "typicality"},
    {"spectra", "store", "training", "memory", "readers", "calibration"},
    {"crosschecks"},
    {"configfile", "samples", "families", "correlators", "checkpoint", "budget", "figures", "tables"},
    {"layout", "problem", "guard", "labelled", "inference", "integrals", "history", "dataset", "cluster"},
    {"page", "mocks", "assessment", "coverage", "validation_figures", "asymptotics"},
    {"blocks", "glossary", "provenance", "slurm"},
    {"generation", "audience", "pending", "report", "workers", "verify"},
    {"validation", "prediction"},
    {"status"},
    {"plan", "plots", "stages"},
    {"overview", "session"},
    {"run"},
    {"cli"},
    {"__main__"},
]
"""From the ground up; a module imports from lower floors only."""


def modules() -> list[str]:
    """Return the names of all modules but the package itself."""
    return sorted(p.stem for p in PACKAGE.glob("*.py") if p.stem != "__init__")


def imports(module: str) -> set[str]:
    """Return every absolute module that ``module`` imports, inside functions too, but not for type checks only."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{a.name}" for a in node.names} if node.module == "sdpipe" else {node.module}
    return found


def own(module: str) -> set[str]:
    """Return the sdpipe modules that ``module`` imports."""
    return {n.split(".")[1] for n in imports(module) if n.startswith("sdpipe.")} & set(modules())


def test_every_module_has_a_floor() -> None:
    assert sorted(name for floor in FLOORS for name in floor) == modules()


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module: str) -> None:
    level = next(i for i, floor in enumerate(FLOORS) if module in floor)
    below = set().union(*FLOORS[:level])
    assert own(module) <= below


def test_dask_is_imported_where_pools_are_made_only() -> None:
    users = {
        m for m in modules() if any(n.split(".")[0] in ("dask", "distributed", "dask_jobqueue") for n in imports(m))
    }
    assert users == {"cluster", "slurm"}


def test_the_training_core_needs_pytorch_and_numpy_only() -> None:
    core, todo = set(), {"training"}
    while todo:
        module = todo.pop()
        core.add(module)
        todo |= own(module) - core
    outside = {n.split(".")[0] for m in core for n in imports(m)} - {"sdpipe"} - set(sys.stdlib_module_names)
    assert outside == {"torch", "numpy"}


@pytest.mark.parametrize("module", modules())
def test_files_stay_short(module: str) -> None:
    assert len((PACKAGE / f"{module}.py").read_text().splitlines()) <= 300
