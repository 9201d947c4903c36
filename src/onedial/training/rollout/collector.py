"""Collects judged groups: the allocator requests rollouts, the engine generates them, and verifiers judge them at the
same time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from onedial.core.errors import AllocatorError, DataError, OnedialError
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocation import Allocation, Allocator, RolloutRequest, check_allocation, join_rounds
from onedial.training.lm.text import Text, locate_prompt
from onedial.training.rollout.engine import Engine, Request, Sampling, derive_seed


class Verifiers(Protocol):
    """What the collector needs from a `VerifierPool`."""

    def submit(self, key: Hashable, prompt: Prompt, completion: str, token_ids: Sequence[int] = ()) -> None: ...
    def poll(self) -> list[tuple[Hashable, Verdict]]: ...
    @property
    def pending(self) -> int: ...


@dataclass
class Collected:
    """The allocation of an iteration, all groups generated in it, and the seconds it took.

    `verify_wait_s` are the seconds in which nothing was left to generate and verdicts were still missing; `reused` is
    the number of groups that an interrupted run had already generated.
    """

    allocation: Allocation
    groups: list[Group]
    generate_s: float
    verify_wait_s: float
    reused: int


Progress = Callable[[str, int, int], None]
MOST_ROUNDS = 1000
MOST_IDLE = 10  # iterations in a row in which an allocator may ask for nothing and train nothing
VERDICT_TOKENS = 8  # in flight: tokens of decoding after which the verdicts of a finished request are waited for


@dataclass
class _Open:
    """A request under way: its group without rollouts, and the judged rollouts so far.

    `due`: the engine's poll at which an allocator in flight gets the answer; None while completions are unfinished.
    """

    request: RolloutRequest
    blank: Group
    rollouts: list[Rollout] = field(default_factory=list)
    finished: int = 0
    due: int | None = None
    known: bool = False

    @property
    def judged(self) -> bool:
        return len(self.rollouts) == self.request.count

    @property
    def group(self) -> Group:
        if self.known:
            return self.blank
        return replace(self.blank, rollouts=tuple(sorted(self.rollouts, key=lambda rollout: rollout.index)))


class AllocatorFailed(AllocatorError):
    """An allocator raised, or requested something impossible; `groups` were generated in the iteration before that."""

    def __init__(self, message: str, groups: Sequence[Group]) -> None:
        super().__init__(message)
        self.groups = list(groups)


@dataclass
class Collector:
    """Turns an allocator's requests into judged groups.

    `finished_groups` holds groups that an interrupted run has generated, by id: they are used instead of being
    generated again. The randomness of a rollout depends on (seed, iteration, position, prompt, index) alone.
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
    needs_belief: bool = False  # the row takes its baselines from the allocator
    _idle: int = 0

    def collect(self, iteration: int) -> Collected:
        """Samples until the allocator requests no more.

        Raises AllocatorFailed, with the groups generated so far, if the allocator raises, requests something
        impossible, or has requested and trained nothing for `MOST_IDLE` iterations.
        """
        groups: list[Group] = []
        started, self._waited, self._polls, reused = time.perf_counter(), 0.0, 0, 0
        self._open: dict[int, _Open] = {}
        self._written: dict[Hashable, tuple[int, int, Completion]] = {}
        try:
            self._call(self.allocator.start, iteration)
            for requests in self._requests():
                for request in requests:
                    self._submit(iteration, request)
                answered = self._answered()
                reused += sum(request.known for request in answered)
                answers = [request.group for request in answered]
                groups.extend(answers)
                self._call(self.allocator.answer, answers)
            took = time.perf_counter() - started
            allocation: Allocation = self._call(self.allocator.finish)
            check_allocation(allocation, {group.id for group in groups}, needs_belief=self.needs_belief)
            self._idle = 0 if groups or allocation.train else self._idle + 1
            if self._idle >= MOST_IDLE:
                raise AllocatorError(f"requested no rollouts and trained nothing for {MOST_IDLE} iterations")
        except AllocatorError as error:
            paid = join_rounds([*groups, *self._finish_open()])
            name = type(self.allocator).__name__
            raise AllocatorFailed(f"iteration {iteration}: allocator {name} {error}", paid) from error
        return Collected(allocation, join_rounds(groups), took - self._waited, self._waited, reused)

    def state(self) -> dict[str, Any]:
        """JSON values that `restore` takes."""
        return self.allocator.state()

    def restore(self, state: Mapping[str, Any], surplus: Sequence[Group]) -> None:
        """Takes a saved state and the surplus groups that it names."""
        self.allocator.restore(dict(state), surplus)

    def _requests(self) -> Iterator[list[RolloutRequest]]:
        """The allocator's requests, round by round, or in flight as it has any; [] while others are under way.

        Raises AllocatorError for a request that cannot be answered, and for rounds without end.
        """
        rollouts: Counter[int] = Counter()
        rounds, most = 0, MOST_ROUNDS
        while (requests := self._call(self.allocator.ask)) or self._open:
            rounds += bool(requests)
            if rounds == 1 and self._in_flight:
                most *= max(1, len(requests))  # each of them may be asked for more on its own
            if rounds > most:
                raise AllocatorError(f"requested rollouts in {most} rounds of one iteration, and still more")
            for request in requests:
                wanted = rollouts[request.position]
                if request.count < 1 or request.position < 0 or request.first != wanted:
                    raise AllocatorError(
                        f"requested {request}; position must be at least 0, count at least 1, and first the number of "
                        f"rollouts that the position has in this iteration ({wanted})"
                    )
                if request.position in self._open:
                    raise AllocatorError(f"requested {request} before its last request of that position was answered")
                rollouts[request.position] += request.count
            yield requests

    @property
    def _in_flight(self) -> bool:
        return bool(getattr(self.allocator, "in_flight", False))

    def _call(self, method: Callable[..., Any], *values: Any) -> Any:
        """What a method of the allocator returns. Raises AllocatorError for an exception that is none of ours."""
        try:
            return method(*values)
        except OnedialError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise AllocatorError(f"raised {type(error).__name__}: {reason}") from error

    def _submit(self, iteration: int, request: RolloutRequest) -> None:
        """Opens a request: of the engine, or answered at once by what an interrupted run generated."""
        prompt = self.draw(request.position)
        blank = Group(prompt, (), iteration, request.position, self.text.encode(prompt))
        indices = range(request.first, request.first + request.count)
        known = self.finished_groups.get(blank.id)
        parts = () if known is None else tuple(r for r in known.rollouts if r.index in indices)
        if known is not None and len(parts) == request.count:
            group = replace(blank, rollouts=parts, iteration=known.iteration)
            self._open[request.position] = _Open(request, group, list(parts), request.count, self._polls, known=True)
            return
        path = (self.seed, "rollout", iteration, request.position, prompt.id)
        seeds = tuple(derive_seed(*path, index) for index in indices)
        try:
            self.engine.submit(Request(request.position, blank.prompt_tokens, seeds, self.sampling))
        except DataError as error:
            raise DataError(f"{locate_prompt(prompt)}: {error}") from error
        self._open[request.position] = _Open(request, blank)

    def _answered(self) -> list[_Open]:
        """Generates and judges until requests can be answered, and takes these from the open ones, in their order.

        Between rounds all are answered together. In flight a request is answered `VERDICT_TOKENS` polls of the engine
        after its last completion ended, whenever its verdicts came, so that what is decided never depends on timing.
        """
        while not (due := self._due()):
            self._generate()
        while not all(request.judged for request in due):
            self._judge(wait=True)
        for request in due:
            del self._open[request.request.position]
        return due

    def _finish_open(self) -> list[Group]:
        """The groups of all open requests, once these are generated and judged."""
        while self.engine.pending:
            self._generate()
        return [request.group for request in self._answered()] if self._open else []

    def _due(self) -> list[_Open]:
        """The open requests to answer now: all once nothing is left to generate, before that only in flight."""
        if not self.engine.pending:
            return list(self._open.values())
        if not self._in_flight:
            return []
        return [request for request in self._open.values() if request.due is not None and request.due <= self._polls]

    def _generate(self) -> None:
        """One poll of the engine; what finished goes to the verifiers."""
        for row in self.engine.poll():
            open_request = self._open[row.key]
            text = self.text.decode(row.completion.token_ids)
            key = (row.key, open_request.request.first + row.index)
            self._written[key] = (*key, replace(row.completion, text=text))
            self.verifiers.submit(key, open_request.blank.prompt, text, row.completion.token_ids)
            open_request.finished += 1
            if open_request.finished == open_request.request.count:
                open_request.due = self._polls + VERDICT_TOKENS
        self._polls += 1
        self.progress("generate", len(self._written), len(self._written) + self.engine.pending)
        self._judge(wait=False)

    def _judge(self, *, wait: bool) -> None:
        """Takes the verdicts that have come; with `wait`, after a moment that is booked as waiting."""
        started = time.perf_counter()
        if wait:
            time.sleep(0.001)
            written = len(self._written)
            self.progress("verify", written - self.verifiers.pending, written + self.engine.pending)
        for judged, verdict in self.verifiers.poll():
            position, index, completion = self._written[judged]
            self._open[position].rollouts.append(Rollout(index, completion, verdict))
        if wait:
            self._waited += time.perf_counter() - started
