"""Opens a training run: task, models, engine, verifiers, collector and trackers; and closes them at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from onedial.core.errors import AllocatorError
from onedial.core.manifest import record_file
from onedial.core.plan_file import read_plan
from onedial.core.run_log import write_rollouts
from onedial.core.settings import Run
from onedial.core.settings_file import check_unchanged, read_resolved, to_toml, write_run
from onedial.core.types import Prompt
from onedial.training.budget.allocation import UniformSchedule
from onedial.training.budget.open_allocator import open_allocator
from onedial.training.budget.planned import PlanSchedule, follow_plan
from onedial.training.lm.text import Text
from onedial.training.models import find_stop_ids, load_tokenizer, resolve
from onedial.training.rollout.collector import AllocatorFailed, Collected, Collector
from onedial.training.rollout.engine import Sampling
from onedial.training.rollout.torch_engine import TorchEngine
from onedial.training.tasks import TaskSource, open_task
from onedial.training.trainer.cpu import prepare_process
from onedial.training.trainer.critic import Critic
from onedial.training.trainer.live_view import View
from onedial.training.trainer.memory_plan import plan_memory
from onedial.training.trainer.offline import OfflineCollector, open_examples
from onedial.training.trainer.policy import Policy
from onedial.training.trainer.probe import Probe
from onedial.training.trainer.trackers import Tracker, open_trackers
from onedial.training.verify.pool import VerifierPool
from onedial.training.verify.sandbox import write_sandbox


@dataclass(frozen=True)
class Models:
    """The models of a run: the policy, the frozen reference and the critic if the row needs them, the engine that
    generates with the policy's weights, and the probe of its gradients if the run asks for one."""

    text: Text
    policy: Policy
    reference: nn.Module | None
    critic: Critic | None
    engine: TorchEngine
    probe: Probe | None


@dataclass
class Trainer:
    """Resources and state of a training run: `iteration` iterations and `step` optimizer steps are completed.

    `run` has all settings resolved, `asked` has them as given. `train_s` is the training time in seconds, including
    checkpoints but not evaluations; `generated_tokens` is the number of completion tokens so far. `expected_bytes` is
    the memory that was planned for the run.
    """

    run: Run
    asked: Run
    view: View
    task: TaskSource
    models: Models
    verifiers: VerifierPool
    collector: Collector | OfflineCollector
    trackers: list[Tracker]
    expected_bytes: int
    iteration: int = 0
    step: int = 0
    train_s: float = 0.0
    generated_tokens: int = 0
    said_fewer_minibatches: bool = False

    @property
    def finished(self) -> bool:
        """Whether the last iteration is done: `iterations` of them, or the one that reached `max_generated_tokens`."""
        limit = self.run.max_generated_tokens
        return self.iteration >= self.run.iterations or 0 < limit <= self.generated_tokens

    def collect(self, iteration: int) -> Collected:
        """The judged groups of the iteration; reward functions see its number as `trainer_state.global_step`.

        Raises AllocatorError after saving the groups that a failing allocator left: a resumed run uses them again.
        """
        self.verifiers.step = iteration
        try:
            return self.collector.collect(iteration)
        except AllocatorFailed as error:
            write_rollouts(self.run.directory, iteration, error.groups, {}, {})
            raise AllocatorError(
                f"{error}. No update was made; its {len(error.groups)} groups are saved in "
                f"{self.run.directory}/rollouts and used again, once the allocator is mended, by: "
                f"onedial train --resume {self.run.directory}"
            ) from error


@contextmanager
def open_run(run: Run, *, resume: bool, view: View) -> Iterator[Trainer]:
    """The trainer of a run whose directory is locked. A new run is written to it; a run to resume is not restored yet.

    Everything that may be a mistake of the user is opened before the directory holds a run. Raises UserError.
    """
    recorded: dict[str, int] = {}
    if resume:
        check_unchanged(run, run.directory)
        recorded = read_resolved(run.directory)
    prepare_process(run.threads)
    task = open_task(run.task, **run.task_options)
    path = resolve(run.model)
    # a resumed run keeps its micro-batches, so that its numbers stay the same to the last bit
    memory = plan_memory(run, path, micro_batch_tokens=recorded.get("micro_batch_tokens"))
    asked, run = run, memory.run
    models = _open_models(run, path)
    with ExitStack() as stack:
        verifiers = VerifierPool(
            task.verifier,
            run.verifier_workers,
            run.verifier_timeout_s,
            run.verifier_memory_mb,
            unsafe=run.unsafe_verifiers,
            hidden=(run.directory,),
        )
        stack.enter_context(verifiers)
        plan = run.directory / "plan.json" if resume else Path(run.plan)
        collector = _open_collector(run, task, models, verifiers, plan=plan, view=view)
        # an error of the template or of the data shows before anything is generated
        models.text.refuse_long(_known_prompts(run, task), models.engine.context - run.max_new_tokens)
        names = [name for name in run.track.split(",") if name]
        trackers = open_trackers(names, run.directory, {"run": to_toml(asked, run)})
        for tracker in trackers:
            stack.callback(tracker.close)
        if not resume:
            _write_settings(asked, run)
        write_sandbox(run.directory, verifiers.sandbox)
        for note in (*collector.notes, *task.notes, memory.note, verifiers.note, *_idle_clip(run)):
            view.note(note)
        yield Trainer(run, asked, view, task, models, verifiers, collector, trackers, memory.expected)


