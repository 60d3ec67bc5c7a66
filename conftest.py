"""What tests and the examples in docstrings share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sdpipe.__main__  # noqa: F401 - one thread and little garbage collection; before NumPy, hence no plugin of Zarr

pytest_plugins = ["tests.fixtures"]

FIRST = ("tests/slurm/", "tests/pipeline/", "tests/faults/", "tests/correlators/")
"""Rooms whose files take longest: they go to processes first, so that none is at work alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the rooms that take longest."""
    items.sort(key=lambda item: next((i for i, room in enumerate(FIRST) if item.nodeid.startswith(room)), len(FIRST)))


@pytest.fixture(autouse=True)
def an_example_has_a_finished_run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, doctest_namespace: dict[str, Any]
) -> None:
    """Let examples know sdpipe, and those that open a run find one, small and finished, where users have theirs."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    doctest_namespace["sdpipe"] = __import__("sdpipe")
    if "runs/quickstart" in request.node.dtest.docstring:
        finished = request.getfixturevalue("finished")
        monkeypatch.chdir(finished.config.parent)
        quickstart = Path("runs/quickstart")
        if not quickstart.exists():
            quickstart.symlink_to(finished.root)
