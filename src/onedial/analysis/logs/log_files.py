"""Finding, opening and recognising the files of a log: any mix of folders, compressed or not."""

from __future__ import annotations

import atexit
import gzip
import io
import re
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast

import numpy as np
import pyarrow as pa

from onedial.analysis.logs.schema import MAX_BROKEN, Broken
from onedial.core.errors import DataError

A = TypeVar("A")
B = TypeVar("B")
FileKind = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]

SUFFIXES: dict[str, FileKind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
COMPRESSED = (".gz", ".zst", ".zstd", ".bz2", ".lz4")
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
UTF16 = (b"\xff\xfe", b"\xfe\xff")
BLOCK_BYTES = 4 << 20
READ_BYTES = 1 << 18
NEWLINE = 10
BLANK = b"\xef\xbb\xbf \t\r\n"
MAX_LINE_BYTES = 256 << 20


@dataclass
class ReadErrors:
    """Collects what could not be read: every place counted, the first `MAX_BROKEN` kept."""

    count: int = 0
    places: list[Broken] = field(default_factory=list)

    def add(self, file: Path | str, line: int, reason: str) -> None:
        """Note one broken line (counted from 1), or a whole file with line 0."""
        self.count += 1
        if len(self.places) < MAX_BROKEN:
            self.places.append(Broken(str(file), line, reason))


def data_files(path: Path) -> list[Path]:
    """Every file below `path` that may hold a log, in natural order (2 before 10); hidden files are left out."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; give a log file or the folder that holds it")
    if path.is_file():
        return [path]
    found = [
        file
        for file in path.rglob("*")
        if file.is_file()
        and file_kind(file) is not None
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    return sorted(found, key=lambda file: natural(str(file)))


def natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key that orders runs of digits by value."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def file_kind(path: Path) -> FileKind | None:
    """What a file holds, by its name, compression suffix aside; None when the name does not tell."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def kind_of(path: Path) -> FileKind | None:
    """What a file holds: by its first bytes where they tell, whatever its name says, else by its name.

    Raises ValueError for text that is not UTF-8 by its first bytes.
    """
    named = file_kind(path)
    with open_bytes(path) as stream:
        head, _ = read_some(stream, 64)
        if head[:4] == b"PAR1":
            return "parquet"
        if head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
            return "arrow"
        if head[:2] in UTF16:
            raise ValueError("UTF-16 text; save it as UTF-8: iconv -f utf-16 -t utf-8")
        if head.lstrip(BLANK)[:1] not in (b"{", b"["):
            return named
        start = (head + read_some(stream)[0]).lstrip(BLANK)
    if named == "jsonl":
        return "json" if _is_document(start) else "jsonl"
    return "jsonl" if _one_object_a_line(start) else "json"


def _is_document(start: bytes) -> bool:
    """Whether a file named as lines is one JSON document: a lone array, or written over several lines."""
    first, _, rest = start.partition(b"\n")
    first = first.strip()
    return first in (b"{", b"[") or (first[:1] == b"[" and (first.endswith(b",") or not rest.strip()))


def _one_object_a_line(start: bytes) -> bool:
    first, newline, rest = start.partition(b"\n")
    whole = first.rstrip().endswith((b"}", b"]")) and first.startswith(b"{")
    return whole and bool(newline) and (not rest.strip() or rest.lstrip()[:1] == b"{")


def compression(path: Path) -> str | None:
    """How a file is compressed, by its first bytes; None when it is not."""
    with path.open("rb") as stream:
        head = stream.read(4)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed whatever its name says, with a leading byte order mark left in place.

    Raises DataError when the compression is broken at the start; a stream that breaks later raises OSError on read.
    """
    method = compression(path)
    if method is None:
        return path.open("rb")
    if method == "gzip":
        return cast(IO[bytes], gzip.open(path, "rb"))
    try:
        stream = pa.input_stream(str(path), compression=method)
    except (OSError, pa.ArrowInvalid) as problem:
        raise DataError(f"{path}: cannot be decompressed ({problem})") from problem
    return cast(IO[bytes], stream)


def blocks(path: Path, trouble: ReadErrors) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, whole lines) in blocks of about `BLOCK_BYTES`; memory stays bounded.

    A compressed stream that breaks off is noted in `trouble`; what came before it is still given.
    """
    line, rest = 1, b""
    with open_bytes(path) as stream:
        while True:
            chunk, broke = read_some(stream)
            if not chunk and not broke:
                break
            if isinstance(stream, io.BufferedReader):
                chunk += stream.readline(MAX_LINE_BYTES)  # whole lines, so that nothing is copied below
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                rest += chunk
                if len(rest) > MAX_LINE_BYTES:
                    trouble.add(
                        path, line, f"a line is longer than {MAX_LINE_BYTES >> 20} MiB; the file is read no further"
                    )
                    return
            else:
                block, rest = rest + chunk[:cut], chunk[cut:]
                yield line, block
                line += _lines(block)
            if broke:
                trouble.add(path, line, f"the compressed data breaks off: {broke}")
                break
    if rest:
        yield line, rest


def _lines(block: bytes) -> int:
    """Line ends of a block; by pieces that stay in the cache, several times faster than `bytes.count`."""
    data = np.frombuffer(block, dtype=np.uint8)
    return sum(int(np.count_nonzero(data[at : at + 65536] == NEWLINE)) for at in range(0, len(data), 65536))


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
        return b"".join(parts), (str(problem).splitlines() or [type(problem).__name__])[0][:200]
    return b"".join(parts), ""


def side_by_side(work: Callable[[A], B], items: Iterable[A], *, workers: int = 2) -> Iterator[B]:
    """`work` of every item, in order, on as many threads; no more than `workers` results wait, so memory is bounded."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def workspace() -> Path:
    """A fresh temporary folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="onedial-logs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def plain_copy(path: Path, trouble: ReadErrors) -> Path:
    """`path` itself, or a decompressed temporary copy for readers that need a real file."""
    if compression(path) is None:
        return path
    target = workspace() / path.name
    with open_bytes(path) as source, target.open("wb") as sink:
        while True:
            chunk, broke = read_some(source)
            sink.write(chunk)
            if broke:
                trouble.add(path, 0, f"the compressed data breaks off: {broke}")
            if broke or not chunk:
                return target


def load_json(path: Path, trouble: ReadErrors) -> Any:
    """A whole JSON document; None, with the place noted in `trouble`, when it is broken."""
    import json

    with open_bytes(path) as stream:
        parts: list[bytes] = []
        while True:
            chunk, broke = read_some(stream)
            parts.append(chunk)
            if broke:
                trouble.add(path, 0, f"the compressed data breaks off: {broke}")
            if broke or not chunk:
                break
    data = b"".join(parts)
    if not data.strip():
        trouble.add(path, 0, "the file is empty")
        return None
    try:
        return json.loads(data.decode("utf-8-sig", errors="replace"))
    except json.JSONDecodeError as problem:
        trouble.add(path, problem.lineno, f"not JSON: {problem.msg} (column {problem.colno})")
    except RecursionError:
        trouble.add(path, 0, "not read: nested too deeply")
    return None
