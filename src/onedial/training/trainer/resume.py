"""Resuming: a run goes on from its newest checkpoint, and rollouts generated after it are not generated again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onedial.core.errors import RunDirError
from onedial.core.run_log import cut_json_lines, read_groups, read_json_lines, rollout_file
from onedial.core.settings_file import write_run
from onedial.core.types import Group
from onedial.training.trainer import checkpoint
from onedial.training.trainer.open_run import Trainer


def restore(trainer: Trainer) -> None:
    """Puts the run's newest checkpoint into the trainer, and drops log lines of iterations that are done again.

    Raises RunDirError when all iterations are completed, CheckpointError for a damaged checkpoint.
    """
    directory, models = trainer.run.directory, trainer.models
    stored = checkpoint.latest(directory)
    if stored is not None:
        state = checkpoint.load(stored, models.policy, models.critic)
        trainer.iteration, trainer.step, trainer.train_s = state["iteration"], state["step"], state["train_s"]
        surplus = _surplus_groups(trainer, state["collector"].get("carried", []))
        trainer.collector.restore(state["collector"], surplus)
        models.engine.load_weights(models.policy.model, trainer.step)
    if trainer.iteration >= trainer.run.iterations and not _evaluation_is_missing(trainer):
        raise RunDirError(
            f"{directory}: all {trainer.run.iterations} iterations are done; to go on, add --iterations N with "
            f"N > {trainer.run.iterations}"
        )
    write_run(trainer.asked, trainer.run)  # the next resume goes on with what this one changed
    for name in ("metrics.jsonl", "eval.jsonl"):
        if (directory / name).exists():
            cut_json_lines(directory / name, trainer.iteration)
    trainer.collector.finished_groups = _groups_after(trainer)
    count = len(trainer.collector.finished_groups)
    reused = f"; {count} groups already generated are reused" if trainer.run.algorithm.generates else ""
    trainer.view.note(f"resuming after iteration {trainer.iteration}{reused}")


def _groups_after(trainer: Trainer) -> dict[str, Group]:
    """The groups on disk of the iterations after the checkpoint, by id."""
    groups: dict[str, Group] = {}
    iteration = trainer.iteration + 1
    while (path := rollout_file(trainer.run.directory, iteration)).exists():
        groups.update(read_groups(path))
        iteration += 1
    return groups


def _evaluation_is_missing(trainer: Trainer) -> bool:
    """Whether the run was killed after its last iteration and before its last evaluation."""
    run = trainer.run
    last = [r for r in read_json_lines(run.directory / "eval.jsonl") if r["iteration"] == run.iterations]
    return run.eval_prompts > 0 and trainer.iteration == run.iterations and not last


def _surplus_groups(trainer: Trainer, names: Sequence[Sequence[Any]]) -> list[Group]:
    """Groups that wait for their update, from the rollouts on disk, with their prompts drawn again from the task."""
    groups = []
    for iteration, name in names:
        group = read_groups(rollout_file(trainer.run.directory, iteration))[name]
        prompt = trainer.task.draw("train", trainer.run.seed, group.position)
        tokens = trainer.models.text.encode(prompt)
        groups.append(Group(prompt, group.rollouts, iteration, group.position, tokens))
    return groups
