"""pass@k of a log: per prompt, then over prompts, with an interval over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onedial.analysis.findings.intervals import Interval, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.visits import Visits
from onedial.core.maths import dispersion

FIELD_KS = (1, 10, 100)  # the values of k that papers report


@dataclass(frozen=True)
class PassRate:
    """pass@k over the `prompts` that have k tries in one visit."""

    value: float
    interval: Interval | None
    prompts: int


def pass_rates(tables: LogTables, ks: Sequence[int] = ()) -> dict[int, PassRate]:
    """k → pass@k at k = 1, 2, 4, …, at 1, 10, 100, at the group size if all groups have the same, and at `ks`; as far
    as n allows.

    1 − C(n−c, k)/C(n, k) of every visit with n ≥ k (unbiased; arXiv:2107.03374, eq. 1), averaged over the visits of
    each prompt, then over prompts.
    """
    visits = tables.visit_counts
    if not len(visits.n):
        return {}
    sizes = [k for k in sorted({*_usual(visits.n), *ks}) if k <= visits.n.max()]
    return {k: pass_rate(visits, k) for k in sizes}


def _usual(n: np.ndarray) -> set[int]:
    top = int(n.max())
    powers = {2**i for i in range(top.bit_length())}
    return powers | set(FIELD_KS) | ({top} if len(set(n)) == 1 else set())


def pass_rate(visits: Visits, k: int) -> PassRate:
    """pass@k at one k; at 1 it is the mean solve rate. At least one visit must have k tries."""
    visits = visits.with_tries(k)
    total, number = visits.per_prompt(1.0 - dispersion.unbiased_powers(visits.k, visits.n, k)[1])
    each = np.sort(np.clip(total / number, 0.0, 1.0).round(14))  # the same to the last digit, in any order of the rows
    return PassRate(float(each.mean()), ratio_interval(each, np.ones(len(each))), len(each))
