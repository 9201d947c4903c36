"""What is new in a log that is still being written: iterations that are complete, and findings that have become clear.

A finding is reported when its interval first shows that it matters, and again when its figure leaves the interval that
was reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from onedial.analysis.findings import Finding
from onedial.analysis.findings.finding import plain
from onedial.analysis.logs.grouping import SHARED_KINDS, SILENT_KINDS
from onedial.analysis.result import Analysis

WATCHED = ("silent_share", "silent_tokens", "drift", "length_bias", "truncation", "shaping_leak", "unusable_share")
"""Findings about the run; those about its prompts can wait for its end."""
LEAST_STAKE = 0.1  # importance (0–1) from which a finding is worth an interruption
WIDEST = 0.3  # of an interval of a share whose figure is told


@dataclass(frozen=True)
class IterationSummary:
    """The groups of one iteration that enter shares (two or more usable rollouts).

    kinds          number of groups by kind: mixed, right, wrong, other
    reward         mean outcome reward of the judged rollouts
    silent_tokens  share of the completion tokens that silent groups wrote; None without token counts
    """

    iteration: int
    groups: int
    kinds: dict[str, int]
    reward: float | None
    silent_tokens: float | None

    @property
    def has_signal(self) -> bool:
        """Whether a group has rewards that differ."""
        return self.kinds["mixed"] > 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"event": "iteration", **plain(self)}


@dataclass(frozen=True)
class News:
    """What the latest reading of the log adds to the earlier ones.

    without_signal  number of latest complete iterations in a row that have no mixed group
    has_iterations  whether the log names an iteration with a group that enters shares
    """

    iterations: tuple[IterationSummary, ...]
    findings: tuple[Finding, ...]
    without_signal: int
    has_iterations: bool


@dataclass
class Follower:
    """Remembers what has been reported of a log."""

    last: int | None = None
    _told: dict[str, tuple[float, float]] = field(default_factory=dict)

    def compare(self, analysis: Analysis, *, ended: bool = False) -> News:
        """What is new since the last call. The newest iteration counts as complete only once the log has `ended`."""
        summaries = summarize_iterations(analysis)
        complete = summaries if ended else summaries[:-1]
        new = tuple(each for each in complete if self.last is None or each.iteration > self.last)
        if complete:
            self.last = complete[-1].iteration
        findings = tuple(each for each in analysis.findings if self._is_new(each))
        self._told |= {each.name: each.interval for each in findings if each.interval is not None}
        silent = 0
        for each in reversed(complete):
            if each.has_signal:
                break
            silent += 1
        return News(new, findings, silent, bool(summaries))

    def _is_new(self, finding: Finding) -> bool:
        if finding.name not in WATCHED or finding.value is None or not is_clear(finding):
            return False
        told = self._told.get(finding.name)
        return told is None or not told[0] <= finding.value <= told[1]


def is_clear(finding: Finding) -> bool:
    """Whether a finding recommends an action, concerns a large part of the run, and is known well enough to act on."""
    if finding.withheld or finding.interval is None or not finding.what_to_do or finding.importance < LEAST_STAKE:
        return False
    low, high = finding.interval
    return finding.unit != "share" or high - low <= WIDEST


def summarize_iterations(analysis: Analysis) -> list[IterationSummary]:
    """One summary per iteration, in order; [] if the log names no iterations or has no group that counts in shares."""
    if analysis.is_empty:
        return []
    shared = analysis.tables.shared.filter(pl.col("iteration").is_not_null())
    kind = pl.col("kind")
    table = (
        shared.group_by("iteration")
        .agg(
            pl.len().alias("groups"),
            *((kind == name).sum().alias(name) for name in SHARED_KINDS),
            (pl.col("total").sum() / pl.col("n").sum()).alias("reward"),
            (pl.col("tokens").filter(kind.is_in(SILENT_KINDS)).sum() / pl.col("tokens").sum()).alias("silent_tokens"),
            pl.col("tokens").null_count().alias("uncounted"),
        )
        .sort("iteration")
    )
    return [
        IterationSummary(
            iteration=row["iteration"],
            groups=row["groups"],
            kinds={name: row[name] for name in SHARED_KINDS},
            reward=row["reward"],
            silent_tokens=None if row["uncounted"] else row["silent_tokens"],
        )
        for row in table.iter_rows(named=True)
    ]
