"""The layout of the page in headless Chromium: nothing cut off, nothing on top of anything, no holes, no lost labels.

The same checks run on a run that training wrote, on one with hostile text, on logs of other trainers and on rate
tables, at two widths, in light and dark, and on paper. Needs the package playwright and a Chromium; skipped without.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from logs_data import make
from onedial.cli.main import main
from report_runs import write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright, to drive a browser")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium, or set CHROMIUM")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

BLANK = 40  # pixels of empty space that a card may have at its lower end
# What is cut with an ellipsis on purpose; the whole text is beside it or in its title.
SHORTENED = ".snip, .listed .text"

# Returns what is wrong with the page as it stands, one sentence each.
CHECK = """([blank, shortened]) => {
  const found = [], shown = (node) => node.getClientRects().length > 0;
  const name = (node) => `${node.tagName}.${node.getAttribute("class")} "${(node.textContent || "").slice(0, 60)}"`;
  const whole = document.documentElement.scrollWidth;
  if (whole > innerWidth) found.push(`the page is ${whole} wide`);
  for (const node of document.querySelectorAll("body *:not(svg *)")) {
    if (!shown(node) || node.matches(shortened) || node.matches("svg, input, select")) continue;
    if (node.clientWidth && node.scrollWidth > node.clientWidth + 1) found.push("cut off: " + name(node));
  }
  for (const card of document.querySelectorAll(".card")) {
    const parts = [...card.children].filter(shown), box = card.getBoundingClientRect();
    if (!parts.length) { found.push("empty card " + name(card)); continue; }
    const last = Math.max(...parts.map((part) => part.getBoundingClientRect().bottom));
    if (box.bottom - last > blank) found.push(`${Math.round(box.bottom - last)} pixels of nothing in ${name(card)}`);
    for (const other of document.querySelectorAll(".card")) {
      const b = other.getBoundingClientRect();
      const over = Math.min(box.right, b.right) - Math.max(box.left, b.left);
      const down = Math.min(box.bottom, b.bottom) - Math.max(box.top, b.top);
      if (other !== card && over > 1 && down > 1) found.push(`${name(card)} lies on ${name(other)}`);
    }
  }
  for (const plot of [...document.querySelectorAll(".plot")].filter(shown)) {
    const title = plot.querySelector("h4").textContent, svg = plot.querySelector("svg");
    const box = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const b = text.getBoundingClientRect();
      const outside = b.left < box.left - 2 || b.right > box.right + 2 || b.bottom > box.bottom + 2;
      if (outside) found.push(`${title}: label "${text.textContent}" leaves the plot`);
    }
    if (plot.dataset.kind === "line") {
      if (!plot.querySelector(".legend button")) found.push(title + ": no legend");
      continue;
    }
    const bars = svg.querySelectorAll(".hit[data-bar]"), labels = [...svg.querySelectorAll(".bar-label")];
    const counts = `${title}: ${bars.length} bars, ${labels.length} labels`;
    if (!bars.length || bars.length !== labels.length) found.push(counts);
    for (const bar of bars) if (!bar.getAttribute("aria-label")) found.push(title + ": a bar without a name");
    const boxes = labels.map((label) => label.getBoundingClientRect());
    const slanted = labels.some((label) => label.hasAttribute("transform"));
    boxes.slice(1).forEach((b, i) => {
      const room = slanted ? b.right - boxes[i].right - 9 : b.left - boxes[i].right;
      if (room < 0) found.push(`${title}: labels ${i} and ${i + 1} touch`);
    });
    const spans = [...svg.querySelectorAll(".hit[data-bar]")].map((bar) => bar.getBoundingClientRect());
    spans.slice(1).forEach((b, i) => {
      if (b.left < spans[i].right - 0.5) found.push(`${title}: bars ${i} and ${i + 1} overlap`);
    });
  }
  const titles = [...document.querySelectorAll(".plot h4")].map((node) => node.textContent);
  titles.filter((title, i) => titles.indexOf(title) !== i).forEach((title) => found.push("drawn twice: " + title));
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def report(log: Path, page: Path) -> Path:
    assert main(["report", str(log), "-o", str(page)]) == 0
    return page


def some_rollouts() -> list[make.Row]:
    return make.rollouts(1, iterations=14, prompts=12, errors=True)


LOGS: dict[str, Callable[[Path], object]] = {
    "hostile": lambda folder: write_run(folder, iterations=3, prompts=6, hostile=True, levels=3),
    "verl": lambda folder: make.verl_v1(folder, some_rollouts()),
}
MORE_LOGS: dict[str, Callable[[Path], object]] = {
    "large groups": lambda folder: write_run(folder, iterations=3, prompts=6, size=40),
    "trl": lambda folder: make.trl(folder, make.rollouts(1, iterations=3, prompts=12, ragged=False)),
    "nemo": lambda folder: make.nemo(folder, some_rollouts()),
    "open_instruct": lambda folder: make.open_instruct(folder, some_rollouts()),
}
TABLES = (
    "deepscaler_solve_rate128.jsonl",
    "bigmath_digits_test_1000.jsonl",
    "dsr_sub_acc8_by_epoch.jsonl",
    "cruxeval_scored_codellama7b.json",
)


