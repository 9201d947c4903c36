"""Groups from a dataset instead of an engine: demonstrations (groups of one) and pairs (chosen, rejected).

The example at a data position is a pure function of the data, the seed and the position, as for prompts, so a run
resumes from its position alone. The data are used in a new random order each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onedial.core.errors import ConfigError, DataError
from onedial.core.settings import Run
from onedial.core.types import Completion, Group, Message, Prompt, Rollout, Verdict
from onedial.core.user_code import Trust
from onedial.training.budget.allocation import Allocation
from onedial.training.lm.text import Text
from onedial.training.rollout.collector import Collected
from onedial.training.tasks.demonstrations import (
    Written,
    hash_parts,
    read_demonstrations,
    read_preferences,
    refuse_examples,
)
from onedial.training.tasks.task import TaskSource, shuffle_numbers
from onedial.training.trainer.past_rollouts import make_past_demonstrations, make_past_pairs, read_past_groups


@dataclass(frozen=True)
class Examples:
    """The training examples of an offline row: `draw` gives the group at a data position; `digest` identifies the
    data."""

    draw: Callable[[int], Group]
    digest: str
    note: str


@dataclass
class OfflineCollector:
    """Takes the next groups of the data in each iteration, instead of a `Collector`, which generates rollouts."""

    examples: Examples
    groups: int
    position: int = 0
    finished_groups: Mapping[str, Group] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the data for the user."""
        return (self.examples.note,)

    def collect(self, iteration: int) -> Collected:
        """Returns the next groups; none of them is generated."""
        first = self.position
        self.position += self.groups
        groups = [
            replace(self.examples.draw(position), iteration=iteration, position=position)
            for position in range(first, self.position)
        ]
        return Collected(Allocation(groups, {}), [], 0.0, 0.0, 0)

    def state(self) -> dict[str, Any]:
        """Returns the state that `restore` takes, as JSON values."""
        return {"position": self.position, "digest": self.examples.digest}

    def restore(self, state: Mapping[str, Any], surplus: Sequence[Group]) -> None:
        """Restores a saved state. Raises DataError when the data are no longer those that the run began with."""
        if state["digest"] != self.examples.digest:
            raise DataError("the data have changed since this run began; restore them, or start another run on them")
        self.position = int(state["position"])


def open_examples(run: Run, task: TaskSource, text: Text, ends: Sequence[int], context: int) -> Examples:
    """Opens the examples that a run's algorithm and `data` ask for: a file, a run, or the task's own demonstrations.

    Raises ConfigError if there is nothing to train on, DataError for data that cannot be used.
    """
    pairs = run.algorithm.source == "pairs"
    if not run.data and pairs:
        raise ConfigError(
            f"algorithm {run.algorithm.name!r} trains on pairs: give --data FILE with the columns prompt, chosen and "
            "rejected, or --from RUN to make them of the mixed groups of a run"
        )
    if not run.data:
        return _take_from_task(run, task, text, ends)
    if (Path(run.data) / "run.toml").is_file():
        # the file of that run holds only the name of a live task
        named = Trust(named={"task": {"name": run.task, **run.task_options}})  # what the settings of this run name
        past = read_past_groups(Path(run.data), text, None if isinstance(run.task, str) else task, trust=named)
        made = make_past_pairs(past, run.seed) if pairs else make_past_demonstrations(past)
        return _walk(made, run, hash_parts([_list_content(group) for group in made]))
    written = read_preferences(run.data) if pairs else read_demonstrations(run.data)
    refuse_long_written(written, text, ends, context)
    ready = _walk(written, run, hash_parts([[w.prompt.id, w.texts] for w in written]))
    asked = {_normalize(prompt) for prompt in task.heldout(run.eval_prompts, run.seed)} if run.eval_prompts else set()
    shared = sum(_normalize(example.prompt) in asked for example in written)
    note = ready.note + (f"; {shared} of them have a prompt that the evaluation asks" if shared else "")
    return replace(
        ready, draw=lambda position: group_completions(*_get_written(written, run, position), text, ends), note=note
    )


def _normalize(prompt: Prompt) -> str:
    return " ".join(prompt.plain.split())


def _take_from_task(run: Run, task: TaskSource, text: Text, ends: Sequence[int]) -> Examples:
    write = task.demonstrate
    if write is None:
        raise ConfigError(
            f"task {task.name!r} writes no demonstrations; give --data FILE with prompt and completion, messages or "
            "text, or --from RUN to learn from the correct rollouts of a run"
        )

    def draw(position: int) -> Group:
        prompt = task.draw("train", run.seed, position)
        return group_completions(prompt, (write(prompt),), text, ends)

    return Examples(draw, hash_parts([task.name]), f"demonstrations: written by the task {task.name}")


def _walk(items: Sequence[Any], run: Run, digest: str) -> Examples:
    kind = "pairs" if run.algorithm.source == "pairs" else "demonstrations"
    total = run.iterations * run.prompts_per_iteration
    note = f"{len(items)} {kind} from {run.data}; the run takes {total}, {total / len(items):.1f} epochs"
    return Examples(lambda position: items[_index(len(items), run, position)], digest, note)


def _index(count: int, run: Run, position: int) -> int:
    epoch, step = divmod(position, count)
    return shuffle_numbers(f"data/{run.seed}/epoch{epoch}", count)[step]


def _get_written(written: Sequence[Written], run: Run, position: int) -> tuple[Prompt, tuple[str | Message, ...]]:
    example = written[_index(len(written), run, position)]
    return example.prompt, example.completions


def group_completions(prompt: Prompt, completions: Sequence[str | Message], text: Text, ends: Sequence[int]) -> Group:
    """Returns a group of one demonstration, or of a chosen and a rejected completion."""
    rollouts = []
    read: tuple[int, ...] = ()
    for index, completion in enumerate(completions):
        read, tokens = text.encode_written(prompt, completion, ends)
        correct = index == 0
        verdict = Verdict(float(correct), correct=correct, outcome="correct" if correct else "wrong")
        rollouts.append(Rollout(index, Completion(tokens, (), "stop"), verdict))
    return Group(prompt, tuple(rollouts), prompt_tokens=read)


def refuse_long_written(written: Sequence[Written], text: Text, ends: Sequence[int], context: int) -> None:
    """Raises DataError counting the examples of more than `context` tokens, and naming the first.

    Only examples that may be too long are encoded: a token takes at least a byte, and templates add few tokens.
    """
    added: int | None = None
    long = []
    for example in written:
        words = len(example.prompt.plain.encode()) + max(len(words.encode()) for words in example.texts)
        if added is None or words + added > context:
            group = group_completions(example.prompt, example.completions, text, ends)
            tokens = len(group.prompt_tokens) + max(len(r.completion.token_ids) for r in group.rollouts)
            added = tokens if added is None else added
            if tokens > context:
                long.append(f"{example.place}: {tokens} tokens")
    if long:
        raise refuse_examples(
            f"exceed the model's context of {context} tokens", long, len(written), "shorten or remove them"
        )


def _list_content(group: Group) -> list[Any]:
    return [group.prompt.id, [list(rollout.completion.token_ids) for rollout in group.rollouts]]
