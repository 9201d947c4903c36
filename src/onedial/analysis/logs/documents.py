"""The table inside one JSON document, in the forms that various tools write."""

from __future__ import annotations

from typing import Any


def find_table(document: Any) -> list[Any]:
    """The rows of a JSON document: a list, the one list of objects in it, columns, columns and data, or {name: row}."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict) or not document or isinstance(document.get("eval"), dict):
        return []
    names, data = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, names), row, strict=False)) for row in data]  # a table of wandb, or pandas' split
    results = document.get("results")
    if "name" in document and isinstance(results, list) and all(map(_is_run, results)):  # one problem of MultiPL-E
        shared = {"task_id": document["name"], "prompt": document.get("prompt")}
        return [{**shared, "completion": r.get("program"), "passed": r["status"] == "OK"} for r in results]
    lists = [value for value in document.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1:
        return lists[0]
    values = list(document.values())
    if all(isinstance(value, list) for value in values):
        return _series(document) or _turned(document)
    if not all(isinstance(value, dict) and value for value in values):
        return []
    first = values[0]
    if all(set(value) == set(first) for value in values) and all(
        not isinstance(v, dict | list) for v in first.values()
    ):
        by_column = len(first) > len(document) and all(str(name).isdigit() for name in first)
        if by_column:  # pandas' {column: {row: value}}
            return [{name: document[name][row] for name in document} for row in first]
    if any(
        {"correct", "passed", "score", "reward", "pass_rate", "solve_rate"} & set(map(str, value)) for value in values
    ):
        return [{"task_id": name, **value} for name, value in document.items()]
    return []


def _is_run(result: Any) -> bool:
    return isinstance(result, dict) and {"status", "exit_code"} <= set(result)


def _series(document: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """{prompt: [rate, rate, …]} → rows, if every number is a share and some lie between 0 and 1."""
    numbers = [number for values in document.values() for number in values]
    shares = bool(numbers) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1 for x in numbers
    )
    if not shares or all(x in (0, 1) for x in numbers):
        return []
    return [{"task_id": name, "rates": values} for name, values in document.items()]


def _turned(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """{column: [values]} → rows, if all columns are equally long and have names that a table would have."""
    lengths = {len(values) for values in columns.values()}
    words = {
        "prompt",
        "question",
        "problem",
        "task_id",
        "correct",
        "passed",
        "reward",
        "score",
        "completion",
        "response",
    }
    if len(lengths) != 1 or not words & set(columns):
        return []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
