"""Records of local files and hub datasets, and splits of prompts that have no content in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onedial.core.errors import ConfigError, DataError, MissingExtra, suggest
from onedial.core.tables.file_bytes import check_regular
from onedial.core.tables.file_kinds import KIND_OF_SUFFIX, kind_of_name
from onedial.core.tables.read_errors import NoErrors
from onedial.core.tables.records import Record, read_records
from onedial.core.types import Prompt
from onedial.training.tasks.task import FiniteSource, assign_split, check_held_out, split_key
from onedial.training.verify.verdict import Verifier

SUFFIXES = tuple(KIND_OF_SUFFIX)


def is_data_file(place: str) -> bool:
    """Whether a name means a local file: it exists, or its ending is that of a data file."""
    try:
        return Path(place).expanduser().exists() or has_data_suffix(place)
    except (OSError, RuntimeError):  # a name too long; the home of a user who does not exist
        return True


def has_data_suffix(place: str) -> bool:
    """Whether a name ends like a data file, compressed or not."""
    return kind_of_name(Path(place)) is not None


def read_rows(place: str) -> Iterator[tuple[int, Record]]:
    """The records of a local file of any kind (see `onedial.core.tables`), each with its line or row number.

    Raises DataError naming file and line for whatever cannot be read.
    """
    try:
        path = Path(place).expanduser()
    except RuntimeError as problem:
        raise DataError(f"{place}: {problem}") from None
    check_regular(path, wanted="file")
    if path.is_dir():
        raise DataError(f"{place}: is a folder; name one file ({', '.join(SUFFIXES)})")
    if not has_data_suffix(place):
        raise DataError(f"{place}: unknown kind of file; the name must end in {', '.join(SUFFIXES)}")
    found = False
    for number, record in read_records(path, NoErrors()):
        found = True
        yield number, record
    if not found:
        raise DataError(f"{place}: holds no rows")


def read_hub_rows(name: str, split: str, config: str | None = None) -> Iterator[tuple[int, Record]]:
    """Rows of a dataset on the Hugging Face hub. Raises MissingExtra without `datasets`, DataError when it fails."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hub", f"reading {name!r} from the Hugging Face hub") from None
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub library raises many kinds; all mean: not to be had
        raise DataError(
            f"dataset {name!r} (split {split!r}) could not be loaded from the hub: {type(error).__name__}: "
            f"{str(error)[:200]}; download it and give path=FILE"
        ) from error
    yield from enumerate((dict(row) for row in loaded), 1)


def load_rows(place: str, split: str, config: str | None = None) -> Iterator[tuple[int, Record]]:
    """The rows of a local file if there is one, else of the hub dataset of that name."""
    return read_rows(place) if is_data_file(place) else read_hub_rows(place, split, config)


def find_column(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of `names` that is a column of the row, ignoring case."""
    folded = {str(key).casefold(): str(key) for key in row}
    return next((folded[name] for name in names if name in folded), None)


def require_column(row: Mapping[str, Any], name: str, place: str) -> str:
    """`name` if the row has it; else DataError with the nearest match and the existing columns."""
    if name in row:
        return name
    raise DataError(f"{place}: no column {name!r}{suggest(name, row)}; the columns are: {', '.join(map(str, row))}")


def make_finite(
    name: str, verifier: Verifier, prompts: Mapping[str, Sequence[Prompt]], *, held_out: float
) -> FiniteSource:
    """A source of prompts with their own test split, or divided by content if "test" is missing.

    Training prompts whose content is also in the test split are left out, with a note. Both splits are sorted by their
    content, so that reordering a file changes no run.
    """
    check_held_out(held_out)
    notes = []
    given = list(prompts.get("train", ()))
    if "test" in prompts:
        test = list(prompts["test"])
        keys = {split_key(prompt) for prompt in test}
        train = [prompt for prompt in given if split_key(prompt) not in keys]
        if len(train) < len(given):
            notes.append(f"{len(given) - len(train)} train prompts left out: they are in the test split as well")
    else:
        test = [prompt for prompt in given if assign_split(prompt, held_out) == "test"]
        train = [prompt for prompt in given if assign_split(prompt, held_out) == "train"]
        notes.append(f"no test file: {len(test)} of {len(given)} prompts held out by content (held_out={held_out})")
    if given and not train:
        raise DataError(f"task {name!r}: no train prompts are left of {len(given)}; {'; '.join(notes)}")
    splits = {"train": sorted(train, key=_by_content), "test": sorted(test, key=_by_content)}
    return FiniteSource(name, verifier, splits, tuple(notes))


def keep_answered(source: FiniteSource) -> FiniteSource:
    """The source without prompts that have no reference answer, with a note; DataError if none is left."""
    splits = {split: [p for p in prompts if has_answer(p)] for split, prompts in source.splits.items()}
    missing = [p for prompts in source.splits.values() for p in prompts if not has_answer(p)]
    if not missing:
        return source
    if not any(splits.values()):
        raise DataError(
            f"task {source.name!r}: no prompt has an answer; name the column with answer_column=, or give the function "
            "that judges with reward="
        )
    places = ", ".join(str(p.meta.get("place", p.id)) for p in missing[:3]) + (", …" if len(missing) > 3 else "")
    note = f"{len(missing)} prompts without an answer left out ({places})"
    return replace(source, splits=splits, notes=(*source.notes, note))


def has_answer(prompt: Prompt) -> bool:
    """Whether there is a reference answer that is not empty."""
    return prompt.answer is not None and str(prompt.answer).strip() != ""


def _by_content(prompt: Prompt) -> str:
    return prompt.id


def split_files(path: str | None, test_path: str | None) -> dict[str, str]:
    """The file of each split; either may be missing. ConfigError when both are, or are the same."""
    if path is None and test_path is None:
        raise ConfigError("path is missing: give path=FILE (and test_path=FILE, or prompts are held out by content)")
    if path is not None and test_path is not None and Path(path) == Path(test_path):
        raise ConfigError(f"path and test_path are both {path!r}; leave test_path out to hold prompts out by content")
    return {split: file for split, file in (("train", path), ("test", test_path)) if file is not None}
