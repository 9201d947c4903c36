"""One hook lets any Hugging Face causal LM run on packed tokens.

Linear layers and norms do not depend on which token belongs to which sequence; only attention does. So the models run
on one flat sequence of tokens without padding, and their attention is replaced by a function that calls the `Layout` in
use. A layout decides what each token attends to:

    PrefixLayout   training: every prompt once, followed by its completions
    PrefillLayout  generation: prompts only; their keys and values go to the KV cache (`onedial.training.lm.kv_cache`)
    DecodeLayout   generation: one new token per sequence, over that cache

Shapes here: T tokens of the flat sequence, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from onedial.core.batch import Batch
from onedial.core.errors import DataError
from onedial.training.lm.cpu_attention import Prefix, product_attention

ATTENTION_NAME = "onedial"


class Layout(Protocol):
    """Which tokens of a flat sequence attend to which."""

    positions: Tensor  # (T,) position of each token in its own sequence

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, for models whose attention window is bounded."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(T, H, D), (T, K, D), (T, K, D) → (T, H, D)."""
        ...


_layouts: list[Layout] = []  # a stack; not a context variable, because CUDA's backward runs in a thread of its own


@contextmanager
def use_layout(layout: Layout) -> Iterator[None]:
    """Within this context model calls attend by `layout`, including recomputation in backward."""
    _layouts.append(layout)
    try:
        yield
    finally:
        _layouts.pop()


