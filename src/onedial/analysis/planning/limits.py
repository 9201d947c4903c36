"""What cannot be planned, and what the reader of a plan should know about its limits."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from onedial.analysis.planning.counts import PromptCounts
from onedial.analysis.planning.posterior import Beliefs
from onedial.core.errors import DataError

Unit = Literal["rollouts", "tokens"]

MOST_SIZE = 4096
MOST_PASSES = 1000
UNEVEN = 0.2  # correlation of tries with extreme rates from which on they are taken to follow difficulty


def check_plan_options(budget: float, unit: Unit, group_size: int, fixed_size: int | None, audit: float) -> None:
    """Raises DataError for an option that makes no sense, with what is allowed."""
    if not (budget > 0 and math.isfinite(budget)):
        raise DataError(f"--budget {budget:g}: must be a positive, finite number of {unit}")
    for name, size in (("--group-size", group_size), ("--fixed-size", fixed_size)):
        if size is not None and not 2 <= size <= MOST_SIZE:
            raise DataError(f"{name} {size}: must lie in 2 … {MOST_SIZE:,}; a group of one is its own baseline")
    if not 0 <= audit < 1:
        raise DataError(f"--audit {audit:g}: must be a share of the budget, 0 ≤ audit < 1")


def check_counts(counts: PromptCounts, unit: Unit) -> None:
    """Raises DataError if no plan can be made from the counts."""
    if unit == "tokens" and (counts.tokens is None or not np.nanmax(counts.tokens, initial=0.0) > 0):
        raise DataError("--unit tokens: these counts say nothing of completion lengths; plan in rollouts instead")
    if np.median(counts.n) < 2:
        raise DataError(
            "most prompts have a single try: their difficulty cannot be distinguished from chance. Sample at least 4 "
            "per prompt (better 8) and plan from that log"
        )


def split_passes(budget: float, full: float) -> tuple[int, float]:
    """How many passes over all prompts, each at most one uniform group per prompt, and the budget of each."""
    passes = max(1, math.ceil(min(budget / full, 2.0 * MOST_PASSES) - 1e-9))
    if passes > MOST_PASSES:
        raise DataError(
            f"--budget {budget:g}: more than {MOST_PASSES:,} passes over all prompts, which a log of today cannot "
            f"plan; plan at most {MOST_PASSES * full:,.0f} at once"
        )
    return passes, budget / passes


def list_cautions(beliefs: Beliefs, size: int, funded: float) -> list[str]:
    """What the reader of the plan should know about its limits, one or two sentences each."""
    notes, counts = [], beliefs.counts
    tries = float(np.median(counts.n))
    if counts.survivors_only:
        notes.append(
            "Only groups that survived filtering were logged: rates are corrected for it, under a Beta shape. "
            "Prompts whose groups are never mixed are not in the log, and nothing is said about them."
        )
    if tries < 4:
        notes.append(f"Only {tries:g} tries per prompt at the median: single prompts are nearly unknown.")
    if funded and size > tries:
        notes.append(
            f"G = {size} exceeds the {tries:g} tries per prompt, which do not determine its silent share: the "
            "interval is of what is possible."
        )
    if beliefs.discount < 1:
        notes.append(
            f"Rates moved during the log: each visit counts {beliefs.discount:g} of the next one "
            "(chosen to predict the latest visit)."
        )
    if 0 < funded < min(50, 0.05 * len(counts.ids) + 10):
        notes.append(
            f"Only {funded:,.0f} prompts are funded. The utility knows nothing of overfitting: on so few, raise the "
            "budget of a pass or add prompts near a solve rate of one half."
        )
    if len(counts.ids) < 30:
        notes.append(f"Only {len(counts.ids)} prompts: the shared prior is weak and intervals are rough.")
    if len(np.unique(counts.n)) > 1 and not counts.survivors_only and abs(_tries_follow_rates(counts)) > UNEVEN:
        notes.append(
            "Easy and hard prompts got different numbers of tries. Where that was by plan, the shared prior is biased "
            "towards the prompts with more; see the check."
        )
    return notes


def _tries_follow_rates(counts: PromptCounts) -> float:
    """Correlation over prompts of the number of tries with the squared distance of k/n from one half."""
    spread = (counts.k / counts.n - 0.5) ** 2
    if np.ptp(spread) == 0:
        return 0.0
    return float(np.corrcoef(np.log(counts.n), spread)[0, 1])
