"""`onedial inspect` as a person and a script use it. Oracles: figures by dict loops (tests/logs_data), hand values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from logs_data import make
from onedial.analysis.logs import FORMATS
from onedial.cli.log_options import parse_map
from onedial.cli.main import main
from onedial.core.errors import ConfigError

PROMISED = [
    "format",
    "coverage",
    "rollouts",
    "groups",
    "group_sizes",
    "mean_reward",
    "mixed_share",
    "all_correct_share",
    "all_wrong_share",
    "silent_other_share",
    "tokens_generated",
    "tokens_silent",
    "pass_at_k",
    "broken_lines",
]


def as_json(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert main(["inspect", *map(str, words), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    value = json.loads(captured.out)
    assert isinstance(value, dict)
    return value


def as_text(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main(["inspect", *map(str, words)]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main(["inspect", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def test_json_has_every_promised_key_and_equals_dict_loops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make.rollouts(1, errors=True)
    figures = as_json(capsys, make.onedial_run(tmp_path, rows))
    oracle = make.expected(rows)
    assert set(PROMISED) <= set(figures)
    for name in oracle.keys() - {"mean_reward", "pass_at_k"}:
        assert figures[name] == oracle[name], name
    assert figures["mean_reward"] == pytest.approx(oracle["mean_reward"])
    assert figures["pass_at_k"] == pytest.approx(oracle["pass_at_k"])


def test_json_is_null_with_a_reason_where_the_log_cannot_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = as_json(capsys, make.trl(tmp_path, make.rollouts(0)))
    assert figures["tokens_generated"] is None and "no token counts" in figures["withheld"]["tokens_generated"]
    null = {name for name in PROMISED if figures[name] is None}
    assert null == set(figures["withheld"]) & set(PROMISED)


def test_json_of_an_empty_table_is_all_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make.parquet(tmp_path / "a.parquet", {"prompt": [], "reward": []})
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"prompt": pa.array([], pa.string()), "reward": pa.array([], pa.float64())}), tmp_path / "a.parquet"
    )
    figures = as_json(capsys, tmp_path / "a.parquet")
    assert figures["rollouts"] == 0 and figures["mixed_share"] is None and figures["withheld"]["mixed_share"]
    assert "0 rollouts" in as_text(capsys, tmp_path / "a.parquet")


def test_json_findings_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = as_json(capsys, make.onedial_run(tmp_path, make.rollouts(0)), "--findings")
    names = {finding["name"] for finding in figures["findings"]}
    assert "silent_share" in names
    value = next(finding["value"] for finding in figures["findings"] if finding["name"] == "silent_share")
    assert value == pytest.approx(figures["silent_share"])


@pytest.mark.parametrize("write", [make.onedial_run, make.trl, make.open_instruct, make.prime_rl, make.tinker])
def test_summary_fits_80_columns_and_is_plain_in_a_pipe(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = as_text(capsys, write(tmp_path, make.rollouts(2)))
    for line in text.splitlines():
        copied = line.strip().startswith(("onedial ", "·", "/")) or str(tmp_path) in line
        assert len(line) <= 80 or copied, line
    assert "\x1b" not in text
    for section in ("What this log can show", "Groups by their rewards", "Figures", "Findings", "Next"):
        assert section in text


def test_summary_says_the_biggest_finding_first_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = as_text(capsys, make.onedial_run(tmp_path, make.rollouts(2)))
    first = text[text.index("Findings") :].splitlines()[1:5]
    assert "Silent groups" in first[0]
    assert any("→" in line for line in first)


def test_text_of_a_log_is_inert_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escapes, bells and right-to-left overrides in values, column names and file names reach no terminal."""
    evil = "\x1b[31m\x07\u202e<script>"
    rows = [{"prompt": evil, "correct": i % 2, "completion": evil, evil: 1} for i in range(4)]
    path = make.lines(tmp_path / "evil\x1b[2J.jsonl", [*rows, {evil: evil}])
    with path.open("a") as stream:
        stream.write("{" + evil)
    text = as_text(capsys, path)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    figures = as_json(capsys, path)
    assert figures["broken_lines"] == 2 and figures["rollouts"] == 4
    make.lines(tmp_path / "none.jsonl", [{evil: 1}])
    message = refusal(capsys, tmp_path / "none.jsonl")
    assert "\x1b" not in message and "\u202e" not in message


