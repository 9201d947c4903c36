"""A synthetic learner on which an allocator can be tested in seconds, before it is used with a real model.

A prompt x is solved with probability p_x = σ(b_x + u_x·θ). b_x is its own difficulty, u_x (norm 2) the skills it needs:
one skill shared by all prompts, one of its topic, one of its own; θ is what the policy has learned. A rollout's score
(the gradient of its log-probability) is (r − p_x)·u_x + ξ, where the noise ξ represents everything in an answer that
has nothing to do with being correct; its squared norm is 4/ρ on average: ρ is the signal of one rollout divided by its
noise. Dead prompts are never solved. Held-out prompts need the same topics and are never trained on.

The learner takes one plain gradient step per iteration on the advantages of the algorithm row. That leaves out parts of
a real run (optimizer state, clipping, drift of the reference): a difference seen here is a reason to train with an
allocator, not a result about training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from onedial.core.algorithm import Algorithm
from onedial.core.maths.advantage import advantages
from onedial.core.maths.estimators import t_quantile
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocation import Allocation, Allocator, RolloutRequest, join_rounds

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
SKILL_NORM = 2.0


@dataclass(frozen=True)
class World:
    """The prompts of a simulation; everything in it follows from `seed`.

    `difficulty` and `spread` are mean and standard deviation of b_x (logits); `shared` and `topical` the shares of u_x
    that all prompts and the prompts of one topic have in common; `tokens` the lengths of a wrong and a correct answer.
    """

    prompts: int = 1000
    held_out: int = 400
    topics: int = 64
    dimensions: int = 128
    dead_share: float = 0.05
    difficulty: float = -1.5
    spread: float = 2.0
    shared: float = 0.05
    topical: float = 0.6
    rho: float = 0.01
    tokens: tuple[int, int] = (60, 40)
    seed: int = 0


@dataclass(frozen=True)
class Trace:
    """A simulated run, with one entry per iteration and one for the state before the first.

    rollouts, tokens   generated so far; silent_tokens: those of groups whose rewards were all equal
    accuracy           mean solve rate of the held-out prompts, exact
    """

    rollouts: Array
    tokens: Array
    silent_tokens: Array
    accuracy: Array

    def cost_to(self, target: float, *, of: str = "tokens") -> float:
        """Returns the tokens (or rollouts) generated when accuracy first reached `target`; infinity if it never did."""
        reached = np.flatnonzero(self.accuracy >= target)
        cost: Array = getattr(self, of)
        return float(cost[reached[0]]) if len(reached) else float("inf")


@dataclass
class Learner:
    """The prompts of a world and what the policy has learned of them."""

    world: World
    theta: Array = field(init=False)
    _rng: np.random.Generator = field(init=False, repr=False)
    _orders: dict[int, Numbers] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        world = self.world
        self._rng = np.random.default_rng([world.seed, 1])
        make = np.random.default_rng([world.seed, 0])
        count = world.prompts + world.held_out
        common = _unit(make.standard_normal(world.dimensions))
        topics = _unit(make.standard_normal((world.topics, world.dimensions)))
        self._topic = make.integers(world.topics, size=count)
        own = _unit(make.standard_normal((count, world.dimensions)))
        parts = world.shared**0.5 * common + world.topical**0.5 * topics[self._topic]
        parts = parts + max(0.0, 1.0 - world.shared - world.topical) ** 0.5 * own
        self._skills = SKILL_NORM * _unit(parts)
        self._difficulty = make.normal(world.difficulty, world.spread, size=count)
        self._dead = make.random(count) < world.dead_share
        self._dead[world.prompts :] = False
        self.theta = np.zeros(world.dimensions)

    def solve_rates(self, prompts: Numbers | slice | None = None) -> Array:
        """Solve rates of the training prompts now, or of the prompts with these numbers."""
        return self._rates(slice(None, self.world.prompts) if prompts is None else prompts)

    def accuracy(self) -> float:
        """Mean solve rate of the held-out prompts."""
        return float(self._rates(slice(self.world.prompts, None)).mean())

    def _rates(self, which: Numbers | slice) -> Array:
        logits = self._difficulty[which] + self._skills[which] @ self.theta
        return np.where(self._dead[which], 0.0, 1.0 / (1.0 + np.exp(-logits)))

    def prompt_at(self, position: int) -> int:
        """The number of the prompt at a position of the stream: every epoch is a new shuffle of all prompts."""
        epoch, place = divmod(position, self.world.prompts)
        if epoch not in self._orders:
            order = np.random.default_rng([self.world.seed, 2, epoch]).permutation(self.world.prompts)
            self._orders[epoch] = order
        return int(self._orders[epoch][place])

    def look(self, position: int) -> Prompt:
        """The prompt at a position, as its groups carry it; its level is its topic."""
        number = self.prompt_at(position)
        return Prompt(str(number), source="simulation", meta={"level": f"topic {self._topic[number]}"})

    def answer(self, request: RolloutRequest, iteration: int) -> Group:
        """Samples the rollouts of one request."""
        number = self.prompt_at(request.position)
        hits = (self._rng.random(request.count) < self.solve_rates(np.array([number]))).tolist()
        return Group(
            self.look(request.position),
            tuple(_rollout(i, hit, self.world.tokens[int(hit)]) for i, hit in enumerate(hits, request.first)),
            iteration,
            request.position,
        )

    def learn(self, allocation: Allocation, row: Algorithm, learning_rate: float) -> None:
        """Takes one gradient step on the groups that train, with the row's advantages, averaged over their rollouts."""
        groups = allocation.train
        rewards = np.array([reward for group in groups for reward in group.rewards])
        if not len(rewards):
            return
        of_group = np.repeat(np.arange(len(groups)), [len(group.usable) for group in groups])
        known = [allocation.expectations[group.id] for group in groups if group.id in allocation.expectations]
        expected = torch.tensor([value for each in known for value in each.baselines], dtype=torch.double)
        weight = torch.tensor([value for each in known for value in each.weights or ()], dtype=torch.double)
        advantage = advantages(
            row,
            torch.from_numpy(rewards),
            torch.from_numpy(of_group),
            expected=expected if row.needs_belief else None,
            weight=weight if len(weight) else None,
        ).numpy()
        numbers = np.array([int(group.prompt.text) for group in groups])[of_group]
        noise = (4.0 / self.world.rho / self.world.dimensions) ** 0.5
        scores = (rewards - self.solve_rates(numbers))[:, None] * self._skills[numbers]
        scores = scores + noise * self._rng.standard_normal(scores.shape)
        self.theta = self.theta + learning_rate * advantage @ scores / len(rewards)


