"""What a log shows: pure functions from its tables (groups and prompts) to `Finding`s.

    tables = collect(onedial.analysis.logs.read("runs/x"))
    for finding in find_all(tables):
        print(finding.headline)

Each finding has a figure, a 95 % interval, a definition, the reason why it matters, and what to do. If the log cannot
support a figure, the finding gives the reason instead. To add a finding, write a `Spec` and a function from `LogTables`
to a `Measurement` (or to the reason why there is none), and name the function in `find_all`.
"""

from __future__ import annotations

from onedial.analysis.findings.difficulty import expected_silence, silent_row, solve_rates
from onedial.analysis.findings.drift import drift
from onedial.analysis.findings.duplicates import duplicates
from onedial.analysis.findings.finding import Finding, Measurement, Plot, Series, Spec, Table, measures
from onedial.analysis.findings.lengths import length_bias, truncation
from onedial.analysis.findings.log_tables import LogTables, collect
from onedial.analysis.findings.prompts import always_solved, never_solved
from onedial.analysis.findings.replay import algorithm_weights
from onedial.analysis.findings.sigma import sigma
from onedial.analysis.findings.sigma_laws import extreme_weight
from onedial.analysis.findings.silence import shaping_leaks, silent_share, silent_tokens, unusable_share
from onedial.analysis.findings.suspicious import suspicious

__all__ = [
    "Finding",
    "LogTables",
    "Measurement",
    "Plot",
    "Series",
    "Spec",
    "Table",
    "algorithm_weights",
    "always_solved",
    "collect",
    "drift",
    "duplicates",
    "expected_silence",
    "extreme_weight",
    "find_all",
    "length_bias",
    "measures",
    "never_solved",
    "shaping_leaks",
    "sigma",
    "silent_row",
    "silent_share",
    "silent_tokens",
    "solve_rates",
    "suspicious",
    "truncation",
    "unusable_share",
]


def find_all(tables: LogTables, *, price: float | None = None, seconds: float | None = None) -> list[Finding]:
    """Every finding of a log, the most important first, withheld ones last.

    `price` is money per million completion tokens, `seconds` the time spent generating them.
    """
    found = [
        silent_share(tables),
        silent_tokens(tables, price=price, seconds=seconds),
        solve_rates(tables),
        sigma(tables),
        expected_silence(tables),
        algorithm_weights(tables),
        *([extreme_weight(tables)] if tables.log.kind == "rates" else []),
        drift(tables),
        length_bias(tables),
        shaping_leaks(tables),
        truncation(tables),
        never_solved(tables),
        always_solved(tables),
        suspicious(tables),
        duplicates(tables),
        unusable_share(tables),
    ]
    return sorted(found, key=lambda finding: (bool(finding.withheld), -finding.importance))
