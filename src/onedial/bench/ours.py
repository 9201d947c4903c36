"""Our side: generation, a decode step, an update, and a whole training step, through the parts that `train` uses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch

from onedial.bench.machine import seconds_of
from onedial.bench.peer_process import Exchange
from onedial.bench.workload import Settings, Shape, prompt_ids, prompt_texts, reward_of
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch
from onedial.core.settings import Run
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocators import Fixed, UniformSchedule
from onedial.training.lm.text import Text
from onedial.training.models import load_tokenizer
from onedial.training.rollout.collector import Collector
from onedial.training.rollout.engine import Request, Sampling, seed_of
from onedial.training.rollout.torch_engine import TorchEngine
from onedial.training.trainer.advantages import add_advantages
from onedial.training.trainer.cpu import prepare_process
from onedial.training.trainer.memory_plan import plan_memory
from onedial.training.trainer.packing import pack
from onedial.training.trainer.policy import Policy
from onedial.training.trainer.step import update

# without refill exactly the shape's prompts are generated, silent groups too
ROW = replace(ALGORITHMS["dapo"], refill=False)


def run_of(settings: Settings, shape: Shape) -> Run:
    """The run whose iterations have this shape."""
    return Run(
        model=settings.model,
        algorithm=ROW,
        prompts_per_iteration=shape.prompts,
        group_size=shape.group_size,
        max_new_tokens=shape.completion_tokens,
        max_rows=shape.rows,
        lr=1e-6,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
    )


def open_policy(settings: Settings, shape: Shape) -> Policy:
    """The model with its optimiser, as a run holds it."""
    return Policy(plan_memory(run_of(settings, shape), settings.model).run, settings.model)


class Generation:
    """Generates a shape's completions to their full length: no token stops a row."""

    def __init__(self, settings: Settings, shape: Shape, model: torch.nn.Module) -> None:
        self.shape = shape
        self.prompts = prompt_ids(load_tokenizer(settings.model), shape)
        self.engine = TorchEngine(model, (), max_rows=shape.rows, context=settings.context)
        self.turn = 0

    def _requests(self, completion_tokens: int) -> list[Request]:
        self.turn += 1
        sampling = Sampling(max_new_tokens=completion_tokens)
        seeds = [
            tuple(seed_of("bench", self.turn, number, index) for index in range(self.shape.group_size))
            for number in range(self.shape.prompts)
        ]
        return [Request(n, ids, seeds[n], sampling) for n, ids in enumerate(self.prompts)]

    def seconds(self) -> float:
        """Seconds for the whole shape."""
        requests = self._requests(self.shape.completion_tokens)
        return seconds_of(lambda: self.engine.generate(requests), self.engine.device)

    def tokens_per_s(self) -> float:
        """Completion tokens a second, prompts included in the time."""
        return self.shape.tokens / self.seconds()

    def decode_seconds(self, steps: int, warm: int = 3) -> float:
        """Seconds of one decode step (sampling and forward pass) with all rows under way."""
        # the first poll computes the prompts, the last one samples without a forward pass: neither is timed
        for request in self._requests(warm + steps + 2):
            self.engine.submit(request)
        for _ in range(1 + warm):
            self.engine.poll()
        took = seconds_of(lambda: [self.engine.poll() for _ in range(steps)], self.engine.device)
        while self.engine.pending:
            self.engine.poll()
        return took / steps


def mixed_batch(settings: Settings, shape: Shape) -> Batch:
    """A packed batch of random completions whose groups are all mixed."""
    make = torch.Generator().manual_seed(0)
    tokenizer = load_tokenizer(settings.model)
    groups = []
    for number, ids in enumerate(prompt_ids(tokenizer, shape)):
        written = torch.randint(2, len(tokenizer), (shape.group_size, shape.completion_tokens), generator=make).tolist()
        rollouts = tuple(
            Rollout(index, Completion(tuple(row), (-1.0,) * len(row), "length"), _verdict("all_mixed", number, index))
            for index, row in enumerate(written)
        )
        groups.append(Group(Prompt(str(number)), rollouts, position=number, prompt_tokens=tuple(ids)))
    return add_advantages(ROW, pack(groups), max_new_tokens=shape.completion_tokens)


def _verdict(mode: str, prompt: int, index: int, prompts: int = 1 << 30) -> Verdict:
    reward = reward_of(mode, prompt, index, prompts)
    return Verdict(reward, correct=reward > 0, outcome="correct" if reward else "wrong")


class Update:
    """One update on a fixed batch whose groups are all mixed, optimiser step included."""

    def __init__(self, settings: Settings, shape: Shape, policy: Policy) -> None:
        self.policy, self.batch = policy, mixed_batch(settings, shape)

    def seconds(self) -> float:
        """Seconds of one update."""
        return seconds_of(lambda: update(self.policy, None, self.batch, 1, _silent), self.policy.device)


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class _Judge:
    """Gives the verdicts wanted, by the place of a rollout; in this process, as TRL calls its reward functions."""

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
    """Whole training steps: generate, judge, pack, update, hand the weights to the engine."""

    def __init__(self, settings: Settings, shape: Shape) -> None:
        self.policy = open_policy(settings, shape)
        self.run = self.policy.run
        tokenizer = load_tokenizer(settings.model)
        prompts = [Prompt(text) for text in prompt_texts(tokenizer, shape)]
        self.engine = TorchEngine(self.policy.model, (), max_rows=shape.rows, context=settings.context)
        self.judge = _Judge(shape.prompts)
        self.collector = Collector(
            self.engine,
            Text(tokenizer),
            self.judge,
            Fixed(shape.prompts, UniformSchedule(shape.group_size), keep_mixed=self.run.algorithm.keep == "mixed"),
            lambda position: prompts[position % len(prompts)],
            Sampling(max_new_tokens=shape.completion_tokens),
            seed=0,
        )
        self.iteration = self.steps = 0

    def step(self, mode: str) -> float:
        """Seconds of one step whose verdicts come out as `mode` says."""
        self.judge.mode = mode
        return seconds_of(self._step, self.policy.device)

    def _step(self) -> None:
        self.iteration += 1
        collected = self.collector.collect(self.iteration)
        packed = pack(collected.allocation.train, version=self.steps)
        batch = add_advantages(self.run.algorithm, packed, max_new_tokens=self.run.max_new_tokens)
        self.steps += update(self.policy, None, batch, self.iteration, _silent).steps
        self.engine.load_weights(self.policy.model, self.steps)


def serve(settings: Settings, shape: Shape, exchange: Exchange) -> None:
    """Steps on request, in a process of their own."""
    prepare_process(settings.threads)
    stepper = Stepper(settings, shape)
    mode = exchange(None)
    while mode is not None:
        mode = exchange(stepper.step(mode))