Look = Callable[[int], Prompt]
MakeAllocator = Callable[[Look], Allocator]


def simulate(
    world: World,
    make_allocator: MakeAllocator,
    row: Algorithm,
    *,
    learning_rate: float,
    max_tokens: int,
    max_iterations: int = 2000,
    target: float = 1.0,
) -> Trace:
    """Trains the synthetic learner until it has generated `max_tokens` tokens, made `max_iterations` iterations, or
    reached a held-out accuracy of `target`. `make_allocator` gets a function from positions to prompts."""
    learner = Learner(world)
    allocator = make_allocator(learner.look)
    points = [(0.0, 0.0, 0.0, learner.accuracy())]
    while points[-1][1] < max_tokens and len(points) <= max_iterations and points[-1][3] < target:
        rollouts, tokens, silent, _ = points[-1]
        iteration = len(points)
        generated: list[Group] = []
        allocator.start(iteration)
        while requests := allocator.ask():
            answers = [learner.answer(request, iteration) for request in requests]
            allocator.answer(answers)
            generated.extend(answers)
        groups = join_rounds(generated)
        rollouts += sum(len(group.rollouts) for group in groups)
        tokens += sum(group.num_tokens for group in groups)
        silent += sum(group.num_tokens for group in groups if not group.mixed)
        learner.learn(allocator.finish(), row, learning_rate)
        points.append((rollouts, tokens, silent, learner.accuracy()))
    return Trace(*(np.array(column) for column in zip(*points, strict=True)))


