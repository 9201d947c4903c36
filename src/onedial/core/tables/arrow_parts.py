"""Parquet and arrow files read part by part: readable parts are kept, damaged ones are counted and located."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from onedial.core.tables.file_bytes import describe_failure
from onedial.core.tables.file_kinds import FileKind
from onedial.core.tables.read_errors import ReadErrors

DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What a damaged column raises when it is looked at."""


def read_sound_parts(file: Path, kind: FileKind, wanted: Collection[str], errors: ReadErrors) -> Iterator[pl.DataFrame]:
    """The wanted columns of every undamaged row group (parquet) or batch (arrow file)."""
    for number, (piece, read) in enumerate(_pieces(file, kind, wanted), start=1):
        try:
            table = read()
            table.validate(full=True)  # a damaged one would crash the process when it is looked at
            frame = pl.from_arrow(table)
        except (*DAMAGE, OSError, ValueError) as problem:
            errors.add(file, 0, f"{piece} {number} is damaged and left out: {describe_failure(problem)}")
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


def is_arrow_file(file: Path) -> bool:
    """Whether this is an arrow file, which can be read at any position; False for a stream of batches."""
    with file.open("rb") as stream:
        return stream.read(6) == b"ARROW1"


def read_stream_batches(file: Path, errors: ReadErrors) -> Iterator[pl.DataFrame]:
    """The undamaged batches of an arrow stream, up to the place where it ends or breaks off."""
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
            errors.add(file, 0, f"read no further than {number} batches: {describe_failure(problem)}")
