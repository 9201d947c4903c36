"""The interface of a reader: the sample by which it recognizes a file, and its entry in the table of formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onedial.analysis.logs.lines import remove_surrogates
from onedial.analysis.logs.reader_options import Options
from onedial.analysis.logs.schema import Log
from onedial.core.tables.file_kinds import FileKind
from onedial.core.tables.read_errors import ReadErrors

SAMPLE_ROWS = 50


@dataclass(frozen=True)
class Sample:
    """A file and its beginning.

    `rows` holds up to SAMPLE_ROWS objects, `document` a whole JSON file. `place` is the path of the file from the
    folder above the path that the user gave, so that folders further up (…/test_runs/…) do not affect split and step.
    `separator` separates the fields of csv. With `repair`, damaged parts of parquet and arrow files are left out.
    """

    file: Path
    kind: FileKind
    rows: tuple[Any, ...] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)
    document: Any = None
    place: Path = Path()
    separator: str = ","
    repair: bool = False

    @property
    def name(self) -> str:
        """The file's path as text, also where the path is not valid UTF-8."""
        return str(self.file).encode("utf-8", "backslashreplace").decode()

    @property
    def columns(self) -> set[str]:
        """Names of the fields in the sample (of the whole schema where the file carries one).

        The fields of an object are named with a dot as well: extra_info.solve_rate.
        """
        names = set(self.schema)
        for row in (row for row in self.rows if isinstance(row, dict)):
            names.update(row)
            names.update(f"{name}.{inner}" for name, value in row.items() if isinstance(value, dict) for inner in value)
        return {name for name in names if isinstance(name, str) and remove_surrogates(name) == name}

    def has(self, *names: str) -> bool:
        """Whether all these fields occur."""
        return self.columns.issuperset(names)

    def values(self, name: str) -> list[Any]:
        """The sampled values of a field that are not null."""
        found = [get_field(row, name) for row in self.rows if isinstance(row, dict)]
        return [value for value in found if value is not None]


def get_field(row: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by outer.inner; None when there is none."""
    if name in row or "." not in name:
        return row.get(name)
    outer, _, inner = name.partition(".")
    value = row.get(outer)
    return value.get(inner) if isinstance(value, dict) else None


@dataclass(frozen=True)
class Format:
    """One log format: how it is recognized, read, and what it can and cannot show.

    maps     our columns that `--map` may name; `reward_` stands for any reward component; () = `--map` does not apply
    options  which of "outcome" and "tries" apply
    """

    name: str
    title: str
    where: str
    shows: str
    cannot: str
    detect: Callable[[Sample], bool]
    read: Callable[[Sequence[Sample], Options, ReadErrors], Log]
    maps: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
