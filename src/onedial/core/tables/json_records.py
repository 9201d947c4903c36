"""JSON: one value a line, read in blocks of bounded size, or one whole document."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onedial.core.tables.file_bytes import open_bytes, read_some
from onedial.core.tables.read_errors import ReadErrors
from onedial.core.text_safety import escape_line

BOM = b"\xef\xbb\xbf"
NEWLINE = 10
MAX_LINE_BYTES = 256 << 20
MAX_BROKEN_LINES = 300_000
MAX_DOCUMENT_BYTES = 1 << 30
EXCERPT = 60


def read_blocks(path: Path, errors: ReadErrors) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, whole lines) in blocks of some megabytes; memory stays bounded.

    A compressed stream that breaks off is noted in `errors`; what came before it is still given. A file of which next
    to nothing can be read is given up.
    """
    line, rest, before = 1, bytearray(), errors.count
    with open_bytes(path) as stream:
        while True:
            if errors.count - before > MAX_BROKEN_LINES:
                errors.add(path, line, f"more than {MAX_BROKEN_LINES:,} broken lines; the file is read no further")
                return
            chunk, broke = read_some(stream)
            if not chunk and not broke:
                break
            if isinstance(stream, io.BufferedReader):
                chunk += stream.readline(MAX_LINE_BYTES)  # whole lines, so that nothing is copied below
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                rest += chunk
                if len(rest) > MAX_LINE_BYTES:
                    limit = f"{MAX_LINE_BYTES >> 20} MiB"
                    errors.add(path, line, f"a line is longer than {limit}; the file is read no further")
                    return
            else:
                block = bytes(rest) + chunk[:cut] if rest else chunk[:cut]
                rest = bytearray(chunk[cut:])
                yield line, block
                line += _count_lines(block)
            if broke:
                errors.add(path, line, f"the compressed data breaks off: {broke}")
                break
    if rest:
        yield line, bytes(rest)


def _count_lines(block: bytes) -> int:
    """Line ends of a block; by pieces that stay in the cache, several times faster than `bytes.count`."""
    data = np.frombuffer(block, dtype=np.uint8)
    return sum(int(np.count_nonzero(data[at : at + 65536] == NEWLINE)) for at in range(0, len(data), 65536))


def read_json_values(path: Path, errors: ReadErrors) -> Iterator[tuple[int, Any]]:
    """(line number, value) of every line that is JSON; blank lines are no lines, others are noted in `errors`."""
    for first, block in read_blocks(path, errors):
        yield from parse_lines(path, first, block, errors)


def parse_lines(path: Path, first: int, block: bytes, errors: ReadErrors) -> Iterator[tuple[int, Any]]:
    """The values of a block of lines whose first has the number `first`."""
    if block.isspace():
        return
    for number, raw in enumerate(block.split(b"\n"), start=first):
        line = raw.removeprefix(BOM).strip() if number == 1 else raw.strip()
        if not line:
            continue
        try:
            yield number, json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as problem:
            errors.add(path, number, f"not valid JSON (not UTF-8 text at byte {problem.start + 1} of the line)")
        except json.JSONDecodeError as problem:
            reason = f"not valid JSON ({problem.msg}, column {problem.colno}): {_excerpt(line)}"
            errors.add(path, number, reason)
        except RecursionError:
            errors.add(path, number, "not valid JSON: nested too deeply to be read")
        except ValueError as problem:  # a whole number with more digits than Python converts
            errors.add(path, number, f"not read: {str(problem)[:100]}")


def _excerpt(line: bytes) -> str:
    return escape_line(line[:EXCERPT].decode("utf-8", errors="replace"))


def read_json_document(path: Path, errors: ReadErrors) -> Any:
    """A whole JSON document; None, with the place noted in `errors`, when it is broken or larger than 1 GiB."""
    parts, size = list[bytes](), 0
    with open_bytes(path) as stream:
        while True:
            chunk, broke = read_some(stream)
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_DOCUMENT_BYTES:
                limit = f"{MAX_DOCUMENT_BYTES >> 20} MiB"
                errors.add(path, 0, f"one JSON document of more than {limit}; write one object per line (.jsonl)")
                return None
            if broke:
                errors.add(path, 0, f"the compressed data breaks off: {broke}")
            if broke or not chunk:
                break
    return _parse_document(path, b"".join(parts), errors)


def _parse_document(path: Path, data: bytes, errors: ReadErrors) -> Any:
    if not data.strip():
        errors.add(path, 0, "the file is empty")
        return None
    try:
        return json.loads(data.decode("utf-8-sig", errors="replace"))
    except json.JSONDecodeError as problem:
        reason = f"not valid JSON ({problem.msg}, column {problem.colno})"
        errors.add(path, problem.lineno, f"{reason}; one object per line belongs in a .jsonl file")
    except RecursionError:
        errors.add(path, 1, "not valid JSON: nested too deeply to be read")
    except ValueError as problem:
        errors.add(path, 0, f"not read: {str(problem)[:100]}")
    return None
