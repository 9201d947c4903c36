"""Our side: generation, a decode step, an update, and a whole training step, with the same parts that `train` uses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch
from onedial.core.settings import Run
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.evidence.bench.machine import time_seconds
from onedial.evidence.bench.peer_process import Exchange
from onedial.evidence.bench.workload import Conditions, Workload, choose_reward, make_prompt_ids, make_prompt_texts
from onedial.training.budget.allocation import Fixed, UniformSchedule
from onedial.training.lm.text import Text
from onedial.training.models import load_tokenizer
from onedial.training.rollout.collector import Collector
from onedial.training.rollout.engine import Request, Sampling, derive_seed
from onedial.training.rollout.torch_engine import TorchEngine
from onedial.training.trainer.advantages import add_advantages
from onedial.training.trainer.cpu import prepare_process
from onedial.training.trainer.memory_plan import plan_memory
from onedial.training.trainer.packing import pack
from onedial.training.trainer.policy import Policy
from onedial.training.trainer.step import update

# without refill exactly the workload's prompts are generated, silent groups too
ROW = replace(ALGORITHMS["mixed_grpo"], refill=False)


def make_bench_run(conditions: Conditions, workload: Workload) -> Run:
    """A run whose iterations have this workload."""
    return Run(
        model=conditions.model,
        algorithm=ROW,
        prompts_per_iteration=workload.prompts,
        group_size=workload.group_size,
        max_new_tokens=workload.completion_tokens,
        max_rows=workload.rows,
        lr=1e-6,
        device=conditions.device,
        dtype=conditions.dtype,
        threads=conditions.threads,
    )


def open_policy(conditions: Conditions, workload: Workload) -> Policy:
    """The model with its optimizer, as in a run."""
    return Policy(plan_memory(make_bench_run(conditions, workload), conditions.model).run, conditions.model)


class Generation:
    """Generates the completions of a workload to their full length: no token ends a row."""

    def __init__(self, conditions: Conditions, workload: Workload, model: torch.nn.Module) -> None:
        self.workload = workload
        self.prompts = make_prompt_ids(load_tokenizer(conditions.model), workload)
        self.engine = TorchEngine(model, (), max_rows=workload.rows, context=conditions.context)
        self.turn = 0

    def _requests(self, completion_tokens: int) -> list[Request]:
        self.turn += 1
        sampling = Sampling(max_new_tokens=completion_tokens)
        seeds = [
            tuple(derive_seed("bench", self.turn, number, index) for index in range(self.workload.group_size))
            for number in range(self.workload.prompts)
        ]
        return [Request(n, ids, seeds[n], sampling) for n, ids in enumerate(self.prompts)]

    def seconds(self) -> float:
        """Seconds for the whole workload."""
        requests = self._requests(self.workload.completion_tokens)
        return time_seconds(lambda: self.engine.generate(requests), self.engine.device)

    def tokens_per_s(self) -> float:
        """Completion tokens a second, prompts included in the time."""
        return self.workload.tokens / self.seconds()

    def decode_seconds(self, steps: int, warm: int = 3) -> float:
        """The seconds of one decode step (sampling and forward pass) with all rows active."""
        # the first poll computes the prompts, the last one samples without a forward pass: neither is timed
        for request in self._requests(warm + steps + 2):
            self.engine.submit(request)
        for _ in range(1 + warm):
            self.engine.poll()
        took = time_seconds(lambda: [self.engine.poll() for _ in range(steps)], self.engine.device)
        while self.engine.pending:
            self.engine.poll()
        return took / steps


def make_mixed_batch(conditions: Conditions, workload: Workload) -> Batch:
    """A packed batch of random completions whose groups are all mixed."""
    make = torch.Generator().manual_seed(0)
    tokenizer = load_tokenizer(conditions.model)
    groups = []
    for number, ids in enumerate(make_prompt_ids(tokenizer, workload)):
        written = torch.randint(
            2, len(tokenizer), (workload.group_size, workload.completion_tokens), generator=make
        ).tolist()
        rollouts = tuple(
            Rollout(index, Completion(tuple(row), (-1.0,) * len(row), "length"), _verdict("all_mixed", number, index))
            for index, row in enumerate(written)
        )
        groups.append(Group(Prompt(str(number)), rollouts, position=number, prompt_tokens=tuple(ids)))
    return add_advantages(ROW, pack(groups), max_new_tokens=workload.completion_tokens)


def _verdict(mode: str, prompt: int, index: int, prompts: int = 1 << 30) -> Verdict:
    reward = choose_reward(mode, prompt, index, prompts)
    return Verdict(reward, correct=reward > 0, outcome="correct" if reward else "wrong")


class Update:
    """One update on a fixed batch whose groups are all mixed, optimizer step included."""

    def __init__(self, conditions: Conditions, workload: Workload, policy: Policy) -> None:
        self.policy, self.batch = policy, make_mixed_batch(conditions, workload)

    def seconds(self) -> float:
        """Seconds of one update."""
        return time_seconds(lambda: update(self.policy, None, self.batch, 1, _silent), self.policy.device)


def _silent(stage: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


class _Judge:
    """Returns the wanted verdicts by the index of a rollout; in this process, as TRL calls its reward functions."""

    def __init__(self, prompts: int) -> None:
        self.mode, self.prompts = "all_mixed", prompts
        self._done: list[tuple[Hashable, Verdict]] = []

    def submit(self, key: Hashable, prompt: Prompt, completion: str, token_ids: Sequence[int] = ()) -> None:
        assert isinstance(key, tuple)
        position, index = key
        self._done.append((key, _verdict(self.mode, position % self.prompts, index, self.prompts)))

    def poll(self) -> list[tuple[Hashable, Verdict]]:
        done, self._done = self._done, []
        return done

    @property
    def pending(self) -> int:
        return len(self._done)


class Stepper:
    """Whole training steps: generate, judge, pack, update, load the new weights into the engine."""

    def __init__(self, conditions: Conditions, workload: Workload) -> None:
        self.policy = open_policy(conditions, workload)
        self.run = self.policy.run
        tokenizer = load_tokenizer(conditions.model)
        prompts = [Prompt(text) for text in make_prompt_texts(tokenizer, workload)]
        self.engine = TorchEngine(self.policy.model, (), max_rows=workload.rows, context=conditions.context)
        self.judge = _Judge(workload.prompts)
        self.collector = Collector(
            self.engine,
            Text(tokenizer),
            self.judge,
            Fixed(
                workload.prompts, UniformSchedule(workload.group_size), keep_mixed=self.run.algorithm.keep == "mixed"
            ),
            lambda position: prompts[position % len(prompts)],
            Sampling(max_new_tokens=workload.completion_tokens),
            seed=0,
        )
        self.iteration = self.steps = 0

    def step(self, mode: str) -> float:
        """The seconds of one step whose verdicts are as `mode` says."""
        self.judge.mode = mode
        return time_seconds(self._step, self.policy.device)

    def _step(self) -> None:
        self.iteration += 1
        collected = self.collector.collect(self.iteration)
        packed = pack(collected.allocation.train, version=self.steps)
        batch = add_advantages(self.run.algorithm, packed, max_new_tokens=self.run.max_new_tokens)
        self.steps += update(self.policy, None, batch, self.iteration, _silent).steps
        self.engine.load_weights(self.policy.model, self.steps)


def serve(conditions: Conditions, workload: Workload, exchange: Exchange) -> None:
    """Makes steps on request, in a separate process."""
    prepare_process(conditions.threads)
    stepper = Stepper(conditions, workload)
    mode = exchange(None)
    while mode is not None:
        mode = exchange(stepper.step(mode))
