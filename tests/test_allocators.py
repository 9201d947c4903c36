"""Which groups train, which wait, and that no paid group is ever lost."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onedial.core.allocator_table import ALLOCATORS, change_allocator
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocation import Allocation, Dynamic, Fixed, UniformSchedule, decide_status
from onedial.training.budget.sequential import Sequential
from onedial.training.rollout.collector import AllocatorFailed, Collector
from onedial.training.rollout.engine import Finished, Request, Sampling

KINDS = {"right": [1.0, 1.0], "wrong": [0.0, 0.0], "mixed": [1.0, 0.0], "failed": []}


def group(position: int, kind: str, iteration: int = 0) -> Group:
    done = Completion((5, 0), (-0.1, -0.2), "stop")
    judged = [Verdict(reward, correct=reward > 0) for reward in KINDS[kind]]
    if kind == "failed":
        judged = [Verdict(0.0, outcome="timeout")] * 2
    rollouts = tuple(Rollout(index, done, verdict) for index, verdict in enumerate(judged))
    return Group(Prompt(f"p{position}"), rollouts, iteration, position)


def play(allocator: Any, kinds: Sequence[str], iterations: int) -> tuple[list[Allocation], list[Group]]:
    """Runs an allocator against a stream in which position i is of kind kinds[i mod n]."""
    allocations, generated = [], []
    for iteration in range(iterations):
        allocator.start(iteration)
        while asks := allocator.ask():
            answers = [group(ask.position, kinds[ask.position % len(kinds)], iteration) for ask in asks]
            generated.extend(answers)
            allocator.answer(answers)
        allocations.append(allocator.finish())
    return allocations, generated


def test_fixed_takes_the_next_prompts_and_keeps_what_the_row_keeps() -> None:
    """Hand value: four prompts of every kind; keep='all' trains three, keep='mixed' one."""
    for keep_mixed, trained in ((False, {"p0", "p1", "p2"}), (True, {"p2"})):
        (first, second), _ = play(Fixed(4, UniformSchedule(2), keep_mixed), ["right", "wrong", "mixed", "failed"], 2)
        assert {g.prompt.text for g in first.train} == trained
        assert {g.position for g in second.train} == {int(name[1]) + 4 for name in trained}
        assert Counter(first.statuses.values())["unusable"] == 1


def test_dynamic_fills_the_batch_and_keeps_the_surplus() -> None:
    """Hand value: with every second group mixed, a batch of 3 asks 3, finds 2 mixed, asks on, and the surplus waits."""
    allocator = Dynamic(3, UniformSchedule(2), limit=10)
    (first, second), generated = play(allocator, ["mixed", "right"], 2)
    assert [g.position for g in first.train] == [0, 2, 4]
    trained = [g.position for a in (first, second) for g in a.train]
    assert trained == sorted(trained), "oldest first"
    assert second.carried_in == sum(g.iteration == 0 for g in second.train)
    assert len(generated) < 14


@settings(max_examples=200, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=30),
    prompts=st.integers(1, 6),
    limit=st.floats(1, 8),
    policy=st.sampled_from(["train", "carry"]),
    iterations=st.integers(1, 6),
)
def test_no_mixed_group_is_lost_and_refilling_is_bounded(
    kinds: list[str], prompts: int, limit: float, policy: str, iterations: int
) -> None:
    """Invariance (verl 953, 1108; OpenRLHF 1310): trained once or waiting, never dropped; asks are bounded."""
    allocator = Dynamic(prompts, UniformSchedule(2), limit, policy)
    allocations, generated = play(allocator, kinds, iterations)
    trained = [g.id for a in allocations for g in a.train]
    waiting = [g.id for g in allocator.surplus]
    mixed = [g.id for g in generated if g.mixed]
    assert sorted(trained + waiting) == sorted(mixed), "every mixed group trains exactly once or waits"
    assert all(len(a.train) <= prompts for a in allocations)
    assert Counter(g.iteration for g in generated).most_common(1)[0][1] <= max(int(limit * prompts), 1)
    for iteration, allocation in enumerate(allocations):
        assert set(allocation.statuses) == {g.id for g in generated if g.iteration == iteration}, (
            "each is accounted for"
        )
        assert allocation.exhausted == (len(allocation.train) < prompts or (policy == "carry" and not allocation.train))


def test_rounds_are_sized_by_the_share_of_mixed_groups_seen() -> None:
    """Hand values: the batch itself first; then what is missing over the running share, within the bounds."""
    allocator = Dynamic(10, UniformSchedule(2), limit=6)
    allocator.start(0)

    def play_round(mixed: int) -> int:
        asks = allocator.ask()
        allocator.answer([group(a.position, "mixed" if i < mixed else "wrong") for i, a in enumerate(asks)])
        return len(asks)

    assert play_round(mixed=4) == 10
    rate = 0.5
    for kind in (1, 1, 1, 1, 0, 0, 0, 0, 0, 0):
        rate += 0.05 * (kind - rate)
    assert allocator.mixed_rate == pytest.approx(rate) and play_round(mixed=0) == math.ceil(6 / rate)
    allocator.mixed_rate = 0.01
    assert play_round(mixed=0) == 20, "a tenth at least is expected to be mixed, twice the batch is the most"
    allocator.mixed_rate = 0.3
    assert play_round(mixed=0) == 60 - 10 - math.ceil(6 / rate) - 20, "six times the batch in all"
    assert allocator.ask() == [] and allocator.finish().exhausted


def test_a_full_surplus_asks_for_nothing() -> None:
    allocator = Dynamic(2, UniformSchedule(2))
    allocator.surplus = [group(position, "mixed") for position in range(2)]
    allocator.start(1)
    assert allocator.ask() == [] and allocator.position == 0
    allocation = allocator.finish()
    assert not allocation.exhausted and allocation.carried_in == 2 and allocation.surplus == 0


def test_stopping_keeps_every_group() -> None:
    """B1. Oracle: by hand: of 8 prompts every fourth is mixed: 2 of 4 wanted, so nothing trains and both wait."""
    allocator = Dynamic(4, UniformSchedule(2), limit=2, on_exhausted="stop")
    (allocation,), _ = play(allocator, ["wrong", "wrong", "right", "mixed"], 1)
    assert allocation.exhausted and allocation.train == [] and allocation.surplus == 2
    assert Counter(allocation.statuses.values()) == {"silent": 6, "carried": 2}
    assert [group.position for group in allocator.surplus] == [3, 7]


def test_state_survives_json() -> None:
    """Invariance: an allocator restored between iterations decides as the one that went on."""
    kinds = ["mixed", "right", "mixed", "mixed", "wrong", "mixed", "mixed"]
    first = Dynamic(2, UniformSchedule(2))
    play(first, kinds, 3)
    second = Dynamic(2, UniformSchedule(2))
    second.restore(json.loads(json.dumps(first.state())), first.surplus)
    assert [[g.id for g in a.train] for a in play(first, kinds, 3)[0]] == [
        [g.id for g in a.train] for a in play(second, kinds, 3)[0]
    ]


def test_unanimity_is_of_outcomes_not_of_rounding() -> None:
    """Named bugs: float unanimity and a mean inside (0, 1) (peers C4, C6): equal rewards are silent at any value."""
    third = Rollout(0, Completion((1,), (0.0,), "stop"), Verdict(0.1 + 0.2, correct=None))
    same = Group(Prompt("p"), (third,) * 7)
    assert not same.mixed and decide_status(same, keep_mixed=True) == "silent"
    negative = Group(Prompt("p"), (third, Rollout(1, third.completion, Verdict(-1.0, correct=False))))
    assert negative.mixed


class ScriptedEngine:
    """Finishes rows in a scrambled order; writes each row's position and index as its tokens."""

    version = 0

    def __init__(self) -> None:
        self.rows: list[tuple[Request, int]] = []

    def submit(self, request: Request) -> None:
        self.rows.extend((request, index) for index in range(len(request.seeds)))
        self.rows.sort(key=lambda row: row[0].seeds[row[1]])

    @property
    def pending(self) -> int:
        return len(self.rows)

    def poll(self) -> list[Finished]:
        request, index = self.rows.pop()
        return [Finished(request.key, index, Completion((request.key, index), (0.0, 0.0), "stop"))]

    def load_weights(self, model: Any, version: int) -> None: ...


