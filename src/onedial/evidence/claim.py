"""What a claim is: a sentence from the literature, how it is measured, and what its figures must show.

A claim is measured in units of work (a table, or one seed of a row). Figures are a pure function of the results of the
units, checks are a function of the figures, and the verdict is a function of the checks. Verdicts are never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Json = dict[str, Any]
Verdict = Literal["holds", "in part", "not here"]
SEED_UNIT = "seed-"


@dataclass(frozen=True)
class Setup:
    """The conditions of a reproduction.

    work     folder in which every finished unit of work is kept
    quick    a small version of the same steps, about a minute, whose verdict proves nothing
    data     folder with public tables, for claims about such tables
    threads  CPU threads; 0 takes one per core
    task, task_options    the prompts for the model; by default the claims' own lesson
    note     receives one line about the progress
    """

    work: Path
    quick: bool = False
    model: str = "smollm2"
    data: Path | None = None
    threads: int = 0
    task: Any = "arithmetic"
    task_options: Mapping[str, Any] = field(default_factory=dict)
    note: Callable[[str], None] = lambda text: None

    def locate_folder(self, name: str) -> Path:
        """Returns the folder of the finished units of a claim; units of quick runs are kept separately."""
        return self.work / (f"{name}-quick" if self.quick else name)


class NotAtHand(Exception):
    """A unit of work cannot be measured here; the text says what is missing."""


@dataclass(frozen=True)
class Check:
    """One thing that the figures must show: the statement, the result, and whether it holds (None: not measured)."""

    statement: str
    got: str
    held: bool | None


@dataclass(frozen=True)
class Claim:
    """One claim of the field.

    claim, source    what is said, in a sentence, and where
    minutes          what a full reproduction costs on two CPU cores
    uses             the options that matter: "data" (public tables), "model"
    settings         what its runs share, recorded with the result
    seeds            of the full reproduction; empty where nothing is random
    units            (setup) → names of the units of work, in order
    measure          (setup, unit) → what the unit gave, as JSON values; raises NotAtHand
    figures          (what each measured unit gave) → figures by name; pure
    checks           (figures) → what would count as reproduced, and whether it was; pure
    """

    name: str
    claim: str
    source: str
    trains: bool
    minutes: float
    units: Callable[[Setup], Sequence[str]]
    measure: Callable[[Setup, str], Json]
    figures: Callable[[Mapping[str, Json]], Json]
    checks: Callable[[Json], list[Check]]
    uses: tuple[str, ...] = ("model",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


def list_seed_units(seeds: Sequence[int]) -> Callable[[Setup], list[str]]:
    """Returns the units of a claim that has one unit per seed; the quick version uses the first seed only."""
    return lambda setup: [f"{SEED_UNIT}{seed}" for seed in (seeds[:1] if setup.quick else seeds)]


def parse_seed(unit: str) -> int:
    """Returns the seed of a unit of `list_seed_units`."""
    return int(unit.removeprefix(SEED_UNIT))


def judge_checks(checks: Sequence[Check]) -> Verdict:
    """Returns "holds" if all checks do, "in part" if some do, else "not here". What was not measured does not hold."""
    held = [check.held is True for check in checks]
    if held and all(held):
        return "holds"
    return "in part" if any(held) else "not here"


def check_range(statement: str, value: float | None, low: float, high: float, shown: str = "{:.3g}") -> Check:
    """Returns the check that a figure lies in [low, high]; with None for `value`, one that was not measured."""
    if value is None:
        return Check(statement, "not measured", None)
    return Check(statement, shown.format(value), low <= value <= high)
