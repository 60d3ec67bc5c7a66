"""More targets than a page can hold: an index, a page for each, and figures where somebody asks for them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sdpipe
from sdpipe.config.schema import MANY
from sdpipe.errors import UserError

if TYPE_CHECKING:
    from tests.fixtures import Cli, Outcome

KEYS = [
    "training={audience: none}",
    "ensembles={}",
    "budget={central: linear, calibration: none}",
    "methods=[linear]",
    "smearing.sigma=[0.5]",
    "bootstrap=4",
]


def targets(count: int) -> str:
    return "targets=" + json.dumps({f"p{i:02}": {"kind": "o3", "threshold": 0.5 + i / 100} for i in range(count)})


def pages(root: Path) -> set[str]:
    return {path.name for path in (root / "report").glob("*.html")}


def test_many_targets_have_an_index_and_a_page_each(
    cli: Cli, shell: Callable[..., Outcome], tiny_config: Path, tmp_path: Path
) -> None:
    root, count = tmp_path / "run", MANY + 2
    assert cli("run", tiny_config, *KEYS, targets(count), "--run", root).status == 0
    assert not list((root / "figures").glob("p*"))
    index = (root / "report.html").read_text()
    links = re.findall(r'href="report/([^"]+)"', index)
    assert set(links) == pages(root)
    assert len(links) == count
    assert "Error budget of p01" not in index
    page = (root / "report" / "p01.html").read_text()
    assert "Error budget of p01" in page
    assert 'href="../report.html"' in page
    assert f"{count + 1}/{count + 1}" in cli("status", root).out

    command = shlex.split(unescape(re.search(r"<pre>(python -c .*?)</pre>", page).group(1)))
    drawn = shell(*command[1:], cwd=tmp_path)
    assert drawn.status == 0, drawn.err
    assert {path.name for path in (tmp_path / "p01-figures").iterdir()} >= {"p01-reconstruction-sigma0.png"}
    with pytest.raises(UserError, match="no budget of p99"):
        sdpipe.open_run(root).plot.save(tmp_path / "none", target="p99")

    (root / "report" / "notes.txt").write_text("mine")
    written = (root / "report" / "p01.html").stat().st_mtime_ns
    assert cli("run", root, targets(count - 1)).status == 0
    assert pages(root) == {f"p{i:02}.html" for i in range(count - 1)}
    assert (root / "report" / "p01.html").stat().st_mtime_ns == written
    assert "report/notes.txt" in cli("status", root, "-v").out

    assert cli("run", root, targets(2)).status == 0
    assert [path.name for path in (root / "report").iterdir()] == ["notes.txt"]
    assert (root / "figures" / "p01-reconstruction-sigma0.svg").exists()
    assert "Error budget of p01" in (root / "report.html").read_text()
