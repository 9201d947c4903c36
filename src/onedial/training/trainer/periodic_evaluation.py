"""Held-out evaluation during training: before the first iteration, after the last, and every `eval_every`."""

from __future__ import annotations

from onedial.core.run_log import append_json, read_json_lines
from onedial.training.evaluation import Evaluation, evaluate_groups, generate_groups
from onedial.training.rollout.engine import derive_seed
from onedial.training.trainer.open_run import Trainer, make_sampling


def evaluate_when_due(trainer: Trainer) -> Evaluation | None:
    """Held-out accuracy after the iterations done so far; None if no evaluation is due or it is already in
    `eval.jsonl`."""
    run, iteration, path = trainer.run, trainer.iteration, trainer.run.directory / "eval.jsonl"
    due = iteration == 0 or trainer.finished or (run.eval_every and iteration % run.eval_every == 0)
    if not run.eval_prompts or not due or any(r["iteration"] == iteration for r in read_json_lines(path)):
        return None
    groups = generate_groups(
        trainer.models.engine,
        trainer.models.text,
        trainer.verifiers,
        trainer.task.heldout(run.eval_prompts, run.seed),
        samples=run.eval_samples,
        sampling=make_sampling(run),
        seed=derive_seed(run.seed, "eval"),
        progress=trainer.view.progress,
    )
    evaluation = evaluate_groups(groups, run.temperature)
    append_json(path, {"iteration": iteration, **evaluation.to_json()})
    trainer.view.note(f"held-out avg@{evaluation.samples} after {iteration} iterations: {evaluation.avg.value:.1%}")
    return evaluation
