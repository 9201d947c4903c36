"""The bytes of a file, decompressed by its content, with bounds on what a small file may expand to."""

from __future__ import annotations

import atexit
import gzip
import io
import os
import shutil
import stat
import tempfile
import zlib
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from onedial.core.errors import DataError, suggest
from onedial.core.tables.read_errors import ReadErrors

COMPRESSED = (".gz", ".zst", ".zstd", ".bz2", ".lz4")
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
BLOCK_BYTES = 4 << 20
READ_BYTES = 1 << 18
MAX_EXPANSION = 300  # times its own size that a file may decompress to, beyond MIN_BOMB_BYTES
MIN_BOMB_BYTES = 1 << 30


def check_regular(path: Path, *, wanted: str = "file or folder") -> None:
    """Raises DataError unless `path` can be looked at and is a regular file or a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        near = suggest(path.name, list_folder(path.parent))
        raise DataError(f"{path}: no such {wanted}{near}") from None
    except (OSError, ValueError) as problem:  # no permission, a name too long, a loop of links, a NUL in the name
        raise DataError(f"{_short(path)}: cannot be opened: {describe_failure(problem)}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path}: is a pipe or a device, not a file; write its data to a file first")


def list_folder(folder: Path) -> list[str]:
    """At most 1,000 names in a folder, to suggest one of them; none when it cannot be opened."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, 1000)]
    except (OSError, ValueError):
        return []


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else text[:197] + "…"


def detect_compression(path: Path) -> str | None:
    """How a file is compressed, by its first bytes; None when it is not."""
    with path.open("rb") as stream:
        head = stream.read(4)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed whatever its name says, with a leading byte order mark left in place.

    Raises DataError when the compression is broken at the start; a stream that breaks later, or that expands beyond
    reason, raises OSError on read.
    """
    method = detect_compression(path)
    if method is None:
        return path.open("rb")
    try:
        if method == "gzip":
            stream: Any = gzip.GzipFile(path, "rb")
        else:
            stream = pa.input_stream(str(path), compression=method)
    except (OSError, pa.ArrowInvalid) as problem:
        raise DataError(f"{path}: cannot be decompressed ({describe_failure(problem)})") from problem
    limit = max(MIN_BOMB_BYTES, MAX_EXPANSION * path.stat().st_size)
    return cast(IO[bytes], _Bounded(stream, limit))


class _Bounded(io.BufferedIOBase):
    """A decompressed stream that ends in an error after `limit` bytes."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._left = stream, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read1(READ_BYTES), b""))
        return self.read1(size)

    def read1(self, size: int = -1, /) -> bytes:
        part: bytes = getattr(self._stream, "read1", self._stream.read)(size if size >= 0 else READ_BYTES)
        self._left -= len(part)
        if self._left < 0:
            raise OSError(f"the file expands to more than {MAX_EXPANSION} times its size; it is read no further")
        return part

    def close(self) -> None:
        self._stream.close()
        super().close()


def read_some(stream: IO[bytes], limit: int = BLOCK_BYTES) -> tuple[bytes, str]:
    """(about `limit` bytes, why no more can be had); small reads, so that a broken stream loses little."""
    parts: list[bytes] = []
    size, step = 0, limit if isinstance(stream, io.BufferedReader) else min(READ_BYTES, limit)
    try:
        while size < limit:
            part = stream.read(step) if step == limit else getattr(stream, "read1", stream.read)(step)
            if not part:
                break
            parts.append(part)
            size += len(part)
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as problem:
        return b"".join(parts), describe_failure(problem)
    return b"".join(parts), ""


def make_workspace() -> Path:
    """A fresh temporary folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="onedial-tables-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def make_plain_copy(path: Path, errors: ReadErrors) -> Path:
    """`path` itself, or a decompressed temporary copy for readers that need a real file; a link to it where its name is
    no text, because polars takes no other."""
    if detect_compression(path) is None:
        return path if is_text(path) else _linked(path)
    target = make_workspace() / (os.path.basename(path) if is_text(path) else "data")
    with open_bytes(path) as source, target.open("wb") as sink:
        while True:
            chunk, broke = read_some(source)
            sink.write(chunk)
            if broke:
                errors.add(path, 0, f"the compressed data breaks off: {broke}")
            if broke or not chunk:
                return target


def is_text(path: Path) -> bool:
    """Whether the name of a file is text, not bytes of another encoding."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def _linked(path: Path) -> Path:
    link = make_workspace() / f"data{path.suffix if is_text(Path(path.suffix)) else ''}"
    link.symlink_to(path.absolute())
    return link


def describe_failure(problem: BaseException) -> str:
    """The first line of an error, or its type; of an error of the system its words alone."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:160]
