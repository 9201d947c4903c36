"""An allocator of one's own, judged on a synthetic learner in seconds: it rests prompts that were solved every time.

    python examples/own_allocator.py

An allocator decides which prompts get rollouts. It asks in rounds and sees every judged group before it asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from onedial import ALGORITHMS, Group, Prompt
from onedial.training.budget.allocation import Allocation, Dynamic, Fixed, RolloutRequest, UniformSchedule
from onedial.training.budget.simulate import Comparison, World, compare_allocators

PROMPTS, GROUP_SIZE = 16, 8
SMALL = World(prompts=300, held_out=200, topics=24, dimensions=64)


@dataclass
class RestSolved:
    """Uniform sampling, but a prompt whose last group was all correct is skipped the next `rest` times it comes up."""

    look: Callable[[int], Prompt]
    rest: int = 2
    position: int = 0
    resting: dict[str, int] = field(default_factory=dict)
    groups: list[Group] | None = None

    def start(self, iteration: int) -> None:
        self.groups = None

    def ask(self) -> list[RolloutRequest]:
        requests: list[RolloutRequest] = []
        while self.groups is None and len(requests) < PROMPTS:
            prompt = self.look(self.position).id
            if self.resting.get(prompt, 0) > 0:
                self.resting[prompt] -= 1
            else:
                requests.append(RolloutRequest(self.position, GROUP_SIZE))
            self.position += 1
        return requests

    def answer(self, groups: Sequence[Group]) -> None:
        self.groups = list(groups)
        self.resting |= {group.prompt.id: self.rest for group in groups if min(group.rewards) == 1.0}

    def finish(self) -> Allocation:
        groups = self.groups or []
        return Allocation(groups, {group.id: "trained" for group in groups})

    def state(self) -> dict[str, Any]:
        return {"position": self.position, "resting": self.resting}

    def restore(self, state: dict[str, Any], carried: Sequence[Group]) -> None:
        self.position, self.resting = state["position"], state["resting"]


def judge(world: World, *, target: float, seeds: int) -> list[Comparison]:
    """Tokens to a held-out accuracy, beside uniform sampling and DAPO's dynamic sampling."""
    return compare_allocators(
        world,
        {
            "fixed 8": lambda look: Fixed(PROMPTS, UniformSchedule(GROUP_SIZE)),
            "dynamic 8": lambda look: Dynamic(PROMPTS // 2, UniformSchedule(GROUP_SIZE)),
            "rest solved": RestSolved,
        },
        ALGORITHMS["naive_grpo"],
        target=target,
        learning_rates=(1.0, 2.0, 4.0, 8.0),
        max_tokens=2_000_000,
        seeds=seeds,
    )


def main() -> None:
    table = Table("allocator", "learning rate", "tokens", "fixed 8 over it (95 %)", "silent tokens", "reached")
    for result in judge(SMALL, target=0.75, seeds=5):
        low, high = result.interval or (float("nan"), float("nan"))
        ratio = f"{result.ratio:.2f} ({low:.2f} to {high:.2f})"
        share = f"{result.silent_token_share:.0%}"
        rate = f"{result.learning_rate:g}"
        table.add_row(result.name, rate, f"{result.tokens:,.0f}", ratio, share, f"{result.reached} of 5")
    Console().print(table)


if __name__ == "__main__":
    main()
