"""How the answer depends on ρ, and what the plan saves under each value of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.planning.choices import choose_fixed, choose_uniform, least_budget
from onedial.analysis.planning.posterior import Beliefs
from onedial.analysis.planning.strata import Strata, build_menu

Array = NDArray[np.float64]


@dataclass(frozen=True)
class UnderRho:
    """The fixed plan that another `rho` would choose: its group size, its prompts, and what it saves.

    `saving` is the share of the budget, second looks included, that the plan leaves over at the utility of uniform
    groups; negative where it costs more. `saving_interval` is its 95 % interval over prompts at this ρ.
    """

    rho: float
    group_size: int
    prompts: float
    saving: float
    saving_interval: tuple[float, float]


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
    """The plan at each of `rhos`."""
    samples = _resampled(beliefs, strata, seed)
    found = []
    for at in rhos:
        fixed, _ = choose_fixed(strata, build_menu(strata, sizes, at), budget * (1 - audit))
        values = [_saving(sample, budget, group_size, sizes, at, audit) for sample in (strata, *samples)]
        low, high = np.percentile(values, [2.5, 97.5])
        interval = (min(float(low), values[0]), max(float(high), values[0]))
        found.append(UnderRho(at, int(fixed.group_size or 0), fixed.prompts, values[0], interval))
    return tuple(found)


def _saving(strata: Strata, budget: float, size: int, sizes: tuple[int, ...], rho: float, audit: float) -> float:
    """1 − (least cost of a fixed plan with its second looks) / (cost of uniform groups), at the same utility."""
    uniform = choose_uniform(strata, budget, size, rho)
    needed = least_budget(strata, build_menu(strata, sizes, rho), budget, uniform.utility)
    return 1 - needed / (1 - audit) / uniform.cost


def _resampled(beliefs: Beliefs, strata: Strata, seed: int) -> list[Strata]:
    """Strata with prompts drawn with replacement, under priors refitted to such draws and under the other fits."""
    rng = np.random.default_rng(seed)
    priors = [*beliefs.replicates(seed, 24), *(other.mass for other in beliefs.others)]
    samples = []
    for mass in priors:
        count = rng.multinomial(round(strata.count.sum()), strata.count / strata.count.sum()).astype(np.float64)
        samples.append(replace(strata, belief=beliefs.posterior_under(mass)[strata.cell], count=count))
    return samples
