"""No option of a reader is ignored: every format × every option, used rightly, misspelt, and where it does not apply.

Oracles: the reward that was chosen is recomputed from the rows that were written; a format that is not in `RIGHT` for
an option must refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from logs_data import make
from onedial.analysis.logs import FORMATS, Log, read
from onedial.core.errors import ConfigError, DataError

ROWS = make.rollouts(3, iterations=2)
MEAN = sum(row.reward or 0.0 for row in ROWS) / len(ROWS)
MEAN_FORMAT = sum(0.5 * (row.index % 2) for row in ROWS) / len(ROWS)


def swift(folder: Path) -> Path:
    path = make.swift(folder, ROWS) / "completions.jsonl"
    flushes = [json.loads(line) for line in path.read_text().splitlines()]
    make.lines(path, ({**flush, "Format": [0.5] * len(flush["prompt"])} for flush in flushes))
    return folder


def humaneval(folder: Path) -> Path:
    objects = [{"task_id": f"t{r.prompt}", "completion": r.completion, "passed": bool(r.reward)} for r in ROWS]
    return make.lines(folder / "samples.jsonl_results.jsonl", objects)


def evalplus(folder: Path) -> Path:
    tasks: dict[str, list[Any]] = {}
    for row in ROWS:
        status = {"base_status": "pass", "plus_status": "pass" if row.reward else "fail", "solution": row.completion}
        tasks.setdefault(f"t{row.prompt}", []).append(status)
    path = folder / "x_eval_results.json"
    path.write_text(json.dumps({"eval": tasks}))
    return path


def lm_eval(folder: Path) -> Path:
    rows = [
        {"doc_id": i, "doc": {}, "filtered_resps": [r.completion], "exact_match": r.reward, "acc_norm": 0.25}
        for i, r in enumerate(ROWS)
    ]
    return make.lines(folder / "samples_gsm8k.jsonl", rows)


def lists(folder: Path) -> Path:
    rows = [
        {
            "problem": f"p{i}",
            "correctness": [True, i % 2 == 0],
            "second_verdicts": [False, False],
            "area": "x",
            "written": ["a", "b"],
        }
        for i in range(8)
    ]
    return make.lines(folder / "lists.jsonl", rows)


def rates(folder: Path) -> Path:
    rows = [{"question": f"p{i}", "solve_rate": i / 8, "pass_rate_big": 0.5, "area": "x"} for i in range(9)]
    return make.lines(folder / "rates.jsonl", rows)


def table(folder: Path) -> Path:
    return make.lines(folder / "a.jsonl", ({**row, "style": 0.25, "area": "x"} for row in make.table(ROWS)))


WRITERS: dict[str, Callable[[Path], Path]] = {
    "onedial": lambda folder: make.onedial_run(folder, ROWS),
    "traces": lambda folder: make.prime_rl(folder, ROWS),
    "verifiers": lambda folder: make.verifiers(folder, ROWS),
    "open-instruct": lambda folder: make.open_instruct(folder, ROWS),
    "tinker": lambda folder: make.tinker(folder, ROWS),
    "nemo-rl": lambda folder: make.nemo(folder, ROWS),
    "ms-swift": swift,
    "trl": lambda folder: make.trl(folder, ROWS, second=True),
    "verl": lambda folder: make.verl_legacy(folder, ROWS, acc=True),
    "lm-eval": lm_eval,
    "evalplus": evalplus,
    "sample-lists": lists,
    "humaneval": humaneval,
    "rates": rates,
    "table": table,
}
NAMES = {"traces": "prime-rl"}  # what the log calls itself, where that is more particular
KEYWORDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "map": lambda value: {"columns": dict([value.split("=")])},
    "outcome": lambda value: {"outcome": value},
    "tries": lambda value: {"tries": int(value)},
}


def mean_reward(log: Log) -> float:
    training = log.frame.filter((pl.col("split") != "eval").fill_null(True)).select(pl.col("outcome_reward").mean())
    return float(training.collect().item()) if log.kind == "rollouts" else float("nan")


def sources(log: Log) -> set[str]:
    return set(log.frame.select("source").collect().to_series())


# (format, option) → (a right value, a misspelt one or None, what reading it so must give)
Check = Callable[[Log], bool]
RIGHT: dict[tuple[str, str], tuple[str, str | None, Check]] = {
    ("onedial", "outcome"): ("answer", "answr", lambda log: mean_reward(log) == pytest.approx(MEAN)),
    ("traces", "outcome"): ("extra", "extr", lambda log: mean_reward(log) == 0),
    ("verifiers", "outcome"): ("num_turns", "num_turn", lambda log: log.frame.select(
        (pl.col("outcome_reward") == 1).all()).collect().item()),
    ("tinker", "outcome"): ("format", "fromat", lambda log: mean_reward(log) == 1),
    ("ms-swift", "outcome"): ("Format", "Formt", lambda log: mean_reward(log) == 0.5),
    ("trl", "outcome"): ("format_reward", "fromat_reward", lambda log: mean_reward(log) == pytest.approx(MEAN_FORMAT)),
    ("verl", "outcome"): ("score", "scor", lambda log: mean_reward(log) < MEAN),
    ("lm-eval", "outcome"): ("acc_norm", "acc_nrm", lambda log: log.frame.select(
        (pl.col("outcome_reward") == 0.25).all()).collect().item()),
    ("evalplus", "outcome"): ("base", "bse", lambda log: log.frame.select(
        (pl.col("outcome_reward") == 1).all()).collect().item()),
    ("table", "outcome"): ("style", "stile", lambda log: mean_reward(log) == 0.25),
    ("table", "map"): ("source=area", "source=aera", lambda log: sources(log) == {"x"}),
    ("sample-lists", "map"): ("correct=second_verdicts", "correct=second_verdict", lambda log: mean_reward(log) == 0),
    ("rates", "map"): ("source=area", "source=aera", lambda log: sources(log) == {"x"}),
    ("rates", "tries"): ("16", None, lambda log: set(log.frame.select("n").collect().to_series()) == {16}),
}  # fmt: skip
ANYTHING = {"map": "prompt=x", "outcome": "accuracy", "tries": "8"}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("option", KEYWORDS)
def test_an_option_has_its_effect_or_is_refused(form: str, option: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path)
    if (form, option) not in RIGHT:
        with pytest.raises(DataError) as refused:
            read(path, **KEYWORDS[option](ANYTHING[option]))
        message = str(refused.value)
        assert message.startswith(f"--{option} {ANYTHING[option]}") and FORMATS[form].title in message
        assert "This format takes" in message
        for other in KEYWORDS:
            assert (f"--{other}" in message.split("This format takes")[1]) == (
                (form, other) in RIGHT or "none of" in message
            ), other
        return
    value, misspelt, check = RIGHT[form, option]
    before, after = read(path), read(path, **KEYWORDS[option](value))
    assert after.format == before.format == NAMES.get(form, form)
    assert check(after)
    if form != "onedial":  # its one component is the outcome
        assert not check(before), "the option changed nothing"
    if misspelt is not None:
        with pytest.raises(DataError, match="did you mean") as refused:
            read(path, **KEYWORDS[option](misspelt))
        assert value.rpartition("=")[2] in str(refused.value)


@pytest.mark.parametrize("form", FORMATS)
def test_every_name_that_map_may_give_is_read_and_every_other_refused(form: str, tmp_path: Path) -> None:
    """For tables: our own names of columns, one by one; a name that would not be read is not allowed."""
    path = WRITERS[form](tmp_path)
    columns: dict[str, dict[str, str]] = {"table": {}, "rates": {}, "sample-lists": {
        "completion": "written", **dict.fromkeys(("correct", "outcome_reward", "completion_tokens"), "second_verdicts"),
    }}  # fmt: skip
    other = {"table": "style", "rates": "pass_rate_big", "sample-lists": "area"}
    if form not in columns:
        assert not FORMATS[form].maps
        return
    with pytest.raises(DataError, match="did you mean 'source'"):
        read(path, columns={"sorce": "area"})
    with pytest.raises(DataError, match="completion_chars|it takes"):
        read(path, form, columns={"completion_chars": other[form]})
    for ours in FORMATS[form].maps:
        name = "reward_style" if ours == "reward_" else ours
        theirs = columns[form].get(ours, other[form])
        log = read(path, form, columns={name: theirs})
        assert theirs not in log.ignored, ours
        assert name not in log.missing, ours


def test_the_map_decides_between_rates_and_rollouts(tmp_path: Path) -> None:
    path = make.lines(tmp_path / "a.jsonl", [{"question": f"p{i}", "acc": i % 3 / 2, "x": "a"} for i in range(9)])
    assert read(path, columns={"rate": "acc"}).kind == "rates"
    assert read(path, columns={"outcome_reward": "acc"}).kind == "rollouts"


@pytest.mark.parametrize("tries", [0, -3, 10**7, True])
def test_tries_out_of_range(tries: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from 1 to"):
        read(rates(tmp_path), tries=tries)


def test_tries_that_the_table_gives_itself_or_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in its column 'n'"):
        read(make.lines(tmp_path / "a.jsonl", [{"question": "a", "solve_rate": 0.5, "n": 8}]), tries=4)
    with pytest.raises(DataError, match="fractions"):
        read(make.lines(tmp_path / "b.jsonl", [{"question": "a", "difficulty": "3/8", "pass_rate": "3/8"}]), tries=4)
    notes = read(rates(tmp_path), tries=7).coverage.notes
    assert any("no multiple of 1/7" in note for note in notes)
    assert not any("no multiple" in note for note in read(rates(tmp_path), tries=24).coverage.notes)


def test_a_reward_is_not_named_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="both name the outcome"):
        read(table(tmp_path), columns={"correct": "is_correct"}, outcome="style")
    with pytest.raises(DataError, match="no such reward"):
        read(table(tmp_path), outcome="question")
