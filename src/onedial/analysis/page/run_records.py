"""Records of the JSON-lines files of a run, as numbers by iteration, with notes on everything that could not be
used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onedial.core.run_log import scan_json_lines

Array = NDArray[np.float64]
# Metrics that earlier versions wrote under another name, and their names now.
RENAMED_METRICS = {
    "tokens_taught": "tokens_trained",
    "taught_share": "trained_share",
    "groups_carried": "groups_surplus_used",
    "silent_right_share": "all_correct_share",
    "silent_wrong_share": "all_wrong_share",
    "tokens_silent_right": "tokens_all_correct",
    "tokens_silent_wrong": "tokens_all_wrong",
    "pair_right_share": "pair_accuracy",
}


def read_run_records(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of a JSON-lines file in the order of iterations, and a note on lines that are no records.

    A run that was resumed after a crash may have written an iteration twice: the later record counts. `iteration` is a
    float in every record. Metrics of `RENAMED_METRICS` get their present names. Raises DataError if the file cannot be
    opened.
    """
    lines, broken = scan_json_lines(path)
    records: dict[float, dict[str, Any]] = {}
    for line in lines:
        iteration = to_finite_number(line.get("iteration"))
        if iteration is None:
            broken += 1
        else:
            records[iteration] = {**rename_metrics(line), "iteration": iteration}
    ordered = [records[iteration] for iteration in sorted(records)]
    return ordered, [f"{path.name}: {broken:,} broken line{'s' * (broken > 1)} left out."] if broken else []


def rename_metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the present names of their metrics (`RENAMED_METRICS`)."""
    return {RENAMED_METRICS.get(key, key): value for key, value in values.items()}


def collect_numbers(
    records: Sequence[Mapping[str, Any]], keys: Sequence[str], name: str
) -> tuple[dict[str, Array], list[str]]:
    """Columns (T,) of some keys, NaN where a record has no number, and a note on values of another type."""
    columns: dict[str, Array] = {}
    odd: list[str] = []
    for key in keys:
        found = [(record.get(key), to_finite_number(record.get(key))) for record in records]
        odd += [key for value, number in found if value is not None and number is None]
        columns[key] = np.array([math.nan if number is None else number for _, number in found], dtype=np.float64)
    if not odd:
        return columns, []
    return columns, [f"{name}: {len(odd):,} value{'s' * (len(odd) > 1)} left out that are no number (first: {odd[0]})."]


def to_finite_number(value: Any) -> float | None:
    """A finite number as a float; None for anything else (booleans, text, NaN, integers beyond a float's range)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
