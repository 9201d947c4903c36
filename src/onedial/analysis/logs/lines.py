"""JSON lines: read fast if a file is clean, and line by line if it is not. Nothing is dropped silently.

A plain file is read by polars' own scan, with the needed columns only (`scan_frames`). If that fails (a broken line, a
NaN literal, a value of another type), and for compressed files, blocks of whole lines go through polars' parser one by
one, and a block that it refuses is read line by line. What cannot be read is noted with file and line; the rest of the
block is kept (`parse_frames`).
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from onedial.core.tables.file_bytes import BLOCK_BYTES, detect_compression, is_text
from onedial.core.tables.json_records import BOM, parse_lines, read_blocks
from onedial.core.tables.read_errors import ReadErrors

A = TypeVar("A")
B = TypeVar("B")


def parse_frames(
    path: Path,
    schema: Mapping[str, pl.DataType],
    essential: Sequence[str],
    errors: ReadErrors,
    *,
    then: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
) -> Iterator[pl.DataFrame]:
    """The columns of `schema` of every line, as one data frame per block, after `then` was applied to it.

    A String column takes any value (as JSON text if it is not a string). A line with none of the `essential` columns is
    no rollout and is noted as broken.
    """

    def parse(item: tuple[int, bytes]) -> tuple[int, bytes, pl.DataFrame | None]:
        first, block = item
        frame = _fast(block.removeprefix(BOM) if first == 1 else block, schema, essential)
        return first, block, None if frame is None else then(frame)

    for first, block, frame in map_in_threads(parse, read_blocks(path, errors)):
        if frame is None:
            frame = then(type_records(path, parse_lines(path, first, block, errors), schema, essential, errors))
        yield frame


def map_in_threads(work: Callable[[A], B], items: Iterable[A], *, workers: int = 2) -> Iterator[B]:
    """`work` of every item, in order, in `workers` threads; at most that many results wait, so memory is bounded."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def scan_frames(
    path: Path,
    schema: Mapping[str, pl.DataType],
    essential: Sequence[str],
    *,
    then: Callable[[pl.DataFrame], pl.DataFrame],
    add: Callable[[pl.DataFrame], None],
) -> bool:
    """Passes to `add` the frames that `parse_frames` would give, read by polars' own scan of a plain file.

    Returns False if some line needs a closer look. What was added must then be discarded, because polars may return
    rows that come after the one it refuses.
    """
    # polars would look for files by a pattern, and takes no name that is not text
    if detect_compression(path) is not None or set("*?[") & set(str(path)) or not is_text(path):
        return False
    add(then(pl.DataFrame(schema=dict(schema))))
    try:
        for frame in gather_batches(pl.scan_ndjson(path.absolute(), schema=dict(schema))):
            if _foreign(frame, essential):
                return False
            add(then(frame))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False
    return True


def gather_batches(table: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows in order, in frames of about `BLOCK_BYTES`: polars' own batches may hold a few hundred rows."""
    size, waiting = 0, list[pl.DataFrame]()
    for batch in table.collect_batches(maintain_order=True, engine="streaming"):
        waiting.append(batch)
        size += int(batch.estimated_size())
        if size >= BLOCK_BYTES:
            yield pl.concat(waiting)
            size, waiting = 0, []
    if waiting:
        yield pl.concat(waiting)


def _foreign(frame: pl.DataFrame, essential: Sequence[str]) -> bool:
    """Whether some row has none of the essential columns."""
    if not essential or not all(frame.get_column(name).null_count() for name in essential):
        return False
    return bool(frame.select(pl.all_horizontal(pl.col(name).is_null() for name in essential).any()).item())


def _fast(block: bytes, schema: Mapping[str, pl.DataType], essential: Sequence[str]) -> pl.DataFrame | None:
    """The block by polars' parser, or None when any line of it needs a closer look."""
    if not block or block.isspace():
        return pl.DataFrame(schema=dict(schema))
    try:
        frame = pl.read_ndjson(block, schema=dict(schema))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    return None if _foreign(frame, essential) else frame


def type_records(
    path: Path,
    rows: Iterable[tuple[int, Any]],
    schema: Mapping[str, pl.DataType],
    essential: Sequence[str],
    errors: ReadErrors,
) -> pl.DataFrame:
    """Numbered rows as a frame of `schema`; rows and values that do not fit are noted with their number.

    Booleans become numbers, because a number other than 0 and 1 may occur in the same column.
    """
    schema = {name: pl.Float64() if dtype == pl.Boolean else dtype for name, dtype in schema.items()}
    columns: dict[str, list[Any]] = {name: [] for name in schema}
    for number, row in rows:
        if not isinstance(row, dict):
            errors.add(path, number, f"a JSON {type(row).__name__}, not an object")
            continue
        if essential and all(row.get(name) is None for name in essential):
            errors.add(path, number, f"none of the fields {', '.join(essential)}")
            continue
        odd = []
        for name, dtype in schema.items():
            value, fits = coerce_value(row.get(name), dtype)
            columns[name].append(value)
            if not fits:
                odd.append(f"{name} is {shorten_value(row[name])}, not {describe_type(dtype)}")
        if odd:
            errors.add(path, number, "; ".join(odd) + "; left empty")
    return pl.DataFrame(columns, schema=dict(schema), strict=False)


def coerce_value(value: Any, dtype: pl.DataType) -> tuple[Any, bool]:
    """(value as `dtype`, whether the conversion succeeded): null stays null; numbers may be given as text or as
    true/false."""
    if value is None:
        return None, True
    if dtype == pl.String:
        return remove_surrogates(value if isinstance(value, str) else json.dumps(value)), True
    if dtype == pl.Float64:
        number = to_float(value)
        return number, number is not None
    if dtype == pl.Int64:
        number = to_float(value)
        if number is None or not number.is_integer() or abs(number) >= 2**63:
            return None, False
        return int(value if isinstance(value, int) else number), True  # not through a float, which rounds beyond 2⁵³
    if isinstance(dtype, pl.List):
        items = [coerce_value(item, dtype.inner) for item in value] if isinstance(value, list) else [(None, False)]  # type: ignore[arg-type]
        fits = all(fit for _, fit in items)
        return ([item for item, _ in items] if fits else None), fits
    raise TypeError(f"no column of a log is read as {dtype}")


def remove_surrogates(text: str) -> str:
    """`text` without lone surrogates, which JSON can encode and no file can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def to_float(value: Any) -> float | None:
    """A number from a number, a boolean or their text; None from anything else. NaN and infinities pass through."""
    if isinstance(value, bool | int | float | Decimal):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str):
        text = value.strip().lower()
        if text in WORDS:
            return WORDS[text]
        try:
            return float(text)
        except ValueError:
            return None
    return None


WORDS: Mapping[str, float] = {
    **dict.fromkeys(
        ("true", "t", "yes", "y", "correct", "right", "pass", "passed", "success", "solved", "resolved", "c"), 1.0
    ),
    **dict.fromkeys(
        ("false", "f", "no", "n", "incorrect", "wrong", "fail", "failed", "failure", "unsolved", "unresolved", "i"), 0.0
    ),
}
"""What people write for right and wrong."""


def describe_type(dtype: pl.DataType) -> str:
    """A type in plain words."""
    if dtype == pl.Float64:
        return "a number"
    return "a list" if isinstance(dtype, pl.List) else "text"


def shorten_value(value: Any) -> str:
    """At most 40 characters of a value, control characters escaped."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
