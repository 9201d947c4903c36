"""Allocators decide which prompts get rollouts in an iteration, and which of the groups are used for training.

The table of allocators is `onedial.core.allocator_table`; the two that need no belief are here. An allocator requests
rollouts in rounds. The collector answers a round only when every group of it is judged, so the next round depends on
results and never on timing, and a run can be repeated and resumed exactly.

An allocator with `in_flight = True` is answered request by request while others decode, and asked again at once. What
it requests of a prompt must depend on that prompt's rollouts alone, so that a resumed run decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from onedial.core.errors import AllocatorError
from onedial.core.types import Group

Status = Literal["trained", "silent", "carried", "unusable", "left"]


@dataclass(frozen=True)
class RolloutRequest:
    """A request for `count` rollouts of the prompt at `position` of the task's stream.

    `first` is the index of the first of them: the number of rollouts that earlier rounds of the iteration got for the
    prompt.
    """

    position: int
    count: int
    first: int = 0


@dataclass(frozen=True)
class Expectation:
    """What an allocator expected of a group before it was sampled, and how that affects its usable rollouts.

    believed    the solve rate believed before the first rollout; None without a belief
    audit       whether the prompt was drawn uniformly, so that it can check the belief
    baselines   one per usable rollout, for rows with baseline='posterior'
    weights     factors of their advantages; None: 1 each
    """

    believed: float | None = None
    audit: bool = False
    baselines: tuple[float, ...] = ()
    weights: tuple[float, ...] | None = None


@dataclass
class Allocation:
    """The outcome of an iteration: groups to train on, and the status of every group generated in it, by id.

    `carried_in` is the number of groups in `train` that earlier iterations generated, `surplus` are mixed groups that
    wait for a later iteration. `exhausted`: the refill limit was reached before the batch was full. `expectations` are
    by group id, empty if the allocator expects nothing. `figures` are metrics of the allocator (`metrics.METRICS`).
    """

    train: list[Group]
    statuses: dict[str, Status]
    carried_in: int = 0
    exhausted: bool = False
    surplus: int = 0
    expectations: Mapping[str, Expectation] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


def check_allocation(allocation: Allocation, generated: Collection[str], *, needs_belief: bool) -> None:
    """Raises AllocatorError where the loss could not use an allocation, or a group of `generated` ids has no status.

    `needs_belief`: the row has baseline='posterior'.
    """
    if missing := [name for name in generated if name not in allocation.statuses]:
        raise AllocatorError(
            f"gave {len(missing)} of {len(generated)} generated groups no status, first {missing[0]!r}"
        )
    weighted = any(expectation.weights is not None for expectation in allocation.expectations.values())
    for group in allocation.train:
        known, usable = allocation.expectations.get(group.id, Expectation()), len(group.usable)
        if needs_belief and len(known.baselines) != usable:
            raise AllocatorError(
                f"gave {len(known.baselines)} baselines for the {usable} usable rollouts of group {group.id!r}; "
                "baseline='posterior' needs one of each, in Allocation.expectations"
            )
        if weighted and len(known.weights or ()) != usable:
            raise AllocatorError(
                f"gave {len(known.weights or ())} weights for the {usable} usable rollouts of group {group.id!r}; "
                "weigh every rollout that trains, or none"
            )


class PromptSchedule(Protocol):
    """The order of prompts and the rollouts per prompt, as a pure function of the position in the data."""

    def next(self, position: int, count: int) -> tuple[list[RolloutRequest], int]:
        """The next `count` groups from a position on, and the position after the last one."""
        ...


@dataclass(frozen=True)
class UniformSchedule:
    """Every prompt of the stream in turn, with the same number of rollouts."""

    group_size: int

    def next(self, position: int, count: int) -> tuple[list[RolloutRequest], int]:
        """`count` neighboring positions."""
        return [RolloutRequest(position + i, self.group_size) for i in range(count)], position + count


class Allocator(Protocol):
    """Decides what to sample and what to train on. `state` returns everything that a resumed run needs."""

    def start(self, iteration: int) -> None:
        """Begins an iteration."""
        ...

    def ask(self) -> list[RolloutRequest]:
        """The next round of requests; empty when the iteration needs no more rollouts."""
        ...

    def answer(self, groups: Sequence[Group]) -> None:
        """Takes the judged groups of the last round, in the order of the requests."""
        ...

    def finish(self) -> Allocation:
        """Closes the iteration."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON values for `restore`."""
        ...

    def restore(self, state: dict[str, Any], surplus: Sequence[Group]) -> None:
        """Takes a saved state and the surplus groups that it names."""
        ...


