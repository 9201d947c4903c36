"""An allocator of one's own: it rests prompts that were solved every time.

    python examples/own_allocator.py                                              on a synthetic learner, in seconds
    onedial train naive_grpo --allocator examples/own_allocator.py:RestSolved     on a real model

An allocator decides which prompts get rollouts. It asks in rounds and sees every judged group before it asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from onedial import ALGORITHMS, Group, Prompt, Run
from onedial.training.budget.allocation import Allocation, Dynamic, Fixed, RolloutRequest, UniformSchedule
from onedial.training.budget.simulate import Comparison, World, compare_allocators

RUN = Run(prompts_per_iteration=16, group_size=8)
SMALL = World(prompts=300, held_out=200, topics=24, dimensions=64)


class RestSolved:
    """Uniform sampling, but a prompt whose last group was all correct is skipped the next two times it comes up."""

    def __init__(self, run: Run, look: Callable[[int], Prompt]) -> None:
        """Takes the settings of the run, and the task: the prompt at each position of its stream."""
        self.prompts, self.group_size, self.look = run.prompts_per_iteration, run.group_size, look
        self.position = 0
        self.resting: dict[str, int] = {}
        self.groups: list[Group] | None = None

    def start(self, iteration: int) -> None:
        self.groups = None

    def ask(self) -> list[RolloutRequest]:
        requests: list[RolloutRequest] = []
        while self.groups is None and len(requests) < self.prompts:
            prompt = self.look(self.position).id
            if self.resting.get(prompt, 0) > 0:
                self.resting[prompt] -= 1
            else:
                requests.append(RolloutRequest(self.position, self.group_size))
            self.position += 1
        return requests

    def answer(self, groups: Sequence[Group]) -> None:
        self.groups = list(groups)
        self.resting |= {group.prompt.id: 2 for group in groups if min(group.rewards, default=0.0) == 1.0}

    def finish(self) -> Allocation:
        groups = self.groups or []
        return Allocation([group for group in groups if group.usable], {group.id: "trained" for group in groups})

    def state(self) -> dict[str, Any]:
        return {"position": self.position, "resting": self.resting}

    def restore(self, state: dict[str, Any], carried: Sequence[Group]) -> None:
        self.position, self.resting = state["position"], state["resting"]


def judge(world: World, *, target: float, seeds: int) -> list[Comparison]:
    """Tokens to a held-out accuracy, beside uniform sampling and DAPO's dynamic sampling."""
    return compare_allocators(
        world,
        {
            "fixed 8": lambda look: Fixed(16, UniformSchedule(8)),
            "dynamic 8": lambda look: Dynamic(8, UniformSchedule(8)),
            "rest solved": lambda look: RestSolved(RUN, look),
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
