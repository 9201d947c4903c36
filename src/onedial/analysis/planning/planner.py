"""Group size, tries and weight per prompt for a budget, by what each try is expected to teach.

A prompt's n tries with a leave-one-out baseline are worth m = n − 1 effective rollouts, which teach
U = E[mσ²/(1 + ρmσ²)] with σ² = p(1 − p) and the expectation over the posterior of p: never the plug-in rate, which
calls a prompt with 0 of 4 hopeless and one with 2 of 4 certain. ρ is the signal of one prompt over the noise of one
rollout; it cannot be read from verdicts, so it is a setting, and the plan says how its answer moves with it.

Two plans come out. `fixed` has one group size, for trainers that know only that: the size and the prompts with the most
utility. `adaptive` gives each prompt its own number of tries at one price per unit of utility (greedy on a concave
function, hence optimal up to rounding).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.planning.posterior import Beliefs, PromptCounts, believe
from onedial.core.errors import DataError
from onedial.core.maths import dispersion
from onedial.core.maths.mixing import posterior

Array = NDArray[np.float64]
Unit = Literal["rollouts", "tokens"]

SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
RHO = 0.05
AUDIT = 0.1
WORTH = 0.02  # a group with a smaller chance of being mixed is never paid for
TEACHES = 0.2  # with a smaller chance of a mixed group, a prompt is dropped rather than kept waiting
UNSURE = 0.05  # posterior chance of deserving a place at which an unfunded prompt is worth a second look
COST_BINS = 12


@dataclass(frozen=True)
class Choice:
    """One way to spend the budget of a pass. `prompts` get `rollouts` in all; shares are of the groups."""

    group_size: int | None
    prompts: float
    rollouts: float
    cost: float
    silent_share: float
    mixed_groups: float
    utility: float


@dataclass(frozen=True)
class Plan:
    """What `plan` decided. Arrays are per prompt, in the order of `beliefs.counts.ids`.

    tries      rollouts per pass under the fixed plan (0 = not in this pass)
    adaptive_tries  the same where the trainer can give each prompt its own
    weight     relative weight of the prompt's gradient, mean 1 over the funded (0 = not funded)
    fate       "fund" (in this pass); "revisit" (unsure: at least 5 % likely to deserve a place; a sample of
               `audit_prompts` of them gets a group each); "wait" (would split, but others teach more for the money);
               "drop" (a group of the plan's size would be mixed less than one time in five)
    saving     share of the budget that the fixed plan saves at the utility of uniform groups, its audits included
    silent_*   expected silent share of uniform groups and of the funded ones, with 95 % prediction intervals
    """

    unit: Unit
    budget: float
    per_pass: float
    passes: int
    rho: float
    uniform: Choice
    fixed: Choice
    adaptive: Choice
    tries: NDArray[np.int64]
    adaptive_tries: NDArray[np.int64]
    weight: Array
    fate: tuple[str, ...]
    audit_prompts: int
    saving: float
    saving_interval: tuple[float, float] | None
    silent_uniform: tuple[float, tuple[float, float]]
    silent_fixed: tuple[float, tuple[float, float]]
    mixed_by_size: dict[int, float]
    sizes_over_rho: tuple[int, int]
    beliefs: Beliefs
    notes: tuple[str, ...]

    @property
    def group_size(self) -> int:
        """Group size of the fixed plan."""
        return int(self.fixed.group_size or 0)


@dataclass(frozen=True)
class _Strata:
    """Prompts alike in counts and in cost: belief (S, J), cost of one rollout (S,), how many there are (S,)."""

    belief: Array
    cost: Array
    count: Array
    number: NDArray[np.int64]
    cell: NDArray[np.int64]
    points: Array


def plan(
    counts: PromptCounts,
    budget: float,
    *,
    unit: Unit = "rollouts",
    group_size: int = 8,
    fixed_size: int | None = None,
    rho: float = RHO,
    audit: float = AUDIT,
    seed: int = 0,
) -> Plan:
    """Plan a budget over prompts with counts.

    `group_size` is what uniform sampling would use, the comparison; `fixed_size` forces the size of the fixed plan.
    A budget beyond one uniform group per prompt is spread over equal passes. Raises DataError where it cannot know.
    """
    _check(counts, budget, unit, group_size, rho, audit)
    beliefs = believe(counts)
    strata = _strata(beliefs, counts.tokens if unit == "tokens" else None)
    full = float(strata.count @ strata.cost) * group_size
    passes = max(1, int(np.ceil(budget / full - 1e-9)))
    per_pass = budget / passes
    sizes = SIZES if fixed_size is None else (fixed_size,)
    uniform = _uniform(strata, per_pass, group_size, rho)
    if uniform.prompts < 1:
        raise DataError(
            f"--budget {budget:g}: less than one group of {group_size}; give at least "
            f"{full / len(counts.ids):,.0f} {unit}"
        )
    fixed, funded = _best_fixed(strata, _menu(strata, sizes, rho), per_pass * (1 - audit))
    size = int(fixed.group_size or group_size)
    adaptive, split = _adaptive(strata, per_pass * (1 - audit), rho)
    rank, number = _rank(strata, seed), strata.number
    chosen = rank < funded[number]
    fate = _fates(strata, chosen, size, rho)
    cost = float(strata.count @ strata.cost / strata.count.sum())
    saving, interval = _saving(beliefs, strata, per_pass, group_size, sizes, rho, audit, seed)
    return Plan(
        unit=unit,
        budget=budget,
        per_pass=per_pass,
        passes=passes,
        rho=rho,
        uniform=uniform,
        fixed=fixed,
        adaptive=adaptive,
        tries=np.where(chosen, size, 0).astype(np.int64),
        adaptive_tries=np.where(rank < split.some[number], split.more[number], split.fewer[number]).astype(np.int64),
        weight=_weights(strata, chosen, size, rho),
        fate=fate,
        audit_prompts=min(fate.count("revisit"), int(per_pass * audit / (size * cost))),
        saving=saving,
        saving_interval=interval,
        silent_uniform=beliefs.silent(group_size, seed=seed),
        silent_fixed=_silent_of(beliefs, strata, chosen, size, seed),
        mixed_by_size={g: float(beliefs.mixed(g).mean()) for g in SIZES},
        sizes_over_rho=_over_rho(strata, per_pass * (1 - audit), sizes, rho),
        beliefs=beliefs,
        notes=(*counts.notes, *_cautions(counts, beliefs, size, fixed.prompts)),
    )


def _check(counts: PromptCounts, budget: float, unit: Unit, group_size: int, rho: float, audit: float) -> None:
    if not budget > 0:
        raise DataError(f"--budget {budget:g}: must be a positive number of {unit}")
    if group_size < 2:
        raise DataError(f"--group-size {group_size}: a group needs at least 2 rollouts to differ")
    if not rho > 0 or not 0 <= audit < 1:
        raise DataError(f"rho={rho:g}, audit={audit:g}: rho must be positive and audit lie in [0, 1)")
    if unit == "tokens" and counts.tokens is None:
        raise DataError("--unit tokens: these counts say nothing of completion lengths; plan in rollouts instead")
    if np.median(counts.n) < 2:
        raise DataError(
            "most prompts have a single try: their difficulty cannot be told from luck. Sample at least 4 per prompt "
            "(better 8) and plan from that log"
        )


def _strata(beliefs: Beliefs, tokens: Array | None) -> _Strata:
    cells = beliefs.number
    if tokens is None:
        return _Strata(
            beliefs.belief, np.ones(len(beliefs.belief)), beliefs.cells.count, cells,
            np.arange(len(beliefs.belief)), beliefs.prior.points,
        )  # fmt: skip
    known = np.where(np.isfinite(tokens) & (tokens > 0), tokens, np.nanmean(tokens))
    edges = np.quantile(known, np.linspace(0, 1, COST_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, known)
    keys, number, count = np.unique(np.stack([cells, bins], axis=1), axis=0, return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    cost = np.bincount(number, weights=known) / count
    cell = keys[:, 0].astype(np.int64)
    return _Strata(beliefs.belief[cell], cost, count.astype(np.float64), number, cell, beliefs.prior.points)


def utility_of(belief: Array, points: Array, tries: int, rho: float) -> Array:
    """E[U(tries − 1)] under each row of `belief` (S, J): (S,)."""
    return np.asarray(belief @ dispersion.utility(max(tries - 1.0, 0.0), points * (1 - points), rho=rho))


@dataclass(frozen=True)
class _Menu:
    """What a group of each of `sizes` (A,) is expected to give each stratum: utility and P(mixed), (S, A)."""

    sizes: tuple[int, ...]
    gain: Array
    mixed: Array


def _menu(s: _Strata, sizes: tuple[int, ...], rho: float) -> _Menu:
    gain = np.stack([utility_of(s.belief, s.points, size, rho) for size in sizes], axis=1)
    return _Menu(sizes, gain, s.belief @ dispersion.mixed_probability(s.points[:, None], np.array(sizes)))


def _summary(s: _Strata, menu: _Menu, share: Array, column: int) -> Choice:
    """The choice that gives `share` (S,) prompts of each stratum one group of the size in `column`."""
    prompts, size = float(share.sum()), menu.sizes[column]
    mixed = float(share @ menu.mixed[:, column])
    return Choice(
        group_size=size,
        prompts=prompts,
        rollouts=prompts * size,
        cost=float(share @ s.cost) * size,
        silent_share=1 - mixed / prompts if prompts else float("nan"),
        mixed_groups=mixed,
        utility=float(share @ menu.gain[:, column]),
    )


def _uniform(s: _Strata, budget: float, size: int, rho: float) -> Choice:
    """Prompts drawn at random, one group of `size` each, until the budget or the prompts run out."""
    part = min(1.0, budget / (float(s.count @ s.cost) * size))
    return _summary(s, _menu(s, (size,), rho), s.count * part, 0)


def _top(s: _Strata, menu: _Menu, budget: float, column: int) -> Array:
    """Prompts funded per stratum (S,) when groups of one size go to the most utility per cost first."""
    size = menu.sizes[column]
    order = np.argsort(-menu.gain[:, column] / s.cost, kind="stable")
    order = order[menu.mixed[order, column] >= WORTH]
    spent = np.cumsum(s.count[order] * s.cost[order]) * size
    funded = np.zeros_like(s.count)
    whole = spent <= budget * (1 + 1e-12)
    funded[order[whole]] = s.count[order[whole]]
    if not whole.all():
        first = int(np.argmin(whole))
        left = budget - (spent[first - 1] if first else 0.0)
        funded[order[first]] = np.floor(left / (s.cost[order[first]] * size) + 1e-9)
    return funded


def _best_fixed(s: _Strata, menu: _Menu, budget: float) -> tuple[Choice, Array]:
    """The one group size, and the prompts, with the most utility in the budget."""
    funded = [_top(s, menu, budget, column) for column in range(len(menu.sizes))]
    best = int(np.argmax([share @ menu.gain[:, column] for column, share in enumerate(funded)]))
    return _summary(s, menu, funded[best], best), funded[best]


@dataclass(frozen=True)
class _Split:
    """Tries per stratum (S,): `more` for the first `some` prompts of it, `fewer` for the rest."""

    fewer: Array
    more: Array
    some: Array


def _adaptive(s: _Strata, budget: float, rho: float) -> tuple[Choice, _Split]:
    """Tries per prompt maximising utility: bisection on the price of one unit of utility, then the rest is filled."""
    options = (0, *range(2, 17), *range(18, 33, 2), *range(36, 65, 4))
    menu, tries = _menu(s, options, rho), np.array(options, dtype=np.float64)
    costs = tries[None, :] * s.cost[:, None]
    gain = np.where(menu.mixed[:, -1:] >= WORTH, menu.gain, 0.0)

    def at(price: float) -> NDArray[np.int64]:
        return np.asarray(np.argmax(gain - price * costs, axis=1))

    def spent(choice: NDArray[np.int64]) -> float:
        return float(s.count @ np.take_along_axis(costs, choice[:, None], 1)[:, 0])

    low, high = 0.0, float((gain[:, 1:] / costs[:, 1:]).max()) + 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(at(middle)) > budget else (low, middle)
    cheap = at(high)
    dear = at(low) if spent(at(low)) > budget else cheap
    row = np.arange(len(cheap))
    some = _fill(budget - spent(cheap), costs[row, dear] - costs[row, cheap], s.count)

    def total(table: Array) -> float:
        return float((s.count - some) @ table[row, cheap] + some @ table[row, dear])

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
    return choice, _Split(tries[cheap], tries[dear], some)


def _fill(left: float, extra: Array, count: Array) -> Array:
    """How many prompts of each stratum (S,) can have the dearer option for what is left, whole prompts only."""
    some = np.zeros_like(count)
    for i in np.flatnonzero(extra > 0):
        some[i] = min(count[i], np.floor(max(left, 0.0) / extra[i] + 1e-9))
        left -= some[i] * extra[i]
    return some


def _rank(s: _Strata, seed: int) -> NDArray[np.int64]:
    """The place of each prompt (N,) in a random order of its stratum."""
    order = np.random.default_rng(seed).permutation(len(s.number))
    by_stratum = order[np.argsort(s.number[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(s.number, minlength=len(s.count)))])
    rank = np.empty(len(order), dtype=np.int64)
    rank[by_stratum] = np.arange(len(order)) - starts[s.number[by_stratum]]
    return rank


def _fates(s: _Strata, chosen: NDArray[np.bool_], size: int, rho: float) -> tuple[str, ...]:
    """What becomes of each prompt; see `Plan`."""
    value = dispersion.utility(size - 1.0, s.points * (1 - s.points), rho=rho)
    bar = float((s.belief @ value)[s.number[chosen]].min()) if chosen.any() else 0.0
    unsure = (s.belief @ (value >= max(bar, 1e-12)).astype(np.float64))[s.number] >= UNSURE
    teaches = (s.belief @ dispersion.mixed_probability(s.points, size))[s.number] >= TEACHES
    fates = np.where(chosen, "fund", np.where(unsure, "revisit", np.where(teaches, "wait", "drop")))
    return tuple(map(str, fates))


def _weights(s: _Strata, chosen: NDArray[np.bool_], size: int, rho: float) -> Array:
    """E[m/(1 + ρmσ²)] of the funded prompts, scaled to mean 1; with one group size it varies little."""
    weight = s.belief @ dispersion.optimal_weight(size - 1.0, s.points * (1 - s.points), rho=rho)
    weights = np.where(chosen, weight[s.number], 0.0)
    return np.asarray(weights / weights[chosen].mean()) if chosen.any() else weights


def _silent_of(
    beliefs: Beliefs, s: _Strata, chosen: NDArray[np.bool_], size: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """Expected silent share of the funded prompts' groups, with a 95 % prediction interval for one pass over them."""
    if not chosen.any():
        return float("nan"), (0.0, 1.0)
    funded = np.bincount(s.cell[s.number[chosen]], minlength=len(beliefs.cells.k)) / chosen.sum()
    silent = dispersion.silent_probability(s.points, size)
    per = beliefs.belief @ silent
    value = float(funded @ per)
    luck = float(funded @ (per * (1 - per))) / float(chosen.sum())
    others = [
        float(funded @ posterior(beliefs.cells, prior, survivors_only=beliefs.counts.survivors_only) @ silent)
        for prior in (*beliefs.others, *(replace(beliefs.prior, mass=m) for m in beliefs.replicates(seed, 20)))
    ]
    half = 1.959963984540054 * float(np.sqrt(luck))
    return value, (max(0.0, min(value, *others) - half), min(1.0, max(value, *others) + half))


def _needed(s: _Strata, menu: _Menu, budget: float, target: float) -> float:
    """The least budget at which the best fixed plan reaches utility `target`; `budget` if it cannot."""
    if _best_fixed(s, menu, budget)[0].utility < target:
        return budget
    low, high = 0.0, budget
    for _ in range(16):
        middle = (low + high) / 2
        reached = _best_fixed(s, menu, middle)[0].utility >= target
        low, high = (low, middle) if reached else (middle, high)
    return high


def _saving(
    beliefs: Beliefs, s: _Strata, budget: float, size: int, sizes: tuple[int, ...], rho: float, audit: float, seed: int
) -> tuple[float, tuple[float, float] | None]:
    """1 − cost needed (audits included) / uniform's cost at equal utility; 95 % interval by bootstrap over prompts."""

    def at(sample: _Strata) -> float:
        spend = _uniform(sample, budget, size, rho)
        needed = _needed(sample, _menu(sample, sizes, rho), budget, spend.utility)
        return 1 - needed / (1 - audit) / spend.cost

    base = at(s)
    if len(s.number) < 2:
        return base, None
    rng = np.random.default_rng(seed)
    values = [base]
    for mass in beliefs.replicates(seed, 30):
        count = rng.multinomial(round(s.count.sum()), s.count / s.count.sum()).astype(np.float64)
        again = posterior(
            beliefs.cells, replace(beliefs.prior, mass=mass), survivors_only=beliefs.counts.survivors_only
        )
        values.append(at(replace(s, belief=again[s.cell], count=count)))
    low, high = np.percentile(values, [2.5, 97.5])
    return base, (float(low), float(high))


def _over_rho(s: _Strata, budget: float, sizes: tuple[int, ...], rho: float) -> tuple[int, int]:
    """The fixed plan's group size at 4ρ and at ρ/4."""
    found = [int(_best_fixed(s, _menu(s, sizes, r), budget)[0].group_size or 0) for r in (4 * rho, rho / 4)]
    return min(found), max(found)


def _cautions(counts: PromptCounts, beliefs: Beliefs, size: int, funded: float) -> list[str]:
    notes = []
    tries = float(np.median(counts.n))
    if counts.survivors_only:
        notes.append(
            "Only groups that survived filtering were logged: rates are corrected for it, under a Beta shape. "
            "Prompts that never split are not in the log, and nothing is said of them."
        )
    if tries < 4:
        notes.append(f"Only {tries:g} tries per prompt at the median: single prompts are nearly unknown.")
    if size > tries:
        notes.append(f"G = {size} exceeds the {tries:g} tries per prompt: its silent share is extrapolated.")
    if beliefs.discount < 1:
        notes.append(
            f"Rates moved during the log: each visit counts {beliefs.discount:g} of the next one "
            "(chosen to predict the latest visit)."
        )
    if funded < min(50, 0.05 * len(counts.ids) + 10):
        notes.append(
            f"Only {funded:,.0f} prompts are funded. The utility knows nothing of overfitting: on so few, raise the "
            "budget of a pass or add prompts near a solve rate of one half."
        )
    if len(counts.ids) < 30:
        notes.append(f"Only {len(counts.ids)} prompts: the shared prior is weak and intervals are rough.")
    return notes
