"""Notebooks are stories without outputs; the build of the site executes all of them, and one is executed here."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient

import sdpipe
from tests.fixtures import HANGING

if TYPE_CHECKING:
    from tests.fixtures import Finished

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

WORDS = 2000
"""Of text: about ten minutes."""


def cells(path: Path, kind: str) -> list[str]:
    """Return the sources of all cells of one kind."""
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_stored_without_outputs_and_is_short(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert len(" ".join(cells(path, "markdown")).split()) < WORDS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_a_question_and_a_conclusion(path: Path) -> None:
    first, *_, last = cells(path, "markdown")
    assert re.search(r"^\*\*Question\.\*\* .*\?", first, re.MULTILINE | re.DOTALL)
    assert "## Conclusion" in last


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_needs_few_modules_of_sdpipe(path: Path) -> None:
    """What it shows is done by what people call: the public names, and at most two modules below them."""
    code = "\n".join(cells(path, "code"))
    imported = {node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
    assert len([module for module in imported if module.startswith("sdpipe.")]) <= 2


def test_every_notebook_is_a_page_of_the_site() -> None:
    text = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert {path.stem for path in NOTEBOOKS} == set(re.findall(r"^tutorials/([\w-]+)$", text, re.MULTILINE))


def test_a_notebook_shows_every_figure_of_a_run(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it knows of matplotlib or not, and whatever is drawn first."""
    monkeypatch.setenv("PYTHONPATH", str(Path(sdpipe.__file__).parents[1]))
    begin = f"import sdpipe\nrun = sdpipe.open_run({str(finished.root)!r})"
    drawn = [f"{begin}\nrun.plot.paper('o3')", "run.plot.reconstruction('o3');", "run.plot.budget('o3');"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in drawn])
    NotebookClient(notebook, timeout=HANGING, kernel_name="python3").execute()
    assert all("image/png" in cell.outputs[-1].data for cell in notebook.cells)


def test_the_error_budget_by_hand_is_that_of_a_run(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDPIPE_RUN", str(finished.root))
    monkeypatch.setenv("PYTHONPATH", str(Path(sdpipe.__file__).parents[1]))
    path = ROOT / "notebooks" / "error-budget.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=HANGING, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.output_type == "stream" and "Warning" in output.text]
    said = [output.data.get("text/plain", "") for output in outputs if "data" in output]
    assert sum("equal to the stored one" in words for words in said) >= 6
    assert sum("image/png" in output.data for output in outputs if "data" in output) == 4
