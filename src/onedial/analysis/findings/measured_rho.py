"""ρ for the planner, measured by a run: from the groups that `onedial train --probe` writes to probe.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.findings.intervals import bootstrap
from onedial.analysis.planning.rho import Rho
from onedial.core.maths.half_split import estimate_signal, read_half_split
from onedial.core.run_log import scan_json_lines

Array = NDArray[np.float64]

FEWEST_GROUPS = 8  # probed groups with two mixed halves, for an interval


def read_measured_rho(run: Path) -> Rho | None:
    """ρ as the probes of a run measured it; None if the folder is no run, too few groups were probed, or no signal was
    found."""
    path = run / "probe.jsonl"
    return estimate_rho(scan_json_lines(path)[0]) if path.is_file() else None


def estimate_rho(lines: Sequence[Mapping[str, Any]]) -> Rho | None:
    """ρ from the lines of probe.jsonl (`half_split.estimate_signal`), with its 95 % interval over groups (bootstrap).

    If a resumed run wrote a group twice, the later line counts.
    """
    latest = {(line.get("iteration"), line.get("group_id")): line for line in lines if "half_product" in line}
    splits = [split for line in latest.values() if (split := read_half_split(line)) is not None]
    found = estimate_signal(splits)
    if len(splits) < FEWEST_GROUPS or found is None or found.rho <= 0:
        return None
    product, factor = (np.array([getattr(split, name) for split in splits]) for name in ("product", "noise"))
    distance = np.array([sum(split.squares) for split in splits]) - 2 * product
    weight = factor**-2  # as `estimate_signal` weighs the products
    low, high = bootstrap(np.stack([weight * product, weight, distance, factor], axis=1), _ratio)
    # the signal of few groups may be negative: the interval ends where a plan still can be made
    bounds = max(float(low), found.rho / 100), max(float(high), found.rho)
    return Rho(found.rho, *bounds, "measured", len(splits))


def _ratio(sums: Array) -> Array:
    return np.asarray(sums[:, 0] / sums[:, 1] / (sums[:, 2] / sums[:, 3]))
