"""What a training run writes: the rollouts of an iteration, its line of metrics, and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from onedial import __version__
from onedial.core.batch import Batch
from onedial.core.run_log import Believed, TrainingSignal, append_json, write_rollouts
from onedial.core.types import Group
from onedial.training.rollout.collector import Collected
from onedial.training.trainer import checkpoint
from onedial.training.trainer.advantages import shape_rewards
from onedial.training.trainer.cpu import trim_memory_beyond
from onedial.training.trainer.open_run import Trainer

Signals = dict[tuple[str, int], TrainingSignal]


def save_rollouts(trainer: Trainer, iteration: int, collected: Collected, batch: Batch) -> None:
    """Writes all groups generated, before they are used for training, and prints which verifiers failed."""
    row, trained = trainer.run.algorithm, collected.allocation.train
    if not row.generates:
        return
    failed = [r.verdict.detail for group in collected.groups for r in group.rollouts if not r.verdict.usable]
    if failed:
        trainer.view.note(f"iteration {iteration}: {len(failed)} completions could not be judged, e.g. {failed[0]}")
    signals = collect_signals(trained, batch)
    ids = {group.id for group in trained}
    others = [group for group in collected.groups if group.id not in ids and group.usable]
    if row.kl_in != "reward":  # the KL of what does not train is not worth a forward pass
        signals |= _shaped_only(trainer, others)
    allocation = collected.allocation
    beliefs = {
        name: Believed(known.believed, known.audit)
        for name, known in allocation.expectations.items()
        if known.believed is not None
    }
    write_rollouts(trainer.run.directory, iteration, collected.groups, allocation.statuses, signals, beliefs)


def collect_signals(groups: Sequence[Group], batch: Batch) -> Signals:
    """The shaped reward, the advantage and the use in the loss of every usable rollout, by group id and rollout
    index."""
    keys = [(group.id, rollout.index) for group in groups for rollout in group.usable]
    weight = batch.get("weight")
    weights = [None] * len(keys) if weight is None else weight.tolist()
    columns = (batch["shaped_reward"].tolist(), batch["advantage"].tolist(), batch.rollout_mask.tolist(), weights)
    return {key: TrainingSignal(*values) for key, *values in zip(keys, *columns, strict=True)}


def _shaped_only(trainer: Trainer, groups: Sequence[Group]) -> Signals:
    """Shaped rewards of groups that are not trained on, for the log."""
    rollouts = [(group.id, rollout) for group in groups for rollout in group.usable]
    shaped = shape_rewards(
        trainer.run.algorithm,
        torch.tensor([rollout.verdict.reward for _, rollout in rollouts], dtype=torch.double),
        torch.tensor([bool(rollout.verdict.correct) for _, rollout in rollouts], dtype=torch.bool),
        torch.tensor([len(rollout.completion.token_ids) for _, rollout in rollouts], dtype=torch.long),
        max_new_tokens=trainer.run.max_new_tokens,
    )
    values = zip(rollouts, shaped.tolist(), strict=True)
    return {(name, rollout.index): TrainingSignal(reward) for (name, rollout), reward in values}


def log_metrics(trainer: Trainer, iteration: int, metrics: dict[str, Any]) -> None:
    """Completes an iteration: writes its metrics to the file, the screen and the trackers."""
    trainer.iteration = iteration
    trainer.train_s += metrics["time_s"]
    trainer.generated_tokens += metrics["tokens_generated"]
    append_json(trainer.run.directory / "metrics.jsonl", metrics)
    trainer.view.update(metrics)
    for tracker in trainer.trackers:
        tracker.log(metrics, iteration)
    trim_memory_beyond(trainer.expected_bytes)


def note_fewer_minibatches(trainer: Trainer, made: int) -> None:
    """Prints once that an iteration had fewer groups, and so fewer mini-batches, than `updates_per_iteration`."""
    asked = trainer.run.algorithm.updates_per_iteration
    if made < asked and not trainer.said_fewer_minibatches:
        trainer.said_fewer_minibatches = True
        trainer.view.note(
            f"updates_per_iteration={asked}, but an iteration had only {made} group{'' if made == 1 else 's'} to make "
            "mini-batches of; raise prompts_per_iteration for more steps"
        )


def save_checkpoint(trainer: Trainer, iteration: int) -> Path:
    """Writes weights, moments and the state to resume from; returns the folder."""
    started = time.perf_counter()
    state = {
        "version": __version__,
        "iteration": iteration,
        "step": trainer.step,
        "train_s": trainer.train_s,
        "collector": trainer.collector.state(),
    }
    models = trainer.models
    path = checkpoint.save(trainer.run.directory, iteration, models.policy, models.critic, models.text.tokenizer, state)
    trainer.train_s += time.perf_counter() - started
    return path
