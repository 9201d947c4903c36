"""The page as a file. Oracles: parsing it with another library's HTML parser, hand values, hashes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from findings_logs import rate_log, rollout_log, simulated
from logs_data import make
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


def page_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(Page(path.read_text("utf-8")).texts[1]))


def finding(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(dict(finding) for finding in data["findings"] if finding["name"] == name)


def test_length_bins_are_disjoint_and_none_is_empty(tmp_path: Path) -> None:
    """By hand: 30 rollouts of lengths 1 to 10 and 20 of length 12, the limit: each length is in one bin."""
    lengths = [*range(1, 11)] * 3 + [12] * 20
    rows = [
        {"prompt_id": f"p{i // 2}", "group_id": f"g{i // 2}", "outcome_reward": float(i % 2), "correct": bool(i % 2),
         "completion_tokens": length, "prompt": "q", "completion": "a"} for i, length in enumerate(lengths)
    ]  # fmt: skip
    data = page_of(write_html(tmp_path / "a.html", analyze(rollout_log(rows))))
    (plot,) = finding(data, "length_bias")["plots"]
    bins = [tuple(map(int, re.fullmatch(r"(\d+)(?:–(\d+))?", label).groups(default="0"))) for label in plot["x"]]
    bins = [(low, high or low) for low, high in bins]
    assert bins[0][0] == 1 and bins[-1][1] == 12
    assert all(high < after for (_, high), (after, _) in pairwise(bins))
    assert None not in plot["series"][0]["y"]
    held = [sum(low <= length <= high for length in lengths) for low, high in bins]
    assert sum(held) == 50 and min(held) > 0


def test_extrapolation_is_said_where_the_axis_reaches_it(tmp_path: Path) -> None:
    for tries, said in ((16, True), (200, False)):
        data = page_of(write_html(tmp_path / "a.html", analyze(rate_log([tries // 2, 1, 3], [tries] * 3))))
        (plot,) = finding(data, "expected_silence")["plots"]
        assert ("beyond G = 16" in plot["note"], "beyond" in plot["note"]) == (said, said) and max(plot["x"]) == 64


def test_interval_of_the_dial_agrees_with_the_bootstrap(tmp_path: Path) -> None:
    """Another method for the same interval: at α = 1 the delta method of the page is near the bootstrap's table."""
    log = simulated(np.random.default_rng(5).beta(0.7, 0.9, 400), iterations=3)
    found = finding(page_of(write_html(tmp_path / "a.html", analyze(log))), "algorithm_weights")
    extra, rows = found["plots"][0]["extra"], {row[0]: np.array(row[1:]) for row in found["tables"][0]["rows"]}
    squares = np.array(extra["spread"][extra["alphas"].index(1.0)])
    totals = np.array(extra["counts"]) @ np.array(extra["sigma"])
    share = totals / totals.sum()
    reach = 1.96 * np.sqrt((1 - 2 * share) * squares + share**2 * squares.sum()) / totals.sum()
    half = (rows["α = 1, high"] - rows["α = 1, low"]) / 2
    assert reach == pytest.approx(half, rel=0.15)
    assert extra["size"] == 8


def test_drift_of_a_foreign_log_is_smoothed_with_bands(tmp_path: Path) -> None:
    log = simulated(np.full(40, 0.7), size=4, iterations=14)
    plot = finding(page_of(write_html(tmp_path / "a.html", analyze(log))), "drift")["plots"][0]
    assert plot["title"] == "Kinds of groups" and len(plot["extra"]["smooth"][0]) == 14
    for mean, low, high in zip(
        plot["extra"]["smooth"][0], *(plot["series"][0][k] for k in ("low", "high")), strict=True
    ):
        assert 0 <= low < mean < high <= 1 and high - low < 0.4


def test_the_page_says_of_a_log_what_the_terminal_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make.verl_v1(tmp_path / "verl", make.rollouts(2, iterations=3, prompts=6))
    assert main(["inspect", str(folder), "-o", str(tmp_path / "page.html")]) == 0
    screen = capsys.readouterr().out.split("What this log can show\n")[1].split("\n\n")[0]
    said = [" ".join(part.split()) for part in re.split(r"\n  · ", "\n" + screen) if part.strip()]
    assert len(said) >= 2 and set(said) <= set(page_of(tmp_path / "page.html")["notes"])


def first(run: Path) -> Path:
    return min((run / "rollouts").glob("*.parquet"))


def change(run: Path, **columns: pl.Expr) -> None:
    for path in (run / "rollouts").glob("*.parquet"):
        pl.read_parquet(path).with_columns(**columns).write_parquet(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one file of zeros": lambda run: first(run).write_bytes(b"PAR1" + bytes(100)),
    "every file junk": lambda run: [path.write_bytes(b"junk") for path in (run / "rollouts").glob("*")],
    "one file of other columns": lambda run: pl.DataFrame({"a": [1, 2]}).write_parquet(first(run)),
    "text for numbers": lambda run: change(run, reward=pl.lit("x"), iteration=pl.lit("y"), prompt=pl.lit(3)),
    "lists for numbers": lambda run: change(run, reward=pl.concat_list("reward")),
    "records for text": lambda run: change(run, level=pl.struct("reward", "outcome"), answer=pl.struct("reward")),
    "nothing but nulls": lambda run: change(run, prompt=None, completion=None, outcome=None, iteration=None),
    "impossible numbers": lambda run: change(run, advantage=pl.lit(float("inf")), completion_tokens=pl.lit(-5)),
    "metrics.jsonl a folder": lambda run: ((run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").mkdir()),
    "no rollouts, run.toml junk": lambda run: (
        shutil.rmtree(run / "rollouts"),
        (run / "run.toml").write_bytes(b"\xff"),
    ),
    "no rollouts, run.toml foreign": lambda run: (
        shutil.rmtree(run / "rollouts"),
        (run / "run.toml").write_text("algorithm = 3"),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_directory_gives_a_page_or_one_message(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", iterations=3, prompts=6)
    DAMAGE[name](run)
    code = main(["report", str(run), "-o", str(tmp_path / "page.html")])
    said = capsys.readouterr().err
    assert (code, (tmp_path / "page.html").exists()) in ((0, True), (2, False))
    assert code == 0 or (said.startswith("onedial: ") and "run" in said and "Traceback" not in said)
