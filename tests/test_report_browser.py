"""The page in headless Chromium with real clicks. Needs the package playwright and a Chromium; skipped without.

Oracles: the data block of the page, the accessibility labels of bars, computed styles, the browser's own PDF.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from findings_logs import simulated
from onedial.analysis import analyze
from onedial.analysis.page import write_html
from onedial.cli.main import main
from report_runs import write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright, to drive a browser")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium, or set CHROMIUM")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = simulated(np.random.default_rng(1).beta(0.5, 0.9, 80), iterations=6, growth=0.03)
    return write_html(tmp_path_factory.mktemp("page") / "page.html", analyze(log), title="demo")


class Opened:
    """A page with what it complained of and what it tried to load."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1200, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=10_000)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def test_opens_quietly_and_asks_for_nothing(browser: Any, path: Path) -> None:
    with Opened(browser, path) as opened:
        assert opened.trouble == [] and opened.requests == [path.as_uri()]
        assert opened.page.title() == "demo"
        data = opened.page.evaluate("DATA.findings.filter(f => !f.withheld).map(f => f.title)")
        assert set(data) <= set(opened.page.locator("#findings h3, #calm dt").all_inner_texts())


def test_click_on_a_bar_lists_its_prompts_and_leads_to_the_group(browser: Any, path: Path) -> None:
    with Opened(browser, path) as opened:
        card = opened.page.locator("#f-silent_share")
        bar = card.locator("rect.hot").nth(1)
        assert bar.get_attribute("aria-label").startswith("all correct. ")
        bar.click()
        rows = card.locator(".listed li")
        wanted = opened.page.evaluate("DATA.findings.find(f => f.name === 'silent_share').plots[0].members[1].length")
        assert rows.count() == wanted > 0
        assert "What is the number of prompt" in rows.first.inner_text()
        card.locator(".listed button", has_text="read").first.click()
        assert opened.page.locator("#group .prompt").inner_text().startswith("What is the number of prompt")
        card.locator(".listed button", has_text="close").click()
        assert card.locator(".listed").count() == 0


def test_bars_work_by_keyboard(browser: Any, path: Path) -> None:
    with Opened(browser, path) as opened:
        card = opened.page.locator("#f-sigma")
        card.locator("rect.hot").first.focus()
        assert opened.page.locator(".tip").is_visible()
        opened.page.keyboard.press("Enter")
        assert card.locator(".listed").count() == 1


def test_hover_shows_values_of_the_data(browser: Any, path: Path) -> None:
    with Opened(browser, path) as opened:
        plot = opened.page.locator("#f-drift .plot").first
        plot.scroll_into_view_if_needed()
        box = plot.locator("rect.hit").bounding_box()
        opened.page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 40)
        tip = opened.page.locator(".tip").inner_text()
        share = opened.page.evaluate("DATA.findings.find(f => f.name === 'drift').plots[0].series[0].y.at(-1)")
        assert tip.startswith("iteration: 6") and f"mixed: {100 * share:.0f} %" in tip


def test_legend_hides_a_series(browser: Any, path: Path) -> None:
    with Opened(browser, path) as opened:
        plot = opened.page.locator("#f-drift .plot").first
        before = plot.locator("path.stroke").count()
        plot.locator(".legend button").first.click()
        assert plot.locator("path.stroke").count() == before - 1
        plot.locator(".legend button").first.click()
        assert plot.locator("path.stroke").count() == before


def test_dial_weighs_groups_as_python_does(browser: Any, path: Path) -> None:
    with Opened(browser, path) as opened:
        card = opened.page.locator("#f-algorithm_weights")
        card.locator("button", has_text="Dr. GRPO").click()
        assert card.locator("output").inner_text() == "α = 0.00"
        extra = opened.page.evaluate("DATA.findings.find(f => f.name === 'algorithm_weights').plots[0].extra")
        weights = np.array(extra["counts"]) @ np.array(extra["sigma"]) ** 2
        top = int(weights.argmax())
        label = card.locator("rect.hit").nth(top).get_attribute("aria-label")
        assert f"weight: {100 * weights[top] / weights.sum():.0f} %" in label
        before = card.locator("rect.fill").nth(top).get_attribute("height")
        card.locator("input[type=range]").fill("2")
        assert card.locator("rect.fill").nth(top).get_attribute("height") != before


def test_filters_of_the_sample_groups(browser: Any, path: Path) -> None:
    with Opened(browser, path) as opened:
        chips = opened.page.locator("#group-list .chip")
        for kind, words in (("mixed", "mixed"), ("right", "all correct"), ("wrong", "all wrong")):
            opened.page.locator(f"[data-filter={kind}]").click()
            assert set(chips.all_inner_texts()) == {words}
        opened.page.locator("[data-filter=all]").click()
        opened.page.locator("#search").fill("no such prompt")
        assert chips.count() == 0 and "No group fits" in opened.page.locator("#group").inner_text()
        opened.page.locator("#search").fill("")
        opened.page.locator("#group-list button").nth(2).click()
        assert opened.page.locator("#group .rollout").count() == 8


def test_light_and_dark_follow_the_system_and_the_switch(browser: Any, path: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with Opened(browser, path) as light, Opened(browser, path, scheme="dark") as dark:
        bright, dim = light.page.evaluate(ground), dark.page.evaluate(ground)
        assert bright != dim
        light.page.locator("#theme").click()
        assert light.page.evaluate(ground) == dim


@pytest.mark.parametrize("width", [400, 800, 1600])
def test_no_sideways_scrolling(browser: Any, path: Path, width: int) -> None:
    with Opened(browser, path, width=width) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_prints_with_plots_and_light_colours(browser: Any, path: Path) -> None:
    with Opened(browser, path, scheme="dark") as opened:
        assert len(opened.page.pdf(format="A4", print_background=True)) > 50_000
        opened.page.emulate_media(media="print")
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert opened.page.locator("#f-sigma svg").first.is_visible()
        assert not opened.page.locator("nav").is_visible()


def test_hostile_text_is_text(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=3, prompts=6, hostile=True)
    assert main(["report", str(run)]) == 0
    with Opened(browser, run / "report.html") as opened:
        assert opened.trouble == [] and len(opened.requests) == 1
        assert opened.page.evaluate("document.documentElement.dataset.broken") is None
        assert opened.page.locator("img, h1 h1, main h1, iframe").count() == 0
        assert opened.page.locator("script").count() == 2
        assert "<script>document" in opened.page.locator("#group .rollout pre").first.inner_text()
        for button in opened.page.locator("#group-list button").all()[:4]:
            button.click()
        opened.page.locator("#f-silent_share rect.hot").first.click()
        assert opened.page.evaluate("document.documentElement.dataset.broken") is None and opened.trouble == []
        assert opened.page.locator("#curves svg").count() > 4
