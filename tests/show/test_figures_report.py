"""Figures are images of the right things; the report is one page that needs nothing and trusts nobody."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

import sdpipe
from sdpipe.config import mocks
from sdpipe.config.load import load_config
from sdpipe.config.sections import Correlator, CorrelatorNoise
from sdpipe.disk import store
from sdpipe.disk.layout import Layout
from sdpipe.pipeline.stages import STAGES
from sdpipe.show import asymptotics, figures, glossary, report, tables, validation_figures
from sdpipe.show.page import Picture
from sdpipe.show.report import render

if TYPE_CHECKING:
    from tests.conftest import Finished, Outcome

Cli = Callable[..., "Outcome"]

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
    tested = {f"validation-{kind}" for kind in ("pulls", "coverage", "coverage-energy", "width")}
    tested |= {f"validation-cases-sigma{i}" for i in range(len(run.config.smearing.sigma))}
    assert {path.name for path in files} == {f"{stem}.png" for stem in expected | tested | {"history"}}
    for path in files:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        assert 800 < width < 5000, path.name
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
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert labels[:3] == ["total error", "statistical error", "central value"]
    assert labels[3:] == ["calibrated error", "linear, calibrated error", "linear estimator", "truth"]
    one = budget.isel(sigma=0)
    np.testing.assert_array_equal(drawn["central value"], one.central)
    np.testing.assert_array_equal(drawn["calibrated error"], one.central + one.calibrated)
    np.testing.assert_array_equal(drawn["linear estimator"], one.linear)
    np.testing.assert_array_equal(drawn["truth"], one.truth)
    unknown = figures.reconstruction(budget.drop_vars(["truth", "pull"]).isel(sigma=0), Figure().subplots())
    assert [text.get_text() for text in unknown.get_legend().get_texts()] == labels[:-1]


@pytest.mark.parametrize(
    ("missing", "error", "label"),
    [
        ([], "linear_calibrated", "linear, calibrated error"),
        (["linear_calibrated"], "linear_error", "linear, its error"),
    ],
)
def test_a_reconstruction_shows_the_error_of_the_linear_estimator(
    finished: Finished, missing: list[str], error: str, label: str
) -> None:
    budget = sdpipe.open_run(finished.root).budget["o3"].isel(sigma=0).load().drop_vars(missing)
    ax = figures.reconstruction(budget, Figure().subplots())
    (band,) = [c for c in ax.collections if c.get_label() == label]
    drawn = {tuple(point) for point in band.get_paths()[0].vertices}
    for sign in (-1, 1):
        edge = budget.linear + sign * budget[error]
        assert set(zip(budget.E.values, edge.values, strict=True)) <= drawn


def test_a_budget_shows_every_source_and_their_sum(finished: Finished) -> None:
    budget = sdpipe.open_run(finished.root).budget["o3"].load()
    ax = figures.by_source(budget.isel(sigma=1), Figure().subplots())
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["lattice data", "networks", "systematic: b", "systematic: rho", "resolution", "total"]
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
    assert page.tags["svg"] == (2 * targets + 1 + len(validation_figures.PANELS) + 1) * sigmas
    assert text.count("Error budget of") == targets * sigmas
    assert "python -m sdpipe run config.yaml --run tiny" in text
    config = (finished.root / "config.yaml").read_text()
    assert config in page.text
    assert "data:text/plain;charset=utf-8," + quote(config) in page.addresses
    for sigma in run.config.smearing.sigma:
        for row in tables.budget_rows(run.budget["o3"].sel(sigma=sigma).load())[1]:
            assert re.search(r"\s+".join(map(re.escape, row)), text)
    for ensemble, Nb in (("Nmax", "16"), ("Nref_b", "8")):
        assert re.search(rf"{ensemble}\s+{Nb}\s+1200\s+arcS", text)


def test_every_picture_has_words_in_its_place(finished: Finished) -> None:
    page = Page((finished.root / "report.html").read_text(encoding="utf-8"))
    words = re.findall(r'<svg role="img" aria-label="([^"]*)"', page.source)
    assert len(set(words)) == page.tags["svg"] == len(words)
    peak = sdpipe.open_run(finished.root).budget["o3"].isel(sigma=0).load()
    peak = peak.isel(E=int(peak.central.argmax("E")))
    assert f"is {peak.central:.3g} ± {peak.calibrated:.2g} (calibrated) at E = {peak.E:.3g} GeV" in words[0]


def test_every_target_shows_how_it_was_read_and_tested(finished_copy: Path) -> None:
    file = finished_copy / "predictions.zarr/o3/correlator/zarr.json"
    meta = json.loads(file.read_text())
    meta["attributes"] |= {"resampling": "configurations", "configurations": 225, "samples": 45, "bin": 5, "dropped": 0}
    meta["attributes"] |= {"tau_int": 0.71, "tau_int_error": 0.16, "covariance": "full"}
    file.write_text(json.dumps(meta))
    store.seal(file.parents[1])
    run = sdpipe.open_run(finished_copy)
    budget = run.budget["o3"]
    text = re.sub(r"\s+", " ", " ".join(Page(render(run.config, run.layout)).text))
    assert text.count("Correlator 225 configurations in bins of 5, tau_int 0.71 +- 0.16; covariance full") == 1
    assert f"scale 1 Level of calibrated 68.3% p_value {budget.attrs['p_value']:.3g}" in text
    assert text.count("back_check") == len(run.config.targets) + 1
    assert "None" not in text
    for word, meaning in glossary.TERMS:
        assert f"{word} {meaning}" in text
    assert "resolution, what the data cannot resolve; each other one, the shift to its reference" in text
    assert "calibrated error (thin lines), linear estimator (dotted) with its own error (light band), truth" in text


def test_the_report_says_what_noise_and_families_are_in_numbers(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    text = re.sub(r"\s+", " ", " ".join(Page((finished.root / "report.html").read_text(encoding="utf-8")).text))
    assert "r1 0.001, delta 0.0, tau 4.0; errors relative to C(t) of o3, threshold 1.0" in text
    assert "The prior at basis size Nb = 16; it calibrates mock targets" in text
    low, high = run.config.spectra.E0
    assert f"The two-particle density of the O(3) model. Here threshold {low:g} … {high:g} GeV." in text


def test_every_standard_family_is_told_apart(tiny_config: Path) -> None:
    config = load_config(tiny_config, ["validation.families=null"])
    words = {name: report._family(config, name) for name in mocks.families_of(config)}
    assert len(set(words.values())) == len(words) == 8
    assert words["chebyshev-Nb32"] == "The prior at basis size Nb = 32."
    assert "mass 0.3 … 1.3 GeV, width 0.088 … 0.308 GeV, threshold 0.2 … 1.3 GeV" in words["resonance"]
    assert words["peaks"].endswith("Here count 5 … 50, mass 0.3 … 2.3 GeV.")


def test_ids_of_a_page_are_unique(finished: Finished) -> None:
    ids = re.findall(r'\bid="([^"]*)"', (finished.root / "report.html").read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids)) > 100


def test_the_report_says_where_the_run_comes_from(finished: Finished) -> None:
    run = sdpipe.open_run(finished.root)
    text = " ".join(Page((finished.root / "report.html").read_text(encoding="utf-8")).text)
    assert f"sdpipe {sdpipe.__version__}, python {platform.python_version()}" in text
    for path in (run.layout.training, run.layout.history, run.layout.budget / "o3"):
        assert store.read_attributes(path)["config_hash"] in text
    assert [s["stage"] for s in run.layout.sittings()] == list(STAGES)
    assert all(f"{s['seconds']:.1f}" in text for s in run.layout.sittings()[:-1])
    for network in run.layout.networks.iterdir():
        assert hashlib.sha256(network.read_bytes()).hexdigest()[:16] in text


def test_flags_of_a_target_stand_at_the_top_and_beside_it(finished_copy: Path) -> None:
    for path, flags in (("predictions.zarr/o3", ["off the prior"]), ("budget.zarr/o3", ["off the prior", "a <b>"])):
        file = finished_copy / path / "zarr.json"
        meta = json.loads(file.read_text())
        meta["attributes"]["flags"] = flags
        file.write_text(json.dumps(meta))
        store.seal(file.parent)
    run = sdpipe.open_run(finished_copy)
    config = run.config.model_copy(update={"targets": {"o3": run.config.targets["o3"]}})
    page = Page(render(config, run.layout))
    assert page.text.count("o3: off the prior") == page.text.count("off the prior") == 1
    assert page.text.count("o3: a <b>") == page.text.count("a <b>") == 1
    assert page.source.count('class="flag"') == 4
    words = re.findall(r'<svg role="img" aria-label="([^"]*)"', page.source)
    sigmas = len(run.config.smearing.sigma)
    assert sum("of o3 (flagged) at σ" in w for w in words) == 2 * sigmas
    assert sum(text.startswith("Error budget of o3 (flagged) at") for text in page.text) == sigmas
    assert len([text for text in page.text if text.startswith("o3 (flagged): ")]) == 2
    assert "No flags." not in page.text


@pytest.mark.parametrize(("flags", "title"), [([], "o3"), (["off the prior"], "o3 (flagged)")])
def test_every_picture_of_a_target_says_whether_it_is_flagged(
    finished_copy: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], title: str
) -> None:
    file = finished_copy / "budget.zarr/o3/zarr.json"
    meta = json.loads(file.read_text())
    meta["attributes"]["flags"] = flags
    file.write_text(json.dumps(meta))
    store.seal(file.parent)
    run, drawn = sdpipe.open_run(finished_copy), []
    one = run.config.model_copy(update={"targets": {"o3": run.config.targets["o3"]}})
    monkeypatch.setattr(report, "Picture", lambda figure, alt: drawn.append((figure, alt)) or Picture(figure, alt))
    render(one, run.layout)
    titles = [figure.axes[0].get_title(loc="left") for figure, alt in drawn if " of o3" in alt]
    assert titles == [f"{title}  σ = {s:g} GeV" for s in run.config.smearing.sigma for _ in range(2)]


def test_a_series_of_ensembles_is_in_the_report(finished_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asymptotics, "series", lambda *_: {"Nb": ["Nref_b", "Nmax"]})
    run = sdpipe.open_run(finished_copy)
    one = run.config.model_copy(update={"targets": {"o3": run.config.targets["o3"]}})
    page = Page(render(one, run.layout))
    words = re.findall(r'<svg role="img" aria-label="([^"]*)"', page.source)
    assert [w for w in words if "sizes of the audience" in w] == [
        f"Reconstructed density of o3 against the sizes of the audience at σ = {s:g} GeV"
        for s in run.config.smearing.sigma
    ]


def test_a_report_is_stale_once_something_that_it_shows_was_made_anew(cli: Cli, finished_copy: Path) -> None:
    assert "nothing to do" in cli("report", finished_copy).err
    file = finished_copy / "budget.zarr" / "o3" / "zarr.json"
    file.write_text(file.read_text().replace('"created": "2', '"created": "3'))
    store.seal(file.parent)
    assert "report    stale" in cli("status", finished_copy).out


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
