"""Tables as they are in their files, as lazy frames, and expressions that convert a column of any type to the types of
the schema.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from onedial.analysis.logs.formats import Sample
from onedial.analysis.logs.lines import WORDS, gather_batches, parse_frames, scan_frames, type_records
from onedial.analysis.logs.store import CHUNK_ROWS, FrameStore
from onedial.core.tables.arrow_parts import is_arrow_file, read_sound_parts, read_stream_batches
from onedial.core.tables.csv_records import read_csv_rows
from onedial.core.tables.file_bytes import make_plain_copy
from onedial.core.tables.read_errors import ReadErrors

FILE = "__file"


def read_raw(
    samples: Sequence[Sample],
    wanted: Mapping[str, pl.DataType],
    essential: Sequence[str],
    errors: ReadErrors,
    *,
    hashed: Collection[str] = (),
) -> pl.LazyFrame:
    """Returns the wanted columns of all files and a column `__file`; columns that no file has are absent.

    Lines of JSON are parsed into `wanted`'s types, csv into numbers and booleans where these are wanted and every value
    is one, else into text; parquet and arrow keep their own types. `hashed` columns come as 64-bit hashes of their
    text: enough to group by, and small to store.
    """
    store, lazies, any_lines = FrameStore(), [], False
    inner = {name: name.split(".", 1) for name in wanted if "." in name}
    for sample in samples:
        if sample.kind in ("jsonl", "json"):
            any_lines = True
            outer = {name: pl.String() for name, _ in inner.values()}  # an object comes as its JSON text
            asked = {name: dtype for name, dtype in wanted.items() if name not in inner} | outer
            needed = list(
                dict.fromkeys(inner[name][0] if name in inner else name for name in essential if name in wanted)
            )
            then = partial(_finish_frame, wanted=wanted, inner=inner, hashed=hashed, file=sample.name)
            clean = FrameStore()
            if sample.kind == "jsonl" and scan_frames(sample.file, asked, needed, then=then, add=clean.add):
                store.extend(clean)
                continue
            if sample.kind == "jsonl":
                parts = parse_frames(sample.file, asked, needed, errors, then=then)
            else:
                document = sample.document if isinstance(sample.document, list) else []
                parts = iter([then(type_records(sample.file, enumerate(document, start=1), asked, needed, errors))])
            for frame in parts:
                store.add(frame)
        else:
            lazy = _scan(sample, wanted, errors)
            if lazy is not None:
                types = lazy.collect_schema()
                fields = {name: path for name, path in inner.items() if name not in types}
                lazy = lazy.with_columns(
                    pl.col(outside).struct.field(name).alias(whole)
                    for whole, (outside, name) in fields.items()
                    if isinstance(types.get(outside), pl.Struct) and name in [f.name for f in types[outside].fields]  # type: ignore[attr-defined]
                )
                have = [name for name in wanted if name in lazy.collect_schema()]
                types = lazy.collect_schema()
                texts = [cast_text(name, types[name]) for name in hashed if name in have]
                keys = [hash_columns(name).alias(name) for name in hashed if name in have]
                whole = lazy.select(*have, pl.lit(sample.name).alias(FILE))
                lazies.append(whole.with_columns(texts).with_columns(keys))
    if any_lines:
        lazies.append(store.scan().with_columns(pl.col(FILE).cast(pl.String)))
    return lazies[0] if len(lazies) == 1 else pl.concat(_align_types(lazies), how="diagonal_relaxed")


def _finish_frame(
    frame: pl.DataFrame,
    *,
    wanted: Mapping[str, pl.DataType],
    inner: Mapping[str, list[str]],
    hashed: Collection[str],
    file: str,
) -> pl.DataFrame:
    """Parsed lines with fields of objects taken out of their JSON text, keys hashed, and the file's name."""
    if inner:
        fields = {whole: _extract_field(outer, name) for whole, (outer, name) in inner.items()}
        frame = frame.with_columns(**fields).drop({outer for outer, _ in inner.values()} - set(wanted), strict=False)
    keys = [hash_columns(name).alias(name) for name in hashed if name in frame.columns]
    return frame.with_columns(pl.lit(file).cast(pl.Categorical).alias(FILE), *keys)


def _extract_field(outer: str, name: str) -> pl.Expr:
    """A field of an object in its JSON text; any name is quoted for the path."""
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    return pl.col(outer).str.json_path_match(f"$['{quoted}']")


def _align_types(lazies: list[pl.LazyFrame]) -> list[pl.LazyFrame]:
    """Files whose column types differ (text here, numbers there), with those columns converted to text."""
    types: dict[str, set[str]] = {}
    for lazy in lazies:
        for name, dtype in lazy.collect_schema().items():
            types.setdefault(name, set()).add("number" if dtype.is_numeric() or dtype == pl.Boolean else str(dtype))
    clash = [name for name, kinds in types.items() if len(kinds - {"Null"}) > 1]
    if not clash:
        return lazies
    return [
        lazy.with_columns(
            cast_text(name, lazy.collect_schema()[name]) for name in clash if name in lazy.collect_schema()
        )
        for lazy in lazies
    ]


