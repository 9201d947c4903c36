"""Attention as plain matrix products, for whole sequences on a CPU.

Torch's fused CPU kernel is built for long sequences: on the short sequences of a training step its backward pass takes
many times as long as the matrix products it consists of. Here the products are called directly, in pieces small enough
for the last-level cache. Scores and softmax are fp32; the products with values and gradients use the model's type. A
prompt's keys and values are stored once for all rollouts of its group.

Shapes: n rollouts of N prompts, P prompt tokens, L completion tokens, J = P + L keys, K key heads, r query heads that
share a key head, M = r·L queries of a key head, D head size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

PIECE = 1 << 20  # scores made at a time: 4 MB of fp32
KEPT_KEYS = 256  # up to this many keys the probabilities are kept for backward; beyond it they are recomputed
_mkldnn: Any = torch.backends.mkldnn


class Prefix(NamedTuple):
    """Keys and values (N, K, P, D) of the prompts, and the number of each rollout's prompt (n,)."""

    key: Tensor
    value: Tensor
    group: Tensor


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prompt_key: Tensor | None,
        prompt_value: Tensor | None,
        group: Tensor | None,
        bias: Tensor,
        scale: float,
    ) -> Tensor:
        out = torch.empty_like(query)
        keeps = bias.shape[2] <= KEPT_KEYS and any(ctx.needs_input_grad)
        kept = []
        for piece in _pieces(query, bias):
            keys = _whole(prompt_key, group, key, piece)
            probabilities = _probabilities(query[piece], keys, _of(bias, piece), scale)
            _multiply(probabilities, _whole(prompt_value, group, value, piece), out[piece])
            if keeps:
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, group, bias, out, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prompt_key, prompt_value, group, bias, out, *kept = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        prompts = (prompt_key, prompt_value)
        sums = [None if part is None else torch.zeros_like(part, dtype=torch.float32) for part in prompts]
        # Σ_j p_j ∂p_j = ⟨∂out, out⟩, the term with which the softmax centers its gradient (arXiv:2205.14135, §B.4)
        center = (grad.float() * out.float()).sum(-1, keepdim=True)
        for number, piece in enumerate(_pieces(query, bias)):
            keys = _whole(prompt_key, group, key, piece)
            probabilities = kept[number] if kept else _probabilities(query[piece], keys, _of(bias, piece), ctx.scale)
            # fp32 until the center is subtracted: the difference is much smaller than its terms
            values = _whole(prompt_value, group, value, piece)
            score = _exact_product(grad[piece], values)
            score = score.sub_(center[piece]).mul_(probabilities).mul_(ctx.scale).to(query.dtype)
            _multiply(score, keys, grad_query[piece])
            _share(score.transpose(2, 3) @ query[piece], grad_key[piece], sums[0], group, piece)
            _share(probabilities.transpose(2, 3) @ grad[piece], grad_value[piece], sums[1], group, piece)
        of_prompts = [None if part is None else part.to(query.dtype) for part in sums]
        return grad_query, grad_key, grad_value, *of_prompts, None, None, None


def _pieces(query: Tensor, bias: Tensor) -> list[slice]:
    """Returns slices of the rollouts that are computed at a time."""
    count = max(1, PIECE // max(1, query.shape[1] * query.shape[2] * bias.shape[2]))
    return [slice(start, start + count) for start in range(0, len(query), count)]


def _of(bias: Tensor, piece: slice) -> Tensor:
    return bias[piece] if len(bias) > 1 else bias


def _whole(prompt: Tensor | None, group: Tensor | None, own: Tensor, piece: slice) -> Tensor:
    """(n', K, J, D) keys or values of some rollouts: the prompt's, then the rollout's own."""
    if prompt is None or group is None:
        return own[piece]
    return torch.cat([prompt.index_select(0, group[piece]), own[piece]], dim=2)


def _share(grad: Tensor, own: Tensor, prompts: Tensor | None, group: Tensor | None, piece: slice) -> None:
    """Adds the gradient (n', K, J, D) of keys or values to the rollouts' own part and, summed, to the prompts' part."""
    if prompts is None or group is None:
        own.copy_(grad)
        return
    places = prompts.shape[2]
    own.copy_(grad[:, :, places:])
    member = (torch.arange(len(prompts), device=group.device)[:, None] == group[piece]).to(grad.dtype)
    prompts.add_((member @ grad[:, :, :places].flatten(1)).view_as(prompts))


def _probabilities(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> Tensor:
    """(n, K, M, D), (n, K, J, D), (n or 1, L, J) → (n, K, M, J) softmax of scaled scores, in the query's type."""
    scores = _exact_product(query, key)
    n, heads, _, keys = scores.shape
    by_place = scores.view(n, heads, -1, bias.shape[1], keys)
    torch.add(bias[:, None, None], by_place, alpha=scale, out=by_place)
    return scores.softmax(-1).to(query.dtype)


def _exact_product(left: Tensor, right: Tensor) -> Tensor:
    """(…, M, D), (…, J, D) → (…, M, J) = left·rightᵀ in fp32.

    The processor may multiply in bfloat16 and add in fp32, which is faster, only if both factors are bfloat16 numbers,
    because then nothing is lost.
    """
    halves = left.dtype == right.dtype == torch.bfloat16
    before = _mkldnn.matmul.fp32_precision
    if halves:
        _mkldnn.matmul.fp32_precision = "bf16"
    try:
        return left.float() @ right.float().transpose(-1, -2)
    finally:
        if halves:
            _mkldnn.matmul.fp32_precision = before


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out=out.flatten(0, 1))


def product_attention(
    query: Tensor, key: Tensor, value: Tensor, prefix: Prefix | None, bias: Tensor, scale: float
) -> Tensor:
    """(n, K, M, D), (n, K, L, D) ×2 → (n, K, M, D): softmax(scale·QKᵀ + bias)·V over the prefix and the own places.

    `bias` (n or 1, L, J) in fp32 is added to the scores of every head: 0 where a query may see a key, else −inf;
    every query must see a key.
    """
    before = (prefix.key.contiguous(), prefix.value.contiguous(), prefix.group) if prefix else (None, None, None)
    own = (query.contiguous(), key.contiguous(), value.contiguous())
    out: Tensor = _Attention.apply(*own, *before, bias, scale)  # type: ignore[no-untyped-call]
    return out
