"""Reward functions in TRL's and verl's signatures, for the tests of the integrations. Imports nothing heavy."""

from __future__ import annotations

import os
import time
from typing import Any


def judge(prompts: Any, completions: Any, answer: Any, **_: Any) -> list[float | None]:
    """A TRL reward function with every way to fail."""
    text = completions[0] if isinstance(completions[0], str) else completions[0][0]["content"]
    if text == "hang":
        time.sleep(60)
    if text == "die":
        os._exit(3)
    if text == "raise":
        raise ValueError("bad")
    if text == "decline":
        return [None]
    return [float(text == answer[0])]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    """A verl reward function."""
    return float(solution_str == ground_truth)
