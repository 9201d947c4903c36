"""Every format against the figures of the same rollouts by dict loops (tests/logs_data/make.py), to the digit."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from findings_logs import key_figures
from logs_data import make
from onedial.analysis.logs import ROLLOUT_COLUMNS, read
from onedial.analysis.logs.splits import select_split

SHARES = ("mixed_share", "all_correct_share", "all_wrong_share", "silent_other_share")
COUNTS = ("rollouts", "groups", "group_sizes", "groups_of_one", "unusable")
LENGTHS = ("tokens_generated", "tokens_silent")


def check(log_figures: dict[str, Any], oracle: dict[str, Any], *, lengths: bool) -> None:
    """Counts and shares exactly, sums in another order to 1e-12."""
    for name in (*COUNTS, *SHARES, *(LENGTHS if lengths else ())):
        assert log_figures[name] == oracle[name], name
    assert log_figures["mean_reward"] == pytest.approx(oracle["mean_reward"], abs=1e-12)
    assert log_figures["pass_at_k"] == pytest.approx(oracle["pass_at_k"], abs=1e-12)
    if not lengths:
        assert log_figures["tokens_generated"] is None
        assert log_figures["withheld"]["tokens_generated"]


CASES: dict[str, tuple[Callable[[Path, list[make.Row]], Path], str, bool]] = {
    "trl": (make.trl, "trl", False),
    "verl legacy": (make.verl_legacy, "verl", False),
    "verl v1": (make.verl_v1, "verl", False),
    "prime-rl": (make.prime_rl, "prime-rl", True),
    "verifiers": (make.verifiers, "verifiers", True),
    "tinker": (make.tinker, "tinker", True),
    "nemo-rl": (make.nemo, "nemo-rl", True),
    "ms-swift": (make.swift, "ms-swift", False),
    "onedial": (make.onedial_run, "onedial", True),
}


def by_prompt(row: make.Row) -> Any:
    return row.prompt


def by_group(row: make.Row) -> Any:
    return row.iteration, row.prompt


PROMPTS = {"verifiers": by_group, "tinker": by_group}
"""Formats that name no prompt across iterations."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_of_every_format_equal_dict_loops(case: str, seed: int, tmp_path: Path) -> None:
    write, name, lengths = CASES[case]
    rows = make.rollouts(seed)
    log = select_split(read(write(tmp_path, rows)))
    assert log.format == name
    assert log.broken_lines == 0, log.broken
    check(key_figures(log), make.expected(rows, prompt=PROMPTS.get(case, by_prompt)), lengths=lengths)


@pytest.mark.parametrize("case", ["prime-rl", "verifiers", "onedial"])
def test_errors_and_timeouts_leave_their_group_first(case: str, tmp_path: Path) -> None:
    """The oracle drops unusable rollouts before any statistic; a silent 0 would turn groups mixed."""
    write, _, lengths = CASES[case]
    rows = make.rollouts(5, errors=True)
    assert any(row.error for row in rows)
    oracle = make.expected(rows, prompt=PROMPTS.get(case, by_prompt))
    check(key_figures(select_split(read(write(tmp_path, rows)))), oracle, lengths=lengths)


@pytest.mark.parametrize("case", CASES)
def test_without_text_the_figures_stay(case: str, tmp_path: Path) -> None:
    """Invariance: prompts and completions only serve to name groups."""
    folder = CASES[case][0](tmp_path, make.rollouts(3))
    with_text, without = (key_figures(select_split(read(folder, text=text))) for text in (True, False))
    assert with_text == without
    assert read(folder, text=False).frame.select(pl.col("completion").is_not_null().sum()).collect().item() == 0


@pytest.mark.parametrize("case", CASES)
def test_frame_has_every_column_and_a_reason_for_every_empty_one(case: str, tmp_path: Path) -> None:
    log = read(CASES[case][0](tmp_path, make.rollouts(0)))
    frame = log.frame.collect()
    assert frame.columns[: len(ROLLOUT_COLUMNS)] == list(ROLLOUT_COLUMNS)
    for name in ROLLOUT_COLUMNS:
        if name in log.missing:
            assert frame[name].null_count() == len(frame), name
            assert log.missing[name], name
    for column, dtype in ROLLOUT_COLUMNS.items():
        assert frame.schema[column] == dtype or frame.schema[column].is_integer(), column


def test_open_instruct_survivors_are_withheld_and_say_so(tmp_path: Path) -> None:
    """Only mixed groups reach the file, as open-instruct writes it; the oracle is the file's own groups."""
    rows = [row for row in make.rollouts(11, iterations=12, ragged=False)]
    kept = [
        row
        for row in rows
        if len({other.reward for other in rows if (other.iteration, other.prompt) == (row.iteration, row.prompt)}) > 1
    ]
    log = read(make.open_instruct(tmp_path, kept))
    figures = key_figures(log)
    assert log.format == "open-instruct" and log.coverage.survivors_only is True
    assert figures["groups"] == len({(row.iteration, row.prompt) for row in kept}) >= 20
    assert figures["tokens_generated"] == sum(row.tokens for row in kept)
    for name in (*SHARES, "tokens_silent", "pass_at_k"):
        assert figures[name] is None and figures["withheld"][name], name
    assert figures["mean_reward"] == pytest.approx(10 * sum(row.reward or 0 for row in kept) / len(kept))
    assert "dropped" in log.coverage.notes[0]


