"""The report in a real browser: nothing fails, pictures are drawn, tables sort, it fits a phone and paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.fixtures import Finished

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PHONE = 390, 844
PAGE = 718, 1047
"""A4 without the margins that browsers leave, in CSS pixels."""

pytestmark = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Debian's chromium and chromium-driver"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """Headless Chromium without a network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    nowhere = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", nowhere)
    yield driver
    driver.quit()


@pytest.fixture
def report(browser: Chrome, finished: Finished) -> Iterator[Chrome]:
    """The report of the finished run, on a desktop."""
    browser.get((finished.root / "report.html").as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def ask(browser: Chrome, script: str) -> Any:
    return browser.execute_script(f"return {script}")


def column(browser: Chrome, title: str, index: int) -> list[str]:
    """Return the cells of one column of the table with this title."""
    find = "const t = [...document.querySelectorAll('.scroll')].find(d => d.ariaLabel === arguments[0]).firstChild;"
    cells = "[...t.tBodies[0].rows].map(r => r.cells[arguments[1]].textContent)"
    return browser.execute_script(f"{find} return {cells}", title, index)


def test_nothing_fails_and_nothing_is_fetched(report: Chrome) -> None:
    assert report.get_log("browser") == []
    assert ask(report, "performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert report.title == "tiny"


def test_pictures_are_drawn(report: Chrome) -> None:
    boxes = ask(
        report,
        "[...document.querySelectorAll('svg')].map(s => {const b = s.getBoundingClientRect();"
        " const c = s.querySelector('g').getBoundingClientRect();"
        " return [b.width, b.height, c.width, s.querySelectorAll('path').length]})",
    )
    assert len(boxes) >= 18  # two for each of four targets, and the history, at each of two sigma
    for width, height, drawn, paths in boxes:
        assert width > 350
        assert 0.4 < height / width < 1.25  # the tallest has a row for each of three families
        assert drawn > 0.9 * width
        assert paths > 10


def test_a_table_sorts_by_number_and_by_name_with_the_keyboard(report: Chrome) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    title = "Networks and their baselines"
    report.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    table = report.find_element(By.CSS_SELECTOR, f'.scroll[aria-label="{title}"]')
    heads = table.find_elements(By.TAG_NAME, "th")
    before = column(report, title, 2)
    losses = sorted(before, key=float)
    assert before != losses
    for key, order, wanted in ((Keys.ENTER, "ascending", losses), (Keys.SPACE, "descending", losses[::-1])):
        heads[2].find_element(By.TAG_NAME, "button").send_keys(key)
        assert heads[2].get_attribute("aria-sort") == order
        assert column(report, title, 2) == wanted
    heads[0].find_element(By.TAG_NAME, "button").click()
    assert column(report, title, 0) == sorted(column(report, title, 0))
    assert [h.get_attribute("aria-sort") for h in heads[:3]] == ["ascending", "none", "none"]


def test_the_errors_of_a_budget_sort_by_number(report: Chrome) -> None:
    report.execute_script("document.querySelectorAll('details th button')[2].click()")
    errors = column(report, "Error budget of o3 at a σ = 0.44", 2)
    assert len(set(errors)) > 5
    assert errors == sorted(errors, key=float)


def test_it_fits_a_phone(report: Chrome) -> None:
    width, height = PHONE
    metrics = {"width": width, "height": height, "deviceScaleFactor": 3, "mobile": True}
    report.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    report.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert ask(report, "innerWidth") == width
    assert ask(report, "document.documentElement.scrollWidth") == width
    wide = "[...document.querySelectorAll('main > section > :not(.scroll), svg, pre, dd')]"
    assert ask(report, f"{wide}.filter(e => e.getBoundingClientRect().right > innerWidth).length") == 0
    assert min(ask(report, "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)")) > 340
    flags = "[...document.querySelectorAll('#summary th')].find(h => h.textContent === 'flags')"
    assert ask(report, f"{flags}.getBoundingClientRect().right") < width


@pytest.fixture
def long_page(browser: Chrome, finished: Finished, tmp_path: Path) -> Iterator[Chrome]:
    """The report of twelve targets with long names, one of them flagged, at one sigma and without a validation."""
    import sdpipe
    from sdpipe.show import figures, plots
    from sdpipe.show.picture import as_svg, embedded
    from sdpipe.show.report import ReportData, render

    run = sdpipe.open_run(finished.root)
    names = [f"a_target_with_a_name_as_long_as_that_of_an_ensemble_and_its_channel_{i:02}" for i in range(12)]
    budget, prediction = (data.isel(sigma=[0]) for data in (run.budget["o3"].load(), run.predictions["o3"].load()))
    budget = budget.drop_vars("calibrated").assign_attrs({k: v for k, v in budget.attrs.items() if k != "p_value"})
    budgets = {name: budget.assign_attrs(flags=[]) for name in names}
    budgets[names[0]] = budget.assign_attrs(flags=["noise: it is unlike that of the training " + "w" * 120])
    config = run.config.model_copy(update={"targets": dict.fromkeys(names, run.config.targets["o3"])})
    history, nothing = run.history.load().isel(sigma=[0]), [[], [], [], []]
    drawn = list(figures.history_pictures(history))
    for name in names:
        drawn += plots.target_pictures(name, prediction, budgets[name], None, config)
    pictures = {one.name: embedded(as_svg(one)) for one in drawn}
    predictions = dict.fromkeys(names, prediction)
    page = render(ReportData(config, finished.root, pictures, budgets, predictions, history, None, *nothing))
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    browser.get(path.as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def screenshot(browser: Chrome) -> Any:
    """Return the pixels (row, column, colour) of the whole page."""
    from base64 import b64decode
    from io import BytesIO

    from matplotlib.image import imread

    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    return imread(BytesIO(b64decode(shot["data"])))


def test_twelve_targets_with_long_names_fit_a_phone(long_page: Chrome) -> None:
    width, height = PHONE
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
    long_page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert ask(long_page, "document.documentElement.scrollWidth") == width
    outside = "[...document.querySelectorAll('body *:not(.scroll *, svg *)')]"
    outside += ".filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert ask(long_page, f"{outside}.map(e => e.outerHTML.slice(0, 80))") == []
    scrolls = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert ask(long_page, f"{scrolls}.length") >= 1
    assert ask(long_page, f"{scrolls}.every(e => {{e.scrollLeft = 40; return e.scrollLeft === 40}})") is True
    long_page.execute_script(f"{scrolls}.forEach(e => {{e.scrollLeft = 0}})")
    pixels = screenshot(long_page)[:, :, :3]
    assert pixels.shape[1] == width
    assert (pixels[:, -3:] > 0.99).all(), "something touches the right edge"
    assert (pixels.min(axis=(1, 2)) < 0.5).mean() > 0.2, "most of the page is blank"


def test_one_sigma_does_not_blow_up_pictures(long_page: Chrome) -> None:
    sizes = "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width)"
    assert max(ask(long_page, sizes)) <= 1.01 * 96 / 72  # points to CSS pixels


def test_on_paper_every_table_is_open_and_the_contents_are_not_there(report: Chrome) -> None:
    assert ask(report, "document.querySelector('details').open") is False
    report.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert ask(report, "[...document.querySelectorAll('details')].every(d => d.open)") is True
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert ask(report, "getComputedStyle(document.querySelector('nav')).display") == "none"
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def widest(browser: Chrome) -> float:
    """Return how far the widest table reaches on a page of paper, in CSS pixels."""
    width, height = PAGE
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert ask(browser, "innerWidth") == width
    return max(ask(browser, "[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)"))


def test_on_paper_no_table_is_cut(report: Chrome) -> None:
    assert ask(report, "[...document.querySelectorAll('table')].length") > 10
    assert widest(report) <= PAGE[0]


def test_on_paper_a_table_of_many_sources_is_not_cut(report: Chrome, tmp_path: Path) -> None:
    import pandas as pd

    from sdpipe.show.page import PageSection, compose, parts

    header = ["a E", "central", *"bnr", "latt", "net", "resolution", "total", "calibrated"]
    header += ["linear", "± linear", "posterior", "± posterior", "truth", "pull"]
    rows = [["0.1057", "-0.012345", *["0.00012"] * 8, *["-0.012345", "0.00012"] * 2, "-0.012345", "-12.34"]] * 3
    wide = parts.table("wide", pd.DataFrame(rows, columns=header), folded=True)
    path = tmp_path / "page.html"
    path.write_text(compose("wide", "", [PageSection("one", "one", [wide])]))
    report.get(path.as_uri())
    assert widest(report) <= PAGE[0]
    heights = ask(report, "[...document.querySelectorAll('td')].map(d => d.getBoundingClientRect().height)")
    assert max(heights) < 20, "a number is broken over lines"


def test_hostile_words_stay_words(browser: Chrome, tmp_path: Path) -> None:
    import pandas as pd

    from sdpipe.show.page import PageSection, compose, parts

    hostile = "<script>document.title='x'</script><img src=x onerror=\"document.title='y'\">'\"" + "w" * 300
    frame = pd.DataFrame({hostile: [hostile]})
    blocks = [parts.text(hostile, "flag"), parts.facts([(hostile, hostile)]), parts.gallery([], hostile)]
    blocks += [parts.table(hostile, frame), parts.table(hostile, frame, folded=True), parts.code(hostile, hostile)]
    path = tmp_path / "page.html"
    path.write_text(compose(hostile, hostile, [PageSection("one", hostile, blocks)]), encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert browser.title == hostile
    assert ask(browser, "document.querySelectorAll('main script, img').length") == 0
    assert ask(browser, "document.querySelector('.flag').textContent") == hostile
    assert ask(browser, "document.documentElement.scrollWidth <= innerWidth") is True
