"""Ways to spend a budget over strata of prompts: uniform groups, one planned group size, or a separate number for each
prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.planning.strata import Menu, Strata, build_menu

Array = NDArray[np.float64]

LEAST_MIXED = 0.02  # no group is funded whose chance of being mixed is smaller
NEAREST = 1e-3  # to 0 or 1, for the rule 1/(pq)
OWN_TRIES = (0, *range(2, 17), *range(18, 33, 2), *range(36, 65, 4))


@dataclass(frozen=True)
class Choice:
    """One way to spend the budget of a pass. `prompts` get `rollouts` in total; shares are shares of the groups."""

    group_size: int | None
    prompts: float
    rollouts: float
    cost: float
    silent_share: float
    mixed_groups: float
    utility: float


@dataclass(frozen=True)
class Split:
    """Tries per stratum (S,): `more` for the first `some` prompts of it, `fewer` for the rest."""

    fewer: Array
    more: Array
    some: Array


def choose_uniform(strata: Strata, budget: float, size: int, rho: float) -> Choice:
    """Prompts drawn at random, one group of `size` each, until the budget or the prompts run out."""
    part = min(1.0, budget / (strata.cost_of_all * size))
    return _summary(strata, build_menu(strata, (size,), rho), strata.count * part, 0)


def choose_fixed(strata: Strata, menu: Menu, budget: float) -> tuple[Choice, Array]:
    """The one group size, and the prompts per stratum (S,), with the most utility in the budget."""
    funded = [_fund_best(strata, menu, budget, column) for column in range(len(menu.sizes))]
    best = int(np.argmax([share @ menu.gain[:, column] for column, share in enumerate(funded)]))
    return _summary(strata, menu, funded[best], best), funded[best]


def choose_own(strata: Strata, budget: float, rho: float) -> tuple[Choice, Split]:
    """Tries per prompt that maximize utility: bisection on the price of one unit of utility, then the rest of the
    budget is used up.

    Utility is concave in the tries, so a greedy choice at one price is optimal up to rounding.
    """
    menu, tries = build_menu(strata, OWN_TRIES, rho), np.array(OWN_TRIES, dtype=np.float64)
    costs = tries[None, :] * strata.cost[:, None]
    gain = np.where(menu.mixed[:, -1:] >= LEAST_MIXED, menu.gain, 0.0)
    cheap, dear = _bracket(strata.count, gain, costs, budget)
    stratum = np.arange(len(cheap))
    left = budget - float(strata.count @ costs[stratum, cheap])
    some = _fill(left, costs[stratum, dear] - costs[stratum, cheap], strata.count)

    def total(table: Array) -> float:
        return float((strata.count - some) @ table[stratum, cheap] + some @ table[stratum, dear])

    funded = np.broadcast_to((tries > 0).astype(np.float64), gain.shape)
    prompts, mixed = total(funded), total(np.where(funded > 0, menu.mixed, 0.0))
    choice = Choice(
        group_size=None,
        prompts=prompts,
        rollouts=total(np.broadcast_to(tries, gain.shape)),
        cost=total(costs),
        silent_share=1 - mixed / prompts if prompts else float("nan"),
        mixed_groups=mixed,
        utility=total(gain),
    )
    return choice, Split(tries[cheap], tries[dear], some)


def inverse_tries(p: Array, count: Array, rollouts: float) -> Array:
    """Tries in proportion to 1/(pq), with `rollouts` in total over prompts of rates p, `count` of each; shape of p.

    This is the rule of arXiv:2607.00152, under which the E[σ̂] of each prompt is equally near its limit: G =
    1/(8(1−f)pq) reaches the share f. Rates nearer to 0 or 1 than `NEAREST` are replaced by it.
    """
    inside = np.clip(p, NEAREST, 1 - NEAREST)
    share = 1 / (inside * (1 - inside))
    return np.asarray(share * rollouts / float(count @ share))


def choose_inverse(strata: Strata, rollouts: float, rho: float) -> Choice:
    """Tries by `inverse_tries` at the mean rate of each stratum, rounded up for as many prompts as keeps the mean."""
    tries = inverse_tries(strata.belief @ strata.points, strata.count, rollouts)
    low = np.floor(tries)
    totals = {"prompts": 0.0, "mixed": 0.0, "utility": 0.0, "cost": 0.0}
    for size in np.unique([low, low + 1]):
        # prompts of each stratum with this many tries
        share = strata.count * np.clip(1 - np.abs(tries - size), 0, 1)
        if size < 1 or not share.any():
            continue
        menu = build_menu(strata, (int(size),), rho)
        totals["prompts"] += float(share.sum())
        totals["mixed"] += float(share @ menu.mixed[:, 0])
        totals["utility"] += float(share @ menu.gain[:, 0])
        totals["cost"] += float(share @ strata.cost) * size
    silent = 1 - totals["mixed"] / totals["prompts"] if totals["prompts"] else float("nan")
    return Choice(None, totals["prompts"], rollouts, totals["cost"], silent, totals["mixed"], totals["utility"])


def find_least_budget(strata: Strata, menu: Menu, budget: float, target: float) -> float:
    """The least budget at which the best fixed plan reaches utility `target`; `budget` if it cannot."""
    if choose_fixed(strata, menu, budget)[0].utility < target:
        return budget
    low, high = 0.0, budget
    for _ in range(16):
        middle = (low + high) / 2
        reached = choose_fixed(strata, menu, middle)[0].utility >= target
        low, high = (low, middle) if reached else (middle, high)
    return high


def _summary(strata: Strata, menu: Menu, share: Array, column: int) -> Choice:
    """The choice that gives `share` (S,) prompts of each stratum one group of the size in `column`."""
    prompts, size = float(share.sum()), menu.sizes[column]
    mixed = float(share @ menu.mixed[:, column])
    return Choice(
        group_size=size,
        prompts=prompts,
        rollouts=prompts * size,
        cost=float(share @ strata.cost) * size,
        silent_share=1 - mixed / prompts if prompts else float("nan"),
        mixed_groups=mixed,
        utility=float(share @ menu.gain[:, column]),
    )


def _fund_best(strata: Strata, menu: Menu, budget: float, column: int) -> Array:
    """Prompts funded per stratum (S,) when groups of one size go to the most utility per cost first."""
    size = menu.sizes[column]
    order = np.argsort(-menu.gain[:, column] / strata.cost, kind="stable")
    order = order[menu.mixed[order, column] >= LEAST_MIXED]
    spent = np.cumsum(strata.count[order] * strata.cost[order]) * size
    funded = np.zeros_like(strata.count)
    whole = spent <= budget
    funded[order[whole]] = strata.count[order[whole]]
    if not whole.all():
        first = int(np.argmin(whole))
        left = budget - (spent[first - 1] if first else 0.0)
        funded[order[first]] = np.floor(left / (strata.cost[order[first]] * size) + 1e-9)
    return funded


def _bracket(count: Array, gain: Array, costs: Array, budget: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The option of each stratum (S,) at the lowest price that keeps the budget, and at a price just below it."""

    def at(price: float) -> NDArray[np.int64]:
        return np.asarray(np.argmax(gain - price * costs, axis=1))

    def spent(choice: NDArray[np.int64]) -> float:
        return float(count @ np.take_along_axis(costs, choice[:, None], 1)[:, 0])

    low, high = 0.0, float((gain[:, 1:] / costs[:, 1:]).max()) + 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(at(middle)) > budget else (low, middle)
    cheap = at(high)
    return cheap, at(low) if spent(at(low)) > budget else cheap


def _fill(left: float, extra: Array, count: Array) -> Array:
    """How many prompts of each stratum (S,) can get the more expensive option with the rest of the budget; whole
    prompts only."""
    some = np.zeros_like(count)
    for i in np.flatnonzero(extra > 0):
        some[i] = min(count[i], np.floor(max(left, 0.0) / extra[i] + 1e-9))
        left -= some[i] * extra[i]
    return some
