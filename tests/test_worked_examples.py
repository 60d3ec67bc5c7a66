"""Code that pages show, as typed, against what they say comes out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixtures import REPOSITORY


def code(page: str) -> str:
    """Return all Python code that a page shows, as one text."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def test_the_conductivity_has_the_factors_that_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code("kernels.md"), names)
    central, error = (float(names["conductivity"][name]) for name in ("central", "calibrated"))
    assert error < 0.01
    assert abs(central - 0.3259) < 3 * error
    assert not names["budget"].attrs["flags"]
