"""What groups of a training size would show, computed in closed form from the tries of each visit of a prompt.

Of the n tries of a visit, k are right. A group of G rollouts drawn from them without replacement has j right ones with
the hypergeometric probability C(k, j)·C(n−k, G−j)/C(n, G), which is an unbiased estimate of the binomial one
(arXiv:2107.03374, eq. 1, is the case j = 0). At G = n the group is the visit itself, so the figures of a log's own
groups and those expected at their size agree exactly. No distribution of solve rates is fitted, and nothing is said
about groups larger than n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.findings.intervals import ratio_interval
from onedial.analysis.findings.log_tables import KindShare, LogTables
from onedial.analysis.findings.visits import Visits
from onedial.core.maths import dispersion
from onedial.core.maths.likelihood_region import likelihood_region
from onedial.core.maths.mixing import Tally, npmle

Array = NDArray[np.float64]

GROUP_SIZES = (2, 4, 8, 16, 32, 64)
GRADED = "rewards are graded: whether answers are right does not decide which groups are silent"
ENOUGH = 0.5  # share of the visits that must have G tries for a figure at G


def select_visits(tables: LogTables, least: int) -> Visits | None:
    """The visits with at least `least` tries; None if fewer than half of all visits have that many."""
    visits = tables.visit_counts.with_tries(least)
    return visits if len(visits.entry) and len(visits.entry) >= ENOUGH * len(tables.visits) else None


KINDS = ("mixed", "right", "wrong", "silent")


def expected_kinds(tables: LogTables, size: int, kinds: Sequence[str] = KINDS) -> dict[str, KindShare]:
    """Expected shares of mixed, right, wrong and silent groups of `size`, with intervals over prompts.

    Empty if fewer than half of the visits have that many tries. `count` is the number of visits behind a share.
    """
    visits = select_visits(tables, size)
    if visits is None:
        return {}
    right, wrong = dispersion.unbiased_powers(visits.k, visits.n, size)
    chances = {"mixed": 1 - right - wrong, "right": right, "wrong": wrong, "silent": right + wrong}
    found = {}
    for kind in kinds:
        top, bottom = visits.per_prompt(np.clip(chances[kind], 0.0, 1.0))
        found[kind] = KindShare(len(visits.entry), float(top.sum() / bottom.sum()), ratio_interval(top, bottom))
    return found


def expected_silent_shares(tables: LogTables) -> dict[int, KindShare]:
    """Group size → expected silent share, at 2, 4, … 64, at the size asked for and, if all visits have the same number
    of tries, at that number, as far as the tries allow.

    Empty if rewards are graded, because then verdicts do not determine which groups are silent.
    """
    if tables.graded:
        return {}
    tries = tables.visits.get_column("n")
    same = {int(tries[0])} if len(tries) and tries.min() == tries.max() and tries[0] > 1 else set()
    sizes = sorted({*GROUP_SIZES, tables.group_size, *same})
    found = {size: expected_kinds(tables, size, ("silent",)) for size in sizes}
    return {size: kinds["silent"] for size, kinds in found.items() if kinds}


def deconvolved_silent_shares(tables: LogTables, sizes: Sequence[int]) -> dict[int, KindShare]:
    """Group size → E[p^G + (1−p)^G] over the distribution of solve rates behind the counts of the visits, at any size.

    The distribution is fitted by nonparametric maximum likelihood (`mixing.npmle`). The interval is the range of values
    that the counts allow, which is wide for sizes beyond the tries. Visits of one prompt resemble each other, so all
    visits together count as many observations as there are prompts.
    """
    visits = tables.visit_counts
    if not len(visits.n):
        return {}
    if len(visits.entry) == len(tables.counts):
        fitted, region = tables.solve_rates, tables.solve_rate_region
    else:
        counts = visits.counts()
        tally = Tally(visits.k, visits.n, counts * len(tables.counts) / counts.sum(), np.ones(len(visits.k)))
        fitted, region = npmle(tally), likelihood_region(tally)
    found = {}
    for size in sizes:
        value = float(fitted.mass @ dispersion.silent_probability(fitted.points, size))
        low, high = region.interval(dispersion.silent_probability(region.points, size))
        found[size] = KindShare(len(visits.entry), value, (min(low, value), max(high, value)))
    return found


def group_pmf(k: Array, n: Array, size: int) -> Array:
    """P(j right in a group of `size` drawn from k right of n tries), j = 0 … size: (C, size + 1); n ≥ size."""
    from scipy.stats import hypergeom  # takes longer to load than the rest of the package

    j = np.arange(size + 1)
    return np.asarray(hypergeom.pmf(j[None, :], n[:, None], k[:, None], size), dtype=np.float64)


def no_visits(tables: LogTables) -> str:
    """Why groups of the training size cannot be drawn from a rate table; empty when they can."""
    if tables.visits.is_empty():
        return "the table does not show the number of tries behind each rate; give it with --tries N"
    if select_visits(tables, tables.group_size) is None:
        return f"most prompts have fewer than {tables.group_size} tries; give a smaller group size with --group-size G"
    return ""
