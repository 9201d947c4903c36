"""One hook lets any Hugging Face causal LM run on packed tokens.

A model's linear layers and norms do not care which token belongs to which sequence; only attention does. So the
models run on one flat row of tokens without padding, with their attention replaced by a function that asks the
`Layout` in use. A layout knows what each token may see:

    PrefixLayout   training: every prompt once, its completions after it, all exact (`pack`)
    PrefillLayout  generation: prompts only; their keys and values go to memory (`onedial.lm.memory`)
    DecodeLayout   generation: one new token per row over that memory

Shapes here: T tokens of the flat row, H query heads, K key/value heads, D head size.
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

from onedial.batch import Batch
from onedial.errors import DataError

ATTENTION_NAME = "onedial"


class Layout(Protocol):
    """Who sees whom among the tokens of one flat row."""

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
def using(layout: Layout) -> Iterator[None]:
    """Model calls inside attend as `layout` says, recomputation in backward included."""
    _layouts.append(layout)
    try:
        yield
    finally:
        _layouts.pop()


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """The function Hugging Face models call: (1, H, T, D), (1, K, T, D), (1, K, T, D) → (1, T, H, D)."""
    if not _layouts:
        raise RuntimeError("a model with onedial's attention was called outside `with using(layout)`")
    layout = _layouts[-1]
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
    """Hugging Face builds no mask: the layout knows."""


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


def use_packed_attention(model: nn.Module) -> None:
    """Makes a Hugging Face model attend through layouts.

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


def causal_mask(length: int, repeat: int, device: torch.device) -> Tensor:
    """(repeat·L, L) True where query may see key; right padding needs no more, as pads come last."""
    allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return allowed.repeat(repeat, 1)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """(n, L, H, D), (n, L, K, D) ×2 → (n, L, H, D) causal attention of n right-padded sequences."""
    length, kv_heads = query.shape[1], key.shape[2]
    mask = causal_mask(length, query.shape[2] // kv_heads, query.device)
    folded = fold_heads(query, kv_heads)
    out = F.scaled_dot_product_attention(folded, key.transpose(1, 2), value.transpose(1, 2), mask, scale=scale)
    return unfold_heads(out, length)


@dataclass(frozen=True)
class Padding:
    """Index maps between n ragged segments laid flat and a padded (n, L) block."""

    to_padded: Tensor  # (n·L,) flat index of each padded place; pads repeat the segment's first token
    to_flat: Tensor  # (T,) padded place of each flat token
    count: int
    length: int

    @classmethod
    def of(cls, offsets: Tensor, start: int = 0) -> Padding:
        """Maps for segments with these (n+1,) offsets, the first token lying at `start` of the flat row."""
        lengths = offsets[1:] - offsets[:-1]
        length = int(lengths.max()) if len(lengths) else 0
        place = torch.arange(length, device=offsets.device)
        inside = place < lengths[:, None]
        flat = offsets[:-1, None] + torch.where(inside, place, 0)
        flat = flat.clamp(max=max(int(offsets[-1]) - 1, 0))  # an empty last segment has no first token to repeat
        return cls((flat + start).flatten(), inside.flatten().nonzero().squeeze(1), len(lengths), length)

    def pad(self, flat: Tensor) -> Tensor:
        """(T_all, …) → (n, L, …)."""
        return flat.index_select(0, self.to_padded).view(self.count, self.length, *flat.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """(n, L, …) → (T, …)."""
        return padded.flatten(0, 1).index_select(0, self.to_flat)


class PrefixLayout:
    """Training layout: [all prompts | all completions] flat; a prompt is computed once for its whole group.

    Completion tokens see their prompt and their own past, as if each row had been computed alone; the result is
    exactly the unshared one, and so is the gradient that reaches the prompt from all its completions.
    """

    def __init__(self, batch: Batch) -> None:
        device = batch.tokens.device
        prompt_lengths = batch.prompt_offsets[1:] - batch.prompt_offsets[:-1]
        lengths = batch.lengths
        self.num_prompt_tokens = len(batch.prompt_tokens)
        self.tokens = torch.cat([batch.prompt_tokens, batch.tokens])
        row = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        place = torch.arange(len(batch.tokens), device=device) - batch.offsets[:-1][row]
        prompt_row = torch.repeat_interleave(torch.arange(len(prompt_lengths), device=device), prompt_lengths)
        prompt_place = torch.arange(self.num_prompt_tokens, device=device) - batch.prompt_offsets[:-1][prompt_row]
        self.positions = torch.cat([prompt_place, prompt_lengths[batch.group][row] + place])
        self.group = batch.group
        self.prompts = Padding.of(batch.prompt_offsets)
        self.rows = Padding.of(batch.offsets, start=self.num_prompt_tokens)
        self.longest = int(self.positions.max()) + 1
        # the token that predicts each completion token: the one before it, or the prompt's last
        before = torch.arange(len(batch.tokens), device=device) + self.num_prompt_tokens - 1
        first = place == 0
        self.predictors = torch.where(first, (batch.prompt_offsets[1:] - 1)[batch.group][row], before)
        key_place = torch.arange(self.prompts.length, device=device)
        self.sees_prompt = key_place < prompt_lengths[batch.group][:, None]  # (B, P)
        self._masks: dict[int, Tensor] = {}

    def _mask(self, repeat: int) -> Tensor:
        """(B, 1, repeat·L, P+L): a completion token sees its whole prompt and its own past."""
        if repeat not in self._masks:
            own = causal_mask(self.rows.length, repeat, self.positions.device)
            prompt = self.sees_prompt[:, None].expand(-1, len(own), -1)
            self._masks[repeat] = torch.cat([prompt, own.expand(len(prompt), -1, -1)], dim=2).unsqueeze(1)
        return self._masks[repeat]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        prompts, rows = self.prompts, self.rows
        prompt_key, prompt_value = prompts.pad(key), prompts.pad(value)
        prompt_out = causal_attention(prompts.pad(query), prompt_key, prompt_value, scale)
        row_key = torch.cat([prompt_key.index_select(0, self.group), rows.pad(key)], dim=1)
        row_value = torch.cat([prompt_value.index_select(0, self.group), rows.pad(value)], dim=1)
        kv_heads = key.shape[1]
        out = F.scaled_dot_product_attention(
            fold_heads(rows.pad(query), kv_heads),
            row_key.transpose(1, 2),
            row_value.transpose(1, 2),
            self._mask(query.shape[1] // kv_heads),
            scale=scale,
        )
        return torch.cat([prompts.unpad(prompt_out), rows.unpad(unfold_heads(out, rows.length))])
