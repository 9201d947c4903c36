"""How large an arrow file is once it is decompressed, from what it says of itself: nothing is decompressed.

Every record batch states its rows, and each of its compressed buffers begins with the bytes that it will hold. Both
stand in the messages of the format ("Serialization and Interprocess Communication" of the Arrow columnar format), which
pyarrow hands out as bytes and does not interpret.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

MAGIC = b"ARROW1"
_DICTIONARY, _BATCH = 2, 3  # kinds of message
_BLOCK, _BUFFER = 24, 16  # bytes of a place of a message in a file's footer, of a buffer in a batch


class FlatTable:
    """A table of a flatbuffer: fields by number, each of which may be missing."""

    def __init__(self, content: bytes, place: int) -> None:
        self._content, self._place = content, place
        self._fields = place - self._number("<i", place)

    @classmethod
    def root_of(cls, content: bytes) -> FlatTable:
        """The outermost table."""
        return cls(content, struct.unpack_from("<I", content)[0])

    def number(self, field: int, kind: str) -> int:
        """A number of the type that `struct` calls `kind`; 0 where it is missing."""
        place = self._place_of(field)
        return self._number(kind, place) if place else 0

    def table(self, field: int) -> FlatTable | None:
        """The table that a field points to."""
        place = self._place_of(field)
        return FlatTable(self._content, place + self._number("<I", place)) if place else None

    def items(self, field: int, size: int) -> Iterator[tuple[int, int]]:
        """Of a vector of structs of `size` bytes each: the whole numbers that they begin and end with."""
        if place := self._place_of(field):
            place += self._number("<I", place)
            for start in range(place + 4, place + 4 + size * self._number("<I", place), size):
                yield self._number("<q", start), self._number("<q", start + size - 8)

    def _place_of(self, field: int) -> int:
        slot = 4 + 2 * field
        offset = self._number("<H", self._fields + slot) if slot < self._number("<H", self._fields) else 0
        return self._place + offset if offset else 0

    def _number(self, kind: str, place: int) -> int:
        return int(struct.unpack_from(kind, self._content, place)[0])


def measure_arrow(file: Path) -> tuple[int, int]:
    """(rows, bytes once decompressed) of an arrow file or stream; bytes of batches that are not compressed are 0.

    Raises ValueError, OSError or struct.error where the file is damaged.
    """
    rows = size = 0
    with pa.memory_map(str(file)) as source:
        for message in _messages(source):
            header = FlatTable.root_of(message.metadata.to_pybytes())
            kind, batch = header.number(1, "<B"), header.table(2)
            if kind == _DICTIONARY and batch is not None:
                batch = batch.table(1)
            if kind not in (_DICTIONARY, _BATCH) or batch is None:
                continue
            rows += batch.number(0, "<q") if kind == _BATCH else 0
            size += _expanded(batch, message.body) if batch.table(3) is not None else 0
    return rows, size


def _expanded(batch: FlatTable, body: Any) -> int:
    """Bytes of the buffers of a compressed batch; one that is stored as it is says -1."""
    buffers = [(start, length) for start, length in batch.items(2, _BUFFER) if length >= 8]
    return sum(max(length, struct.unpack_from("<q", body, start)[0]) for start, length in buffers)


def _messages(source: Any) -> Iterator[Any]:
    """The messages of a stream in order, or those that the footer of a file names."""
    content = memoryview(source.read_buffer())
    if bytes(content[: len(MAGIC)]) != MAGIC:
        source.seek(0)
        yield from pa.ipc.MessageReader.open_stream(source)
        return
    length = struct.unpack_from("<i", content, len(content) - len(MAGIC) - 4)[0]
    end = len(content) - len(MAGIC) - 4
    footer = FlatTable.root_of(bytes(content[end - length : end]))
    for field in (2, 3):
        for start, _ in footer.items(field, _BLOCK):
            source.seek(start)
            yield pa.ipc.read_message(source)
