"""One analysis of a log: the value that the terminal, JSON, the page and the planner show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onedial.analysis.findings import Finding, LogTables, collect, find_all
from onedial.analysis.findings.key_figures import empty_figures, key_figures
from onedial.analysis.logs.schema import Log
from onedial.analysis.logs.splits import Split, count_splits, select_split
from onedial.core.errors import DataError


@dataclass(frozen=True)
class Analysis:
    """What a log shows. Figures and findings are computed from `tables` when they are first asked for, and once.

    log      the log, reduced to the rows of the split
    splits   rows marked train, eval and unmarked, before that
    price    money per million completion tokens, for what silent groups cost
    seconds  time spent generating, likewise
    ks       further values of k for pass@k
    """

    log: Log
    splits: dict[str, int]
    group_size: int
    price: float | None = None
    seconds: float | None = None
    ks: tuple[int, ...] = ()

    @cached_property
    def tables(self) -> LogTables:
        """One row per group and one per prompt. Raises DataError when the log holds no row."""
        return collect(self.log, group_size=self.group_size)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The key figures as JSON values (see `findings.key_figures`)."""
        try:
            figures = key_figures(self.tables, ks=self.ks)
        except DataError:
            figures = empty_figures(self.log)
        return {**figures, "splits": self.splits}

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding, the most important first, withheld ones last; () for a log without a row."""
        return () if self.is_empty else tuple(find_all(self.tables, price=self.price, seconds=self.seconds))

    @cached_property
    def is_empty(self) -> bool:
        """Whether the log holds no row."""
        try:
            return not self.tables
        except DataError:
            return True


def analyze(
    log: Log,
    *,
    split: Split | None = None,
    group_size: int = 8,
    price: float | None = None,
    seconds: float | None = None,
    ks: Sequence[int] = (),
) -> Analysis:
    """Analyzes the rows of one split of a log (None: training rows where there are any, else all).

    Raises DataError when the split has no rows.
    """
    counts = count_splits(log)
    return Analysis(select_split(log, split, counts=counts), counts, group_size, price, seconds, tuple(ks))
