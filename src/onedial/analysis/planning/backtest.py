"""A test of a plan on tries that it has not seen: a plan from half of the tries of each prompt is compared with the
other half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onedial.analysis.planning.counts import PromptCounts
from onedial.analysis.planning.limits import Unit
from onedial.analysis.planning.planner import SIZES, plan
from onedial.analysis.planning.rho import Rho
from onedial.core.errors import DataError
from onedial.core.maths import dispersion

FEWEST_PROMPTS = 100
SELECTIVE = 0.8  # with more of the prompts funded, funding them is hardly a choice
Shown = tuple[float, tuple[float, float], float]  # expected, 95 % interval, seen


@dataclass(frozen=True)
class HeldOut:
    """Silent shares of groups of `group_size`, as the half-plan expects them and as the other half shows them.

    `uniform` is over all `prompts` with enough tries, `planned` over the `funded` ones, `again` over the
    `silent_before` prompts whose first halves were all right or all wrong (None if there are none). If prompts that are
    never or always solved were removed from the table, far fewer are silent again.
    """

    group_size: int
    prompts: int
    funded: int
    uniform: Shown
    silent_before: int
    planned: Shown
    again: Shown | None

    @property
    def share_funded(self) -> float:
        """Share of the prompts that the half-plan funded."""
        return self.funded / self.prompts

    @property
    def selective(self) -> bool:
        """Whether the half-plan left out enough prompts for the comparison to test its choice of prompts."""
        return self.share_funded <= SELECTIVE

    @property
    def kept(self) -> bool:
        """Whether what was observed lies within every interval."""
        shown = (self.uniform, self.planned, *([self.again] if self.again else []))
        return all(low <= seen <= high for _, (low, high), seen in shown)


def backtest_plan(
    counts: PromptCounts, per_pass: float, size: int, *, unit: Unit, rho: Rho | float, seed: int = 0
) -> HeldOut | None:
    """The check at group size `size`, or at the largest size that the other halves allow; None if the tries cannot be
    halved.

    The tries must be exchangeable: no history of a policy that changed, and no groups removed by a filter. At least
    `FEWEST_PROMPTS` prompts must have 4 tries. `per_pass` is the budget of a pass over all prompts.
    """
    enough = counts.n >= 4
    if counts.survivors_only or counts.history is not None or enough.sum() < FEWEST_PROMPTS:
        return None
    k, n = (np.floor(values[enough] + 1e-9).astype(np.int64) for values in (counts.k, counts.n))
    first = n // 2
    right = np.random.default_rng(seed).hypergeometric(k, n - k, first)
    rest, left = n - first, k - right
    size = max(s for s in SIZES if s <= min(max(size, SIZES[0]), np.quantile(rest, 0.1)))
    half = replace(
        counts,
        ids=tuple(np.array(counts.ids, dtype=object)[enough]),
        k=right.astype(np.float64),
        n=first.astype(np.float64),
        groups=np.ones(len(k)),
        tokens=None if counts.tokens is None else counts.tokens[enough],
    )
    try:
        made = plan(half, per_pass * enough.mean(), unit=unit, group_size=size, fixed_size=size, rho=rho, seed=seed)
    except DataError:  # half of a small budget may not buy a group
        return None
    whole = rest >= size
    both = dispersion.unbiased_powers(left[whole], rest[whole], size)
    silent, funded = both[0] + both[1], made.tries > 0
    if not funded[whole].any():
        return None
    before = (right == 0) | (right == first)
    again = None
    if before[whole].any():
        again = (*made.beliefs.predict_silent(before, size, seed=seed), float(silent[before[whole]].mean()))
    uniform = made.beliefs.silent(size, new_prompts=False, seed=seed)
    return HeldOut(
        group_size=size,
        prompts=len(k),
        funded=int(funded.sum()),
        silent_before=int(before.sum()),
        uniform=(*uniform, float(silent.mean())),
        planned=(*made.silent_fixed, float(silent[funded[whole]].mean())),
        again=again,
    )
