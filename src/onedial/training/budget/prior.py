"""What is known about prompts before training: the rollouts of an earlier run, or a table of solve rates.

A table has a column of prompts (`prompt_id`, or the text as `prompt`), and either `correct` and `tries`, or
`solve_rate` (with `tries` if they are known). `level` and `source` are optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onedial.core.errors import DataError
from onedial.core.paths import expand_path
from onedial.core.types import Prompt
from onedial.training.budget.features import Described, text_features
from onedial.training.tasks.data_files import read_rows

Prior = list[tuple[Described, float, float]]
REMEDY = "columns prompt_id or prompt, and solve_rate, or correct and tries"


def read_prior(place: str, *, most_tries: float) -> Prior:
    """Each prompt with its correct rollouts and tries, scaled down to at most `most_tries` tries per prompt.

    `place` is the directory of a run or a table (csv, json, jsonl, parquet). A prompt without an id gets the id of a
    chat whose only message is its text, which is what tasks make of it. Raises DataError naming file and row.
    """
    path = expand_path(place, "allocator.prior")
    counts = _read_run(path) if path.is_dir() else _read_table(path)
    if not counts:
        raise DataError(f"allocator.prior={place!r}: holds no prompt; give {REMEDY}, or the directory of a run")
    scaled = []
    for prompt, correct, tries in counts:
        factor = min(1.0, most_tries / tries) if tries > 0 else 0.0
        scaled.append((prompt, factor * correct, factor * tries))
    return scaled


def _read_run(folder: Path) -> Prior:
    files = sorted((folder / "rollouts").glob("*.parquet"))
    columns = ["prompt_id", "prompt", "source", "level", "correct"]
    counts: dict[str, list[Any]] = {}
    for file in files:
        try:
            rows = pq.read_table(file, columns=columns).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file}: not a readable rollouts file: {error}") from error
        for row in rows:
            if row["correct"] is not None:
                own = counts.setdefault(row["prompt_id"], [row, 0.0, 0.0])
                own[1] += row["correct"]
                own[2] += 1.0
    return [(_described(row), correct, tries) for row, correct, tries in counts.values()]


def _read_table(path: Path) -> Prior:
    return [_read_row(row, f"{path}, row {number}") for number, row in read_rows(str(path))]


def _read_row(row: Mapping[str, Any], where: str) -> tuple[Described, float, float]:
    if not row.get("prompt_id") and not row.get("prompt"):
        raise DataError(f"{where}: no prompt; a table of solve rates has {REMEDY}")
    try:
        tries = float(1.0 if row.get("tries") is None else row["tries"])
        correct = tries * float(row["solve_rate"]) if row.get("correct") is None else float(row["correct"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{where}: no numbers in solve_rate, or in correct and tries; give {REMEDY}") from None
    if not 0 <= correct <= tries < float("inf"):
        raise DataError(f"{where}: {correct:g} correct of {tries:g} tries; a solve rate lies in [0, 1]")
    return _described(row), correct, tries


def _described(row: Mapping[str, Any]) -> Described:
    text, source = str(row.get("prompt") or ""), str(row.get("source") or "")
    name = str(row.get("prompt_id") or Prompt(messages=({"role": "user", "content": text},)).id)
    return Described(name, text_features(str(row.get("level") or "all"), source, text))