def test_page_is_written_and_holds_no_live_script_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "prompt": f"p{i // 4} <script>alert(1)</script>",
            "correct": i % 3 == 0,
            "completion": "<img src=x onerror=alert(2)>",
        }
        for i in range(16)
    ]
    path = make.lines(tmp_path / "a.jsonl", rows)
    text = as_text(capsys, path, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Page:" in text and "<script>alert(1)" not in page and "<img src=x" not in page


def test_split_chooses_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make.rollouts(3)
    folder = make.prime_rl(tmp_path, rows)
    default, evaluation, everything = (
        as_json(capsys, folder, *words) for words in ((), ("--split", "eval"), ("--split", "all"))
    )
    assert default["rollouts"] == len(rows)
    assert default["splits"] == {"eval": evaluation["rollouts"], "train": len(rows)}
    assert everything["rollouts"] == len(rows) + evaluation["rollouts"]
    assert "set aside" in " ".join(default["coverage"]["notes"])
    make.tinker(tmp_path / "t", rows)
    assert "--split eval: the log has no such rows" in refusal(capsys, tmp_path / "t", "--split", "eval")


def test_map_and_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make.lines(tmp_path / "a.jsonl", [{"was": "p", "ok": i % 2, "xyz": i} for i in range(4)])
    assert "Columns seen: 'ok', 'was' and 'xyz'" in refusal(capsys, path)
    figures = as_json(capsys, path, "--map", "prompt=was,correct=ok")
    assert (figures["groups"], figures["mixed_share"]) == (1, 1.0)
    figures = as_json(capsys, path, "--map", "prompt=was", "--map", "outcome_reward=xyz", "--format", "table")
    assert figures["mean_reward"] == 1.5
    assert "did you mean 'verl'" in refusal(capsys, path, "--format", "verll")
    assert "OpenRLHF" in refusal(capsys, path, "--format", "openrlhf")


def test_parse_map_keeps_names_with_commas_and_equals_signs() -> None:
    assert parse_map(["prompt=a,correct=b"]) == {"prompt": "a", "correct": "b"}
    assert parse_map(["reward=mark"]) == {"outcome_reward": "mark"}
    assert parse_map(["prompt=question, in words"]) == {"prompt": "question, in words"}
    assert parse_map(["prompt=a=b"]) == {"prompt": "a=b"}
    for word in ("prompt", "=a", "prompt="):
        with pytest.raises(ConfigError, match="OURS=THEIRS"):
            parse_map([word])


def test_mistakes_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs a log" in refusal(capsys)
    assert "no such file" in refusal(capsys, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no readable data" in refusal(capsys, tmp_path / "empty")
    path = make.lines(tmp_path / "a.jsonl", [{"prompt": "p", "correct": 1}])
    assert "--tries" in refusal(capsys, path, "--tries", "0")


def test_formats_are_listed_with_what_each_cannot_show(capsys: pytest.CaptureFixture[str]) -> None:
    text = as_text(capsys, "--formats")
    for form in FORMATS.values():
        assert form.name in text
    assert "openrlhf" in text and text.count("cannot:") == len(FORMATS)
    listed = json.loads(as_text(capsys, "--formats", "--json"))
    assert [form["name"] for form in listed] == list(FORMATS)


def test_rates_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make.lines(tmp_path / "a.jsonl", [{"problem": f"p{k}", "pass_rate": k / 8} for k in range(9)])
    text = as_text(capsys, path)
    assert "9 prompts" in text and "Groups of 8 as these solve rates" in text and "silent groups expected" in text
    assert "inferred, not given: 8" in text


def test_broken_places_are_shown_with_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make.lines(tmp_path / "a.jsonl", [{"prompt": "p", "correct": i % 2} for i in range(5)])
    path.write_text(path.read_text() + "{oops\n" * 7)
    text = as_text(capsys, path)
    assert "7 broken places" in text and "a.jsonl:6" in text.replace("\n    ", "") and "and 2 more" in text


def test_shaped_reward_of_trained_groups_only_says_nothing_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # oracle: by hand; a run that shapes only what it trains on logs no shaped reward for its silent groups
    run = make.onedial_run(tmp_path, make.rollouts(1))
    for file in (run / "rollouts").glob("*.parquet"):
        rows = pl.read_parquet(file)
        mixed = pl.col("reward").min().over("group_id") < pl.col("reward").max().over("group_id")
        rows.with_columns(pl.when(mixed).then(pl.col("reward")).alias("shaped_reward")).write_parquet(file)
    figures = as_json(capsys, run)
    assert 0 < figures["silent_share"] < 1
    assert figures["on_shaped_reward"] is None and figures["mean_shaped_reward"] is None
    assert "no shaped reward" in figures["withheld"]["on_shaped_reward"]
    assert "by the reward that trained" not in as_text(capsys, run)
    found = {f["name"]: f for f in json.loads(_findings_json(capsys, run))["findings"]}
    assert "only mixed groups have shaped rewards" in found["shaping_leak"]["withheld"]


def _findings_json(capsys: pytest.CaptureFixture[str], run: Path) -> str:
    assert main(["inspect", str(run), "--json", "--findings"]) == 0
    return capsys.readouterr().out


def test_a_header_without_rows_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("prompt,correct\n")
    assert "a header and no rows" in refusal(capsys, tmp_path / "x.csv")
