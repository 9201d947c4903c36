"""The average reward and the average length in tokens of correct and of wrong rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onedial.core.errors import DataError
from onedial.core.types import Group
from onedial.training.budget.scene import Array


def count_solved(group: Group) -> tuple[int, int]:
    """The correct and the usable rollouts of a group. Raises DataError if the verifier does not say what is correct."""
    marks = [rollout.verdict.correct for rollout in group.usable]
    if any(mark is None for mark in marks):
        raise DataError(
            f"prompt {group.prompt.id}: the verifier gives a reward and does not say whether it is correct, which an "
            "allocator with a belief needs; set the task's correct_at (the least reward that counts as correct), or "
            "use allocator fixed, dynamic or two"
        )
    return sum(map(bool, marks)), len(marks)


@dataclass
class Outcomes:
    """Sums over all rollouts so far, for correct ones (`right`) and the others: count, rewards, tokens."""

    right: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    wrong: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def add(self, group: Group) -> None:
        """Adds the usable rollouts of a group."""
        for rollout in group.usable:
            own = self.right if rollout.verdict.correct else self.wrong
            own[0] += 1
            own[1] += rollout.verdict.reward
            own[2] += len(rollout.completion.token_ids)

    def expected_reward(self, rate: float) -> float:
        """The mean reward at a solve rate: correct and wrong rollouts are taken to have 1 and 0 until one of them was
        observed."""
        high = self.right[1] / self.right[0] if self.right[0] else 1.0
        low = self.wrong[1] / self.wrong[0] if self.wrong[0] else 0.0
        return rate * high + (1.0 - rate) * low

    def cost(self, rates: Array) -> Array:
        """Expected tokens of a rollout at these solve rates, divided by the mean of all so far; 1 until both kinds were
        observed."""
        if not self.right[0] or not self.wrong[0]:
            return np.ones(len(rates))
        mean = (self.right[2] + self.wrong[2]) / (self.right[0] + self.wrong[0])
        tokens = rates * self.right[2] / self.right[0] + (1.0 - rates) * self.wrong[2] / self.wrong[0]
        return np.asarray(tokens / max(mean, 1e-9))

    def state(self) -> dict[str, list[float]]:
        """JSON values that `restore` takes."""
        return {"right": list(self.right), "wrong": list(self.wrong)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes a saved state."""
        self.right, self.wrong = [float(v) for v in state["right"]], [float(v) for v in state["wrong"]]
