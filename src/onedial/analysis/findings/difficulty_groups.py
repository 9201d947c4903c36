"""Groups together with the difficulty of their prompts: groups of a log, or groups drawn from the tries of a rate
table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.expected import group_pmf
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.silence import SHOWN
from onedial.core.maths.mixing import posterior

Array = NDArray[np.float64]

BINS = 10
MOST_ROWS = 2_000_000
LABELS = tuple(f"{10 * i}–{10 * i + 10}" for i in range(BINS))


class Groups(NamedTuple):
    """Groups with k right of n, each counted `times` times, with the difficulty bin and the number of the prompt; all
    (R,)."""

    k: Array
    n: Array
    times: Array
    bin: NDArray[np.int64]
    prompt: NDArray[np.int64]

    def by_bin(self, weight: Array) -> Array:
        """A weight per row, summed by difficulty (BINS,)."""
        return np.bincount(self.bin, weights=weight * self.times, minlength=BINS).astype(np.float64)


def bin_prompts(tables: LogTables) -> pl.DataFrame:
    """Per prompt: prompt_id, prompt (its number), bin (of the posterior mean of its solve rate)."""
    tally, number = tables.tally
    mean = posterior(tally, tables.prior) @ tables.prior.points
    bins = np.minimum((mean[number] * BINS).astype(np.int64), BINS - 1)
    return tables.counts.select("prompt_id").with_columns(
        pl.Series("bin", bins), pl.Series("prompt", np.arange(len(number)))
    )


def take_own_groups(tables: LogTables) -> tuple[Groups, tuple[tuple[str, ...], ...]]:
    """The groups of the log that enter shares, and prompts of each bin."""
    table = tables.shared.select("prompt_id", "n", "c").join(bin_prompts(tables), on="prompt_id")
    table = table.sort("prompt", "n", "c")
    k, n, bins, prompt = (table.get_column(name).to_numpy() for name in ("c", "n", "bin", "prompt"))
    groups = Groups(k.astype(np.float64), n.astype(np.float64), np.ones(len(k)), bins, prompt)
    return groups, _members(table)


def draw_groups(tables: LogTables, size: int) -> tuple[Groups, tuple[tuple[str, ...], ...]]:
    """Groups of `size` drawn from the tries of every prompt, with their probabilities, and the prompts of each bin.

    If that makes more than `MOST_ROWS` rows, a subset of the prompts, chosen by hash, is used instead of all.
    """
    table = tables.visits.filter(pl.col("n") >= size).join(bin_prompts(tables), on="prompt_id")
    step = -(-len(table) * (size + 1) // MOST_ROWS)
    if step > 1:
        table = table.filter(pl.col("prompt_id").hash(5) % step == 0)
    table = table.sort("prompt", "iteration", "n", "k")
    k, n, bins, prompt = (table.get_column(name).to_numpy() for name in ("k", "n", "bin", "prompt"))
    pairs, where = np.unique(np.stack([k, n], axis=1), axis=0, return_inverse=True)
    pmf = group_pmf(pairs[:, 0].astype(np.float64), pairs[:, 1].astype(np.float64), size)[where.reshape(-1)]
    row, right = np.nonzero(pmf)
    sizes = np.full(len(row), float(size))
    groups = Groups(right.astype(np.float64), sizes, pmf[row, right], bins[row], prompt[row])
    return groups, _members(table)


def _members(table: pl.DataFrame) -> tuple[tuple[str, ...], ...]:
    found = dict(table.group_by("bin").agg(pl.col("prompt_id").unique(maintain_order=True).head(SHOWN)).iter_rows())
    return tuple(tuple(found.get(i, ())) for i in range(BINS))
