"""Functions that several readers share: building the log, checking columns, splits and steps of paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from onedial.analysis.logs.formats import Sample
from onedial.analysis.logs.schema import ROLLOUT_COLUMNS, Coverage, Log, cast_to_schema
from onedial.core.errors import DataError

EVALUATION = re.compile(
    r"^(val|valid|validation|eval|evals|evaluation)([_\-.]|\d|$)|^test([_\-](set|data|split|rollouts?).*)?(\.\w+)*$",
    re.IGNORECASE,
)
LENGTHS = ("completion_tokens", "prompt_tokens", "completion_chars")
MAX_LENGTH = 10**9
TRAINING = re.compile(r"^(train|training)([_\-.]|\d|$)", re.IGNORECASE)
STEP_FOLDER = re.compile(r"^(?:global_)?(?:step|iteration|iter)[_\-]?([0-9]{1,15})(?![0-9])")
STEP_FILE = re.compile(r"^([0-9]{1,15})\.\w+")
OUTCOME_NAME = re.compile(
    r"^(reward[_/])?(acc|accuracy|correct|correctness|is_correct|exact_match|correct_answer|answer_correct|math_correct)"
    r"([_\-]?(reward|score))?([_\-]?func(tion)?)?$",
    re.IGNORECASE,
)


def make_log(
    name: str,
    title: str,
    frame: pl.LazyFrame,
    *,
    coverage: Coverage,
    samples: Sequence[Sample],
    why: Mapping[str, str] | None = None,
    ignored: Iterable[str] = (),
    right: float | None = None,
) -> Log:
    """Returns the log of a reader: all columns of the schema, with a reason for each one that the frame lacks."""
    frame, note = drop_odd_lengths(frame)
    coverage = replace(coverage, notes=(*coverage.notes, note)) if note else coverage
    have = set(frame.collect_schema().names())
    reasons = why or {}
    missing = {
        column: reasons.get(column, f"{title} does not log it") for column in ROLLOUT_COLUMNS if column not in have
    }
    return Log(
        kind="rollouts",
        frame=cast_to_schema(frame, ROLLOUT_COLUMNS),
        format=name,
        coverage=coverage,
        missing=missing,
        files=tuple(sample.file for sample in samples),
        ignored=tuple(sorted(name for name in ignored if "." not in name)),
        right=right,
    )


def drop_odd_lengths(frame: pl.LazyFrame) -> tuple[pl.LazyFrame, str]:
    """Sets lengths below 0 or beyond `MAX_LENGTH` to null. Returns their number as a sentence, or an empty text."""
    types = frame.collect_schema()
    names = [name for name in LENGTHS if name in types and types[name].is_numeric()]
    if not names:
        return frame, ""
    odd = {name: ~pl.col(name).is_between(0, MAX_LENGTH) for name in names}
    counts = frame.select(expr.sum().alias(name) for name, expr in odd.items()).collect(engine="streaming").row(0)
    if not any(counts):
        return frame, ""
    kept = [pl.when(~odd[name]).then(pl.col(name)).alias(name) for name in names]
    shown = join_names([f"{name} ({count:,})" for name, count in zip(names, counts, strict=True) if count])
    return frame.with_columns(
        kept
    ), f"Lengths that cannot be, negative or beyond {MAX_LENGTH:,}, were left out: {shown}."


def require(raw: pl.LazyFrame, title: str, samples: Sequence[Sample], *needed: str) -> pl.Schema:
    """Returns the schema of a table. Raises DataError when it lacks a column of `needed`."""
    have = raw.collect_schema()
    seen = sorted(set().union(*(sample.columns for sample in samples)))
    absent = [name for name in needed if name not in have or name not in seen]
    if absent:
        raise DataError(
            f"{samples[0].file}: {title} has {join_names(needed)}, and here there is no {join_names(absent)}. "
            f"Columns seen: {join_names([repr(name) for name in seen], 30) or 'none'}. "
            "Leave --format out to have the format detected, or name your columns with --map"
        )
    return have


def find_split(file: Path | str) -> str | None:
    """ "train" or "eval", as the name of the file says, or else the nearest folder above it; None if none does."""
    for part in reversed(Path(file).parts):
        if EVALUATION.match(part):
            return "eval"
        if TRAINING.match(part):
            return "train"
    return None


def find_step(file: Path | str) -> int | None:
    """Returns the step in a path such as rollouts/step_12/… or 12.jsonl; None when there is none."""
    for part in reversed(Path(file).parts):
        found = STEP_FOLDER.match(part) or STEP_FILE.match(part)
        if found:
            return int(found.group(1))
    return None


def column_per_file(samples: Sequence[Sample], values: Mapping[str, object], dtype: pl.DataType) -> pl.Expr:
    """Returns an expression with a constant per file, by the column `__file`."""
    return pl.col("__file").replace_strict(dict(values), default=None, return_dtype=dtype)


def find_outcome_component(names: Sequence[str]) -> str | None:
    """Returns the one component whose name means correctness; None when there is none or more than one."""
    found = [name for name in names if OUTCOME_NAME.match(name)]
    return found[0] if len(found) == 1 else None


def join_names(items: Sequence[str], limit: int = 6) -> str:
    """`a, b and c`, cut after `limit` items."""
    shown = list(items[:limit])
    if len(items) > limit:
        return ", ".join(shown) + f" and {len(items) - limit} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def format_count(number: int, one: str, many: str | None = None) -> str:
    """`1 line`, `2,000 lines`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