def test_open_instruct_without_the_filter_gives_shares_at_reward_10(tmp_path: Path) -> None:
    rows = make.rollouts(2)
    figures = key_figures(read(make.open_instruct(tmp_path, rows)))
    oracle = make.expected(rows)
    assert figures["coverage"]["survivors_only"] is False
    assert {name: figures[name] for name in SHARES} == {name: oracle[name] for name in SHARES}
    assert figures["pass_at_k"] == pytest.approx(oracle["pass_at_k"], abs=1e-12)
    assert figures["tokens_silent"] == oracle["tokens_silent"]
    assert figures["mean_reward"] == pytest.approx(10 * oracle["mean_reward"])


PLAIN: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {}


def _plain(suffix: str) -> Callable[[Callable[[Path, list[dict[str, Any]]], None]], None]:
    def keep(write: Callable[[Path, list[dict[str, Any]]], None]) -> None:
        def run(folder: Path, rows: list[dict[str, Any]]) -> Path:
            path = folder / f"rows{suffix}"
            write(path, rows)
            return path

        PLAIN[suffix] = run

    return keep


_plain(".jsonl")(lambda path, rows: make.lines(path, rows) and None)
_plain(".json")(lambda path, rows: path.write_text(json.dumps(rows)) and None)
_plain(".parquet")(lambda path, rows: pl.DataFrame(rows).write_parquet(path))
_plain(".feather")(
    lambda path, rows: feather.write_feather(pl.DataFrame(rows).to_arrow(), str(path), compression="uncompressed")
)
_plain(".csv")(lambda path, rows: pl.DataFrame(rows).write_csv(path))
_plain(".tsv")(lambda path, rows: pl.DataFrame(rows).write_csv(path, separator="\t"))
_plain(".jsonl.gz")(
    lambda path, rows: path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode())) and None
)


def _zst(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(pa.Codec("zstd").compress("".join(json.dumps(r) + "\n" for r in rows).encode(), asbytes=True))


def _stream(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pl.DataFrame(rows).to_arrow()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


_plain(".jsonl.zst")(_zst)
_plain(".arrow")(_stream)


@pytest.mark.parametrize("suffix", PLAIN)
def test_plain_tables_in_every_file_type(suffix: str, tmp_path: Path) -> None:
    rows = make.rollouts(4)
    log = read(PLAIN[suffix](tmp_path, make.table(rows)))
    assert log.format == "table" and log.coverage.group_identity == "given"
    check(key_figures(log), make.expected(rows), lengths=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (True, False),
        (1, 0),
        (1.0, 0.0),
        ("True", "False"),
        ("true", "false"),
        ("1", "0"),
        ("yes", "no"),
        ("passed", "failed"),
    ],
)
def test_verdicts_in_every_spelling(right: Any, wrong: Any, tmp_path: Path) -> None:
    rows = make.rollouts(6)
    objects = [{"prompt": r.text, "epoch": r.iteration, "correct": right if r.reward else wrong} for r in rows]
    log = read(make.lines(tmp_path / "a.jsonl", objects))
    assert log.coverage.group_identity == "inferred from the prompt text"
    check(key_figures(log), make.expected(rows), lengths=False)


def test_map_names_columns_that_no_synonym_covers(tmp_path: Path) -> None:
    rows = make.rollouts(7)
    objects = [{"was": r.text, "runde": r.iteration, "stimmt": bool(r.reward), "len": r.tokens} for r in rows]
    path = make.lines(tmp_path / "a.jsonl", objects)
    columns = {"prompt": "was", "iteration": "runde", "correct": "stimmt", "completion_tokens": "len"}
    check(key_figures(read(path, columns=columns)), make.expected(rows), lengths=True)


def test_lists_of_verdicts_per_prompt(tmp_path: Path) -> None:
    """LiveCodeBench's *_eval_all.json, a dict of lists, and JSON lines of lists agree with exploded rows."""
    rows = make.rollouts(8, iterations=1, prompts=12)
    groups: dict[int, list[bool]] = {}
    for row in rows:
        groups.setdefault(row.prompt, []).append(bool(row.reward))
    files = {
        "a_eval_all.json": [
            {
                "question_id": str(p),
                "graded_list": v,
                "pass@1": sum(v) / len(v),
                "code_list": ["x"] * len(v),
                "difficulty": "easy",
            }
            for p, v in groups.items()
        ],
        "b.json": {"raw_scored_generations": {str(p): v for p, v in groups.items()}, "pass_at_1": 12.5},
        "c.json": {f"task{p}": v for p, v in groups.items()},
        "d.json": {
            "date": "x",
            "eval": {str(p): {"graded_list": v, "code_list": ["x"] * len(v)} for p, v in groups.items()},
        },
    }
    oracle = make.expected(rows)
    for name, document in files.items():
        path = tmp_path / name
        path.write_text(json.dumps(document))
        check(key_figures(read(path)), oracle, lengths=False)
    path = make.lines(tmp_path / "e.jsonl", [{"problem": f"p{p}", "correctness": v} for p, v in groups.items()])
    check(key_figures(read(path)), oracle, lengths=False)
    pl.DataFrame([{"problem": f"p{p}", "is_correct": v} for p, v in groups.items()]).write_parquet(
        tmp_path / "f.parquet"
    )
    check(key_figures(read(tmp_path / "f.parquet")), oracle, lengths=False)


@pytest.mark.parametrize("texts_first", [False, True])
def test_texts_beside_lists_of_verdicts_are_read(tmp_path: Path, texts_first: bool) -> None:
    parts = {"passed": {"t1": [True, False], "t2": [False, False]}, "code": {"t1": ["a", "bcd"], "t2": ["", "ef"]}}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(dict(reversed(parts.items())) if texts_first else parts))
    frame = read(path).frame.select("prompt_id", "outcome_reward", "completion").collect()
    assert sorted(frame.rows()) == [("t1", 0.0, "bcd"), ("t1", 1.0, "a"), ("t2", 0.0, ""), ("t2", 0.0, "ef")]


