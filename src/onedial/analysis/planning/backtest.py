"""Does the plan keep its word? The same plan from half of each prompt's tries, held against the other half."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onedial.analysis.planning.planner import SIZES, Unit, plan
from onedial.analysis.planning.posterior import PromptCounts
from onedial.core.maths import dispersion

FEWEST_PROMPTS = 100
Shown = tuple[float, tuple[float, float], float]  # expected, 95 % interval, seen


@dataclass(frozen=True)
class HeldOut:
    """Silent shares of groups of `group_size` as the half-plan expects them and as the other half shows them.

    `uniform` is over all `prompts` with enough tries, `planned` over the `funded` ones.
    """

    group_size: int
    prompts: int
    funded: int
    uniform: Shown
    planned: Shown

    @property
    def kept(self) -> bool:
        """Whether what was seen lies within both intervals."""
        return all(low <= seen <= high for _, (low, high), seen in (self.uniform, self.planned))


def held_out(
    counts: PromptCounts, per_pass: float, size: int, *, unit: Unit, rho: float, seed: int = 0
) -> HeldOut | None:
    """The check at group size `size`, or the largest that the other halves allow; None where tries cannot be halved.

    That needs tries that are alike, so no history of a policy that moved, no groups lost to a filter, and at least
    `FEWEST_PROMPTS` prompts with 4 tries. `per_pass` is the budget of a pass over all prompts.
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
    made = plan(half, per_pass * enough.mean(), unit=unit, group_size=size, fixed_size=size, rho=rho, seed=seed)
    whole = rest >= size
    both = dispersion.unbiased_powers(left[whole], rest[whole], size)
    silent, funded = both[0] + both[1], (made.tries > 0)[whole]
    if not funded.any():
        return None
    uniform = made.beliefs.silent(size, new_prompts=False, seed=seed)
    return HeldOut(
        group_size=size,
        prompts=len(k),
        funded=int((made.tries > 0).sum()),
        uniform=(*uniform, float(silent.mean())),
        planned=(*made.silent_fixed, float(silent[funded].mean())),
    )
