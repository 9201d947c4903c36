"""pass@k of a log: per prompt, then over prompts, with an interval over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from onedial.analysis.findings.intervals import Interval, bootstrap_ratio
from onedial.analysis.findings.log_tables import LogTables
from onedial.core.maths import dispersion

FIELD_KS = (1, 10, 100)  # the values of k that papers report


@dataclass(frozen=True)
class PassRate:
    """pass@k over the `prompts` that have k tries in one visit."""

    value: float
    interval: Interval | None
    prompts: int


def pass_rates(tables: LogTables, ks: Sequence[int] = ()) -> dict[int, PassRate]:
    """k → pass@k: at 1, 2, 4, …, at 1, 10, 100, at the group size where all are equal, and at `ks`; as n allows.

    1 − C(n−c, k)/C(n, k) of every visit with n ≥ k (unbiased; arXiv:2107.03374, eq. 1), averaged over the visits of
    each prompt, then over prompts.
    """
    visits = tables.visits
    if visits.is_empty():
        return {}
    right, tries = (visits.get_column(name).to_numpy().astype(np.int64) for name in ("k", "n"))
    base = int(tries.max()) + 1
    distinct, cell = np.unique(tries * base + right, return_inverse=True)
    n, c = (distinct // base).astype(np.float64), (distinct % base).astype(np.float64)
    sizes = [k for k in sorted({*_usual(n), *ks}) if k <= n.max()]
    passed = {k: 1.0 - dispersion.unbiased_powers(c, n, k)[1] for k in sizes}
    columns = [pl.Series(str(k), np.clip(values, 0.0, 1.0)[cell.reshape(-1)]) for k, values in passed.items()]
    per = visits.select("prompt_id").with_columns(*(column.fill_nan(None) for column in columns))
    means = per.group_by("prompt_id").agg(pl.exclude("prompt_id").mean())
    return {k: _over_prompts(means.get_column(str(k)).drop_nulls()) for k in sizes}


def _usual(n: np.ndarray) -> set[int]:
    top = int(n.max())
    powers = {2**i for i in range(top.bit_length())}
    return powers | set(FIELD_KS) | ({top} if len(set(n)) == 1 else set())


def _over_prompts(values: pl.Series) -> PassRate:
    each = np.sort(values.to_numpy().round(14))  # the same to the last digit, whatever the order of the rows
    return PassRate(float(each.mean()), bootstrap_ratio(each, np.ones(len(each))), len(each))