def test_code_samples(tmp_path: Path) -> None:
    """HumanEval results, EvalPlus old and new, BigCodeBench: groups and pass@k of the same verdicts."""
    rows = make.rollouts(9, iterations=1, prompts=10)
    oracle = make.expected(rows)
    humaneval = [
        {
            "task_id": f"HumanEval/{r.prompt}",
            "completion": "x",
            "result": "passed" if r.reward else "timed out",
            "passed": bool(r.reward),
        }
        for r in rows
    ]
    log = read(make.lines(tmp_path / "samples.jsonl_results.jsonl", humaneval))
    assert log.format == "humaneval" and "ran out of time" in log.coverage.notes[0]
    check(key_figures(log), oracle, lengths=False)
    groups: dict[str, list[make.Row]] = {}
    for row in rows:
        groups.setdefault(f"HumanEval/{row.prompt}", []).append(row)
    new = {
        task: [
            {"task_id": task, "solution": "x", "base_status": "pass", "plus_status": "pass" if r.reward else "fail"}
            for r in part
        ]
        for task, part in groups.items()
    }
    old = {
        task: {
            "nfiles": len(part),
            "base": [["pass", []]] * len(part),
            "plus": [["pass" if r.reward else "timeout", []] for r in part],
        }
        for task, part in groups.items()
    }
    big = {
        task: [{"task_id": task, "status": "pass" if r.reward else "fail"} for r in part]
        for task, part in groups.items()
    }
    for name, results in {"new": new, "old": old, "big": big}.items():
        path = tmp_path / f"{name}_eval_results.json"
        path.write_text(json.dumps({"date": "x", "eval": results}))
        log = read(path)
        assert log.format == "evalplus"
        check(key_figures(log), oracle, lengths=False)
    base = read(tmp_path / "new_eval_results.json").frame.select(pl.col("reward_base").mean()).collect().item()
    assert base == 1.0


def test_lm_eval_reads_one_filter(tmp_path: Path) -> None:
    objects = [
        {
            "doc_id": i,
            "doc": {"q": "x"},
            "target": "4",
            "resps": [["a"]],
            "filtered_resps": ["a"],
            "filter": f,
            "exact_match": float(i % 3 == 0),
        }
        for i in range(9)
        for f in ("strict", "flexible")
    ]
    log = read(make.lines(tmp_path / "samples_gsm8k.jsonl", objects))
    figures = key_figures(log)
    assert (figures["rollouts"], figures["groups"], figures["mean_reward"]) == (9, 9, pytest.approx(1 / 3))
    assert "9 rows" in " ".join(log.coverage.notes)


def test_csv_with_quotes_newlines_and_a_ragged_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt", "completion", "correct"])
        writer.writerow(["p1", 'said "x",\nthen y', "1"])
        writer.writerow(["p1", "z", "0"])
        writer.writerow(["p2", "z"])
        writer.writerow(["p2", "z", "1", "4"])
        writer.writerow(["p2", "w", "1"])
    log = read(path)
    figures = key_figures(log)
    assert (figures["rollouts"], figures["groups"], figures["broken_lines"]) == (3, 2, 2)
    assert [place.line for place in log.broken] == [5, 6]
    assert log.frame.select("completion").collect().to_series()[0] == 'said "x",\nthen y'


def test_numbers_in_file_names_are_iterations_of_a_plain_table(tmp_path: Path) -> None:
    for step in (1, 2):
        make.lines(
            tmp_path / f"step_{step}.jsonl",
            [{"prompt": "a", "reward": 1.0}, {"prompt": "a", "reward": float(step - 1)}],
        )
    figures = key_figures(read(tmp_path))
    assert (figures["groups"], figures["mixed_share"]) == (2, 0.5)
