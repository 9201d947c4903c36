"""What is measured: the sizes of the work, and the conditions that are the same for both sides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

MODES = ("all_mixed", "quarter_mixed", "silent")


@dataclass(frozen=True)
class Workload:
    """`prompts` × `group_size` completions of `completion_tokens` each, after prompts of `prompt_tokens`."""

    prompts: int
    group_size: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def rows(self) -> int:
        """Completions in all."""
        return self.prompts * self.group_size

    @property
    def tokens(self) -> int:
        """Completion tokens in all."""
        return self.rows * self.completion_tokens

    def fitted(self, context: int) -> Workload:
        """The workload with prompts, and if necessary completions, shortened to a model's context."""
        completion = min(self.completion_tokens, context - 1)
        return replace(self, completion_tokens=completion, prompt_tokens=min(self.prompt_tokens, context - completion))

    def __str__(self) -> str:
        work = f"{self.prompts} prompts × {self.group_size} × {self.completion_tokens} tokens"
        return f"{work} after {self.prompt_tokens} prompt tokens"


GENERATE = Workload(8, 8, 51, 64)
STEP = Workload(8, 8, 51, 24)
LONG = Workload(8, 8, 400, 24)


@dataclass(frozen=True)
class Conditions:
    """Conditions of a measurement; picklable, because peers run in processes of their own.

    `model` is a folder or a Hugging Face name, `dtype` bfloat16 or float32, `threads` of torch in every process,
    `gemm_size` the side of the ceiling's square matrices, `decode_steps` the decode steps timed together,
    `peer_rows` the rows of a step's usual length that TRL puts into one forward and backward pass.
    """

    model: str
    device: str
    dtype: str
    threads: int
    context: int
    repeats: int = 5
    gemm_size: int = 4096
    decode_steps: int = 32
    peer_rows: int = 64


def rows_per_pass(workload: Workload, peer_rows: int) -> int:
    """The number of rows that TRL processes at a time: as many as hold no more tokens than `peer_rows` rows of `STEP`.

    TRL computes the prompt again for every row and has no micro-batches by tokens; without this, long prompts would
    need several times the memory of a step. The number divides the rows of the workload.
    """
    room = peer_rows * (STEP.prompt_tokens + STEP.completion_tokens)
    fits = room // (workload.prompt_tokens + workload.completion_tokens)
    return max(rows for rows in range(1, workload.rows + 1) if workload.rows % rows == 0 and rows <= max(1, fits))


def choose_reward(mode: str, prompt: int, index: int, prompts: int) -> float:
    """The verdict wanted for a rollout: it makes every group mixed, or the first quarter of them, or none.

    In a mixed group the rollouts with an odd index are right.
    """
    mixed = {"all_mixed": prompts, "quarter_mixed": max(1, prompts // 4), "silent": 0}[mode]
    return float(prompt < mixed and index % 2 == 1)


def make_prompt_texts(tokenizer: Any, workload: Workload) -> list[str]:
    """Distinct plain texts of about `workload.prompt_tokens` tokens: sums written one after another."""
    texts = []
    for tokens in make_prompt_ids(tokenizer, workload):
        texts.append(tokenizer.decode(tokens, skip_special_tokens=True))
    return texts


def make_prompt_ids(tokenizer: Any, workload: Workload) -> list[list[int]]:
    """Distinct prompts of exactly `workload.prompt_tokens` tokens."""
    prompts = []
    for number in range(workload.prompts):
        terms = (f"{a} + {number + 1} = {a + number + 1}." for a in range(number, number + workload.prompt_tokens))
        ids = tokenizer(" ".join(terms)).input_ids[: workload.prompt_tokens]
        prompts.append([int(token) for token in ids])
    return prompts
