"""A model, its task and judged groups of its own completions, for claims about one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from onedial.core.algorithm import Algorithm
from onedial.core.batch import Batch
from onedial.core.settings import Run
from onedial.core.types import Group
from onedial.evidence.claim import Setup
from onedial.training.evaluation import generate_groups
from onedial.training.lm.text import Text
from onedial.training.models import load_tokenizer, resolve
from onedial.training.rollout.engine import derive_seed
from onedial.training.tasks import TaskSource, open_task
from onedial.training.trainer.advantages import add_advantages
from onedial.training.trainer.cpu import prepare_process
from onedial.training.trainer.open_run import make_sampling, open_engine
from onedial.training.trainer.packing import pack
from onedial.training.trainer.policy import Policy
from onedial.training.verify.pool import VerifierPool


class Lesson:
    """A policy in fp32 with everything that is needed to sample judged groups from it. `run` holds the settings."""

    def __init__(self, setup: Setup, algorithm: Algorithm, *, max_new_tokens: int = 12, lr: float = 2e-5) -> None:
        self.run = Run(
            model=setup.model, task=setup.task, task_options=setup.task_options, algorithm=algorithm,
            max_new_tokens=max_new_tokens, lr=lr, dtype="float32", threads=setup.threads, micro_batch_tokens=1024,
            max_rows=128, verifier_workers=1,
        )  # fmt: skip
        prepare_process(setup.threads)
        self.path = resolve(setup.model)
        self.policy = Policy(self.run, self.path)
        self.tokenizer = load_tokenizer(self.path)
        self.task: TaskSource = open_task(setup.task, **setup.task_options)

    def sample(self, prompts: int, size: int, seed: int, *, max_new_tokens: int = 0) -> list[Group]:
        """Returns judged groups of `size` completions of the first prompts of a seed."""
        run = self.run if not max_new_tokens else replace(self.run, max_new_tokens=max_new_tokens)
        verifier = self.task.verifier
        with VerifierPool(verifier, run.verifier_workers, run.verifier_timeout_s, run.verifier_memory_mb) as judge:
            groups = generate_groups(
                open_engine(run, self.policy.model, self.tokenizer),
                Text(self.tokenizer),
                judge,
                [self.task.draw("train", seed, position) for position in range(prompts)],
                samples=size,
                sampling=make_sampling(run),
                seed=derive_seed(seed, "claim"),
            )
        return [replace(group, position=position) for position, group in enumerate(groups)]

    def batch(self, row: Algorithm, groups: Sequence[Group]) -> Batch:
        """Returns the groups packed, with the advantages of a row."""
        return add_advantages(row, pack(groups), max_new_tokens=self.run.max_new_tokens)


def vector_norm(vector: torch.Tensor) -> float:
    """Returns ‖v‖; sums of a few million squares in fp32, their sum in double precision."""
    return float(sum(float(part.dot(part)) for part in vector.split(1 << 20)) ** 0.5)
