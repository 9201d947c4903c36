"""Resuming: a run continues from its newest checkpoint, and rollouts generated after it are not generated again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onedial.core.errors import CheckpointError, DataError, RunDirError
from onedial.core.manifest import check_recorded
from onedial.core.run_log import cut_json_lines, read_groups, read_json_lines, rollout_path
from onedial.core.settings_file import write_run
from onedial.core.types import Group
from onedial.training.trainer import checkpoint
from onedial.training.trainer.checkpoint_checks import check_checkpoint, is_recorded
from onedial.training.trainer.open_run import Trainer


def restore(trainer: Trainer) -> None:
    """Loads the run's newest checkpoint into the trainer, and removes log lines of iterations that are repeated.

    Raises RunDirError if all iterations are completed, and CheckpointError for a damaged file; both say how to
    continue.
    """
    directory = trainer.run.directory
    stored = checkpoint.find_latest(directory)
    check = trainer.run.check_files and _was_recorded(trainer, stored)
    if check:
        _check_settings(directory)
    if stored is not None:
        _load(trainer, stored, check=check)
    if trainer.finished and not _evaluation_is_missing(trainer):
        raise RunDirError(f"{directory}: {_describe_end(trainer)}")
    write_run(trainer.asked, trainer.run)  # the next resume goes on with what this one changed
    for name in ("metrics.jsonl", "eval.jsonl", "probe.jsonl"):
        if (directory / name).exists():
            cut_json_lines(directory / name, trainer.iteration)
    trainer.collector.finished_groups = _groups_after(trainer, check=check)
    count = len(trainer.collector.finished_groups)
    reused = f"; {count} groups already generated are reused" if trainer.run.algorithm.generates else ""
    trainer.view.note(f"resuming after iteration {trainer.iteration}{reused}")


def _was_recorded(trainer: Trainer, stored: Path | None) -> bool:
    """Whether hashes of the files of the run were recorded; prints a note if a run of an earlier version has none."""
    recorded = is_recorded(trainer.run.directory, stored)
    if not recorded:
        trainer.view.note("this run was written without hashes of its files: they are used unchecked")
    return recorded


def _check_settings(directory: Path) -> None:
    for name in ("run.toml", "plan.json"):
        if not (directory / name).exists():
            continue
        try:
            check_recorded(directory, name)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; if you changed it on purpose, add --check-files false") from error


def _load(trainer: Trainer, stored: Path, *, check: bool) -> None:
    """Restores the checkpoint: weights and moments, the place in the data, and the surplus groups."""
    models = trainer.models
    try:
        if check:
            check_checkpoint(stored)
        state = checkpoint.load(stored, models.policy, models.critic)
        surplus = _surplus_groups(trainer, state["collector"].get("carried", []), check=check)
    except (CheckpointError, DataError) as error:
        raise CheckpointError(f"{error}. {_advice(trainer.run.directory, stored)}") from error
    trainer.collector.restore(state["collector"], surplus)
    trainer.iteration, trainer.step, trainer.train_s = state["iteration"], state["step"], state["train_s"]
    lines = read_json_lines(trainer.run.directory / "metrics.jsonl")
    trainer.generated_tokens = sum(line["tokens_generated"] for line in lines if line["iteration"] <= trainer.iteration)
    models.engine.load_weights(models.policy.model, trainer.step)


def _describe_end(trainer: Trainer) -> str:
    """Why a run is finished, and the setting that lets it continue."""
    run = trainer.run
    if trainer.iteration >= run.iterations:
        done = trainer.iteration
        return f"all {done} iterations are done; to continue, add --iterations N with N > {done}"
    tokens = trainer.generated_tokens
    return (
        f"its rollouts have {tokens} tokens (max_generated_tokens={run.max_generated_tokens}); to continue, add "
        f"--max-generated-tokens N with N > {tokens}, or 0 for no limit"
    )


def _advice(directory: Path, damaged: Path) -> str:
    """How to continue without a damaged checkpoint. Nothing is skipped automatically, because the user should know what
    is lost."""
    for other in reversed(checkpoint.list_checkpoints(directory)):
        if other == damaged:
            continue
        try:
            check_checkpoint(other)
        except CheckpointError:
            continue
        return f"The newest sound checkpoint is {other}: delete {damaged} and run: onedial train --resume {directory}"
    return (
        f"There is no other sound checkpoint: start again with: onedial train --config {directory}/run.toml --out NEW, "
        "or add --check-files false to use it as it is"
    )


def _groups_after(trainer: Trainer, *, check: bool) -> dict[str, Group]:
    """The groups on disk of the iterations after the checkpoint, by id."""
    directory, groups = trainer.run.directory, dict[str, Group]()
    iteration = trainer.iteration + 1
    while (path := rollout_path(directory, iteration)).exists():
        try:
            groups.update(_read_checked(directory, path, check=check))
        except (CheckpointError, DataError) as error:
            raise CheckpointError(
                f"{error}. Delete it, and its rollouts are generated again by: onedial train --resume {directory}"
            ) from error
        iteration += 1
    return groups


def _read_checked(directory: Path, path: Path, *, check: bool) -> dict[str, Group]:
    if check:
        check_recorded(directory, str(path.relative_to(directory)))
    return read_groups(path)


def _evaluation_is_missing(trainer: Trainer) -> bool:
    """Whether the run was killed after its last iteration and before its last evaluation."""
    run = trainer.run
    last = [r for r in read_json_lines(run.directory / "eval.jsonl") if r["iteration"] == trainer.iteration]
    return run.eval_prompts > 0 and trainer.iteration <= run.iterations and not last


def _surplus_groups(trainer: Trainer, names: Sequence[Sequence[Any]], *, check: bool) -> list[Group]:
    """Groups that wait for their update, from the rollouts on disk; their prompts are drawn again from the task."""
    groups = []
    for iteration, name in names:
        path = rollout_path(trainer.run.directory, iteration)
        groups_of_file = _read_checked(trainer.run.directory, path, check=check)
        if name not in groups_of_file:
            raise CheckpointError(f"{path}: does not hold the group {name}, which waits for its update")
        group = groups_of_file[name]
        prompt = trainer.task.draw("train", trainer.run.seed, group.position)
        tokens = trainer.models.text.encode(prompt)
        groups.append(Group(prompt, group.rollouts, iteration, group.position, tokens))
    return groups
