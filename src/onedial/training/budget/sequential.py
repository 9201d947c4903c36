"""Reinforce-Ada (arXiv:2510.04996): each prompt is sampled in rounds until it has both correct and wrong rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar

from onedial.core.allocator_table import AllocatorRow
from onedial.core.types import Group, Rollout
from onedial.training.budget.allocation import (
    Allocation,
    Expectation,
    RolloutRequest,
    Status,
    decide_status,
    join_rounds,
)
from onedial.training.budget.outcomes import count_solved


@dataclass
class Sequential:
    """Samples the next `prompts` of the stream; `kept` rollouts of each are trained on, half of them correct if there
    are as many.

    A prompt is finished when it has kept/2 of each kind (exit="balanced") or one correct rollout ("positive"), or after
    the last round. With baseline='posterior' the baseline is the mean reward of all rollouts drawn for the prompt, kept
    or not.
    """

    row: AllocatorRow
    prompts: int
    seed: int
    keep_mixed: bool
    position: int = 0
    in_flight: ClassVar[bool] = True  # a prompt's next round depends on its own rollouts alone
    _iteration: int = 0
    _groups: dict[int, Group] = field(default_factory=dict, repr=False)  # by position
    _answered: list[int] | None = field(default=None, repr=False)  # positions since the last request; None at first

    def start(self, iteration: int) -> None:
        self._iteration, self._groups, self._answered = iteration, {}, None

    def ask(self) -> list[RolloutRequest]:
        if self._answered is None:
            first, self.position, self._answered = self.position, self.position + self.prompts, []
            return [RolloutRequest(first + i, self.row.round_size) for i in range(self.prompts)]
        answered, self._answered = [self._groups[position] for position in self._answered], []
        return [
            RolloutRequest(group.position, self.row.round_size, len(group.rollouts))
            for group in answered
            if len(group.rollouts) < self.row.rounds * self.row.round_size and not self._done(group)
        ]

    def answer(self, groups: Sequence[Group]) -> None:
        assert self._answered is not None
        for group in groups:
            known = self._groups.get(group.position)
            self._groups[group.position] = group if known is None else join_rounds([known, group])[0]
            self._answered.append(group.position)

    def finish(self) -> Allocation:
        groups = [group for _, group in sorted(self._groups.items())]
        statuses: dict[str, Status] = {group.id: decide_status(group, self.keep_mixed) for group in groups}
        train, expectations = [], {}
        for group in groups:
            kept = replace(group, rollouts=self._keep(group))
            mean = sum(group.rewards) / len(group.rewards) if group.usable else 0.0
            expectations[group.id] = Expectation(baselines=(mean,) * len(kept.usable))
            if statuses[group.id] == "trained":
                train.append(kept)
        return Allocation(train, statuses, expectations=expectations)

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any], surplus: Sequence[Group]) -> None:
        self.position = int(state["position"])

    def _done(self, group: Group) -> bool:
        solved, tries = count_solved(group)
        if self.row.exit == "positive":
            return solved > 0
        return min(solved, tries - solved) >= self.row.kept // 2

    def _keep(self, group: Group) -> tuple[Rollout, ...]:
        """`kept` usable rollouts, half of them correct, filled up with the other kind; in the order in which they were
        drawn."""
        rng = Random(f"sequential/{self.seed}/{self._iteration}/{group.id}")
        right = [rollout for rollout in group.usable if rollout.verdict.correct]
        wrong = [rollout for rollout in group.usable if not rollout.verdict.correct]
        half = self.row.kept // 2
        count = min(len(right), max(half, self.row.kept - len(wrong)))
        chosen = [*rng.sample(right, count), *rng.sample(wrong, min(len(wrong), self.row.kept - count))]
        return tuple(sorted(chosen, key=lambda rollout: rollout.index))
