"""Separated values: the separator of a file, from its header, and its rows with their line numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from onedial.core.tables.file_bytes import open_bytes
from onedial.core.tables.file_kinds import FileKind
from onedial.core.tables.read_errors import ReadErrors

SEPARATORS = ",\t;|"


def find_separator(text: str, kind: FileKind) -> str:
    """The separator of the header: the one that the file name suggests, or another one if the header does not contain
    it."""
    usual = "\t" if kind == "tsv" else ","
    fields = {mark: len(_first_row(text, mark)) for mark in SEPARATORS}
    return usual if fields[usual] > 1 else max(fields, key=lambda mark: (fields[mark], mark == usual))


def _first_row(text: str, mark: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=mark), [])
    except csv.Error:
        return []


def read_csv_rows(path: Path, separator: str, errors: ReadErrors) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of the header and of every row as long as the header; other rows go into `errors`."""
    names: list[str] = []
    with open_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(_without_nul(text), delimiter=separator)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as problem:
                errors.add(path, reader.line_num, f"not CSV: {problem}")
                continue
            except (OSError, EOFError) as problem:
                errors.add(path, reader.line_num, f"the compressed data breaks off: {problem}")
                return
            if names and row and len(row) != len(names):
                errors.add(path, reader.line_num, f"{len(row)} fields where the header has {len(names)}")
            elif row:
                names = names or row
                yield reader.line_num, row


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    return (line.replace("\0", "") for line in lines)
