"""Collects judged groups: the allocator requests rollouts, the engine writes them, verifiers judge them meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from onedial.core.errors import DataError
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocators import Allocation, Allocator, RolloutRequest
from onedial.training.lm.text import Text, locate_prompt
from onedial.training.rollout.engine import Engine, Request, Sampling, seed_of


class Verifiers(Protocol):
    """What the collector needs of a `VerifierPool`."""

    def submit(self, key: Hashable, prompt: Prompt, completion: str, token_ids: Sequence[int] = ()) -> None: ...
    def poll(self) -> list[tuple[Hashable, Verdict]]: ...
    @property
    def pending(self) -> int: ...


@dataclass
class Collected:
    """An iteration's allocation, all groups generated in it, and the seconds it took.

    `verify_wait_s` are the seconds in which nothing was left to generate and verdicts were outstanding; `reused` counts
    the groups that an interrupted run had generated.
    """

    allocation: Allocation
    groups: list[Group]
    generate_s: float
    verify_wait_s: float
    reused: int


Progress = Callable[[str, int, int], None]


@dataclass
class Collector:
    """Turns an allocator's requests into judged groups.

    `finished_groups` holds groups that an interrupted run has generated, by id: they are used instead of generating
    them again. The randomness of a rollout comes from (seed, iteration, position, prompt, index) alone.
    """

    engine: Engine
    text: Text
    verifiers: Verifiers
    allocator: Allocator
    draw: Callable[[int], Prompt]
    sampling: Sampling
    seed: int
    finished_groups: Mapping[str, Group] = field(default_factory=dict)
    progress: Progress = lambda stage, done, total: None
    notes: tuple[str, ...] = ()

    def collect(self, iteration: int) -> Collected:
        """Samples in rounds until the allocator requests no more."""
        self.allocator.start(iteration)
        groups: list[Group] = []
        started, self._waited, reused = time.perf_counter(), 0.0, 0
        while requests := self.allocator.ask():
            answers, known = self._round(iteration, requests)
            reused += known
            self.allocator.answer(answers)
            groups.extend(answers)
        took = time.perf_counter() - started
        return Collected(self.allocator.finish(), groups, took - self._waited, self._waited, reused)

    def state(self) -> dict[str, Any]:
        """JSON values that `restore` takes."""
        return self.allocator.state()

    def restore(self, state: Mapping[str, Any], surplus: Sequence[Group]) -> None:
        """Takes a saved state and the surplus groups that it names."""
        self.allocator.restore(dict(state), surplus)

    def _round(self, iteration: int, requests: list[RolloutRequest]) -> tuple[list[Group], int]:
        """The groups requested, in that order, and how many of them had been generated before."""
        blanks: dict[int, Group] = {}
        done: dict[int, Group] = {}
        for request in requests:
            prompt = self.draw(request.position)
            blank = Group(prompt, (), iteration, request.position, self.text.encode(prompt))
            known = self.finished_groups.get(blank.id)
            if known is not None and len(known.rollouts) == request.count:
                done[request.position] = replace(known, prompt=prompt, prompt_tokens=blank.prompt_tokens)
                continue
            blanks[request.position] = blank
            path = (self.seed, "rollout", iteration, request.position, prompt.id)
            seeds = tuple(seed_of(*path, index) for index in range(request.count))
            try:
                self.engine.submit(Request(request.position, blank.prompt_tokens, seeds, self.sampling))
            except DataError as error:
                raise DataError(f"{locate_prompt(prompt)}: {error}") from error
        rollouts = self._run(blanks)
        for position, blank in blanks.items():
            in_order = sorted(rollouts[position], key=lambda rollout: rollout.index)
            done[position] = replace(blank, rollouts=tuple(in_order))
        return [done[request.position] for request in requests], len(requests) - len(blanks)

    def _run(self, blanks: Mapping[int, Group]) -> dict[int, list[Rollout]]:
        total, finished = self.engine.pending, 0
        written: dict[Hashable, tuple[int, int, Completion]] = {}
        rollouts: dict[int, list[Rollout]] = {position: [] for position in blanks}
        while self.engine.pending or self.verifiers.pending:
            started, generating = time.perf_counter(), bool(self.engine.pending)
            if generating:
                for row in self.engine.poll():
                    finished += 1
                    text = self.text.decode(row.completion.token_ids)
                    key = (row.key, row.index)
                    written[key] = (*key, replace(row.completion, text=text))
                    self.verifiers.submit(key, blanks[row.key].prompt, text, row.completion.token_ids)
                self.progress("generate", finished, total)
            else:
                time.sleep(0.001)
                self.progress("verify", total - self.verifiers.pending, total)
            for judged, verdict in self.verifiers.poll():
                position, index, completion = written[judged]
                rollouts[position].append(Rollout(index, completion, verdict))
            if not generating:
                self._waited += time.perf_counter() - started
        return rollouts
