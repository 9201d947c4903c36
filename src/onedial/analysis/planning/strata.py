"""Prompts that are equal for the planner, planned together: the same counts and a similar cost.

A million prompts form a few hundred strata, so planning costs the same for any number of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.planning.posterior import Beliefs
from onedial.core.maths import dispersion

Array = NDArray[np.float64]

COST_BINS = 12


@dataclass(frozen=True)
class Strata:
    """Prompts alike in counts and in cost.

    belief (S, J) posterior of the solve rate on `points` (J,); cost (S,) of one rollout; count (S,) prompts;
    number (N,) each prompt's stratum; entry (S,) each stratum's entry of counts.
    """

    belief: Array
    cost: Array
    count: Array
    number: NDArray[np.int64]
    entry: NDArray[np.int64]
    points: Array

    @property
    def cost_of_all(self) -> float:
        """What one rollout of every prompt costs."""
        return float(self.count @ self.cost)


@dataclass(frozen=True)
class Menu:
    """The expected utility and P(mixed) of a group of each of `sizes` (A,), for each stratum, (S, A)."""

    sizes: tuple[int, ...]
    gain: Array
    mixed: Array


def build_strata(beliefs: Beliefs, tokens: Array | None) -> Strata:
    """Strata of all prompts; `tokens` is the cost of a rollout of each prompt (N,), None where each costs 1."""
    entries = beliefs.number
    if tokens is None:
        own = np.arange(len(beliefs.belief))
        ones = np.ones(len(beliefs.belief))
        return Strata(beliefs.belief, ones, beliefs.tally.count, entries, own, beliefs.prior.points)
    known = np.where(np.isfinite(tokens) & (tokens > 0), tokens, np.nanmean(tokens))
    edges = np.quantile(known, np.linspace(0, 1, COST_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, known)
    keys, number, count = np.unique(np.stack([entries, bins], axis=1), axis=0, return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    cost = np.bincount(number, weights=known) / count
    entry = keys[:, 0].astype(np.int64)
    return Strata(beliefs.belief[entry], cost, count.astype(np.float64), number, entry, beliefs.prior.points)


def expected_utility(belief: Array, points: Array, tries: int, rho: float) -> Array:
    """E[U(tries − 1)] under each posterior of `belief` (S, J) on `points` (J,): (S,)."""
    return np.asarray(belief @ dispersion.utility(max(tries - 1.0, 0.0), points * (1 - points), rho=rho))


def build_menu(strata: Strata, sizes: tuple[int, ...], rho: float) -> Menu:
    """Utility and chance of a mixed group for every stratum and size."""
    gain = np.stack([expected_utility(strata.belief, strata.points, size, rho) for size in sizes], axis=1)
    return Menu(sizes, gain, strata.belief @ dispersion.mixed_probability(strata.points[:, None], np.array(sizes)))


def rank_within(strata: Strata, seed: int) -> NDArray[np.int64]:
    """The place of each prompt (N,) in a random order of its stratum."""
    order = np.random.default_rng(seed).permutation(len(strata.number))
    by_stratum = order[np.argsort(strata.number[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(strata.number, minlength=len(strata.count)))])
    rank = np.empty(len(order), dtype=np.int64)
    rank[by_stratum] = np.arange(len(order)) - starts[strata.number[by_stratum]]
    return rank