def _idle_clip(run: Run) -> list[str]:
    """The note on a clip that can never have an effect; there are never more mini-batches than prompts."""
    row = run.algorithm
    idle = replace(row, updates_per_iteration=min(row.updates_per_iteration, run.prompts_per_iteration)).idle_clip
    return [f"the clip is idle: {idle}"] if idle else []


def _write_settings(asked: Run, run: Run) -> None:
    if run.plan:  # a resumed run must not depend on a file that the next plan overwrites
        plan = run.directory / "plan.json"
        shutil.copyfile(run.plan, plan)
        record_file(run.directory, plan.name, plan)
    write_run(asked, run)


def _open_models(run: Run, path: Path | str) -> Models:
    tokenizer = load_tokenizer(path, trust_remote_code=run.trust_remote_code)
    policy = Policy(run, path)
    reference = policy.frozen_copy() if run.algorithm.needs_reference else None
    critic = Critic(run, policy, path) if run.algorithm.needs_critic else None
    probe = Probe(policy) if run.probe else None
    return Models(Text(tokenizer), policy, reference, critic, open_engine(run, policy.model, tokenizer), probe)


def open_engine(run: Run, model: Any, tokenizer: Any) -> TorchEngine:
    """The torch engine on a model's weights."""
    stops = find_stop_ids(model.config, model.generation_config, tokenizer)
    return TorchEngine(model, stops, max_rows=run.max_rows)


def make_sampling(run: Run) -> Sampling:
    """How a run draws its completions, in training and in its evaluations."""
    return Sampling(run.temperature, run.top_p, run.top_k, run.max_new_tokens)


def _open_collector(
    run: Run, task: TaskSource, models: Models, verifiers: VerifierPool, *, plan: Path, view: View
) -> Collector | OfflineCollector:
    """The source of the row's rollouts: an engine with the policy's weights, one with the frozen reference, or a
    dataset."""
    tokenizer, policy = models.text.tokenizer, models.policy.model
    if not run.algorithm.generates:
        ends = find_stop_ids(policy.config, policy.generation_config, tokenizer)
        examples = open_examples(run, task, models.text, ends, models.engine.context)
        return OfflineCollector(examples, run.prompts_per_iteration)
    schedule = _open_schedule(run, task, plan)

    def look(position: int) -> Prompt:
        return task.draw("train", run.seed, position)

    # the reference's engine never gets new weights; evaluation has the policy's
    frozen = models.reference if run.algorithm.source == "reference" else None
    return Collector(
        models.engine if frozen is None else open_engine(run, frozen, tokenizer),
        models.text,
        verifiers,
        open_allocator(run, schedule, look, task.size("train")),
        look,
        make_sampling(run),
        run.seed,
        progress=view.progress,
        notes=(schedule.note,) if isinstance(schedule, PlanSchedule) else (),
        needs_belief=run.algorithm.needs_belief,
    )


def _open_schedule(run: Run, task: TaskSource, plan: Path) -> UniformSchedule | PlanSchedule:
    """Every prompt with the run's group size, or the prompts and tries of a plan file."""
    return (
        follow_plan(read_plan(plan), task, run.seed, where=str(plan)) if run.plan else UniformSchedule(run.group_size)
    )


def _known_prompts(run: Run, task: TaskSource) -> Iterator[Prompt]:
    """All training prompts of a dataset or the first ones of an endless task, and the prompts of the evaluation."""
    for position in range(task.size("train") or 1 if run.algorithm.generates else 0):
        yield task.draw("train", run.seed, position)
    yield from task.heldout(run.eval_prompts, run.seed) if run.eval_prompts else ()
