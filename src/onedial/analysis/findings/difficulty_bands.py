"""A table of solve rates by difficulty: silence, σ̂, and the weight under every row of the algorithm table.

Groups of the training size are drawn from the tries of each prompt (`expected.group_pmf`); if a row of the algorithm
table has a group size of its own, its groups have that size. Closed forms at the middle of each band are shown beside
these figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.difficulty_groups import BINS, bin_prompts
from onedial.analysis.findings.expected import group_pmf, select_visits
from onedial.analysis.findings.intervals import Interval, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths import dispersion

Array = NDArray[np.float64]

TARGET = 0.95  # fidelity for which a group size is given
MIDDLES = tuple((i + 0.5) / BINS for i in range(BINS))
CLASSES_EQUAL = 2.0  # the α at which right and wrong answers of a group weigh the same; no row has it


@dataclass(frozen=True)
class Band:
    """Prompts whose estimated solve rate lies in [low, high), and groups of the training size drawn from their tries.

    prompts, silent, sigma  share of all prompts; expected silent share and mean σ̂ of their groups (None without any)
    fidelity                E[σ̂]/√(pq) at the middle of the band
    amplification           W(p) in E[gradient] = W·∇p at α = 1 and the middle, and its limit in endless groups
    size_for_fidelity       the smallest group with fidelity `TARGET` at the middle
    """

    low: float
    high: float
    prompts: float
    silent: float | None
    sigma: float | None
    fidelity: float
    amplification: float
    amplification_limit: float
    size_for_fidelity: int


@dataclass(frozen=True)
class RowWeights:
    """Share of the weight by band under some rows of the algorithm table, with 95 % intervals over prompts.

    These rows have the same exponent `alpha` and groups of `group_size`; at α = 0 the shares are those of any size.
    """

    rows: tuple[str, ...]
    alpha: float
    group_size: int
    shares: tuple[float, ...]
    intervals: tuple[Interval | None, ...]

    @property
    def label(self) -> str:
        """The exponent, the size and the rows, in one line."""
        return f"α = {self.alpha:g}, G = {self.group_size}: " + (", ".join(self.rows) or "no row")


@dataclass(frozen=True)
class RateBands:
    """The bands, the weights of the rows, and why the other rows of the algorithm table have none (name → reason)."""

    group_size: int
    bands: tuple[Band, ...]
    weights: tuple[RowWeights, ...]
    left_out: Mapping[str, str]


def rate_bands(tables: LogTables) -> RateBands | None:
    """The table by difficulty; None where most visits have fewer tries than the training size."""
    size = tables.group_size
    if select_visits(tables, size) is None:
        return None
    keys, left_out = rows_by_weight(size)
    drawn = {group: _draw(tables, group) for group in {size, *(group for _, group in keys)}}
    weights = [_weigh(drawn[group], names, alpha) for (alpha, group), names in sorted(keys.items())]
    return RateBands(size, _bands(drawn[size]), tuple(row for row in weights if row is not None), left_out)


def rows_by_weight(size: int) -> tuple[dict[tuple[float, int], list[str]], dict[str, str]]:
    """(α, G) → rows in which a prompt's expected weight is E[σ̂^(2−α)] over groups of G; and, for all other rows, the
    reason why not.

    Without a baseline, and with the mean of the other rewards as baseline, E[gradient] = ∇p, which is the weight at α =
    0. There the shares do not depend on G, so these rows are listed under `size`. A σ̂ of the whole batch is one factor
    for all prompts.
    """
    found: dict[tuple[float, int], list[str]] = {(CLASSES_EQUAL, size): []}
    left_out: dict[str, str] = {}
    for row in ALGORITHMS.values():
        if reason := why_no_coefficient(row):
            left_out[row.name] = reason
        else:
            alpha = row.dial if row.scale_over == "group" else 0.0
            found.setdefault((alpha, row.group_size or size if alpha else size), []).append(row.name)
    return found, left_out


def why_no_coefficient(row: Algorithm) -> str:
    """Why the weight of a prompt under a row is not a mean of σ̂^(2−α) over groups; empty if it is."""
    if row.source != "policy":
        return "learns from data, not from groups of the policy"
    if row.needs_critic:
        return "its critic, not the group, decides"
    if row.baseline not in ("none", "group_mean", "leave_one_out") or (row.baseline == "none" and row.dial):
        return "its baseline is a function of its own"
    if row.pass_k > 1:
        return "ascends pass@k"
    return "its loss is of the whole group" if row.listwise != "none" else ""


@dataclass(frozen=True)
class _Drawn:
    """Groups of one size from the visits (V,): P(j right) per distinct count (C, size + 1), and per visit the number
    of its count, of its band and of its prompt."""

    size: int
    pmf: Array
    entry: NDArray[np.int64]
    band: NDArray[np.int64]
    prompt: NDArray[np.int64]

    @cached_property
    def sigma(self) -> Array:
        """σ̂ of each number of right answers, (size + 1,)."""
        return dispersion.group_sigma(np.arange(self.size + 1), self.size)

    def by_band(self, of_count: Array) -> Array:
        """A value per number of right answers (size + 1,), expected per visit and summed by band (BINS,)."""
        values = (self.pmf @ of_count)[self.entry]
        return np.bincount(self.band, weights=values, minlength=BINS).astype(np.float64)


def _draw(tables: LogTables, size: int) -> _Drawn:
    table = tables.visits.filter(pl.col("n") >= size).join(bin_prompts(tables), on="prompt_id")
    k, n, band, prompt = (table.get_column(name).to_numpy() for name in ("k", "n", "bin", "prompt"))
    pairs, entry = np.unique(np.stack([k, n], axis=1), axis=0, return_inverse=True)
    pmf = group_pmf(pairs[:, 0].astype(np.float64), pairs[:, 1].astype(np.float64), size)
    return _Drawn(size, pmf, entry.reshape(-1), band, prompt)


def _bands(drawn: _Drawn) -> tuple[Band, ...]:
    number = drawn.by_band(np.ones(drawn.size + 1))
    silent, sigma = drawn.by_band((drawn.sigma == 0).astype(np.float64)), drawn.by_band(drawn.sigma)
    return tuple(
        Band(
            low=i / BINS,
            high=(i + 1) / BINS,
            prompts=float(number[i] / number.sum()),
            silent=float(silent[i] / number[i]) if number[i] else None,
            sigma=float(sigma[i] / number[i]) if number[i] else None,
            fidelity=float(dispersion.fidelity(p, drawn.size)),
            amplification=float(dispersion.weight(p, drawn.size, alpha=1.0)),
            amplification_limit=float(dispersion.limit_weight(p, alpha=1.0)),
            size_for_fidelity=dispersion.size_for_fidelity(p, TARGET),
        )
        for i, p in enumerate(MIDDLES)
    )


def _weigh(drawn: _Drawn, names: list[str], alpha: float) -> RowWeights | None:
    """The weights at one α; None where no group can be mixed."""
    mixed = drawn.sigma > 0
    values = (drawn.pmf @ np.where(mixed, np.where(mixed, drawn.sigma, 1.0) ** (2 - alpha), 0.0))[drawn.entry]
    total = np.bincount(drawn.prompt, weights=values)
    if not total.any():
        return None
    shares, intervals = [], []
    for i in range(BINS):
        mine = np.bincount(drawn.prompt, weights=values * (drawn.band == i), minlength=len(total))
        shares.append(float(mine.sum() / total.sum()))
        intervals.append(ratio_interval(mine, total))
    return RowWeights(tuple(names), alpha, drawn.size, tuple(shares), tuple(intervals))
