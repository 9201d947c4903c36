"""Protection against parquet and arrow files that hold so much, once decompressed or with repeated texts written out,
that they would fill the memory.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from onedial.core.errors import DataError
from onedial.core.tables.arrow_parts import DAMAGE, is_arrow_file
from onedial.core.tables.arrow_sizes import measure_arrow
from onedial.core.tables.file_bytes import MAX_EXPANSION, MIN_BOMB_BYTES
from onedial.core.tables.file_kinds import FileKind

ROWS_PER_BYTE = 64  # more rows than a file has bits hold next to nothing
FEW_ROWS = 10_000_000


def check_expansion(file: Path, kind: FileKind) -> None:
    """Raises DataError where the texts of a column, written out in every row, are far larger than the file, or its rows
    far more than it has bytes, or what it is decompressed to is far larger.

    Dictionaries are looked at wherever they are, in lists and structs too. The bound is the longest text of each
    dictionary in every row; only where that is large are the texts of all rows summed, without writing any out.
    """
    limit = max(MIN_BOMB_BYTES, MAX_EXPANSION * file.stat().st_size)
    try:
        if kind != "parquet":
            _check_arrow_sizes(file, limit)
        rows, sizes = _of_parquet(file, limit) if kind == "parquet" else (0, _of_arrow(file, limit))
    except DataError:
        raise
    except (*DAMAGE, OSError, ValueError, IndexError, struct.error):
        return  # damaged: whoever reads the column says so
    _check_rows(file, rows)
    for name in (name for name, size in sizes.items() if size > limit):
        raise DataError(
            f"{file}: the column {name!r} holds more than {limit / 1e9:,.0f} GB of text, {MAX_EXPANSION} times the "
            "file's size or more: a few long values are repeated in most rows; the file is not read"
        )


def _check_arrow_sizes(file: Path, limit: int) -> None:
    """Raises DataError for what its compressed buffers say, before any of them is decompressed."""
    rows, size = measure_arrow(file)
    _check_rows(file, rows)
    if size > limit:
        raise DataError(
            f"{file}: is decompressed to {size / 1e9:,.1f} GB, more than {MAX_EXPANSION} times the file's size; it is "
            "not read"
        )


def _check_rows(file: Path, rows: int) -> None:
    if rows > max(FEW_ROWS, ROWS_PER_BYTE * file.stat().st_size):
        raise DataError(f"{file}: {rows:,} rows in {file.stat().st_size:,} bytes: nearly all are alike; it is not read")


def _of_parquet(file: Path, limit: int) -> tuple[int, dict[str, int]]:
    """The rows, and the size of the text columns that may be large: the metadata bounds a column's size from above."""
    import pyarrow.parquet as pq

    metadata, bounds, plain = pq.read_metadata(file), Counter[str](), Counter[str]()
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            plain[chunk.path_in_schema] += chunk.total_uncompressed_size
            if chunk.physical_type == "BYTE_ARRAY" and chunk.has_dictionary_page:
                bounds[chunk.path_in_schema] += chunk.num_values * chunk.total_uncompressed_size
    sizes = {name: size for name, size in plain.items() if size > limit}
    sizes |= {name: _text_size(file, name, limit) for name, size in bounds.items() if size > limit}
    return metadata.num_rows, sizes


def _text_size(file: Path, name: str, limit: int) -> int:
    """A bound on the bytes of a text column of a parquet file."""
    import pyarrow.parquet as pq

    table, total = pq.ParquetFile(file, read_dictionary=[name], pre_buffer=False), 0
    place = [table.metadata.schema.column(i).path for i in range(table.metadata.num_columns)].index(name)
    for group in range(table.num_row_groups):
        # one row brings the whole dictionary, without the column's indices
        first = next(table.iter_batches(batch_size=1, row_groups=[group], columns=[name]), None)
        longest = max((_longest(part) for part in _repeated(first.column(0))), default=0) if first is not None else 0
        total += table.metadata.row_group(group).column(place).num_values * longest
    if total <= limit:
        return total
    groups = (table.read_row_group(group, columns=[name]) for group in range(table.num_row_groups))
    return _summed((chunk for group in groups for chunk in group.column(0).chunks), limit)


def _of_arrow(file: Path, limit: int) -> dict[str, int]:
    """The size of each column of an arrow file or stream that repeats texts."""
    with pa.memory_map(str(file)) as source:
        names = _reader(source, file).schema.names
        if not any(_repeats(kind) for kind in _reader(source, file).schema.types):
            return {}
        bounds = [0] * len(names)
        for batch in _batches(_reader(source, file)):
            batch.validate()
            for index, column in enumerate(batch.columns):
                bounds[index] += sum(len(part) * _longest(part) for part in _repeated(column))
        sizes = {}
        for index, bound in enumerate(bounds):
            parts = (batch.column(index) for batch in _batches(_reader(source, file)))
            sizes[names[index]] = bound if bound <= limit else _summed(parts, limit)
        return sizes


def _reader(source: Any, file: Path) -> Any:
    source.seek(0)
    return pa.ipc.open_file(source) if is_arrow_file(file) else pa.ipc.open_stream(source)


def _batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _repeats(kind: Any) -> bool:
    """Whether an arrow type may hold one text many times over."""
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return pa.types.is_dictionary(kind) or _is_view(kind) or any(map(_repeats, inner))


def _is_view(kind: Any) -> bool:
    return kind in (pa.string_view(), pa.binary_view())


def _repeated(array: Any) -> Iterator[Any]:
    """The arrays within an array that may hold one text many times over."""
    kind = array.type
    if pa.types.is_dictionary(kind) or _is_view(kind):
        yield array
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _repeated(array.field(index))
    elif pa.types.is_map(kind):
        yield from _repeated(array.keys)
        yield from _repeated(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _repeated(array.values)


def _summed(columns: Iterator[Any], limit: int) -> int:
    """Bytes of the repeated texts of a column, one by one, until they are more than `limit`."""
    total = 0
    for part in (part for column in columns for part in _repeated(column)):
        lengths = _lengths(part)
        if pa.types.is_dictionary(part.type):
            index = pl.from_arrow(part.indices)
            assert isinstance(index, pl.Series)
            lengths = lengths[index.drop_nulls().to_numpy()]
        total += int(lengths.sum())
        if total > limit:
            break
    return total


def _longest(part: Any) -> int:
    return int(_lengths(part).max(initial=0))


def _lengths(part: Any) -> NDArray[np.int64]:
    """Bytes of each text of an array, or of its dictionary's; 0 where these are no texts."""
    texts = part.dictionary if pa.types.is_dictionary(part.type) else part
    if not len(texts):
        return np.zeros(0, dtype=np.int64)
    if _is_view(texts.type):
        # a view is 16 bytes long and begins with the length of its text
        views = np.frombuffer(texts.buffers()[1], dtype=np.int32)[::4]
        return views[texts.offset : texts.offset + len(texts)].astype(np.int64)
    wide = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    if not (wide or pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)):
        return np.zeros(len(texts), dtype=np.int64)
    # by the offsets: `pyarrow.compute` takes a tenth of a second to load
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64 if wide else np.int32)
    return np.diff(offsets[texts.offset : texts.offset + len(texts) + 1]).astype(np.int64)