class LateJudge:
    """Judges in the opposite order, some polls late; a row is right when its index is odd."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.polls = 0

    def submit(self, key: Any, prompt: Prompt, completion: str, token_ids: Sequence[int] = ()) -> None:
        self.waiting.append((key, Verdict(float(key[1] % 2), correct=bool(key[1] % 2), answer=prompt.text)))

    def poll(self) -> list[Any]:
        self.polls += 1
        return [self.waiting.pop()] if self.polls % 3 == 0 and self.waiting else []

    @property
    def pending(self) -> int:
        return len(self.waiting)


class Letters:
    """Tokens are code points."""

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(map(ord, prompt.text))

    def decode(self, tokens: Sequence[int]) -> str:
        return ",".join(map(str, tokens))


def collector(allocator: Any, **options: Any) -> Collector:
    prompts = [Prompt(f"prompt {position % 3}") for position in range(50)]  # the same prompt is drawn again and again
    return Collector(
        ScriptedEngine(), Letters(), LateJudge(), allocator, prompts.__getitem__, Sampling(), seed=3, **options
    )


def test_rows_find_their_group_whatever_finishes_first() -> None:
    """Named bug: rows regrouped across prompts (open-instruct 1794, slime 1415). Order of finishing changes nothing."""
    collected = collector(Fixed(5, UniformSchedule(4))).collect(iteration=2)
    assert [g.position for g in collected.groups] == list(range(5))
    assert len({g.id for g in collected.groups}) == 5, "a prompt drawn twice makes two groups"
    for g in collected.groups:
        assert [r.index for r in g.rollouts] == [0, 1, 2, 3]
        assert all(r.completion.token_ids == (g.position, r.index) for r in g.rollouts)
        assert all(r.verdict.answer == g.prompt.text for r in g.rollouts)
        assert g.rewards == [0.0, 1.0, 0.0, 1.0] and g.iteration == 2


def test_the_same_prompt_drawn_twice_gets_other_randomness() -> None:
    """Seed paths hold the position: two groups of one prompt are not copies of each other."""
    seen: list[int] = []

    class Recording(ScriptedEngine):
        def submit(self, request: Request) -> None:
            seen.extend(request.seeds)
            super().submit(request)

    gatherer = collector(Fixed(6, UniformSchedule(4)))
    gatherer.engine = Recording()
    gatherer.collect(iteration=1)
    assert len(set(seen)) == 24


def test_recorded_groups_are_not_asked_of_the_engine() -> None:
    """A record of some groups is used as it is; the rest is generated; the answer is the same."""
    whole = collector(Fixed(5, UniformSchedule(4))).collect(iteration=1)
    record = {g.id: g for g in whole.groups[1:4]}
    again = collector(Fixed(5, UniformSchedule(4)), finished_groups=record).collect(iteration=1)
    assert again.reused == 3 and again.groups == whole.groups


def test_a_finished_group_of_another_size_is_not_used() -> None:
    """S18. Oracle: a group recorded with two of four rollouts is generated anew and equals the uninterrupted one."""
    whole = collector(Fixed(3, UniformSchedule(4))).collect(iteration=1)
    short = replace(whole.groups[1], rollouts=whole.groups[1].rollouts[:2])
    again = collector(Fixed(3, UniformSchedule(4)), finished_groups={short.id: short}).collect(iteration=1)
    assert again.reused == 0
    assert [g.rollouts for g in again.groups] == [g.rollouts for g in whole.groups]


class Pauses(Fixed):
    """Requests a group in the first of eleven iterations; nothing, and trains nothing, in the other ten."""

    iteration = 0

    def start(self, iteration: int) -> None:
        self.iteration = iteration
        super().start(iteration)

    def ask(self) -> list[Any]:
        return super().ask() if self.iteration % 11 == 0 else []


def test_ten_idle_iterations_in_a_row_end_a_run_and_nine_do_not() -> None:
    gatherer = collector(Pauses(1, UniformSchedule(2)))
    counts = [len(gatherer.collect(iteration).groups) for iteration in [*range(10), 11, *range(12, 21)]]
    assert counts == [1, *[0] * 9, 1, *[0] * 9]
    with pytest.raises(AllocatorFailed, match="requested no rollouts and trained nothing for 10 iterations"):
        gatherer.collect(21)


class Clock:
    """Stands still unless told to move."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_for_verdicts_is_booked_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """B13. Oracle: hand values. 12 polls while the engine writes give 4 verdicts, 24 polls of waiting the other 8."""
    clock = Clock()
    monkeypatch.setattr("onedial.training.rollout.collector.time", clock)

    class SlowPolls(LateJudge):
        def poll(self) -> list[Any]:
            clock.sleep(0.01)
            return super().poll()

    collected = replace(collector(Fixed(4, UniformSchedule(3))), verifiers=SlowPolls()).collect(iteration=1)
    assert collected.generate_s == pytest.approx(12 * 0.01)
    assert collected.verify_wait_s == pytest.approx(24 * (0.01 + 0.001))


# --- in flight -----------------------------------------------------------------------------------------------------


class JudgeOf(LateJudge):
    """Right by chance, the same for the same rollout; each verdict comes after some polls, drawn from `delays`."""

    def __init__(self, delays: int) -> None:
        super().__init__()
        self.rng, self.delays = random.Random(1), delays

    def submit(self, key: Any, prompt: Prompt, completion: str, token_ids: Sequence[int] = ()) -> None:
        correct = random.Random(f"{key}").random() < 0.15 + 0.1 * (key[0] % 3)
        self.waiting.append([self.rng.randint(0, self.delays), key, Verdict(float(correct), correct=correct)])

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def poll(self) -> list[Any]:
        for entry in self.waiting:
            entry[0] -= 1
        ready = [entry for entry in self.waiting if entry[0] < 0]
        self.waiting = [entry for entry in self.waiting if entry[0] >= 0]
        return [(key, verdict) for _, key, verdict in ready]


class RaggedEngine(ScriptedEngine):
    """Four completions at a time, each of 1 to 40 tokens by its seed; notes at which poll each request came."""

    def __init__(self) -> None:
        super().__init__()
        self.polls, self.log = 0, []
        self.running: list[list[Any]] = []

    def submit(self, request: Request) -> None:
        self.log.append((self.polls, request.key, request.seeds))
        self.rows.extend((request, index) for index in range(len(request.seeds)))

    @property
    def pending(self) -> int:
        return len(self.rows) + len(self.running)

    def poll(self) -> list[Finished]:
        self.polls += 1
        while self.rows and len(self.running) < 4:
            request, index = self.rows.pop(0)
            self.running.append([1 + request.seeds[index] % 40, request, index])
        for row in self.running:
            row[0] -= 1
        ended = [row for row in self.running if not row[0]]
        self.running = [row for row in self.running if row[0]]
        return [Finished(q.key, i, Completion((q.key, i), (0.0, 0.0), "stop")) for _, q, i in ended]


def collect_in_flight(delays: int, *, in_flight: bool = True) -> tuple[Any, RaggedEngine]:
    row = change_allocator(ALLOCATORS["sequential"], {"rounds": 5, "round_size": 2, "kept": 2})
    allocator = Sequential(row, 12, seed=0, keep_mixed=True)
    allocator.in_flight = in_flight  # type: ignore[misc]
    gatherer = replace(collector(allocator), engine=(engine := RaggedEngine()), verifiers=JudgeOf(delays))
    return gatherer.collect(iteration=1), engine


def test_decisions_in_flight_never_depend_on_when_verdicts_come() -> None:
    """Invariance: the engine gets the same requests at the same polls, however late verifiers are; groups are equal."""
    runs = [collect_in_flight(delays) for delays in (0, 1, 7, 60)]
    first, engine = runs[0]
    assert len({position for _, position, _ in engine.log}) == 12 and len(engine.log) > 20
    for other, log in runs[1:]:
        assert log.log == engine.log and other.groups == first.groups
        assert other.allocation == first.allocation


def test_a_request_in_flight_does_not_wait_for_the_round() -> None:
    """Oracle: the same allocator between rounds draws the same rollouts, in more polls of the engine."""
    together, engine = collect_in_flight(3)
    by_rounds, waits = collect_in_flight(3, in_flight=False)
    assert {g.id: g.rollouts for g in together.groups} == {g.id: g.rollouts for g in by_rounds.groups}
    assert together.allocation == by_rounds.allocation
    assert engine.polls < 0.95 * waits.polls
    busy = [poll for poll, _, _ in engine.log if 0 < poll < engine.polls]
    assert len(set(busy)) > 4, "requests come while others decode"


def test_an_allocator_that_fails_in_flight_loses_no_rollout() -> None:
    """Named risk: completions under way when it raises. All that was requested is generated, judged and handed over."""

    class Breaks(Sequential):
        def answer(self, groups: Sequence[Group]) -> None:
            super().answer(groups)
            if len(self._groups) == 5:
                raise KeyError("no such prompt")

    row = change_allocator(ALLOCATORS["sequential"], {"rounds": 5, "round_size": 2, "kept": 2})
    gatherer = replace(
        collector(Breaks(row, 12, seed=0, keep_mixed=True)), engine=(engine := RaggedEngine()), verifiers=JudgeOf(2)
    )
    with pytest.raises(AllocatorFailed, match="iteration 1: allocator Breaks raised KeyError") as caught:
        gatherer.collect(iteration=1)
    paid = {g.position: len(g.rollouts) for g in caught.value.groups}
    requested = Counter(key for _, key, seeds in engine.log for _ in seeds)
    assert paid == requested and engine.pending == 0


def test_a_failing_engine_is_not_blamed_on_the_allocator() -> None:
    class Fails(ScriptedEngine):
        def poll(self) -> list[Finished]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        replace(collector(Fixed(2, UniformSchedule(2))), engine=Fails()).collect(iteration=1)
