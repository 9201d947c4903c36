"""A plan in training: which prompts are sampled, and how many rollouts each gets, read from a plan file.

`onedial plan LOG --budget N --export onedial:plan.json` writes the file, `onedial train --plan plan.json` reads it. The
plan decides only which rollouts are requested; the algorithm row still decides which groups are used for training, and
whether the batch is refilled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from onedial.core.errors import ConfigError
from onedial.core.plan_file import PlanFile
from onedial.core.types import Prompt
from onedial.training.budget.allocation import RolloutRequest
from onedial.training.tasks.task import TaskSource


@dataclass(frozen=True)
class PlanSchedule:
    """The funded prompts in the order in which the task draws them, a new order each epoch, each with its own number of
    tries.

    `prompts` is the length of the task's epoch, `identify` gives the id of the prompt at a position. Both are pure
    functions, so only the position has to be saved.
    """

    prompts: int
    identify: Callable[[int], str]
    tries: Mapping[str, int]
    revisit: tuple[str, ...] = ()
    audit_prompts: int = 0
    group_size: int = 8
    seed: int = 0
    _audited: dict[int, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def next(self, position: int, count: int) -> tuple[list[RolloutRequest], int]:
        """The next `count` groups from a position on, and the position after the last."""
        asks: list[RolloutRequest] = []
        while len(asks) < count:
            tries = self._tries_at(position)
            if tries:
                asks.append(RolloutRequest(position, tries))
            position += 1
        return asks, position

    def _tries_at(self, position: int) -> int:
        prompt, epoch = self.identify(position), position // self.prompts
        if prompt in self.tries or not self.audit_prompts:
            return self.tries.get(prompt, 0)
        if epoch not in self._audited:
            drawn = Random(f"plan/{self.seed}/epoch{epoch}").sample(self.revisit, self.audit_prompts)
            self._audited.clear()
            self._audited[epoch] = frozenset(drawn)
        return self.group_size if prompt in self._audited[epoch] else 0

    @property
    def note(self) -> str:
        """A description of one epoch of the plan, in words."""
        audits = f" and {self.audit_prompts:,} second looks" if self.audit_prompts else ""
        rollouts = sum(self.tries.values()) + self.audit_prompts * self.group_size
        left = self.prompts - len(self.tries) - len(self.revisit)
        rest = f"; {left:,} other prompts of the task are not sampled" if left > 0 else ""
        return f"plan: {len(self.tries):,} prompts{audits} an epoch, {rollouts:,} rollouts{rest}"


def follow_plan(plan: PlanFile, task: TaskSource, seed: int, *, where: str) -> PlanSchedule:
    """The schedule of a plan on a task: prompts are found by id, else by their text (rendered, or the bare question).

    Raises ConfigError if the task is endless or has none of the planned prompts; `where` names the file.
    """
    size = task.size("train")
    if size is None:
        raise ConfigError(
            f"plan={where!r}: task {task.name!r} makes its prompts as it goes, so planned ones cannot be looked up. "
            "Train on them as data instead: onedial plan LOG --budget N --export trl:next.jsonl, then --task next.jsonl"
        )
    own = {name: name for name in (*plan.tries, *plan.revisit)}
    by_text = {text: name for name, text in plan.texts.items()}

    def name_of(prompt: Prompt) -> str | None:
        texts = (prompt.plain, str(prompt.meta.get("split_key")))
        return own.get(prompt.id) or next((by_text[text] for text in texts if text in by_text), None)

    names = {prompt.id: name_of(prompt) for prompt in (task.draw("train", seed, i) for i in range(size))}
    found = {prompt: name for prompt, name in names.items() if name is not None}
    tries = {prompt: plan.tries[name] for prompt, name in found.items() if name in plan.tries}
    revisit = tuple(sorted(prompt for prompt, name in found.items() if name not in plan.tries))
    if not tries:
        raise ConfigError(
            f"plan={where!r}: none of its {len(plan.tries):,} funded prompts is among the {size:,} training prompts of "
            f"task {task.name!r}. Plan from a log of this task, or give the task whose prompts the log holds"
        )
    share = len(revisit) / len(plan.revisit) if plan.revisit else 0.0
    return PlanSchedule(
        prompts=size,
        identify=lambda position: task.draw("train", seed, position).id,
        tries=tries,
        revisit=revisit,
        audit_prompts=min(len(revisit), round(plan.audit_prompts * share)),
        group_size=plan.group_size,
        seed=seed,
    )
