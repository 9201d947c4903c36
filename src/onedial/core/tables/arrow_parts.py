"""Parquet and arrow files piece by piece: what can be read is kept, the rest is counted and located."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from onedial.core.errors import DataError
from onedial.core.tables.file_bytes import MAX_EXPANSION, MIN_BOMB_BYTES, reason_of
from onedial.core.tables.file_kinds import FileKind
from onedial.core.tables.read_errors import ReadErrors

DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What a damaged column raises when it is looked at."""


def read_sound_parts(file: Path, kind: FileKind, wanted: Collection[str], errors: ReadErrors) -> Iterator[pl.DataFrame]:
    """The wanted columns of every row group (parquet) or batch (arrow file) that is sound."""
    for number, (piece, read) in enumerate(_pieces(file, kind, wanted), start=1):
        try:
            table = read()
            table.validate(full=True)  # a damaged one would crash the process when it is looked at
            frame = pl.from_arrow(table)
        except (*DAMAGE, OSError, ValueError) as problem:
            errors.add(file, 0, f"{piece} {number} is damaged and left out: {reason_of(problem)}")
            continue
        assert isinstance(frame, pl.DataFrame)
        yield frame


def _pieces(file: Path, kind: FileKind, wanted: Collection[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    if kind == "parquet":
        import pyarrow.parquet as pq

        whole = pq.ParquetFile(file)
        names = [name for name in whole.schema_arrow.names if name in wanted]
        for number in range(whole.num_row_groups):
            yield "row group", lambda number=number: whole.read_row_group(number, columns=names)  # type: ignore[misc]
        return
    reader = pa.ipc.open_file(str(file))
    for number in range(reader.num_record_batches):
        yield "batch", lambda number=number: reader.get_batch(number)  # type: ignore[misc]


def check_expansion(file: Path) -> None:
    """Raises DataError where a parquet column repeats a few long texts so often that written out they fill the memory.

    The metadata bounds a column's size from above. Only where that bound is large is its true size summed, from its
    dictionary and without writing any text out.
    """
    import pyarrow.parquet as pq

    limit = max(MIN_BOMB_BYTES, MAX_EXPANSION * file.stat().st_size)
    bounds = Counter[int]()
    try:
        metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(index)
                if chunk.physical_type == "BYTE_ARRAY" and chunk.has_dictionary_page:
                    bounds[index] += chunk.num_values * chunk.total_uncompressed_size
        names = [metadata.schema.column(index).path for index, size in bounds.items() if size > limit]
        sizes = {name: _text_size(file, name, limit) for name in names}
    except (*DAMAGE, OSError, ValueError):
        return  # damaged: whoever reads the column says so
    for name in (name for name, size in sizes.items() if size > limit):
        raise DataError(
            f"{file}: the column {name!r} holds more than {limit / 1e9:,.0f} GB of text, {MAX_EXPANSION} times the "
            "file's size or more: a few long values are repeated in most rows; the file is not read"
        )


def _text_size(file: Path, name: str, limit: int) -> int:
    """A bound on the bytes of a text column written out; 0 for what is no plain text column.

    The bound is that of the longest text of each dictionary in every row; only where that is beyond `limit` are the
    texts of all rows summed.
    """
    import pyarrow.parquet as pq

    table, total = pq.ParquetFile(file, read_dictionary=[name], pre_buffer=False), 0
    for group in range(table.num_row_groups):
        # one row brings the whole dictionary, without the column's indices
        first = next(table.iter_batches(batch_size=1, row_groups=[group], columns=[name]), None)
        if first is None:
            continue
        if not pa.types.is_dictionary(first.column(0).type):
            return 0
        total += table.metadata.row_group(group).num_rows * int(_lengths(first.column(0).dictionary).max(initial=0))
        if total > limit:
            return _summed_text_size(table, name, limit)
    return total


def _summed_text_size(table: Any, name: str, limit: int) -> int:
    total = 0
    for group in range(table.num_row_groups):
        for part in table.read_row_group(group, columns=[name]).column(0).chunks:
            index = pl.from_arrow(part.indices)
            assert isinstance(index, pl.Series)
            total += int(_lengths(part.dictionary)[index.drop_nulls().to_numpy()].sum())
            if total > limit:
                return total
    return total


def _lengths(texts: Any) -> NDArray[np.int64]:
    """Bytes of each text of an arrow array, from its offsets: `pyarrow.compute` takes a tenth of a second to load."""
    wide = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64 if wide else np.int32)
    return np.diff(offsets[texts.offset : texts.offset + len(texts) + 1]).astype(np.int64)


def is_arrow_file(file: Path) -> bool:
    """Whether an arrow file can be read at any place; False for a stream of batches."""
    with file.open("rb") as stream:
        return stream.read(6) == b"ARROW1"


def read_stream_batches(file: Path, errors: ReadErrors) -> Iterator[pl.DataFrame]:
    """The sound batches of an arrow stream, up to where it breaks off."""
    number = 0
    with file.open("rb") as stream:
        try:
            for batch in pa.ipc.open_stream(stream):
                number += 1
                batch.validate(full=True)
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield frame
        except (OSError, ValueError) as problem:
            errors.add(file, 0, f"read no further than {number} batches: {reason_of(problem)}")
