"""Records of runs as `train_arm` makes them, put together by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from onedial.evidence.paired_runs import SERIES


def record(arm: str, seed: int, accuracies: list[float], tokens: list[int] | None = None) -> dict[str, Any]:
    """A record as `train_arm` makes it, with evaluations after 0, 100, 200 … tokens."""
    spent = tokens or [100 * index for index in range(len(accuracies))]
    curve = [
        {
            "iteration": i,
            "tokens": t,
            "rollouts": t // 10,
            "seconds": t / 50,
            "avg": a,
            "pass_at": {},
            "maj_at": {},
            "levels": {},
        }
        for i, (t, a) in enumerate(zip(spent, accuracies, strict=True))
    ]
    steps = np.diff(spent).tolist()
    series: dict[str, list[float | None]] = {key: [None] * len(steps) for key in SERIES}
    series |= {key: [0.0] * len(steps) for key in ("tokens_all_correct", "tokens_all_wrong")}
    series |= {"tokens_generated": steps, "rollouts_generated": [s / 10 for s in steps], "time_s": [1.0] * len(steps)}
    return {"arm": arm, "seed": seed, "settings": {}, "curve": curve, "series": series}
