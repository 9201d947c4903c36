"""Judged groups and batches for the tests of the maths: ragged, with ties, truncations and every log-probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.maths.loss import policy_loss
from onedial.core.types import Completion, Group, Outcome, Prompt, Rollout, Verdict
from onedial.training.trainer.advantages import add_advantages, add_gae
from onedial.training.trainer.packing import pack

MAX_TOKENS = 12


def make_group(
    rewards: Sequence[float],
    *,
    position: int = 0,
    lengths: Sequence[int] | None = None,
    outcomes: Sequence[Outcome] | None = None,
    prompt_tokens: Sequence[int] = (5, 6, 7),
    version: int = 0,
    seed: int = 0,
) -> Group:
    """A group with these rewards; a completion of MAX_TOKENS tokens counts as cut off by the limit."""
    random = Random(1000 * seed + position)
    lengths = lengths or [random.randint(1, MAX_TOKENS) for _ in rewards]
    rollouts = []
    for index, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        completion = Completion(
            token_ids=tuple(random.randrange(2, 250) for _ in range(length)),
            logps=tuple(-3.0 * random.random() for _ in range(length)),
            finish_reason="length" if length >= MAX_TOKENS else "stop",
            policy_version=version,
        )
        outcome: Outcome = outcomes[index] if outcomes else ("correct" if reward > 0 else "wrong")
        rollouts.append(Rollout(index, completion, Verdict(reward, correct=reward > 0, outcome=outcome)))
    prompt = Prompt(text=f"problem {position}", answer=position)
    return Group(prompt, tuple(rollouts), position=position, prompt_tokens=tuple(prompt_tokens))


def ragged_groups(seed: int, sizes: Sequence[int] = (3, 1, 9, 2, 5, 8, 4, 7, 6)) -> list[Group]:
    """Groups of every size from 1 to 9, most mixed, one all right and one all wrong whatever the seed."""
    random = Random(seed)
    groups = []
    for position, size in enumerate(sizes):
        rewards = [float(random.random() < 0.5) for _ in range(size)]
        if position in (0, 4):
            rewards = [float(position == 0)] * size
        prompt_tokens = [random.randrange(2, 250) for _ in range(random.randint(1, 6))]
        groups.append(make_group(rewards, position=position, prompt_tokens=prompt_tokens, seed=seed))
    return groups


def batch_of(algorithm: Algorithm, groups: Sequence[Group], *, version: int = 0) -> Batch:
    """Groups packed and given their advantages by the product's own code; an allocator expects 0.4 of every prompt."""
    batch = pack(groups, version=version)
    if algorithm.baseline == "posterior":
        batch = batch.annotate(expected=torch.full_like(batch["reward"], 0.4))
    return add_advantages(algorithm, batch, max_new_tokens=MAX_TOKENS)


def with_logps(batch: Batch, seed: int, drift: float = 0.3) -> Batch:
    """The batch with a policy that has moved since the rollouts, a reference and an engine that differs a little."""
    generator = torch.Generator().manual_seed(seed)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(len(batch.tokens), generator=generator)

    old = -3.0 * torch.rand(len(batch.tokens), generator=generator) - 0.1
    return batch.annotate(
        old_logp=old,
        ref_logp=old + noise(0.3),
        engine_logp=old + noise(0.2),
        logp=old + noise(drift),
    )


def make_batch(algorithm: Algorithm, seed: int = 0) -> Batch:
    """Ragged groups (or as many pairs), packed and, for a critic, add_gae by the product's own code, with logps."""
    groups = ragged_groups(seed)
    if algorithm.source == "pairs":
        groups = [make_group([1.0, 0.0], position=position, seed=seed) for position in range(len(groups))]
    batch = batch_of(algorithm, groups)
    if algorithm.needs_critic:
        values = torch.rand(len(batch.tokens), generator=torch.Generator().manual_seed(seed))
        batch, _ = add_gae(algorithm, batch, values, None, iteration=1)
    return with_logps(batch, seed)


def loss_and_gradient(algorithm: Algorithm, parts: Sequence[Batch], counts: Counts) -> tuple[float, list[Tensor]]:
    """Sum of the parts' losses, and of each part the gradient with respect to its logps."""
    total, gradients = 0.0, []
    for part in parts:
        logp = part["logp"].detach().clone().requires_grad_()
        loss = policy_loss(algorithm, part.annotate(logp=logp), counts).loss
        (gradient,) = torch.autograd.grad(loss, logp, allow_unused=True)
        total += float(loss.detach())
        gradients.append(torch.zeros_like(logp) if gradient is None else gradient)
    return total, gradients


def complete(row: Algorithm) -> Algorithm:
    """The row as a run of MAX_TOKENS would have it."""
    return replace(row, length_budget=MAX_TOKENS) if row.aggregate == "fixed_length" else row


def variants() -> list[Algorithm]:
    """Every row of the table, and every row with each optional term of the loss switched on."""
    extras: dict[str, dict[str, object]] = {
        "": {},
        "+k1": {"kl_coef": 0.1, "kl_estimator": "k1"},
        "+k2": {"kl_coef": 0.1, "kl_estimator": "k2"},
        "+k3": {"kl_coef": 0.1, "kl_estimator": "k3"},
        "+nll": {"positive_nll": 0.1},
        "+tis": {"sampler_correction": "truncate", "correction_cap": 1.1},
        "+mis": {"sampler_correction": "mask", "correction_cap": 1.2, "correction_floor": 0.8},
        "+seqtis": {"sampler_correction": "truncate", "correction_level": "sequence"},
        "+mask": {"overlong": "mask", "overlong_buffer": 0},
        "+group_token_mean": {"aggregate": "group_token_mean", "length_budget": None},
    }
    return [
        complete(replace(row, name=row.name + tail, **cells))  # type: ignore[arg-type]
        for row in ALGORITHMS.values()
        for tail, cells in extras.items()
        if row.source != "pairs" or tail == ""  # the loss of a pair takes no further term
        if row.source != "dataset" or not tail.endswith("is")  # and a dataset no importance weight
        if row.listwise == "none" or tail in ("", "+k1", "+k2", "+k3", "+nll")  # nor a list other weights or a mask
    ]
