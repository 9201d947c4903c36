"""What a log shows: pure functions from an `Evidence` (groups and prompts of a log) to `Finding`s.

    from onedial.analysis.findings import all_findings
    for finding in all_findings(onedial.analysis.logs.read("runs/x")):
        print(finding.headline)

Each finding carries its figure, a 95 % interval, its definition, why it matters and what to do. A figure that the log
cannot support is withheld, with the reason.
"""

from __future__ import annotations

from onedial.analysis.findings.difficulty import expected_silence, sigma, silent_row, solve_rates
from onedial.analysis.findings.drift import drift
from onedial.analysis.findings.evidence import Evidence, collect
from onedial.analysis.findings.finding import Finding, Plot, Series, Table
from onedial.analysis.findings.lengths import length_bias, truncation
from onedial.analysis.findings.prompts import always_solved, duplicates, never_solved, suspicious
from onedial.analysis.findings.replay import algorithm_weights
from onedial.analysis.findings.silence import shaping_leaks, silent_share, silent_tokens, unusable_share
from onedial.analysis.logs.schema import Log
from onedial.core.maths.mixing import npmle

__all__ = [
    "Evidence",
    "Finding",
    "Plot",
    "Series",
    "Table",
    "all_findings",
    "algorithm_weights",
    "always_solved",
    "collect",
    "drift",
    "duplicates",
    "expected_silence",
    "findings_of",
    "length_bias",
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


def all_findings(log: Log, *, price: float | None = None, seconds: float | None = None) -> list[Finding]:
    """Every finding of a log, the most important first, withheld ones last.

    `price` is money per million completion tokens, `seconds` the time spent generating them.
    Raises DataError when the log holds no rollout and no rate.
    """
    return findings_of(collect(log), price=price, seconds=seconds)


def findings_of(evidence: Evidence, *, price: float | None = None, seconds: float | None = None) -> list[Finding]:
    """The same from evidence already collected, so that a page can reuse it."""
    usable = evidence.judged and not evidence.counts.is_empty() and not evidence.log.coverage.survivors_only
    fitted = npmle(evidence.cells()[0]) if usable else None
    found = [
        silent_share(evidence),
        silent_tokens(evidence, price=price, seconds=seconds),
        solve_rates(evidence, fitted),
        sigma(evidence),
        expected_silence(evidence, fitted),
        algorithm_weights(evidence),
        drift(evidence),
        length_bias(evidence),
        shaping_leaks(evidence),
        truncation(evidence),
        never_solved(evidence),
        always_solved(evidence),
        suspicious(evidence),
        duplicates(evidence),
        unusable_share(evidence),
    ]
    return sorted(found, key=lambda finding: (bool(finding.withheld), -finding.importance))
