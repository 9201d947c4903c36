"""Collects judged groups: the allocator requests rollouts, the engine writes them, verifiers judge them meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from onedial.core.errors import AllocatorError, DataError, OnedialError
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocation import Allocation, Allocator, RolloutRequest, join_rounds
from onedial.training.lm.text import Text, locate_prompt
from onedial.training.rollout.engine import Engine, Request, Sampling, derive_seed


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
MOST_ROUNDS = 1000
MOST_IDLE = 10  # iterations in a row in which an allocator may ask for nothing and train nothing


class AllocatorFailed(AllocatorError):
    """An allocator raised, or asked for what cannot be; `groups` were generated in the iteration before it did."""

    def __init__(self, message: str, groups: Sequence[Group]) -> None:
        super().__init__(message)
        self.groups = list(groups)


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
    _idle: int = 0

    def collect(self, iteration: int) -> Collected:
        """Samples in rounds until the allocator requests no more.

        Raises AllocatorFailed, with the groups generated so far, when the allocator raises, requests what cannot be, or
        has requested and trained nothing for `MOST_IDLE` iterations.
        """
        groups: list[Group] = []
        started, self._waited, reused = time.perf_counter(), 0.0, 0
        try:
            self.allocator.start(iteration)
            for requests in self._rounds():
                answers, known = self._round(iteration, requests)
                reused += known
                groups.extend(answers)
                self.allocator.answer(answers)
            took = time.perf_counter() - started
            allocation = self.allocator.finish()
            self._idle = 0 if groups or allocation.train else self._idle + 1
            if self._idle >= MOST_IDLE:
                raise AllocatorError(f"requested no rollouts and trained nothing for {MOST_IDLE} iterations")
        except OnedialError as error:
            if isinstance(error, AllocatorError):
                raise self._failure(iteration, str(error), groups) from error
            raise
        except Exception as error:
            reason = f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise self._failure(iteration, reason, groups) from error
        return Collected(allocation, join_rounds(groups), took - self._waited, self._waited, reused)

    def state(self) -> dict[str, Any]:
        """JSON values that `restore` takes."""
        return self.allocator.state()

    def restore(self, state: Mapping[str, Any], surplus: Sequence[Group]) -> None:
        """Takes a saved state and the surplus groups that it names."""
        self.allocator.restore(dict(state), surplus)

    def _rounds(self) -> Iterator[list[RolloutRequest]]:
        """The allocator's rounds of requests. Raises AllocatorError for one that cannot be answered."""
        rollouts: dict[int, int] = {}
        for _ in range(MOST_ROUNDS):
            requests = self.allocator.ask()
            if not requests:
                return
            for request in requests:
                wanted = rollouts.get(request.position, 0)
                if request.count < 1 or request.position < 0 or request.first != wanted:
                    raise AllocatorError(
                        f"requested {request}; position must be at least 0, count at least 1, and first the number of "
                        f"rollouts that the position has in this iteration ({wanted})"
                    )
                rollouts[request.position] = wanted + request.count
            yield requests
        raise AllocatorError(f"requested rollouts in {MOST_ROUNDS} rounds of one iteration, and still more")

    def _failure(self, iteration: int, reason: str, groups: Sequence[Group]) -> AllocatorFailed:
        name = type(self.allocator).__name__
        return AllocatorFailed(f"iteration {iteration}: allocator {name} {reason}", join_rounds(groups))

    def _round(self, iteration: int, requests: list[RolloutRequest]) -> tuple[list[Group], int]:
        """The groups requested, in that order, and how many of them had been generated before."""
        blanks: dict[int, Group] = {}
        done: dict[int, Group] = {}
        for request in requests:
            prompt = self.draw(request.position)
            blank = Group(prompt, (), iteration, request.position, self.text.encode(prompt))
            indices = range(request.first, request.first + request.count)
            known = self.finished_groups.get(blank.id)
            parts = () if known is None else tuple(r for r in known.rollouts if r.index in indices)
            if known is not None and len(parts) == request.count:
                done[request.position] = replace(blank, rollouts=parts, iteration=known.iteration)
                continue
            blanks[request.position] = blank
            path = (self.seed, "rollout", iteration, request.position, prompt.id)
            seeds = tuple(derive_seed(*path, index) for index in indices)
            try:
                self.engine.submit(Request(request.position, blank.prompt_tokens, seeds, self.sampling))
            except DataError as error:
                raise DataError(f"{locate_prompt(prompt)}: {error}") from error
        rollouts = self._run(blanks, {request.position: request.first for request in requests})
        for position, blank in blanks.items():
            in_order = sorted(rollouts[position], key=lambda rollout: rollout.index)
            done[position] = replace(blank, rollouts=tuple(in_order))
        return [done[request.position] for request in requests], len(requests) - len(blanks)

    def _run(self, blanks: Mapping[int, Group], firsts: Mapping[int, int]) -> dict[int, list[Rollout]]:
        """The judged rollouts of each position, whose indices count on from `firsts`."""
        total, finished = self.engine.pending, 0
        written: dict[Hashable, tuple[int, int, Completion]] = {}
        rollouts: dict[int, list[Rollout]] = {position: [] for position in blanks}
        while self.engine.pending or self.verifiers.pending:
            started, generating = time.perf_counter(), bool(self.engine.pending)
            if generating:
                for row in self.engine.poll():
                    finished += 1
                    text = self.text.decode(row.completion.token_ids)
                    key = (row.key, firsts[row.key] + row.index)
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
