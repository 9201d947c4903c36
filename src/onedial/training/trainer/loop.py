"""THE MAIN PATH: rollouts → packed batch → advantages → update → weights back to the engine → log.

Read `train` from top to bottom: every line is one stage, and each stage is one function of one module.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from onedial.core.run_dir import lock_run_dir
from onedial.core.settings import Run
from onedial.training.evaluation import Evaluation
from onedial.training.trainer.advantages import compute_advantages
from onedial.training.trainer.live_view import View, open_view
from onedial.training.trainer.metrics import measure_iteration
from onedial.training.trainer.open_run import open_run
from onedial.training.trainer.packing import pack_allocation
from onedial.training.trainer.periodic_evaluation import evaluate_when_due
from onedial.training.trainer.resume import restore
from onedial.training.trainer.run_writer import log_metrics, note_fewer_minibatches, save_checkpoint, save_rollouts
from onedial.training.trainer.step import update
from onedial.training.trainer.stopping import stop_if_exhausted, stop_on_divergence


@dataclass(frozen=True)
class Result:
    """What a run returns: its directory, the evaluations at its start and end, and the seconds spent training.

    An evaluation that was made before the run was resumed is None here; it is in `eval.jsonl`.
    """

    directory: Path
    before: Evaluation | None
    after: Evaluation | None
    train_s: float


def train(run: Run, *, resume: bool = False, view: View | None = None) -> Result:
    """Trains a model as `run` says, writes everything into its run directory, and returns the evaluations.

    With `resume`, continues from the newest checkpoint; rollouts already generated are not generated again, and the
    result equals that of a run that was never stopped. Raises UserError for every mistake that the user can fix.
    """
    run = run if resume else run.with_free_directory()
    view = view or open_view(run)
    with lock_run_dir(run.directory, resume=resume), open_run(run, resume=resume, view=view) as trainer, view:
        if resume:
            restore(trainer)
        models = trainer.models
        before = after = evaluate_when_due(trainer)
        while not trainer.finished:
            iteration = trainer.iteration + 1
            started = time.perf_counter()
            collected = trainer.collect(iteration)
            batch = pack_allocation(run.algorithm, collected.allocation, version=trainer.step)
            batch, figures = compute_advantages(
                batch, models.policy, models.reference, models.critic, iteration=iteration
            )
            save_rollouts(trainer, iteration, collected, batch)
            stop_if_exhausted(run, collected)
            if models.probe is not None:
                figures |= models.probe.measure(batch, iteration)

            update_started = time.perf_counter()
            with stop_on_divergence(run.directory, iteration, run.lr):
                updated = update(models.policy, models.reference, batch, iteration, view.progress, critic=models.critic)
            note_fewer_minibatches(trainer, updated.minibatches)
            trainer.step += updated.steps
            models.engine.load_weights(models.policy.model, trainer.step)
            update_s = time.perf_counter() - update_started

            times = {"time_s": time.perf_counter() - started, "update_s": update_s}
            metrics = measure_iteration(iteration, trainer.step, collected, figures, updated, times)
            log_metrics(trainer, iteration, metrics)
            if iteration % run.checkpoint_every == 0 or trainer.finished:
                save_checkpoint(trainer, iteration)
            after = evaluate_when_due(trainer)
        return Result(run.directory, before, after, trainer.train_s)
