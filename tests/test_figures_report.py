"""Figures are images of the right things; the report is one page that needs nothing and trusts nobody."""

from __future__ import annotations

import re
import shutil
import struct
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

import sdpipe
from sdpipe import figures
from sdpipe.config import Correlator, CorrelatorNoise
from sdpipe.layout import Layout
from sdpipe.report import render

if TYPE_CHECKING:
    from tests.conftest import Finished

VOID = {"meta", "link", "br", "img", "input", "hr"}
URL_ATTRIBUTES = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "formaction", "background"}


class Page(HTMLParser):
    """Elements, addresses, ids and text of a page; raises where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.events: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name in URL_ATTRIBUTES:
                self.addresses.append(value or "")
            if name == "id":
                self.ids.add(value or "")
            if name.startswith("on"):
                self.events.append(name)
            self.addresses += re.findall(r"url\(\s*[\"']?([^)\"']*)", value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)
        elif self.open and self.open[-1] == "style":
            self.addresses += re.findall(r"(?:url\(|@import)\s*[\"']?([^)\"';]*)", data)


# --- figures -------------------------------------------------------------------------------------------------


def test_figures_are_png_images_of_a_sensible_size(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    expected = {f"{target}-{kind}" for target in run.config.targets for kind in ("reconstruction", "budget")}
    files = list((finished.root / "figures").iterdir())
    assert {path.name for path in files} == {f"{stem}.png" for stem in expected | {"history"}}
    for path in files:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        assert 800 < width < 4000, path.name
        assert 400 < height < 2000, path.name
        assert len(data) < 500_000
    pixels = image.imread(finished.root / "figures" / "o3-reconstruction.png")[..., :3]
    for colour in (figures.COLOURS[0], "#ffffff"):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(pixels - wanted).max(axis=-1) < 0.01).sum() > 100, colour


def test_a_reconstruction_shows_truth_and_both_bands(finished: Finished) -> None:
    budget = sdpipe.open_run(finished.root).budget["o3"].load()
    ax = figures.reconstruction(budget.isel(sigma=0), Figure().subplots())
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["total error", "statistical error", "central value", "truth"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), budget.central.isel(sigma=0))
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), budget.truth.isel(sigma=0))
    unknown = figures.reconstruction(budget.drop_vars(["truth", "pull"]).isel(sigma=0), Figure().subplots())
    assert [text.get_text() for text in unknown.get_legend().get_texts()] == labels[:-1]


def test_a_budget_shows_every_source_and_their_sum(finished: Finished) -> None:
    budget = sdpipe.open_run(finished.root).budget["o3"].load()
    ax = figures.by_source(budget.isel(sigma=1), Figure().subplots())
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["lattice data", "networks", "systematic: b", "systematic: rho", "total"]
    squares = sum(line.get_ydata() ** 2 for line in ax.lines[:-1])
    np.testing.assert_allclose(ax.lines[-1].get_ydata() ** 2, squares)


def test_histories_show_every_replica_and_the_linear_baselines(finished: Finished) -> None:
    history = sdpipe.open_run(finished.root).history.load()
    ax = figures.histories(history.isel(sigma=0), Figure().subplots())
    curves = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == history.sizes["epoch"]]
    losses = history.val_loss.isel(sigma=0).values.reshape(-1, history.sizes["epoch"])
    drawn = {tuple(curve) for curve in curves}
    assert {tuple(loss) for loss in losses} <= drawn
    assert {(loss, loss) for loss in history.linear_loss.isel(sigma=0).values} <= drawn


@pytest.mark.parametrize("count", [1, 2])
def test_panels_are_one_for_each_sigma(finished: Finished, count: int) -> None:
    budget = sdpipe.open_run(finished.root).budget["o3"].isel(sigma=slice(count)).load()
    figure = figures.panels(figures.reconstruction, budget, "o3")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [f"o3  σ = {s:g} GeV" for s in budget.sigma.values]


# --- the report ----------------------------------------------------------------------------------------------


def test_the_report_is_one_self_contained_page(finished: Finished) -> None:
    page = Page((finished.root / "report.html").read_text(encoding="utf-8"))
    outside = [a for a in page.addresses if not a.startswith(("#", "data:"))]
    assert outside == []
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= page.ids
    assert page.tags["script"] == 1
    assert page.tags.keys().isdisjoint({"iframe", "object", "embed", "base", "img"})
    assert str(finished.root) not in page.source


def test_the_report_shows_every_target_and_how_to_reproduce_it(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    page = Page((finished.root / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.text)
    targets, sigmas = len(run.config.targets), len(run.config.smearing.sigma)
    assert page.ids >= {f"target-{name}" for name in run.config.targets}
    assert page.tags["svg"] == 2 * targets + 1
    assert page.tags["table"] == targets * sigmas + 1
    rows = targets * sigmas * run.config.energies.count + len(run.config.ensembles) * sigmas
    assert page.tags["tr"] == rows + page.tags["table"]
    assert "python -m sdpipe run config.yaml --run tiny" in text
    assert (finished.root / "config.yaml").read_text() in page.text
    for value in run.budget["o3"].central.values.ravel():
        assert f"{value:.5f}" in text
    assert f"sdpipe {sdpipe.__version__}" in text
    assert f"seed {run.config.seed}" in text


HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;{{ 7*7 }}" + "x" * 500


def test_the_report_escapes_what_users_type(finished: Finished, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "<img src=x onerror=alert(3)>"))
    config = sdpipe.open_run(root).config
    data = {"kind": "correlator", "path": Path("/data") / HOSTILE, "dataset": HOSTILE}
    hostile = config.model_copy(
        update={"name": HOSTILE, "noise": CorrelatorNoise(**data), "targets": {"o3": Correlator(**data)}}
    )
    page = Page(render(hostile, Layout(root)))
    assert page.tags["script"] == 1
    assert page.tags["img"] == 0
    assert page.events == []
    assert sum(text.startswith(HOSTILE) for text in page.text) == 2
    assert all(f"alert({i})" in " ".join(page.text) for i in (1, 2, 3))
    assert [a for a in page.addresses if not a.startswith(("#", "data:"))] == []


def test_the_report_is_the_same_each_time(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    one = run.config.model_copy(update={"targets": {"o3": run.config.targets["o3"]}})
    assert render(one, run.layout) == render(one, run.layout)
