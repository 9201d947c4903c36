"""Log-probabilities of chosen tokens from hidden states, without a [tokens × vocabulary] tensor.

Logits are made chunk by chunk, reduced to what is wanted and dropped; backward makes them again. Memory is
therefore that of one chunk, whatever the number of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 96 * 2**20  # of fp32 logits; small enough for caches and laptops, large enough for a full GEMM


def chunk_rows(vocabulary: int) -> int:
    """Tokens per chunk so that its fp32 logits take about CHUNK_BYTES."""
    return max(16, CHUNK_BYTES // (4 * vocabulary))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, inverse_temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits.mul_(inverse_temperature) if inverse_temperature != 1.0 else logits


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, inverse_temperature: float
    ) -> Tensor:
        logps, normalisers = [], []
        rows = chunk_rows(weight.shape[0])
        for part, target in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = _logits(part, weight, bias, inverse_temperature)
            normaliser = logits.logsumexp(-1)
            logps.append(logits.gather(1, target[:, None]).squeeze(1) - normaliser)
            normalisers.append(normaliser)
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(normalisers))
        ctx.inverse_temperature = inverse_temperature
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalisers = ctx.saved_tensors
        grad_logp = grads[0]
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        rows = chunk_rows(weight.shape[0])
        for start in range(0, len(hidden), rows):
            piece = slice(start, start + rows)
            logits = _logits(hidden[piece], weight, bias, ctx.inverse_temperature)
            # d logp / d logits = onehot − softmax, each over the temperature
            scaled = grad_logp[piece, None] * ctx.inverse_temperature
            grad = logits.sub_(normalisers[piece, None]).exp_().mul_(-scaled)
            grad.scatter_add_(1, targets[piece, None], scaled)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[piece] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden[piece]
            if grad_bias is not None:
                grad_bias += grad.float().sum(0)
        as_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        as_bias = None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, as_weight, as_bias, None, None


def token_logps(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """Hidden states (T, d), output weight (V, d), targets (T,) → logp (T,) in fp32 and nats, with gradient.

    Of softmax(logits / temperature). Logits are multiplied in the model's type, everything after in fp32.
    """
    # torch leaves Function.apply without annotations
    logp: Tensor = _TokenLogps.apply(hidden, weight, bias, targets, 1.0 / temperature)  # type: ignore[no-untyped-call]
    return logp
