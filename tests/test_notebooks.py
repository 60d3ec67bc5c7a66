"""Notebooks are stored without outputs, and run on a finished run directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient

import sdpipe

if TYPE_CHECKING:
    from tests.fixtures import Finished

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))

WORDS = 2000
"""Of text: about ten minutes."""


PICTURES = {"quickstart": 5, "error-budget": 4, "cluster": 2, "your-correlator": 2}
"""Notebook -> the least number of pictures that it draws."""


def test_every_notebook_is_there() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_stored_without_outputs_and_is_short(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    text = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(text.split()) < WORDS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_on_a_finished_run(path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDPIPE_RUN", str(finished.root))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(sdpipe.__file__).parents[1])]))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    streams = [output.text for output in outputs if output.output_type == "stream"]
    assert not [text for text in streams if "Warning" in text]
    data = [output.data for output in outputs if "data" in output]
    assert any("12/12 networks" in d.get("text/plain", "") for d in data)
    assert sum("image/png" in d for d in data) >= PICTURES[path.stem]
