"""Right answers and tries of each visit of a prompt, stored as few distinct counts. A visit is one time at which a
prompt was sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Visits:
    """The visits of a log: distinct counts k, n (C,), and for each visit (V,) the number of its count and of its
    prompt."""

    k: Array
    n: Array
    entry: NDArray[np.int64]
    prompt: NDArray[np.int64]

    def per_prompt(self, values: Array) -> tuple[Array, Array]:
        """Sums over visits of a value per entry (C,), and numbers of visits, per prompt (P,)."""
        sums, number = np.bincount(self.prompt, weights=values[self.entry]), self._of_prompts
        return np.asarray(sums, dtype=np.float64)[number > 0], number[number > 0].astype(np.float64)

    @cached_property
    def _of_prompts(self) -> NDArray[np.int64]:
        return np.bincount(self.prompt)

    def counts(self) -> Array:
        """Visits per entry (C,)."""
        return np.bincount(self.entry, minlength=len(self.k)).astype(np.float64)

    def with_tries(self, least: int) -> Visits:
        """The visits of at least `least` tries."""
        if (self.n >= least).all():
            return self
        kept = (self.n >= least)[self.entry]
        number = np.cumsum(self.n >= least) - 1
        enough = self.n >= least
        return Visits(self.k[enough], self.n[enough], number[self.entry[kept]], self.prompt[kept])


def count_visits(table: pl.DataFrame) -> Visits:
    """The visits of a table with the columns prompt_id, k and n."""
    right, tries = (table.get_column(name).to_numpy().astype(np.int64) for name in ("k", "n"))
    base = int(tries.max(initial=0)) + 1
    code = tries * base + right
    distinct = pl.Series(code).unique().sort().to_numpy()
    prompt = table.get_column("prompt_id").hash().rank("dense").to_numpy().astype(np.int64) - 1
    k, n = (distinct % base).astype(np.float64), (distinct // base).astype(np.float64)
    return Visits(k, n, np.searchsorted(distinct, code), prompt)
