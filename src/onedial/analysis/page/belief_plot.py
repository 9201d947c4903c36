"""The solve rates that the allocator believed and those that were observed, from the last record of `metrics.jsonl`
that has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onedial.analysis.findings.finding import Plot, Series
from onedial.analysis.page.run_records import to_finite_number
from onedial.core.maths.estimators import wilson_interval


def plot_belief(records: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Observed against believed solve rate of the audited prompts, by tenths of the belief; no plot without a belief.

    Entries that are not [believed, observed, prompts] are left out. The intervals are Wilson's 95 % intervals of a
    share over prompts, which are wider than needed if a prompt had several rollouts.
    """
    bins = next((record["calibration"] for record in reversed(records) if record.get("calibration")), None)
    points = [point for point in map(_point, bins if isinstance(bins, list) else []) if point is not None]
    if not points:
        return []
    believed = tuple(point[0] for point in points)
    intervals = [wilson_interval(min(observed * prompts, prompts), prompts) for _, observed, prompts in points]
    observed = Series(
        "observed",
        tuple(point[1] for point in points),
        "right",
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
    )
    prompts = int(sum(point[2] for point in points))
    return [
        Plot(
            "line",
            "Believed and observed solve rate",
            "believed before sampling",
            "observed",
            believed,
            (observed, Series("if the belief were exact", believed, "ghost")),
            note=f"{prompts:,} prompts drawn uniformly in the whole run, by tenths of the belief; band: 95 % interval",
        )
    ]


def _point(entry: Any) -> tuple[float, float, float] | None:
    if not isinstance(entry, list) or len(entry) != 3:
        return None
    believed, observed, prompts = map(to_finite_number, entry)
    if believed is None or observed is None or prompts is None or prompts < 1 or not 0 <= observed <= 1:
        return None
    return believed, observed, prompts
