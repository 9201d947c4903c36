"""What is measured: the shapes of the work, and the conditions that both sides share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

MODES = ("all_mixed", "quarter_mixed", "silent")


@dataclass(frozen=True)
class Shape:
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

    def fitted(self, context: int) -> Shape:
        """The shape with prompts, and if need be completions, cut to a model's context."""
        completion = min(self.completion_tokens, context - 1)
        return replace(self, completion_tokens=completion, prompt_tokens=min(self.prompt_tokens, context - completion))

    def __str__(self) -> str:
        work = f"{self.prompts} prompts × {self.group_size} × {self.completion_tokens} tokens"
        return f"{work} after {self.prompt_tokens} prompt tokens"


GENERATE = Shape(8, 8, 51, 64)
STEP = Shape(8, 8, 51, 24)
LONG = Shape(8, 8, 400, 24)


@dataclass(frozen=True)
class Settings:
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


def rows_per_pass(shape: Shape, peer_rows: int) -> int:
    """Rows of a shape that TRL takes at once: as many as hold no more tokens than `peer_rows` rows of `STEP` do.

    TRL computes every row's prompt anew and has no micro-batches by tokens; without this, long prompts would need
    several times the memory of a step's. The rows of a pass divide the shape's rows.
    """
    room = peer_rows * (STEP.prompt_tokens + STEP.completion_tokens)
    fits = room // (shape.prompt_tokens + shape.completion_tokens)
    return max(rows for rows in range(1, shape.rows + 1) if shape.rows % rows == 0 and rows <= max(1, fits))


def reward_of(mode: str, prompt: int, index: int, prompts: int) -> float:
    """The verdict wanted of a rollout: with it every group is mixed, the first quarter of them, or none.

    In a mixed group the rollouts of odd index are right.
    """
    mixed = {"all_mixed": prompts, "quarter_mixed": max(1, prompts // 4), "silent": 0}[mode]
    return float(prompt < mixed and index % 2 == 1)


def prompt_texts(tokenizer: Any, shape: Shape) -> list[str]:
    """Distinct plain texts of about `shape.prompt_tokens` tokens: sums written one after another."""
    texts = []
    for tokens in prompt_ids(tokenizer, shape):
        texts.append(tokenizer.decode(tokens, skip_special_tokens=True))
    return texts


def prompt_ids(tokenizer: Any, shape: Shape) -> list[list[int]]:
    """Distinct prompts of exactly `shape.prompt_tokens` tokens."""
    prompts = []
    for number in range(shape.prompts):
        terms = (f"{a} + {number + 1} = {a + number + 1}." for a in range(number, number + shape.prompt_tokens))
        ids = tokenizer(" ".join(terms)).input_ids[: shape.prompt_tokens]
        prompts.append([int(token) for token in ids])
    return prompts
