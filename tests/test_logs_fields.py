"""No field of a log is relied on without being asked for: every field dropped and emptied, one and two at a time.

Oracle: the contract of `read`. Whatever a file lacks, the answer is figures or one DataError, never another exception;
and a field that only one row lacks costs at most that row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from findings_logs import all_findings, key_figures
from logs_data import make
from onedial.analysis.logs import FORMATS, read
from onedial.analysis.logs.splits import select_split
from onedial.core.errors import DataError

Rows = list[dict[str, Any]]
ROWS = make.rollouts(1, iterations=2, prompts=3)
LONG = make.rollouts(2, iterations=2, prompts=3, errors=True)


def _lines(write: Callable[[Path, list[make.Row]], Path]) -> Callable[[Path], Rows]:
    """The objects that one of the writers of `make` writes, in order."""

    def rows(folder: Path) -> Rows:
        files = sorted(file for file in write(folder, ROWS).rglob("*.jsonl") if "metadata" not in file.name)
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    return rows


def _parquets(write: Callable[[Path, list[make.Row]], Path]) -> Callable[[Path], Rows]:
    def rows(folder: Path) -> Rows:
        return [
            row for file in sorted(write(folder, ROWS).rglob("*.parquet")) for row in pl.read_parquet(file).to_dicts()
        ]

    return rows


def _trl(folder: Path, rows: list[make.Row]) -> Path:
    return make.trl(folder, rows, second=True)


def _acc(folder: Path, rows: list[make.Row]) -> Path:
    return make.verl_legacy(folder, rows, acc=True)


SOURCES: dict[str, tuple[str, str, Callable[[Path], Rows]]] = {
    "onedial": ("onedial", "a.parquet", _parquets(make.onedial_run)),
    "trl": ("trl", "a.parquet", _parquets(_trl)),
    "verl legacy": ("verl", "a.jsonl", _lines(_acc)),
    "verl v1": ("verl", "a.jsonl", _lines(make.verl_v1)),
    "traces": ("traces", "traces.jsonl", lambda _: [make.episode(row) for row in LONG]),
    "flat traces": ("traces", "traces.jsonl", lambda _: [make.episode(row)["traces"][0] for row in LONG]),
    "verifiers": ("verifiers", "results.jsonl", _lines(make.verifiers)),
    "open-instruct": ("open-instruct", "a.jsonl", _lines(make.open_instruct)),
    "tinker": ("tinker", "a.jsonl", _lines(make.tinker)),
    "nemo": ("nemo-rl", "train_data_step1.jsonl", _lines(make.nemo)),
    "swift": ("ms-swift", "completions.jsonl", _lines(make.swift)),
    "table": ("table", "a.jsonl", lambda _: make.table(ROWS)),
    "table parquet": ("table", "a.parquet", lambda _: make.table(ROWS)),
    "table csv": ("table", "a.csv", lambda _: make.table(ROWS)),
    "humaneval": ("humaneval", "a.jsonl", lambda _: [
        {"task_id": f"t/{r.prompt}", "completion": "x", "result": "passed", "passed": bool(r.reward)} for r in ROWS
    ]),
    "lm-eval": ("lm-eval", "samples_a.jsonl", lambda _: [
        {"doc_id": i, "doc": {"q": "x"}, "target": "4", "resps": [["a"]], "filtered_resps": ["a"], "filter": "none",
         "metrics": ["exact_match"], "exact_match": float(i % 3 == 0)} for i in range(9)
    ]),
    "lists": ("sample-lists", "a.jsonl", lambda _: [
        {"question_id": str(p), "graded_list": [True, p % 2 == 0], "code_list": ["x", "y"], "difficulty": "easy",
         "problem": f"p{p}", "completion_lengths": [3, 4]} for p in range(5)
    ]),
    "rates": ("rates", "a.jsonl", lambda _: [
        {"prompt_text": f"p{k}", "id": k, "solve_rate": k / 16, "n_correct": k, "n": 16, "answer": "4", "source": "s",
         "level": 1, "iteration": 1} for k in (0, 1, 8, 15, 16)
    ]),
    "rate series": ("rates", "a.parquet", lambda _: [
        {"prompt_text": f"p{k}", "id": k, "acc_per_epoch_of_8": [k / 8, 0.5], "answer": "4"} for k in (0, 1, 8)
    ]),
}  # fmt: skip


def _write(path: Path, rows: Rows) -> Path:
    frame = pl.DataFrame(rows, infer_schema_length=None) if path.suffix != ".jsonl" else None
    if frame is None:
        return make.lines(path, rows)
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field of an object and of the objects inside it (of a list, its last element)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*above, name)
            yield from _paths(inner, (*above, name))
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for index, inner in enumerate(value[-1:], start=len(value) - 1):
            yield from _paths(inner, (*above, index))


def _without(row: Any, path: tuple[Any, ...], empty: bool) -> Any:
    """`row` without the field at `path`, or with a null there; as it is where it has no such field."""
    head, rest = path[0], path[1:]
    if isinstance(row, list) and isinstance(head, int) and head < len(row):
        return [_without(item, rest, empty) if i == head else item for i, item in enumerate(row)]
    if not isinstance(row, dict) or head not in row:
        return row
    if rest:
        return {**row, head: _without(row[head], rest, empty)}
    return {**row, head: None} if empty else {name: value for name, value in row.items() if name != head}


def _figures(path: Path, **options: Any) -> dict[str, Any] | None:
    try:
        figures = key_figures(select_split(read(path, **options)))
    except DataError as error:
        assert str(error)
        return None
    json.dumps(figures)
    return figures


def _findings(path: Path, **options: Any) -> None:
    try:
        all_findings(select_split(read(path, **options)))
    except DataError as error:
        assert str(error)


@pytest.mark.parametrize("source", SOURCES)
def test_whatever_field_is_missing_or_empty_there_are_figures_or_one_error(source: str, tmp_path: Path) -> None:
    """Each field in all rows and in one, dropped and null; with the format detected, and named by the person."""
    name, file, rows_of = SOURCES[source]
    rows, path = rows_of(tmp_path / "made")[:5], tmp_path / file
    whole = _figures(_write(path, rows))
    assert whole is not None and whole["format"] in (name, "verifiers-v1")
    for field in _paths(rows[0]):
        for empty in (False, True):
            _figures(_write(path, [_without(rows[0], field, empty), *rows[1:]]))
            _figures(_write(path, [_without(row, field, empty) for row in rows]))
            if not empty:
                _figures(path, format=name, text=False)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_whatever_two_fields_are_missing_there_are_figures_or_one_error(source: str, tmp_path: Path) -> None:
    """As above for pairs of outer fields: null, and dropped with all findings of the page."""
    name, file, rows_of = SOURCES[source]
    rows, path = rows_of(tmp_path / "made"), tmp_path / file
    for first, second in combinations(rows[0], 2):
        _figures(_write(path, [_without(_without(row, (first,), True), (second,), True) for row in rows]))
        _findings(_write(path, [_without(_without(row, (first,), False), (second,), False) for row in rows]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_log_read_as_another_format_is_figures_or_one_error(source: str, name: str, tmp_path: Path) -> None:
    _, file, rows_of = SOURCES[source]
    _figures(_write(tmp_path / file, rows_of(tmp_path / "made")), format=name)
