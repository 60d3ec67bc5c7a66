"""Documents name what is there: every symbol, link and file."""

from __future__ import annotations

import contextlib
import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest

import sdpipe
from sdpipe.show.flags import WORDS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.md")])
README_WORDS, WIDTH = 500, 120
"""A page that invites, and the longest line of its prose in characters."""


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_symbol_that_is_named_exists(path: Path) -> None:
    for name in re.findall(r"\bsdpipe\.[a-z_]+(?:\.[A-Za-z_]\w*)+", path.read_text(encoding="utf-8")):
        found = import_module("sdpipe")
        for i, part in enumerate(parts := name.split(".")[1:], 2):
            with contextlib.suppress(ModuleNotFoundError):
                import_module(".".join(["sdpipe", *parts][:i]))
            assert hasattr(found, part), name
            found = getattr(found, part)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_table_has_its_header_and_no_gap(path: Path) -> None:
    """A row after a blank line is no row: it is shown as text."""
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        if rows:
            assert len(rows) > 2, rows[0]
            assert re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", rows[1]), rows[0]
            cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
            assert len(cells) == 1, rows[0]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_cell_of_a_table_is_short(path: Path) -> None:
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    longest = max((len(cell.strip()) for row in rows for cell in re.split(r"(?<!\\)\|", row)), default=0)
    assert longest <= WIDTH


def test_the_method_names_every_module_of_the_physics() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    for module in ("kernels", "spectra", "prior", "quadrature", "samples", "noise"):
        assert f"`sdpipe.physics.{module}." in text
    for module in ("learn.moments", "learn.architectures", "learn.training", "estimators.networks", "infer.budget"):
        assert f"sdpipe.{module}." in text


def test_the_configuration_reference_is_current_and_explains_every_key() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "configuration.py"))["reference"]()
    assert made == (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"), "run: python docs/configuration.py"
    rows = [line.strip("| ").split(" | ") for line in made.splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert all(row[-1].endswith(".") for row in rows)
    assert "| `training.replicas` | integer | `5` | ≥ 2, ≤ 1000 | Networks of each ensemble and sigma" in made
    assert "| `lattice.period` | integer | needed | ≥ 2, ≤ 100000 | T, the number of time slices. |" in made


def prose(text: str) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_readme_is_a_page_that_invites() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= README_WORDS
    assert max(map(len, prose(text).splitlines())) <= WIDTH
    assert "](docs/index.md)" in text


def test_the_first_commands_of_the_readme_are_the_main_job_and_the_tests() -> None:
    blocks = re.findall(r"^```console\n\$ (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert blocks[0].endswith("python -m sdpipe run configs/quickstart.yaml")
    assert "python -m pytest" in blocks[1]
    assert all(block.startswith("python3 -m venv .venv && ") for block in blocks[:2])


def test_the_index_leads_to_every_document() -> None:
    """By links, as a reader goes, and by the tables of contents of the site."""
    docs, seen, todo, listed = ROOT / "docs", set(), {"index"}, {"index"}
    while todo:
        name = todo.pop()
        seen.add(name)
        text = (docs / f"{name}.md").read_text(encoding="utf-8")
        todo |= set(re.findall(r"\]\(([\w-]+)\.md", text)) - seen
        for block in re.findall(r"^```\{toctree\}\n:hidden:\n\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            listed |= set(block.split())
    written = {path.stem for path in docs.glob("*.md")}
    assert written - {"contributing", "changelog"} <= seen
    notebooks = {f"tutorials/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert listed == written | notebooks | {"api/modules"}


def test_the_index_answers_what_new_users_ask_in_one_click() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    questions = " ".join(re.findall(r"^\| (.+\?) \| \[[^\]]+\]\([^)]+\) \|$", text, re.MULTILINE))
    asked = ("σ chosen", "total error", "Slurm", "crash", "file formats", "estimator", "HLT", "covariance", "units")
    asked += ("install", "masses and residues", "for a paper", "one configuration", "quote", "error right", "flag")
    for words in (*asked, "kernel", "cite", "continuum limit"):
        assert words in questions


def test_every_flag_of_an_answer_is_on_the_page_of_flags() -> None:
    """A row of the page quotes words that stand in the sentence of the flag."""
    text = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    for code, sentence in WORDS.items():
        assert any(words in sentence for words in quoted), code
    for words in quoted:
        assert any(words in sentence for sentence in WORDS.values()), words


def test_the_page_of_commands_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "commands.py"))["reference"]()
    assert made == (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), "run: python docs/commands.py"


def test_the_page_of_python_names_everything_public() -> None:
    listed = re.findall(r"^   ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*sdpipe.__all__} - {"__version__"} <= set(listed)


def test_what_can_be_resolved_is_as_choosing_says() -> None:
    """C(t) known to 1 % gives about 5 % at sigma = E/4; the sigma that gives it falls by a third with a factor 10."""
    error = runpy.run_path(str(ROOT / "docs" / "choosing.py"))["error"]
    assert [error(1e-2, (E / 4,), (E,)).item() for E in (1.0, 2.0)] == pytest.approx([0.05, 0.05], rel=0.15)
    for noise, sigma in ((1e-2, 0.53), (1e-3, 0.36), (1e-4, 0.25)):
        assert error(noise, (sigma,), (2.0,)).item() == pytest.approx(0.05, rel=0.1)
