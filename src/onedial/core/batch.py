"""Packed rollouts for the loss, the counts of an optimizer step, and the letters used for shapes.

Shape legend, used in every signature and docstring:
    N   groups (one per sampled prompt)      G   rollouts in one group; differs from group to group
    B   rollouts in a batch                  T   completion tokens, flat over all rollouts, no padding
    P   prompt tokens, flat over groups      V   vocabulary

Nothing is reshaped to (N, G): statistics are segment reductions over `Batch.group`, the group number of each rollout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

# What a batch may say of its rollouts, (B,), and of its completion tokens, (T,), and which stage says it. All
# log-probabilities are in nats and at the sampling temperature.
PER_ROLLOUT: dict[str, str] = {
    "reward": "the verifier's reward; from pack",
    "positive": "whether the completion was judged correct; from pack",
    "truncated": "whether the length limit ended the completion; from pack",
    "stale": "whether an earlier policy than the one training starts from wrote it; from pack",
    "expected": "the allocator's baseline of the rollout, in units of reward; from pack_allocation",
    "weight": "factor of the advantage that the allocator gives the rollout; from pack_allocation",
    "shaped_reward": "reward after overlong penalty and KL; from add_advantages",
    "advantage": "what the gradient of log π is multiplied with; from add_advantages",
    "rollout_mask": "False leaves a rollout out of the loss and of every count (overlong); from add_advantages",
    "group_tokens": "completion tokens in the loss of the whole group, however it is split; from add_advantages",
}
PER_TOKEN: dict[str, str] = {
    "engine_logp": "log-probability by the sampler, before top-p and top-k; from pack",
    "old_logp": "log-probability by the policy before the iteration's first update",
    "ref_logp": "log-probability by the frozen reference",
    "logp": "log-probability by the policy now, with gradient; from the trainer's forward pass",
    "entropy": "entropy of the policy now, in nats, with gradient; from the trainer's forward pass",
    "token_advantage": "advantage of each token, in place of the rollout's; from add_gae",
    "value": "the critic's value before the iteration's first update, in units of reward; from add_gae",
    "returns": "what the critic learns, in units of reward; from add_gae",
}


@dataclass(frozen=True)
class Counts:
    """Sizes of one whole optimizer step, known before its first backward pass.

    A loss never counts its own tokens: it divides by these counts, so splitting a step into micro-batches changes
    nothing.
    """

    tokens: int
    sequences: int
    groups: int
    positive_tokens: int = 0

    @classmethod
    def of(cls, *batches: Batch) -> Counts:
        """Counts of a step made of `batches` (a group counts once, however its rollouts are split)."""
        groups = {name for batch in batches for name in batch.live_group_ids()}
        return cls(
            tokens=sum(int(batch.mask.sum()) for batch in batches),
            sequences=sum(int(batch.rollout_mask.sum()) for batch in batches),
            groups=len(groups),
            positive_tokens=sum(
                int((batch.mask & batch["positive"][batch.rollout_of_token]).sum()) for batch in batches
            ),
        )


@dataclass(frozen=True)
class Batch:
    """Packed rollouts: a layout without padding, each prompt once per group, and named annotations.

    The layout: `prompt_tokens` (P,) with `prompt_offsets` (N+1,), `group_ids` the names of the N groups; `tokens` (T,)
    of the completions with `offsets` (B+1,), and the `group` number (B,) of each rollout.
    The annotations, read as `batch["advantage"]`, are those of `PER_ROLLOUT`, (B,), and `PER_TOKEN`, (T,).
    """

    prompt_tokens: Tensor
    prompt_offsets: Tensor
    tokens: Tensor
    offsets: Tensor
    group: Tensor
    group_ids: tuple[str, ...]
    annotations: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.annotations.items():
            if name not in PER_ROLLOUT and name not in PER_TOKEN:
                raise ValueError(
                    f"{name!r} is no annotation of a batch; there are {', '.join(PER_ROLLOUT | PER_TOKEN)}"
                )
            wanted = self.num_rollouts if name in PER_ROLLOUT else len(self.tokens)
            if values.shape != (wanted,):
                raise ValueError(f"batch[{name!r}] has shape {tuple(values.shape)}; this batch needs ({wanted},)")

    def __getitem__(self, name: str) -> Tensor:
        """The annotation of that name. If the batch does not have it, raises ValueError with the meaning of the
        annotation."""
        if name not in self.annotations:
            meaning = (PER_ROLLOUT | PER_TOKEN).get(name, "no such annotation")
            raise ValueError(f"batch[{name!r}] is missing: {meaning}")
        return self.annotations[name]

    def get(self, name: str) -> Tensor | None:
        """The annotation of that name, or None."""
        return self.annotations.get(name)

    def annotate(self, **values: Tensor | None) -> Batch:
        """The batch with some annotations added or replaced; None removes one.

        Raises ValueError for an unknown name or a wrong shape.
        """
        merged = {**self.annotations, **values}
        return replace(self, annotations={name: value for name, value in merged.items() if value is not None})

    @property
    def num_rollouts(self) -> int:
        """B."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Completion tokens of each rollout, (B,)."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def rollout_of_token(self) -> Tensor:
        """Number of the rollout that each token belongs to, (T,)."""
        return torch.repeat_interleave(torch.arange(self.num_rollouts, device=self.offsets.device), self.lengths)

    @property
    def rollout_mask(self) -> Tensor:
        """True on rollouts that enter the loss, (B,)."""
        return self["rollout_mask"]

    @property
    def mask(self) -> Tensor:
        """True on tokens that enter the loss, (T,)."""
        return self.rollout_mask[self.rollout_of_token]

    def live_group_ids(self) -> list[str]:
        """Names of the groups with at least one rollout that enters the loss."""
        return [self.group_ids[int(g)] for g in self.group[self.rollout_mask].unique()]

    def token_index(self, rollouts: Sequence[int] | Tensor) -> Tensor:
        """The positions of the tokens of some rollouts in this batch, in the order in which `select` puts them."""
        return _segments(self.offsets, torch.as_tensor(rollouts, dtype=torch.long))

    def select(self, rollouts: Sequence[int] | Tensor) -> Batch:
        """The batch of some rollouts, in the order given; groups without a rollout are dropped."""
        rollouts = torch.as_tensor(rollouts, dtype=torch.long)
        groups, group = self.group[rollouts].unique(return_inverse=True)
        tokens = self.token_index(rollouts)
        annotations = {
            name: values[rollouts if name in PER_ROLLOUT else tokens] for name, values in self.annotations.items()
        }
        return Batch(
            prompt_tokens=self.prompt_tokens[_segments(self.prompt_offsets, groups)],
            prompt_offsets=compute_offsets(_lengths(self.prompt_offsets)[groups]),
            tokens=self.tokens[tokens],
            offsets=compute_offsets(self.lengths[rollouts]),
            group=group,
            group_ids=tuple(self.group_ids[int(g)] for g in groups),
            annotations=annotations,
        )

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on a device."""
        return Batch(
            prompt_tokens=self.prompt_tokens.to(device),
            prompt_offsets=self.prompt_offsets.to(device),
            tokens=self.tokens.to(device),
            offsets=self.offsets.to(device),
            group=self.group.to(device),
            group_ids=self.group_ids,
            annotations={name: values.to(device) for name, values in self.annotations.items()},
        )

    def split(self, parts: int) -> list[Batch]:
        """About equal micro-batches of neighboring rollouts; with the `Counts` of the whole, their losses add up."""
        return [self.select(rollouts) for rollouts in torch.arange(self.num_rollouts).chunk(max(1, parts))]


def compute_offsets(lengths: Tensor) -> Tensor:
    """(n,) lengths → (n+1,) offsets starting at 0."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _lengths(offsets: Tensor) -> Tensor:
    return offsets[1:] - offsets[:-1]


def _segments(offsets: Tensor, which: Tensor) -> Tensor:
    """Flat indices of the chosen segments, in the order chosen."""
    lengths = _lengths(offsets)[which]
    starts = torch.repeat_interleave(offsets[:-1][which] - compute_offsets(lengths)[:-1], lengths)
    return starts + torch.arange(int(lengths.sum()), device=offsets.device)