def get_layout() -> Layout:
    """The layout of the innermost `with use_layout(layout)`."""
    if not _layouts:
        raise RuntimeError("a model with onedial's attention was called outside `with using(layout)`")
    return _layouts[-1]


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """The function Hugging Face models call: (1, H, T, D), (1, K, T, D), (1, K, T, D) → (1, T, H, D)."""
    layout = get_layout()
    window = options.get("sliding_window")
    unsupported = [name for name in ("softcap", "s_aux") if options.get(name) is not None]
    if window is not None and layout.longest > window:
        unsupported.append(f"sliding_window={window} with a sequence of {layout.longest} tokens")
    if unsupported:
        raise DataError(f"{type(module).__name__} uses {', '.join(unsupported)}, which packed attention cannot do yet")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    index = getattr(module, "layer_idx", 0)
    out = layout.attend(index, query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), scale)
    return out.unsqueeze(0), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Makes Hugging Face build no mask, because the layout decides."""


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


def use_packed_attention(model: nn.Module) -> None:
    """Makes a Hugging Face model use layouts for its attention.

    Raises DataError for models that do not take part in transformers' attention interface.
    """
    try:
        model.set_attn_implementation(ATTENTION_NAME)  # type: ignore[operator]
    except (ValueError, AttributeError) as error:
        raise DataError(f"{type(model).__name__} does not support exchangeable attention: {error}") from error


def fold_heads(query: Tensor, kv_heads: int) -> Tensor:
    """(n, L, H, D) → (n, K, H/K·L, D): query heads that share a key head become further queries of it."""
    n, length, heads, size = query.shape
    repeat = heads // kv_heads
    return query.view(n, length, kv_heads, repeat, size).permute(0, 2, 3, 1, 4).reshape(n, kv_heads, -1, size)


def unfold_heads(out: Tensor, length: int) -> Tensor:
    """(n, K, H/K·L, D) → (n, L, H, D), the inverse of `fold_heads`."""
    n, kv_heads, _, size = out.shape
    return out.view(n, kv_heads, -1, length, size).permute(0, 3, 1, 2, 4).reshape(n, length, -1, size)


BLOCK = 128  # queries of a sequence taken at a time, so that keys in their future cost nothing


def mask_own_past(length: int, device: torch.device) -> Tensor:
    """(1, L, L) True if a query may see a key of its own sequence. Padding comes last and needs no mask of its own."""
    return torch.ones(1, length, length, dtype=torch.bool, device=device).tril()


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scale: float, prefix: Prefix | None = None
) -> Tensor:
    """(n, L, H, D), (n, L, K, D) ×2 → (n, L, H, D): each sequence over its prefix, if any, and its own past.

    `allowed` (n or 1, L, P+L) is True where a query may see a key; never one in its future.
    """
    length, kv_heads = query.shape[1], key.shape[2]
    earlier = allowed.shape[2] - length
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    parts = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        folded = fold_heads(query[:, start:end], kv_heads)
        sees = allowed[:, start:end, : earlier + end]
        part = _attend(folded, key[:, :, :end], value[:, :, :end], prefix, sees, scale)
        parts.append(unfold_heads(part, end - start))
    return torch.cat(parts, dim=1) if len(parts) != 1 else parts[0]


def _attend(query: Tensor, key: Tensor, value: Tensor, prefix: Prefix | None, allowed: Tensor, scale: float) -> Tensor:
    """(n, K, r·L', D), (n, K, L, D) ×2, (n or 1, L', P+L) → (n, K, r·L', D) for L' of L queries."""
    if query.device.type == "cpu":
        return product_attention(query, key, value, prefix, make_additive(allowed, torch.float32), scale)
    if prefix is not None:
        key = torch.cat([prefix.key.index_select(0, prefix.group), key], dim=2)
        value = torch.cat([prefix.value.index_select(0, prefix.group), value], dim=2)
    mask = allowed.repeat(1, query.shape[2] // allowed.shape[1], 1).unsqueeze(1)
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)


def make_additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool → 0 where allowed, −inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf)


class _Pad(torch.autograd.Function):
    """Moves flat tokens to padded places; backward copies the gradients at these places and sums nothing."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, to_padded: Tensor, to_flat: Tensor) -> Tensor:
        ctx.save_for_backward(to_flat)
        return flat.index_select(0, to_padded)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (to_flat,) = ctx.saved_tensors
        return grads[0].index_select(0, to_flat), None, None


class _Unpad(torch.autograd.Function):
    """Moves padded places to flat tokens; backward gives 0 at the padding."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, to_flat: Tensor) -> Tensor:
        ctx.save_for_backward(to_flat)
        ctx.places = len(padded)
        return padded.index_select(0, to_flat)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (to_flat,) = ctx.saved_tensors
        grad = grads[0].new_zeros(ctx.places, *grads[0].shape[1:])
        return grad.index_copy_(0, to_flat, grads[0]), None


@dataclass(frozen=True)
class Padding:
    """Index maps between n ragged segments laid flat and a padded (n, L) block."""

    to_padded: Tensor  # (n·L,) flat index of each padded place; pads repeat the segment's first token
    to_flat: Tensor  # (T,) padded place of each flat token
    count: int
    length: int

    @classmethod
    def of(cls, offsets: Tensor) -> Padding:
        """Maps for segments with these (n+1,) offsets."""
        lengths = offsets[1:] - offsets[:-1]
        length = int(lengths.max()) if len(lengths) else 0
        place = torch.arange(length, device=offsets.device)
        inside = place < lengths[:, None]
        flat = offsets[:-1, None] + torch.where(inside, place, 0)
        flat = flat.clamp(max=max(int(offsets[-1]) - 1, 0))  # an empty last segment has no first token to repeat
        return cls(flat.flatten(), inside.flatten().nonzero().squeeze(1), len(lengths), length)

    def pad(self, flat: Tensor) -> Tensor:
        """(T, …) → (n, L, …). Values at the padding must not reach the loss: their gradient is dropped."""
        padded: Tensor = _Pad.apply(flat, self.to_padded, self.to_flat)  # type: ignore[no-untyped-call]
        return padded.view(self.count, self.length, *flat.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """(n, L, …) → (T, …)."""
        flat: Tensor = _Unpad.apply(padded.flatten(0, 1), self.to_flat)  # type: ignore[no-untyped-call]
        return flat


class PrefixLayout:
    """Training layout: [all prompts | all completions] flat; a prompt is computed once for its whole group.

    Completion tokens attend to their prompt and their own past, as if each rollout had been computed alone. The result
    is exactly that of separate sequences, and so is the gradient that reaches the prompt from all its completions.
    """

    def __init__(self, batch: Batch) -> None:
        device = batch.tokens.device
        prompt_lengths = batch.prompt_offsets[1:] - batch.prompt_offsets[:-1]
        lengths = batch.lengths
        self.num_prompt_tokens = len(batch.prompt_tokens)
        self.tokens = torch.cat([batch.prompt_tokens, batch.tokens])
        rollout = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        place = torch.arange(len(batch.tokens), device=device) - batch.offsets[:-1][rollout]
        prompt_of_token = torch.repeat_interleave(torch.arange(len(prompt_lengths), device=device), prompt_lengths)
        prompt_place = torch.arange(self.num_prompt_tokens, device=device) - batch.prompt_offsets[:-1][prompt_of_token]
        self.positions = torch.cat([prompt_place, prompt_lengths[batch.group][rollout] + place])
        self.group = batch.group
        self.prompts = Padding.of(batch.prompt_offsets)
        self.completions = Padding.of(batch.offsets)
        self.longest = int(self.positions.max()) + 1
        # the token that predicts each completion token: the one before it, or the prompt's last
        before = torch.arange(len(batch.tokens), device=device) + self.num_prompt_tokens - 1
        first = place == 0
        self.predictors = torch.where(first, (batch.prompt_offsets[1:] - 1)[batch.group][rollout], before)
        key_place = torch.arange(self.prompts.length, device=device)
        sees_prompt = key_place < prompt_lengths[batch.group][:, None]  # (B, P)
        own = mask_own_past(self.completions.length, device).expand(len(lengths), -1, -1)
        # (B, L, P+L): a completion token sees its whole prompt and its own past
        self.allowed = torch.cat([sees_prompt[:, None].expand(-1, self.completions.length, -1), own], dim=2)
        self.prompt_past = mask_own_past(self.prompts.length, device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        # every tensor is split once into prompts and completions, so that backward concatenates it once
        sizes = [self.num_prompt_tokens, len(self.tokens) - self.num_prompt_tokens]
        of_prompts, of_completions = zip(*(part.split(sizes) for part in (query, key, value)), strict=True)
        prompt_query, prompt_key, prompt_value = map(self.prompts.pad, of_prompts)
        prompt_out = causal_attention(prompt_query, prompt_key, prompt_value, self.prompt_past, scale)
        prefix = Prefix(prompt_key.transpose(1, 2), prompt_value.transpose(1, 2), self.group)
        completion_query, completion_key, completion_value = map(self.completions.pad, of_completions)
        completion_out = causal_attention(
            completion_query, completion_key, completion_value, self.allowed, scale, prefix
        )
        return torch.cat([self.prompts.unpad(prompt_out), self.completions.unpad(completion_out)])
