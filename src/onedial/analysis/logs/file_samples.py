"""The beginning of a file of any kind, by which its format is recognized."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import polars as pl

from onedial.analysis.logs.documents import find_table
from onedial.analysis.logs.formats import SAMPLE_ROWS, Sample
from onedial.core.tables.arrow_parts import DAMAGE, is_arrow_file
from onedial.core.tables.csv_records import find_separator
from onedial.core.tables.expansion import check_expansion
from onedial.core.tables.file_bytes import describe_failure, make_plain_copy, open_bytes, read_some
from onedial.core.tables.file_kinds import FileKind, kind_of_content, kind_of_name
from onedial.core.tables.json_records import read_json_document, read_json_values
from onedial.core.tables.read_errors import ReadErrors


def take_sample(file: Path, errors: ReadErrors, root: Path | None = None) -> Sample | None:
    """The file's beginning; None if nothing of it can be read (noted in `errors`) or it holds no table."""
    if file.stat().st_size == 0:
        errors.add(file, 0, "the file is empty")
        return None
    kind = kind_of_name(file)
    try:
        kind = kind_of_content(file)
        if kind is None:
            return None
        sample = SAMPLERS[kind](file, kind, errors)
        return None if sample is None else replace(sample, place=shorten_path(file, root or file))
    except (*DAMAGE, OSError, ValueError, csv.Error) as problem:
        errors.add(file, 0, f"not a readable {kind or 'data'} file: {describe_failure(problem)}")
        return None


def shorten_path(file: Path, root: Path) -> Path:
    """The part of a path that belongs to the log: from the name of `root` on; for a single file, its last four
    folders."""
    parts = file.absolute().parts
    if file == root:
        return Path(*parts[-5:])
    return Path(*parts[-len(file.relative_to(root).parts) - 1 :])


def _sample_lines(file: Path, kind: FileKind, errors: ReadErrors) -> Sample | None:
    """A sample of lines; broken ones are not noted here, the reader that follows notes them."""
    rows = tuple(row for _, row in islice(read_json_values(file, ReadErrors()), SAMPLE_ROWS))
    if not rows:
        errors.add(file, 0, "not one line of it is JSON")
        return None
    return Sample(file, kind, rows)


def _sample_document(file: Path, kind: FileKind, errors: ReadErrors) -> Sample | None:
    document = read_json_document(file, errors)
    if document is None:
        return None
    rows = find_table(document)
    return Sample(file, kind, tuple(rows[:SAMPLE_ROWS]), document=rows or document)


def _sample_parquet(file: Path, kind: FileKind, errors: ReadErrors) -> Sample | None:
    file = make_plain_copy(file, errors)
    check_expansion(file, kind)
    lazy = pl.scan_parquet(file, glob=False)
    return Sample(file, kind, tuple(lazy.head(SAMPLE_ROWS).collect().to_dicts()), schema=dict(lazy.collect_schema()))


def _sample_arrow(file: Path, kind: FileKind, errors: ReadErrors) -> Sample | None:
    import pyarrow as pa
    import pyarrow.ipc as ipc

    file = make_plain_copy(file, errors)
    check_expansion(file, kind)
    try:
        if is_arrow_file(file):
            batch = ipc.open_file(str(file)).get_batch(0)
        else:
            with file.open("rb") as stream:
                batch = ipc.open_stream(stream).read_next_batch()
        batch.validate(full=True)  # a damaged batch would crash the process when it is looked at
        frame = pl.from_arrow(batch)
    except (pa.ArrowInvalid, StopIteration) as problem:
        raise ValueError(str(problem) or "no data") from problem
    assert isinstance(frame, pl.DataFrame)
    return Sample(file, kind, tuple(frame.head(SAMPLE_ROWS).to_dicts()), schema=dict(frame.schema))


def _sample_csv(file: Path, kind: FileKind, errors: ReadErrors) -> Sample | None:
    with open_bytes(file) as stream:
        text = read_some(stream, 1 << 20)[0].decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=find_separator(text, kind))
    rows = tuple({name: value for name, value in row.items() if name} for row in islice(reader, SAMPLE_ROWS))
    names = [name for name in reader.fieldnames or [] if name]
    return Sample(file, kind, rows, schema=dict.fromkeys(names, pl.String()), separator=reader.reader.dialect.delimiter)


SAMPLERS: dict[FileKind, Callable[[Path, FileKind, ReadErrors], Sample | None]] = {
    "jsonl": _sample_lines,
    "json": _sample_document,
    "csv": _sample_csv,
    "tsv": _sample_csv,
    "parquet": _sample_parquet,
    "arrow": _sample_arrow,
}
