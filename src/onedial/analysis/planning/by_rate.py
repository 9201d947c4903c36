"""A plan by solve rate: how many tries it gives to easy, medium and hard prompts, beside the rule of its sources."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onedial.analysis.planning.choices import inverse_tries
from onedial.analysis.planning.planner import BudgetPlan

EDGES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)

WHY = (
    "The rule of arXiv:2607.00152 gives tries in proportion to 1/(p(1 − p)). It answers another question: how many "
    "bring each prompt's normalized gradient equally near its limit. So it spends most where groups are rarely mixed "
    "(rates within 0.1 % of 0 or 1 count as 0.1 %), while the plan spends a rollout where it is expected to teach most."
)


@dataclass(frozen=True)
class RateBand:
    """Prompts whose believed solve rate lies in [low, high), and their mean tries per pass under three rules.

    mixed    mean chance that a group of the plan's size is mixed
    fixed    tries of the plan with one group size
    own      tries of the plan with an own number for each prompt
    inverse  tries in proportion to 1/(p(1 − p)), with as many rollouts in all as `fixed`
    """

    low: float
    high: float
    prompts: int
    mixed: float
    fixed: float
    own: float
    inverse: float


def tries_by_rate(plan: BudgetPlan) -> tuple[RateBand, ...]:
    """The plan by bands of the believed solve rate; bands without a prompt are left out."""
    rate = plan.beliefs.mean()
    band = np.clip(np.searchsorted(EDGES, rate, side="right") - 1, 0, len(EDGES) - 2)
    inverse = inverse_tries(rate, np.ones(len(rate)), float(plan.tries.sum()))
    mixed = plan.beliefs.mixed(plan.group_size)
    found = []
    for i in np.unique(band):
        mine = band == i
        means = (float(x[mine].mean()) for x in (mixed, plan.tries, plan.adaptive_tries, inverse))
        found.append(RateBand(EDGES[i], EDGES[i + 1], int(mine.sum()), *means))
    return tuple(found)
