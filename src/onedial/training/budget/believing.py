"""The allocator that uses a belief: its rule chooses prompts and tries, and the results update the belief.

Rule, belief and candidates are in separate modules: `rules`, `belief`, `scene`. Decisions depend only on the state and
the number of the iteration; random draws take their seed from the iteration and the round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onedial.core.allocator_table import AllocatorRow
from onedial.core.maths.estimators import mean_known
from onedial.core.maths.expectation import effective_tries, posterior_baseline
from onedial.core.types import Group
from onedial.training.budget.allocation import (
    Allocation,
    Expectation,
    RolloutRequest,
    Status,
    decide_status,
    join_rounds,
)
from onedial.training.budget.belief import Belief, Prediction
from onedial.training.budget.calibration import Calibration
from onedial.training.budget.features import Described
from onedial.training.budget.noise_aware import prompt_weight
from onedial.training.budget.outcomes import Outcomes, count_solved
from onedial.training.budget.rules import IN_TURN
from onedial.training.budget.scene import Array, Candidates, Counts, Decision, Rule, Scene


@dataclass
class Visit:
    """What an iteration knows about a prompt that it samples, from the first round on.

    `value` is the number of effective tries so far, `share` the part of the prompt's weight that each usable rollout
    has.
    """

    believed: float
    audit: bool
    inclusion: float | None
    tries: int = 0
    value: float = 0.0
    baselines: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)


@dataclass
class Believing:
    """Spends `prompts` × `group_size` rollouts per iteration by a rule on a belief.

    `weighs`: whether the loss uses weights (a row with baseline='posterior'). `keep_mixed`: whether only groups whose
    rewards differ are trained on, as the algorithm's row says.
    """

    row: AllocatorRow
    rule: Rule
    candidates: Candidates
    prompts: int
    group_size: int
    seed: int = 0
    keep_mixed: bool = False
    weighs: bool = False
    belief: Belief = field(default_factory=Belief)
    calibration: Calibration = field(default_factory=Calibration)
    outcomes: Outcomes = field(default_factory=Outcomes)
    _iteration: int = 0
    _round: int = 0
    _positions: range = range(0)
    _prompts: list[Described] = field(default_factory=list, repr=False)
    _before: Prediction | None = field(default=None, repr=False)
    _visits: dict[int, Visit] = field(default_factory=dict, repr=False)
    _groups: list[Group] = field(default_factory=list, repr=False)

    def start(self, iteration: int) -> None:
        self._iteration, self._round, self._visits, self._groups = iteration, 0, {}, []
        self._positions = self.candidates.positions(iteration)
        self._prompts = [self.candidates.describe(position) for position in self._positions]
        self.belief.advance(iteration)

    def ask(self) -> list[RolloutRequest]:
        if self._round == self.row.rounds:
            return []
        rng = np.random.default_rng([self.seed % 2**64, self._iteration, self._round])
        self._before = self.belief.predict(self._prompts)
        audited = self._draw_audits(rng) if self._round == 0 else np.zeros(len(self._prompts), dtype=np.int64)
        choice = self.rule(self._scene(self._before, rng, float(audited.sum())))
        self._round += 1
        return self._requests(choice, audited)

    def answer(self, groups: Sequence[Group]) -> None:
        assert self._before is not None
        for group in groups:
            index = group.position - self._positions.start
            visit, usable = self._visits[index], len(group.usable)
            rate = self._before.rate
            strength, spread = float(rate.strength[index]), float(rate.spread[index])
            expected = self.outcomes.expected_reward(float(rate.mean[index]))
            visit.baselines += posterior_baseline(group.rewards, expected, strength).tolist()
            value = visit.value + float(effective_tries(usable, strength))
            gained = prompt_weight(np.array([visit.value, value]), np.array(spread), self.row.rho)
            visit.share += [max(0.0, float(gained[1] - gained[0])) / max(1, usable)] * usable
            visit.value = value
        for group in groups:
            solved, tries = count_solved(group)
            self.belief.observe(self._prompts[group.position - self._positions.start], solved, tries)
            self.outcomes.add(group)
        self._groups.extend(groups)

    def finish(self) -> Allocation:
        groups = join_rounds(self._groups)
        statuses: dict[str, Status] = {group.id: self._status(group) for group in groups}
        for group in groups:
            visit = self._get_visit(group)
            solved, tries = count_solved(group)
            if visit.audit and tries:
                self.calibration.add(visit.believed, solved / tries)
        train = [group for group in groups if statuses[group.id] == "trained"]
        expectations = self._expectations(groups, sum(len(group.usable) for group in train))
        return Allocation(train, statuses, expectations=expectations, figures=self._figures(groups))

    def state(self) -> dict[str, Any]:
        return {
            "belief": self.belief.state(),
            "calibration": self.calibration.state(),
            "outcomes": self.outcomes.state(),
        }

    def restore(self, state: dict[str, Any], surplus: Sequence[Group]) -> None:
        self.belief.restore(state["belief"])
        self.calibration.restore(state["calibration"])
        self.outcomes.restore(state["outcomes"])

    def _draw_audits(self, rng: np.random.Generator) -> Counts:
        """(N,) one rollout each for prompts drawn uniformly; their number is the row's share of the budget."""
        audited = np.zeros(len(self._prompts), dtype=np.int64)
        count = min(len(audited), round(self.row.audit * self.prompts * self.group_size))
        audited[rng.choice(len(audited), size=count, replace=False)] = 1
        return audited

    def _scene(self, before: Prediction, rng: np.random.Generator, audits: float) -> Scene:
        value = np.zeros(len(self._prompts))
        for index, visit in self._visits.items():
            value[index] = visit.value
        cost = self.outcomes.cost(before.rate.mean)
        spent = audits + sum(visit.tries * float(cost[index]) for index, visit in self._visits.items())
        budget = max(0.0, self.prompts * self.group_size - spent) / (self.row.rounds - self._round)
        return Scene(self.row, budget, self.prompts, self.group_size, before, before.draw(rng), value, cost, rng)

    def _requests(self, choice: Decision, audited: Counts) -> list[RolloutRequest]:
        assert self._before is not None
        requests, everyone = [], self.row.name in IN_TURN
        for index in np.flatnonzero(choice.tries + audited).tolist():
            count = int(choice.tries[index] + audited[index])
            if index not in self._visits:
                chance = (
                    None if choice.inclusion is None else float(choice.inclusion[index] * (choice.tries[index] > 0))
                )
                believed = float(self._before.rate.mean[index])
                self._visits[index] = Visit(believed, everyone or bool(audited[index]), chance)
            visit = self._visits[index]
            requests.append(RolloutRequest(self._positions[index], count, visit.tries))
            visit.tries += count
        return requests

    def _get_visit(self, group: Group) -> Visit:
        return self._visits[group.position - self._positions.start]

    def _status(self, group: Group) -> Status:
        if self._get_visit(group).inclusion == 0:  # an audit that the draw of prompts left out
            return "left"
        return decide_status(group, self.keep_mixed)

    def _expectations(self, groups: Sequence[Group], trained: int) -> dict[str, Expectation]:
        """The expectation of each group by id, with weights of mean 1 over the `trained` rollouts where they count."""
        visits = [self._get_visit(group) for group in groups]
        shares: list[Array | None] = [None] * len(groups)
        if self.row.unbiased:
            total = len(self._prompts)
            shares = [_even(trained / total / visit.inclusion if visit.inclusion else 0.0, visit) for visit in visits]
        elif self.row.name == "adaptive" and self.weighs:
            total_share = sum(sum(visit.share) for visit in visits)
            shares = [np.array(visit.share) * (trained / total_share) for visit in visits]
        return {
            group.id: Expectation(
                visit.believed,
                visit.audit,
                tuple(visit.baselines),
                None if share is None else tuple(share.tolist()),
            )
            for group, visit, share in zip(groups, visits, shares, strict=True)
        }

    def _figures(self, groups: Sequence[Group]) -> dict[str, Any]:
        audited = [(self._get_visit(group), group) for group in groups if self._get_visit(group).audit and group.usable]
        solved = [count_solved(group) for _, group in audited]
        return {
            "candidates": len(self._prompts),
            "believed_mean": mean_known([self._get_visit(group).believed for group in groups]),
            "audit_prompts": len(audited),
            "audit_believed": mean_known([visit.believed for visit, _ in audited]),
            "audit_solved": mean_known([k / n for k, n in solved if n]),
            "calibration_error": self.calibration.error,
            "calibration": self.calibration.means(),
        }


def _even(weight: float, visit: Visit) -> Array:
    """`weight` divided evenly among a visit's usable rollouts."""
    count = len(visit.baselines)
    return np.full(count, weight / max(1, count))
