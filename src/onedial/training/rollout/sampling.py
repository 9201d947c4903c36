"""Samples one token per sequence from logits, by inverting the distribution function at a given uniform number.

Each sequence has its own uniform numbers, so its tokens do not depend on the other sequences in the batch. Two passes
over the logits: softmax, then sums over blocks of the vocabulary; only one block per sequence is searched.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 512


class Sampled(NamedTuple):
    """One token for each of B sequences, and its log-probability in fp32 and nats, (B,) each.

    `logp` is that of the distribution sampled from: at the temperature, renormalized after top-k and top-p.
    `unfiltered_logp` is the policy's own at that temperature; None if neither filter was on, when both are the same.
    """

    token: Tensor
    logp: Tensor
    unfiltered_logp: Tensor | None = None


def sample(logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float) -> Sampled:
    """Samples from logits (B, V) by uniform numbers in [0, 1), (B,).

    temperature 0 takes the most likely token (the first of equals) and reports its log-probability at temperature 1.
    """
    if temperature == 0:
        scores = logits.float()
        token = scores.argmax(-1)
        return Sampled(token, _read_logp(token, scores))
    scores = logits if temperature == 1.0 else logits.float() / temperature
    if top_k <= 0 and top_p >= 1.0:
        return _draw(scores, uniform)
    scores = scores.float()
    token, logp, _ = _draw(filter_scores(scores, top_k, top_p), uniform)
    return Sampled(token, logp, _read_logp(token, scores))


def _draw(scores: Tensor, uniform: Tensor) -> Sampled:
    probability = scores.softmax(-1, dtype=torch.float32)
    token = _invert(probability, uniform)
    return Sampled(token, probability.gather(1, token[:, None]).squeeze(1).log())


def _read_logp(token: Tensor, scores: Tensor) -> Tensor:
    return scores.gather(1, token[:, None]).squeeze(1) - scores.logsumexp(-1)


def filter_scores(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """(B, V) with −inf on tokens outside the k most likely ones, then outside the smallest set of mass ≥ top_p.

    Equal scores at the border of the set are all kept. The most likely token always stays.
    """
    if 0 < top_k < scores.shape[-1]:
        least = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p < 1.0:
        ordered = _head_of_distribution(scores, top_p)
        mass_before = ordered.softmax_mass - ordered.probability
        least = ordered.scores.masked_fill(mass_before >= top_p, torch.inf).amin(-1, keepdim=True)
        scores = scores.masked_fill(scores < least, -torch.inf)
    return scores


class _Ordered:
    """The most likely scores in descending order, their probabilities and cumulative mass."""

    def __init__(self, scores: Tensor, normalizer: Tensor) -> None:
        self.scores = scores
        self.probability = (scores - normalizer).exp()
        self.softmax_mass = self.probability.cumsum(-1)


def _head_of_distribution(scores: Tensor, top_p: float, first: int = 1024) -> _Ordered:
    """The largest scores, sorted, as many as hold `top_p` of the mass; the whole vocabulary only if needed."""
    normalizer = scores.logsumexp(-1, keepdim=True)
    head = _Ordered(scores.topk(min(first, scores.shape[-1]), dim=-1).values, normalizer)
    if bool((head.softmax_mass[:, -1] >= top_p).all()):
        return head
    return _Ordered(scores.sort(dim=-1, descending=True).values, normalizer)


def _block_size(vocabulary: int) -> int:
    """The largest divisor of the vocabulary up to BLOCK; 0 when only tiny ones divide it."""
    best = max(size for size in range(1, BLOCK + 1) if vocabulary % size == 0)
    return best if best >= 32 else 0


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Probabilities (B, V), up to a factor → index where the running sum passes u·total."""
    vocabulary = weights.shape[1]
    size = _block_size(vocabulary)
    if size == 0:
        weights = torch.nn.functional.pad(weights, (0, -weights.shape[1] % BLOCK))
        size = BLOCK
    blocks = weights.view(len(weights), -1, size)
    sums = blocks.sum(-1).double().cumsum(-1)
    total = sums[:, -1]
    target = uniform.to(total) * total
    block = _first_above(sums, target)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)[:, None]).squeeze(1), 0.0)
    inside = blocks[torch.arange(len(blocks), device=weights.device), block].double().cumsum(-1)
    place = _first_above(inside, target - before)
    return (block * size + place).clamp(max=vocabulary - 1)  # nan weights are no reason to leave the table


def _first_above(running: Tensor, target: Tensor) -> Tensor:
    """(B,) first index whose running sum exceeds the target; rounding at the end falls on the last positive term."""
    index = torch.searchsorted(running, target[:, None].contiguous(), right=True).squeeze(1)
    last = torch.searchsorted(running, running[:, -1:].contiguous()).squeeze(1)
    return torch.minimum(index, last).clamp(max=running.shape[1] - 1)