@dataclass(frozen=True)
class Comparison:
    """How an allocator did against the first one, over paired seeds.

    learning_rate  the best of those offered, on seeds of its own
    tokens         geometric mean of the tokens to the target, over the seeds in which both reached it
    ratio          the first one's tokens over this one's (above 1: this one needs fewer), with its 95 % interval, which
                   is None with fewer than two pairs
    reached        seeds in which the target was reached
    """

    name: str
    learning_rate: float
    tokens: float
    ratio: float
    interval: tuple[float, float] | None
    reached: int
    silent_token_share: float


def compare_allocators(
    world: World,
    allocators: Mapping[str, MakeAllocator],
    row: Algorithm | Mapping[str, Algorithm],
    *,
    target: float,
    learning_rates: Sequence[float],
    max_tokens: int,
    seeds: int = 5,
    tuning_seeds: int = 2,
) -> list[Comparison]:
    """Simulates each allocator on the same worlds (one per seed) and compares the tokens needed to reach a held-out
    accuracy.

    An allocator that drops silent groups takes larger steps at the same learning rate, so each gets its own best
    learning rate, chosen on worlds that the comparison does not use. The interval is Student's on the logarithms of the
    paired ratios. `row` is one row for all, or a row for each by name.
    """
    rows = {name: row if isinstance(row, Algorithm) else row[name] for name in allocators}

    def run(name: str, rate: float, seed: int) -> Trace:
        own_world = replace(world, seed=seed)
        make, own = allocators[name], rows[name]
        return simulate(own_world, make, own, learning_rate=rate, max_tokens=max_tokens, target=target)

    def best_rate(name: str) -> float:
        if len(learning_rates) == 1:
            return learning_rates[0]
        trials = range(seeds, seeds + tuning_seeds)
        return min(learning_rates, key=lambda rate: sum(_log_cost(run(name, rate, seed), target) for seed in trials))

    rates = {name: best_rate(name) for name in allocators}
    traces = {name: [run(name, rates[name], seed) for seed in range(seeds)] for name in allocators}
    first = np.array([trace.cost_to(target) for trace in next(iter(traces.values()))])
    return [_compare(name, rates[name], first, traces[name], target) for name in allocators]


def _log_cost(trace: Trace, target: float) -> float:
    """Log of the tokens to the target; a run that never reached it counts as twice what it generated."""
    cost = trace.cost_to(target)
    return float(np.log(cost if np.isfinite(cost) else 2 * trace.tokens[-1]))


def _compare(name: str, rate: float, first: Array, traces: Sequence[Trace], target: float) -> Comparison:
    own = np.array([trace.cost_to(target) for trace in traces])
    both = np.isfinite(first) & np.isfinite(own)
    logs = np.log(first[both] / own[both])
    interval = None
    if len(logs) > 1:
        half = t_quantile(len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
        interval = (float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half)))
    return Comparison(
        name,
        rate,
        tokens=float(np.exp(np.log(own[both]).mean())) if both.any() else float("nan"),
        ratio=float(np.exp(logs.mean())) if both.any() else float("nan"),
        interval=interval,
        reached=int(np.isfinite(own).sum()),
        silent_token_share=float(sum(t.silent_tokens[-1] for t in traces) / sum(t.tokens[-1] for t in traces)),
    )


def _rollout(index: int, correct: bool, tokens: int) -> Rollout:
    completion = Completion((0,) * tokens, (), "stop")
    return Rollout(index, completion, Verdict(float(correct), correct, outcome="correct" if correct else "wrong"))


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
