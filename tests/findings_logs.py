"""Simulated logs with a known truth, for the tests of findings, planner and page."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from onedial.analysis import analyze
from onedial.analysis.findings import Finding
from onedial.analysis.logs.schema import RATE_COLUMNS, ROLLOUT_COLUMNS, Coverage, Log, cast_to_schema


def key_figures(log: Log) -> dict[str, Any]:
    """The key figures of all rows of a log."""
    return analyze(log, split="all").figures


def all_findings(log: Log, **options: Any) -> list[Finding]:
    """The findings of all rows of a log, the most important first."""
    return list(analyze(log, split="all", **options).findings)


def rollout_log(rows: list[dict[str, Any]], **options: Any) -> Log:
    """A Log of these rows; columns no row has are declared missing."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    missing = {name: f"these rows have no {name}" for name in ROLLOUT_COLUMNS if name not in frame.columns}
    return Log("rollouts", cast_to_schema(frame.lazy(), ROLLOUT_COLUMNS), "test", missing=missing, **options)


def rate_log(k: Any, n: Any, **columns: Any) -> Log:
    """A rate table Log of counts per prompt."""
    k, n = np.asarray(k), np.asarray(n)
    frame = pl.DataFrame({"prompt_id": [f"p{i}" for i in range(len(k))], "k": k, "n": n, "rate": k / n, **columns})
    missing = {name: f"this table has no {name}" for name in RATE_COLUMNS if name not in frame.columns}
    return Log("rates", cast_to_schema(frame.lazy(), RATE_COLUMNS), "rates", missing=missing)


def simulated(
    rates: Any,
    *,
    size: int = 8,
    iterations: int = 1,
    seed: int = 0,
    survivors: bool = False,
    growth: float = 0.0,
    text: bool = True,
) -> Log:
    """Groups of `size` independent rollouts of each prompt in each iteration.

    Wrong answers are longer; a shaped reward takes .1 off long answers; answers past 400 tokens are cut. `growth` moves
    every rate up by that much per iteration. `survivors` drops silent groups.
    """
    rng, rows = np.random.default_rng(seed), []
    for step in range(iterations):
        for prompt, rate in enumerate(np.clip(np.asarray(rates) + growth * step, 0, 1)):
            right = rng.random(size) < rate
            if survivors and right.all() | ~right.any():
                continue
            length = rng.gamma(4, np.where(right, 40, 55)).astype(int) + 5
            for index in range(size):
                long = length[index] > 300
                rows.append(
                    {
                        "split": "train",
                        "iteration": step + 1,
                        "prompt_id": f"p{prompt}",
                        "group_id": f"{step + 1:06d}-p{prompt}",
                        "rollout_index": index,
                        "outcome": "correct" if right[index] else "wrong",
                        "outcome_reward": float(right[index]),
                        "shaped_reward": float(right[index]) - 0.1 * long,
                        "correct": bool(right[index]),
                        "prompt_tokens": 40,
                        "completion_tokens": int(length[index]),
                        "truncated": bool(length[index] > 400),
                        "entropy": 0.5 - 0.02 * step,
                        "source": "arithmetic",
                        "level": "easy" if rate > 0.5 else "hard",
                    }
                )
                if text:
                    said = str(prompt) if right[index] else str(int(rng.integers(1000)))
                    rows[-1] |= {
                        "prompt": f"What is the number of prompt {prompt}?",
                        "completion": f"Let me think. The answer is {said}.",
                        "parsed_answer": said,
                        "answer": str(prompt),
                    }
    return rollout_log(rows, coverage=Coverage(survivors_only=survivors))
