"""Log-probabilities of chosen tokens from hidden states, without a [tokens × vocabulary] tensor of logits.

Logits are computed chunk by chunk and reduced to the log-probabilities. Backward needs onehot(target) − softmax of
every token: if all of it is small, it is kept in the model's type; otherwise it is recomputed chunk by chunk, so memory
is bounded for any number of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 96 * 2**20  # of fp32 logits; small enough for caches and laptops, large enough for a full GEMM
KEPT_BYTES = 192 * 2**20  # of onehot − softmax kept for backward


def count_chunk_tokens(vocabulary: int) -> int:
    """Returns the tokens per chunk for which the fp32 logits take about CHUNK_BYTES."""
    return max(16, CHUNK_BYTES // (4 * vocabulary))


def chunk_log_probabilities(hidden: Tensor, weight: Tensor, bias: Tensor | None, inverse_temperature: float) -> Tensor:
    """(t, V) fp32."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if inverse_temperature != 1.0:
        logits.mul_(inverse_temperature)
    return logits.log_softmax(-1)


def _logit_grad(log_probabilities: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """(t, V) gradient of log p(target) with respect to the logits: onehot(target) − softmax. Overwrites its input."""
    grad = log_probabilities.exp_().neg_()
    grad.scatter_add_(1, targets[:, None], torch.ones_like(targets[:, None], dtype=grad.dtype))
    return grad.to(dtype)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, inverse_temperature: float
    ) -> Tensor:
        chunk_tokens = count_chunk_tokens(weight.shape[0])
        small = len(hidden) * weight.shape[0] * hidden.element_size() <= KEPT_BYTES
        logps, kept = [], []
        for part, target in zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True):
            log_probabilities = chunk_log_probabilities(part, weight, bias, inverse_temperature)
            logps.append(log_probabilities.gather(1, target[:, None]).squeeze(1))
            if small and any(ctx.needs_input_grad):
                kept.append(_logit_grad(log_probabilities, target, hidden.dtype))
        ctx.save_for_backward(hidden, weight, bias, targets, *kept)
        ctx.inverse_temperature, ctx.chunk_tokens = inverse_temperature, chunk_tokens
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, *kept = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = None
        # the sum of two products is rounded once whichever type it is made in
        sum_type = torch.float32 if len(hidden) > 2 * ctx.chunk_tokens else weight.dtype
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        scale = grads[0][:, None] * ctx.inverse_temperature
        for number, start in enumerate(range(0, len(hidden), ctx.chunk_tokens)):
            piece = slice(start, start + ctx.chunk_tokens)
            if kept:
                grad_logits = kept[number]
            else:
                log_probabilities = chunk_log_probabilities(hidden[piece], weight, bias, ctx.inverse_temperature)
                grad_logits = _logit_grad(log_probabilities, targets[piece], hidden.dtype)
            # each token's gradient is a factor: cheaper to apply to hidden states than to logits
            if grad_hidden is not None:
                grad_hidden[piece] = (grad_logits @ weight) * scale[piece]
            if wants_weight:
                product = grad_logits.t() @ (hidden[piece] * scale[piece]).to(hidden.dtype)
                grad_weight = product.to(sum_type) if grad_weight is None else grad_weight.add_(product)
            if grad_bias is not None:
                grad_bias += (grad_logits.float() * scale[piece]).sum(0)
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
