"""The arithmetic that the work requires at least, in floating-point operations.

Multiplications and additions of weights with tokens are counted, as in arXiv:2001.08361 §2.1: 2 per weight and token in
the forward pass, 4 in the backward pass. Attention scores are not counted, so a share of the limit is too low rather
than too high.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from onedial.training.lm.decoder import get_base_model


@dataclass(frozen=True)
class WeightCounts:
    """The number of weights of a model that every token uses (`body`), and of its output projection (`head`)."""

    body: int
    head: int


def count_weights(model: nn.Module) -> WeightCounts:
    """Counts a causal LM's weights; embeddings are looked up, not multiplied, and count only as the head."""
    base = get_base_model(model)
    head = base.get_output_embeddings().weight  # type: ignore[operator]
    tables = {id(head), id(base.get_input_embeddings().weight)}  # type: ignore[operator]
    body = sum(weight.numel() for weight in base.parameters() if id(weight) not in tables)
    return WeightCounts(body, head.numel())


def decode_flops(weights: WeightCounts, rows: int) -> int:
    """One decode step: each row passes the body and the head once, forward."""
    return 2 * (weights.body + weights.head) * rows


def update_flops(weights: WeightCounts, prompt_tokens: int, completion_tokens: int) -> int:
    """Forward and backward: prompts, once per group, through the body; completions through the body and the head."""
    return 6 * weights.body * (prompt_tokens + completion_tokens) + 6 * weights.head * completion_tokens
