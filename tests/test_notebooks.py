"""Notebooks are stored without outputs, and run on a finished run directory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient

import sdpipe
from tests.fixtures import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fixtures import Finished, Outcome

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))

WORDS = 2000
"""Of text: about ten minutes."""


PICTURES = {
    "quickstart": 5,
    "error-budget": 4,
    "cluster": 2,
    "your-correlator": 2,
    "o3-montecarlo": 4,
    "three-lattices": 2,
    "matrices": 3,
}
"""Notebook -> the least number of pictures that it draws."""

SMALL = (
    "spectra.Nrho=1200",
    "ensembles={Nmax: {Nb: 64, Nrho: 1200, network: arcS}, Nref_b: {Nb: 16, Nrho: 1200, network: arcS}, "
    "Nref_rho: {Nb: 64, Nrho: 600, network: arcS}}",
    "budget.references={b: Nref_b, rho: Nref_rho}",
    "training={replicas: 2, inputs: posterior, epochs: 2}",
    "validation={samples: 120, bootstrap: 4, levels: [0.683, 0.954], families: {o3: {kind: o3}}}",
    "energies.count=17",
    "bootstrap=50",
)
"""What makes configs/o3-montecarlo.yaml a matter of seconds."""


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory, shell: Callable[..., Outcome]) -> Path:
    """A finished run of configs/o3-montecarlo.yaml, smaller."""
    root = tmp_path_factory.mktemp("simulated") / "run"
    outcome = shell("-m", "sdpipe", "run", "configs/o3-montecarlo.yaml", *SMALL, "--run", root, cwd=REPOSITORY)
    assert outcome.status == 0, outcome.err
    return root


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
def test_a_notebook_runs_on_a_finished_run(
    path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.stem == "o3-montecarlo":
        root: Path = request.getfixturevalue("simulated")
    else:
        finished: Finished = request.getfixturevalue("finished")
        root = finished.root
    monkeypatch.setenv("SDPIPE_RUN", str(root))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(sdpipe.__file__).parents[1])]))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    streams = [output.text for output in outputs if output.output_type == "stream"]
    assert not [text for text in streams if "Warning" in text]
    data = [output.data for output in outputs if "data" in output]
    if path.stem == "three-lattices":
        shares = [float(x) for x in re.findall(r"0\.\d+|1\.", streams[-1])]
        assert len(shares) == 2
        assert min(shares) >= 0.6, "the exact density is inside the error of the limit at fewer energies"
    if path.stem not in ("three-lattices", "matrices"):  # they make their own runs
        assert any("12/12 networks" in d.get("text/plain", "") for d in data)
    assert sum("image/png" in d for d in data) >= PICTURES[path.stem]
