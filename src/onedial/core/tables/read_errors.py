"""What could not be read of a file: collected by whoever reads on, raised by whoever needs every record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onedial.core.errors import DataError

MAX_BROKEN = 100


@dataclass(frozen=True)
class Broken:
    """One line, record or file that could not be read. `line` counts from 1; 0 = the whole file."""

    file: str
    line: int
    reason: str


@dataclass
class ReadErrors:
    """Collects what could not be read: every place is counted, the first `MAX_BROKEN` are kept."""

    count: int = 0
    places: list[Broken] = field(default_factory=list)

    def add(self, file: Path | str, line: int, reason: str) -> None:
        """Note one broken line (counted from 1), or a whole file with line 0."""
        self.count += 1
        if len(self.places) < MAX_BROKEN:
            self.places.append(Broken(str(file), line, reason))


class NoErrors(ReadErrors):
    """Raises DataError at the first thing that cannot be read, with its place."""

    def add(self, file: Path | str, line: int, reason: str) -> None:
        """Raise DataError for the place."""
        raise DataError(f"{file}{f':{line}' if line else ''}: {reason}")