class Screen:
    """A page open in the browser, with every fold opened, and what it complained of or tried to load."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=20_000)

    def unfold(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
        self.page.evaluate("new Promise((done) => setTimeout(done, 60))")  # folds fill when they have opened

    def resize(self, width: int) -> None:
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.evaluate("new Promise((done) => setTimeout(done, 260))")  # plots follow after 120 ms

    def problems(self) -> list[str]:
        return list(self.page.evaluate(CHECK, [BLANK, SHORTENED]))


def check_everywhere(browser: Any, path: Path) -> dict[str, Any]:
    """Checks the page folded and unfolded at both widths, in the dark and on paper; returns its data."""
    screen = Screen(browser, path)
    try:
        found = {"1200": screen.problems()}
        screen.resize(390)
        found["390"] = screen.problems()
        screen.page.emulate_media(media="print")
        screen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        screen.resize(700)
        found["print"] = screen.problems()
        screen.page.evaluate("dispatchEvent(new Event('afterprint'))")
        screen.page.emulate_media(media="screen", color_scheme="dark")
        screen.unfold()
        screen.resize(390)
        found["390 unfolded, dark"] = screen.problems()
        screen.resize(1200)
        found["1200 unfolded, dark"] = screen.problems()
        assert not any(found.values()), {where: problems[:8] for where, problems in found.items() if problems}
        assert screen.complaints == [] and screen.requests == [path.as_uri()]
        assert screen.page.evaluate("document.documentElement.dataset.broken") is None
        check_figures(screen.page.locator(".figure").all_inner_texts())
        return dict(screen.page.evaluate("DATA"))
    finally:
        screen.context.close()


def check_figures(texts: list[str]) -> None:
    """Every figure on the screen lies within the interval beside it, and its unit comes after the interval."""
    number = r"[<>]?([+−]?[\d.,]+(?:e[−+]?\d+)?)(?: %|×| points)?"
    for text in texts:
        found = re.fullmatch(rf"{number}(?: \(95 %: {number} to {number}\))?(?: [a-zσ̂ ]+)?", text)
        assert found, f"not in the order value, interval, unit: {text!r}"
        if found[2]:
            value, low, high = (float(part.replace("−", "-").replace(",", "")) for part in found.groups())
            assert low <= value <= high, text


def check_values(data: dict[str, Any]) -> None:
    """Every value drawn with an interval lies within it, and every share in [0, 1] has an axis that reaches it."""
    findings = [finding for finding in data["findings"] if not finding["withheld"]]
    plots = [*data["heldout"], *data["curves"], *(plot for finding in findings for plot in finding["plots"])]
    for plot in plots:
        for number, series in enumerate(plot["series"]):
            values = plot["extra"]["smooth"][number] if plot["extra"].get("smooth") else series["y"]
            for value, low, high in zip(values, series["low"], series["high"], strict=False):
                assert value is None or low is None or low - 1e-9 <= value <= high + 1e-9, (
                    plot["title"],
                    series["name"],
                )
    for finding in findings:
        if finding["interval"]:
            low, high = finding["interval"]
            assert low <= finding["value"] <= high, finding["name"]


def test_a_run_written_by_training(browser: Any, trained_run: Path, tmp_path: Path) -> None:
    data = check_everywhere(browser, report(trained_run, tmp_path / "page.html"))
    check_values(data)
    assert [plot["title"] for plot in data["heldout"]][0] == "Held-out accuracy" and len(data["curves"]) > 10
    drift = next(finding for finding in data["findings"] if finding["name"] == "drift")
    assert drift["plots"] == [] and drift["elsewhere"]


@pytest.mark.parametrize("name", [*LOGS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_LOGS)])
def test_logs_of_other_trainers_and_hostile_text(browser: Any, name: str, tmp_path: Path) -> None:
    (LOGS | MORE_LOGS)[name](tmp_path / "log")
    check_values(check_everywhere(browser, report(tmp_path / "log", tmp_path / "page.html")))


def test_a_small_rate_table(browser: Any, shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / TABLES[0]).open(encoding="utf-8") as lines:
        (tmp_path / "rates.jsonl").write_text("".join(islice(lines, 400)), encoding="utf-8")
    check_values(check_everywhere(browser, report(tmp_path / "rates.jsonl", tmp_path / "page.html")))


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_rate_tables(browser: Any, name: str, shared_data: Path, tmp_path: Path) -> None:
    check_values(check_everywhere(browser, report(shared_data / name, tmp_path / "page.html")))


def test_the_curves_are_under_their_titles(browser: Any, trained_run: Path, tmp_path: Path) -> None:
    """The band of held-out accuracy and the raw points of a metric are really drawn."""
    screen = Screen(browser, report(trained_run, tmp_path / "page.html"))
    card = screen.page.locator("#heldout .card", has_text="Held-out accuracy").first
    assert card.locator("path.band").count() == 3 and card.locator("path.stroke").count() == 3
    assert card.locator(".legend button").all_inner_texts() == ["avg@8", "pass@8", "maj@8"]
    entropy = screen.page.locator("#curves .card", has_text="Entropy of the policy")
    assert entropy.locator("circle.raw").count() == 16 and entropy.locator("path.stroke").count() == 1
    screen.context.close()


def test_every_answer_has_a_mark(browser: Any, tmp_path: Path) -> None:
    """Groups of 40: the list shows 32 marks and says how many more there are; the group says what it leaves out."""
    write_run(tmp_path / "run", iterations=2, prompts=4, size=40)
    screen = Screen(browser, report(tmp_path / "run", tmp_path / "page.html"))
    first = screen.page.locator("#group-list .dots").first.inner_text()
    assert len(re.findall("[●○◌]", first)) == 32 and first.endswith("+8 more")
    assert "12 of 40 answers are shown" in screen.page.locator("#group").inner_text()
    screen.context.close()
