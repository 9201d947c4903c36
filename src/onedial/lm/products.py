"""Attention as plain matrix products, for whole sequences on a CPU.

Torch's fused CPU kernel is made for long sequences: on the short, many-headed pieces of a training step its backward
pass takes many times as long as the products that it consists of. Here the products are called directly, in pieces
small enough for the last cache. Scores and softmax are fp32; what is multiplied with values and gradients has the
model's type.

Shapes: n sequences, K key heads, r query heads that share one, L queries, J keys, D head size; M = r·L.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PIECE = 1 << 20  # scores made at a time: 4 MB of fp32
KEPT_KEYS = 256  # up to so many keys the probabilities are kept for backward, beyond they are made again


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
        out = torch.empty_like(query)
        keeps = key.shape[2] <= KEPT_KEYS and any(ctx.needs_input_grad)
        kept = []
        for piece in _pieces(query, key):
            probabilities = _probabilities(query[piece], key[piece], _of(bias, piece), scale)
            _multiply(probabilities, value[piece], out[piece])
            if keeps:
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, bias, out, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, out, *kept = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        # Σ_j p_j ∂p_j = ⟨∂out, out⟩, the term with which the softmax centres its gradient (arXiv:2205.14135, §B.4)
        centre = (grad.float() * out.float()).sum(-1, keepdim=True)
        for number, piece in enumerate(_pieces(query, key)):
            if kept:
                probabilities = kept[number]
            else:
                probabilities = _probabilities(query[piece], key[piece], _of(bias, piece), ctx.scale)
            _multiply(probabilities.transpose(2, 3), grad[piece], grad_value[piece])
            # fp32 until the centre is subtracted: the difference is much smaller than its terms
            score = grad[piece].float() @ value[piece].float().transpose(2, 3)
            score = score.sub_(centre[piece]).mul_(probabilities).mul_(ctx.scale).to(query.dtype)
            _multiply(score, key[piece], grad_query[piece])
            _multiply(score.transpose(2, 3), query[piece], grad_key[piece])
        return grad_query, grad_key, grad_value, None, None


def _pieces(query: Tensor, key: Tensor) -> list[slice]:
    """Sequences taken at a time."""
    count = max(1, PIECE // max(1, query.shape[1] * query.shape[2] * key.shape[2]))
    return [slice(start, start + count) for start in range(0, len(query), count)]


def _of(bias: Tensor, piece: slice) -> Tensor:
    return bias[piece] if len(bias) > 1 else bias


def _probabilities(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> Tensor:
    """(n, K, M, D), (n, K, J, D), (n or 1, L, J) → (n, K, M, J) softmax of scaled scores, in the query's type."""
    scores = (query.float() * scale) @ key.float().transpose(2, 3)
    n, heads, _, keys = scores.shape
    scores.view(n, heads, -1, bias.shape[1], keys).add_(bias[:, None, None])
    return scores.softmax(-1).to(query.dtype)


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out=out.flatten(0, 1))


def product_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """(n, K, M, D), (n, K, J, D) ×2 → (n, K, M, D): softmax(scale·QKᵀ + bias)·V.

    `bias` (n or 1, L, J) in fp32 is added to the scores of every head: 0 where a query may see a key, else −inf;
    every query must see a key.
    """
    tensors = (query.contiguous(), key.contiguous(), value.contiguous())
    out: Tensor = _Attention.apply(*tensors, bias, scale)  # type: ignore[no-untyped-call]
    return out
