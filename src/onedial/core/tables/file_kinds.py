"""What a file holds: by its first bytes where they tell, whatever its name says, else by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from onedial.core.tables.file_bytes import COMPRESSED, open_bytes, read_some

FileKind = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]

KIND_OF_SUFFIX: dict[str, FileKind] = {
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
UTF16 = (b"\xff\xfe", b"\xfe\xff")
BLANK = b"\xef\xbb\xbf \t\r\n"


def kind_of_name(path: Path) -> FileKind | None:
    """What a file holds, by its name, compression suffix aside; None when the name does not tell."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return KIND_OF_SUFFIX.get(suffixes[-1]) if suffixes else None


def kind_of_content(path: Path) -> FileKind | None:
    """What a file holds, by its first bytes, else by its name. Raises ValueError for text that is UTF-16."""
    named = kind_of_name(path)
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