def _scan(sample: Sample, wanted: Mapping[str, pl.DataType], errors: ReadErrors) -> pl.LazyFrame | None:
    if sample.kind in ("parquet", "arrow"):
        if sample.kind == "arrow" and not is_arrow_file(sample.file):
            return _store_frames(read_stream_batches(sample.file, errors))
        if sample.repair:
            names = {*wanted, *(name.split(".")[0] for name in wanted)}
            return _store_frames(read_sound_parts(sample.file, sample.kind, names, errors))
        return pl.scan_ipc(sample.file) if sample.kind == "arrow" else pl.scan_parquet(sample.file, glob=False)
    return _scan_csv(sample, wanted, errors)


def _store_frames(frames: Iterable[pl.DataFrame]) -> pl.LazyFrame:
    store = FrameStore()
    for frame in frames:
        store.add(frame)
    return store.scan()


def _scan_csv(sample: Sample, wanted: Mapping[str, pl.DataType], errors: ReadErrors) -> pl.LazyFrame:
    """The wanted columns, parsed once; files with a ragged row are read row by row, so that it can be located."""
    file, separator = make_plain_copy(sample.file, errors), sample.separator
    names = list(sample.schema)
    typed = {name: wanted[name] for name in names if wanted.get(name) in (pl.Float64, pl.Boolean)}
    for types in (typed, dict[str, pl.DataType]()) if typed else (typed,):
        lazy = pl.scan_csv(file, separator=separator, infer_schema=False, schema_overrides=types, glob=False)
        try:
            if lazy.collect_schema().names() != names:
                break
            columns = [name for name in names[:-1] if name in wanted]
            store = _store_unless_ragged(lazy.select(*columns, names[-1]))
        except pl.exceptions.PolarsError:  # a ragged row, or text where the sample had numbers
            continue
        if store is not None:
            return store.scan()
        break
    return _csv_rows(file, separator, errors)


def _store_unless_ragged(table: pl.LazyFrame) -> FrameStore | None:
    """All rows; or None as soon as the last field of a row is empty, because that field may have been left out."""
    store = FrameStore()
    for batch in gather_batches(table):
        if batch.get_column(batch.columns[-1]).null_count():
            return None
        store.add(batch)
    return store


def _csv_rows(file: Path, separator: str, errors: ReadErrors) -> pl.LazyFrame:
    store, names, rows = FrameStore(), list[str](), list[list[str]]()
    for _, row in read_csv_rows(file, separator, errors):
        if not names:
            names = row
        else:
            rows.append(row)
        if len(rows) >= CHUNK_ROWS:
            store.add(_text_frame(names, rows))
            rows = []
    store.add(_text_frame(names, rows))
    return store.scan()


def _text_frame(names: list[str], rows: list[list[str]]) -> pl.DataFrame:
    columns: list[tuple[str, ...]] = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    return pl.DataFrame(
        {
            name: pl.Series(name, list(column), dtype=pl.String)
            for name, column in zip(names, columns, strict=True)
            if name
        }
    ).with_columns(pl.all().replace("", None))


def cast_text(name: str, dtype: Any) -> pl.Expr:
    """A column as text: chat messages as their contents, one per line, other nested values as JSON-like text."""
    column = pl.col(name)
    if dtype == pl.String:
        return column
    if isinstance(dtype, pl.List):
        inner = dtype.inner
        if isinstance(inner, pl.Struct) and any(f.name == "content" and f.dtype == pl.String for f in inner.fields):
            return column.list.eval(pl.element().struct.field("content")).list.join("\n", ignore_nulls=True).alias(name)
        if inner == pl.String:
            return column.list.join("\n", ignore_nulls=True).alias(name)
        return column.map_elements(lambda value: str(value.to_list()), return_dtype=pl.String).alias(name)
    if isinstance(dtype, pl.Struct):
        return column.struct.json_encode().alias(name)
    return column.cast(pl.String, strict=False)


def cast_number(name: str, dtype: Any) -> pl.Expr:
    """A column as f64; text may spell numbers or right and wrong (WORDS); anything else is null."""
    column = pl.col(name)
    if dtype == pl.String:
        text = column.str.strip_chars().str.to_lowercase()
        return pl.coalesce(text.cast(pl.Float64, strict=False), text.replace_strict(dict(WORDS), default=None)).alias(
            name
        )
    if isinstance(dtype, pl.List | pl.Struct | pl.Array):
        return pl.lit(None, dtype=pl.Float64).alias(name)
    return column.cast(pl.Float64, strict=False)


def cast_integer(name: str, dtype: Any) -> pl.Expr:
    """A column as i64 (its length where it is a list of tokens)."""
    if isinstance(dtype, pl.List):
        return pl.col(name).list.len().cast(pl.Int64)
    return cast_number(name, dtype).cast(pl.Int64, strict=False)


def cast_boolean(name: str, dtype: Any) -> pl.Expr:
    """A column as boolean: true and false, 1 and 0, or their words; any other value is null."""
    if dtype == pl.Boolean:
        return pl.col(name)
    value = cast_number(name, dtype)
    return pl.when(value == 1).then(True).when(value == 0).then(False).alias(name)


def hash_columns(*names: str) -> pl.Expr:
    """A 64-bit hash of one or several columns: a key to compare for equality. Null where the last of them is null."""
    last = pl.col(names[-1])
    return pl.when(last.is_not_null()).then(last.hash() if len(names) == 1 else pl.struct(names).hash())
