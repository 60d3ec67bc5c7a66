"""The house stands: thirteen rooms, imports go down only, Dask in one room, a training core of PyTorch and NumPy."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import sdpipe

PACKAGE = Path(sdpipe.__file__).parent

ROOMS = (
    ("top", "what people call: the command line, open_run, predict"),
    ("pipeline", "the stages, what they are made of, what is done"),
    ("show", "figures, tables, the report, the console"),
    ("workers", "pools of workers, local and on Slurm: the only room that imports Dask"),
    ("analysis", "from densities to physical numbers: limits, levels, what several runs say together"),
    ("infer", "prediction, budget, calibration, coverage, trust, integrals"),
    ("problem", "what a config stands for: data files read once, the objects of the physics, a config for a file"),
    ("config", "the YAML file"),
    ("estimators", "every way from C(t) to rho"),
    ("learn", "networks and their training"),
    ("disk", "stores, receipts, layout, lock"),
    ("correlators", "file formats, statistics, folding"),
    ("physics", "kernels, quadrature, spectral densities, noise"),
)
"""From the top down; a room imports from itself and from rooms below. ``arrays``, ``errors``, ``version``: for all."""

NAMES = [name for name, _ in ROOMS]


@cache
def modules() -> dict[str, tuple[str, Path]]:
    """Return module -> (its room, its file)."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] != "__init__":
            found[".".join(parts)] = (parts[0] if len(parts) > 1 else "top", path)
    return found


@cache
def imports(path: Path) -> set[str]:
    """Return every absolute module that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def own(path: Path) -> set[str]:
    """Return the modules of sdpipe that a file imports."""
    parts = [name.split(".")[1:] for name in imports(path) if name.startswith("sdpipe.")]
    return {m for p in parts for m in (".".join(p[:n]) for n in (1, 2)) if m in modules()}


def test_the_rooms_are_those_of_the_table() -> None:
    there = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert there == set(NAMES[1:])


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module: str) -> None:
    room, path = modules()[module]
    allowed = NAMES[NAMES.index(room) :]
    for other in own(path) - {"arrays", "errors", "version"}:
        assert modules()[other][0] in allowed, f"{module} in {room} imports {other}"


def test_no_circle() -> None:
    left = {module: own(path) for module, (_, path) in modules().items()}
    while ground := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in ground}
    assert left == {}


def test_dask_is_imported_in_one_room_only() -> None:
    def uses_dask(path: Path) -> bool:
        return any(n.split(".")[0] in ("dask", "distributed", "dask_jobqueue") for n in imports(path))

    assert {room for room, path in modules().values() if uses_dask(path)} == {"workers"}


def test_the_training_core_needs_pytorch_and_numpy_only() -> None:
    core, todo = set(), {"learn.training"}
    while todo:
        module = todo.pop()
        core.add(module)
        todo |= own(modules()[module][1]) - core
    outside = {n.split(".")[0] for m in core for n in imports(modules()[m][1])}
    assert outside - {"sdpipe"} - set(sys.stdlib_module_names) == {"torch", "numpy"}


def test_physics_knows_no_config_no_disk_and_no_dask() -> None:
    outside = {n.split(".")[0] for room, path in modules().values() if room == "physics" for n in imports(path)}
    assert outside - {"sdpipe"} - set(sys.stdlib_module_names) <= {"numpy", "scipy"}


def test_the_public_face_is_the_public_names() -> None:
    assert dir(sdpipe) == sorted(sdpipe.__all__)
    assert (PACKAGE / "py.typed").exists()
    for name in sdpipe.__all__:
        value = getattr(sdpipe, name)
        assert isinstance(value, str) or ">>>" in value.__doc__, f"{name} has no example"


def test_the_table_of_rooms_in_the_documents_is_that_of_the_house() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[: len(NAMES) + 1] == ["room", *NAMES]


def names() -> list[str]:
    """Return the name of every module, class and type alias."""
    found = [module.split(".")[-1] for module in modules()]
    for _, path in modules().values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        found += [ast.unparse(target) for target in targets if re.fullmatch(r"[A-Z]\w*[a-z]\w*", ast.unparse(target))]
    return found


def test_no_two_modules_classes_or_types_have_one_name() -> None:
    assert [name for name, count in Counter(names()).items() if count > 1] == []


ABOVE_SEVEN = {"density", "read_correlator"}
"""Functions of more than seven parameters: keywords with defaults, what a figure has, and the keys of a section."""


def functions() -> list[tuple[str, int, int]]:
    """Return name, lines without the docstring, and parameters but for ``self`` and ``cls``, of every function."""
    found = []
    for _, path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1 - len((ast.get_docstring(node) or "").splitlines())
                arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                found.append((node.name, lines, len(set(arguments) - {"self", "cls"})))
    return found


def test_functions_are_short_and_take_few_parameters() -> None:
    assert [name for name, lines, _ in functions() if lines > 60] == []
    assert {name for name, _, parameters in functions() if parameters > 7} == ABOVE_SEVEN
