"""Storage for parsed rows: in memory while they are few, in temporary parquet files when they are many.

Text formats are parsed once into this store; every later pass (figures, findings, plan) then reads columns only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from onedial.analysis.logs.lines import remove_surrogates, to_float
from onedial.analysis.logs.schema import REWARD_PART, ROLLOUT_COLUMNS
from onedial.core.tables.file_bytes import make_workspace

MEMORY_BYTES = 512 << 20
CHUNK_ROWS = 20_000
MAX_PARTS = 64


class FrameStore:
    """Collects data frames and returns them as one lazy frame; memory is bounded by `MEMORY_BYTES` and one block."""

    def __init__(self) -> None:
        self._waiting: list[pl.DataFrame] = []
        self._bytes = 0
        self._parts: list[Path] = []
        self._folder: Path | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Append rows; frames may differ in columns, missing ones are null."""
        if frame.is_empty() and self._waiting:
            return
        self._waiting.append(frame)
        self._bytes += int(frame.estimated_size())
        if self._bytes > MEMORY_BYTES:
            self._flush()

    def extend(self, other: FrameStore) -> None:
        """Append the rows of another store, which is not to be used any more."""
        if other._parts and self._waiting:
            self._flush()
        self._parts += other._parts
        for frame in other._waiting:
            self.add(frame)

    def _flush(self) -> None:
        self._folder = self._folder or make_workspace()
        part = self._folder / f"{len(list(self._folder.iterdir())):06d}.parquet"
        pl.concat(self._waiting, how="diagonal_relaxed").write_parquet(part, compression="lz4", row_group_size=250_000)
        self._parts.append(part)
        self._waiting, self._bytes = [], 0

    def scan(self) -> pl.LazyFrame:
        """All rows, in the order they came."""
        lazies = [pl.scan_parquet(part) for part in self._parts]
        if self._waiting or not lazies:
            rest = pl.concat(self._waiting, how="diagonal_relaxed") if self._waiting else pl.DataFrame()
            lazies.append(rest.lazy())
        return lazies[0] if len(lazies) == 1 else pl.concat(lazies, how="diagonal_relaxed")


def records_to_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows with the names of ROLLOUT_COLUMNS and reward_<component> → typed frame; only names that occur get a column.

    Values of the wrong type become null: mappers give numbers, texts and booleans, or None.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        dtype = pl.Float64() if name.startswith(REWARD_PART) else ROLLOUT_COLUMNS[name]
        values = [_fit(row.get(name), dtype) for row in rows]
        columns[remove_surrogates(name)] = pl.Series(remove_surrogates(name), values, dtype=dtype, strict=False)
    return pl.DataFrame(columns)


def _fit(value: Any, dtype: pl.DataType) -> Any:
    if value is None:
        return None
    if dtype == pl.String:
        return remove_surrogates(value if isinstance(value, str) else str(value))
    if dtype == pl.Boolean:
        return value if isinstance(value, bool) else None
    number = to_float(value)
    if number is None or dtype == pl.Float64:
        return number
    return int(number) if number == number and abs(number) < 2**62 else None


def _bounded(row: Mapping[str, Any], parts: set[str]) -> Mapping[str, Any]:
    """The row with at most `MAX_PARTS` reward components over the whole log: a log may name a new one in every row."""
    for name in row:
        if name.startswith(REWARD_PART) and name not in parts:
            if len(parts) == MAX_PARTS:
                return {key: value for key, value in row.items() if key in parts or not key.startswith(REWARD_PART)}
            parts.add(name)
    return row


def store_records(rows: Iterable[Mapping[str, Any]]) -> pl.LazyFrame:
    """A lazy frame of mapped rows, parsed `CHUNK_ROWS` at a time."""
    store, waiting, parts = FrameStore(), list[Mapping[str, Any]](), set[str]()
    for row in rows:
        waiting.append(_bounded(row, parts))
        if len(waiting) == CHUNK_ROWS:
            store.add(records_to_frame(waiting))
            waiting = []
    # without a row there is one column at least: literals selected from a frame of none would make a row
    store.add(records_to_frame(waiting) if waiting else pl.DataFrame(schema={"outcome_reward": pl.Float64}))
    return store.scan()
