"""How the plan depends on ρ, and what it saves under each value of ρ."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.planning.choices import choose_fixed, choose_uniform, find_least_budget
from onedial.analysis.planning.posterior import Beliefs
from onedial.analysis.planning.strata import Strata, build_menu
from onedial.core.maths.estimators import normal_quantile

Array = NDArray[np.float64]

FEWEST_TRIES = 8  # with 4, the simulated interval held the true saving in four of five tables
REPLICATES = 24


@dataclass(frozen=True)
class UnderRho:
    """The fixed plan for another value of `rho`: its group size, its prompts, and what it saves.

    `saving` is the share of the budget (second looks included) that the plan does not need to reach the utility of
    uniform groups; negative if it costs more. `saving_interval` is its 95 % interval over prompts at this ρ; None if
    prompts have too few tries for one (fewer than `FEWEST_TRIES` at the median).
    """

    rho: float
    group_size: int
    prompts: float
    saving: float
    saving_interval: tuple[float, float] | None


def vary_rho(
    beliefs: Beliefs,
    strata: Strata,
    budget: float,
    *,
    group_size: int,
    sizes: tuple[int, ...],
    rhos: tuple[float, ...],
    audit: float,
    seed: int,
) -> tuple[UnderRho, ...]:
    """The plan at each of `rhos`.

    The error of the saving has two parts: the random choice of prompts, by a bootstrap with the prior fitted again; and
    what the tries do not determine, by the largest change under the nonparametric and the Beta prior.
    """
    enough = np.median(beliefs.counts.n) >= FEWEST_TRIES and bool(beliefs.others)
    samples = _resampled(beliefs, strata, seed) if enough else []
    fits = _refitted(beliefs, strata) if enough else []
    found = []
    for at in rhos:
        fixed, _ = choose_fixed(strata, build_menu(strata, sizes, at), budget * (1 - audit))
        value, drawn, other = (
            np.array([compute_saving(sample, budget, group_size, sizes, at, audit) for sample in part])
            for part in ([strata], samples, fits)
        )
        saving = float(value[0])
        interval = None
        if enough:
            reach = normal_quantile() * float(np.hypot(drawn.std(ddof=1), np.abs(other - saving).max()))
            interval = (saving - reach, min(1.0, saving + reach))
        found.append(UnderRho(at, int(fixed.group_size or 0), fixed.prompts, saving, interval))
    return tuple(found)


def compute_saving(strata: Strata, budget: float, size: int, sizes: tuple[int, ...], rho: float, audit: float) -> float:
    """1 − (least cost of a fixed plan with its second looks) / (cost of uniform groups), at the same utility."""
    uniform = choose_uniform(strata, budget, size, rho)
    needed = find_least_budget(strata, build_menu(strata, sizes, rho), budget, uniform.utility)
    return 1 - needed / (1 - audit) / uniform.cost


def _resampled(beliefs: Beliefs, strata: Strata, seed: int) -> list[Strata]:
    """Strata with prompts drawn with replacement, under priors refitted to such draws."""
    rng, share = np.random.default_rng(seed), strata.count / strata.count.sum()
    return [
        replace(
            _under(beliefs, strata, mass), count=rng.multinomial(round(strata.count.sum()), share).astype(np.float64)
        )
        for mass in beliefs.replicates(seed, REPLICATES)
    ]


def _refitted(beliefs: Beliefs, strata: Strata) -> list[Strata]:
    """The strata under the nonparametric and the Beta prior."""
    return [_under(beliefs, strata, other.mass) for other in beliefs.others]


def _under(beliefs: Beliefs, strata: Strata, mass: Array) -> Strata:
    return replace(strata, belief=beliefs.posterior_under(mass)[strata.entry])
