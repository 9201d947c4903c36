"""Everything a run needs, opened in order and closed together: model, engine, task, verifiers, logs, saved state."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from onedial import __version__
from onedial.core.errors import RunDirError
from onedial.core.maths.surrogate import sequence_sum
from onedial.core.plan_file import read_plan
from onedial.core.run_log import (
    TrainingSignal,
    append_json,
    cut_json_lines,
    read_groups,
    read_json_lines,
    rollout_file,
    write_rollouts,
)
from onedial.core.settings import Run, to_toml, write_toml
from onedial.core.types import Group, Prompt
from onedial.training.budget.allocators import Allocator, Dynamic, Fixed, PromptSchedule, UniformSchedule
from onedial.training.budget.planned import PlanSchedule, planned
from onedial.training.evaluation import Evaluation, evaluate_groups, generate_groups
from onedial.training.lm.text import Text
from onedial.training.models import load_tokenizer, resolve, stop_ids
from onedial.training.rollout.collector import Collected, Collector
from onedial.training.rollout.engine import Sampling, seed_of
from onedial.training.rollout.torch_engine import TorchEngine
from onedial.training.tasks import TaskSource, open_task
from onedial.training.trainer import checkpoint
from onedial.training.trainer.cpu import give_back_beyond, prepare_process
from onedial.training.trainer.critic import Critic, add_gae
from onedial.training.trainer.live_view import View
from onedial.training.trainer.memory_plan import plan_memory
from onedial.training.trainer.offline import OfflineCollector, open_examples
from onedial.training.trainer.packing import Rows, pack
from onedial.training.trainer.policy import Policy
from onedial.training.trainer.step import kl_to_reference
from onedial.training.trainer.trackers import Tracker, open_trackers
from onedial.training.verify.pool import VerifierPool
from onedial.training.verify.sandbox import write_sandbox


def open_engine(run: Run, model: Any, tokenizer: Any) -> TorchEngine:
    """The torch engine on a model's weights."""
    stops = stop_ids(model.config, model.generation_config, tokenizer)
    return TorchEngine(model, stops, max_rows=run.max_rows)


def open_schedule(run: Run, task: TaskSource, plan: Path) -> UniformSchedule | PlanSchedule:
    """Every prompt with the run's group size, or what the plan in a file says of prompts and their tries."""
    return planned(read_plan(plan), task, run.seed, where=str(plan)) if run.plan else UniformSchedule(run.group_size)


def open_allocator(run: Run, schedule: PromptSchedule) -> Allocator:
    """The allocator that the row's `keep` and `refill` ask for."""
    row = run.algorithm
    if row.refill:
        return Dynamic(run.prompts_per_iteration, schedule, run.refill_limit, run.on_exhausted)
    return Fixed(run.prompts_per_iteration, schedule, keep_mixed=row.keep == "mixed")


