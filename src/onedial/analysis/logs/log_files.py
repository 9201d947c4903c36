"""The files of a log: a file, or everything below a folder that may hold rollouts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from onedial.core.errors import DataError
from onedial.core.tables.file_bytes import check_regular, describe_failure
from onedial.core.tables.file_kinds import kind_of_name
from onedial.core.tables.read_errors import ReadErrors

MAX_FILES = 50_000
MAX_ENTRIES = 2_000_000


def find_data_files(path: Path, errors: ReadErrors) -> list[Path]:
    """Every file below `path` that may hold a log, in natural order (2 before 10); hidden files are left out.

    Links to folders are not followed; folders that cannot be opened are noted in `errors`. Raises DataError for a path
    that is neither a file nor a folder, and for a folder with more entries than a log can have.
    """
    check_regular(path)
    if path.is_file():
        return [path]
    found: list[Path] = []
    for file in _walk(path, errors):
        if kind_of_name(file) is not None and file.is_file():
            found.append(file)
        if len(found) > MAX_FILES:
            raise DataError(f"{path}: holds more than {MAX_FILES:,} data files; name the folder of one run")
    return sorted(found, key=lambda file: make_natural_key(str(file)))


def _walk(path: Path, errors: ReadErrors) -> Iterator[Path]:
    """Every entry that is not hidden, in the order of the file system."""

    def note(problem: OSError) -> None:
        errors.add(str(problem.filename), 0, f"cannot be opened: {describe_failure(problem)}")

    entries = 0
    for folder, folders, files in os.walk(path, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        entries += len(files)
        if entries > MAX_ENTRIES:
            raise DataError(f"{path}: holds more than {MAX_ENTRIES:,} files; name the folder of one run")
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def make_natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sort key that orders runs of decimal digits by value."""
    parts = re.split(r"([0-9]{1,300})", text)
    return [(0, int(part)) if index % 2 else (1, part) for index, part in enumerate(parts) if part]
