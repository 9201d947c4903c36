"""Damaged parquet and arrow files, piece by piece: what can be read is kept, the rest is counted and located."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from onedial.analysis.logs.log_files import FileKind, ReadErrors
from onedial.analysis.logs.store import Store

DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What a damaged column raises when it is looked at."""


def repaired(file: Path, kind: FileKind, wanted: Collection[str], trouble: ReadErrors) -> pl.LazyFrame:
    """The wanted columns of every row group (parquet) or batch (arrow) that is sound."""
    store = Store()
    for number, (piece, read) in enumerate(_pieces(file, kind, wanted), start=1):
        try:
            table = read()
            table.validate(full=True)  # a damaged one would crash the process when it is looked at
            frame = pl.from_arrow(table)
        except (*DAMAGE, OSError, ValueError) as problem:
            trouble.add(file, 0, f"{piece} {number} is damaged and left out: {reason_of(problem)}")
            continue
        assert isinstance(frame, pl.DataFrame)
        store.add(frame)
    return store.scan()


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


def stream_batches(file: Path, trouble: ReadErrors) -> Iterator[pl.DataFrame]:
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
            trouble.add(file, 0, f"read no further than {number} batches: {reason_of(problem)}")


def reason_of(problem: BaseException) -> str:
    """The first line of an error, or its type."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:160]
