"""The arms of a comparison and the checked settings of their runs, without anything that is slow to import.

An arm is a name and the settings in which it differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onedial.core.errors import ConfigError
from onedial.core.settings import Run
from onedial.core.settings_file import make_run, merge
from onedial.evidence.claim import Json

MOST_ITERATIONS = 1_000_000  # the budget of tokens ends a run


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a name for tables and folders, and nested settings as they stand in TOML."""

    name: str
    settings: Mapping[str, Any]


def cross_arms(rows: Sequence[str], varied: Mapping[str, Sequence[str]]) -> list[Arm]:
    """Returns every row with every combination of the varied settings; "algorithm.dial" is a cell of the row.

    Raises ConfigError for an arm that is named twice, and for fewer than two arms.
    """
    arms = []
    for row in rows:
        for values in itertools.product(*varied.values()):
            settings: Json = {"algorithm": {"row": row}}
            for name, value in zip(varied, values, strict=True):
                section, _, key = name.rpartition(".")
                settings = merge(settings, {section: {key: value}} if section else {key: value})
            words = [f"{name.rpartition('.')[2]}={value}" for name, value in zip(varied, values, strict=True)]
            arms.append(Arm(" ".join([row, *words]), settings))
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice!r} is given twice; name each row and each value once")
    if len(arms) < 2:
        raise ConfigError(f"one arm ({names[0]}) is no comparison; name a second row, or --vary SETTING=A,B")
    return arms


def make_arm_run(arm: Arm, seed: int, base: Mapping[str, Any], folder: Path) -> Run:
    """Returns the checked run of an arm and a seed. Raises ConfigError naming the arm if its settings are not
    allowed."""
    own = {"seed": seed, "out": str(folder / f"{arm.name.replace(' ', '-').replace('=', '')}-s{seed}")}
    ends = {} if "iterations" in base else {"iterations": MOST_ITERATIONS}
    try:
        return make_run(merge(base, ends, arm.settings, own))
    except ConfigError as error:
        raise ConfigError(f"{arm.name}: {error}") from error
