"""The page as a file. Oracles: parsing it with another library's HTML parser, hand values, hashes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from findings_logs import rate_log, rollout_log, simulated
from onedial.analysis import analyze, logs
from onedial.analysis.findings import collect
from onedial.analysis.page import write_html
from onedial.analysis.page.samples import sample_groups
from onedial.cli.main import main
from onedial.core.errors import DataError
from report_runs import write_run


class Page(HTMLParser):
    """Tags, their attributes, and the text of scripts and styles, as a browser's parser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "hostile", iterations=3, prompts=6, hostile=True)
    assert main(["report", str(run)]) == 0
    return run / "report.html"


def test_page_has_only_its_own_tags_whatever_the_log_says(hostile: Path) -> None:
    page = Page(hostile.read_text("utf-8"))
    names = [tag for tag, _ in page.tags]
    assert names == [
        "html",
        "head",
        "meta",
        "meta",
        "meta",
        "meta",
        "title",
        "style",
        "body",
        "script",
        "noscript",
        "script",
    ]
    assert not any("src" in attributes or "href" in attributes for _, attributes in page.tags)


def test_policy_allows_exactly_the_two_blocks_inside(hostile: Path) -> None:
    page = Page(hostile.read_text("utf-8"))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    style, _, script = page.texts
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_data_survive_as_json_and_hold_no_invisible_characters(hostile: Path) -> None:
    block = Page(hostile.read_text("utf-8")).texts[1]
    assert "<" not in block and ">" not in block and "&" not in block
    data = json.loads(block)
    answer = data["groups"][0]["rollouts"][0]["text"]
    assert answer.startswith("<script>") and "\\x1b[31m" in answer and "\\u202e" in answer
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", block)


def test_page_is_lean_and_loads_nothing(tmp_path: Path) -> None:
    path = write_html(tmp_path / "a.html", analyze(simulated(np.linspace(0, 1, 120), iterations=8)))
    assert path.stat().st_size < 1_000_000
    text = path.read_text("utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_huge_completions_stay_in_bounds(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": f"p{g}", "group_id": f"g{g}", "outcome_reward": float(i % 2), "prompt": "x" * 50_000,
         "completion": f"{i}" * 60_000}
        for g in range(40) for i in range(8)
    ]  # fmt: skip
    assert write_html(tmp_path / "a.html", analyze(rollout_log(rows))).stat().st_size < 2_000_000


def test_page_of_rates_and_of_one_group(tmp_path: Path) -> None:
    for log in (rate_log([0, 3, 8], [8, 8, 8]), simulated([0.5]), simulated([0.0], size=1)):
        assert write_html(tmp_path / "a.html", analyze(log)).stat().st_size > 10_000


def test_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the page"):
        write_html(tmp_path / "file" / "a.html", analyze(simulated([0.5])))


def test_page_shows_the_groups_it_says(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    log = logs.read(run)
    rows = log.frame.collect()
    data = json.loads(Page(write_html(tmp_path / "a.html", analyze(log)).read_text("utf-8")).texts[1])
    for group in data["groups"]:
        part = rows.filter(pl.col("group_id").cast(pl.String) == group["id"]).sort("rollout_index")
        rewards = part.get_column("outcome_reward").to_list()
        assert [rollout["reward"] for rollout in group["rollouts"]] == rewards
        kind = "mixed" if len(set(rewards)) > 1 else "right" if rewards[0] else "wrong"
        assert group["kind"] == kind
    assert {group["kind"] for group in data["groups"]} == {"mixed", "right", "wrong"}


def test_a_mixed_group_is_never_shown_as_unanimous(tmp_path: Path) -> None:
    """By hand: of 16 rollouts the last alone is wrong; twelve are shown, it among them, in their order."""
    rows = [
        {"prompt_id": "p", "group_id": "g", "rollout_index": i, "outcome_reward": float(i < 15), "prompt": "q",
         "completion": f"text {i}"} for i in range(16)
    ]  # fmt: skip
    (group,), _ = sample_groups(collect(rollout_log(rows)))
    assert [rollout["text"] for rollout in group["rollouts"]] == [*(f"text {i}" for i in range(11)), "text 15"]
    assert group["hidden"] == 4 and group["rollouts"][-1]["outcome"] == "wrong"


def test_the_page_is_named_after_what_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of many files is shown under its folder's name, not its first file's."""
    write_run(tmp_path / "my-run")
    assert main(["inspect", str(tmp_path / "my-run"), "-o", str(tmp_path / "page.html")]) == 0
    assert "<title>my-run" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_report_command_on_a_log_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text("")
    assert main(["report", str(tmp_path / "x.jsonl")]) == 2
    assert "Traceback" not in capsys.readouterr().err
