"""The figures of an iteration. Oracle: each by hand from four small groups."""

from __future__ import annotations

import math
import resource
import sys
from typing import Any

import pytest

from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocation import Allocation
from onedial.training.rollout.collector import Collected
from onedial.training.trainer.metrics import (
    METRICS,
    measure_groups,
    measure_iteration,
    measure_rollouts,
    peak_memory_gb,
)
from onedial.training.trainer.step import Updated


def rollout(index: int, reward: float, tokens: int, *, outcome: Any = None, correct: bool | None = None) -> Rollout:
    right = reward > 0 if correct is None else correct
    verdict = Verdict(reward, correct=right, outcome=outcome or ("correct" if right else "wrong"))
    finish: Any = "length" if tokens >= 6 else "stop"
    return Rollout(index, Completion((7,) * tokens, (-0.5,) * tokens, finish), verdict)


def group(position: int, *rollouts: Rollout, prompt: int = 3) -> Group:
    return Group(Prompt(f"p{position}"), rollouts, 0, position, (1,) * prompt)


MIXED = group(0, rollout(0, 1.0, 2), rollout(1, 0.0, 4), rollout(2, 0.0, 6), rollout(3, 0.0, 2, outcome="timeout"))
RIGHT = group(1, rollout(0, 1.0, 1), rollout(1, 1.0, 3), prompt=5)
WRONG = group(2, rollout(0, 0.0, 6), rollout(1, 0.0, 7))
OTHER = group(3, rollout(0, 0.5, 2, correct=True), rollout(1, 0.5, 2, correct=False))
ALONE = group(4, rollout(0, 1.0, 1), rollout(1, 0.0, 1, outcome="error"))
GROUPS = [MIXED, RIGHT, WRONG, OTHER, ALONE]


def test_groups_by_hand() -> None:
    """One of three right has σ̂ = √2/3 = 0.471, in the last tenth of 0 … 0.5; a single usable rollout is no group."""
    found = measure_groups(GROUPS)
    assert found.pop("sigma_mean") == pytest.approx(math.sqrt(2) / 3 / 4)
    assert found == {
        "sigma_hist": [3, 0, 0, 0, 0, 0, 0, 0, 0, 1], "mixed_share": 0.25, "all_correct_share": 0.25,
        "all_wrong_share": 0.25, "silent_other_share": 0.25, "tokens_all_correct": 4, "tokens_all_wrong": 13,
    }  # fmt: skip
    wide = group(5, rollout(0, 10.0, 1), rollout(1, -10.0, 1))
    half = group(6, rollout(0, 0.3, 1), rollout(1, 0.0, 1))  # σ̂ 0.15
    assert measure_groups([wide, half])["sigma_hist"] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_rollouts_by_hand() -> None:
    assert measure_rollouts(GROUPS) == pytest.approx(
        {
            "reward_mean": (1 + 2 + 1.0 + 1) / 10,
            "correct_share": 5 / 10,
            "unusable_share": 2 / 12,
            "rollouts_generated": 12,
            "length_mean": (14 + 4 + 13 + 4 + 2) / 12,
            "length_correct_mean": (2 + 1 + 3 + 2 + 1) / 5,
            "length_wrong_mean": (4 + 6 + 6 + 7 + 2) / 5,
            "truncated_share": 3 / 12,
            "entropy": 0.5,
        }  # fmt: skip
    )


def test_nothing_generated_is_no_share() -> None:
    assert all(value is None or not value or value == [0] * 10 for value in measure_groups([]).values())
    assert measure_groups([])["mixed_share"] is None and measure_groups([])["sigma_mean"] is None
    assert {k: v for k, v in measure_rollouts([]).items() if v is not None} == {"rollouts_generated": 0}


def test_the_record_of_an_iteration_by_hand() -> None:
    statuses: dict[str, Any] = {MIXED.id: "trained", RIGHT.id: "silent", WRONG.id: "carried", OTHER.id: "carried"}
    collected = Collected(Allocation([MIXED], statuses, 1, True, 2), GROUPS, 4.0, 0.5, 0)
    sums = {"tokens": 24.0, "clip_low": 6.0, "clip_high": 3.0, "ratio": 30.0, "nll": 12.0, "mismatch": 2.4, "kl": 4.8,
            "pairs": 4.0, "pair_right": 3.0, "margin": 2.0, "chosen_logp": -8.0, "rejected_logp": -16.0}  # fmt: skip
    updated = Updated(1e-3, 2, 0.7, 1.5, sums, 0.25, 2, epochs=2)
    found = measure_iteration(3, 9, collected, {"explained_variance": 0.4}, updated, {"time_s": 6.0, "update_s": 1.0})
    assert set(found) == set(METRICS)
    hand = {
        "iteration": 3, "step": 9, "time_s": 6.0, "update_s": 1.0, "generate_s": 4.0, "verify_s": 0.5,
        "groups_generated": 5, "groups_trained": 1, "groups_surplus_used": 1, "groups_waiting": 2, "exhausted": 1,
        "tokens_generated": 37, "tokens_trained": 12, "trained_share": 12 / 37, "prompt_tokens": 17,
        "clip_low_share": 0.25, "clip_high_share": 0.125, "ratio_mean": 1.25, "nll": 0.5, "mismatch_kl": 0.1,
        "kl_ref": 0.2, "pair_accuracy": 0.75, "pair_margin": 0.5, "chosen_logp": -2.0, "rejected_logp": -4.0,
        "value_loss": 0.25, "explained_variance": 0.4, "value_calibration": None, "grad_norm": 1.5, "lr": 1e-3,
        "loss": 0.7, "tokens_per_s": 37 / 4,
    }  # fmt: skip
    assert {name: found[name] for name in hand} == pytest.approx(hand)
    assert isinstance(found["tokens_trained"], int)
    nothing = Collected(Allocation([], {}), [], 0.0, 0.0, 0)
    empty = measure_iteration(1, 0, nothing, {}, Updated(1e-3), {"time_s": 0.0, "update_s": 0.0})
    for name in ("trained_share", "tokens_per_s", "clip_low_share", "pair_margin", "kl_ref"):
        assert empty[name] is None, name


def test_peak_memory_is_in_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Used:
        ru_maxrss = 2_000_000  # kilobytes on Linux, bytes on macOS

    monkeypatch.setattr(resource, "getrusage", lambda who: Used)
    monkeypatch.setattr(sys, "platform", "linux")
    assert peak_memory_gb() == pytest.approx(2.048)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory_gb() == pytest.approx(0.002)
