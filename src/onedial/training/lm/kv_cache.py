"""The KV cache of one decode batch. A prompt's keys and values are stored once for its whole group.

The cache is static: new tokens are written in place, nothing is concatenated token by token. It doubles in size when a
longer prompt, a longer completion or more sequences arrive. Letters: S prompt slots, B sequences being decoded, P
prompt capacity, L completion capacity, K key heads, D head size. Key heads come first, so that the sequences of one
prompt are next to each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onedial.training.lm.attention import (
    Padding,
    causal_attention,
    fold_heads,
    make_additive,
    mask_own_past,
    unfold_heads,
)

SHORT_KEYS = 512  # up to this many keys a CPU uses plain products, beyond that torch's fused kernel


class KVCache:
    """Per layer: keys and values of prompts (K, S, P, D) and of completions (K, B, L, D), allocated on first use."""

    def __init__(self, num_layers: int) -> None:
        self.prompt: list[tuple[Tensor, Tensor] | None] = [None] * num_layers
        self.own: list[tuple[Tensor, Tensor] | None] = [None] * num_layers

    def write_prompts(self, layer: int, slots: Tensor, num_slots: int, key: Tensor, value: Tensor) -> None:
        """Stores (n, P, K, D) padded prompt keys and values in the slots given, of `num_slots` in use."""
        pair = self.prompt[layer] = _room(self.prompt[layer], num_slots, key.shape[1], key)
        for table, new in zip(pair, (key, value), strict=True):
            table[:, slots, : key.shape[1]] = new.permute(2, 0, 1, 3)

    def write_own(
        self, layer: int, places: Tensor | int, length: int, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stores (B, K, D) of the newest token of sequences 0…B−1 at `places`, (B,) or one number for all.

        Returns the completions' keys and values, (K, B, length, D) each.
        """
        count = key.shape[0]
        pair = self.own[layer] = _room(self.own[layer], count, length, key)
        for table, new in zip(pair, (key, value), strict=True):
            if isinstance(places, int):
                table[:, :count, places] = new.transpose(0, 1)
            else:
                table[:, torch.arange(count, device=key.device), places] = new.transpose(0, 1)
        return pair[0][:, :count, :length], pair[1][:, :count, :length]

    def move_sequences(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copies the first `length` completion tokens of sequences `source` over sequences `target`."""
        for pair in self.own:
            for table in pair or ():
                table[:, target, :length] = table[:, source, :length]


def _room(pair: tuple[Tensor, Tensor] | None, count: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Tensors with room for `count` slots of `length` keys and values like (…, K, D), with the old content."""
    had = (pair[0].shape[1], pair[0].shape[2]) if pair else (0, 0)
    if pair is not None and had[0] >= count and had[1] >= length:
        return pair
    new_count = max(count, had[0] * 2) if count > had[0] else had[0]
    new_length = max(length, had[1] * 2, 16) if length > had[1] else had[1]

    def grow(old: Tensor | None) -> Tensor:
        new = like.new_zeros(like.shape[-2], new_count, new_length, like.shape[-1])
        if old is not None:
            new[:, : had[0], : had[1]] = old
        return new

    old_key, old_value = pair if pair else (None, None)
    return grow(old_key), grow(old_value)


class PrefillLayout:
    """Packed prompts; each attends to itself, and its keys and values are stored in a slot of the cache."""

    def __init__(self, cache: KVCache, offsets: Tensor, slots: Tensor, num_slots: int) -> None:
        self.cache, self.slots, self.num_slots = cache, slots, num_slots
        self.padding = Padding.of(offsets)
        lengths = offsets[1:] - offsets[:-1]
        prompt_of_token = torch.repeat_interleave(torch.arange(len(lengths), device=offsets.device), lengths)
        self.positions = torch.arange(int(offsets[-1]), device=offsets.device) - offsets[:-1][prompt_of_token]
        self.longest = self.padding.length
        self.past = mask_own_past(self.longest, offsets.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        padded_key, padded_value = self.padding.pad(key), self.padding.pad(value)
        self.cache.write_prompts(layer, self.slots, self.num_slots, padded_key, padded_value)
        out = causal_attention(self.padding.pad(query), padded_key, padded_value, self.past, scale)
        return self.padding.unpad(out)


class DecodeLayout:
    """One new token for each of B sequences, which attends to its group's prompt and its own past.

    The prompt's keys are read once for all sequences of the group. `slot` (B,) is the prompt slot of each sequence,
    `own` (B,) the completion tokens stored so far, `prompt_lengths` (S,) those of every slot in use. Call
    `set_sequences` when the sequences change and `advance` before each token.
    """

    positions: Tensor
    longest: int

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache

    def set_sequences(self, slot: Tensor, prompt_lengths: Tensor, dtype: torch.dtype) -> None:
        """Sets the prompt slot of each sequence and the prompt length of each slot."""
        device = slot.device
        self.prompt_length = prompt_lengths[slot]
        self.num_slots = int(slot.max()) + 1
        lengths = prompt_lengths[: self.num_slots].clamp(min=1)
        self.prompt_capacity = int(self.prompt_length.max())
        place = torch.arange(self.prompt_capacity, device=device)
        self.dtype = dtype
        inside = place < lengths[:, None]  # (S, P)
        # nothing to mask where all prompts in use are equally long
        self.prompt_mask = None if bool(inside.all()) else make_additive(inside, dtype)[:, None]  # (S, 1, P)
        # sequences sorted by slot fill a (S, n) block; the rest of the block repeats sequence 0 and is never read
        counts = torch.bincount(slot, minlength=self.num_slots)
        self.per_slot = int(counts.max())
        order = torch.argsort(slot, stable=True)
        within = torch.arange(len(slot), device=device) - (counts.cumsum(0) - counts)[slot[order]]
        block = slot[order] * self.per_slot + within
        self.to_block = torch.zeros(self.num_slots * self.per_slot, dtype=torch.long, device=device)
        self.to_block[block] = order
        self.to_sequence = torch.empty_like(order)
        self.to_sequence[order] = block
        everyone = torch.arange(len(self.to_block), device=device)
        self.in_order = len(slot) == len(everyone) and bool((self.to_block == everyone).all())
        self._prompts: dict[int, tuple[Tensor, Tensor]] = {}

    def advance(self, own: Tensor) -> None:
        """Sets the (B,) numbers of completion tokens stored so far."""
        self.length = int(own.max()) + 1
        self.positions = self.prompt_length + own
        self.longest = self.prompt_capacity + self.length
        ragged = int(own.min()) + 1 < self.length
        self.own: Tensor | int = own if ragged else self.length - 1
        place = torch.arange(self.length, device=own.device)
        self.own_mask = make_additive(place <= own[:, None], self.dtype)[:, None] if ragged else None  # (B, 1, L)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        short = query.device.type == "cpu" and self.longest <= SHORT_KEYS
        own = self.cache.write_own(layer, self.own, self.length, key, value)
        return (self._by_products if short else self._by_kernels)(layer, query, own, scale)

    def _by_products(self, layer: int, query: Tensor, own: tuple[Tensor, Tensor], scale: float) -> Tensor:
        """One softmax in fp32 over the prompt's and the sequence's own scores, without copying their keys together."""
        own_key, own_value = (part.float().flatten(0, 1) for part in own)  # (K·B, length, D)
        prompt_key, prompt_value = self._exact_prompts(layer)  # (K·S, P, D)
        kv_heads, count, capacity = own[0].shape[0], len(query), self.prompt_capacity
        by_head = query.view(count, kv_heads, -1, query.shape[2]).transpose(0, 1)
        folded = by_head.to(torch.float32, memory_format=torch.contiguous_format) * scale  # (K, B, H/K, D)
        own_score = torch.bmm(folded.flatten(0, 1), own_key.transpose(1, 2))
        if self.own_mask is not None:
            own_score.view(*folded.shape[:3], -1).add_(self.own_mask)
        score = torch.bmm(self._per_prompt(folded), prompt_key.transpose(1, 2))
        if self.prompt_mask is not None:
            score.view(kv_heads, self.num_slots, -1, capacity).add_(self.prompt_mask)
        share = torch.cat([self._per_sequence(score, kv_heads), own_score], dim=2).softmax(2)
        of_prompt = share[:, :, :capacity].unflatten(0, (kv_heads, count))
        out = self._per_sequence(torch.bmm(self._per_prompt(of_prompt), prompt_value), kv_heads)
        out = torch.baddbmm(out, share[:, :, capacity:], own_value).view_as(folded).transpose(0, 1)
        return out.to(query.dtype, memory_format=torch.contiguous_format).reshape(query.shape)

    def _exact_prompts(self, layer: int) -> tuple[Tensor, Tensor]:
        if layer not in self._prompts:
            key, value = self._read_prompts(layer)
            self._prompts[layer] = key.float().flatten(0, 1), value.float().flatten(0, 1)
        return self._prompts[layer]

    def _read_prompts(self, layer: int) -> tuple[Tensor, Tensor]:
        """(K, S, P, D) keys and values of the prompts in use."""
        pair = self.cache.prompt[layer]
        assert pair is not None, "a prompt is prefilled before its sequences decode"
        key, value = (part[:, : self.num_slots, : self.prompt_capacity] for part in pair)
        return key, value

    def _per_prompt(self, sequences: Tensor) -> Tensor:
        """(K, B, r, X) → (K·S, n·r, X): sequences grouped by prompt; a view if they are in that order already."""
        block = sequences if self.in_order else sequences.index_select(1, self.to_block)
        heads, _, shared, size = block.shape
        return block.reshape(heads * self.num_slots, self.per_slot * shared, size)

    def _per_sequence(self, prompts: Tensor, kv_heads: int) -> Tensor:
        """(K·S, n·r, X) → (K·B, r, X), the inverse of `_per_prompt`."""
        block = prompts.view(kv_heads, self.num_slots * self.per_slot, -1, prompts.shape[2])
        return (block if self.in_order else block.index_select(1, self.to_sequence)).flatten(0, 1)

    def _by_kernels(self, layer: int, query: Tensor, own: tuple[Tensor, Tensor], scale: float) -> Tensor:
        """Two partial attentions, merged exactly by their log-normalizers."""
        kv_heads = own[0].shape[0]
        folded = fold_heads(query[:, None], kv_heads)  # (B, K, H/K, D)
        own_key, own_value = (part.transpose(0, 1) for part in own)
        own_out, own_norm = partial_attention(folded, own_key, own_value, _of_heads(self.own_mask), scale)

        key, value = (part.transpose(0, 1) for part in self._read_prompts(layer))
        block = query.index_select(0, self.to_block).view(self.num_slots, self.per_slot, *query.shape[1:])
        folded, mask = fold_heads(block, kv_heads), _of_heads(self.prompt_mask)
        out, norm = partial_attention(folded, key, value, mask, scale)
        prompt_out = unfold_heads(out, self.per_slot).flatten(0, 1).index_select(0, self.to_sequence)
        prompt_norm = unfold_heads(norm.unsqueeze(-1), self.per_slot).flatten(0, 1).index_select(0, self.to_sequence)

        own_out, own_norm = unfold_heads(own_out, 1).squeeze(1), unfold_heads(own_norm.unsqueeze(-1), 1).squeeze(1)
        share = torch.sigmoid(prompt_norm - own_norm)  # e^a / (e^a + e^b)
        return torch.lerp(own_out, prompt_out.to(own_out.dtype), share.to(own_out.dtype))


def _of_heads(mask: Tensor | None) -> Tensor | None:
    """(n, 1, keys) → (n, 1, 1, keys)."""
    return None if mask is None else mask[:, None]


def partial_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over part of the keys: (n, K, Q, D) output and its (n, K, Q) fp32 log-normalizer, for merging."""
    if query.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, norm = flash(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        return out, norm
    scores = (query @ key.transpose(2, 3)).float() * scale
    if mask is not None:
        scores = scores + mask
    norm = scores.logsumexp(-1)
    return (scores - norm.unsqueeze(-1)).exp().to(value.dtype) @ value, norm
