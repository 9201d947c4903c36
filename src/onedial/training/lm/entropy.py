"""Log-probabilities of chosen tokens together with the entropy of the whole distribution, chunk by chunk.

For rows with an entropy bonus. No [tokens × vocabulary] table outlives its chunk: backward computes each chunk anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onedial.training.lm.head import chunk_log_probabilities, count_chunk_tokens


class _LogpsAndEntropies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, inverse_temperature: float
    ) -> tuple[Tensor, Tensor]:
        logps, entropies = [], []
        size = count_chunk_tokens(weight.shape[0])
        for part, target in zip(hidden.split(size), targets.split(size), strict=True):
            table = chunk_log_probabilities(part, weight, bias, inverse_temperature)
            logps.append(table.gather(1, target[:, None]).squeeze(1))
            entropies.append(-(table.exp() * table).sum(1))
        entropy = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy)
        ctx.inverse_temperature, ctx.size = inverse_temperature, size
        return torch.cat(logps), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """With p = softmax(z): ∂log p_y/∂z = onehot(y) − p, and ∂H/∂z = −p·(log p + H)."""
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        for start in range(0, len(hidden), ctx.size):
            piece = slice(start, start + ctx.size)
            table = chunk_log_probabilities(hidden[piece], weight, bias, ctx.inverse_temperature)
            of_logp, of_entropy = grads[0][piece, None], grads[1][piece, None]
            grad = -table.exp() * (of_logp + of_entropy * (table + entropy[piece, None]))
            grad.scatter_add_(1, targets[piece, None], of_logp)
            grad_logits = grad.mul_(ctx.inverse_temperature).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[piece] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight += grad_logits.t() @ hidden[piece]
            if grad_bias is not None:
                grad_bias += grad_logits.float().sum(0)
        as_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        as_bias = None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, as_weight, as_bias, None, None


def token_entropies(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Hidden states (T, d), output weight (V, d), targets (T,) → logp (T,) and entropy (T,) in fp32 and nats.

    Both of softmax(logits / temperature) and with gradient; see `lm.head.token_logps`.
    """
    # torch leaves Function.apply without annotations
    logp, entropy = _LogpsAndEntropies.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, 1.0 / temperature
    )
    return logp, entropy