@dataclass
class Fixed:
    """Every iteration samples the next prompts once and trains on what the row keeps."""

    prompts: int
    schedule: PromptSchedule
    keep_mixed: bool = False
    position: int = 0
    _groups: list[Group] | None = field(default=None, repr=False)

    def start(self, iteration: int) -> None:
        self._groups = None

    def ask(self) -> list[RolloutRequest]:
        if self._groups is not None:
            return []
        requests, self.position = self.schedule.next(self.position, self.prompts)
        return requests

    def answer(self, groups: Sequence[Group]) -> None:
        self._groups = list(groups)

    def finish(self) -> Allocation:
        groups = self._groups or []
        statuses: dict[str, Status] = {group.id: decide_status(group, self.keep_mixed) for group in groups}
        return Allocation([group for group in groups if statuses[group.id] == "trained"], statuses)

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any], surplus: Sequence[Group]) -> None:
        self.position = int(state["position"])


@dataclass
class Dynamic:
    """DAPO's dynamic sampling (arXiv:2503.14476, §3.2): mixed groups only, refilled until the batch is full.

    The paper leaves some cases open; here no generated rollout is lost. Refilling is bounded by `limit` times the
    batch. Mixed groups beyond the batch are surplus and are used in the next iteration, oldest first. If the bound is
    reached, `on_exhausted` decides: "train" trains on the smaller batch, "carry" keeps everything for the next
    iteration and skips the update, and with "stop" nothing is trained and the trainer ends the run once the rollouts
    are saved.
    """

    prompts: int
    schedule: PromptSchedule
    limit: float = 6.0
    on_exhausted: str = "train"
    position: int = 0
    mixed_rate: float = 0.5  # running share of mixed groups; sizes the rounds, decides nothing else
    surplus: list[Group] = field(default_factory=list)
    _asked: int = 0
    _statuses: dict[str, Status] = field(default_factory=dict, repr=False)
    _carried_ids: frozenset[str] = frozenset()

    def start(self, iteration: int) -> None:
        self._asked, self._statuses = 0, {}
        self._carried_ids = frozenset(group.id for group in self.surplus)

    def ask(self) -> list[RolloutRequest]:
        missing = self.prompts - len(self.surplus)
        room = int(self.limit * self.prompts) - self._asked
        if missing <= 0 or room <= 0:
            return []
        # The first round takes the batch as it is; later ones expect the share seen so far to be mixed.
        wanted = missing if self._asked == 0 else math.ceil(missing / max(self.mixed_rate, 0.1))
        count = min(wanted, room, 2 * self.prompts)
        requests, self.position = self.schedule.next(self.position, count)
        self._asked += count
        return requests

    def answer(self, groups: Sequence[Group]) -> None:
        for group in groups:
            status = decide_status(group, keep_mixed=True)
            self._statuses[group.id] = "carried" if status == "trained" else status
            if status == "trained":
                self.surplus.append(group)
            self.mixed_rate += 0.05 * ((status == "trained") - self.mixed_rate)

    def finish(self) -> Allocation:
        exhausted = len(self.surplus) < self.prompts
        take = 0 if exhausted and self.on_exhausted != "train" else self.prompts
        train, self.surplus = self.surplus[:take], self.surplus[take:]
        for group in train:
            if group.id in self._statuses:
                self._statuses[group.id] = "trained"
        carried_in = sum(group.id in self._carried_ids for group in train)
        return Allocation(train, self._statuses, carried_in, exhausted, len(self.surplus))

    def state(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "mixed_rate": self.mixed_rate,
            "carried": [[group.iteration, group.id] for group in self.surplus],
        }

    def restore(self, state: dict[str, Any], surplus: Sequence[Group]) -> None:
        self.position = int(state["position"])
        self.mixed_rate = float(state["mixed_rate"])
        self.surplus = list(surplus)


def decide_status(group: Group, keep_mixed: bool) -> Status:
    """ "unusable" without a usable verdict, "silent" if all rewards agree and keep='mixed', otherwise "trained"."""
    if not group.usable:
        return "unusable"
    return "trained" if group.mixed or not keep_mixed else "silent"


def join_rounds(groups: Iterable[Group]) -> list[Group]:
    """The groups with all rollouts from all rounds of an iteration, in the order of their first round."""
    joined: dict[str, Group] = {}
    for group in groups:
        known = joined.get(group.id)
        joined[group.id] = group if known is None else replace(known, rollouts=(*known.rollouts, *group.rollouts))
    return list(joined.values())
