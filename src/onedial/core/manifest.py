"""Size and hash of the files that a resumed run reads, so that a damaged file gives an error and never a different
result.

    RUN/manifest.jsonl                            one line per file written: run.toml, plan.json, rollouts/*.parquet
    RUN/checkpoints/iteration_N/manifest.json     every file of the checkpoint, and the logs up to its iteration

The hash is BLAKE2b. A line of `manifest.jsonl` is written to disk before its file gets its final name. A file that was
written several times has several lines, and may match any of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onedial.core.errors import CheckpointError
from onedial.core.paths import open_regular, read_regular

RUN_MANIFEST, FOLDER_MANIFEST = "manifest.jsonl", "manifest.json"


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and hash of a file."""
    return {"size": path.stat().st_size, "blake2b": _hash_file(path, None)}


def _hash_file(path: Path, size: int | None) -> str:
    """Hash of a file's first `size` bytes, or of all of it."""
    state, left = hashlib.blake2b(digest_size=16), size
    with open_regular(path) as file:
        while chunk := file.read(1 << 20 if left is None else min(1 << 20, left)):
            state.update(chunk)
            left = None if left is None else left - len(chunk)
    return state.hexdigest()


def record_file(directory: Path, name: str, content: Path | bytes) -> None:
    """Adds a line to the run's manifest: the file `name` has these bytes, or the present bytes of another file."""
    if isinstance(content, bytes):
        entry = {"size": len(content), "blake2b": hashlib.blake2b(content, digest_size=16).hexdigest()}
    else:
        entry = describe_file(content)
    line = json.dumps({"file": name, **entry})
    with open(directory / RUN_MANIFEST, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def check_recorded(directory: Path, name: str) -> None:
    """Raises CheckpointError for a file of the run that differs from its record or has none."""
    path = directory / name
    known = [entry for entry in _read_entries(directory) if entry.get("file") == name]
    if not known:
        raise CheckpointError(f"{path}: {directory / RUN_MANIFEST} does not list it")
    found = _describe_or_raise(path)
    if not any(entry.get("size") == found["size"] and entry.get("blake2b") == found["blake2b"] for entry in known):
        raise CheckpointError(f"{path}: not as the run wrote it (size or hash differs)")


def _read_entries(directory: Path) -> list[dict[str, Any]]:
    try:
        lines = read_regular(directory / RUN_MANIFEST).split("\n")
    except OSError as error:
        raise CheckpointError(f"{directory / RUN_MANIFEST}: cannot be read: {error.strerror}") from error
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # a damaged line lists nothing
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def _describe_or_raise(path: Path) -> dict[str, Any]:
    try:
        return describe_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def write_folder_manifest(folder: Path, logs: Mapping[str, Path], **facts: Any) -> None:
    """Writes size and hash of every file under a folder, and of log files in their present state, with some facts."""
    files = {
        str(path.relative_to(folder)): describe_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / FOLDER_MANIFEST
    }
    content = {**facts, "files": files, "logs": {name: describe_file(path) for name, path in logs.items()}}
    text = json.dumps({**content, "own": hash_json(content)}, indent=1)
    (folder / FOLDER_MANIFEST).write_text(text, encoding="utf-8")


def check_folder(folder: Path) -> dict[str, Any]:
    """The content of a folder's manifest, after comparing every file in it with its size and hash.

    Raises CheckpointError naming the first file that differs, or the manifest itself.
    """
    path = folder / FOLDER_MANIFEST
    try:
        content = json.loads(read_regular(path))
        own = content.pop("own")
        files = dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a readable manifest ({type(error).__name__})") from error
    if own != hash_json(content):
        raise CheckpointError(f"{path}: damaged: its content does not match its own hash")
    for name, wanted in files.items():
        if _describe_or_raise(folder / name) != wanted:
            raise CheckpointError(f"{folder / name}: damaged: not as it was written (size or hash differs)")
    return dict(content)


def check_log(path: Path, wanted: Mapping[str, Any]) -> None:
    """Raises CheckpointError if a log that only grows does not begin with the bytes described."""
    try:
        same = path.stat().st_size >= wanted["size"] and _hash_file(path, wanted["size"]) == wanted["blake2b"]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not same:
        raise CheckpointError(f"{path}: damaged: its first {wanted['size']} bytes are not as the run wrote them")


def hash_json(content: Mapping[str, Any]) -> str:
    """Hash of JSON values, whatever the order of their keys."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