class Workshop:
    """The tools of one run. `done` iterations and `steps` optimiser steps lie behind it."""

    def __init__(self, run: Run, resume: bool, view: View) -> None:
        self.run, self.view = run, view
        self.directory = run.directory
        self.done = self.steps = 0
        self.train_s = 0.0
        self.judge: VerifierPool | None = None
        self.trackers: list[Tracker] = []
        self._resume = resume

    def __enter__(self) -> Workshop:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def _open(self) -> None:
        prepare_process(self.run.threads)
        # everything that a person can have got wrong is opened before the run directory holds a run
        self.task: TaskSource = open_task(self.run.task, **self.run.task_options)
        path = resolve(self.run.model)
        self.plan = plan_memory(self.run, path)
        self.run = run = self.plan.run
        self.tokenizer = load_tokenizer(path)
        self.text = Text(self.tokenizer)
        self.policy = Policy(run, path)
        self.reference = self.policy.frozen_copy() if run.algorithm.needs_reference else None
        self.critic = Critic(run, self.policy, path) if run.algorithm.needs_critic else None
        self.engine = open_engine(run, self.policy.model, self.tokenizer)
        self.sampling = Sampling(run.temperature, run.top_p, run.top_k, run.max_new_tokens)
        self.judge = VerifierPool(
            self.task.verifier,
            run.verifier_workers,
            run.verifier_timeout_s,
            run.verifier_memory_mb,
            unsafe=run.unsafe_verifiers,
            hidden=(self.directory,),
        )
        self.collector = self._open_collector()
        # an error of the template or of the data shows before anything is paid
        self.text.refuse_long(self._known_prompts(), self.engine.context - run.max_new_tokens)
        self.trackers = open_trackers(
            [name for name in run.track.split(",") if name], self.directory, {"run": to_toml(run)}
        )
        if self._resume:
            self._restore()
        else:
            if run.plan:  # a resumed run must not depend on a file that the next plan overwrites
                shutil.copyfile(run.plan, self.directory / "plan.json")
            write_toml(run, self.directory / "run.toml")
        write_sandbox(self.directory, self.judge.sandbox)
        for note in (*self.task.notes, self.plan.note, self.judge.note):
            self.view.note(note)

    def _open_collector(self) -> Collector | OfflineCollector:
        """What gathers groups for the row's source: an engine on the policy, on the frozen reference, or a data set."""
        run, row = self.run, self.run.algorithm
        if not row.generates:
            ends = stop_ids(self.policy.model.config, self.policy.model.generation_config, self.tokenizer)
            examples = open_examples(run, self.task, self.text, ends, self.engine.context)
            self.view.note(examples.note)
            return OfflineCollector(examples, run.prompts_per_iteration)
        schedule = open_schedule(run, self.task, self.directory / "plan.json" if self._resume else Path(run.plan))
        if isinstance(schedule, PlanSchedule):
            self.view.note(schedule.note)
        # the reference's engine never gets new weights; evaluation has the policy's
        frozen = self.reference if row.source == "reference" else None
        return Collector(
            self.engine if frozen is None else open_engine(run, frozen, self.tokenizer),
            self.text,
            self._open_judge(),
            open_allocator(run, schedule),
            lambda position: self.task.draw("train", run.seed, position),
            self.sampling,
            run.seed,
            progress=self.view.progress,
        )

    def _known_prompts(self) -> Iterator[Prompt]:
        """All training prompts of a data set, the first of an endless task, and those of the evaluation."""
        run, task = self.run, self.task
        for position in range(task.size("train") or 1 if run.algorithm.generates else 0):
            yield task.draw("train", run.seed, position)
        yield from task.heldout(run.eval_prompts, run.seed) if run.eval_prompts else ()

    def _restore(self) -> None:
        stored = checkpoint.latest(self.directory)
        if stored is not None:
            state = checkpoint.load(stored, self.policy, self.critic)
            self.done, self.steps, self.train_s = state["iteration"], state["step"], state["train_s"]
            self.collector.restore(state["collector"], self._carried(state["collector"].get("carried", [])))
            self.engine.load_weights(self.policy.model, self.steps)
        if self.done >= self.run.iterations and not self._lacks_evaluation():
            raise RunDirError(
                f"{self.directory}: all {self.run.iterations} iterations are done; to go on, add --iterations N with "
                f"N > {self.run.iterations}"
            )
        for name in ("metrics.jsonl", "eval.jsonl"):
            if (self.directory / name).exists():
                cut_json_lines(self.directory / name, self.done)
        recorded: dict[str, Group] = {}
        iteration = self.done + 1
        while (path := rollout_file(self.directory, iteration)).exists():
            recorded.update(read_groups(path))
            iteration += 1
        self.collector.recorded = recorded
        reused = f"; {len(recorded)} groups already generated are reused" if self.run.algorithm.generates else ""
        self.view.note(f"resuming after iteration {self.done}{reused}")

    def _lacks_evaluation(self) -> bool:
        """Whether a run killed after its last iteration still owes its last evaluation."""
        last = [r for r in read_json_lines(self.directory / "eval.jsonl") if r["iteration"] == self.run.iterations]
        return self.run.eval_prompts > 0 and self.done == self.run.iterations and not last

    def _carried(self, names: list[list[Any]]) -> list[Group]:
        """Groups that wait for their update, from the rollouts on disk, with prompts as the task draws them."""
        groups = []
        for iteration, name in names:
            group = read_groups(rollout_file(self.directory, iteration))[name]
            prompt = self.task.draw("train", self.run.seed, group.position)
            groups.append(Group(prompt, group.rollouts, iteration, group.position, self.text.encode(prompt)))
        return groups

    def collect(self, iteration: int) -> Collected:
        """The iteration's judged groups; reward functions see its number as `trainer_state.global_step`."""
        self._open_judge().step = iteration
        return self.collector.collect(iteration)

    def pack(self, groups: list[Group], iteration: int) -> Rows:
        """The batch of the groups that train, with advantages."""
        row, limit, kl = self.run.algorithm, self.run.max_new_tokens, None
        rows = pack(row, groups, max_new_tokens=limit, version=self.steps)
        if row.kl_coef > 0 and row.kl_in == "reward" and self.reference is not None:
            kl = kl_to_reference(self.policy, rows.batch, self.reference)
        if self.critic is not None:
            return add_gae(row, rows, self.critic.values(rows.batch), kl, iteration)
        if kl is not None:
            penalty = sequence_sum(kl, rows.batch.row, rows.batch.num_rows)
            rows = pack(row, groups, max_new_tokens=limit, version=self.steps, kl_penalty=penalty)
        return rows

    def save_rollouts(self, iteration: int, collected: Collected, rows: Rows) -> None:
        """All groups generated to disk, before they train; verifiers that failed are named on the screen."""
        if not self.run.algorithm.generates:
            return
        failed = [r.verdict.detail for group in collected.groups for r in group.rollouts if not r.verdict.usable]
        if failed:
            self.view.note(f"iteration {iteration}: {len(failed)} completions could not be judged, e.g. {failed[0]}")
        made = {key: TrainingSignal(*values) for key, values in rows.by_rollout(collected.allocation.train).items()}
        trained_ids = {group.id for group in collected.allocation.train}
        others = [group for group in collected.groups if group.id not in trained_ids and group.usable]
        if others and self.run.algorithm.kl_in != "reward":  # their KL to the reference is not worth a forward pass
            unused = pack(self.run.algorithm, others, max_new_tokens=self.run.max_new_tokens)
            made |= {key: TrainingSignal(shaped) for key, (shaped, _, _) in unused.by_rollout(others).items()}
        write_rollouts(self.directory, iteration, collected.groups, collected.allocation.fates, made)

    def save_checkpoint(self, iteration: int) -> Path:
        """Weights, moments and the state to resume from."""
        started = time.perf_counter()
        state = {
            "version": __version__,
            "iteration": iteration,
            "step": self.steps,
            "train_s": self.train_s,
            "collector": self.collector.state(),
        }
        path = checkpoint.save(self.directory, iteration, self.policy, self.critic, self.tokenizer, state)
        self.train_s += time.perf_counter() - started
        return path

    def log(self, iteration: int, metrics: dict[str, Any]) -> None:
        """One line of metrics to the file, the screen and the trackers."""
        self.train_s += metrics["time_s"]
        append_json(self.directory / "metrics.jsonl", metrics)
        self.view.update(metrics)
        for tracker in self.trackers:
            tracker.log(metrics, iteration)
        give_back_beyond(self.plan.expected)

    def evaluate(self, iteration: int) -> Evaluation | None:
        """Held-out accuracy after an iteration, at the start, the end and every `eval_every`; None when not due."""
        run, path = self.run, self.directory / "eval.jsonl"
        due = iteration in (0, run.iterations) or (run.eval_every and iteration % run.eval_every == 0)
        if not run.eval_prompts or not due or any(r["iteration"] == iteration for r in read_json_lines(path)):
            return None
        prompts = self.task.heldout(run.eval_prompts, run.seed)
        groups = generate_groups(
            self.engine,
            self.text,
            self._open_judge(),
            prompts,
            samples=run.eval_samples,
            sampling=self.sampling,
            seed=seed_of(run.seed, "eval"),
            progress=self.view.progress,
        )
        evaluation = evaluate_groups(groups, run.temperature)
        append_json(path, {"iteration": iteration, **evaluation.to_json()})
        self.view.note(f"held-out avg@{evaluation.samples} after {iteration} iterations: {evaluation.avg.value:.1%}")
        return evaluation

    def _open_judge(self) -> VerifierPool:
        assert self.judge is not None, "the workshop is open"
        return self.judge

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self.judge is not None:
            self.judge.close()
        for tracker in self.trackers:
            tracker.close()
