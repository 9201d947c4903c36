"""What a reader is: the sample it looks at to recognise a file, and the row of the table it fills."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from onedial.analysis.logs.lines import clean, json_rows
from onedial.analysis.logs.log_files import (
    FileKind,
    ReadErrors,
    file_kind,
    kind_of,
    load_json,
    open_bytes,
    plain_copy,
    read_some,
)
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.repair import reason_of
from onedial.analysis.logs.schema import Log

SAMPLE_ROWS = 50


@dataclass(frozen=True)
class Sample:
    """A file and its beginning.

    `rows` holds up to SAMPLE_ROWS objects, `document` a whole JSON file. `place` is the file as seen from just above
    what the person named, so that folders further up (…/test_runs/…) say nothing about split and step. `separator`
    stands between the fields of csv; with `repair` damaged parts of parquet and arrow files are looked for, and left
    out.
    """

    file: Path
    kind: FileKind
    rows: tuple[Any, ...] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)
    document: Any = None
    place: Path = Path()
    separator: str = ","
    repair: bool = False

    @property
    def columns(self) -> set[str]:
        """Names of the fields in the sample (of the whole schema where the file carries one).

        The fields of an object are named with a dot as well: extra_info.solve_rate.
        """
        names = set(self.schema)
        for row in (row for row in self.rows if isinstance(row, dict)):
            names.update(row)
            names.update(f"{name}.{inner}" for name, value in row.items() if isinstance(value, dict) for inner in value)
        return {name for name in names if isinstance(name, str) and clean(name) == name}

    def has(self, *names: str) -> bool:
        """Whether all these fields occur."""
        return self.columns.issuperset(names)

    def values(self, name: str) -> list[Any]:
        """The sampled values of a field that are not null."""
        found = [field_of(row, name) for row in self.rows if isinstance(row, dict)]
        return [value for value in found if value is not None]


def field_of(row: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by outer.inner; None when there is none."""
    if name in row or "." not in name:
        return row.get(name)
    outer, _, inner = name.partition(".")
    value = row.get(outer)
    return value.get(inner) if isinstance(value, dict) else None


@dataclass(frozen=True)
class Format:
    """One log format: how it is recognized, read, and what it can and cannot show.

    maps     our columns that `--map` may name; `reward_` stands for any reward component; () = `--map` does not apply
    options  which of "outcome" and "tries" apply
    """

    name: str
    title: str
    where: str
    shows: str
    cannot: str
    detect: Callable[[Sample], bool]
    read: Callable[[Sequence[Sample], Options, ReadErrors], Log]
    maps: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def take_sample(file: Path, trouble: ReadErrors, root: Path | None = None) -> Sample | None:
    """The file's beginning; None when nothing of it can be read (noted in `trouble`) or it holds no table."""
    if file.stat().st_size == 0:
        trouble.add(file, 0, "the file is empty")
        return None
    kind = file_kind(file)
    try:
        kind = kind_of(file)
        if kind is None:
            return None
        sample = SAMPLERS[kind](file, kind, trouble)
        return None if sample is None else replace(sample, place=place_of(file, root or file))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, csv.Error) as problem:
        trouble.add(file, 0, f"not a readable {kind or 'data'} file: {reason_of(problem)}")
        return None


def place_of(file: Path, root: Path) -> Path:
    """The last parts of a path that belong to the log: from `root`'s own name on; of a lone file, four folders."""
    parts = file.absolute().parts
    if file == root:
        return Path(*parts[-5:])
    return Path(*parts[-len(file.relative_to(root).parts) - 1 :])


def _sample_lines(file: Path, kind: FileKind, trouble: ReadErrors) -> Sample | None:
    """A sample of lines; broken ones are not noted here, the reader that follows notes them."""
    rows = tuple(row for _, row in islice(json_rows(file, ReadErrors()), SAMPLE_ROWS))
    if not rows:
        trouble.add(file, 0, "not one line of it is JSON")
        return None
    return Sample(file, kind, rows)


def _sample_document(file: Path, kind: FileKind, trouble: ReadErrors) -> Sample | None:
    document = load_json(file, trouble)
    if document is None:
        return None
    rows = tabular(document)
    return Sample(file, kind, tuple(rows[:SAMPLE_ROWS]), document=rows or document)


def tabular(document: Any) -> list[Any]:
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
    """{prompt: [rate, rate, …]} → rows, when every number is a share and some lie between 0 and 1."""
    numbers = [number for values in document.values() for number in values]
    shares = bool(numbers) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1 for x in numbers
    )
    if not shares or all(x in (0, 1) for x in numbers):
        return []
    return [{"task_id": name, "rates": values} for name, values in document.items()]


def _turned(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """{column: [values]} → rows, when the columns are equally long and have names that a table would have."""
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


def _sample_parquet(file: Path, kind: FileKind, trouble: ReadErrors) -> Sample | None:
    file = plain_copy(file, trouble)
    lazy = pl.scan_parquet(file, glob=False)
    return Sample(file, kind, tuple(lazy.head(SAMPLE_ROWS).collect().to_dicts()), schema=dict(lazy.collect_schema()))


def _sample_arrow(file: Path, kind: FileKind, trouble: ReadErrors) -> Sample | None:
    import pyarrow as pa
    import pyarrow.ipc as ipc

    file = plain_copy(file, trouble)
    try:
        with file.open("rb") as stream:
            is_file = stream.read(6) == b"ARROW1"
        if is_file:
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


def _sample_csv(file: Path, kind: FileKind, trouble: ReadErrors) -> Sample | None:
    with open_bytes(file) as stream:
        text = read_some(stream, 1 << 20)[0].decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=_separator(text, kind))
    rows = tuple({name: value for name, value in row.items() if name} for row in islice(reader, SAMPLE_ROWS))
    names = [name for name in reader.fieldnames or [] if name]
    return Sample(file, kind, rows, schema=dict.fromkeys(names, pl.String()), separator=reader.reader.dialect.delimiter)


def _separator(text: str, kind: FileKind) -> str:
    """What stands between the fields of the header: as the name says, or where it holds none of these, another."""
    usual = "\t" if kind == "tsv" else ","
    fields = {mark: len(next(csv.reader(io.StringIO(text, newline=""), delimiter=mark), [])) for mark in ",\t;|"}
    return usual if fields[usual] > 1 else max(fields, key=lambda mark: (fields[mark], mark == usual))


SAMPLERS: dict[FileKind, Callable[[Path, FileKind, ReadErrors], Sample | None]] = {
    "jsonl": _sample_lines,
    "json": _sample_document,
    "csv": _sample_csv,
    "tsv": _sample_csv,
    "parquet": _sample_parquet,
    "arrow": _sample_arrow,
}
