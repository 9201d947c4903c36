"""The values that flow through onedial, and the letters their shapes are written in.

Shape legend, used in every signature and docstring:
    N   groups (one per sampled prompt)      G   rollouts in one group; differs from group to group
    B   rollouts (rows) in a batch           T   completion tokens, flat over all rows, no padding
    P   prompt tokens, flat over groups      V   vocabulary

A group may have any size ≥ 1. Nothing reshapes to (N, G): statistics are segment reductions
over `Batch.group`, the group number of each row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

Outcome = Literal["correct", "wrong", "unparseable", "timeout", "error"]
OUTCOMES: tuple[Outcome, ...] = ("correct", "wrong", "unparseable", "timeout", "error")
FinishReason = Literal["stop", "length"]
Message = Mapping[str, str]


@dataclass(frozen=True)
class Prompt:
    """One problem: what the policy reads and what the verifier needs.

    Give either plain `text` or chat `messages` ([{"role", "content"}, …]). `id` is a hash of the content,
    so that splits are disjoint by content and a prompt keeps its history when a file is reordered.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    answer: Any = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """16 hex digits of the SHA-256 of what the policy reads and the reference answer."""
        content = [self.text, [dict(message) for message in self.messages], self.answer]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def plain(self) -> str:
        """The prompt as text for logs and verifiers: `text`, or the contents of the messages, one per line."""
        return self.text or "\n".join(str(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Completion:
    """Tokens the policy wrote, the end-of-sequence token included when it stopped by itself.

    `logps` are the engine's, in nats, of the distribution that was sampled from (temperature, top-p and
    top-k applied). `policy_version` counts optimiser steps before the weights that wrote it.
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int = 0
    text: str = ""

    @property
    def truncated(self) -> bool:
        """Whether the length limit, not the policy, ended it."""
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one completion.

    `reward` is the outcome reward, before any shaping. `answer` is what was parsed. A `timeout` or `error`
    carries no reward that may train (`usable` is False): it leaves its group before any statistic is taken.
    `parts` names reward components, for logs.
    """

    reward: float
    correct: bool | None = None
    answer: str | None = None
    outcome: Outcome = "wrong"
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether the verdict judges the answer (True) or only says that judging failed (False)."""
        return self.outcome not in ("timeout", "error")


@dataclass(frozen=True)
class Rollout:
    """One completion of a prompt with its verdict; `index` counts the rollouts of that prompt and iteration."""

    index: int
    completion: Completion
    verdict: Verdict


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt drawn once, any number ≥ 1, unusable ones included.

    `position` is the prompt's place in the task's stream of draws, unique within a run: a prompt drawn again
    makes another group.
    """

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    iteration: int = 0
    position: int = 0
    prompt_tokens: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Unique within a run."""
        return f"{self.position:08d}-{self.prompt.id}"

    @property
    def usable(self) -> tuple[Rollout, ...]:
        """The rollouts whose verdict may enter a statistic."""
        return tuple(rollout for rollout in self.rollouts if rollout.verdict.usable)

    @property
    def rewards(self) -> list[float]:
        """Outcome rewards of the usable rollouts."""
        return [rollout.verdict.reward for rollout in self.usable]

    @property
    def mixed(self) -> bool:
        """Whether the outcome rewards differ: max ≠ min, never `std ≠ 0`, which rounding can fake."""
        rewards = self.rewards
        return bool(rewards) and max(rewards) != min(rewards)

    @property
    def num_tokens(self) -> int:
        """Completion tokens of all rollouts."""
        return sum(len(rollout.completion.token_ids) for rollout in self.rollouts)


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
    `engine_logp` (sampler), `old_logp` (trainer at iteration start), `ref_logp` (reference), `logp` (now, with grad).
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
