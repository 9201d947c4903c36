"""Gathers judged groups: asks the allocator, runs the engine, and has completions judged while others decode."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from onedial.core.errors import DataError
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocators import Allocation, Allocator, RolloutRequest
from onedial.training.lm.text import place_of
from onedial.training.rollout.engine import Engine, Request, Sampling, seed_of


class Judge(Protocol):
    """The verifier pool, as the collector uses it."""

    def submit(self, key: Hashable, prompt: Prompt, completion: str, token_ids: Sequence[int] = ()) -> None: ...
    def poll(self) -> list[tuple[Hashable, Verdict]]: ...
    @property
    def pending(self) -> int: ...


class Codec(Protocol):
    """Text to tokens and back."""

    def encode(self, prompt: Prompt) -> tuple[int, ...]: ...
    def decode(self, tokens: Sequence[int]) -> str: ...


@dataclass
class Collected:
    """An iteration's allocation, all groups generated in it, and the seconds it took."""

    allocation: Allocation
    groups: list[Group]
    generate_s: float
    verify_wait_s: float
    replayed: int


Progress = Callable[[str, int, int], None]


@dataclass
class Collector:
    """Turns an allocator's wishes into groups.

    `recorded` holds groups that an interrupted run had already paid for, by id: they are taken instead of being
    generated again. Every rollout's randomness comes from (seed, iteration, position, prompt, index) alone.
    """

    engine: Engine
    codec: Codec
    judge: Judge
    allocator: Allocator
    draw: Callable[[int], Prompt]
    sampling: Sampling
    seed: int
    recorded: Mapping[str, Group] = field(default_factory=dict)
    progress: Progress = lambda stage, done, total: None
    notes: tuple[str, ...] = ()

    def collect(self, iteration: int) -> Collected:
        """Rounds until the allocator is content."""
        self.allocator.start(iteration)
        groups: list[Group] = []
        started, self._waited, replayed = time.perf_counter(), 0.0, 0
        while asks := self.allocator.ask():
            answers, taken = self._round(iteration, asks)
            replayed += taken
            self.allocator.answer(answers)
            groups.extend(answers)
        took = time.perf_counter() - started
        return Collected(self.allocator.finish(), groups, took - self._waited, self._waited, replayed)

    def state(self) -> dict[str, Any]:
        """JSON values that `restore` takes."""
        return self.allocator.state()

    def restore(self, state: Mapping[str, Any], carried: Sequence[Group]) -> None:
        """Takes a saved state and the groups it says were carried over."""
        self.allocator.restore(dict(state), carried)

    def _round(self, iteration: int, asks: list[RolloutRequest]) -> tuple[list[Group], int]:
        """The groups asked for, in that order, and how many came from the record."""
        blanks: dict[int, Group] = {}
        done: dict[int, Group] = {}
        for ask in asks:
            prompt = self.draw(ask.position)
            blank = Group(prompt, (), iteration, ask.position, self.codec.encode(prompt))
            known = self.recorded.get(blank.id)
            if known is not None and len(known.rollouts) == ask.count:
                done[ask.position] = replace(known, prompt=prompt, prompt_tokens=blank.prompt_tokens)
                continue
            blanks[ask.position] = blank
            path = (self.seed, "rollout", iteration, ask.position, prompt.id)
            seeds = tuple(seed_of(*path, index) for index in range(ask.count))
            try:
                self.engine.submit(Request(ask.position, blank.prompt_tokens, seeds, self.sampling))
            except DataError as error:
                raise DataError(f"{place_of(prompt)}: {error}") from error
        rollouts = self._run(blanks)
        for position, blank in blanks.items():
            rows = sorted(rollouts[position], key=lambda rollout: rollout.index)
            done[position] = replace(blank, rollouts=tuple(rows))
        return [done[ask.position] for ask in asks], len(asks) - len(blanks)

    def _run(self, blanks: Mapping[int, Group]) -> dict[int, list[Rollout]]:
        total, finished = self.engine.pending, 0
        written: dict[Hashable, tuple[int, int, Completion]] = {}
        rollouts: dict[int, list[Rollout]] = {position: [] for position in blanks}
        while self.engine.pending or self.judge.pending:
            if self.engine.pending:
                for row in self.engine.poll():
                    finished += 1
                    text = self.codec.decode(row.completion.token_ids)
                    key = (row.key, row.index)
                    written[key] = (*key, replace(row.completion, text=text))
                    self.judge.submit(key, blanks[row.key].prompt, text, row.completion.token_ids)
                self.progress("generate", finished, total)
            else:
                time.sleep(0.001)
                self._waited += 0.001
                self.progress("verify", total - self.judge.pending, total)
            for judged, verdict in self.judge.poll():
                position, index, completion = written[judged]
                rollouts[position].append(Rollout(index, completion, verdict))
        return rollouts
