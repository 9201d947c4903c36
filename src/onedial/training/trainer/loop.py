"""THE MAIN PATH: rollouts → groups → advantages → update → weights back to the engine → log.

Read it top to bottom; every line is one stage, and each stage is one module.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from onedial.core.run_dir import lock_run_dir
from onedial.core.settings import Run
from onedial.training.evaluation import Evaluation
from onedial.training.trainer.live_view import View
from onedial.training.trainer.metrics import metrics_of
from onedial.training.trainer.step import update
from onedial.training.trainer.workshop import Workshop


@dataclass(frozen=True)
class Result:
    """What a run gave: its directory, the evaluations at its start and end, and the seconds spent training.

    An evaluation that was made before the run was resumed is None here and stands in `eval.jsonl`.
    """

    directory: Path
    before: Evaluation | None
    after: Evaluation | None
    train_s: float


def train(run: Run, *, resume: bool = False, view: View | None = None) -> Result:
    """Trains a model as `run` says, into its run directory, and returns what it learned.

    With `resume`, goes on from the newest checkpoint; rollouts that were already paid for are not generated again,
    and the result equals that of a run that was never stopped. Raises UserError for everything a person can mend.
    """
    run = run if resume else run.placed()
    view = view or View(f"{run.algorithm.name} on {run.task_name}", run.iterations)
    with lock_run_dir(run.directory, resume=resume), Workshop(run, resume, view) as shop, view:
        before = after = shop.evaluate(shop.done)
        for iteration in range(shop.done + 1, run.iterations + 1):
            started = time.perf_counter()
            collected = shop.collect(iteration)
            rows = shop.pack(collected.allocation.train, iteration)
            shop.save_rollouts(iteration, collected, rows)

            update_started = time.perf_counter()
            updated = update(shop.policy, shop.reference, rows.batch, iteration - 1, view.progress, critic=shop.critic)
            shop.steps += updated.steps
            shop.engine.load_weights(shop.policy.model, shop.steps)
            update_s = time.perf_counter() - update_started

            times = {"time_s": time.perf_counter() - started, "update_s": update_s}
            shop.log(iteration, metrics_of(run, iteration, shop.steps, collected, rows, updated, times))
            if iteration % run.checkpoint_every == 0 or iteration == run.iterations:
                shop.save_checkpoint(iteration)
            after = shop.evaluate(iteration)
        return Result(run.directory, before, after, shop.train_s)
