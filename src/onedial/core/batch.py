"""Packed rows for the loss, the counts of a step, and the letters their shapes are written in.

Shape legend, used in every signature and docstring:
    N   groups (one per sampled prompt)      G   rollouts in one group; differs from group to group
    B   rollouts (rows) in a batch           T   completion tokens, flat over all rows, no padding
    P   prompt tokens, flat over groups      V   vocabulary

Nothing reshapes to (N, G): statistics are segment reductions over `Batch.group`, the group number of each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Counts:
    """Sizes of one whole optimiser step over all ranks, known before the first backward pass.

    A loss never counts its own tokens: it divides by these, so that splitting a step into micro-batches
    or over ranks changes nothing.
    """

    tokens: int
    sequences: int
    groups: int
    positive_tokens: int = 0

    @classmethod
    def of(cls, *batches: Batch) -> Counts:
        """Counts of a step made of `batches` (a group counts once, however its rows are split)."""
        groups = {name for batch in batches for name in batch.live_group_ids()}
        return cls(
            tokens=sum(int(batch.mask.sum()) for batch in batches),
            sequences=sum(int(batch.row_mask.sum()) for batch in batches),
            groups=len(groups),
            positive_tokens=sum(int((batch.mask & batch.positive[batch.row]).sum()) for batch in batches),
        )


@dataclass(frozen=True)
class Batch:
    """Rows ready for the loss: packed, no padding, each prompt once per group.

    Per group (N): `prompt_tokens` (P,) with `prompt_offsets` (N+1,), `group_ids` the groups' names.
    Per row (B): `group` number, `advantage`, `positive` (judged correct), `row_mask` (False = left out of the
    loss and of every count, e.g. overlong), `group_tokens` tokens of the row's whole group, counted before any split,
    `stale` (written by an earlier policy than the one training starts from).
    Per token (T): `tokens` with `offsets` (B+1,), `row` number, `mask`, and log-probabilities in nats:
    `engine_logp` (sampler), `old_logp` (trainer at iteration start), `ref_logp` (reference), `logp` (now, with grad);
    with a critic also, in units of reward: `token_advantage` (takes the place of the row's), `value` (the critic's when
    the iteration began) and `returns` (what it learns).
    """

    prompt_tokens: Tensor
    prompt_offsets: Tensor
    tokens: Tensor
    offsets: Tensor
    group: Tensor
    group_ids: tuple[str, ...]
    advantage: Tensor
    positive: Tensor
    row_mask: Tensor
    group_tokens: Tensor
    stale: Tensor | None = None
    engine_logp: Tensor | None = None
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    logp: Tensor | None = None
    token_advantage: Tensor | None = None
    value: Tensor | None = None
    returns: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Completion tokens of each row, (B,)."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def row(self) -> Tensor:
        """Row number of each token, (T,)."""
        return torch.repeat_interleave(torch.arange(self.num_rows, device=self.offsets.device), self.lengths)

    @property
    def mask(self) -> Tensor:
        """True on tokens that enter the loss, (T,)."""
        return self.row_mask[self.row]

    def live_group_ids(self) -> list[str]:
        """Names of the groups with at least one row that enters the loss."""
        return [self.group_ids[int(g)] for g in self.group[self.row_mask].unique()]

    def select(self, rows: Sequence[int] | Tensor) -> Batch:
        """The batch of some rows, in the order given; groups without a row are dropped."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        groups, group = self.group[rows].unique(return_inverse=True)
        token_index = _segments(self.offsets, rows)
        prompt_index = _segments(self.prompt_offsets, groups)

        def of_tokens(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[token_index]

        return Batch(
            prompt_tokens=self.prompt_tokens[prompt_index],
            prompt_offsets=offsets_of(_lengths(self.prompt_offsets)[groups]),
            tokens=self.tokens[token_index],
            offsets=offsets_of(self.lengths[rows]),
            group=group,
            group_ids=tuple(self.group_ids[int(g)] for g in groups),
            advantage=self.advantage[rows],
            positive=self.positive[rows],
            row_mask=self.row_mask[rows],
            group_tokens=self.group_tokens[rows],
            stale=None if self.stale is None else self.stale[rows],
            engine_logp=of_tokens(self.engine_logp),
            old_logp=of_tokens(self.old_logp),
            ref_logp=of_tokens(self.ref_logp),
            logp=of_tokens(self.logp),
            token_advantage=of_tokens(self.token_advantage),
            value=of_tokens(self.value),
            returns=of_tokens(self.returns),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on a device."""
        moved: dict[str, Any] = {
            cell.name: value.to(device)
            for cell in fields(self)
            if isinstance(value := getattr(self, cell.name), Tensor)
        }
        return replace(self, **moved)

    def split(self, parts: int) -> list[Batch]:
        """About equal micro-batches of neighbouring rows; with `Counts` of the whole, their losses add up."""
        return [self.select(rows) for rows in torch.arange(self.num_rows).chunk(max(1, parts))]


def offsets_of(lengths: Tensor) -> Tensor:
    """(n,) lengths → (n+1,) offsets starting at 0."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _lengths(offsets: Tensor) -> Tensor:
    return offsets[1:] - offsets[:-1]


def _segments(offsets: Tensor, which: Tensor) -> Tensor:
    """Flat indices of the chosen segments, in the order chosen."""
    lengths = _lengths(offsets)[which]
    starts = torch.repeat_interleave(offsets[:-1][which] - offsets_of(lengths)[:-1], lengths)
    return starts + torch.arange(int(lengths.sum()), device=offsets.device)
