"""The records of a file of any kind, one dict each, with its line or row number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from onedial.core.tables.arrow_parts import DAMAGE, is_arrow_file, read_stream_batches
from onedial.core.tables.csv_records import find_separator, read_csv_rows
from onedial.core.tables.expansion import check_expansion
from onedial.core.tables.file_bytes import describe_failure, make_plain_copy, open_bytes, read_some
from onedial.core.tables.file_kinds import FileKind, kind_of_content
from onedial.core.tables.json_records import read_json_document, read_json_values
from onedial.core.tables.read_errors import ReadErrors

Record = dict[str, Any]
BATCH = 5_000
HEADER_BYTES = 1 << 20


def read_records(path: Path, errors: ReadErrors) -> Iterator[tuple[int, Record]]:
    """(number, record) of a jsonl, json, csv, tsv, parquet or arrow file, compressed or not.

    Lines are counted as in the file, rows of tables and items of JSON lists from 1. What cannot be read goes into
    `errors`, which may raise. A JSON document must be a list of objects. Fields of separated values are whole numbers
    or floats where all values of their column are, else text.
    """
    try:
        kind = kind_of_content(path)
    except (ValueError, OSError) as problem:
        errors.add(path, 0, describe_failure(problem))
        return
    if kind == "jsonl":
        yield from _check_objects(path, read_json_values(path, errors), errors)
    elif kind == "json":
        yield from _document_records(path, errors)
    elif kind is None:
        errors.add(path, 0, "unknown kind of file: neither its content nor its name shows it")
    else:
        yield from _table_records(path, kind, errors)


def _check_objects(path: Path, values: Iterator[tuple[int, Any]], errors: ReadErrors) -> Iterator[tuple[int, Record]]:
    for number, value in values:
        if isinstance(value, dict):
            yield number, value
        else:
            shown = repr(value)[:60]
            errors.add(path, number, f"must be a JSON object with columns, got {type(value).__name__}: {shown}")


def _document_records(path: Path, errors: ReadErrors) -> Iterator[tuple[int, Record]]:
    document = read_json_document(path, errors)
    if document is None:
        return
    if not isinstance(document, list) or not all(isinstance(value, dict) for value in document):
        errors.add(path, 0, "must hold a list of objects, one per record")
        return
    yield from enumerate(document, 1)


def _table_records(path: Path, kind: FileKind, errors: ReadErrors) -> Iterator[tuple[int, Record]]:
    file, number = make_plain_copy(path, errors), 0
    try:
        for frame in _frames(file, kind, errors):
            for record in frame.iter_rows(named=True):
                number += 1
                yield number, record
    except (*DAMAGE, OSError, ValueError) as problem:
        if kind in ("csv", "tsv"):
            list(read_csv_rows(file, _find_separator(file, kind), errors))  # names the line, where it can be named
        errors.add(path, 0, f"cannot be read as {kind}: {describe_failure(problem)}")


def _frames(file: Path, kind: FileKind, errors: ReadErrors) -> Iterator[pl.DataFrame]:
    if kind in ("csv", "tsv"):
        yield pl.read_csv(file, separator=_find_separator(file, kind), infer_schema_length=None, glob=False)
        return
    check_expansion(file, kind)
    if kind == "arrow" and not is_arrow_file(file):
        yield from read_stream_batches(file, errors)
        return
    lazy = pl.scan_ipc(file) if kind == "arrow" else pl.scan_parquet(file, glob=False)
    yield from lazy.collect_batches(chunk_size=BATCH, maintain_order=True)


def _find_separator(file: Path, kind: FileKind) -> str:
    with open_bytes(file) as stream:
        text = read_some(stream, HEADER_BYTES)[0].decode("utf-8-sig", errors="replace")
    return find_separator(text, kind)
