"""What a contributor and a packager find: recipe, hooks, workflow and changelog say what the project says."""

from __future__ import annotations

import re
import runpy
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml

from sdpipe import __version__
from tests.fixtures import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Name on PyPI -> name on conda-forge, where that is another one."""

TEXT, LINES = {"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}


def an_object(needed: str, **properties: Any) -> dict[str, Any]:
    """Return the schema of a mapping with these keys and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": needed.split(),
        "additionalProperties": False,
    }


RECIPE = an_object(
    "schema_version package source build requirements tests about",
    schema_version={"const": 1},
    context={"type": "object"},
    package=an_object("name version", name={"pattern": "^[a-z0-9-]+$"}, version=TEXT),
    source=an_object("path", path=TEXT),
    build=an_object(
        "script",
        number={"type": "integer", "minimum": 0},
        noarch={"enum": ["python", "generic"]},
        script=TEXT,
        python=an_object("entry_points", entry_points=LINES),
    ),
    requirements=an_object("run", build=LINES, host=LINES, run=LINES),
    tests={"type": "array", "minItems": 1, "items": {"type": "object", "maxProperties": 1}},
    about=an_object("license summary", homepage=TEXT, license=TEXT, license_file=TEXT, summary=TEXT),
)
"""The part of schema 1 of conda recipes that the recipe uses."""


def read(path: str) -> Any:
    """Return a YAML file of the repository."""
    return yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8"))


def test_the_conda_recipe_is_one() -> None:
    recipe = read("packaging/recipe.yaml")
    jsonschema.validate(recipe, RECIPE)
    for spec in (*recipe["requirements"]["host"], *recipe["requirements"]["run"]):
        assert re.fullmatch(r"[a-z0-9-]+( >=[\d.]+)?", spec), spec


def test_the_conda_recipe_needs_what_the_project_needs() -> None:
    recipe = read("packaging/recipe.yaml")
    assert recipe["context"]["version"] == __version__
    assert recipe["build"]["python"]["entry_points"] == [f"{k} = {v}" for k, v in PROJECT["scripts"].items()]
    needed = {f"python {PROJECT['requires-python']}"}
    for name, bound in (re.fullmatch(r"([\w-]+)(>=.*)", d).groups() for d in PROJECT["dependencies"]):
        needed.add(f"{CONDA.get(name, name.lower())} {bound}")
    assert set(recipe["requirements"]["run"]) == needed


def test_the_lowest_versions_are_those_of_the_project() -> None:
    needed = runpy.run_path(str(REPOSITORY / "packaging" / "versions.py"))["needed"]
    lowest = {line.replace("==", ">=") for line in needed("lowest")}
    assert lowest == {d for d in PROJECT["dependencies"] if not d.startswith("torch")} == set(needed("newest"))


def test_hooks_have_the_ruff_of_the_tests() -> None:
    (pinned,) = (d for d in PROJECT["optional-dependencies"]["test"] if d.startswith("ruff=="))
    hooks = read(".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format"]
    assert all(hook["additional_dependencies"] == [pinned] for hook in hooks)


def test_the_workflow_runs_ci_on_every_version() -> None:
    job = read(".github/workflows/ci.yml")["jobs"]["run"]
    versions = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert job["strategy"]["matrix"]["python"] == versions
    assert {"run": ".ci/run"} in job["steps"]


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_an_issue_form_asks_in_order(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) >= 2
    assert all(part["attributes"]["label"] for part in form["body"])


def test_a_bug_report_asks_for_versions() -> None:
    labels = [part["attributes"]["label"] for part in read(".github/ISSUE_TEMPLATE/bug.yml")["body"]]
    assert "sdpipe --version --verbose" in labels


def test_the_changelog_has_this_version_with_its_date() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", heads[1])
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
