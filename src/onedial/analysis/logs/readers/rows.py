"""Reads files of any kind record by record, for formats that are too nested for columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from onedial.analysis.logs.columns import FILE, read_raw
from onedial.analysis.logs.formats import Sample
from onedial.analysis.logs.lines import to_float
from onedial.core.tables.json_records import read_json_values
from onedial.core.tables.read_errors import ReadErrors

BATCH = 5_000


def iterate_objects(samples: Sequence[Sample], errors: ReadErrors) -> Iterator[tuple[Sample, int, dict[str, Any]]]:
    """Yields (file, line, object) of every record of every file; a line that is no object is noted in `errors`."""
    for sample in samples:
        if sample.kind == "jsonl":
            yield from _iterate_lines(sample, errors)
        elif sample.kind == "json":
            document = sample.document if isinstance(sample.document, list) else [sample.document]
            for number, row in enumerate(document, start=1):
                if isinstance(row, dict):
                    yield sample, number, row
                else:
                    errors.add(sample.file, number, f"item {number} is a JSON {type(row).__name__}, not an object")
        else:
            yield from _iterate_table(sample, errors)


def _iterate_lines(sample: Sample, errors: ReadErrors) -> Iterator[tuple[Sample, int, dict[str, Any]]]:
    for line, row in read_json_values(sample.file, errors):
        if isinstance(row, dict):
            yield sample, line, row
        else:
            errors.add(sample.file, line, f"a JSON {type(row).__name__}, not an object")


def _iterate_table(sample: Sample, errors: ReadErrors) -> Iterator[tuple[Sample, int, dict[str, Any]]]:
    lazy = read_raw([sample], dict.fromkeys(sample.schema, pl.String()), (), errors).drop(FILE)
    number = 0
    for batch in lazy.collect_batches(chunk_size=BATCH, maintain_order=True):
        for row in batch.iter_rows(named=True):
            number += 1
            yield sample, number, row


def read_number(value: Any) -> float | None:
    """Returns a number (not a boolean) as float, or None."""
    return None if isinstance(value, bool | str) else to_float(value)


def read_whole(value: Any) -> int | None:
    """Returns a whole number from a number or its decimal digits, or None; at most 18 digits."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def as_list(value: Any) -> list[Any]:
    """Returns a list unchanged, anything else as an empty list."""
    return value if isinstance(value, list) else []


def read_numbers(value: Any) -> list[float]:
    """Returns the numbers of a list."""
    return [item for item in map(read_number, as_list(value)) if item is not None]


def as_float(value: Any) -> float | None:
    """Returns a number or a boolean as float, or None."""
    return None if isinstance(value, str) else to_float(value)
