"""Training data from an earlier run: pairs from its mixed groups, and its correct rollouts as demonstrations.

Both are taken from the newer half of the run's iterations: earlier rollouts come from a policy that is far from the one
that starts here, with mistakes that it no longer makes.

A mixed group of k correct and w wrong rollouts gives min(PAIRS_PER_GROUP, max(k, w)) pairs. Both sides are shuffled by
the seed and used in turn: the rollouts of a side are used equally often (plus or minus one), no pair is used twice, and
the number of pairs of a group is limited, so that large groups do not dominate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from onedial.core.errors import ConfigError, DataError
from onedial.core.manifest import FOLDER_MANIFEST, check_folder, check_recorded
from onedial.core.run_log import read_groups
from onedial.core.settings_file import NO_TRUST, make_run, read_run_settings
from onedial.core.types import Group, Rollout
from onedial.core.user_code import Trust
from onedial.training.lm.text import Text
from onedial.training.tasks import TaskSource, open_task
from onedial.training.trainer import checkpoint
from onedial.training.trainer.checkpoint_checks import is_recorded

PAIRS_PER_GROUP = 8


def find_newest_model(directory: Path) -> str:
    """Returns the newest checkpoint of a run as a model to start from. Raises ConfigError when none is complete."""
    found = checkpoint.find_latest(directory)
    if found is None:
        raise ConfigError(f"{directory}: no checkpoint yet; let the run finish an iteration, or give --model")
    if (found / FOLDER_MANIFEST).is_file():
        check_folder(found)
    if not (found / "config.json").is_file():
        raise ConfigError(f"{found}: holds LoRA adapters alone; give --model with a folder of whole weights")
    return str(found)


def make_past_pairs(groups: Iterable[Group], seed: int) -> list[Group]:
    """Returns pairs of a chosen and a rejected rollout from every mixed group. Raises DataError if none is mixed."""
    pairs = [pair for group in groups if group.mixed for pair in make_pairs(group, seed)]
    if not pairs:
        raise DataError("no group of that run has right and wrong answers: there is nothing to prefer")
    return pairs


def make_past_demonstrations(groups: Iterable[Group]) -> list[Group]:
    """Returns every correct rollout as a group of one. Raises DataError when there is none."""
    found = [_only(group, (r,)) for group in groups for r in group.usable if r.verdict.correct]
    if not found:
        raise DataError("no rollout of that run was judged correct: there is nothing to imitate")
    return found


def make_pairs(group: Group, seed: int, limit: int = PAIRS_PER_GROUP) -> list[Group]:
    """Returns the pairs of a mixed group (see above).

    Where a verdict does not say what is correct, the rollouts with a reward above the mean are chosen.
    """
    right, wrong = _sides(group)
    if not right or not wrong:
        return []
    random = Random(f"pairs/{seed}/{group.id}")
    random.shuffle(right)
    random.shuffle(wrong)
    count = min(limit, max(len(right), len(wrong)))
    return [_only(group, (right[n % len(right)], wrong[n % len(wrong)])) for n in range(count)]


def _sides(group: Group) -> tuple[list[Rollout], list[Rollout]]:
    mean = sum(group.rewards) / len(group.rewards)
    judged = all(rollout.verdict.correct is not None for rollout in group.usable)
    good: Callable[[Rollout], bool] = (
        (lambda r: bool(r.verdict.correct)) if judged else (lambda r: r.verdict.reward > mean)
    )
    return [r for r in group.usable if good(r)], [r for r in group.usable if not good(r)]


def _only(group: Group, rollouts: tuple[Rollout, ...]) -> Group:
    """Returns rollouts as an example, the one to imitate first, without the old policy's log-probabilities."""
    marked = [
        replace(
            r,
            index=n,
            verdict=replace(r.verdict, correct=n == 0),
            completion=replace(r.completion, logps=(), unfiltered_logps=()),
        )
        for n, r in enumerate(rollouts)
    ]
    return replace(group, rollouts=tuple(marked))


def read_past_groups(
    directory: Path, text: Text, task: TaskSource | None = None, *, trust: Trust = NO_TRUST
) -> Iterator[Group]:
    """Reads the groups of a run's newer half in the order of its log.

    Their prompts are drawn again from the task of the run, or from `task`.

    Raises CheckpointError if a file is not as the run wrote it, and DataError if there are no rollouts, if the task no
    longer gives the logged prompts, or if `text`, the present tokenizer, is not the one of the run.
    """
    known = ("seed",) if task is not None else ("seed", "task")  # of a live task the file holds only the name
    run = make_run(read_run_settings(directory, trust=trust, only=known), where=f"{directory / 'run.toml'}: ")
    files = sorted((directory / "rollouts").glob("*.parquet"))
    if not files:
        raise DataError(f"{directory}: holds no rollouts (rollouts/*.parquet): nothing to learn from")
    task = task or open_task(run.task, **run.task_options)
    recorded = is_recorded(directory, checkpoint.find_latest(directory))
    for file in files[len(files) // 2 :]:
        if recorded:
            check_recorded(directory, str(file.relative_to(directory)))
        for group in read_groups(file).values():
            prompt = task.draw("train", run.seed, group.position)
            if prompt.plain != group.prompt.text:
                raise DataError(
                    f"{file}: at position {group.position} the task {run.task_name!r} now gives another prompt than "
                    "the one logged; its data or options have changed since that run"
                )
            if any(text.decode(r.completion.token_ids) != r.completion.text for r in group.rollouts[:1]):
                raise DataError(f"{directory}: its tokens are those of another tokenizer; use a model of the same kind")
            yield replace(group, prompt=prompt, prompt_tokens=text.encode(prompt))
