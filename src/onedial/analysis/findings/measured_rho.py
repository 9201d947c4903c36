"""ρ for the planner from a run's probes: the metrics that `onedial train --probe` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onedial.analysis.findings.intervals import ratio_interval
from onedial.analysis.planning.rho import Rho
from onedial.core.run_log import scan_json_lines

FEWEST_PROBES = 3  # probed iterations for an interval
SIGNAL, NOISE = "probe_signal", "probe_noise"  # metrics of a probed iteration


def measured_rho(run: Path) -> Rho | None:
    """ρ as the probes of a run measured it: Σ signal/Σ noise over its probed iterations, with its 95 % interval.

    None where the folder is no run, was not probed in `FEWEST_PROBES` iterations, or shows no signal.
    """
    path = run / "metrics.jsonl"
    return rho_of(scan_json_lines(path)[0]) if path.is_file() else None


def rho_of(records: Sequence[Mapping[str, Any]]) -> Rho | None:
    """ρ of the metrics of a run; an iteration that a resumed run wrote twice counts as it was written last."""
    latest = {record.get("iteration"): (record.get(SIGNAL), record.get(NOISE)) for record in records}
    probed = [pair for pair in latest.values() if all(isinstance(x, float | int) and math.isfinite(x) for x in pair)]
    if len(probed) < FEWEST_PROBES:
        return None
    signal, noise = np.array(probed, dtype=np.float64).T
    interval = ratio_interval(signal, noise, share=False)
    if interval is None or signal.sum() <= 0 or noise.sum() <= 0:
        return None
    value = float(signal.sum() / noise.sum())
    # the signal of single probes may be negative: the interval ends where a plan still can be made
    return Rho(value, max(interval[0], value / 100), max(interval[1], value), "measured", len(probed))
