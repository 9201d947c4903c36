"""Which prompts get rollouts, and which groups train: the allocator of an iteration.

An allocator asks in rounds. The collector answers a round only when every group of it is judged, so what is asked
next depends on results and never on timing, and a run can be repeated and resumed exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from onedial.core.errors import EngineError
from onedial.core.types import Group

Fate = Literal["trained", "silent", "carried", "unusable", "left"]


@dataclass(frozen=True)
class RolloutRequest:
    """`count` rollouts wanted of the prompt at `position` of the task's stream of draws."""

    position: int
    count: int


@dataclass
class Allocation:
    """The outcome of an iteration: groups to train on, and the fate of every group generated in it."""

    train: list[Group]
    fates: dict[str, Fate]
    carried_in: int = 0  # groups of `train` that earlier iterations had generated
    exhausted: bool = False


class PromptSchedule(Protocol):
    """Which prompts come next and how many rollouts each gets; a pure function of the position."""

    def next(self, position: int, count: int) -> tuple[list[RolloutRequest], int]:
        """The next `count` groups from a position on, and the position after the last."""
        ...


@dataclass(frozen=True)
class UniformSchedule:
    """Every prompt of the stream in turn, with the same number of rollouts."""

    group_size: int

    def next(self, position: int, count: int) -> tuple[list[RolloutRequest], int]:
        """`count` neighbouring positions."""
        return [RolloutRequest(position + i, self.group_size) for i in range(count)], position + count


class Allocator(Protocol):
    """Decides what to sample and what to train on. `state` holds everything a resumed run needs."""

    def start(self, iteration: int) -> None:
        """Begins an iteration."""
        ...

    def ask(self) -> list[RolloutRequest]:
        """The next round; empty when the iteration needs no more rollouts."""
        ...

    def answer(self, groups: Sequence[Group]) -> None:
        """Takes the judged groups of the last round, in the order asked."""
        ...

    def finish(self) -> Allocation:
        """Closes the iteration."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON values that `restore` takes."""
        ...

    def restore(self, state: dict[str, Any], carried: Sequence[Group]) -> None:
        """Takes a saved state and the groups it says were carried over."""
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
        asks, self.position = self.schedule.next(self.position, self.prompts)
        return asks

    def answer(self, groups: Sequence[Group]) -> None:
        self._groups = list(groups)

    def finish(self) -> Allocation:
        groups = self._groups or []
        fates: dict[str, Fate] = {group.id: fate_of(group, self.keep_mixed) for group in groups}
        return Allocation([group for group in groups if fates[group.id] == "trained"], fates)

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any], carried: Sequence[Group]) -> None:
        self.position = int(state["position"])


@dataclass
class Dynamic:
    """DAPO's dynamic sampling (arXiv:2503.14476, §3.2): mixed groups only, refilled until the batch is full.

    What the paper leaves open is settled so that no paid rollout is lost: refilling is bounded by `limit` times the
    batch; mixed groups beyond the batch wait for the next iteration, oldest first; when the bound is reached the
    `on_exhausted` policy says what happens: "train" on the smaller batch, "carry" everything over and skip the
    update, or "stop" with an error.
    """

    prompts: int
    schedule: PromptSchedule
    limit: float = 6.0
    on_exhausted: str = "train"
    position: int = 0
    mixed_rate: float = 0.5  # running share of mixed groups; sizes the rounds, decides nothing else
    carried: list[Group] = field(default_factory=list)
    _asked: int = 0
    _fates: dict[str, Fate] = field(default_factory=dict, repr=False)
    _carried_ids: frozenset[str] = frozenset()

    def start(self, iteration: int) -> None:
        self._asked, self._fates = 0, {}
        self._carried_ids = frozenset(group.id for group in self.carried)

    def ask(self) -> list[RolloutRequest]:
        missing = self.prompts - len(self.carried)
        room = int(self.limit * self.prompts) - self._asked
        if missing <= 0 or room <= 0:
            return []
        # The first round takes the batch as it is; later ones expect the share seen so far to be mixed.
        wanted = missing if self._asked == 0 else math.ceil(missing / max(self.mixed_rate, 0.1))
        count = min(wanted, room, 2 * self.prompts)
        asks, self.position = self.schedule.next(self.position, count)
        self._asked += count
        return asks

    def answer(self, groups: Sequence[Group]) -> None:
        for group in groups:
            fate = fate_of(group, keep_mixed=True)
            self._fates[group.id] = "carried" if fate == "trained" else fate
            if fate == "trained":
                self.carried.append(group)
            self.mixed_rate += 0.05 * ((fate == "trained") - self.mixed_rate)

    def finish(self) -> Allocation:
        exhausted = len(self.carried) < self.prompts
        if exhausted and self.on_exhausted == "stop":
            raise EngineError(
                f"{self._asked} prompts gave {len(self.carried)} mixed groups of the {self.prompts} wanted "
                f"(refill_limit={self.limit:g}). The prompts are too easy or too hard for this model: change the task, "
                "raise group_size or refill_limit, or set on_exhausted=train. The rollouts are saved in the run"
            )
        take = 0 if exhausted and self.on_exhausted == "carry" else self.prompts
        train, self.carried = self.carried[:take], self.carried[take:]
        for group in train:
            if group.id in self._fates:
                self._fates[group.id] = "trained"
        carried_in = sum(group.id in self._carried_ids for group in train)
        return Allocation(train, self._fates, carried_in, exhausted)

    def state(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "mixed_rate": self.mixed_rate,
            "carried": [[group.iteration, group.id] for group in self.carried],
        }

    def restore(self, state: dict[str, Any], carried: Sequence[Group]) -> None:
        self.position = int(state["position"])
        self.mixed_rate = float(state["mixed_rate"])
        self.carried = list(carried)


def fate_of(group: Group, keep_mixed: bool) -> Fate:
    """What becomes of a group: without a usable verdict it cannot train; unanimous ones do not under keep='mixed'."""
    if not group.usable:
        return "unusable"
    return "trained" if group.mixed or not keep_mixed else "silent"
