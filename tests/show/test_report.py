"""The report is one page that needs nothing, trusts nobody, and says what a run gave and whether to believe it."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pytest
import xarray as xr

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.config.sources import CorrelatorNoise, CorrelatorTarget
from sdpipe.disk import store
from sdpipe.errors import DamageError
from sdpipe.pipeline import results
from sdpipe.pipeline.stages import STAGES
from sdpipe.problem.problem import families
from sdpipe.run import Run
from sdpipe.show import figures, report, tables, validation_figures
from sdpipe.show.picture import as_svg, embedded
from sdpipe.show.report import ReportData, render

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome

Cli = Callable[..., "Outcome"]

VOID = {"meta", "link", "br", "img", "input", "hr"}
URL_ATTRIBUTES = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "formaction", "background"}


class Page(HTMLParser):
    """Elements, addresses, ids and text of a page; raises where a tag is not closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.events: list[str] = []
        self.words: list[str] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.pieces).split())

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
                self.ids.append(value or "")
            if tag == "svg" and name == "aria-label":
                self.words.append(value or "")
            if name.startswith("on"):
                self.events.append(name)
            self.addresses += re.findall(r"url\(\s*[\"']?([^)\"']*)", value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.pieces.append(data)
        elif self.open and self.open[-1] == "style":
            self.addresses += re.findall(r"(?:url\(|@import)\s*[\"']?([^)\"';]*)", data)

    def outside(self) -> list[str]:
        """Return every address that is not in the page itself."""
        return [a for a in self.addresses if not a.startswith(("#", "data:"))]


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return sdpipe.open_run(finished.root)


@pytest.fixture(scope="module")
def page(finished: Finished) -> Page:
    """The report of the finished run."""
    return Page((finished.root / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def data(run: Run) -> ReportData:
    """What the page of one target without validation is made from."""
    return ReportData(
        config=run.config.model_copy(update={"targets": {"o3": run.config.targets["o3"]}}),
        root=run.layout.root,
        pictures=results.pictures_of_run(run.config, run.layout),
        budgets={"o3": run.budget["o3"].load()},
        predictions={"o3": run.predictions["o3"]},
        history=run.history.load(),
        validation=None,
        sessions=[{"stage": "train", "begun": f"day {i}", "seconds": i + 0.25, "host": "here"} for i in (1, 2)],
        data=[("noise", "noise.h5, sha256 0123")],
        stores=[["budget.zarr/o3", "today", "abcd", "1", "0.1", "2.1"]],
        networks=[["Nmax-sigma0-replica000", "abcd", "4567", "0.01", "0.02"]],
    )


def test_the_report_is_one_self_contained_page(page: Page, finished: Finished) -> None:
    assert page.outside() == []
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids)) > 100
    assert page.tags["script"] == 1
    assert page.tags.keys().isdisjoint({"iframe", "object", "embed", "base", "img"})
    assert str(finished.root) not in page.source


def test_the_report_shows_every_target_and_how_to_reproduce_it(page: Page, run: Run) -> None:
    targets, sigmas = len(run.config.targets), len(run.config.smearing.sigma)
    assert set(page.ids) >= {f"target-{name}" for name in run.config.targets}
    assert page.tags["svg"] == 2 * targets + (3 * targets + 1 + len(validation_figures.PANELS) + 1) * sigmas
    assert page.text.count("Error budget of") == targets * sigmas
    assert "python -m sdpipe run config.yaml --run tiny" in page.text
    config = run.layout.config.read_text()
    assert config in page.pieces
    assert "data:text/plain;charset=utf-8," + quote(config) in page.addresses
    for sigma in run.config.smearing.sigma:
        for row in tables.budget_frame(run.budget["o3"].sel(sigma=sigma).load()).values:
            assert " ".join(row) in page.text
    assert "Nmax 16 1200 arcS" in page.text
    assert "Nref_b 8 1200 arcS" in page.text
    assert all(run.compare(name).attrs["says"] in page.text for name in run.config.targets)


def test_every_picture_has_words_in_its_place(page: Page, run: Run) -> None:
    assert len(set(page.words)) == page.tags["svg"] == len(page.words)
    peak = run.budget["o3"].isel(sigma=0).load()
    peak = peak.isel(E=int(peak.central.argmax("E")))
    assert f"is {peak.central:.3g} ± {peak.calibrated:.2g} (calibrated) at a E = {peak.E:.3g}" in page.words[0]


def test_every_target_shows_how_it_was_tested(page: Page, run: Run) -> None:
    p_value = run.budget["o3"].attrs["p_value"]
    assert f"multiplied by 1 Level of the calibrated error 68.3% p-value under the prior {p_value:.3g}" in page.text
    assert page.text.count("Goodness of fit") == len(run.config.targets)
    assert {"goodness_of_fit", "p_value"}.isdisjoint(page.pieces)
    assert "None" not in page.text
    assert "the spread of the networks, what the data leave open, and the total of all in quadrature" in page.text
    assert (
        "central value, total and statistical error (light and dark band), truth (dashed). The lower one shows the same"
        in page.text
    )


def test_what_a_source_says_is_on_the_page_and_sessions_are_added_up(data: ReportData) -> None:
    read = {"resampling": "configurations", "configurations": 225, "samples": 45, "bin": 5, "dropped": 0}
    read |= {"tau_int": 0.71, "tau_int_error": 0.16, "covariance": "full"}
    o3 = data.predictions["o3"]
    o3 = o3.assign(correlator=o3.correlator.assign_attrs(read))
    page = Page(render(replace(data, predictions={"o3": o3})))
    assert page.text.count("Correlator 225 configurations in bins of 5, τ_int = 0.71 ± 0.16; covariance full") == 1
    assert "Data of noise noise.h5, sha256 0123" in page.text
    assert "train 3.5 2 day 2 here" in page.text
    assert all(" ".join(row) in page.text for row in (*data.stores, *data.networks))
    assert "validation" not in page.ids
    render(replace(data, sessions=[], stores=[], networks=[]))


def test_the_report_says_what_noise_and_families_are_in_numbers(page: Page, run: Run) -> None:
    assert "r1 0.001, delta 0.0, tau 4.0; errors relative to C(t) of o3, threshold 1.0" in page.text
    assert "The prior at basis size Nb = 16. It calibrates mock targets" in page.text
    low, high = run.config.spectra.E0
    assert (
        f"The two-particle density of the O(3) model. Here threshold {low:g} … {high:g} in lattice units." in page.text
    )


def test_the_report_says_what_the_networks_were_taught_with(page: Page, tiny_config: Path) -> None:
    words = "Prior 1200 spectral densities for each Nb = 8, 16: chebyshev 100.0%; threshold E0 in 0.2 … 1.3 in lattice"
    assert words in page.text
    mixed = load_config(tiny_config, ["spectra.mixture={levels: 1, states: 3, smooth: 0}", "spectra.positive=true"])
    assert "8, 16: levels 25.0%, states 75.0%; none negative; threshold" in report._prior(mixed.spectra, "GeV")


def test_every_standard_family_is_told_apart(tiny_config: Path) -> None:
    config = load_config(tiny_config, ["validation.families=null"])
    words = {name: report._family(config, name) for name in families(config)}
    assert len(set(words.values())) == len(words) == 11
    assert words["chebyshev-Nb32"] == "The prior of arXiv:2307.00808 at basis size Nb = 32."
    assert "mass 0.3 … 1.3 in lattice units, width 0.088 … 0.308 in lattice units, threshold" in words["resonance"]
    assert words["peaks"].endswith("Here count 5 … 50, mass 0.3 … 2.3 in lattice units.")
    assert words["finite_volume"].endswith("Here threshold 0.2 … 1.3 in lattice units, size 4 … 12.")


def test_the_report_says_where_the_run_comes_from(page: Page, run: Run) -> None:
    assert f"sdpipe {sdpipe.__version__}, python {platform.python_version()}" in page.text
    for path in (run.layout.training, run.layout.history, run.layout.budget / "o3"):
        assert store.read_attributes(path)["config_hash"] in page.text
    assert [s["stage"] for s in run.layout.sessions()] == list(STAGES)
    assert all(f"{s['seconds']:.1f}" in page.text for s in run.layout.sessions()[:-1])
    for network in run.layout.networks.glob("*.npz"):
        assert hashlib.sha256(network.read_bytes()).hexdigest()[:16] in page.text


def test_flags_of_a_target_stand_at_the_top_beside_it_and_in_every_title(data: ReportData) -> None:
    for flags, title in (([], "o3"), (["off the prior", "a <b>"], "o3 (flagged)")):
        budget = data.budgets["o3"].assign_attrs(flags=flags)
        page = Page(render(replace(data, budgets={"o3": budget})))
        assert all(page.pieces.count(f"o3: {flag}") == page.pieces.count(flag) == 1 for flag in flags)
        assert page.source.count('class="flag"') == 2 * len(flags)
        assert ("There are no flags." in page.text) == (not flags)
        at = [f"a σ = {s:g}" for s in data.config.smearing.sigma]
        pictures = list(figures.target_pictures("o3", data.predictions["o3"].rho, budget, data.config))
        titles = [one.figure.axes[0].get_title(loc="left") for one in pictures]
        assert titles == [f"{title}, {s}" for s in at for _ in range(2)]
        assert all(f" of {title} at a σ" in one.words for one in pictures)
        assert [text for text in page.pieces if text.startswith("Error budget of")] == [
            f"Error budget of {title} at {s}" for s in at
        ]
        assert len([text for text in page.pieces if text.startswith(f"{title}: ")]) == 4


def test_the_summary_says_what_cannot_be_flagged_and_which_family_is_too_narrow(data: ReportData, run: Run) -> None:
    few = run.validation.load()
    text = Page(render(replace(data, validation=few))).text
    assert "There are no flags." not in text
    assert "120 draws per family are too few to flag what is out of distribution: no p-value is below" in text
    published = data.budgets["o3"].copy()
    del published.attrs["p_value"]
    text = Page(render(replace(data, budgets={"o3": published.drop_vars("calibrated")}))).text
    assert "Nothing tells whether a target is out of distribution: there is no validation." in text
    ample = few.isel(sample=np.arange(1600) % few.sizes["sample"])
    level = float(few.attrs["quoted"])
    held = xr.where(few.coverage_of.budget == "calibrated", few.coverage_of.level, few.coverage_of)
    ample["coverage_of"] = held.transpose(*few.coverage_of.dims)
    page = Page(render(replace(data, validation=ample)))
    assert "There are no flags." in page.text
    assert page.source.count('class="flag"') == 0
    bad = {"budget": "calibrated", "family": "o3", "sigma": 0.63, "level": level}
    ample["coverage_of"].loc[bad] = 0.41
    page = Page(render(replace(data, validation=ample)))
    assert "There are no flags." not in page.text
    says = (
        "validation: the calibrated error is too narrow for o3 at a σ = 0.63: it covers 41.0 % of the truth, not 68.3"
    )
    assert page.pieces.count(says) == page.source.count('class="flag"') == 1


@pytest.mark.parametrize("treatment", ["shrink", "diagonal"])
def test_a_covariance_that_weakens_the_goodness_of_fit_has_no_p_value(data: ReportData, treatment: str) -> None:
    o3 = data.predictions["o3"]
    assert f"Goodness of fit p = {data.budgets['o3'].attrs['goodness_of_fit']:.3g}; " in Page(render(data)).text
    weak = o3.assign(correlator=o3.correlator.assign_attrs(covariance=treatment))
    text = Page(render(replace(data, predictions={"o3": weak}))).text
    assert (
        f"Goodness of fit there is no p-value, since covariance {treatment} hides what the full one would show; "
        in text
    )
    assert f"These covariances weaken the goodness of fit: o3 ({treatment})." in text
    assert f"covariance ({treatment}) that makes it small" in text


def test_a_series_of_ensembles_is_in_the_report(data: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "series", lambda *_: {"Nb": ["Nref_b", "Nmax"]})
    drawn = figures.target_pictures("o3", data.predictions["o3"].rho, data.budgets["o3"], data.config)
    pictures = data.pictures | {one.name: embedded(as_svg(one)) for one in drawn}
    assert [w for w in Page(render(replace(data, pictures=pictures))).words if "sizes of the audience" in w] == [
        f"Reconstructed density of o3 against the sizes of the audience at a σ = {s:g}"
        for s in data.config.smearing.sigma
    ]


def test_a_picture_that_is_not_there_is_named(data: ReportData) -> None:
    for name in ("o3-budget-sigma1", "o3-correlator", "history-sigma0"):
        others = {stem: svg for stem, svg in data.pictures.items() if stem != name}
        with pytest.raises(DamageError, match=rf"figures/{name}\.svg: lost"):
            render(replace(data, pictures=others))


def test_the_pictures_of_the_page_are_the_files(page: Page, run: Run) -> None:
    files = sorted(run.layout.figures.glob("*.svg"))
    assert len(files) == page.tags["svg"]
    assert all(path.read_text(encoding="utf-8").partition("<svg ")[2] in page.source for path in files)


HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;{{ 7*7 }}" + "x" * 500


def test_the_report_escapes_what_users_type_and_is_the_same_each_time(data: ReportData) -> None:
    section = {"kind": "correlator", "path": Path("/data") / HOSTILE, "dataset": HOSTILE}
    new = {"name": HOSTILE, "noise": CorrelatorNoise(**section), "targets": {"o3": CorrelatorTarget(**section)}}
    config, root = data.config.model_copy(update=new), Path("<img src=x onerror=alert(3)>")
    hostile = replace(data, config=config, root=root, data=[("noise", HOSTILE)])
    page = Page(render(hostile))
    assert render(hostile) == page.source
    assert page.tags["script"] == 1
    assert page.tags["img"] == 0
    assert page.events == page.outside() == []
    assert sum(text.startswith(HOSTILE) for text in page.pieces) == 3
    assert all(f"alert({i})" in page.text for i in (1, 2, 3))


@pytest.mark.parametrize("flags", [[], ["-v"]])
def test_whoever_gets_the_report_learns_no_place_and_the_host_only_where_asked(
    cli: Cli,
    finished_copy: Path,
    write_hdf5: Callable[..., Path],
    configurations: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a-host-that-tells")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    outside = write_hdf5("elsewhere.h5", {"x": configurations})
    inside = Path(shutil.copy(outside, tmp_path / "here" / "mine.h5"))
    targets = [f"targets.t{i}={{kind: correlator, path: {p}, dataset: x}}" for i, p in enumerate((outside, inside))]
    outcome = cli("run", finished_copy, *targets, *flags)
    assert outcome.status == 0, outcome.err
    budget = sdpipe.open_run(finished_copy).budget["t0"]
    assert any(str(outside) in flag for flag in budget.attrs["flags"])
    page = (finished_copy / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in page
    assert "path: elsewhere.h5" in page
    assert "path: mine.h5" in page
    assert ("a-host-that-tells" in page) == bool(flags)
