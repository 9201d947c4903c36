"""How a rate table is read: which column, which number of tries, what is set aside. Oracle: each table by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logs_data import make
from onedial.analysis.logs import read
from onedial.analysis.logs.readers.rates import find_grid
from onedial.analysis.logs.schema import Log
from onedial.core.errors import DataError


def table(path: Path, rates: list[Any], name: str = "solve_rate", **columns: list[Any]) -> Path:
    rows = [{"problem": f"p{i}", name: rate, **{k: v[i] for k, v in columns.items()}} for i, rate in enumerate(rates)]
    return make.lines(path / "rates.jsonl", rows)


def counts(log: Log) -> list[tuple[Any, Any, Any]]:
    return log.frame.select("rate", "k", "n").collect().rows()


def notes(log: Log) -> str:
    return " ".join(log.coverage.notes)


def test_tries_are_taken_from_where_the_table_tells_them(tmp_path: Path) -> None:
    cases: list[tuple[str, list[Any], dict[str, Any], list[tuple[Any, Any, Any]], str]] = [
        ("counts", [0.5, 0.25], {"n_total": [8, 4]}, [(0.5, 4, 8), (0.25, 1, 4)], ""),
        (
            "right",
            [0.5, 0.25, 0.0],
            {"n_correct": [4, 2, 0]},
            [(0.5, 4, 8), (0.25, 2, 8), (0.0, 0, 8)],
            "is 8 in every",
        ),
        ("fraction", ["3/8", "1 / 4"], {}, [(0.375, 3, 8), (0.25, 1, 4)], ""),
        ("percent", ["50%", "25 %"], {}, [(0.5, 2, 4), (0.25, 1, 4)], "4 is the smallest"),
        ("hundred", [50, 25, 0], {}, [(0.5, 2, 4), (0.25, 1, 4), (0.0, 0, 4)], "read as percentages"),
        ("grid", [0.125, 0.5, 1.0], {}, [(0.125, 1, 8), (0.5, 4, 8), (1.0, 8, 8)], "8 is the smallest"),
        (
            "none",
            [0.0, 1.0, 1.0],
            {},
            [(0.0, None, None), (1.0, None, None), (1.0, None, None)],
            "give it with --tries",
        ),
    ]
    for name, rates, columns, want, said in cases:
        log = read(table(tmp_path / name, rates, **columns), format="rates")
        assert counts(log) == want, name
        assert said in notes(log), name
    log = read(table(tmp_path / "name", [0.5, 0.25], "avg@16"), format="rates")
    assert counts(log) == [(0.5, 8, 16), (0.25, 4, 16)] and "says that 16 rollouts" in notes(log)
    log = read(table(tmp_path / "one", [0.5, 0.25], "pass@1"), format="rates")
    assert counts(log) == [(0.5, 2, 4), (0.25, 1, 4)], "pass@1 is a mean over tries, not one try"


def test_a_count_that_gives_two_numbers_of_tries_gives_none(tmp_path: Path) -> None:
    log = read(table(tmp_path, [0.5, 0.25, 0.125], n_correct=[4, 1, 1]), format="rates")
    assert counts(log) == [(0.5, 4, 8), (0.25, 2, 8), (0.125, 1, 8)] and "inferred, not given" in notes(log)


def test_a_count_of_1_tells_the_tries_as_any_other(tmp_path: Path) -> None:
    log = read(table(tmp_path, [0.0625, 0.0, 0.0], n_correct=[1, 0, 0]), format="rates")
    assert counts(log) == [(0.0625, 1, 16), (0.0, 0, 16), (0.0, 0, 16)] and "is 16 in every row" in notes(log)


def test_rows_where_count_and_rate_contradict_each_other_do_not_tell_the_tries(tmp_path: Path) -> None:
    log = read(table(tmp_path, [0.5, 0.25, 0.0], n_correct=[4, 0, 3]), format="rates")
    assert [n for _, _, n in counts(log)] == [8, 8, 8] and "is 8 in every row" in notes(log)


@pytest.mark.parametrize(("tries", "misfits"), [(8, 0), (4, 2), (100, 0)])
def test_tries_that_do_not_fit_the_rates_are_counted(tries: int, misfits: int, tmp_path: Path) -> None:
    """1/8 and 3/8 are no quarters; rounded to two decimals, 0.13 and 0.38, they still are eighths."""
    log = read(table(tmp_path, [0.13, 0.38, 0.5, 1.0]), format="rates", tries=tries)
    assert (f" {misfits} of the rates are no multiple of 1/{tries}" in notes(log)) is bool(misfits)


def test_tries_are_asked_for_only_where_the_table_is_silent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in its column 'n_total'"):
        read(table(tmp_path / "a", [0.5], n_total=[8]), format="rates", tries=4)
    with pytest.raises(DataError, match="are fractions"):
        read(table(tmp_path / "b", ["3/8"]), format="rates", tries=4)


def test_impossible_counts_are_left_empty_and_counted(tmp_path: Path) -> None:
    log = read(table(tmp_path, [0.5, 0.5, 0.5, 0.5], n_total=[8, 0, -2, 10**6 + 1]), format="rates")
    assert counts(log) == [(0.5, 4, 8)] + [(0.5, None, None)] * 3 and log.broken_lines == 3
    mapped = {"k": "n_correct", "n": "n_total"}
    path = table(tmp_path / "k", [0.5, 0.5, 0.5], n_total=[4, 4, 4], n_correct=[2, 5, -1])
    log = read(path, format="rates", columns=mapped)
    assert counts(log) == [(0.5, 2, 4), (0.5, None, 4), (0.5, None, 4)] and log.broken_lines == 2


def test_counts_alone_are_rates(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "n_correct": k, "n_total": 8} for i, k in enumerate((0, 3, 8))]
    log = read(make.lines(tmp_path / "a.jsonl", rows))
    assert counts(log) == [(0.0, 0, 8), (0.375, 3, 8), (1.0, 8, 8)] and log.format == "rates"


def test_a_series_is_one_rate_per_epoch(tmp_path: Path) -> None:
    rows = [{"problem": "a", "solve_rate": [0.25, 0.5]}, {"problem": "b", "solve_rate": [0.0, 0.75]}]
    log = read(make.lines(tmp_path / "a.jsonl", rows))
    frame = log.frame.select("prompt", "iteration", "rate").collect()
    assert frame.rows() == [("a", 1, 0.25), ("a", 2, 0.5), ("b", 1, 0.0), ("b", 2, 0.75)]
    assert "is a series" in notes(log)


@pytest.mark.parametrize(
    ("values", "detected"),
    [
        ([0.5, 0.25, None, None], True),  # half of the rows have a rate
        ([0.5, None, None, None], False),
        ([0.5, 0.25, 300.0, -4.0], True),  # half of the rates can be one: the others are noted
        ([0.5, 300.0, 200.0, -4.0], False),
        ([0.5, 0.25, 300.0, -4.0, 200.0], False),
        ([-0.5, -0.25, 0.5, -1.0], False),
        ([100, 50, 0, 101], True),
    ],
)
def test_a_column_of_rates_is_known_by_most_of_its_values(values: list[Any], detected: bool, tmp_path: Path) -> None:
    path = table(tmp_path, values)
    if detected:
        assert read(path).format == "rates"
    else:
        with pytest.raises(DataError, match="not recognized"):
            read(path)


def test_a_weak_name_needs_fractions_and_one_row_per_prompt(tmp_path: Path) -> None:
    assert read(table(tmp_path / "a", [0.5, 0.25], "difficulty")).format == "rates"
    for name, values in (("b", [0.0, 1.0]), ("c", [0.5, 3.0]), ("d", [0.5, "hard"])):
        with pytest.raises(DataError):
            read(table(tmp_path / name, values, "difficulty"))
    twice = [{"problem": "p", "score": s} for s in (0.5, 0.25)]
    assert read(make.lines(tmp_path / "e.jsonl", twice)).format == "table", "rows of one prompt are rollouts"


def test_an_id_that_repeats_is_no_id_where_there_is_a_text(tmp_path: Path) -> None:
    def ids(*values: int) -> int:
        rows = [{"id": v, "problem": f"p{i}", "solve_rate": 0.5, "source": "s"} for i, v in enumerate(values)]
        log = read(make.lines(tmp_path / f"{len(values)}{values[-1]}.jsonl", rows))
        assert log.frame.select("source").collect().to_series().to_list() == ["s"] * len(values)
        return log.frame.select("prompt_id").collect().to_series().n_unique()

    assert ids(1, 2, 3) == 3 and ids(1, 2, 1) == 3
    rows = [{"id": 7, "problem": f"p{i}", "solve_rate": 0.25} for i in range(2)]
    found = read(make.lines(tmp_path / "same.jsonl", rows)).frame.collect()
    assert found["prompt_id"].n_unique() == 2 and found["prompt"].to_list() == ["p0", "p1"]


@pytest.mark.parametrize("n", [3, 7, 12, 16, 24, 40, 48])
@pytest.mark.parametrize("digits", [2, 3])
def test_rounded_rates_still_tell_their_tries(n: int, digits: int) -> None:
    """Oracle: all rates of n tries, rounded: no smaller number explains them."""
    rates = np.round(np.arange(1, n) / n, digits)
    assert find_grid(rates) == n


def test_rates_of_a_hundred_tries_are_not_taken_for_rounded_ones() -> None:
    assert find_grid(np.arange(1, 100) / 100) == 100
    assert find_grid(np.arange(1, 1000) / 1000) == 1000
    assert find_grid(np.arange(1, 75) / 75) == 75
    assert find_grid(np.round(np.arange(1, 75) / 75, 2)) == 100, "two decimals tell nothing beyond fifty tries"
    assert find_grid(np.array([0.0, 1.0])) is None and find_grid(np.array([np.pi / 4, 0.123456789])) is None


def test_unreadable_verdicts_of_a_table_are_quoted_in_part(tmp_path: Path) -> None:
    word = "".join(chr(97 + i % 26) for i in range(60))
    rows = [{"prompt": "p", "correct": v} for v in (True, False, True, word)]
    log = read(make.lines(tmp_path / "a.jsonl", rows))
    assert log.broken_lines == 1
    said = log.broken[0].reason
    assert repr(word[:40]) in said
