"""Group size, tries and weight per prompt for a budget, by what each try is expected to teach.

A prompt's n tries with a leave-one-out baseline count as m = n − 1 effective rollouts. Their utility is U = E[mσ²/(1 +
ρmσ²)] with σ² = p(1 − p), where the expectation is over the posterior of p. The plug-in rate is never used: it would
call a prompt with 0 of 4 hopeless and one with 2 of 4 certain. ρ is the signal of one prompt divided by the noise of
one rollout. Verdicts do not determine it, so it is measured by a run's probes, given, or unknown (`rho`), and the plan
shows how its answer changes with it.

There are two plans. `fixed` has one group size, for trainers that allow only one: it chooses the size and the prompts
with the most utility. `adaptive` gives each prompt its own number of tries, at one price per unit of utility.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.planning.assumption import UnderRho, vary_rho
from onedial.analysis.planning.choices import Choice, choose_fixed, choose_inverse, choose_own, choose_uniform
from onedial.analysis.planning.counts import PromptCounts
from onedial.analysis.planning.limits import Unit, check_counts, check_plan_options, list_cautions, split_passes
from onedial.analysis.planning.posterior import Beliefs, believe
from onedial.analysis.planning.rho import UNKNOWN, Rho, assume_rho
from onedial.analysis.planning.strata import Strata, build_menu, build_strata, rank_within
from onedial.core.errors import DataError
from onedial.core.maths import dispersion

Array = NDArray[np.float64]
Expected = tuple[float, tuple[float, float]]  # a value and its 95 % interval

SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
AUDIT = 0.1
TEACHES = 0.2  # with a smaller chance of a mixed group, a prompt is dropped rather than kept waiting
UNSURE = 0.05  # posterior chance of deserving a place at which an unfunded prompt gets a second look


@dataclass(frozen=True)
class BudgetPlan:
    """What `plan` decided. Arrays are per prompt, in the order of `beliefs.counts.ids`.

    tries      rollouts per pass under the fixed plan (0 = not in this pass)
    adaptive_tries  the same for a trainer that can give each prompt its own number
    weight     relative weight of the prompt's gradient, mean 1 over the funded prompts (0 = not funded)
    decision   "fund" (in this pass); "revisit" (unsure: at least 5 % likely to deserve a place; a sample of
               `audit_prompts` of them gets a group each); "wait" (often mixed, but others teach more per rollout);
               "drop" (a group of the plan's size would be mixed less than one time in five)
    rho        what is known of ρ, and the value that this plan uses
    under_rho  the fixed plan and its saving at each of `rho.shown`
    inverse    the sources' own rule: tries in proportion to 1/(pq), with as many rollouts as the fixed plan
    silent_*   expected silent share of uniform groups and of the funded ones, with 95 % prediction intervals
    """

    unit: Unit
    budget: float
    per_pass: float
    passes: int
    rho: Rho
    uniform: Choice
    fixed: Choice
    adaptive: Choice
    inverse: Choice
    tries: NDArray[np.int64]
    adaptive_tries: NDArray[np.int64]
    weight: Array
    decision: tuple[str, ...]
    audit_prompts: int
    under_rho: tuple[UnderRho, ...]
    silent_uniform: Expected
    silent_fixed: Expected
    mixed_by_size: dict[int, float]
    beliefs: Beliefs
    notes: tuple[str, ...]

    @property
    def group_size(self) -> int:
        """Group size of the fixed plan."""
        return int(self.fixed.group_size or 0)

    @property
    def saving(self) -> float:
        """The saving at the assumed ρ; see `UnderRho`."""
        return next(under.saving for under in self.under_rho if under.rho == self.rho.value)

    @property
    def saving_range(self) -> tuple[float, float]:
        """From the least to the largest saving over the 95 % intervals at every ρ shown; over the savings alone if
        there are no intervals."""
        spans = [under.saving_interval or (under.saving, under.saving) for under in self.under_rho]
        return min(low for low, _ in spans), max(high for _, high in spans)


def plan(
    counts: PromptCounts,
    budget: float,
    *,
    unit: Unit = "rollouts",
    group_size: int = 8,
    fixed_size: int | None = None,
    rho: Rho | float = UNKNOWN,
    audit: float = AUDIT,
    seed: int = 0,
) -> BudgetPlan:
    """Plans a budget over prompts with counts.

    `group_size` is the size that uniform sampling would use, for comparison; `fixed_size` forces the size of the fixed
    plan. `rho` is what is known of ρ, or a number to assume. A budget larger than one uniform group per prompt is
    spread over equal passes. Raises DataError if no plan can be made.
    """
    check_plan_options(budget, unit, group_size, fixed_size, audit)
    known = rho if isinstance(rho, Rho) else assume_rho(rho)
    check_counts(counts, unit)
    beliefs = believe(counts)
    strata = build_strata(beliefs, counts.tokens if unit == "tokens" else None)
    passes, per_pass = split_passes(budget, strata.cost_of_all * group_size)
    sizes = SIZES if fixed_size is None else (fixed_size,)
    own_budget = per_pass * (1 - audit)
    uniform = choose_uniform(strata, per_pass, group_size, known.value)
    fixed, funded = choose_fixed(strata, build_menu(strata, sizes, known.value), own_budget)
    if uniform.prompts < 1 or own_budget < strata.cost.min() * min(sizes):
        size = max(group_size, min(sizes))
        raise DataError(
            f"--budget {budget:g}: less than one group of {size}; give at least "
            f"{math.ceil(size * strata.cost_of_all / strata.count.sum() / (1 - audit)):,} {unit}"
        )
    size = int(fixed.group_size or group_size)
    adaptive, split = choose_own(strata, own_budget, known.value)
    rank, number = rank_within(strata, seed), strata.number
    chosen = rank < funded[number]
    decision = _decide(strata, chosen, size, known.value)
    cost = strata.cost_of_all / float(strata.count.sum())
    return BudgetPlan(
        unit=unit,
        budget=budget,
        per_pass=per_pass,
        passes=passes,
        rho=known,
        uniform=uniform,
        fixed=fixed,
        adaptive=adaptive,
        inverse=choose_inverse(strata, fixed.rollouts, known.value),
        tries=np.where(chosen, size, 0).astype(np.int64),
        adaptive_tries=np.where(rank < split.some[number], split.more[number], split.fewer[number]).astype(np.int64),
        weight=_weights(strata, chosen, size, known.value),
        decision=decision,
        audit_prompts=min(decision.count("revisit"), int(per_pass * audit / (size * cost))),
        under_rho=vary_rho(
            beliefs, strata, per_pass, group_size=group_size, sizes=sizes, rhos=known.shown, audit=audit, seed=seed
        ),
        silent_uniform=beliefs.silent(group_size, seed=seed),
        silent_fixed=beliefs.predict_silent(chosen, size, seed=seed),
        mixed_by_size={g: float(beliefs.mixed(g).mean()) for g in SIZES},
        beliefs=beliefs,
        notes=(*counts.notes, *list_cautions(beliefs, size, fixed.prompts)),
    )


def _decide(strata: Strata, chosen: NDArray[np.bool_], size: int, rho: float) -> tuple[str, ...]:
    """What the plan decides about each prompt; see `BudgetPlan`."""
    value = dispersion.utility(size - 1.0, strata.points * (1 - strata.points), rho=rho)
    bar = float((strata.belief @ value)[strata.number[chosen]].min()) if chosen.any() else 0.0
    unsure = (strata.belief @ (value >= max(bar, 1e-12)).astype(np.float64))[strata.number] >= UNSURE
    teaches = (strata.belief @ dispersion.mixed_probability(strata.points, size))[strata.number] >= TEACHES
    decision = np.where(chosen, "fund", np.where(unsure, "revisit", np.where(teaches, "wait", "drop")))
    return tuple(map(str, decision))


def _weights(strata: Strata, chosen: NDArray[np.bool_], size: int, rho: float) -> Array:
    """E[m/(1 + ρmσ²)] of the funded prompts, scaled to mean 1; with one group size it varies little."""
    weight = strata.belief @ dispersion.optimal_weight(size - 1.0, strata.points * (1 - strata.points), rho=rho)
    weights = np.where(chosen, weight[strata.number], 0.0)
    return np.asarray(weights / weights[chosen].mean()) if chosen.any() else weights
